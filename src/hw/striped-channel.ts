/**
 * Two write channels as one. An engine fetches the list of one channel element by element, and a small element takes
 * less time on the link than the fetch of the next: with two lists, one is fetched while the other one sends.
 *
 * Posted writes of one channel stay in order, those of two do not. So what is put after spread() may go over either
 * lane, and what is put after gather() reaches the host after *all* that was put before it: it goes over lane A, and where
 * lane B still has some of that, it is held back here until B is done. commit() ends both; the rest goes over lane A.
 */
import type { DmaChannel } from "./dma-channel.ts";
import { putEach } from "./pieces.ts";

/** elements on lane A from which on lane B is used: a lone burst needs no second one, and is announced without waiting */
const BUSY = 8;
/** what can be held back, a power of two */
const HELD = 4096;
const WORDS = 8;
/** pieces of the common count that can be under way, a power of two above what lists and HELD can hold */
const RUNS = 16384;

const ON_A = 0;
const ON_B = 1;
const IS_HELD = 2;

export class StripedChannel implements DmaChannel {
  readonly isWrite: boolean;
  readonly index: number;
  readonly capacity: number;
  putCount = 0;
  doneCount = 0;
  lastError = 0;
  private readonly a: DmaChannel;
  private readonly b: DmaChannel;
  /** where put() goes while nothing is held back */
  private lane: DmaChannel;
  private holding = false;

  // Runs of the common count, oldest first: where each ends, on which lane, and that lane's count there.
  private readonly runEnd = new Int32Array(RUNS);
  private readonly runLane = new Uint8Array(RUNS);
  private readonly laneEnd = new Int32Array(RUNS);
  private runFirst = 0;
  private runLast = 0;
  /** common count behind the last run */
  private closed = 0;

  // Elements held back: the five words of put(), lane B's count that must be done first, the run that ends here or -1.
  private readonly held = new Int32Array(HELD * WORDS);
  private heldFirst = 0;
  private heldLast = 0;

  /** @param a,b channels of the same direction with nothing under way; nobody else puts anything on them */
  constructor(a: DmaChannel, b: DmaChannel) {
    this.a = a;
    this.b = b;
    this.lane = a;
    this.isWrite = a.isWrite;
    this.index = a.index;
    this.capacity = Math.min(a.capacity, HELD);
  }

  get rerings(): number {
    return this.a.rerings + this.b.rerings;
  }

  room(): number {
    const waiting = (this.heldLast - this.heldFirst) | 0;
    const onA = this.a.room() - waiting;
    const onLane = this.lane === this.b ? this.b.room() : onA;
    const least = onA < onLane ? onA : onLane;
    return least < HELD - waiting ? least : HELD - waiting;
  }

  /** What is put until gather() or commit() needs no order among itself: take the lane with less to do. */
  spread(): void {
    const { a, b } = this;
    this.close();
    this.holding = false;
    const onA = (a.putCount - a.doneCount) | 0;
    this.lane = onA >= BUSY && ((b.putCount - b.doneCount) | 0) < onA ? b : a;
  }

  /** What is put until commit() must reach the host after everything before it. */
  gather(): void {
    this.close();
    this.lane = this.a;
    this.holding = this.heldFirst !== this.heldLast || this.b.putCount !== this.b.doneCount;
  }

  put(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): void {
    this.putCount = (this.putCount + 1) | 0;
    if (!this.holding) {
      this.lane.put(size, sarLo, sarHi, darLo, darHi);
      return;
    }
    const { held } = this;
    const at = (this.heldLast & (HELD - 1)) * WORDS;
    held[at] = size;
    held[at + 1] = sarLo;
    held[at + 2] = sarHi;
    held[at + 3] = darLo;
    held[at + 4] = darHi;
    held[at + 5] = this.b.putCount;
    held[at + 6] = -1;
    this.heldLast = (this.heldLast + 1) | 0;
  }

  send(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): void {
    this.put(size, sarLo, sarHi, darLo, darHi);
    this.commit();
  }

  putPieces(src: Int32Array, dst: Int32Array, bytes: number): number {
    if (this.holding) return putEach(this, src, dst, bytes);
    const elements = this.lane.putPieces(src, dst, bytes);
    this.putCount = (this.putCount + elements) | 0;
    return elements;
  }

  commit(): void {
    this.close();
    this.lane = this.a;
    this.holding = false;
    this.a.commit();
    this.b.commit();
  }

  /** End the run of elements that were put since the last one. */
  private close(): void {
    const { putCount } = this;
    if (putCount === this.closed) return;
    this.closed = putCount;
    const kind = this.holding ? IS_HELD : this.lane === this.b ? ON_B : ON_A;
    const newest = (this.runLast - 1) & (RUNS - 1);
    if (kind !== IS_HELD && this.runFirst !== this.runLast && this.runLane[newest] === kind) {
      this.runEnd[newest] = putCount;
      this.laneEnd[newest] = this.lane.putCount;
      return;
    }
    const r = this.runLast & (RUNS - 1);
    this.runEnd[r] = putCount;
    this.runLane[r] = kind;
    this.laneEnd[r] = this.lane.putCount;
    this.runLast = (this.runLast + 1) | 0;
    if (kind === IS_HELD) this.held[((this.heldLast - 1) & (HELD - 1)) * WORDS + 6] = r;
  }

  /** Put what was held back and may go now. */
  private release(): void {
    const { a, b, held } = this;
    const first = this.heldFirst;
    while (this.heldFirst !== this.heldLast) {
      const at = (this.heldFirst & (HELD - 1)) * WORDS;
      if (((b.doneCount - held[at + 5]!) | 0) < 0) break;
      a.put(held[at]!, held[at + 1]!, held[at + 2]!, held[at + 3]!, held[at + 4]!);
      const r = held[at + 6]!;
      if (r >= 0) {
        this.runLane[r] = ON_A;
        this.laneEnd[r] = a.putCount;
      }
      this.heldFirst = (this.heldFirst + 1) | 0;
    }
    if (this.heldFirst !== first) a.commit();
  }

  progress(): number {
    const { a, b } = this;
    let rc = a.progress();
    if (rc < 0) return this.failed(a, rc);
    rc = b.progress();
    if (rc < 0) return this.failed(b, rc);
    this.close();
    if (this.heldFirst !== this.heldLast) this.release();
    while (this.runFirst !== this.runLast) {
      const r = this.runFirst & (RUNS - 1);
      const kind = this.runLane[r]!;
      if (kind === IS_HELD) break;
      const left = (this.laneEnd[r]! - (kind === ON_B ? b : a).doneCount) | 0;
      if (left > 0) {
        // Others may be among them on that lane: then this is less than is done, never more.
        const sure = (this.runEnd[r]! - left) | 0;
        if (((sure - this.doneCount) | 0) > 0) this.doneCount = sure;
        break;
      }
      this.doneCount = this.runEnd[r]!;
      this.runFirst = (this.runFirst + 1) | 0;
    }
    return 0;
  }

  private failed(lane: DmaChannel, rc: number): number {
    this.lastError = lane.lastError;
    return rc;
  }

  halt(): number {
    const rc = this.a.halt();
    const other = this.b.halt();
    return rc < 0 ? rc : other;
  }

  start(): void {
    this.a.start();
    this.b.start();
    this.lane = this.a;
    this.holding = false;
    this.heldFirst = this.heldLast;
    this.runFirst = this.runLast;
    this.closed = this.doneCount = this.putCount;
  }

  recover(): number {
    const rc = this.halt();
    if (rc === 0) this.start();
    return rc;
  }

  quiesce(): number {
    const rc = this.a.quiesce();
    const other = this.b.quiesce();
    return rc < 0 ? rc : other;
  }
}
