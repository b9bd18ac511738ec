/** VIRTIO 1.2 2.6.1: one queue is reset and enabled again while the other goes on. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { FEATURE_SETS } from "../../src/engine/function/features.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { type ManualHost, manualHosts } from "../support/manual-host.ts";
import { frame } from "../support/ring-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const host = manualHosts();

const clean = (h: ManualHost): void => expect(h.model.violations).toEqual([]);

describe("2.6.1 virtqueue reset", () => {
  // GUEST_TSO6 stands for RING_RESET; no named set has it
  const word = FEATURE_SETS.wide!.modern | (1 << V.F_GUEST_TSO6);
  const up = (): ManualHost => {
    const h = host({ engine: { features: `0x${(word >>> 0).toString(16)}` } });
    h.modern({ features: [word, word], eventIdx: true, size: 64 });
    expect([h.live, h.engine.fn.hdrLen]).toEqual([true, 12]);
    return h;
  };
  /** One frame each way; the receive buffer was posted. */
  const pass = (h: ManualHost): void => {
    const frames = h.frames.length;
    h.post(2000);
    h.port.send(frame(0, 100));
    h.send(frame(12, 100));
    h.turns(1500);
    expect(h.frames.length).toBe(frames + 1);
    expect([h.rx!.take() >= 0, h.tx!.take() >= 0]).toEqual([true, true]);
    clean(h);
  };

  for (const k of [0, 1] as const) {
    const name = k === 0 ? "receive" : "transmit";
    test(`2.6.1.1.1 4.1.4.3.1 the ${name} queue is reset: 1 until it is done, then 0, and queue_enable is 0, queue_size the maximum`, () => {
      const h = up();
      for (let i = 0; i < 5; i++) pass(h);
      h.pace = 0;
      h.w(V.COMMON_Q_SELECT, 2, k);
      h.w(V.COMMON_Q_RESET, 2, 1);
      expect(h.r(V.COMMON_Q_RESET, 2)).toBe(1);
      h.pace = 4;
      let polls = 0;
      while (h.r(V.COMMON_Q_RESET, 2) !== 0 && polls < 100) polls++;
      expect(polls).toBeLessThan(100);
      expect([h.r(V.COMMON_Q_RESET, 2), h.r(V.COMMON_Q_ENABLE, 2)]).toEqual([0, 0]);
      // what the driver had made smaller
      expect(h.r(V.COMMON_Q_SIZE, 2)).toBe(256);
      expect(h.engine.service.link).toBe("live");
    });

    test(`2.6.1.1.1 nothing of the ${name} queue is touched or notified once the reset is answered`, () => {
      const h = up();
      for (let i = 0; i < 3; i++) pass(h);
      h.post(2000);
      h.turns(50);
      expect(h.resetQueue(k)).toBeGreaterThanOrEqual(0);
      (k === 0 ? h.rx : h.tx)!.release();
      h.messages.length = 0;
      h.port.send(frame(0, 100));
      h.turns(2000);
      // strict mode sees every access to a released ring
      clean(h);
      expect(h.messages.filter((v) => v === 1 + k)).toEqual([]);
    });

    test(`2.6.1.2.1 the ${name} queue is enabled again elsewhere, with another size: it starts at 0, the other one goes on`, () => {
      const h = up();
      for (let i = 0; i < 70; i++) pass(h);
      for (let round = 0; round < 3; round++) {
        const other = k === 0 ? h.tx! : h.rx!;
        const before = other.used16[1]!;
        expect(h.resetQueue(k)).toBeGreaterThanOrEqual(0);
        h.enableQueue(k, round === 1 ? 16 : 32, 1 + k, true);
        expect([h.live, h.engine.fn.queues[k]!.size]).toEqual([true, round === 1 ? 16 : 32]);
        for (let i = 0; i < 20; i++) pass(h);
        expect(other.used16[1]).toBe(before + 20);
        expect((k === 0 ? h.rx! : h.tx!).used16[1]).toBe(20);
      }
      expect([h.engine.service.faults, h.engine.service.resets]).toEqual([0, 0]);
    });

    test(`2.6.1.1.1 the ${name} queue is reset with transfers under way: nothing is lost or repeated on the other one`, () => {
      for (let delay = 0; delay < 10; delay++) {
        const h = up();
        for (let i = 0; i < 3; i++) pass(h);
        for (let i = 0; i < 30; i++) h.post(2000);
        h.turns(50);
        const sent: Uint8Array[] = [];
        for (let i = 0; i < 8; i++) {
          const f = frame(12, 600, 40 + i);
          sent.push(f.subarray(12));
          h.send(f);
          h.port.send(frame(0, 700, i));
        }
        const had = h.frames.length;
        h.turns(delay);
        expect(h.resetQueue(k)).toBeGreaterThanOrEqual(0);
        h.enableQueue(k, 32, 1 + k, true);
        if (k === 0) for (let i = 0; i < 30; i++) h.post(2000);
        h.turns(2000);
        clean(h);
        const got = h.frames.slice(had).map((x) => x.frame);
        // transmit queue reset: what was not taken before is gone; receive queue reset: all of them arrive
        if (k === 0) expect(got.length).toBe(8);
        got.forEach((f, i) => {
          expect(Buffer.compare(f, sent[i]!)).toBe(0);
        });
        if (k === 1) {
          let received = 0;
          while (h.rx!.take() >= 0) received++;
          expect([delay, received, h.rx!.broken]).toEqual([delay, 8, 0]);
        }
      }
    });
  }
});
