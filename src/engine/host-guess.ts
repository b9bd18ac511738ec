/**
 * Guesses: descriptors that the host's driver will likely use again are fetched beside the entries that name them, one round
 * trip sooner. While the ring rests and the driver tells its index, entry and guess are in the registers of both read channels
 * already, so that a lone frame's round is two doorbells.
 */
import type { SpareFetcher } from "./fetch.ts";
import { GUESS, HostDescs } from "./host-descs.ts";

/** small reads that keep the payload's channel running behind a guess: three list fetches long */
const KEEP = 3;
/** rounds without a guess after guesses went wrong */
const GUESS_PAUSE = 64;
/** entries that are prepared for: they are one double word where the ring's place is even */
const READY = 2;
/** steps for which the ring has to rest */
const REST_STEPS = 2;
/** least descriptors of a prepared guess: the one used last and the next, or a header and a piece */
const READY_DESCS = 2;
/** guesses in a row of which the first descriptor was right, after which no more are asked for */
const CERTAIN = 8;

export class HostGuess extends HostDescs {
  /** entries before it are in the mirror or were asked for */
  protected seen = 0;
  /** neighbouring descriptors that the last chain had */
  protected span = 1;
  /** the round under way has a guess; that goes through the spare channel, up to this mark */
  protected guessed = false;
  protected split = false;
  protected sideMark = 0;
  /** what the round under way asked for last */
  protected mark = 0;
  private guessPause = 0;
  /** rounds that were prepared, and begun with two doorbells (counter) */
  prepared = 0;

  /** steps since the last round in which the ring rested */
  private rest = 0;
  /** the index that was prepared for, -1: none; so many entries from there, and descriptors from readyLow on */
  private readyAt = -1;
  private readyFresh = 0;
  private readyLow = 0;
  private readyCount = 0;
  /** such guesses in a row */
  private firsts = 0;

  protected attachGuess(): void {
    this.span = 1;
    this.split = false;
    this.guessPause = 0;
    this.readyAt = -1;
    this.rest = 0;
    this.firsts = 0;
  }

  /** The guess of this round was wrong. */
  protected guessFailed(): void {
    // A wider one might have been right.
    if (this.firsts >= CERTAIN) this.firsts = 0;
    else this.guessPause = GUESS_PAUSE;
  }

  /** It was right, and the round's entries begin with `head`. */
  protected guessHeld(head: number): void {
    if (head !== this.lastUsed()) this.firsts = 0;
    else if (this.firsts < CERTAIN) this.firsts++;
  }

  /** A round of `fresh` entries begins on `via`, its entries are put. Put a guess beside them where one is likely right. */
  protected guess(fresh: number, busy: boolean): void {
    this.rest = 0;
    this.guessed = this.tuning.guess && fresh < GUESS && this.used !== 0 && --this.guessPause < 0;
    if (!this.guessed) return;
    const { spare } = this;
    const count = this.guessCount(GUESS);
    const low = this.guessLow(count);
    this.stampGuess(low, count);
    // Both resting, their list fetches pass at the same time.
    this.split =
      this.tuning.bothChannels && !busy && spare !== null && this.via !== spare && spare.idle() && spare.room() > 8;
    const via = this.split ? spare! : this.via;
    this.fetchAt(via, count * 16, this.descLo, this.descHi, low * 16, this.descOff + low * 16);
    if (!this.split) return;
    this.sideMark = via.commit();
    // The frame is put here once both are known. A running channel takes it up when the next of these is done; one that is
    // about to stop does not see it until it has stopped and was rung.
    for (let i = 0; i < KEEP; i++) this.putTail(via);
  }

  private guessCount(least: number): number {
    const count = this.span > least ? this.span : least;
    return count < this.size ? count : this.size;
  }

  /** Linux hands descriptors out last freed first, so a lone frame often has the head of the one before, or the next. */
  private guessLow(count: number): number {
    const last = this.lastUsed();
    return last + count <= this.size ? last : this.size - count;
  }

  private stampGuess(low: number, count: number): void {
    const { round, stamp } = this;
    for (let d = low; d < low + count; d++) stamp[d] = round;
  }

  // --- prepared ---

  /** The ring rests and the driver will tell: write what a lone frame's round needs to the channels' registers. */
  protected makeReady(): void {
    const { seen, size, spare, fetcher, tuning } = this;
    if (!tuning.single || !tuning.guess || !tuning.bothChannels || spare === null) return;
    // The guess begins at the used element behind which nothing is owed.
    if (this.used !== seen || this.used === 0 || this.guessPause > 0) return;
    if (this.readyAt === seen && fetcher.armed() && spare.armed()) return;
    // A dozen stores: not while frames follow each other, nor before the last one's driver was told.
    if (++this.rest < REST_STEPS) return;
    if (!fetcher.rests() || !spare.rests()) return;
    const slot = seen & this.mask;
    const fresh = (slot & 1) === 0 && slot + READY <= size ? READY : 1;
    const off = 4 + 2 * slot;
    if (!this.armAt(fetcher, 2 * fresh, this.availLo, this.availHi, off, off)) return;
    const count = this.guessCount(this.firsts < CERTAIN ? READY_DESCS : 1);
    const low = this.guessLow(count);
    if (!this.armAt(spare, count * 16, this.descLo, this.descHi, low * 16, this.descOff + low * 16)) return;
    this.readyAt = seen;
    this.readyFresh = fresh;
    this.readyLow = low;
    this.readyCount = count;
  }

  /** A round of `fresh` entries is the one that was prepared. */
  protected isReady(fresh: number, spare: SpareFetcher): boolean {
    return this.readyAt === this.seen && fresh <= this.readyFresh && this.fetcher.armed() && spare.armed();
  }

  /** It begins: entries over the fetcher, the guess over the spare channel. */
  protected fireReady(spare: SpareFetcher): void {
    this.readyAt = -1;
    this.rest = 0;
    this.stampGuess(this.readyLow, this.readyCount);
    this.via = this.fetcher;
    this.mark = this.via.fire();
    this.sideMark = spare.fire();
    this.guessed = this.split = true;
    this.prepared++;
  }
}
