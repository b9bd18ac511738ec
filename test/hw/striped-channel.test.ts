/** Two write channels as one: whatever the two lanes do, what was gathered reaches the host after everything before it. */
import { expect, test } from "bun:test";
import { CH_ABORT, CH_STUCK, type DmaChannel } from "../../src/hw/dma-channel.ts";
import { putEach } from "../../src/hw/pieces.ts";
import { StripedChannel } from "../../src/hw/striped-channel.ts";

/** A lane that does its elements in order, when the test says so, and tells which one it did. */
class Lane implements DmaChannel {
  readonly isWrite = true;
  readonly capacity = 200;
  putCount: number;
  doneCount: number;
  lastError = 0;
  rerings = 0;
  abort = false;
  private readonly put_: number[] = [];
  private committed = 0;
  private executed = 0;
  private shown = 0;
  constructor(
    readonly index: number,
    private readonly did: (id: number) => void,
    from: number,
  ) {
    this.putCount = this.doneCount = from;
  }
  room(): number {
    return this.capacity - ((this.putCount - this.doneCount) | 0);
  }
  put(size: number): void {
    if (this.room() < 1) throw new Error("put without room");
    this.putCount = (this.putCount + 1) | 0;
    this.put_.push(size);
  }
  send(size: number): void {
    this.put(size);
    this.commit();
  }
  putPieces(src: Int32Array, dst: Int32Array, bytes: number): number {
    return putEach(this, src, dst, bytes);
  }
  commit(): void {
    this.committed = this.put_.length;
  }
  /** The engine goes on by up to n elements. */
  run(n: number): void {
    for (; n > 0 && this.executed < this.committed; n--) this.did(this.put_[this.executed++]!);
  }
  progress(): number {
    if (this.abort) return CH_ABORT;
    this.doneCount = (this.doneCount + this.executed - this.shown) | 0;
    this.shown = this.executed;
    return 0;
  }
  halts = 0;
  /** what halt() says */
  rest = 0;
  /** both lanes of the direction */
  pair: Lane[] = [];
  halt(): number {
    this.halts++;
    return this.rest;
  }
  start(): void {
    for (const lane of this.pair) expect(lane.halts).toBeGreaterThan(0);
    this.put_.length = this.committed = this.executed = this.shown = 0;
    this.doneCount = this.putCount;
    this.abort = false;
  }
  recover(): number {
    throw new Error("one lane alone");
  }
  quiesce(): number {
    return 0;
  }
}

/** xorshift32 */
function random(seed: number): (below: number) => number {
  let x = (seed * 2654435761) | 1;
  return (below) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % below;
  };
}

function rig(from = 0) {
  const executed: number[] = [];
  const a = new Lane(0, (id) => executed.push(id), from);
  const b = new Lane(1, (id) => executed.push(id), from);
  const ch = new StripedChannel(a, b);
  a.pair = b.pair = [a, b];
  return { a, b, ch, executed };
}
/** An element whose size is its number, every third one by way of putPieces(). */
function put(ch: DmaChannel, id: number): void {
  if (id % 3 !== 1) {
    ch.put(id, 0, 0, 0, 0);
    return;
  }
  const piece = Int32Array.of(0, 0, id, 0);
  expect(ch.putPieces(piece, piece, id)).toBe(1);
}

/** Three elements from one piece into three. */
function putThree(ch: DmaChannel, id: number): void {
  const dst = Int32Array.of(0, 0, id, 0, 0, 0, id + 1, 0, 0, 0, id + 2, 0);
  expect(ch.putPieces(Int32Array.of(0, 0, 3 * id + 3, 0), dst, 3 * id + 3)).toBe(3);
}

test.each([1, 2, 3, 4, 5, 6, 7, 8])(
  "random bursts, lanes of random speed (seed %i): order, and a count that is never ahead",
  (seed) => {
    const r = random(seed);
    const { a, b, ch, executed } = rig(seed % 2 === 0 ? 0x7fffff00 : -300);
    const first = ch.putCount;
    /** of each element by its number: it must be behind everything put before it */
    const ordered: boolean[] = [];
    let onB = 0;
    const seen = new Uint8Array(200_000);
    let told = 0;
    let counted = 0;
    const next = (kind: boolean, count: number): void => {
      for (let n = count; n > 0; ) {
        const id = ordered.length;
        const three = n >= 3 && id > 0 && r(4) === 0;
        if (three) {
          putThree(ch, id);
          ordered.push(kind, kind, kind);
        } else {
          put(ch, id);
          ordered.push(kind);
        }
        n -= three ? 3 : 1;
      }
    };
    for (let turn = 0; turn < 3000; turn++) {
      if (ch.progress() !== 0) throw new Error("progress");
      const done = (ch.doneCount - first) | 0;
      while (told < executed.length) seen[executed[told++]!] = 1;
      for (; counted < done; counted++)
        if (seen[counted] !== 1) throw new Error(`element ${counted} counts as done and is not`);
      if (ch.room() > 60 && r(3) > 0) {
        ch.spread();
        next(false, r(40));
        if (r(2) === 0) {
          ch.gather();
          next(true, 1 + r(4));
        }
        ch.commit();
      }
      // somebody else's elements, which need no order with ours
      if (ch.room() > 60 && r(4) === 0) {
        next(false, 1);
        ch.commit();
      }
      onB = Math.max(onB, b.putCount - b.doneCount);
      a.run(r(30));
      b.run(r(30));
    }
    for (let i = 0; i < 50; i++) {
      a.run(1000);
      b.run(1000);
      ch.progress();
    }
    expect(ch.doneCount).toBe(ch.putCount);
    expect(executed.length).toBe(ordered.length);
    expect((ch.putCount - first) | 0).toBe(ordered.length);
    expect(onB).toBeGreaterThan(5);
    const place = new Int32Array(ordered.length);
    for (const [i, id] of executed.entries()) place[id] = i;
    let latest = -1;
    for (let id = 0; id < ordered.length; id++) {
      if (ordered[id] && place[id]! < latest) throw new Error(`element ${id} overtook one before it`);
      latest = Math.max(latest, place[id]!);
    }
  },
);

test("a lone burst stays on one lane and waits for nothing", () => {
  const { a, b, ch } = rig();
  for (let k = 0; k < 5; k++) {
    ch.spread();
    put(ch, 1);
    ch.gather();
    put(ch, 2);
    ch.commit();
    expect([a.putCount, b.putCount]).toEqual([2 * (k + 1), 0]);
    a.run(2);
    ch.progress();
    expect(ch.doneCount).toBe(2 * (k + 1));
  }
});

test("a burst on the second lane: its announcement is held until that lane is done", () => {
  const { a, b, ch, executed } = rig();
  ch.spread();
  for (let i = 0; i < 10; i++) put(ch, i);
  ch.commit();
  ch.spread();
  put(ch, 10);
  ch.gather();
  put(ch, 11);
  ch.commit();
  expect([a.putCount, b.putCount, ch.putCount]).toEqual([10, 1, 12]);
  a.run(100);
  ch.progress();
  expect([a.putCount, ch.doneCount]).toEqual([10, 10]);
  b.run(1);
  ch.progress();
  expect([a.putCount, ch.doneCount]).toEqual([11, 11]);
  a.run(1);
  ch.progress();
  expect(ch.doneCount).toBe(12);
  expect(executed.at(-1)).toBe(11);
});

test("an abort on either lane is told; recover() forgets what was held", () => {
  for (const which of ["a", "b"] as const) {
    const x = rig();
    x.ch.spread();
    for (let i = 0; i < 10; i++) put(x.ch, i);
    x.ch.commit();
    x.ch.spread();
    put(x.ch, 10);
    x.ch.gather();
    put(x.ch, 11);
    x.ch.commit();
    x[which].abort = true;
    x[which].lastError = 42;
    expect(x.ch.progress()).toBe(CH_ABORT);
    expect(x.ch.lastError).toBe(42);
    x[which].rest = CH_STUCK;
    expect([x.ch.recover(), x[which].abort]).toEqual([CH_STUCK, true]);
    x[which].rest = 0;
    expect(x.ch.recover()).toBe(0);
    expect(x.ch.doneCount).toBe(x.ch.putCount);
    put(x.ch, 12);
    x.ch.commit();
    x.a.run(1);
    x.ch.progress();
    expect(x.ch.doneCount).toBe(x.ch.putCount);
    expect(x.executed).toEqual([12]);
  }
});
