/**
 * One eDMA v0 channel that works through the endless list of edma-list.ts: elements are appended while it runs, LLP is
 * the progress register. Follows dw-hardware.md 2 and 3. Polling only: it needs no interrupt. HDMA native is not served
 * here.
 */
import { CH_STUCK, type DmaChannel } from "./dma-channel.ts";
import {
  CAUSE_GONE,
  CAUSE_POSITION,
  CS_HALTED,
  CS_RUNNING,
  CTL_CCS,
  CTL_CS_SHIFT,
  CTL_LLE,
  DOORBELL_STOP,
  EDMA_VP,
  INT_ABORT_SHIFT,
  LL_BYTES,
} from "./edma.regs.ts";
import { EdmaSingle, HOLD, LIST, REST, SETTLE, SINGLE } from "./edma-single.ts";
import { wmb } from "./mem.ts";

export type { EdmaChannelInfo } from "./edma-context.ts";

const VIEWPORT_SEL = EDMA_VP.VIEWPORT_SEL;
/** progress() calls of a clean stop, some ms on silicon */
const QUIESCE_POLLS = 20_000;

export class EdmaChannel extends EdmaSingle implements DmaChannel {
  /** it was stopped with everything landed before it settled: the doorbell that is due then was not lost */
  private landed = false;

  /**
   * Enable engine and channel and aim it at an empty list, in Linux's first-start order (dw-hardware.md 3); the
   * doorbell comes with the first commit.
   */
  start(): void {
    this.emptyList();
    wmb();
    this.enable();
    this.aim(this.ll.bus, CTL_CCS | CTL_LLE);
  }

  private emptyList(): void {
    this.clear();
    this.forgetContext();
    this.doneSlot = 0;
    this.doneCount = this.putCount;
    this.commitCount = this.putCount;
    this.phase = REST;
    this.acked = false;
    this.stops = 0;
  }

  room(): number {
    return this.capacity - ((this.putCount - this.doneCount) | 0);
  }

  commit(): void {
    if (this.phase > REST) this.commitAside();
    else if (this.publish(this.lie)) {
      this.commitCount = this.putCount;
      if (this.phase === REST) this.ring();
    }
  }

  /** commit() while the list is left. */
  private commitAside(): void {
    if (!this.putting) return;
    const rests = this.phase !== SINGLE;
    if (rests && ((this.putCount - this.commitCount) | 0) === 1) {
      this.fireElement();
      return;
    }
    this.publish(this.lie);
    this.commitCount = this.putCount;
    if (rests) this.goOn();
  }

  /** The list takes over, with elements that wait on it. */
  private goOn(): void {
    this.toList();
    this.ring();
  }

  send(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): void {
    if (this.phase > REST || this.putting || this.lie) {
      this.put(size, sarLo, sarHi, darLo, darHi);
      this.commit();
      return;
    }
    this.commitCount = (this.putCount + 1) | 0;
    this.putAlone(size, sarLo, sarHi, darLo, darHi);
    if (this.phase === REST) this.ring();
  }

  private ring(): void {
    this.phase = LIST;
    this.acked = false;
    this.stops = 0;
    this.landed = false;
    this.rings++;
    if (this.lie) this.dma.st32(this.intClearOff, 1 << this.index);
    wmb();
    this.dma.st32(this.doorbellOff, this.index);
  }

  /**
   * Elements from the first unfinished one to where LLP is, or -1 outside the list. At the link counts as at slot 0
   * of the next lap: both mean that all slots of this lap were fetched.
   */
  private ahead(llp: number): number {
    const byte = (llp - this.busLo) | 0;
    if (byte < 0) return -1;
    let slot = (byte / LL_BYTES) | 0;
    if (slot >= this.linkSlot) {
      if (slot > this.linkSlot) return -1;
      slot = 0;
    }
    const n = slot - this.doneSlot;
    return n < 0 ? n + this.linkSlot : n;
  }

  private advance(n: number): void {
    this.doneCount = (this.doneCount + n) | 0;
    const slot = this.doneSlot + n;
    this.doneSlot = slot >= this.linkSlot ? slot - this.linkSlot : slot;
    this.acked = true;
    this.stops = 0;
  }

  progress(): number {
    if (this.phase !== LIST) return this.phase === SINGLE ? this.progressSingle() : 0;
    const d = this.dma;
    // LLP first: a "stopped" read after it then covers everything before it, even when that status is the old one
    // from before a doorbell which the engine takes up between the two reads.
    if (this.viewport) d.st32(VIEWPORT_SEL, this.select);
    let n = this.ahead(d.ld32(this.llpOff));
    const pending = (this.commitCount - this.doneCount) | 0;
    // Everything but the element before LLP has landed if the channel was not halted then: LLP of a halted one may be
    // ahead by all that was fetched (several reads are under way at the same time). For writes this does not matter,
    // their life ends with it, so a busy write channel costs one register read. What a read did not bring must not
    // be believed: it would be a frame, or a descriptor.
    if (this.isWrite && n > 1 && n < pending) {
      this.advance(n - 1);
      return 0;
    }
    const control = d.ld32(this.controlOff);
    if (control === 0xffffffff) return this.fail(CAUSE_GONE);
    const status = (control >>> CTL_CS_SHIFT) & 3;
    if (status === CS_RUNNING) {
      this.acked = true;
      this.stops = 0;
      if (n > 1 && n <= pending) this.advance(n - 1);
      return 0;
    }
    if (status === CS_HALTED) return this.fail(0);
    if (n > 0) this.acked = true;
    // known to have run and stopped since the doorbell: LLP is final now
    if (this.acked && n !== pending) n = this.ahead(d.ld32(this.llpOff));
    if (n < 0 || n > pending) return this.fail(CAUSE_POSITION);
    if (n > 0) this.advance(n);
    this.stops++;
    if (n === pending) this.landed = true;
    if (this.lie && this.stops < HOLD && (d.ld32(this.intStatusOff) & (1 << this.index)) === 0) return 0;
    if (this.stops < (this.acked ? SETTLE : HOLD)) return 0;
    if (n === pending) {
      this.phase = REST;
      return 0;
    }
    if (d.ld32(this.intStatusOff) & (1 << (INT_ABORT_SHIFT + this.index))) return this.fail(0);
    if (!this.landed) this.rerings++;
    this.ring();
    return 0;
  }

  private progressSingle(): number {
    const rc = this.single();
    if (this.phase !== SINGLE && this.commitCount !== this.doneCount) this.goOn();
    return rc;
  }

  /** The databook's procedure is not public; with start() this is disable, wait, clear, start over. */
  halt(): number {
    return this.disable() ? 0 : CH_STUCK;
  }

  /** Of other channels in the direction, those that were not halted: their own progress() rings them again. */
  recover(): number {
    const rc = this.halt();
    if (rc === 0) this.start();
    return rc;
  }

  /** @returns 0 stopped with everything landed, CH_ABORT halted on an error, CH_STUCK had to be stopped and may not be */
  quiesce(): number {
    this.mask();
    for (let i = 0; i < QUIESCE_POLLS && !this.rests; i++) {
      const rc = this.progress();
      if (rc < 0) return rc;
    }
    if (this.rests) return 0;
    this.dma.st32(this.doorbellOff, DOORBELL_STOP | this.index);
    this.idle();
    return CH_STUCK;
  }
}
