/**
 * The eDMA v0 block of the model: common registers in all maps, doorbells, interrupts and messages, where lists are.
 * Facts: dw-hardware.md 1, 4, 6. Channels: channel-model.ts. Moving data: live-dma.ts, timed-dma.ts.
 */
import {
  contextOffset,
  DOORBELL_STOP,
  EDMA,
  EDMA_COMMON,
  EDMA_LEGACY_SIZE,
  EDMA_MAX_CHANNELS,
  EDMA_UN,
  EDMA_UNROLL,
  EDMA_UNROLL_SIZE,
  EDMA_VP,
  INT_ALL,
  LL_BYTES,
  LL_WORDS,
  VIEWPORT_CONTEXT,
  VIEWPORT_READ,
} from "../edma.regs.ts";
import { copy, ld8, ptrOf, st8 } from "../mem.ts";
import { ChannelModel } from "./channel-model.ts";
import type { DmaFaults } from "./dma-faults.ts";
import { EdmaStatus, LL_ERROR } from "./edma-status.ts";
import type { Link } from "./link.ts";
import { LiveDma } from "./live-dma.ts";
import type { Random } from "./random.ts";
import type { TimedDma } from "./timed-dma.ts";

export { TURN_BUDGET } from "./live-dma.ts";

/** bits of writable registers that exist, where not all do */
const BITS = new Map<number, number>([
  [EDMA.WR_ENGINE_EN, 1],
  [EDMA.RD_ENGINE_EN, 1],
  [EDMA.WR_INT_MASK, INT_ALL],
  [EDMA.RD_INT_MASK, INT_ALL],
  [EDMA.WR_LL_ERR_EN, INT_ALL],
  [EDMA.RD_LL_ERR_EN, INT_ALL],
]);

/** Which register map: legacy (viewport), unrolled, or unrolled with the power enables of the HDMA-compatible core. */
export type EdmaMap = "legacy" | "unroll" | "compat";

/** byte offset -> bits of the common block that keep what is written */
function writable(map: EdmaMap): Map<number, number> {
  const rw = new Map<number, number>();
  for (const [, off, mode] of EDMA_COMMON) if (mode === "RW") rw.set(off, BITS.get(off) ?? -1);
  if (map === "legacy") return rw;
  for (const [, off, mode] of EDMA_UNROLL) if (mode === "RW") rw.set(off, -1);
  for (let n = 0; n < EDMA_MAX_CHANNELS; n++)
    for (const first of [EDMA_UN.WR_CH_POWER, EDMA_UN.RD_CH_POWER])
      if (map === "compat") rw.set(first + 4 * n, 1);
      else rw.delete(first + 4 * n);
  return rw;
}

export class EdmaModel {
  readonly map: EdmaMap;
  readonly unrolled: boolean;
  readonly writeChannels: readonly ChannelModel[];
  readonly readChannels: readonly ChannelModel[];
  readonly link: Link;
  readonly random: Random;
  readonly faults: DmaFaults;
  /** compare the CB of links too (dw-hardware.md 3: "or not at all") */
  checkLinkCycle = true;
  /** channels that are not at rest: write n is bit n, read n bit 8 + n */
  running = 0;
  contextWritesWhileBusy = 0;
  /** simulated time, or null: then LiveDma does the work */
  timed: TimedDma | null = null;
  /** next read element of a channel fails with this cause (CAUSE_TIMEOUT, CAUSE_POISONED ...); tests set it */
  injectCause = 0;
  injectChannel = 0;
  /** where locate() found the element */
  words: Int32Array;
  readonly #main: Int32Array;
  readonly #mainBase: number;
  readonly #mainSize: number;
  readonly #slot = new Int32Array(LL_WORDS);
  readonly #slotPtr = ptrOf(this.#slot);
  readonly #message = new Int32Array(1);
  readonly #messagePtr = ptrOf(this.#message);
  readonly #channels: (ChannelModel | undefined)[] = [];
  readonly #regs = new Int32Array(EDMA_UNROLL_SIZE / 4);
  #viewport = 0;
  readonly #status = new EdmaStatus();
  readonly #live = new LiveDma(this);
  readonly #writable: ReadonlyMap<number, number>;

  /**
   * @param main board memory as words, where lists usually are; bus address of its first byte `mainBase`
   */
  constructor(
    shape: { map: EdmaMap; writeChannels: number; readChannels: number },
    link: Link,
    random: Random,
    faults: DmaFaults,
    main: Int32Array,
    mainBase: number,
  ) {
    this.map = shape.map;
    this.unrolled = shape.map !== "legacy";
    this.#writable = writable(shape.map);
    this.link = link;
    this.random = random;
    this.faults = faults;
    this.#main = main;
    this.words = main;
    this.#mainBase = mainBase;
    this.#mainSize = main.byteLength;
    this.writeChannels = Array.from({ length: shape.writeChannels }, (_, n) => new ChannelModel(this, true, n));
    this.readChannels = Array.from({ length: shape.readChannels }, (_, n) => new ChannelModel(this, false, n));
    for (let n = 0; n < 8; n++) {
      this.#channels[n] = this.writeChannels[n];
      this.#channels[n + 8] = this.readChannels[n];
    }
    this.reset();
  }

  /** State after power-on: nothing enabled, everything masked. */
  reset(): void {
    for (const c of [...this.writeChannels, ...this.readChannels]) c.reset();
    this.#regs.fill(0);
    this.#regs[EDMA.WR_INT_MASK >> 2] = INT_ALL;
    this.#regs[EDMA.RD_INT_MASK >> 2] = INT_ALL;
    this.#status.reset();
    this.#viewport = 0;
    this.running = 0;
  }

  get size(): number {
    return this.unrolled ? EDMA_UNROLL_SIZE : EDMA_LEGACY_SIZE;
  }

  /** Level of the block's interrupt line: an unmasked status bit, or an emulated interrupt. */
  get irq(): boolean {
    const wr = this.#status.wr & ~this.#regs[EDMA.WR_INT_MASK >> 2]!;
    const rd = this.#status.rd & ~this.#regs[EDMA.RD_INT_MASK >> 2]!;
    return wr !== 0 || rd !== 0 || this.#status.emulated;
  }

  /** emulated interrupts asserted so far (writes to an INT_STATUS register) */
  get emulations(): number {
    return this.#status.emulations;
  }

  // --- registers ---

  readReg(off: number): number {
    const ch = this.#context(off);
    if (ch !== undefined) return ch === null ? 0 : ch.read(this.#contextOff(off));
    switch (off) {
      case EDMA.DMA_CTRL:
        return this.writeChannels.length | (this.readChannels.length << 16);
      case EDMA.WR_INT_STATUS:
        return this.#status.wr;
      case EDMA.RD_INT_STATUS:
        return this.#status.rd;
      case EDMA.WR_ERR_STATUS:
        return this.#status.wrErr;
      case EDMA.RD_ERR_STATUS_LO:
        return this.#status.rdErrLo;
      case EDMA.RD_ERR_STATUS_HI:
        return this.#status.rdErrHi;
      case EDMA_VP.VIEWPORT_SEL:
        return this.unrolled ? 0 : this.#viewport;
      default:
        return this.#regs[off >> 2] ?? 0;
    }
  }

  /** writeReg() by the board's CPU: with time, it takes some. */
  store(off: number, value: number, lanes: number): void {
    this.timed?.cpuRegister();
    this.writeReg(off, value, lanes);
  }

  /** @param lanes mask of the bytes the access carries */
  writeReg(off: number, value: number, lanes: number): void {
    const v = value & lanes;
    const ch = this.#context(off);
    if (ch !== undefined) {
      if (ch !== null) {
        const at = this.#contextOff(off);
        ch.write(at, lanes === -1 ? value : (ch.read(at) & ~lanes) | v);
      }
      return;
    }
    switch (off) {
      case EDMA.WR_DOORBELL:
        this.#doorbell(true, v);
        return;
      case EDMA.RD_DOORBELL:
        this.#doorbell(false, v);
        return;
      case EDMA.WR_INT_STATUS:
      case EDMA.RD_INT_STATUS:
        this.#status.emulate();
        return;
      case EDMA.WR_INT_CLEAR:
        this.#status.clear(true, v);
        return;
      case EDMA.RD_INT_CLEAR:
        this.#status.clear(false, v);
        return;
      case EDMA_VP.VIEWPORT_SEL:
        if (!this.unrolled) this.#viewport = ((this.#viewport & ~lanes) | v) & (VIEWPORT_READ | 7);
        return;
      default: {
        const bits = this.#writable.get(off);
        if (bits === undefined) return;
        const now = ((this.#regs[off >> 2]! & ~lanes) | v) & bits;
        this.#regs[off >> 2] = now;
        if (off === EDMA.WR_ENGINE_EN && now === 0) this.#switchedOff(this.writeChannels);
        if (off === EDMA.RD_ENGINE_EN && now === 0) this.#switchedOff(this.readChannels);
      }
    }
  }

  #switchedOff(channels: readonly ChannelModel[]): void {
    for (const c of channels)
      if (this.faults.contextLost) c.reset();
      else c.rest();
  }

  /** Whether the channel has power; only the HDMA-compatible map has a switch for it. */
  #powered(isWrite: boolean, index: number): boolean {
    if (this.map !== "compat") return true;
    return (this.#regs[((isWrite ? EDMA_UN.WR_CH_POWER : EDMA_UN.RD_CH_POWER) >> 2) + index]! & 1) !== 0;
  }

  /** channel whose context holds `off`, null when that channel does not exist, undefined when it is no context */
  #context(off: number): ChannelModel | null | undefined {
    if (!this.unrolled) {
      if (off < VIEWPORT_CONTEXT) return undefined;
      return this.#channels[(this.#viewport & 7) + (this.#viewport < 0 ? 8 : 0)] ?? null;
    }
    const first = contextOffset(true, 0);
    if (off < first) return undefined;
    const at = off - first;
    return this.#channels[(at >> 9) + (at & 0x100 ? 8 : 0)] ?? null;
  }

  #contextOff(off: number): number {
    return off & 0xff;
  }

  #doorbell(isWrite: boolean, value: number): void {
    const ch = (isWrite ? this.writeChannels : this.readChannels)[value & 7];
    if (ch === undefined) return;
    if ((value & DOORBELL_STOP) !== 0) {
      ch.rest();
      return;
    }
    this.link.stats.doorbells++;
    const enabled = this.#regs[(isWrite ? EDMA.WR_ENGINE_EN : EDMA.RD_ENGINE_EN) >> 2] !== 0;
    if (!enabled || !this.#powered(isWrite, ch.index)) {
      this.link.stats.deadDoorbells++;
      return;
    }
    ch.doorbell();
  }

  /** The channel whose bit in `running` that is. */
  channelOf(bit: number): ChannelModel {
    return this.#channels[31 - Math.clz32(bit)]!;
  }

  /** One turn of the running channels where there is no simulated time. */
  turn(): void {
    this.#live.turn();
  }

  // --- what channels report ---

  /** Word index of the slot at `llp` in `words`, -1 when it cannot be read. */
  locate(llp: number, who: ChannelModel): number {
    const at = llp - this.#mainBase;
    if (at >= 0 && at + LL_BYTES <= this.#mainSize && (llp & 3) === 0) {
      if (this.link.board.shadow !== null) this.link.local(llp, LL_BYTES, false, who);
      this.words = this.#main;
      return at / 4;
    }
    for (let done = 0; done < LL_BYTES; ) {
      const ptr = this.link.local(llp + done, LL_BYTES - done, false, who);
      // a link is 16 bytes long and may be the last thing in its memory
      if (ptr === 0 && done < 16) return -1;
      if (ptr === 0) break;
      copy(this.#slotPtr + done, ptr, this.link.board.run);
      done += this.link.board.run;
    }
    this.words = this.#slot;
    return 0;
  }

  setDone(ch: ChannelModel): void {
    this.#status.done(ch.isWrite, ch.index);
  }

  /** RIE: the channel's 16-bit data as a 32-bit write to the direction's "done" address. */
  remoteDone(ch: ChannelModel): void {
    this.#imwr(ch, ch.isWrite ? EDMA.WR_DONE_IMWR_LO : EDMA.RD_DONE_IMWR_LO);
  }

  aborted(ch: ChannelModel, cause: number): void {
    this.link.stats.aborts++;
    if (cause === LL_ERROR) this.link.stats.llErrors++;
    this.#status.abort(ch.isWrite, ch.index, cause);
    const en = this.#regs[(ch.isWrite ? EDMA.WR_LL_ERR_EN : EDMA.RD_LL_ERR_EN) >> 2]!;
    if ((en & (1 << ch.index)) !== 0) this.#imwr(ch, ch.isWrite ? EDMA.WR_ABORT_IMWR_LO : EDMA.RD_ABORT_IMWR_LO);
  }

  /** Address 0 means that nobody has set one: drivers of a local engine enable the remote bits and leave it so. */
  #imwr(ch: ChannelModel, reg: number): void {
    const addr = (this.#regs[(reg >> 2) + 1]! >>> 0) * 4294967296 + (this.#regs[reg >> 2]! >>> 0);
    if (addr === 0) return;
    const data = this.#regs[((ch.isWrite ? EDMA.WR_IMWR_DATA_01 : EDMA.RD_IMWR_DATA_01) >> 2) + (ch.index >> 1)]!;
    this.#message[0] = ch.index & 1 ? data >>> 16 : data & 0xffff;
    this.link.stats.imwrWrites++;
    if (this.timed !== null) this.timed.message(ch, addr, this.#messagePtr);
    else this.link.write(addr, this.#messagePtr, 4, ch);
  }

  // --- faults of silicon ---

  /** R-Car Gen4's fault is on, and read requests are larger than it survives. */
  get readsSpoil(): boolean {
    return this.faults.rcarReadRequest && this.link.config.mrrsShift > 7;
  }

  /** The injected error for this channel's read, once. */
  takeInjected(ch: ChannelModel): number {
    if (this.injectCause === 0 || this.injectChannel !== ch.index) return 0;
    const cause = this.injectCause;
    this.injectCause = 0;
    return cause;
  }

  /** R-Car Gen4: the last 32 bytes of every 256-byte block that was read arrive wrong (prior-art.md). */
  spoil(dst: number, size: number): void {
    if (size < 256) return;
    for (let block = 224; block + 32 <= size; block += 256)
      for (let i = 0; i < 32; i++) {
        const ptr = this.link.board.resolve(dst + block + i, 1, true);
        if (ptr !== 0) st8(ptr, ld8(ptr) ^ 0xff);
      }
    this.link.stats.readsSpoiled++;
  }
}
