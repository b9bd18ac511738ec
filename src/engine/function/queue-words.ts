/**
 * Follows the modern function's one set of queue registers while the host's driver sets up its queues, and keeps what
 * each queue got. Only samples: the words are zeroed when no driver is at work on them and once both queues are captured.
 */
import { ld16, st16 } from "../../hw/mem.ts";
import { COMMON_Q_ENABLE, COMMON_Q_MSIX, COMMON_Q_SELECT, COMMON_Q_SIZE, NO_VECTOR } from "../../hw/virtio.layout.ts";
import { AddressWords, putWords } from "./address-words.ts";
import type { Attempt } from "./attempt.ts";
import { emptyQueue, judgeRing, QUEUE_WORDS, RING_APART, RING_BLOCK, ringFault } from "./capture.ts";
import { HalfSeen } from "./half.ts";
import type { FunctionStats, QueueCapture } from "./host-function.ts";

export class QueueWords {
  /** what is believed of queue 0 and 1; meaningful where `valid` */
  readonly queues: readonly [QueueCapture, QueueCapture] = [emptyQueue(), emptyQueue()];
  readonly valid = new Uint8Array(2);
  /** queue 0's vector was read after the host had gone on */
  readonly vectorSure = new Uint8Array(2);
  /** MSI-X Enable when the queue was captured: an attempt of the host has one interrupt policy for all queues */
  readonly msixAt = new Uint8Array(2);
  /** queue_enable was seen set since the last clear (the burst that ends a set-up) */
  enableSeen = false;
  /** queue whose words are, or were when zeroed, the current ones; -1 none */
  private owner = -1;
  /** both queues captured and the words zeroed: a word that is not 0 is a new attempt */
  private parked = false;
  /** 1 while a single ring is set up again (VIRTIO 1.2 2.6.1) */
  private oneRing = 0;
  private seq = 0;
  private readonly seqOf = new Int32Array(2);
  private readonly words: AddressWords;
  private lastSize = 0;
  private lastVector = NO_VECTOR;
  /** queue 0 was captured and queue_select seen at 1 after that */
  private wentOn = false;
  /** separate areas, waiting for proof that the driver has finished them */
  private readonly apart = new Int32Array(QUEUE_WORDS);
  private apartOf = -1;
  private apartSize = 0;
  /** queue 0's table and available ring, seen while its used ring was not written yet */
  private readonly half: HalfSeen;
  /** last words seen under each queue_select, for the text of a refusal */
  private readonly raw = [new Int32Array(QUEUE_WORDS), new Int32Array(QUEUE_WORDS)];
  private readonly rawSize = new Int32Array(2);

  /** @param common CPU address of the common config */
  constructor(
    private readonly common: number,
    private readonly maxSize: number,
    private readonly stats: FunctionStats,
    private readonly attempt: Attempt,
  ) {
    this.words = new AddressWords(common);
    this.half = new HalfSeen(maxSize);
  }

  /** Forget everything; the words in memory stay. */
  private forget(): void {
    this.valid.fill(0);
    this.vectorSure.fill(0);
    this.enableSeen = false;
    this.owner = -1;
    this.parked = false;
    this.oneRing = 0;
    this.wentOn = false;
    this.apartOf = -1;
    this.half.size = 0;
    this.lastSize = 0;
    this.lastVector = ld16(this.common + COMMON_Q_MSIX);
    for (let k = 0; k < 2; k++) {
      this.raw[k]!.fill(0);
      this.rawSize[k] = 0;
    }
  }

  /** No driver has written a queue's address since they were zeroed. */
  areZero(): boolean {
    return this.words.areZero();
  }

  /** No driver is at work on the queues: start from nothing. */
  reset(): void {
    this.attempt.reset();
    this.forget();
    this.words.trust();
    this.words.zero();
    st16(this.common + COMMON_Q_ENABLE, 0);
    st16(this.common + COMMON_Q_SIZE, this.maxSize);
    st16(this.common + COMMON_Q_SELECT, 0);
  }

  /** A new life was noticed when its driver may already be writing: what is there now is not believed. */
  resetLate(): void {
    this.forget();
    this.words.distrust();
    this.words.keepDistrusted();
    this.attempt.resetLate();
  }

  /** A driver has come and is not at its queues yet: its first attempt begins behind this mark. */
  expect(): void {
    if (this.attempt.same) return;
    this.attempt.mark();
    if (this.areZero()) this.attempt.come();
    else this.doubt();
  }

  /** What is there was not seen to come behind the mark: believed when it changes, or when the first vector is there. */
  private doubt(): void {
    this.attempt.doubtful = true;
    this.words.distrust();
  }

  /**
   * An attempt of the driver has begun or ended since the mark: what was captured is of an earlier one.
   * @returns false when there is nothing in the words to look at
   */
  private renew(): boolean {
    const { attempt } = this;
    if ((this.valid[0]! | this.valid[1]!) !== 0) this.stats.restarts++;
    this.forget();
    this.words.trust();
    this.words.forgetLast();
    const vectors = attempt.repeatable;
    if (attempt.configVector !== NO_VECTOR) {
      if (this.areZero()) {
        if (vectors) attempt.lock();
        return false;
      }
      attempt.mark();
    } else {
      // between two attempts, or behind the last one with vectors
      attempt.unlock();
      attempt.mark();
      if (this.areZero()) return false;
    }
    if (vectors) this.doubt();
    else {
      // it went on with INTx, and no vector will tell whose the words are
      attempt.unlock();
      this.words.zero();
    }
    return vectors;
  }

  /** The driver tears its queues down to try once more with other interrupts. */
  private restart(): void {
    this.stats.restarts++;
    this.forget();
    this.words.trust();
    this.words.zero();
  }

  /** One ring is set up again while the other goes on. */
  reopen(queue: number): void {
    this.oneRing = 1;
    this.valid[queue] = 0;
    this.vectorSure[queue] = 1;
    this.enableSeen = false;
    this.parked = false;
    this.owner = -1;
    this.words.zero();
    st16(this.common + COMMON_Q_SIZE, this.maxSize);
  }

  /**
   * Look once. Order of the loads matters: a vector read before words that are queue k's was not written for a later
   * queue, and a queue_select read first names a queue the host had at least begun.
   * @returns 0, or -1 when the host wrote meanwhile (sample again)
   */
  sample(): number {
    const c = this.common;
    const { words } = this;
    const select = ld16(c + COMMON_Q_SELECT);
    if (this.oneRing === 0 && !this.attempt.same && !this.renew()) return 0;
    if (ld16(c + COMMON_Q_ENABLE) !== 0) {
      // Linux insists on reading 0 here when it sets the queue up again
      st16(c + COMMON_Q_ENABLE, 0);
      this.enableSeen = true;
    }
    const size = ld16(c + COMMON_Q_SIZE);
    const vector = ld16(c + COMMON_Q_MSIX);
    let changed = words.load() || size !== this.lastSize;
    if (changed && !words.isSteady()) return -1;
    if (ld16(c + COMMON_Q_SELECT) !== select) return -1;

    if (vector !== this.lastVector) {
      const was = this.lastVector;
      this.lastVector = vector;
      if (vector === NO_VECTOR && was !== NO_VECTOR) {
        // only a teardown takes a vector away
        this.restart();
        return 0;
      }
    }
    if (this.attempt.settles(vector)) {
      words.trust();
      changed = true;
    }
    if (!changed && this.apartOf >= 0 && select !== this.apartOf) this.takeApart();
    if (select === 1 && this.valid[0] === 1) this.wentOn = true;
    else if (select === 0 && this.wentOn && this.valid[1] === 0 && !this.enableSeen) {
      // back at the first queue before the second was seen
      this.restart();
      return 0;
    }
    if (changed) {
      this.lastSize = size;
      this.moved(select, size);
    }
    // the driver is past queue 0's words: whatever they are, DRIVER_OK is where they are judged
    if (vector !== NO_VECTOR && this.owner < 0 && !this.parked) this.attempt.unlock();
    // the driver has gone on and left it so: not a half that was missed
    if (select === 1 && this.half.isOf(words.now)) this.half.size = 0;
    if (this.owner >= 0) {
      this.queues[this.owner]!.vector = vector;
      if (select !== this.owner) this.vectorSure[this.owner] = 1;
    }
    return 0;
  }

  /** The six words or the size are not what they were. */
  private moved(select: number, size: number): void {
    const { words, half } = this;
    const { now } = words;
    const usedUntouched = words.isUsedUntouched;
    const same = words.keep();
    if (same && this.apartOf >= 0 && select !== this.apartOf) {
      this.takeApart();
      return;
    }
    this.apartOf = -1;
    if (words.isNothing) {
      if (!this.parked) this.owner = -1;
      return;
    }
    if (words.isStale) return;
    if (this.parked && this.owner >= 0 && words.isTailOf(this.queues[this.owner]!)) {
      this.words.zero();
      return;
    }
    if (this.parked) {
      // both were captured, so the host has begun again without a sign; what it did to queue 0 may be lost
      this.stats.restarts++;
      this.forget();
    }
    this.owner =
      this.valid[0] === 1 && words.isOf(this.queues[0])
        ? 0
        : this.valid[1] === 1 && words.isOf(this.queues[1])
          ? 1
          : -1;
    if (this.owner >= 0 || select > 1) return;
    this.raw[select]!.set(now);
    this.rawSize[select] = size;
    // after the enable burst only the last queue's words are left under every select
    if (this.enableSeen && this.valid[select] === 1) return;
    const verdict = judgeRing(now, size, this.maxSize);
    const rest = select === 1 && this.valid[0] === 0 && half.size === size && half.isOf(now);
    if (!usedUntouched && half.isOf(now)) this.half.size = 0;
    if (verdict === RING_BLOCK) this.take(rest ? 0 : select, now, size);
    else if (verdict === RING_APART) {
      this.apart.set(now);
      this.apartOf = select;
      this.apartSize = size;
    } else if (select === 0 && usedUntouched) half.look(now, size);
  }

  private take(k: number, w: Int32Array, size: number): void {
    const other = 1 - k;
    // Queues are set up in the order 0, 1 (every driver looked at does). What queue 1 has before queue 0 comes was
    // queue 0's, or is of an earlier attempt; queue 1 a second time without queue 0 in between is a new attempt.
    if (this.oneRing === 0) {
      if (k === 0) this.valid[1] = 0;
      else if (this.valid[1] === 1 && this.seqOf[0]! < this.seqOf[1]!) this.valid[0] = 0;
    }
    this.put(k, w, size);
    if (this.valid[other] === 1) {
      this.parked = true;
      this.words.zero();
    }
  }

  private put(k: number, w: Int32Array, size: number): void {
    const q = this.queues[k]!;
    putWords(q, w, size);
    q.vector = NO_VECTOR;
    this.valid[k] = 1;
    this.vectorSure[k] = 0;
    this.msixAt[k] = this.attempt.repeatable ? 1 : 0;
    if (k === 0) {
      this.half.size = 0;
      this.attempt.unlock();
    }
    this.seqOf[k] = ++this.seq;
    this.owner = k;
  }

  private takeApart(): void {
    const k = this.apartOf;
    this.apartOf = -1;
    this.take(k, this.apart, this.apartSize);
  }

  /**
   * The host's last write is behind us: whatever is in the words is final. Take what was waiting for that, and
   * rebuild queue 0's used ring when only it was missed and queue 1 shows how this driver lays out a ring.
   */
  settle(): void {
    if (this.apartOf >= 0) this.takeApart();
    const last = this.queues[1]!;
    if (this.valid[0] === 1 || this.valid[1] === 0 || !this.half.complete(last)) return;
    const owner = this.owner;
    this.put(0, this.half.words, last.size);
    this.owner = owner;
    // its vector was missed as well; the layout is Linux's, so are its two policies (judgeVectors)
    this.queues[0]!.vector = last.vector === 1 || last.vector === 2 ? 1 : NO_VECTOR;
    this.stats.recovered++;
  }

  /** Why queue k has no usable capture. */
  fault(k: number): string {
    const q = `queue ${k} (${k === 0 ? "receive" : "transmit"})`;
    if (this.raw[k]!.every((w) => w === 0)) return `${q} was never seen being set up`;
    return `${q}: ${ringFault(this.raw[k]!, this.rawSize[k]!, this.maxSize)}`;
  }
}
