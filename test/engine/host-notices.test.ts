/** The avail index by notification: when it is asked for, which words count, and that nothing is lost when one is. */
import { afterEach, expect, test } from "bun:test";
import { R_AVAIL_BACK } from "../../src/engine/codes.ts";
import { NotifyWord } from "../../src/engine/function/notify.ts";
import { ld16, ld32, st16, st32 } from "../../src/hw/mem.ts";
import { USED_F_NO_NOTIFY } from "../../src/hw/virtio.layout.ts";
import { type MirrorRig, mirrorRig, releaseMirrors } from "../support/mirror-rig.ts";
import { type TestMemory, testMemory } from "../support/ring-memory.ts";

let memory: TestMemory[] = [];
afterEach(() => {
  releaseMirrors();
  for (const m of memory) m.release();
  memory = [];
});

const TX = 1;
const SIZE = 16;

class Rig {
  readonly x: MirrorRig;
  readonly at: number;
  readonly word: NotifyWord;
  idx = 0;

  constructor(
    readonly eventIdx: boolean,
    notices = true,
    seen = true,
  ) {
    this.x = mirrorRig({ size: SIZE, eventIdx, tuning: { notices } });
    const m = testMemory(4096, 0x7000_0000);
    memory.push(m);
    this.at = m.ptr;
    this.word = new NotifyWord(m.ptr);
    // what an earlier life left
    st32(this.at, (9 << 16) | TX);
    this.x.hq.listen(this.word, TX, this.x.ch);
    for (let i = 0; i < SIZE; i++) this.x.desc(i, 0x1000 * (i + 1), 64, 0);
    if (!seen) return;
    // Wishes are written only into a ring that has had an entry.
    this.add();
    while (this.serve() === 0) {
      this.x.run(2);
      this.x.ch.land();
    }
  }

  /** The driver writes its notify word: four bytes, or two as one without NOTIFICATION_DATA does. */
  notify(idx: number, queue = TX): void {
    st32(this.at, (idx << 16) | queue);
  }

  /** One more chain in the ring; its driver does not notify yet. */
  add(): void {
    this.x.offer(this.idx & (SIZE - 1));
    this.idx = (this.idx + 1) & 0xffff;
  }

  /** Steps with everything landing, until the driver is trusted to notify. */
  hearing(): void {
    for (let i = 0; i < 60 && !this.x.hq.hearing; i++) {
      this.x.run(2);
      this.x.ch.land();
    }
    expect(this.x.hq.hearing).toBe(true);
  }

  /** Give everything back that has come. @returns how many chains that were */
  serve(): number {
    const { hq } = this.x;
    const n = hq.available();
    for (let i = 0; i < n; i++) hq.pushUsed(hq.peek(i), 0);
    hq.consume(n);
    return n;
  }

  /** What the newest wish says: the word, and where in the used ring it goes. */
  wish(): { word: number; off: number } {
    const put = this.x.ch.puts.at(-1)!;
    return { word: ld16(this.x.board.cpu(put.sar)), off: put.dar - this.x.r.usedBus };
  }
}

const looks = (r: Rig): number => r.x.fetcher.asked.filter((c) => c.addr === r.x.r.availBus).length;

for (const eventIdx of [false, true]) {
  const kind = eventIdx ? "event index" : "flags";
  test(`${kind}: asked for when the ring has been at rest, and then the word brings the index`, () => {
    const r = new Rig(eventIdx);
    r.x.hq.step(true);
    expect(r.x.ch.puts.length).toBe(0);
    r.hearing();
    expect(r.x.ch.puts.length).toBe(1);
    expect(r.wish()).toEqual(eventIdx ? { word: r.idx, off: 4 + 8 * SIZE } : { word: 0, off: 0 });
    r.x.fetcher.land();
    const before = looks(r);
    r.add();
    r.notify(r.idx);
    r.x.hq.step(true);
    // The round begins in the same step. An event is heard once, so looks may go on beside it.
    expect(looks(r) - before).toBeLessThanOrEqual(eventIdx ? 1 : 0);
    expect(r.x.fetcher.flying.some((c) => c.addr === r.x.r.availBus + 4 + 2 * (r.idx - 1))).toBe(true);
    r.x.run(6);
    expect([r.serve(), r.x.hq.notices]).toEqual([1, 1]);
  });

  test(`${kind}: a thousand lone frames, each by its notification`, () => {
    const r = new Rig(eventIdx);
    for (let i = 0; i < 1000; i++) {
      r.hearing();
      r.add();
      r.notify(r.idx);
      r.x.run(4);
      expect(r.serve()).toBe(1);
      r.x.fetcher.forget();
    }
    // 0xffff cannot be told from a word of two bytes; the index came nowhere near
    expect(r.x.hq.notices).toBe(1000);
    expect(r.x.hq.listening).toBe(true);
    // flags stand until they are taken back, an event is heard once
    if (!eventIdx) expect(r.x.ch.puts.length).toBe(1);
  });

  test(`${kind}: what is added while the wish is on its way is found by a look`, () => {
    const r = new Rig(eventIdx);
    for (let i = 0; i < 60 && r.x.ch.puts.length === 0; i++) r.x.run(1);
    expect(r.x.ch.puts.length).toBe(1);
    // All looks under way were answered; the driver adds, looks at the old wish and does not notify.
    r.x.fetcher.land();
    r.add();
    r.x.ch.land();
    const before = looks(r);
    r.x.hq.step(true);
    expect([r.x.hq.hearing, looks(r) > before]).toEqual([false, true]);
    r.x.run(8);
    expect([r.serve(), r.x.hq.notices]).toEqual([1, 0]);
  });

  test(`${kind}: words that must not count`, () => {
    const r = new Rig(eventIdx);
    r.hearing();
    for (const [idx, queue] of [
      [0xffff, TX], // two bytes over a parked word
      [3, 0], // the other queue's
      [3, 7], // none of ours
      [SIZE + 2, TX], // further than the ring is long
      [0x8000, TX],
      [0xfffe, TX], // before what is known
    ] as const) {
      r.notify(idx, queue);
      r.x.run(40);
      expect([idx, queue, r.x.hq.available(), r.x.hq.notices]).toEqual([idx, queue, 0, 0]);
    }
    r.hearing();
    // The other queue's word lies over ours: looks find what ours would have said.
    r.add();
    r.notify(5, 0);
    r.x.run(8);
    expect(r.serve()).toBe(1);
  });
}

test("a word of an earlier life is no news in this one", () => {
  const r = new Rig(false);
  expect(ld32(r.at) | 0).toBe(-1);
  r.hearing();
  expect(r.x.hq.available()).toBe(0);
});

test("an index of all ones cannot be told from a word of two bytes, so a look tells it", () => {
  const r = new Rig(false);
  r.x.hq.resume(0xfffd);
  r.idx = 0xfffd;
  st16(r.x.r.availPtr + 2, r.idx);
  const at = (idx: number): void => {
    r.x.r.avail[2 + ((idx - 1) & (SIZE - 1))] = 0;
    st16(r.x.r.availPtr + 2, idx);
  };
  r.hearing();
  r.notify(0xffff);
  r.x.hq.step(true);
  expect(r.x.hq.gathering).toBe(false);
  // and it was nothing but a notification
  r.x.run(8);
  expect(r.x.hq.available()).toBe(0);
  for (const idx of [0xfffe, 0xffff, 0]) {
    r.hearing();
    at(idx);
    r.notify(idx);
    r.x.run(8);
    expect([idx, r.serve()]).toEqual([idx, 1]);
  }
  expect(r.x.hq.notices).toBe(2);
});

test("words collapse: the newest index covers all of them, and one that is read late does no harm", () => {
  const r = new Rig(false);
  r.hearing();
  r.add();
  r.add();
  r.add();
  r.notify(r.idx - 1);
  r.notify(r.idx);
  r.x.run(6);
  expect(r.serve()).toBe(3);
  r.notify(r.idx - 1);
  r.x.run(40);
  expect([r.x.hq.available(), r.x.hq.listening]).toEqual([0, true]);
});

test("an answer to a look that began before the word came may be older than it; a later one must not", () => {
  const r = new Rig(false);
  // never at rest for long: looks under way
  r.hearing();
  r.notify(4, 0);
  r.x.hq.step(true);
  r.x.hq.step(true);
  expect(r.x.fetcher.flying.length).toBeGreaterThan(0);
  r.x.fetcher.land();
  // those answers say 0 and are not taken yet
  for (let i = 0; i < 3; i++) r.add();
  r.notify(r.idx);
  expect(r.x.run(6)).toBe(0);
  expect(r.serve()).toBe(3);
  // a word beyond the index that the ring has: the next look finds the lie
  r.notify(r.idx + 2);
  expect(r.x.run(400)).toBe(R_AVAIL_BACK);
});

test("frames in crowds: the wish is taken back once, and comes again when the ring rests", () => {
  const r = new Rig(false);
  r.hearing();
  // chains come faster than they are given back
  for (let i = 0; i < 6; i++) {
    r.add();
    r.notify(r.idx);
    r.x.run(4);
    r.x.hq.consume(r.x.hq.available());
  }
  expect(r.x.ch.puts.length).toBe(2);
  expect(r.wish()).toEqual({ word: USED_F_NO_NOTIFY, off: 0 });
  expect([r.x.hq.hearing, r.x.hq.listening]).toEqual([false, true]);
  // quiet, but they still have not gone back
  r.x.run(200);
  expect(r.x.ch.puts.length).toBe(2);
  for (let i = 0; i < 6; i++) r.x.hq.pushUsed(i, 0);
  r.hearing();
  expect(r.x.ch.puts.length).toBe(3);
});

test("while every addition is notified, looks are rare, and an interrupt decision does not wait for a rare one", () => {
  const r = new Rig(false);
  r.hearing();
  r.x.run(20);
  const before = looks(r);
  r.x.run(1000);
  expect(looks(r) - before).toBeLessThan(6);
  expect(looks(r) - before).toBeGreaterThan(1);
  r.add();
  r.notify(r.idx);
  r.x.run(4);
  r.serve();
  r.x.hq.publish(r.x.ch);
  r.x.hq.confirmLater(r.x.ch.putCount);
  r.x.ch.land();
  const asked = looks(r);
  expect(r.x.hq.interruptDue(r.x.ch)).toBe(false);
  r.x.run(3);
  expect(looks(r)).toBeGreaterThan(asked);
});

test("a driver that does not notify after all: looks as ever, and nothing is lost", () => {
  const r = new Rig(false);
  for (let i = 0; i < 12; i++) {
    for (let k = 0; k < 30 && !r.x.hq.hearing; k++) {
      r.x.run(2);
      r.x.ch.land();
    }
    r.add();
    for (let k = 0; k < 400 && r.x.hq.available() === 0; k++) r.x.run(1);
    expect(r.serve()).toBe(1);
  }
  expect([r.x.hq.listening, r.x.hq.notices]).toEqual([false, 0]);
});

test("a word that comes late does not cost the driver its good name", () => {
  const r = new Rig(false);
  for (let i = 0; i < 20; i++) {
    r.hearing();
    r.add();
    for (let k = 0; k < 400 && r.x.hq.available() === 0; k++) r.x.run(1);
    r.notify(r.idx);
    r.serve();
    r.x.run(10);
  }
  expect(r.x.hq.listening).toBe(true);
});

test("a channel that was restarted loses the proving look: another one proves", () => {
  const r = new Rig(false);
  for (let i = 0; i < 60 && r.x.ch.puts.length === 0; i++) r.x.run(1);
  r.x.ch.land();
  r.x.hq.step(true);
  r.add();
  r.x.fetcher.lose();
  r.x.hq.refetch();
  r.x.hq.step(true);
  expect(r.x.hq.hearing).toBe(false);
  r.x.run(8);
  expect(r.serve()).toBe(1);
});

test("switched off, or without the feature, nothing is asked for", () => {
  for (const r of [new Rig(false, false), new Rig(true, false)]) {
    r.x.run(200);
    expect([r.x.hq.listening, r.x.hq.called, r.x.ch.puts.length]).toEqual([false, false, 0]);
  }
  const r = new Rig(false);
  r.x.hq.listen(null, TX, r.x.ch);
  r.notify(3);
  r.x.run(200);
  expect([r.x.hq.available(), r.x.ch.puts.length]).toEqual([0, 0]);
});
