/**
 * The avail index of one of the host's virtqueues by notification (VIRTIO 1.2 2.9, NOTIFICATION_DATA): the driver writes
 * queue and index into the notify word, after the index is in its ring. Such a word is as good as the answer of a look
 * (host-looks.ts), comes half a round trip after the driver wrote it, and takes no read across the link.
 *
 * A notification costs the host a write across the link, so it is asked for only while the ring rests: after looks that
 * found nothing, and not while frames come in crowds. The wish is a hint that the driver reads after it wrote its index. So looks
 * become rare only when one that was begun behind the wish has found nothing: either it sees the index, or the driver
 * sees the wish. Words collapse, and one word serves both queues: an index in it is a lower bound, and looks go on.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import { HostLooks } from "./host-looks.ts";

/** Where the driver's notifications are to be seen: NotifyWord of the function. */
export interface NoticeWord {
  /** the word as it is: queue in the lower half, avail index in the upper one */
  read(): number;
  /** Make it a value that says nothing. */
  park(): void;
}

// what is agreed with the driver
/** it does not tell the index */
const DEAF = 0;
/** no notifications are wanted */
const BUSY = 1;
/** the wish is on its way */
const ASKED = 2;
/** it has landed; a look that is begun now proves that nothing came before it */
const PROVING = 3;
/** whatever comes is notified */
const HEARING = 4;

/** rounds in a row, begun while earlier chains were not given back, after which notifications are a waste */
const CROWD = 3;
/** rounds in a row that a look found in spite of HEARING, after which this driver is not believed to notify */
const SILENCE = 4;
/** upper half of a word that was written in two bytes, or not at all; as an index it is left to looks */
const NO_INDEX = 0xffff;
/** what park() leaves */
const PARKED = -1;

export class HostNotices extends HostLooks {
  /** words that brought a new index (counter) */
  notices = 0;
  private accord = DEAF;
  private word: NoticeWord | null = null;
  private wishes: DmaChannel | null = null;
  private queue = 0;
  /** the word as it was last */
  private last = PARKED;
  private wishMark = 0;
  private proof = 0;
  /** the round that begins was found by a word */
  private told = false;
  private crowd = 0;
  private silence = 0;

  /**
   * Behind attach(): from now on the driver may tell its index.
   * @param word null when it does not @param queue number of this queue in the word @param wishes where the wish goes
   */
  listen(word: NoticeWord | null, queue: number, wishes: DmaChannel): void {
    this.word = this.tuning.notices ? word : null;
    this.queue = queue;
    this.wishes = wishes;
    this.crowd = this.silence = 0;
    this.told = false;
    this.accord = this.word === null ? DEAF : BUSY;
    // What an earlier life or another ring wrote must not count.
    this.forget();
  }

  /** The driver tells its index when asked to. */
  get listening(): boolean {
    return this.accord !== DEAF;
  }

  /** Whatever the driver adds now, it notifies of: news shows in the word. */
  get hearing(): boolean {
    return this.accord === HEARING;
  }

  /** There is a word that was not dealt with. One load of board memory. */
  get called(): boolean {
    return this.word !== null && (this.word.read() | 0) !== this.last;
  }

  /** The ring is idle, no round is under way: one step towards HEARING, and take the index from the word. */
  protected hear(): void {
    const { accord } = this;
    if (accord === BUSY) {
      if (this.calmed && this.used === this.hostIdx) this.ask();
      return;
    }
    if (accord === ASKED) {
      if (((this.wishes!.doneCount - this.wishMark) | 0) >= 0) this.prove();
    } else if (accord === PROVING && this.looksAnswered > this.proof) {
      this.accord = HEARING;
      this.rare = true;
    }
    const word = this.word!.read() | 0;
    if (word !== this.last) this.take(word);
  }

  /** A round begins. @param lone everything before it was given back */
  protected roundBegins(lone: boolean): void {
    if (this.accord < ASKED) return;
    if (this.accord === HEARING && !this.told && ++this.silence >= SILENCE) {
      // Looks find everything, so no harm was done but delay.
      this.accord = DEAF;
      this.rare = false;
      return;
    }
    this.told = false;
    this.crowd = lone ? 0 : this.crowd + 1;
    // An event was heard, or missed, and is behind us; a flag has to be taken back.
    if (this.eventIdx) this.hush();
    else if (this.crowd >= CROWD && this.wishes!.room() >= 2) {
      this.putNotifyWish(this.wishes!, false, 0);
      this.wishes!.commit();
      this.hush();
    }
  }

  private hush(): void {
    this.accord = BUSY;
    this.crowd = 0;
    this.hasten();
  }

  private ask(): void {
    const wishes = this.wishes!;
    if (wishes.room() < 2) return;
    this.forget();
    this.putNotifyWish(wishes, true, this.hostIdx);
    wishes.commit();
    this.wishMark = wishes.putCount;
    this.accord = ASKED;
  }

  /** Nothing is known of what came before this moment. */
  private prove(): void {
    this.accord = PROVING;
    this.proof = this.fetches;
    this.hasten();
  }

  private take(word: number): void {
    this.last = word;
    const idx = word >>> 16;
    if ((word & 0xffff) !== this.queue || idx === NO_INDEX) {
      // It may have been written over one of ours.
      if (this.accord !== ASKED) this.prove();
      return;
    }
    this.silence = 0;
    const fresh = (idx - this.hostIdx) & 0xffff;
    // None, or older than what a look brought. What cannot be is not believed: a look will tell.
    if (fresh === 0 || fresh > this.size || ((idx - this.used) & 0xffff) > this.size) return;
    this.hostIdx = idx;
    this.told = true;
    this.notices++;
    this.newsCame();
  }

  private forget(): void {
    this.word?.park();
    this.last = PARKED;
  }

  protected override lookAgain(): void {
    super.lookAgain();
    if (this.accord >= PROVING) this.prove();
  }
}
