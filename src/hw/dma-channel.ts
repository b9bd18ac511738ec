/**
 * One DMA channel as the engine uses it: an endless list of elements, appended while the channel runs. Implemented
 * for eDMA v0 by edma-channel.ts; HDMA native gets its own implementation with the same interface.
 *
 * Counts are free-running int32 numbers (they wrap through negative); compare by difference `(a - b) | 0`.
 */
export interface DmaChannel {
  /** true: board memory -> host (posted writes); false: host -> board memory */
  readonly isWrite: boolean;
  readonly index: number;
  /** most elements that may be outstanding */
  readonly capacity: number;
  /** elements put so far */
  putCount: number;
  /** elements whose data has landed, as of the last progress() */
  doneCount: number;
  /** elements that may be put now */
  room(): number;
  /**
   * Append one element of `size` bytes (1 .. 2^31-1). Addresses are int32 words. Not visible to the engine before
   * commit(). The caller has checked room().
   */
  put(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): void;
  /** put() and commit() of one element. */
  send(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): void;
  /**
   * put() for every stretch in which neither side changes its piece (rows as in pieces.ts). `bytes`, above 0, must not exceed
   * what either side has, and there must be room for an element of each piece. @returns elements put
   */
  putPieces(src: Int32Array, dst: Int32Array, bytes: number): number;
  /**
   * Only where several channels are one: what is put after spread() needs no order among itself, what is put after
   * gather() reaches the host after everything before it. Both end with commit().
   */
  spread?(): void;
  gather?(): void;
  /**
   * Only where a channel can do without a list. Prepare one transfer that fire() begins with nothing but a doorbell; the next
   * commit() undoes it. @returns false: the channel does not rest, or something is put and not committed
   */
  arm?(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): boolean;
  /** Begin it, as one element that was put and committed. Only while `armed`. */
  fire?(): void;
  /** a transfer is prepared */
  readonly armed?: boolean;
  /** a transfer without a list is under way: what is committed now begins when it is done */
  readonly alone?: boolean;
  /** at rest: arm() is possible, and a doorbell begins what is committed next */
  readonly rests?: boolean;
  /** Hand everything put since the last commit to the hardware (one fence), ring the doorbell when the channel rests. */
  commit(): void;
  /**
   * Read status and progress, re-ring a lost doorbell, update doneCount.
   * @returns 0, or a negative code: CH_ABORT when the channel halted on an error (see lastError, then recover()).
   */
  progress(): number;
  /** Status words of the last abort for the log: bits as in the error status registers. */
  lastError: number;
  /** lost doorbells re-rung so far */
  rerings: number;
  /**
   * Stop at once; outstanding elements are lost. The engine enable is one bit for a direction, so its other channels stop too: halt all of
   * them, then start() them, as nothing is known of what that does to their registers. @returns 0 or CH_STUCK: it does not come to rest
   */
  halt(): number;
  /** Begin with an empty list, behind halt(); counts are kept and become equal. */
  start(): void;
  /** Both, for a channel whose direction has no other one at work. @returns 0 or CH_STUCK */
  recover(): number;
  /** Mask interrupts, let outstanding elements finish or stop the channel; used by a clean stop. */
  quiesce(): number;
}

export const CH_ABORT = -1;
export const CH_STUCK = -2;
