/**
 * A queue 0 of which table and available ring were seen, and then nothing before queue 1's words: its used ring is where
 * queue 1's layout says, because one driver lays out all its rings alike.
 */
import {
  address,
  isHalfSeen,
  judgeRing,
  QUEUE_WORDS,
  RING_BLOCK,
  W_AVAIL_HI,
  W_AVAIL_LO,
  W_DESC_HI,
  W_DESC_LO,
  W_USED_HI,
  W_USED_LO,
} from "./capture.ts";
import type { QueueCapture } from "./host-function.ts";

const TWO32 = 4294967296;

export class HalfSeen {
  readonly words = new Int32Array(QUEUE_WORDS);
  /** queue size it was seen with, 0 = nothing was seen */
  size = 0;

  constructor(private readonly maxSize: number) {}

  /** Keep `now` when it is the half of a ring; its used words have not been touched yet. */
  look(now: Int32Array, size: number): void {
    if (!isHalfSeen(now, size, this.maxSize)) return;
    this.words.set(now);
    this.size = size;
  }

  /** The table in `now` is the one of which a half was seen. */
  isOf(now: Int32Array): boolean {
    const { words } = this;
    return this.size !== 0 && words[W_DESC_LO] === now[W_DESC_LO] && words[W_DESC_HI] === now[W_DESC_HI];
  }

  /** Put the used ring where `last`, a whole queue, has it. @returns whether that makes a ring block of the same shape */
  complete(last: QueueCapture): boolean {
    const h = this.words;
    const gap = address(last.usedLo, last.usedHi) - address(last.availLo, last.availHi);
    const used = address(h[W_AVAIL_LO]!, h[W_AVAIL_HI]!) + gap;
    const hi = Math.floor(used / TWO32);
    h[W_USED_LO] = (used - hi * TWO32) | 0;
    h[W_USED_HI] = hi | 0;
    // a different distance from the page start would give a different gap: only a block at the same offset counts
    return (
      this.size === last.size &&
      (h[W_DESC_LO]! & 4095) === (last.descLo & 4095) &&
      judgeRing(h, last.size, this.maxSize) === RING_BLOCK &&
      address(last.availLo, last.availHi) === address(last.descLo, last.descHi) + 16 * last.size
    );
  }
}
