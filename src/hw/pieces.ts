/**
 * The pieces that a frame lies in on one side, as rows of int32 words: bus address and length as in a descriptor, and
 * one word that is the engine's.
 */
import type { DmaChannel } from "./dma-channel.ts";

export const PIECE_WORDS = 4;
export const PIECE_LO = 0;
export const PIECE_HI = 1;
export const PIECE_LEN = 2;

/** DmaChannel.putPieces() by put() alone, for channels that are no list themselves. @returns elements put */
export function putEach(ch: Pick<DmaChannel, "put">, src: Int32Array, dst: Int32Array, bytes: number): number {
  let si = 0;
  let di = 0;
  let so = 0;
  let to = 0;
  let elements = 0;
  for (let left = bytes; left > 0; elements++) {
    const srcLeft = src[si + PIECE_LEN]! - so;
    const dstLeft = dst[di + PIECE_LEN]! - to;
    let n = srcLeft < dstLeft ? srcLeft : dstLeft;
    if (left < n) n = left;
    const from = (src[si + PIECE_LO]! + so) | 0;
    const into = (dst[di + PIECE_LO]! + to) | 0;
    ch.put(n, from, src[si + PIECE_HI]! + carry(from, so), into, dst[di + PIECE_HI]! + carry(into, to));
    left -= n;
    so += n;
    to += n;
    if (n === srcLeft) {
      si += PIECE_WORDS;
      so = 0;
    }
    if (n === dstLeft) {
      di += PIECE_WORDS;
      to = 0;
    }
  }
  return elements;
}

/** Into the high word, of a low word that came out as `sum` when `add` was added. */
function carry(sum: number, add: number): number {
  return sum >>> 0 < add >>> 0 ? 1 : 0;
}
