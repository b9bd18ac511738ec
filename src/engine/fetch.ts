/**
 * Two ways to bring words of the host's rings into local memory: elements of an eDMA read channel (asynchronous, the
 * default) or CPU loads through the outbound window (about 1 us each on a link; for controllers whose read channels
 * are spoken for, and to compare with). Only one is live in a process.
 */
import type { Controller } from "../hw/controller.ts";
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaRegion } from "../hw/dma-memory.ts";
import type { Iatu } from "../hw/iatu.ts";
import { fill, st16, st32 } from "../hw/mem.ts";
import { busHi, busLo } from "./bus.ts";

export interface Fetcher {
  /** copies that may be put now */
  room(): number;
  /** Copy `size` bytes (even) from host address hi:lo to region + off (even); lands at some time after commit(). */
  put(size: number, hostLo: number, hostHi: number, to: DmaRegion, off: number): void;
  /** @returns a mark for landed() */
  commit(): number;
  /** everything committed up to this mark is in local memory */
  landed(mark: number): boolean;
  /** CPU loads across the link so far (non-posted reads) */
  readonly cpuReads: number;
  /** The host is gone: forget what was set up for its memory. */
  reset(): void;
  /** nothing under way on it, its own things included */
  idle(): boolean;
  /** At rest, so that arm() is possible. */
  rests(): boolean;
  /** Prepare one copy that fire() begins at once; the next commit() undoes it. @returns false: not now, or never */
  arm(size: number, hostLo: number, hostHi: number, to: DmaRegion, off: number): boolean;
  armed(): boolean;
  /** Begin the copy that is prepared. @returns a mark for landed() */
  fire(): number;
  /** A copy that was prepared, or one like it, is under way: what is put now begins behind its end. */
  alone(): boolean;
}

const TWO32 = 4294967296;
/** high word of addresses that are not exact in a Number; nobody has memory there, and it reads as ones like any such */
const FAR_HI = 1 << 21;

/** How the host's rings are read: by DMA; by DMA over linked lists alone, without single transfers; by the CPU through the window. */
export type Fetch = "edma" | "list" | "window";

/** A fetcher that is for something else first. */
export interface SpareFetcher extends Fetcher {
  /** nothing under way but looks at an avail index */
  onlyLooks(): boolean;
  /** around the elements of such a look */
  lookBegins(): void;
  lookEnds(): void;
}

export class EdmaFetcher implements SpareFetcher {
  readonly cpuReads = 0;
  private readonly ch: DmaChannel;
  /** elements [looksFrom, looksTo) are looks, the newest of them */
  private looksFrom = 0;
  private looksTo = 0;
  /** where the last copy went to, and the words of its bus address: many go there in a row */
  private region: DmaRegion | null = null;
  private lo = 0;
  private hi = 0;
  /** @param singles copies may be prepared, where the channel can do without a list */
  constructor(
    channel: DmaChannel,
    private readonly singles = true,
  ) {
    this.ch = channel;
  }
  room(): number {
    return this.ch.room();
  }
  put(size: number, hostLo: number, hostHi: number, to: DmaRegion, off: number): void {
    if (to !== this.region) {
      this.region = to;
      this.lo = busLo(to.bus);
      this.hi = busHi(to.bus);
    }
    const lo = (this.lo + off) | 0;
    // Regions are smaller than 4 GiB, so the low word wrapped when it came out below the base's.
    this.ch.put(size, hostLo, hostHi, lo, lo >>> 0 < this.lo >>> 0 ? (this.hi + 1) | 0 : this.hi);
  }
  commit(): number {
    this.ch.commit();
    return this.ch.putCount;
  }
  idle(): boolean {
    return this.ch.putCount === this.ch.doneCount;
  }
  onlyLooks(): boolean {
    const { putCount, doneCount } = this.ch;
    return putCount === doneCount || (putCount === this.looksTo && ((doneCount - this.looksFrom) | 0) >= 0);
  }
  lookBegins(): void {
    if (this.ch.putCount !== this.looksTo) this.looksFrom = this.ch.putCount;
  }
  lookEnds(): void {
    this.looksTo = this.ch.putCount;
  }
  landed(mark: number): boolean {
    return ((this.ch.doneCount - mark) | 0) >= 0;
  }
  rests(): boolean {
    return this.singles && this.ch.rests === true;
  }
  arm(size: number, hostLo: number, hostHi: number, to: DmaRegion, off: number): boolean {
    const at = to.bus + off;
    return this.ch.arm?.(size, hostLo, hostHi, at | 0, Math.floor(at / TWO32)) === true;
  }
  armed(): boolean {
    return this.ch.armed === true;
  }
  fire(): number {
    this.ch.fire!();
    return this.ch.putCount;
  }
  alone(): boolean {
    return this.ch.alone === true;
  }
  reset(): void {}
}

/** Outbound iATU regions used as a small cache of host pages, replaced in turn. */
export class WindowFetcher implements Fetcher {
  cpuReads = 0;
  private readonly ctrl: Controller;
  private readonly iatu: Iatu;
  private readonly firstRegion: number;
  private readonly slots: number;
  private readonly span: number;
  private readonly mapped: Float64Array;
  private victim = 0;

  /**
   * @param firstRegion first outbound iATU region to use, with window offset firstRegion * span
   * @param slots regions to use
   * @param span bytes of each, a multiple of the iATU alignment
   */
  constructor(ctrl: Controller, iatu: Iatu, firstRegion: number, slots: number, span: number) {
    this.ctrl = ctrl;
    this.iatu = iatu;
    this.firstRegion = firstRegion;
    this.slots = slots;
    this.span = span;
    this.mapped = new Float64Array(slots).fill(-1);
  }

  room(): number {
    return 0x7fffffff;
  }

  put(size: number, hostLo: number, hostHi: number, to: DmaRegion, off: number): void {
    const window = this.ctrl.window;
    let at = (hostHi >>> 0) * TWO32 + (hostLo >>> 0);
    let dst = to.ptr + off;
    let left = size;
    if (hostHi >>> 0 >= FAR_HI) {
      fill(dst, 0xff, size);
      return;
    }
    while (left > 0) {
      const w = this.offsetOf(at);
      if (w < 0) {
        fill(dst, 0xff, left);
        return;
      }
      const room = this.span - (at % this.span);
      let n = left < room ? left : room;
      left -= n;
      at += n;
      let o = w;
      if ((o & 3) !== 0 && n >= 2) {
        st16(dst, window.ld16(o));
        this.cpuReads++;
        o += 2;
        dst += 2;
        n -= 2;
      }
      for (; n >= 4; n -= 4, o += 4, dst += 4) {
        if ((dst & 3) === 0) st32(dst, window.ld32(o));
        else {
          const v = window.ld32(o);
          st16(dst, v & 0xffff);
          st16(dst + 2, v >>> 16);
        }
        this.cpuReads++;
      }
      if (n >= 2) {
        st16(dst, window.ld16(o));
        this.cpuReads++;
        dst += 2;
      }
    }
  }

  commit(): number {
    return 0;
  }

  landed(_mark: number): boolean {
    return true;
  }

  idle(): boolean {
    return true;
  }

  rests(): boolean {
    return false;
  }
  arm(): boolean {
    return false;
  }
  armed(): boolean {
    return false;
  }
  fire(): number {
    return 0;
  }
  alone(): boolean {
    return false;
  }

  reset(): void {
    for (let i = 0; i < this.slots; i++) {
      if (this.mapped[i]! >= 0) this.iatu.disableOutbound(this.firstRegion + i);
      this.mapped[i] = -1;
    }
  }

  /** Offset in the window that shows `addr`, or -1 when the region cannot be aimed. */
  private offsetOf(addr: number): number {
    const page = addr - (addr % this.span);
    for (let i = 0; i < this.slots; i++) {
      if (this.mapped[i] === page) return (this.firstRegion + i) * this.span + (addr - page);
    }
    // CPU loads are synchronous, so nothing of ours is in flight through the region that is replaced here.
    const i = this.victim;
    this.victim = (i + 1) % this.slots;
    const region = this.firstRegion + i;
    const hi = Math.floor(page / TWO32);
    const base = this.ctrl.windowBus + region * this.span;
    this.mapped[i] = -1;
    if (this.iatu.aim(region, base, this.span, (page - hi * TWO32) | 0, hi | 0) !== 0) return -1;
    this.mapped[i] = page;
    return region * this.span + (addr - page);
  }
}
