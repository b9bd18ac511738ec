/**
 * Transfers of one channel without its list: LLE off, and what is to be moved in the context registers (dw-hardware.md 7
 * for HDMA; of eDMA drivers Rockchip's pcie-dw-dmatest moves everything so, NXP's for S32 has it beside lists).
 * No element has to be fetched, and what was written ahead needs no more than a doorbell: so a lone frame goes.
 *
 * The list is left only while the channel rests with everything landed, and begins again where it was: LLP and CCS are
 * written anew, since nothing is known of what a single transfer leaves in them.
 */
import type { DmaRegion } from "./dma-memory.ts";
import {
  CAUSE_GONE,
  CS_HALTED,
  CS_RUNNING,
  CTL_CCS,
  CTL_CS_SHIFT,
  CTL_LIE,
  CTL_LLE,
  EDMA_CH,
  LL_BYTES,
  LL_DAR_HI,
  LL_DAR_LO,
  LL_SAR_HI,
  LL_SAR_LO,
  LL_SIZE,
} from "./edma.regs.ts";
import { type EdmaChannelInfo, EdmaContext } from "./edma-context.ts";
import { UpperHalf } from "./edma-upper.ts";
import { wmb } from "./mem.ts";
import type { Mmio } from "./mmio.ts";

// what the channel is at
/** the list; it runs, or is not known to be at rest */
export const LIST = 0;
/** at rest in the list with nothing pending: only then commit() rings */
export const REST = 1;
/** at rest, LLE off */
export const BARE = 2;
/** the same, with a transfer in the registers */
export const ARMED = 3;
/** a single transfer is under way */
export const SINGLE = 4;

/** calls of progress() that must find the channel stopped, on the same element, before any doorbell, see edma-channel.ts */
export const SETTLE = 2;
/** the same when the last doorbell has shown no effect so far: it may still be on its way */
export const HOLD = 64;

const SIZE = EDMA_CH.CH_SIZE - EDMA_CH.CH_CONTROL1;
const SAR_LO = EDMA_CH.CH_SAR_LO - EDMA_CH.CH_CONTROL1;
const SAR_HI = EDMA_CH.CH_SAR_HI - EDMA_CH.CH_CONTROL1;
const DAR_LO = EDMA_CH.CH_DAR_LO - EDMA_CH.CH_CONTROL1;
const DAR_HI = EDMA_CH.CH_DAR_HI - EDMA_CH.CH_CONTROL1;

export class EdmaSingle extends EdmaContext {
  doneCount = 0;
  /** doorbells written, re-rung ones included */
  rings = 0;
  /** of them, doorbells that had no effect and were written again */
  rerings = 0;

  protected phase = REST;
  protected commitCount = 0;
  /** slot of element number doneCount, of those on the list */
  protected doneSlot = 0;
  /** the engine was seen to react to the last doorbell */
  protected acked = false;
  /** calls of progress() in a row that found it stopped */
  protected stops = 0;
  /** this core shows the end of a single transfer as done */
  private tells = false;
  /** the transfer that is in the registers, or was when it began: size, SAR, DAR */
  private readonly transfer = new Int32Array(5);
  private readonly sarHi: UpperHalf;
  private readonly darHi: UpperHalf;

  /** See EdmaContext. */
  constructor(dma: Mmio, info: EdmaChannelInfo, ll: DmaRegion) {
    super(dma, info, ll);
    this.sarHi = new UpperHalf(dma, this.controlOff + SAR_HI);
    this.darHi = new UpperHalf(dma, this.controlOff + DAR_HI);
  }

  /** At rest, so that arm() is possible. */
  get rests(): boolean {
    return this.phase !== LIST && this.phase !== SINGLE;
  }

  /** See DmaChannel. */
  get armed(): boolean {
    return this.phase === ARMED;
  }

  /** See DmaChannel. */
  get alone(): boolean {
    return this.phase === SINGLE;
  }

  /** See DmaChannel. */
  arm(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): boolean {
    if (!this.rests || this.putting) return false;
    this.clearDone();
    // No frame waits for this: so what is left out later stands on everything having been written one transfer before.
    this.forgetContext();
    this.prepare(size, sarLo, sarHi, darLo, darHi);
    this.phase = ARMED;
    return true;
  }

  /** See DmaChannel. */
  fire(): void {
    this.putCount = (this.putCount + 1) | 0;
    this.begin();
  }

  /** The one element that was put and not committed goes without the list; its slot is free again. */
  protected fireElement(): void {
    const w = this.takeBack();
    const { i32 } = this;
    this.prepare(i32[w + LL_SIZE]!, i32[w + LL_SAR_LO]!, i32[w + LL_SAR_HI]!, i32[w + LL_DAR_LO]!, i32[w + LL_DAR_HI]!);
    this.begin();
    // Behind the doorbell, since it waits for nothing: data takes a round trip. Should it come later than that, done of this transfer
    // is lost, and it is done once more.
    this.clearDone();
  }

  private prepare(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): void {
    const { transfer } = this;
    transfer[0] = size;
    transfer[1] = sarLo;
    transfer[2] = sarHi;
    transfer[3] = darLo;
    transfer[4] = darHi;
    this.fill();
  }

  /** Done of the transfer before must not be taken for that of the next one. */
  private clearDone(): void {
    this.dma.st32(this.intClearOff, 1 << this.index);
  }

  private fill(): void {
    const d = this.dma;
    const at = this.controlOff;
    const { transfer } = this;
    this.look();
    if (this.phase === REST) d.st32(at, CTL_LIE);
    d.st32(at + SIZE, transfer[0]!);
    d.st32(at + SAR_LO, transfer[1]!);
    this.sarHi.set(transfer[2]!);
    d.st32(at + DAR_LO, transfer[3]!);
    this.darHi.set(transfer[4]!);
  }

  private begin(): void {
    this.phase = SINGLE;
    this.commitCount = this.putCount;
    this.ringSingle();
  }

  private ringSingle(): void {
    this.acked = false;
    this.stops = 0;
    this.rings++;
    wmb();
    this.dma.st32(this.doorbellOff, this.index);
  }

  /** progress() of a single transfer; then the channel is BARE. @returns 0 or CH_ABORT */
  protected single(): number {
    const d = this.dma;
    this.look();
    const control = d.ld32(this.controlOff);
    if (control === 0xffffffff) return this.fail(CAUSE_GONE);
    const status = (control >>> CTL_CS_SHIFT) & 3;
    if (status === CS_RUNNING) {
      this.acked = true;
      this.stops = 0;
      return 0;
    }
    if (status === CS_HALTED) return this.fail(0);
    const done = d.ld32(this.intStatusOff);
    if (done === 0xffffffff) return this.fail(CAUSE_GONE);
    // Stopped may be from before the doorbell, or not wholly idle yet. LIE raises the status with the interrupt masked; on a
    // core that did not show it so, the channel has to stand still for a while.
    if ((done & (1 << this.index)) !== 0) this.tells = true;
    else if (++this.stops < (this.acked && !this.tells ? SETTLE : HOLD)) return 0;
    else if (this.tells) {
      // It never began, or was cut off with the engine. Once more does no harm: what it brings is not believed before. But
      // nobody knows how far it has moved on in the registers.
      this.rerings++;
      this.forgetContext();
      this.clearDone();
      this.fill();
      this.ringSingle();
      return 0;
    }
    this.doneCount = (this.doneCount + 1) | 0;
    this.phase = BARE;
    const { transfer } = this;
    this.sarHi.moved(transfer[1]!, transfer[0]!);
    this.darHi.moved(transfer[3]!, transfer[0]!);
    return 0;
  }

  /** The list, or a start from nothing, changes the registers. */
  protected forgetContext(): void {
    this.sarHi.forget();
    this.darHi.forget();
  }

  /** Back to the list, at its first element that is not done. */
  protected toList(): void {
    // The next element to be put is on this lap or, behind the link, on the next one.
    const lapped = this.nextSlot < this.doneSlot;
    const ccs = lapped ? this.cycle ^ 1 : this.cycle;
    this.forgetContext();
    this.aim(this.ll.bus + this.doneSlot * LL_BYTES, ccs !== 0 ? CTL_LLE | CTL_CCS : CTL_LLE);
    this.phase = REST;
  }
}
