/**
 * The segments of one chain as rows of int32 words, and what is done to them: translating local (EQ) addresses to bus
 * addresses, cutting, and handing a source and a destination list to a channel (DmaChannel.putPieces).
 */
import type { LocalBuffers } from "../hw/net-port.ts";
import { PIECE_HI, PIECE_LEN, PIECE_LO, PIECE_WORDS } from "../hw/pieces.ts";
import { OK, R_CHAIN_TOO_LONG, R_LOCAL_ADDRESS } from "./codes.ts";

/** Most segments of one frame after translation: 64 KiB in 4 KiB pieces is 17; this leaves room for odd drivers. */
export const MAX_SEGMENTS = 512;

/** behind address and length: offset of the segment in LocalBuffers.u8, where one is known */
export const PIECE_OFF = 3;

export class Segments {
  /** a piece each, as DmaChannel.putPieces() takes them */
  readonly rows = new Int32Array(MAX_SEGMENTS * PIECE_WORDS);
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
    const w = this.count * PIECE_WORDS;
    this.rows[w + PIECE_LO] = lo;
    this.rows[w + PIECE_HI] = hi;
    this.rows[w + PIECE_LEN] = len;
    this.count++;
    this.total += len;
  }

  lo(i: number): number {
    return this.rows[i * PIECE_WORDS + PIECE_LO]!;
  }

  hi(i: number): number {
    return this.rows[i * PIECE_WORDS + PIECE_HI]!;
  }

  len(i: number): number {
    return this.rows[i * PIECE_WORDS + PIECE_LEN]!;
  }

  /** Offset in LocalBuffers.u8; of segments that were translated. */
  off(i: number): number {
    return this.rows[i * PIECE_WORDS + PIECE_OFF]!;
  }
}

const TWO32 = 4294967296;

/** Put one segment in front of the list; there must be room. Its `off` does not matter. */
export function prepend(segs: Segments, lo: number, hi: number, len: number): void {
  const { rows } = segs;
  rows.copyWithin(PIECE_WORDS, 0, segs.count * PIECE_WORDS);
  rows[PIECE_LO] = lo;
  rows[PIECE_HI] = hi;
  rows[PIECE_LEN] = len;
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
    const len = raw.len(i);
    const off = raw.hi(i) * TWO32 + (raw.lo(i) >>> 0) - base;
    if (!(off >= 0 && off + len <= limit)) {
      out.a = raw.lo(i);
      out.b = raw.hi(i);
      return R_LOCAL_ADDRESS;
    }
    if (pageLo === null || pageHi === null) {
      if (k >= MAX_SEGMENTS) return tooLong(out);
      const bus = buffers.busBase + off;
      const hi = Math.floor(bus / TWO32);
      row(out, k, bus - hi * TWO32, hi, len, off);
      k++;
    } else {
      let at = off;
      let left = len;
      while (left > 0) {
        if (k >= MAX_SEGMENTS) return tooLong(out);
        const page = at >>> 12;
        if (pageLo[page] === 0 && pageHi[page] === 0 && buffers.learn(page) < 0) {
          out.a = raw.lo(i);
          out.b = raw.hi(i);
          return R_LOCAL_ADDRESS;
        }
        const inPage = at & 4095;
        const room = 4096 - inPage;
        const n = left < room ? left : room;
        row(out, k, pageLo[page]! | inPage, pageHi[page]!, n, at);
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

function row(out: Segments, k: number, lo: number, hi: number, len: number, off: number): void {
  const { rows } = out;
  const w = k * PIECE_WORDS;
  rows[w + PIECE_LO] = lo;
  rows[w + PIECE_HI] = hi;
  rows[w + PIECE_LEN] = len;
  rows[w + PIECE_OFF] = off;
}

function tooLong(out: Segments): number {
  out.a = 0;
  out.b = MAX_SEGMENTS;
  return R_CHAIN_TOO_LONG;
}

/** Offset in LocalBuffers.u8 of byte `at` of a translated chain; -1 when the chain is shorter. */
export function localOffset(segs: Segments, at: number): number {
  let skip = at;
  for (let i = 0; i < segs.count; i++) {
    if (skip < segs.len(i)) return segs.off(i) + skip;
    skip -= segs.len(i);
  }
  return -1;
}

/**
 * Take `bytes` bytes at byte `at` out of the list; a segment around them is split. Where header lengths differ, this is
 * the part that one side has and the other has not. There must be room for one more segment.
 */
export function cutOut(segs: Segments, at: number, bytes: number): void {
  let i = 0;
  let skip = at;
  while (i < segs.count && skip >= segs.len(i)) {
    skip -= segs.len(i);
    i++;
  }
  if (skip > 0 && i < segs.count) {
    segs.rows.copyWithin((i + 1) * PIECE_WORDS, i * PIECE_WORDS, segs.count * PIECE_WORDS);
    segs.count++;
    segs.rows[i * PIECE_WORDS + PIECE_LEN] = skip;
    i++;
    advance(segs, i, skip);
  }
  let left = bytes;
  let gone = 0;
  while (i + gone < segs.count && left >= segs.len(i + gone)) {
    left -= segs.len(i + gone);
    gone++;
  }
  if (gone > 0) {
    segs.rows.copyWithin(i * PIECE_WORDS, (i + gone) * PIECE_WORDS, segs.count * PIECE_WORDS);
    segs.count -= gone;
  }
  if (left > 0 && i < segs.count) advance(segs, i, left);
  segs.total -= bytes;
}

/** Drop the first n bytes of one segment. */
function advance(segs: Segments, i: number, n: number): void {
  const { rows } = segs;
  const w = i * PIECE_WORDS;
  const lo = rows[w + PIECE_LO]!;
  const next = (lo + n) | 0;
  if (next >>> 0 < lo >>> 0) rows[w + PIECE_HI] = rows[w + PIECE_HI]! + 1;
  rows[w + PIECE_LO] = next;
  rows[w + PIECE_LEN] = rows[w + PIECE_LEN]! - n;
  rows[w + PIECE_OFF] = rows[w + PIECE_OFF]! + n;
}
