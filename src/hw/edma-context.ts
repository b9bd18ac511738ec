/**
 * The registers of one eDMA v0 channel: where they are in each map, bringing the channel up, and what went wrong with it.
 * Follows dw-hardware.md 1 and 3. What it works through is edma-single.ts and edma-channel.ts.
 */
import { CH_ABORT } from "./dma-channel.ts";
import type { DmaRegion } from "./dma-memory.ts";
import {
  CAUSE_CA,
  CAUSE_GONE,
  CAUSE_LL_FETCH,
  CAUSE_LOCAL,
  CAUSE_POISONED,
  CAUSE_TIMEOUT,
  CAUSE_UNKNOWN,
  CAUSE_UR,
  CS_RUNNING,
  CTL_CS_SHIFT,
  contextOffset,
  EDMA,
  EDMA_CH,
  EDMA_MAX_CHANNELS,
  EDMA_UN,
  EDMA_VP,
  INT_ABORT_SHIFT,
  VIEWPORT_CONTEXT,
  VIEWPORT_READ,
} from "./edma.regs.ts";
import { EdmaList } from "./edma-list.ts";
import { Fault } from "./fault.ts";
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

/** register reads to wait for the engine to go idle, some ms on silicon */
const IDLE_POLLS = 20_000;

export class EdmaContext extends EdmaList {
  readonly isWrite: boolean;
  readonly index: number;
  lastError = 0;
  /** error status registers as read at the last abort (write side: only errLo) */
  errLo = 0;
  errHi = 0;

  protected readonly dma: Mmio;
  protected readonly viewport: boolean;
  protected readonly lie: boolean;
  protected readonly select: number;
  protected readonly controlOff: number;
  protected readonly llpOff: number;
  protected readonly doorbellOff: number;
  protected readonly intStatusOff: number;
  protected readonly intClearOff: number;
  private readonly powered: boolean;
  private readonly interrupts: boolean;

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
    this.intClearOff = info.isWrite ? EDMA.WR_INT_CLEAR : EDMA.RD_INT_CLEAR;
  }

  /** Make the context registers those of this channel: in the legacy map all channels share one window to them. */
  protected look(): void {
    if (this.viewport) this.dma.st32(EDMA_VP.VIEWPORT_SEL, this.select);
  }

  /** Enable engine and channel. Masks and error enables are shared by a direction and changed by RMW. */
  protected enable(): void {
    const d = this.dma;
    const done = 1 << this.index;
    const both = done | (done << INT_ABORT_SHIFT);
    d.st32(this.isWrite ? EDMA.WR_ENGINE_EN : EDMA.RD_ENGINE_EN, 1);
    if (this.powered) d.st32((this.isWrite ? EDMA_UN.WR_CH_POWER : EDMA_UN.RD_CH_POWER) + 4 * this.index, 1);
    const maskOff = this.isWrite ? EDMA.WR_INT_MASK : EDMA.RD_INT_MASK;
    const mask = d.ld32(maskOff);
    d.st32(maskOff, this.interrupts ? mask & ~both : mask | both);
    const errOff = this.isWrite ? EDMA.WR_LL_ERR_EN : EDMA.RD_LL_ERR_EN;
    d.st32(errOff, d.ld32(errOff) | done);
  }

  /** Aim the list mode at the slot at `llp` of board memory. */
  protected aim(llp: number, ccs: number): void {
    this.look();
    this.dma.st32(this.controlOff, ccs);
    this.dma.st32(this.llpOff, llp | 0);
    this.dma.st32(this.llpOff + 4, Math.floor(llp / 2 ** 32));
  }

  /** Mask done and abort of this channel. */
  protected mask(): void {
    const done = 1 << this.index;
    const maskOff = this.isWrite ? EDMA.WR_INT_MASK : EDMA.RD_INT_MASK;
    this.dma.st32(maskOff, this.dma.ld32(maskOff) | done | (done << INT_ABORT_SHIFT));
  }

  /** Switch the engine off, for all channels of the direction. @returns whether this one came to rest */
  protected disable(): boolean {
    this.dma.st32(this.isWrite ? EDMA.WR_ENGINE_EN : EDMA.RD_ENGINE_EN, 0);
    if (!this.idle()) return false;
    const done = 1 << this.index;
    this.dma.st32(this.intClearOff, done | (done << INT_ABORT_SHIFT));
    return true;
  }

  protected idle(): boolean {
    this.look();
    for (let i = 0; i < IDLE_POLLS; i++)
      if (((this.dma.ld32(this.controlOff) >>> CTL_CS_SHIFT) & 3) !== CS_RUNNING) return true;
    return false;
  }

  /** Fold this channel's bits of the error status registers (dw-hardware.md 1) into lastError. */
  protected fail(cause: number): number {
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
}
