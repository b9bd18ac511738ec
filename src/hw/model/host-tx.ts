/**
 * The transmit queue of the built-in host: slots of one maximal frame each, cut into descriptors in the layouts that
 * drivers use (VIRTIO 1.2 5.1.6.2). Runs per frame: no allocation.
 */
import type { DriverRing } from "../driver-ring.ts";
import { copy, fill } from "../mem.ts";
import type { HostBlock } from "./host-memory.ts";
import type { Random } from "./random.ts";

/** bytes of one slot: header, 64 KiB frame, some alignment play */
export const TX_SLOT = 73728;
/** longest frame with header that fits a slot at any offset */
export const TX_MOST = TX_SLOT - 4096;
/** most descriptors of one frame: header, linear part, 18 pages */
export const TX_DESCS = 20;

/**
 * How a frame becomes descriptors. linear: header and all data in one. frags: header and the first `linear` bytes in
 * one, the rest in pieces, as Linux does with page fragments. split: header alone, then pieces (drivers without
 * ANY_LAYOUT). mixed: one of these at random for each frame.
 */
export type TxLayout = "linear" | "frags" | "split" | "mixed";

export interface TxOptions {
  layout: TxLayout;
  hdrLen: number;
  /** bytes of one piece, 4096 .. 32768 */
  piece: number;
  /** data bytes behind the header in the first descriptor of "frags" */
  linear: number;
  /** put the pieces at falling addresses with a copy, so that nothing is contiguous */
  scatter: boolean;
  /** frames begin at a multiple of this (1..64) */
  align: number;
  /** the ring puts chains into indirect tables: a frame costs one descriptor */
  indirect: boolean;
}

export class HostTx {
  readonly ring: DriverRing;
  readonly options: TxOptions;
  readonly slots: number;
  frames = 0;
  bytes = 0;
  /** frames the device has given back */
  completed = 0;
  /** code of a broken used ring, 0 if none */
  broken = 0;
  /** the device claimed to have written into a transmit chain */
  written = 0;
  /** frames in flight when the queue was reset */
  lost = 0;
  /** frames lost because their chain is longer than the ring */
  tooLong = 0;

  readonly #need: number;
  readonly #area: HostBlock;
  readonly #random: Random;
  readonly #slotOf: Int32Array;
  readonly #free: Int32Array;
  #freeTop: number;
  readonly #staging: number;
  readonly #lo = new Int32Array(TX_DESCS);
  readonly #hi = new Int32Array(TX_DESCS);
  readonly #len = new Int32Array(TX_DESCS);
  #count = 0;
  #at = 0;

  /** The last slot of `area` is the staging area for scattering. */
  constructor(ring: DriverRing, area: HostBlock, random: Random, o: TxOptions) {
    this.ring = ring;
    this.options = o;
    this.#area = area;
    this.#random = random;
    // a ring shorter than the longest chain can still carry short frames
    this.#need = o.indirect || o.layout === "linear" ? 1 : Math.min(ring.size, 2 + Math.ceil(TX_MOST / o.piece));
    const fit = Math.floor(area.bytes / TX_SLOT) - 1;
    this.slots = Math.min(ring.size, fit);
    this.#staging = area.ptr + fit * TX_SLOT;
    this.#slotOf = new Int32Array(ring.size).fill(-1);
    this.#free = new Int32Array(this.slots);
    for (let i = 0; i < this.slots; i++) {
      this.#free[i] = i;
      // a TAP writes 10 bytes of the header and leaves the rest as it was
      fill(area.ptr + i * TX_SLOT, 0, 128);
    }
    this.#freeTop = this.slots;
    fill(this.#staging, 0, 128);
  }

  /** The queue was reset: frames in flight are lost, the ring is empty. */
  restart(): void {
    this.lost += this.frames - this.completed - this.lost;
    this.ring.reset();
    this.#slotOf.fill(-1);
    for (let i = 0; i < this.slots; i++) this.#free[i] = i;
    this.#freeTop = this.slots;
    this.broken = 0;
  }

  /** Room for one more frame of any length. */
  get room(): boolean {
    return this.#freeTop > 0 && this.ring.freeCount >= this.#need;
  }

  /** CPU address where the next frame (net header first, at most TX_MOST bytes) is to be written. Check room first. */
  begin(): number {
    if (this.options.scatter) {
      this.#at = this.#staging;
    } else {
      const slot = this.#free[this.#freeTop - 1];
      this.#at = this.#area.ptr + slot * TX_SLOT + this.#random.below(64 / this.options.align) * this.options.align;
      if (this.options.hdrLen > 10) fill(this.#at + 10, 0, this.options.hdrLen - 10);
    }
    return this.#at;
  }

  /** Put the frame written since begin() into the ring. @returns its head, or a negative code when the ring is too short for its chain (the frame is lost) */
  commit(total: number): number {
    const o = this.options;
    const slot = this.#free[this.#freeTop - 1];
    let layout = o.layout;
    if (layout === "mixed") {
      const dice = this.#random.below(3);
      layout = dice === 0 ? "linear" : dice === 1 ? "frags" : "split";
    }
    let first = total;
    if (layout === "split") first = o.hdrLen;
    else if (layout === "frags" && total > o.hdrLen + o.linear) first = o.hdrLen + o.linear;
    // a chain of more pieces than a slot has descriptors cannot be: piece is at least 4096
    this.#count = 0;
    let to = o.scatter ? this.#area.ptr + (slot + 1) * TX_SLOT : this.#at;
    to = this.#piece(this.#at, to, first);
    for (let done = first; done < total; ) {
      const n = Math.min(total - done, o.piece);
      to = this.#piece(this.#at + done, to, n);
      done += n;
    }
    const head = this.ring.add(this.#lo, this.#hi, this.#len, this.#count, 0);
    if (head < 0) {
      this.tooLong++;
      return head;
    }
    this.#freeTop--;
    this.#slotOf[head] = slot;
    this.frames++;
    this.bytes += total - o.hdrLen;
    return head;
  }

  #piece(from: number, to: number, len: number): number {
    let at = to;
    if (this.options.scatter) {
      at = to - len - this.#random.below(64);
      copy(at, from, len);
    }
    const bus = at - this.#area.ptr + this.#area.bus;
    const i = this.#count++;
    this.#lo[i] = bus | 0;
    this.#hi[i] = (bus / 4294967296) | 0;
    this.#len[i] = len;
    return this.options.scatter ? at : at + len;
  }

  /** Take used chains back. @returns how many */
  reap(): number {
    let n = 0;
    for (;;) {
      const head = this.ring.take();
      if (head < 0) {
        if (head !== -1) this.broken = head;
        break;
      }
      if (this.ring.usedLen !== 0) this.written++;
      const slot = this.#slotOf[head];
      // -1: a chain that somebody else put into the ring (fault injection)
      if (slot >= 0) this.#free[this.#freeTop++] = slot;
      this.#slotOf[head] = -1;
      n++;
    }
    this.completed += n;
    return n;
  }
}
