/**
 * A seeded source of Ethernet frames and the matching checker, for property tests: every byte of a frame follows
 * from (seed, sequence number). Both ends of a link can use them, whatever moves the frames in between.
 */
import type { EndFeatures, HostEnd } from "./host-end.ts";
import { Random } from "./random.ts";

const ETH = 14;
/** the local experimental EtherType (IEEE 802 9.2.4) */
const ETHERTYPE = 0x88b5;
/** Ethernet header, sequence number, length */
export const FRAME_LEAST = ETH + 8;

/** check() results */
export const FRAME_OK = 0;
export const FRAME_SHORT = -1;
export const FRAME_FOREIGN = -2;
export const FRAME_BAD_LENGTH = -3;
export const FRAME_BAD_BYTES = -4;
export const FRAME_OUT_OF_ORDER = -5;

function mix(seed: number, seq: number, word: number): number {
  let x = (seed ^ Math.imul(seq, 0x9e3779b1) ^ Math.imul(word, 0x85ebca6b)) | 0;
  x ^= x >>> 15;
  x = Math.imul(x, 0x2c1b3c6d);
  x ^= x >>> 12;
  return x;
}

/** Write frame number `seq`, `len` bytes (at least FRAME_LEAST), at `at`. */
export function writeFrame(u8: Uint8Array, at: number, seed: number, seq: number, len: number): void {
  for (let i = 0; i < 12; i++) u8[at + i] = 0x02 + ((i === 5 || i === 11 ? seq : 0) & 0xfc);
  u8[at + 12] = ETHERTYPE >>> 8;
  u8[at + 13] = ETHERTYPE & 0xff;
  for (let i = 0; i < 4; i++) {
    u8[at + 14 + i] = seq >>> (8 * i);
    u8[at + 18 + i] = len >>> (8 * i);
  }
  for (let i = FRAME_LEAST; i < len; i += 4) {
    const word = mix(seed, seq, i);
    const n = Math.min(len - i, 4);
    for (let b = 0; b < n; b++) u8[at + i + b] = word >>> (8 * b);
  }
}

/** Compares frames with what the source with the same seed wrote, in order. */
export class FrameChecker {
  readonly seed: number;
  /** next sequence number expected */
  next = 0;
  frames = 0;
  bytes = 0;
  /** first error: code, sequence number found and byte offset */
  error = 0;
  errorSeq = -1;
  errorAt = -1;

  constructor(seed: number) {
    this.seed = seed;
  }

  /** Check the frame (without net header) at u8[at .. at+len). @returns FRAME_OK or a negative code */
  check(u8: Uint8Array, at: number, len: number): number {
    const rc = this.#check(u8, at, len);
    if (rc !== FRAME_OK && this.error === 0) this.error = rc;
    this.frames++;
    this.bytes += len;
    return rc;
  }

  #check(u8: Uint8Array, at: number, len: number): number {
    if (len < FRAME_LEAST) return FRAME_SHORT;
    if (((u8[at + 12] << 8) | u8[at + 13]) !== ETHERTYPE) return FRAME_FOREIGN;
    const seq = word(u8, at + 14);
    if (this.error === 0) this.errorSeq = seq;
    if (word(u8, at + 18) !== len) return FRAME_BAD_LENGTH;
    for (let i = FRAME_LEAST; i < len; i += 4) {
      const want = mix(this.seed, seq, i);
      const n = Math.min(len - i, 4);
      for (let b = 0; b < n; b++) {
        if (u8[at + i + b] !== ((want >>> (8 * b)) & 0xff)) {
          if (this.error === 0) this.errorAt = i + b;
          return FRAME_BAD_BYTES;
        }
      }
    }
    if (seq !== this.next) {
      this.next = (seq + 1) | 0;
      return FRAME_OUT_OF_ORDER;
    }
    this.next = (seq + 1) | 0;
    return FRAME_OK;
  }
}

function word(u8: Uint8Array, at: number): number {
  return u8[at] | (u8[at + 1] << 8) | (u8[at + 2] << 16) | (u8[at + 3] << 24);
}

export interface TrafficOptions {
  /** seed of the frames sent; what is received is checked with checkSeed */
  seed: number;
  checkSeed: number;
  /** frames to send in all; Infinity for no end */
  frames: number;
  /** least and largest frame without net header */
  least: number;
  most: number;
  /** live view over host memory that fetch() writes into and deliver() reads, and the CPU address of its first byte */
  u8: Uint8Array;
  ptr: number;
}

/** The host's end as generator and checker. */
export class TrafficEnd implements HostEnd {
  readonly kind = "traffic";
  readonly waitFds = [];
  readonly checker: FrameChecker;
  sent = 0;
  sentBytes = 0;
  linkUp = false;
  /** stop sending for now */
  paused = false;
  readonly #o: TrafficOptions;
  readonly #random: Random;
  readonly #staging = new Uint8Array(131072);
  #hdrLen = 0;

  constructor(o: TrafficOptions) {
    this.#o = o;
    this.#random = new Random(o.seed);
    this.checker = new FrameChecker(o.checkSeed);
  }

  get done(): boolean {
    return this.sent >= this.#o.frames;
  }

  start(f: EndFeatures): void {
    this.#hdrLen = f.hdrLen;
  }

  stop(): void {}

  setLink(up: boolean): void {
    this.linkUp = up;
  }

  fetch(ptr: number, max: number): number {
    const o = this.#o;
    if (this.paused || this.sent >= o.frames) return 0;
    let len = o.least + (this.#random.next() % (o.most - o.least + 1));
    if (len + this.#hdrLen > max) len = max - this.#hdrLen;
    const at = ptr - o.ptr;
    o.u8.fill(0, at, at + this.#hdrLen);
    writeFrame(o.u8, at + this.#hdrLen, o.seed, this.sent, len);
    this.sent++;
    this.sentBytes += len;
    return len + this.#hdrLen;
  }

  deliver(ptrs: Float64Array, lens: Int32Array, n: number, total: number): number {
    const { u8, ptr } = this.#o;
    if (n === 1) return this.checker.check(u8, ptrs[0] - ptr + this.#hdrLen, total - this.#hdrLen);
    const staging = this.#staging;
    let to = 0;
    for (let i = 0; i < n; i++) {
      const from = ptrs[i] - ptr;
      for (let b = 0; b < lens[i]; b++) staging[to++] = u8[from + b];
    }
    return this.checker.check(staging, this.#hdrLen, total - this.#hdrLen);
  }

  close(): void {}
}
