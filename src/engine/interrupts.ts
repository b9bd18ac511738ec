/**
 * Interrupts towards the host (VIRTIO 1.2 4.1.5.1.2 MSI-X, 4.1.4.5 INTx). MSI-X is a 4-byte element on the write channel,
 * so it cannot overtake the used index in front of it; a masked entry leaves its pending bit and is sent when the
 * host unmasks. INTx is a pair of messages through the outbound window, held for a pulse.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import type { Intx, MsixTable } from "../hw/irq.ts";
import { st32 } from "../hw/mem.ts";
import { NO_VECTOR } from "../hw/virtio.layout.ts";

const SLOTS = 8192;
const TWO32 = 4294967296;

export class Interrupts {
  /** interrupts sent, found masked, and INTx pulses (counters) */
  sent = 0;
  masked = 0;
  private readonly stage: DmaRegion;
  private readonly table: MsixTable | null;
  private readonly intx: Intx | null;
  private slot = 0;
  private readonly held = new Uint8Array(2048);
  private heldCount = 0;
  private msix = false;
  private intxUp = false;
  private intxAgain = false;
  private intxSince = 0;
  private readonly intxHoldTurns: number;

  /** @param intxHoldTurns turns of the service loop an INTx stays asserted (50 to 100 us on silicon) */
  constructor(memory: DmaMemory, table: MsixTable | null, intx: Intx | null, intxHoldTurns: number) {
    this.stage = memory.alloc("msix-data", SLOTS * 4, 64);
    this.table = table;
    this.intx = intx;
    this.intxHoldTurns = intxHoldTurns;
  }

  /** Begin a new life; `msix` as the host chose it. */
  attach(msix: boolean): void {
    this.msix = msix;
    this.held.fill(0);
    this.heldCount = 0;
  }

  /** The host is gone: nothing is asserted and nothing is owed. */
  detach(): void {
    if (this.intxUp) {
      this.intxUp = false;
      this.intx?.deassert();
    }
    this.intxAgain = false;
    this.heldCount = 0;
  }

  /**
   * Interrupt for `vector` (ignored with INTx) behind everything on `ch`; needs room for one element, the caller commits.
   * @returns 1 when an element was put, else 0
   */
  raise(ch: DmaChannel, vector: number): number {
    if (!this.msix) {
      this.pulse();
      return 0;
    }
    if (vector === NO_VECTOR || this.table === null) return 0;
    const rc = this.table.load(vector);
    if (rc === 1) {
      this.masked++;
      if (this.held[vector] === 0) {
        this.held[vector] = 1;
        this.heldCount++;
      }
      return 0;
    }
    if (rc !== 0) return 0;
    const k = this.slot;
    this.slot = (k + 1) & (SLOTS - 1);
    st32(this.stage.ptr + k * 4, this.table.data);
    const bus = this.stage.bus + k * 4;
    const hi = Math.floor(bus / TWO32);
    ch.put(4, (bus - hi * TWO32) | 0, hi | 0, this.table.addrLo, this.table.addrHi);
    this.sent++;
    return 1;
  }

  private pulse(): void {
    if (this.intx === null) return;
    if (this.intxUp) {
      this.intxAgain = true;
      return;
    }
    this.intx.assert();
    this.intxUp = true;
    this.intxSince = 0;
    this.sent++;
  }

  /** Once a turn: end INTx pulses, send what was held back by a mask. @returns 1 when the channel needs a commit */
  turn(ch: DmaChannel): number {
    if (this.intxUp && ++this.intxSince >= this.intxHoldTurns && this.intx !== null) {
      this.intx.deassert();
      this.intxUp = false;
      if (this.intxAgain) {
        this.intxAgain = false;
        this.pulse();
      }
    }
    if (this.heldCount === 0 || this.table === null || ch.room() < 4) return 0;
    let put = 0;
    for (let v = 0; v < this.held.length && this.heldCount > 0; v++) {
      if (this.held[v] === 0 || this.table.load(v) !== 0) continue;
      this.held[v] = 0;
      this.heldCount--;
      this.table.clearPending(v);
      put |= this.raise(ch, v);
      if (ch.room() < 4) break;
    }
    return put;
  }

  /** something is owed to the host, so the loop must not sleep */
  get busy(): boolean {
    return this.intxUp || this.heldCount > 0;
  }
}
