/**
 * Local memory for the driver's side of one of the host's virtqueues, and how descriptors get there: each is asked for
 * once a round, and neighbours come as one element of the list. Which ones, and when, is host-mirror.ts.
 */
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { availBytes } from "../hw/virtio.layout.ts";
import type { Fetcher, SpareFetcher } from "./fetch.ts";
import { HostNotices } from "./host-notices.ts";
import { TUNING, type Tuning } from "./tuning.ts";

/** descriptors of an indirect table that are mirrored; Linux uses at most 2 + MAX_SKB_FRAGS */
export const INDIRECT_MAX = 64;
/** descriptors of a guess: a cache line of them */
export const GUESS = 4;

export class HostDescs extends HostNotices {
  /** DESC_F_WRITE for the receive queue, 0 for the transmit queue */
  readonly write: number;
  readonly avail: Uint16Array;
  readonly desc: Int32Array;
  protected readonly table: Int32Array;
  protected readonly mem: DmaRegion;
  protected readonly maxSize: number;
  protected readonly descOff: number;
  protected readonly tableOff: number;
  /** what the round under way goes through */
  protected via: Fetcher;
  /** round in which a descriptor was asked for last */
  protected readonly stamp: Int32Array;
  protected round = 0;
  protected descLo = 0;
  protected descHi = 0;
  /** the stretch that is being put together, -1: none */
  protected runLo = -1;
  protected runHi = -1;

  /** @param maxSize largest queue size that attach() will be given; memory is taken once, here */
  constructor(
    name: string,
    write: number,
    memory: DmaMemory,
    fetcher: Fetcher,
    maxSize: number,
    tuning: Tuning = TUNING,
    spare: SpareFetcher | null = null,
  ) {
    super(name, memory, fetcher, maxSize, tuning, spare);
    this.write = write;
    this.via = fetcher;
    this.maxSize = maxSize;
    const availSpan = (availBytes(maxSize) + 63) & ~63;
    this.descOff = availSpan;
    this.tableOff = this.descOff + maxSize * 16;
    const bytes = this.tableOff + maxSize * INDIRECT_MAX * 16;
    this.mem = memory.alloc(`mirror.${name}`, bytes, 4096);
    this.avail = this.mem.u16.subarray(0, availSpan >> 1);
    this.desc = this.mem.i32.subarray(this.descOff >> 2, this.tableOff >> 2);
    this.table = this.mem.i32.subarray(this.tableOff >> 2, bytes >> 2);
    this.stamp = new Int32Array(maxSize);
  }

  /** Ask for descriptor `d`, joined with its neighbours to one element where the gap is under a cache line. */
  protected need(d: number): void {
    if (this.stamp[d] === this.round) return;
    this.stamp[d] = this.round;
    if (this.runLo >= 0) {
      if (d > this.runHi && d - this.runHi <= GUESS) {
        for (let k = this.runHi + 1; k < d; k++) this.stamp[k] = this.round;
        this.runHi = d;
        return;
      }
      if (d < this.runLo && this.runLo - d <= GUESS) {
        for (let k = d + 1; k < this.runLo; k++) this.stamp[k] = this.round;
        this.runLo = d;
        return;
      }
      this.flushRun();
    }
    this.runLo = this.runHi = d;
  }

  /** The same for `count` neighbours from `d`, as many as there are. */
  protected needRun(d: number, count: number): void {
    const { stamp, round, size, runLo, runHi } = this;
    const last = (d + count < size ? d + count : size) - 1;
    if (stamp[d] === round || stamp[last] === round) {
      for (let k = d; k <= last; k++) this.need(k);
      return;
    }
    let from = d;
    let to = last;
    if (runLo >= 0 && d > runHi && d - runHi <= GUESS) {
      from = runHi + 1;
      this.runHi = last;
    } else if (last < runLo && runLo - last <= GUESS) {
      to = runLo - 1;
      this.runLo = d;
    } else {
      this.flushRun();
      this.runLo = d;
      this.runHi = last;
    }
    for (let k = from; k <= to; k++) stamp[k] = round;
  }

  protected flushRun(): void {
    if (this.runLo < 0) return;
    const { runLo } = this;
    const off = runLo << 4;
    this.fetchAt(this.via, (this.runHi - runLo + 1) << 4, this.descLo, this.descHi, off, this.descOff + off);
    this.runLo = -1;
  }

  /** fetchAt() as a copy that fire() begins. @returns false: not now */
  protected armAt(via: Fetcher, bytes: number, lo: number, hi: number, add: number, off: number): boolean {
    const at = (lo + add) | 0;
    return via.arm(bytes, at, at >>> 0 < lo >>> 0 ? (hi + 1) | 0 : hi, this.mem, off);
  }

  protected fetchAt(via: Fetcher, bytes: number, lo: number, hi: number, add: number, off: number): void {
    const at = (lo + add) | 0;
    via.put(bytes, at, at >>> 0 < lo >>> 0 ? (hi + 1) | 0 : hi, this.mem, off);
  }
}
