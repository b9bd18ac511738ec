/**
 * One eDMA v0 channel that works through the endless list of edma-list.ts: elements are appended while it runs, LLP is
 * the progress register. Follows dw-hardware.md 2 and 3. Polling only: it needs no interrupt. HDMA native is not served
 * here.
 */
import { CH_ABORT, CH_STUCK, type DmaChannel } from "./dma-channel.ts";
import type { DmaRegion } from "./dma-memory.ts";
import {
  CAUSE_CA,
  CAUSE_GONE,
  CAUSE_LL_FETCH,
  CAUSE_LOCAL,
  CAUSE_POISONED,
  CAUSE_POSITION,
  CAUSE_TIMEOUT,
  CAUSE_UNKNOWN,
  CAUSE_UR,
  CS_HALTED,
  CS_RUNNING,
  CTL_CCS,
  CTL_CS_SHIFT,
  CTL_LLE,
  contextOffset,
  DOORBELL_STOP,
  EDMA,
  EDMA_CH,
  EDMA_MAX_CHANNELS,
  EDMA_UN,
  EDMA_VP,
  INT_ABORT_SHIFT,
  LL_BYTES,
  VIEWPORT_CONTEXT,
  VIEWPORT_READ,
} from "./edma.regs.ts";
import { EdmaList } from "./edma-list.ts";
import { Fault } from "./fault.ts";
import { wmb } from "./mem.ts";
import type { Mmio } from "./mmio.ts";

export interface EdmaChannelInfo {
  readonly map: "edma-legacy" | "edma-unroll" | "hdma-compat";
  readonly isWrite: boolean;
  readonly index: number;
  /** raise the local done status with the last element of a commit, and demand it before a doorbell (hazard b) */
  readonly lie?: boolean;
  /** leave done and abort interrupts unmasked; without it the channel is polled and masked */
  readonly interrupts?: boolean;
}

const VIEWPORT_SEL = EDMA_VP.VIEWPORT_SEL;
/**
 * progress() calls that must find the channel stopped, on the same element, before any doorbell: CS may say stopped
 * while the channel is not idle inside yet (hazard b of dw-hardware.md 3), and a doorbell in that moment wedges it
 */
const SETTLE = 2;
/** the same when the last doorbell has shown no effect so far: it may still be on its way */
const HOLD = 64;
/** register reads to wait for the engine to go idle, some ms on silicon */
const IDLE_POLLS = 20_000;

export class EdmaChannel extends EdmaList implements DmaChannel {
  readonly isWrite: boolean;
  readonly index: number;
  doneCount = 0;
  lastError = 0;
  rerings = 0;
  /** doorbells written, re-rung ones included */
  rings = 0;
  /** error status registers as read at the last abort (write side: only errLo) */
  errLo = 0;
  errHi = 0;

  private readonly dma: Mmio;
  private readonly viewport: boolean;
  private readonly powered: boolean;
  private readonly lie: boolean;
  private readonly interrupts: boolean;
  private readonly select: number;
  private readonly controlOff: number;
  private readonly llpOff: number;
  private readonly doorbellOff: number;
  private readonly intStatusOff: number;

  private commitCount = 0;
  /** slot of element number doneCount */
  private doneSlot = 0;
  /** the engine is known to be stopped with nothing pending: only then commit() rings */
  private resting = true;
  /** the engine was seen to react to the last doorbell */
  private acked = false;
  /** it was stopped with everything landed before it settled: the doorbell that is due then was not lost */
  private landed = false;
  private stops = 0;

  /**
   * @param dma the eDMA block @param ll list memory; (size / 24) - 3 elements may be outstanding
   * @throws Fault E_DMA when the channel number or the list's size is impossible
   */
  constructor(dma: Mmio, info: EdmaChannelInfo, ll: DmaRegion) {
    super(ll);
    if (!(info.index >= 0 && info.index < EDMA_MAX_CHANNELS))
      throw new Fault("E_DMA", `channel ${info.index} of at most ${EDMA_MAX_CHANNELS} a direction`);
    this.dma = dma;
    this.isWrite = info.isWrite;
    this.index = info.index;
    this.viewport = info.map === "edma-legacy";
    this.powered = info.map === "hdma-compat";
    this.lie = info.lie ?? false;
    this.interrupts = info.interrupts ?? false;
    this.select = (info.isWrite ? 0 : VIEWPORT_READ) | info.index;
    const context = this.viewport ? VIEWPORT_CONTEXT : contextOffset(info.isWrite, info.index);
    this.controlOff = context + EDMA_CH.CH_CONTROL1;
    this.llpOff = context + EDMA_CH.CH_LLP_LO;
    this.doorbellOff = info.isWrite ? EDMA.WR_DOORBELL : EDMA.RD_DOORBELL;
    this.intStatusOff = info.isWrite ? EDMA.WR_INT_STATUS : EDMA.RD_INT_STATUS;
  }

  /**
   * Enable engine and channel and aim it at an empty list, in Linux's first-start order (dw-hardware.md 3); the
   * doorbell comes with the first commit. Masks and error enables are shared by a direction and changed by RMW.
   */
  start(): void {
    const d = this.dma;
    const done = 1 << this.index;
    const both = done | (done << INT_ABORT_SHIFT);
    this.emptyList();
    wmb();
    d.st32(this.isWrite ? EDMA.WR_ENGINE_EN : EDMA.RD_ENGINE_EN, 1);
    if (this.powered) d.st32((this.isWrite ? EDMA_UN.WR_CH_POWER : EDMA_UN.RD_CH_POWER) + 4 * this.index, 1);
    const maskOff = this.isWrite ? EDMA.WR_INT_MASK : EDMA.RD_INT_MASK;
    const mask = d.ld32(maskOff);
    d.st32(maskOff, this.interrupts ? mask & ~both : mask | both);
    const errOff = this.isWrite ? EDMA.WR_LL_ERR_EN : EDMA.RD_LL_ERR_EN;
    d.st32(errOff, d.ld32(errOff) | done);
    if (this.viewport) d.st32(VIEWPORT_SEL, this.select);
    d.st32(this.controlOff, CTL_CCS | CTL_LLE);
    d.st32(this.llpOff, this.busLo);
    d.st32(this.llpOff + 4, Math.floor(this.ll.bus / 2 ** 32));
  }

  private emptyList(): void {
    this.clear();
    this.doneSlot = 0;
    this.doneCount = this.putCount;
    this.commitCount = this.putCount;
    this.resting = true;
    this.acked = false;
    this.stops = 0;
  }

  room(): number {
    return this.capacity - ((this.putCount - this.doneCount) | 0);
  }

  commit(): void {
    if (!this.publish(this.lie)) return;
    this.commitCount = this.putCount;
    if (this.resting) this.ring();
  }

  private ring(): void {
    this.resting = false;
    this.acked = false;
    this.stops = 0;
    this.landed = false;
    this.rings++;
    if (this.lie) this.dma.st32(this.isWrite ? EDMA.WR_INT_CLEAR : EDMA.RD_INT_CLEAR, 1 << this.index);
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
    if (this.resting) return 0;
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
      this.resting = true;
      return 0;
    }
    if (d.ld32(this.intStatusOff) & (1 << (INT_ABORT_SHIFT + this.index))) return this.fail(0);
    if (!this.landed) this.rerings++;
    this.ring();
    return 0;
  }

  /** Fold this channel's bits of the error status registers (dw-hardware.md 1) into lastError. */
  private fail(cause: number): number {
    const d = this.dma;
    const { index } = this;
    const lo = d.ld32(this.isWrite ? EDMA.WR_ERR_STATUS : EDMA.RD_ERR_STATUS_LO);
    const hi = this.isWrite ? 0 : d.ld32(EDMA.RD_ERR_STATUS_HI);
    this.errLo = lo;
    this.errHi = hi;
    let c = cause;
    if (cause !== CAUSE_GONE) {
      if ((lo >>> index) & 1) c |= CAUSE_LOCAL;
      if ((lo >>> (16 + index)) & 1) c |= CAUSE_LL_FETCH;
      if ((hi >>> index) & 1) c |= CAUSE_UR;
      if ((hi >>> (8 + index)) & 1) c |= CAUSE_CA;
      if ((hi >>> (16 + index)) & 1) c |= CAUSE_TIMEOUT;
      if ((hi >>> (24 + index)) & 1) c |= CAUSE_POISONED;
    }
    this.lastError = c || CAUSE_UNKNOWN;
    return CH_ABORT;
  }

  private idle(): boolean {
    const d = this.dma;
    if (this.viewport) d.st32(VIEWPORT_SEL, this.select);
    for (let i = 0; i < IDLE_POLLS; i++)
      if (((d.ld32(this.controlOff) >>> CTL_CS_SHIFT) & 3) !== CS_RUNNING) return true;
    return false;
  }

  /**
   * The engine enable is one bit for all channels of the direction: the others stop too; their own progress() rings
   * them again. The databook's procedure is not public; this is disable, wait, clear, start over.
   */
  recover(): number {
    const d = this.dma;
    d.st32(this.isWrite ? EDMA.WR_ENGINE_EN : EDMA.RD_ENGINE_EN, 0);
    if (!this.idle()) return CH_STUCK;
    const done = 1 << this.index;
    d.st32(this.isWrite ? EDMA.WR_INT_CLEAR : EDMA.RD_INT_CLEAR, done | (done << INT_ABORT_SHIFT));
    this.start();
    return 0;
  }

  /** @returns 0 stopped with everything landed, CH_ABORT halted on an error, CH_STUCK had to be stopped and may not be */
  quiesce(): number {
    const d = this.dma;
    const done = 1 << this.index;
    const maskOff = this.isWrite ? EDMA.WR_INT_MASK : EDMA.RD_INT_MASK;
    d.st32(maskOff, d.ld32(maskOff) | done | (done << INT_ABORT_SHIFT));
    for (let i = 0; i < IDLE_POLLS && !this.resting; i++) {
      const rc = this.progress();
      if (rc < 0) return rc;
    }
    if (this.resting) return 0;
    d.st32(this.doorbellOff, DOORBELL_STOP | this.index);
    this.idle();
    return CH_STUCK;
  }
}
