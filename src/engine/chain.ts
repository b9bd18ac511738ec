/**
 * Walking a descriptor chain (VIRTIO 1.2 2.7.5 and 2.7.5.3) in a table that is CPU-readable here: the board's own
 * ring, the local mirror of the host's, or an indirect table of either. Every rule a driver can break is checked
 * where it would harm us; the words of a descriptor are read once, since its owner may change them at any time.
 */
import { PIECE_HI, PIECE_LEN, PIECE_LO, PIECE_WORDS } from "../hw/pieces.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../hw/virtio.layout.ts";
import {
  OK,
  R_CHAIN_TOO_LONG,
  R_DESC_DIRECTION,
  R_DESC_INDEX,
  R_DESC_LENGTH,
  R_DESC_LOOP,
  R_INDIRECT,
} from "./codes.ts";
import { MAX_SEGMENTS, type Segments } from "./segments.ts";

/** flags that tell what kind a descriptor is */
export const SINGLE_KIND = DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT;

/** Result of walk(): the chain continues in an indirect table, see the segment at index `count`. */
export const INDIRECT = 1;

/**
 * Append the segments of the chain at `head` to `out`.
 * @param desc the table, 4 int32 words a descriptor, starting at word `word`
 * @param size descriptors in the table
 * @param write DESC_F_WRITE when every descriptor must be device-writable (receive queues), else 0
 * @returns 0; INDIRECT: the rest is in a table whose address and length are parked behind the last segment, at
 *   out.count; or a negative code with out.a, out.b
 */
export function walk(desc: Int32Array, word: number, size: number, head: number, write: number, out: Segments): number {
  const { rows } = out;
  let i = head;
  let k = out.count;
  let total = 0;
  for (let ttl = size; ; ttl--) {
    if (i >= size) return bad(out, R_DESC_INDEX, i, size);
    if (ttl === 0) return bad(out, R_DESC_LOOP, head, size);
    if (k >= MAX_SEGMENTS) return bad(out, R_CHAIN_TOO_LONG, head, MAX_SEGMENTS);
    const w = word + (i << 2);
    const len = desc[w + 2]!;
    const flagsNext = desc[w + 3]!;
    const r = k * PIECE_WORDS;
    rows[r + PIECE_LO] = desc[w]!;
    rows[r + PIECE_HI] = desc[w + 1]!;
    rows[r + PIECE_LEN] = len;
    if (len <= 0) return bad(out, R_DESC_LENGTH, i, len);
    if ((flagsNext & (DESC_F_WRITE | DESC_F_INDIRECT)) !== write) {
      if ((flagsNext & DESC_F_INDIRECT) === 0) return bad(out, R_DESC_DIRECTION, i, flagsNext & 0xffff);
      // 2.7.5.3.1: it ends the chain. 2.7.5.3.2: normal ones may stand in front of it, and its WRITE flag says nothing.
      if ((flagsNext & DESC_F_NEXT) !== 0) return bad(out, R_INDIRECT, head, len);
      out.count = k;
      out.total += total;
      return INDIRECT;
    }
    total += len;
    k++;
    if ((flagsNext & DESC_F_NEXT) === 0) break;
    i = flagsNext >>> 16;
  }
  out.count = k;
  out.total += total;
  return OK;
}

/**
 * walk() of a chain that ends in this table, without what only tells why another one is wrong.
 * @param mask of the table, whose size is a power of two @returns false: it is not of that kind, or wrong, and nothing was appended
 */
export function walkPlain(desc: Int32Array, mask: number, head: number, write: number, out: Segments): boolean {
  const { rows } = out;
  const first = out.count * PIECE_WORDS;
  let r = first;
  let total = 0;
  let i = head;
  for (;;) {
    if (i > mask || r >= MAX_SEGMENTS * PIECE_WORDS) return false;
    const w = i << 2;
    const low = desc[w]!;
    const high = desc[w + 1]!;
    const len = desc[w + 2]!;
    const flagsNext = desc[w + 3]!;
    if ((flagsNext & (DESC_F_WRITE | DESC_F_INDIRECT)) !== write || len <= 0) return false;
    rows[r + PIECE_LO] = low;
    rows[r + PIECE_HI] = high;
    rows[r + PIECE_LEN] = len;
    r = (r + PIECE_WORDS) | 0;
    total += len;
    if ((flagsNext & DESC_F_NEXT) === 0) break;
    // Mostly its neighbour, and a CPU that foresees this branch loads it without the wait for this word.
    const next = flagsNext >>> 16;
    const beside = (i + 1) | 0;
    if (next === beside) i = beside;
    else i = next;
  }
  out.count += (r - first) / PIECE_WORDS;
  out.total += total;
  return true;
}

/**
 * Walk an indirect table of `bytes` bytes at `word` of `table`. Nested tables are refused (2.7.5.3.1).
 * @param maxBytes bytes of the table that are present at `word`
 */
export function walkIndirect(
  table: Int32Array,
  word: number,
  bytes: number,
  maxBytes: number,
  head: number,
  write: number,
  out: Segments,
): number {
  if (bytes <= 0 || (bytes & 15) !== 0 || bytes > maxBytes) return bad(out, R_INDIRECT, head, bytes);
  const rc = walk(table, word, bytes >>> 4, 0, write, out);
  if (rc === INDIRECT) return bad(out, R_INDIRECT, head, bytes);
  return rc;
}

/**
 * Append receive buffers of one descriptor each, whatever their addresses: from the `k`-th entry behind `next` on, until
 * there are `most`, or `out` holds `bytes`, or one is of another kind.
 * @param elems used elements: at the place of each buffer's entry goes what says that it was filled whole
 * @returns number of the first entry that was not taken
 */
export function gatherSingles(
  desc: Int32Array,
  avail: Uint16Array,
  mask: number,
  next: number,
  write: number,
  bytes: number,
  most: number,
  k: number,
  out: Segments,
  elems: Int32Array,
): number {
  const { rows } = out;
  const first = out.count;
  const end = most - k < MAX_SEGMENTS - first ? most : k + MAX_SEGMENTS - first;
  let r = first * PIECE_WORDS;
  let have = out.total;
  let i = k;
  while (i < end && have < bytes) {
    const slot = (next + i) & mask;
    const head = avail[2 + slot]!;
    // All words at once, whatever that descriptor is: less to be checked than one after the other.
    const w = (head & mask) << 2;
    const low = desc[w]!;
    const high = desc[w + 1]!;
    const len = desc[w + 2]!;
    const kind = desc[w + 3]! & SINGLE_KIND;
    if (((head & ~mask) | (kind ^ write)) !== 0 || len <= 0) break;
    rows[r + PIECE_LO] = low;
    rows[r + PIECE_HI] = high;
    rows[r + PIECE_LEN] = len;
    elems[slot << 1] = head;
    elems[(slot << 1) + 1] = len;
    r = (r + PIECE_WORDS) | 0;
    have += len;
    i = (i + 1) | 0;
  }
  out.count = first + i - k;
  out.total = have;
  return i;
}

function bad(out: Segments, code: number, a: number, b: number): number {
  out.a = a;
  out.b = b;
  return code;
}
