/**
 * Rules that both personalities use to judge what was sampled: is this a ring, do two rings overlap, which vectors are
 * believable. Pure functions on int32 words; text only for refusals. Why each rule exists: docs/function.md.
 */
import { availBytes, DESC_SIZE, LEGACY_PAGE, NO_VECTOR, usedBytes } from "../../hw/virtio.layout.ts";
import type { QueueCapture } from "./host-function.ts";

/** Words of one queue's addresses in the order in which every known driver writes them. */
export const W_DESC_LO = 0;
export const W_DESC_HI = 1;
export const W_AVAIL_LO = 2;
export const W_AVAIL_HI = 3;
export const W_USED_LO = 4;
export const W_USED_HI = 5;
export const QUEUE_WORDS = 6;

/** one block as Linux and most others allocate it: available ring right behind the table, used ring at an alignment */
export const RING_BLOCK = 0;
/** three sound areas that are not one block: trusted only once the driver has provably gone on */
export const RING_APART = 1;
export const RING_ABSENT = -1;
export const RING_SIZE = -2;
export const RING_FAR = -3;
export const RING_ALIGN = -4;
export const RING_OVERLAP = -5;

const TWO32 = 4294967296;
/** addresses at and above 2^53 cannot be held in a Number, and no host has memory there */
const FAR_HI = 1 << 21;

/** Unsigned value of two int32 words; exact below 2^53. */
export const address = (lo: number, hi: number): number => (hi >>> 0) * TWO32 + (lo >>> 0);

const isPowerOfTwo = (n: number): boolean => n > 0 && (n & (n - 1)) === 0;
const roundUp = (a: number, align: number): number => Math.ceil(a / align) * align;

/**
 * Where a used ring may start behind an available ring that ends at `end` so that the three are one block. Linux:
 * cache line (32 to 256 by architecture) in modern, 4096 in legacy; Windows and EDK2 4096 in both.
 */
function isBlockUsed(end: number, used: number): boolean {
  return (
    used === roundUp(end, 64) ||
    used === roundUp(end, 4096) ||
    used === roundUp(end, 128) ||
    used === roundUp(end, 256) ||
    used === roundUp(end, 32) ||
    used === roundUp(end, 4)
  );
}

const overlap = (a: number, an: number, b: number, bn: number): boolean => a < b + bn && b < a + an;

/**
 * Judge six address words with the size that was sampled before them (VIRTIO 1.2 2.7: 16/2/4-byte alignment, size a
 * power of two). A torn sample of two queues cannot be RING_BLOCK: the words are written in order, so a mix has a
 * table that does not fit its rings.
 * @returns RING_BLOCK, RING_APART or a negative RING_* code
 */
export function judgeRing(w: Int32Array, size: number, maxSize: number): number {
  if (
    (w[W_DESC_LO]! | w[W_DESC_HI]!) === 0 ||
    (w[W_AVAIL_LO]! | w[W_AVAIL_HI]!) === 0 ||
    (w[W_USED_LO]! | w[W_USED_HI]!) === 0
  )
    return RING_ABSENT;
  if (!isPowerOfTwo(size) || size > maxSize) return RING_SIZE;
  if (w[W_DESC_HI]! >>> 0 >= FAR_HI || w[W_AVAIL_HI]! >>> 0 >= FAR_HI || w[W_USED_HI]! >>> 0 >= FAR_HI) return RING_FAR;
  if ((w[W_DESC_LO]! & 15) !== 0 || (w[W_AVAIL_LO]! & 1) !== 0 || (w[W_USED_LO]! & 3) !== 0) return RING_ALIGN;
  const desc = address(w[W_DESC_LO]!, w[W_DESC_HI]!);
  const avail = address(w[W_AVAIL_LO]!, w[W_AVAIL_HI]!);
  const used = address(w[W_USED_LO]!, w[W_USED_HI]!);
  const tableBytes = DESC_SIZE * size;
  if (avail === desc + tableBytes && isBlockUsed(avail + availBytes(size), used)) return RING_BLOCK;
  if (
    overlap(desc, tableBytes, avail, availBytes(size)) ||
    overlap(desc, tableBytes, used, usedBytes(size)) ||
    overlap(avail, availBytes(size), used, usedBytes(size))
  )
    return RING_OVERLAP;
  // zeroing the words from the last to the first can leave a low word 0 next to a live high word, never the reverse
  if (w[W_DESC_LO]! === 0 || w[W_AVAIL_LO]! === 0 || w[W_USED_LO]! === 0) return RING_ABSENT;
  return RING_APART;
}

/**
 * Descriptor table and available ring already fit each other, so both words of the table's address have been written;
 * the used ring has not been seen.
 */
export function isHalfSeen(w: Int32Array, size: number, maxSize: number): boolean {
  if ((w[W_DESC_LO]! | w[W_DESC_HI]!) === 0 || !isPowerOfTwo(size) || size > maxSize) return false;
  if (w[W_DESC_HI]! >>> 0 >= FAR_HI || w[W_AVAIL_HI]! >>> 0 >= FAR_HI) return false;
  const desc = address(w[W_DESC_LO]!, w[W_DESC_HI]!);
  return (w[W_DESC_LO]! & 15) === 0 && address(w[W_AVAIL_LO]!, w[W_AVAIL_HI]!) === desc + DESC_SIZE * size;
}

/** Both queues are at hand: do any of their six areas share bytes? */
export function queuesOverlap(a: QueueCapture, b: QueueCapture): boolean {
  return (
    areaHits(a.descLo, a.descHi, DESC_SIZE * a.size, b) ||
    areaHits(a.availLo, a.availHi, availBytes(a.size), b) ||
    areaHits(a.usedLo, a.usedHi, usedBytes(a.size), b)
  );
}

function areaHits(lo: number, hi: number, bytes: number, q: QueueCapture): boolean {
  const at = address(lo, hi);
  return (
    overlap(at, bytes, address(q.descLo, q.descHi), DESC_SIZE * q.size) ||
    overlap(at, bytes, address(q.availLo, q.availHi), availBytes(q.size)) ||
    overlap(at, bytes, address(q.usedLo, q.usedHi), usedBytes(q.size))
  );
}

/**
 * Are the vectors of both queues believable? `sure` says that queue 0's value was read after the host had gone on to
 * queue 1, so it cannot have been older than the host's write. Otherwise only Linux's two MSI-X policies are taken:
 * a vector each (1, 2) or one for both (1, 1); config is vector 0.
 * @returns "" or the broken rule
 */
export function judgeVectors(v0: number, v1: number, sure: boolean, vectors: number): string {
  if (v0 !== NO_VECTOR && v0 >= vectors) return `queue 0: vector ${v0}, the table has ${vectors}`;
  if (v1 !== NO_VECTOR && v1 >= vectors) return `queue 1: vector ${v1}, the table has ${vectors}`;
  if (sure || (v0 === 1 && (v1 === 1 || v1 === 2))) return "";
  return `queue 0: the vector was sampled too early (${vec(v0)} with queue 1 at ${vec(v1)})`;
}

const vec = (v: number): string => (v === NO_VECTOR ? "none" : String(v));

/** "0x3f0010000" of two int32 words. */
export function hex64(lo: number, hi: number): string {
  const low = (lo >>> 0).toString(16);
  return hi === 0 ? `0x${low}` : `0x${(hi >>> 0).toString(16)}${low.padStart(8, "0")}`;
}

/** Why these six words are no ring, for a person. */
export function ringFault(w: Int32Array, size: number, maxSize: number): string {
  const desc = hex64(w[W_DESC_LO]!, w[W_DESC_HI]!);
  const avail = hex64(w[W_AVAIL_LO]!, w[W_AVAIL_HI]!);
  const used = hex64(w[W_USED_LO]!, w[W_USED_HI]!);
  const all = `descriptors ${desc}, available ring ${avail}, used ring ${used}`;
  switch (judgeRing(w, size, maxSize)) {
    case RING_SIZE:
      return size > maxSize
        ? `queue size ${size} is larger than the ${maxSize} offered`
        : `queue size ${size} is not a power of two`;
    case RING_FAR:
      return `${all}: an address is 2^53 or more`;
    case RING_ALIGN:
      return `${all}: they must be aligned to 16, 2 and 4 bytes`;
    case RING_OVERLAP:
      return `${all} overlap at queue size ${size}`;
    case RING_ABSENT:
      return `${all}: an address is 0`;
    case RING_APART:
      return `${all} form no block, and the driver was not seen to have finished them`;
    default:
      return `${all} were not seen while queue_select named this queue`;
  }
}

/** Put the ring of a legacy page number into `q`: VIRTIO 1.2 2.7.2, used ring on the next page. */
export function legacyRing(q: QueueCapture, pfn: number, size: number, vector: number): void {
  const desc = pfn * LEGACY_PAGE;
  const avail = desc + DESC_SIZE * size;
  const used = roundUp(avail + availBytes(size), LEGACY_PAGE);
  q.size = size;
  q.descHi = Math.floor(desc / TWO32) | 0;
  q.descLo = (desc % TWO32) | 0;
  q.availHi = Math.floor(avail / TWO32) | 0;
  q.availLo = (avail % TWO32) | 0;
  q.usedHi = Math.floor(used / TWO32) | 0;
  q.usedLo = (used % TWO32) | 0;
  q.vector = vector;
}

export function emptyQueue(): QueueCapture {
  return { size: 0, descLo: 0, descHi: 0, availLo: 0, availHi: 0, usedLo: 0, usedHi: 0, vector: NO_VECTOR };
}
