/** Short turns: only while one thing of the host is waited for, ended by it and by any other work, no channel looked at twice a turn. */
import { afterEach, expect, test } from "bun:test";
import { EdmaChannel } from "../../src/hw/edma-channel.ts";
import { type PairOptions, PairRig } from "../support/pair-rig.ts";

const progress = EdmaChannel.prototype.progress;
afterEach(() => {
  EdmaChannel.prototype.progress = progress;
});

/** A rig whose every turn is counted. */
class Counted extends PairRig {
  brief = 0;
  turns = 0;
  /** most looks at one channel in one turn */
  most = 0;
  /** looks at each channel in the last turn */
  readonly looks = new Map<EdmaChannel, number>();

  constructor(o: Partial<PairOptions>) {
    super(o);
    const { looks } = this;
    EdmaChannel.prototype.progress = function (this: EdmaChannel): number {
      looks.set(this, (looks.get(this) ?? 0) + 1);
      return progress.call(this);
    };
  }

  override turn(): number {
    this.looks.clear();
    const rc = super.turn();
    this.turns++;
    if (this.dp.brief) this.brief++;
    this.most = Math.max(this.most, ...this.looks.values());
    return rc;
  }

  /** Drivers and turns until nothing is under way. */
  settle(turns: number): void {
    for (let i = 0; i < turns; i++) {
      this.turn();
      this.drivers();
    }
  }
}

for (const notices of [false, true])
  for (const readChannels of [1, 2])
    test(`${notices ? "with" : "without"} notifications, ${readChannels} read channels: one look a channel and turn`, () => {
      const rig = new Counted({ notices, seed: 21, model: { readChannels, faults: { lostDoorbell: 0.1 } } });
      rig.exchange(500);
      rig.trickle(500, 200);
      expect(rig.most).toBe(1);
      expect(rig.brief).toBeGreaterThan(0);
      // a whole turn at least every 65, most of them much sooner
      expect(rig.turns - rig.brief).toBeGreaterThan(rig.turns / 40);
      rig.close();
    }, 30_000);

test("at rest with notifications most turns are short; without them looks go on in every fifth at least", () => {
  for (const notices of [true, false]) {
    // One descriptor a buffer, so that more than half of the ring is filled: else looks at it go on.
    const rig = new Counted({ notices, indirect: true, seed: 22 });
    rig.exchange(20);
    rig.settle(400);
    const { brief } = rig;
    rig.settle(1000);
    const share = (rig.brief - brief) / 1000;
    if (notices) expect(share).toBeGreaterThan(0.9);
    else expect(share).toBeLessThanOrEqual(0.8);
    rig.close();
  }
});

test("a frame of the board is begun in a short turn, and carried as fast as ever", () => {
  const took = (notices: boolean): number => {
    const rig = new Counted({ notices, seed: 23 });
    rig.exchange(20);
    rig.settle(400);
    let sum = 0;
    for (let i = 0; i < 50; i++) {
      const want = rig.host.received + 1;
      rig.board.send(100);
      for (let t = 0; t < 500 && rig.host.received < want; t++) {
        rig.turn();
        rig.host.receive(rig.board, true);
        sum++;
      }
      expect(rig.host.received).toBe(want);
      rig.settle(17);
    }
    rig.close();
    return sum;
  };
  // a board's frame finds the loop in a short turn as well as in a whole one
  expect(took(true)).toBeLessThanOrEqual(took(false) + 50);
});

test("a notification ends the short turns at once", () => {
  const rig = new Counted({ notices: true, indirect: true, seed: 24 });
  rig.exchange(20);
  for (let i = 0; i < 40; i++) {
    rig.settle(400 + i);
    expect(rig.dp.hqTx.hearing).toBe(true);
    rig.host.send(100);
    rig.turn();
    expect([rig.dp.brief, rig.dp.hqTx.gathering]).toEqual([false, true]);
  }
  rig.close();
});

test("a board's frame begun in a short turn: the next look at the channels is at all of them", () => {
  const rig = new Counted({ notices: true, indirect: true, seed: 25 });
  rig.exchange(20);
  rig.settle(400);
  rig.host.send(100);
  rig.turn();
  // the link stands still from here on
  const step = (): [boolean, number] => {
    rig.looks.clear();
    expect(rig.dp.turn()).toBeGreaterThanOrEqual(0);
    return [rig.dp.brief, rig.looks.size];
  };
  expect(step()).toEqual([true, 2]);
  rig.board.send(100);
  expect(step()).toEqual([true, 2]);
  expect(step()).toEqual([false, 0]);
  expect(step()).toEqual([false, 3]);
  rig.close();
});
