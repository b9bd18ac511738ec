/**
 * The six address words of the common config's one set of queue registers, which the host writes first to last and uses
 * again for the next queue: sampled whole, compared, zeroed. Whose they are is decided in queue-words.ts.
 */
import { ld32, st32, wmb } from "../../hw/mem.ts";
import { COMMON_Q_DESCLO } from "../../hw/virtio.layout.ts";
import { QUEUE_WORDS, W_AVAIL_HI, W_AVAIL_LO, W_DESC_HI, W_DESC_LO, W_USED_HI, W_USED_LO } from "./capture.ts";
import type { QueueCapture } from "./host-function.ts";

export class AddressWords {
  /** the sample under way, and the last one that was looked into */
  readonly now = new Int32Array(QUEUE_WORDS);
  private readonly last = new Int32Array(QUEUE_WORDS);
  /** words of which nobody knows whose they are */
  private readonly stale = new Int32Array(QUEUE_WORDS);
  private readonly at: number;

  /** @param common CPU address of the common config */
  constructor(common: number) {
    this.at = common + COMMON_Q_DESCLO;
  }

  /**
   * Zero the words, last one first. The host writes them first to last, so whatever it writes meanwhile, an address
   * whose low half survives is whole; a half-zeroed set is never a ring block (capture.ts).
   */
  zero(): void {
    for (let i = QUEUE_WORDS - 1; i >= 0; i--) st32(this.at + 4 * i, 0);
    wmb();
    this.last.fill(0);
  }

  /** No driver has written a queue's address since they were zeroed. */
  areZero(): boolean {
    for (let i = 0; i < QUEUE_WORDS; i++) if (ld32(this.at + 4 * i) !== 0) return false;
    return true;
  }

  /** Fill `now`. @returns whether it differs from the last sample that was looked into */
  load(): boolean {
    const { now, last } = this;
    let changed = false;
    for (let i = 0; i < QUEUE_WORDS; i++) {
      const w = ld32(this.at + 4 * i) | 0;
      now[i] = w;
      if (w !== last[i]) changed = true;
    }
    return changed;
  }

  /** Read twice alike, and only then were the words like `now` at one moment, the one between the readings. */
  isSteady(): boolean {
    for (let i = 0; i < QUEUE_WORDS; i++) if ((ld32(this.at + 4 * i) | 0) !== this.now[i]) return false;
    return true;
  }

  /** The used ring's address is as it was in the last sample. */
  get isUsedUntouched(): boolean {
    return this.now[W_USED_LO] === this.last[W_USED_LO] && this.now[W_USED_HI] === this.last[W_USED_HI];
  }

  /** `now` has been looked into. @returns whether it is what the last sample was */
  keep(): boolean {
    const { now, last } = this;
    let same = true;
    for (let i = 0; i < QUEUE_WORDS; i++) if (now[i] !== last[i]) same = false;
    last.set(now);
    return same;
  }

  /** Look into the next sample whatever it is. */
  forgetLast(): void {
    this.last.fill(0);
  }

  /** What is in the words at this moment is not believed before it changes. */
  distrust(): void {
    for (let i = 0; i < QUEUE_WORDS; i++) this.stale[i] = ld32(this.at + 4 * i) | 0;
  }

  /** The words that are distrusted are the last sample. */
  keepDistrusted(): void {
    this.last.set(this.stale);
  }

  trust(): void {
    this.stale.fill(0);
  }

  get isStale(): boolean {
    for (let i = 0; i < QUEUE_WORDS; i++) if (this.now[i] !== this.stale[i]) return false;
    return true;
  }

  get isNothing(): boolean {
    for (let i = 0; i < QUEUE_WORDS; i++) if (this.now[i] !== 0) return false;
    return true;
  }

  isOf(q: QueueCapture): boolean {
    const { now } = this;
    return (
      q.descLo === now[W_DESC_LO] &&
      q.descHi === now[W_DESC_HI] &&
      q.availLo === now[W_AVAIL_LO] &&
      q.availHi === now[W_AVAIL_HI] &&
      q.usedLo === now[W_USED_LO] &&
      q.usedHi === now[W_USED_HI]
    );
  }

  /**
   * Nothing but the last word that is written for `q`: above 4 GiB its set may have been whole before, with the high word
   * that the other queue had left behind. A new attempt never begins with this word.
   */
  isTailOf(q: QueueCapture): boolean {
    for (let i = 0; i < W_USED_HI; i++) if (this.now[i] !== 0) return false;
    return this.now[W_USED_HI] === q.usedHi;
  }
}

/** Put a set of words into `q`; the vector is not among them. */
export function putWords(q: QueueCapture, w: Int32Array, size: number): void {
  q.size = size;
  q.descLo = w[W_DESC_LO]!;
  q.descHi = w[W_DESC_HI]!;
  q.availLo = w[W_AVAIL_LO]!;
  q.availHi = w[W_AVAIL_HI]!;
  q.usedLo = w[W_USED_LO]!;
  q.usedHi = w[W_USED_HI]!;
}
