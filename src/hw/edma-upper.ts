/**
 * The upper half of an address in a channel's registers, between single transfers (edma-single.ts): a store that can be left out.
 *
 * Published register descriptions say that SAR and DAR are the next addresses and grow as a transfer moves on, so an upper
 * half stays as it is while the lower one does not overflow, and memory is mostly used in one stretch of 4 GiB. Nothing is
 * built on these words: some transfers long the register is read back, and only a half that was seen to stay counts as held.
 * A list puts its elements' addresses there.
 */
import type { Mmio } from "./mmio.ts";

/** readings in a row of one and the same value that must agree */
const PROOFS = 4;
/** readings in all; a register that did not convince by then is written every time */
const READINGS = 64;

export class UpperHalf {
  private value = 0;
  /** the register holds `value` */
  private held = false;
  private readonly dma: Mmio;
  private readonly off: number;
  private proofs = 0;
  private proven = 0;
  private readings = READINGS;

  /** @param off of the register in the block, bytes */
  constructor(dma: Mmio, off: number) {
    this.dma = dma;
    this.off = off;
  }

  /** The register shall hold `value` when the doorbell is rung. */
  set(value: number): void {
    if (this.held && this.value === value) return;
    this.dma.st32(this.off, value);
    this.value = value;
    this.held = true;
  }

  /** The transfer is done that was to begin at this half and `lo`, `size` bytes long. */
  moved(lo: number, size: number): void {
    if ((lo + size) >>> 0 < lo >>> 0) this.held = false;
    else if (this.proofs < PROOFS || this.proven !== this.value) this.held = this.learn();
  }

  /** Nothing is known of the register any more. */
  forget(): void {
    this.held = false;
  }

  private learn(): boolean {
    if (this.readings === 0) return false;
    this.readings--;
    if ((this.dma.ld32(this.off) | 0) !== this.value) {
      this.readings = this.proofs = 0;
      return false;
    }
    if (this.proven !== this.value) this.proofs = 0;
    this.proven = this.value;
    return ++this.proofs >= PROOFS;
  }
}
