/**
 * The segments of one chain as flat int32 columns, and the two things done to them: translating local (EQ) addresses
 * to bus addresses, and pairing a source list with a destination list into linked-list elements.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { LocalBuffers } from "../hw/net-port.ts";
import { OK, R_CHAIN_TOO_LONG, R_LOCAL_ADDRESS } from "./codes.ts";

/** Most segments of one frame after translation: 64 KiB in 4 KiB pieces is 17; this leaves room for odd drivers. */
export const MAX_SEGMENTS = 512;

export class Segments {
  readonly lo = new Int32Array(MAX_SEGMENTS);
  readonly hi = new Int32Array(MAX_SEGMENTS);
  readonly len = new Int32Array(MAX_SEGMENTS);
  /** offset of the segment in LocalBuffers.u8; only set by translate() */
  readonly off = new Int32Array(MAX_SEGMENTS);
  count = 0;
  /** bytes of all segments */
  total = 0;
  /** numbers for codes.describe() after a negative result */
  a = 0;
  b = 0;

  clear(): void {
    this.count = 0;
    this.total = 0;
  }

  /** Append one segment whose `off` does not matter; the caller has checked that there is room. */
  append(lo: number, hi: number, len: number): void {
    const k = this.count;
    this.lo[k] = lo;
    this.hi[k] = hi;
    this.len[k] = len;
    this.count = k + 1;
    this.total += len;
  }
}

const TWO32 = 4294967296;

/** Put one segment in front of the list; there must be room. Its `off` does not matter. */
export function prepend(segs: Segments, lo: number, hi: number, len: number): void {
  for (let i = segs.count; i > 0; i--) {
    segs.lo[i] = segs.lo[i - 1]!;
    segs.hi[i] = segs.hi[i - 1]!;
    segs.len[i] = segs.len[i - 1]!;
    segs.off[i] = segs.off[i - 1]!;
  }
  segs.lo[0] = lo;
  segs.hi[0] = hi;
  segs.len[0] = len;
  segs.count++;
  segs.total += len;
}

/**
 * Append `raw` segments [from, raw.count) to `out`, translated to bus addresses (see LocalBuffers), split at 4 KiB where
 * the memory is scattered. @returns 0 or a negative code (numbers in out.a, out.b)
 */
export function translate(raw: Segments, from: number, buffers: LocalBuffers, out: Segments): number {
  const base = buffers.base;
  const limit = buffers.u8.length;
  const pageLo = buffers.pageBusLo;
  const pageHi = buffers.pageBusHi;
  let k = out.count;
  for (let i = from; i < raw.count; i++) {
    const len = raw.len[i]!;
    const off = raw.hi[i]! * TWO32 + (raw.lo[i]! >>> 0) - base;
    if (!(off >= 0 && off + len <= limit)) {
      out.a = raw.lo[i]!;
      out.b = raw.hi[i]!;
      return R_LOCAL_ADDRESS;
    }
    if (pageLo === null || pageHi === null) {
      if (k >= MAX_SEGMENTS) return tooLong(out);
      const bus = buffers.busBase + off;
      const hi = Math.floor(bus / TWO32);
      out.hi[k] = hi;
      out.lo[k] = bus - hi * TWO32;
      out.len[k] = len;
      out.off[k] = off;
      k++;
    } else {
      let at = off;
      let left = len;
      while (left > 0) {
        if (k >= MAX_SEGMENTS) return tooLong(out);
        const page = at >>> 12;
        if (pageLo[page] === 0 && pageHi[page] === 0 && buffers.learn(page) < 0) {
          out.a = raw.lo[i]!;
          out.b = raw.hi[i]!;
          return R_LOCAL_ADDRESS;
        }
        const inPage = at & 4095;
        const room = 4096 - inPage;
        const n = left < room ? left : room;
        out.lo[k] = pageLo[page]! | inPage;
        out.hi[k] = pageHi[page]!;
        out.len[k] = n;
        out.off[k] = at;
        k++;
        at += n;
        left -= n;
      }
    }
    out.total += len;
  }
  out.count = k;
  return OK;
}

function tooLong(out: Segments): number {
  out.a = 0;
  out.b = MAX_SEGMENTS;
  return R_CHAIN_TOO_LONG;
}

/**
 * Put one element for every stretch in which neither side changes its segment. `bytes` must not exceed either total,
 * and the channel must have room for src.count + dst.count elements.
 * @returns elements put
 */
export function emit(ch: DmaChannel, src: Segments, dst: Segments, bytes: number): number {
  return ch.putPieces(src, dst, bytes);
}

/** Offset in LocalBuffers.u8 of byte `at` of a translated chain; -1 when the chain is shorter. */
export function localOffset(segs: Segments, at: number): number {
  let skip = at;
  for (let i = 0; i < segs.count; i++) {
    if (skip < segs.len[i]!) return segs.off[i]! + skip;
    skip -= segs.len[i]!;
  }
  return -1;
}

/** Drop the first `bytes` bytes of the list (the header that goes as its own element). */
export function dropFront(segs: Segments, bytes: number): void {
  let skip = bytes;
  let i = 0;
  while (i < segs.count && skip >= segs.len[i]!) {
    skip -= segs.len[i]!;
    i++;
  }
  let k = 0;
  for (; i < segs.count; i++, k++) {
    const lo = segs.lo[i]!;
    const next = (lo + skip) | 0;
    segs.hi[k] = segs.hi[i]! + (next >>> 0 < lo >>> 0 ? 1 : 0);
    segs.lo[k] = next;
    segs.len[k] = segs.len[i]! - skip;
    segs.off[k] = segs.off[i]! + skip;
    skip = 0;
  }
  segs.count = k;
  segs.total -= bytes;
}

/**
 * Take `bytes` bytes at byte `at` out of the list; a segment around them is split. Where header lengths differ, this is
 * the part that one side has and the other has not. There must be room for one more segment.
 */
export function cutOut(segs: Segments, at: number, bytes: number): void {
  let i = 0;
  let skip = at;
  while (i < segs.count && skip >= segs.len[i]!) {
    skip -= segs.len[i]!;
    i++;
  }
  if (skip > 0 && i < segs.count) {
    for (let k = segs.count; k > i; k--) {
      segs.lo[k] = segs.lo[k - 1]!;
      segs.hi[k] = segs.hi[k - 1]!;
      segs.len[k] = segs.len[k - 1]!;
      segs.off[k] = segs.off[k - 1]!;
    }
    segs.count++;
    segs.len[i] = skip;
    i++;
    advance(segs, i, skip);
  }
  let left = bytes;
  let gone = 0;
  while (i + gone < segs.count && left >= segs.len[i + gone]!) {
    left -= segs.len[i + gone]!;
    gone++;
  }
  if (gone > 0) {
    for (let k = i; k + gone < segs.count; k++) {
      segs.lo[k] = segs.lo[k + gone]!;
      segs.hi[k] = segs.hi[k + gone]!;
      segs.len[k] = segs.len[k + gone]!;
      segs.off[k] = segs.off[k + gone]!;
    }
    segs.count -= gone;
  }
  if (left > 0 && i < segs.count) advance(segs, i, left);
  segs.total -= bytes;
}

/** Drop the first n bytes of one segment. */
function advance(segs: Segments, i: number, n: number): void {
  const lo = segs.lo[i]!;
  const next = (lo + n) | 0;
  if (next >>> 0 < lo >>> 0) segs.hi[i] = segs.hi[i]! + 1;
  segs.lo[i] = next;
  segs.len[i] = segs.len[i]! - n;
  segs.off[i] = segs.off[i]! + n;
}
