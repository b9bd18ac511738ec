/** VIRTIO 1.2 2.7.7 and 2.7.10: when a device must notify the driver, and how it tells that it needs no notifications. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { ld16 } from "../../src/hw/mem.ts";
import { USED_F_NO_NOTIFY } from "../../src/hw/virtio.layout.ts";
import { frame, RingRig, type RingRigOptions } from "../support/ring-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const RX = 1;
const TX = 2;

/** One frame for the host, interrupts as its ring says. @returns vectors that came */
function one(rig: RingRig, prepare: () => void = () => {}): number[] {
  rig.host.post([300]);
  rig.settle();
  prepare();
  // an old copy of the driver's wish may be acted on once: a spurious notification, never a lost one
  rig.turns(12);
  rig.messages.length = 0;
  rig.board.send(frame(12, 100));
  rig.settle();
  return [...rig.messages];
}

const finish = (rig: RingRig): void => {
  expect(rig.violations).toEqual([]);
  rig.close();
};

const KINDS: [string, Partial<RingRigOptions>][] = [
  ["eDMA fetch", {}],
  ["one channel each way", { model: { readChannels: 1, writeChannels: 1 } }],
  ["window fetch", { fetch: "window" }],
  ["lost doorbells", { model: { faults: { lostDoorbell: 0.3 } } }],
];

describe("2.7.7.2 without EVENT_IDX", () => {
  for (const [name, o] of KINDS) {
    test(`2.7.7.2 flags 0: a notification for every queue that was used (${name})`, () => {
      const rig = new RingRig(o);
      expect(one(rig)).toEqual([RX]);
      rig.messages.length = 0;
      rig.board.post([300]);
      rig.host.send(frame(12, 100));
      rig.settle();
      expect(rig.messages).toEqual([TX]);
      finish(rig);
    });

    test(`2.7.7.2 flags 1: no notification (${name})`, () => {
      const rig = new RingRig(o);
      expect(one(rig, () => rig.setInterruptFlag(rig.host.rx, true)).filter((v) => v === RX)).toEqual([]);
      expect(rig.usedIdx(rig.host.rx)).toBe(1);
      finish(rig);
    });
  }

  test("2.7.7.2 used_event is ignored, whatever it says", () => {
    for (const event of [0, 1, 5, 0xffff]) {
      const rig = new RingRig();
      expect(one(rig, () => rig.setUsedEvent(rig.host.rx, event))).toEqual([RX]);
      finish(rig);
    }
  });

  test("2.7.7.2 the flag counts as it is when the index is written, for the board's driver too", () => {
    const rig = new RingRig();
    rig.host.post([300]);
    rig.board.tx.enableInterrupts();
    rig.board.send(frame(12, 100));
    rig.settle();
    expect(rig.notified).toEqual([1]);
    rig.board.tx.disableInterrupts();
    rig.host.post([300]);
    rig.board.send(frame(12, 100));
    rig.settle();
    expect(rig.notified).toEqual([1]);
    rig.board.post([300]);
    rig.host.send(frame(12, 100));
    rig.settle();
    expect(rig.notified).toEqual([1, 0]);
    finish(rig);
  });

  for (const [name, o] of KINDS) {
    test(`2.7.7.2 a driver that enables interrupts at any moment sees the index or gets one (${name})`, () => {
      for (let delay = 0; delay < 24; delay++) {
        const rig = new RingRig(o);
        rig.setInterruptFlag(rig.host.rx, true);
        for (let i = 0; i < 4; i++) rig.host.post([300]);
        rig.settle();
        rig.messages.length = 0;
        rig.board.send(frame(12, 100));
        rig.turns(delay);
        // NAPI's end: enable, then look once more
        rig.setInterruptFlag(rig.host.rx, false);
        const seen = rig.usedIdx(rig.host.rx) === 1;
        rig.settle();
        expect(rig.usedIdx(rig.host.rx)).toBe(1);
        if (!seen) expect([delay, rig.messages.includes(RX)]).toEqual([delay, true]);
        rig.close();
      }
    });
  }
});

describe("2.7.7.2 with EVENT_IDX", () => {
  for (const [name, o] of KINDS) {
    test(`2.7.7.2 notified when the entry at used_event is written, not before, not after (${name})`, () => {
      for (let event = 0; event < 5; event++) {
        const rig = new RingRig({ ...o, eventIdx: true });
        rig.setUsedEvent(rig.host.rx, event);
        const at: number[] = [];
        for (let i = 0; i < 6; i++) if (one(rig).includes(RX)) at.push(i);
        expect([event, at]).toEqual([event, [event]]);
        finish(rig);
      }
    });

    test(`2.7.7.2 a burst that passes used_event notifies (${name})`, () => {
      const rig = new RingRig({ ...o, eventIdx: true });
      rig.setUsedEvent(rig.host.rx, 2);
      for (let i = 0; i < 6; i++) rig.host.post([300], true);
      rig.host.rx.publish();
      rig.settle();
      for (let i = 0; i < 6; i++) rig.board.send(frame(12, 100), undefined, true);
      rig.board.tx.publish();
      rig.settle();
      expect(rig.messages.filter((v) => v === RX)).toEqual([RX]);
      finish(rig);
    });

    test(`2.7.7.2 used_event set at any moment is honoured unless the driver sees the index itself (${name})`, () => {
      for (let delay = 0; delay < 24; delay++) {
        const rig = new RingRig({ ...o, eventIdx: true });
        rig.setUsedEvent(rig.host.rx, 0xffff);
        for (let i = 0; i < 4; i++) rig.host.post([300]);
        rig.settle();
        rig.messages.length = 0;
        rig.board.send(frame(12, 100));
        rig.turns(delay);
        rig.setUsedEvent(rig.host.rx, 0);
        const seen = rig.usedIdx(rig.host.rx) === 1;
        rig.settle();
        if (!seen) expect([delay, rig.messages.includes(RX)]).toEqual([delay, true]);
        rig.close();
      }
    });
  }

  test("2.7.7.2 the lower bit of flags is ignored", () => {
    const rig = new RingRig({ eventIdx: true });
    rig.setInterruptFlag(rig.host.rx, true);
    expect(one(rig)).toEqual([RX]);
    finish(rig);
  });

  test("2.7.7.2 once in 65536 with an event that is never moved, across the wrap of the index", () => {
    const rig = new RingRig({ eventIdx: true, hostQueue: 64, boardQueue: 64 });
    const marks = [rig.host.mark, rig.board.mark];
    rig.setUsedEvent(rig.host.rx, 0);
    const at: number[] = [];
    let used = 0;
    while (used < 140_000) {
      rig.host.rewind(marks[0]!);
      rig.board.rewind(marks[1]!);
      for (let i = 0; i < 60; i++) {
        rig.host.post([64], true);
        rig.board.send(frame(12, 20), undefined, true);
      }
      rig.host.rx.publish();
      rig.board.tx.publish();
      const before = used;
      while (used < before + 60 || rig.board.tx.inFlight > 0) {
        rig.messages.length = 0;
        rig.turns(1);
        while (rig.host.rx.take() >= 0) used++;
        while (rig.board.tx.take() >= 0);
        if (rig.messages.includes(RX)) at.push(used);
      }
    }
    expect(at.map((n) => Math.floor((n - 1) / 65536))).toEqual([0, 1, 2]);
    for (const [i, n] of at.entries()) expect(n - i * 65536).toBeLessThanOrEqual(64);
    finish(rig);
  }, 30_000);
});

describe("2.7.10.2 available buffer notifications", () => {
  test("2.7.10.2 without EVENT_IDX the flags are 1 while the loop polls: no notification is needed, frames flow", () => {
    const rig = new RingRig();
    rig.settle();
    // Nothing is written where no entry has shown yet that it is a ring: 0 as the driver left it.
    const flags = (): number[] =>
      [rig.host.rx, rig.host.tx, rig.board.rx, rig.board.tx].map((ring) => ld16(ring.usedPtr));
    expect(flags()).toEqual([0, 0, USED_F_NO_NOTIFY, USED_F_NO_NOTIFY]);
    expect(one(rig)).toEqual([RX]);
    expect(flags()).toEqual([USED_F_NO_NOTIFY, 0, USED_F_NO_NOTIFY, USED_F_NO_NOTIFY]);
    rig.board.post([300]);
    rig.host.send(frame(12, 100));
    rig.settle();
    expect(flags()).toEqual([USED_F_NO_NOTIFY, USED_F_NO_NOTIFY, USED_F_NO_NOTIFY, USED_F_NO_NOTIFY]);
    finish(rig);
  });

  test("2.7.10.2 with EVENT_IDX the flags are 0, and avail_event asks for one notification in 65536", () => {
    const rig = new RingRig({ eventIdx: true });
    for (let i = 0; i < 5; i++) one(rig);
    for (const r of [rig.host.rx, rig.host.tx]) {
      expect(ld16(r.usedPtr)).toBe(0);
      expect(ld16(r.usedPtr + 4 + 8 * r.size)).toBe(0);
    }
    finish(rig);
  });

  test("2.7.10.2 flags are 0 or 1, never anything else, and nothing else of the used ring's head is written", () => {
    const rig = new RingRig();
    for (let i = 0; i < 20; i++) {
      one(rig);
      while (rig.host.rx.take() >= 0);
      while (rig.board.tx.take() >= 0);
    }
    const parts = new Set(rig.trace.filter((t) => t.write && t.what !== "buffer").map((t) => `${t.what}+${t.len}`));
    expect([...parts].sort()).toEqual(["msix+4", "rx.used.flags+2", "rx.used.idx+2", "rx.used.ring+8"]);
    finish(rig);
  });
});
