/** The used side of a host's ring: what is published, and whether an interrupt is due. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { HostRing } from "../../src/engine/host-ring.ts";
import { st16 } from "../../src/hw/mem.ts";
import { type MirrorRig as Rig, releaseMirrors, mirrorRig as rig } from "../support/mirror-rig.ts";
import { addresses } from "../support/pair-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

afterEach(releaseMirrors);

describe("publishing", () => {
  test("used elements, then the index; two pieces across the end of the ring", () => {
    const x = rig({ size: 8 });
    const elements = (n: number): typeof x.ch.puts => {
      for (let i = 0; i < n; i++) x.hq.pushUsed(i, 100 + i);
      x.ch.puts.length = 0;
      x.hq.publish(x.ch);
      return x.ch.puts;
    };
    expect(elements(6).map((p) => [p.bytes, p.dar - x.r.usedBus])).toEqual([
      [48, 4],
      [2, 2],
    ]);
    expect(elements(5).map((p) => [p.bytes, p.dar - x.r.usedBus])).toEqual([
      [16, 4 + 48],
      [24, 4],
      [2, 2],
    ]);
    x.ch.puts.length = 0;
    x.hq.publish(x.ch);
    expect(x.ch.puts).toEqual([]);
  });

  test("never more elements than PUBLISH_ELEMENTS", () => {
    const x = rig({ size: 8 });
    for (let n = 1; n <= 8; n++) {
      for (let i = 0; i < n; i++) x.hq.pushUsed(i, 0);
      x.ch.puts.length = 0;
      x.hq.publish(x.ch);
      expect(x.ch.puts.length).toBeLessThanOrEqual(HostRing.PUBLISH_ELEMENTS);
    }
  });
});

test("chains of a transmit queue go back with length 0, whatever lay in the memory before this life", () => {
  const x = rig({ size: 8 });
  x.hq.stage.fill(0x5555_5555);
  x.hq.attach(addresses(x.r), false, false);
  for (let i = 0; i < 20; i++) {
    x.hq.stageUnused(0, i & 7);
    x.hq.consume(1);
    x.hq.giveBack(1);
    const at = ((x.hq.used - 1) & 7) * 2;
    expect([...x.hq.stage.subarray(at, at + 2)]).toEqual([i & 7, 0]);
  }
});

describe("is an interrupt due", () => {
  /** Publish `n` used elements; @returns what wantsInterrupt() says */
  const use = (x: Rig, n: number): boolean => {
    for (let i = 0; i < n; i++) x.hq.pushUsed(0, 0);
    x.hq.publish(x.ch);
    return x.hq.wantsInterrupt();
  };
  /** A fresh look. */
  const look = (x: Rig): void => {
    for (let i = 0; i < 12; i++) {
      x.hq.step(true);
      x.fetcher.land();
    }
  };
  const event = (x: Rig, v: number): void => st16(x.r.availPtr + 4 + 2 * x.r.size, v & 0xffff);

  test("by flags: yes until a look has seen NO_INTERRUPT", () => {
    const x = rig();
    look(x);
    expect(use(x, 1)).toBe(true);
    st16(x.r.availPtr, 1);
    expect(use(x, 1)).toBe(true);
    look(x);
    expect(use(x, 1)).toBe(false);
    st16(x.r.availPtr, 0);
    look(x);
    expect(use(x, 1)).toBe(true);
  });

  test("a no is confirmed with a look that began after the index landed", () => {
    const x = rig({ tuning: { polls: 4 } });
    st16(x.r.availPtr, 1);
    look(x);
    expect(use(x, 1)).toBe(false);
    x.hq.confirmLater(x.ch.putCount);
    // looks of before: they may answer, they decide nothing
    for (let i = 0; i < 20; i++) {
      x.hq.step(true);
      x.fetcher.land();
      expect(x.hq.interruptDue(x.ch)).toBe(false);
    }
    // a look is under way when the index lands; the driver enables interrupts, then that old look answers
    for (let i = 0; i < 8 && x.fetcher.flying.length === 0; i++) x.hq.step(true);
    const old = x.fetcher.flying.length;
    expect(old).toBeGreaterThan(0);
    x.fetcher.land(old);
    x.ch.land();
    st16(x.r.availPtr, 0);
    expect(x.hq.interruptDue(x.ch)).toBe(false);
    let due = false;
    for (let i = 0; i < 20 && !due; i++) {
      x.hq.step(true);
      due = x.hq.interruptDue(x.ch);
      x.fetcher.land();
    }
    expect(due).toBe(true);
    x.hq.interruptSent();
    look(x);
    expect(x.hq.interruptDue(x.ch)).toBe(false);
  });

  test("a confirmed no stays no, and the next publish asks again", () => {
    const x = rig();
    st16(x.r.availPtr, 1);
    look(x);
    for (let round = 0; round < 5; round++) {
      expect(use(x, 1)).toBe(false);
      x.hq.confirmLater(x.ch.putCount);
      x.ch.land();
      for (let i = 0; i < 20; i++) {
        x.hq.step(false);
        x.fetcher.land();
        expect(x.hq.interruptDue(x.ch)).toBe(false);
      }
      // nothing is owed: no more looks without being wanted
      const asked = x.fetcher.asked.length;
      for (let i = 0; i < 20; i++) {
        x.hq.step(false);
        x.fetcher.land();
      }
      expect(x.fetcher.asked.length).toBe(asked);
    }
  });

  test("a second publish while the first no is being confirmed is confirmed as well", () => {
    const x = rig();
    st16(x.r.availPtr, 1);
    look(x);
    use(x, 1);
    x.hq.confirmLater(x.ch.putCount);
    x.ch.land();
    x.hq.interruptDue(x.ch);
    for (let i = 0; i < 4; i++) x.hq.step(false);
    // the look is under way; another used element, and the driver enables after it
    use(x, 1);
    x.hq.confirmLater(x.ch.putCount);
    x.fetcher.land();
    x.hq.step(false);
    expect(x.hq.interruptDue(x.ch)).toBe(false);
    st16(x.r.availPtr, 0);
    x.ch.land();
    let due = false;
    for (let i = 0; i < 20 && !due; i++) {
      due = x.hq.interruptDue(x.ch);
      x.hq.step(false);
      x.fetcher.land();
    }
    expect(due).toBe(true);
  });

  test("by used_event: when the index passes event + 1, at every distance and across the wrap", () => {
    for (const start of [0, 1, 0x7ffe, 0xfff8, 0xffff]) {
      for (const burst of [1, 2, 5]) {
        const x = rig({ eventIdx: true, size: 16 });
        // bring the indexes to `start`
        x.hq.used = x.hq.published = start;
        x.hq.interruptSent();
        for (let ahead = 0; ahead < 12; ahead++) {
          const at = (x.hq.published + ahead) & 0xffff;
          event(x, at);
          // no entries: the look must not see the index as news
          st16(x.r.availPtr + 2, 0);
          (x.hq as unknown as { event: number }).event = at;
          let published = 0;
          for (;;) {
            published += burst;
            const due = use(x, burst);
            expect([start, burst, ahead, due]).toEqual([start, burst, ahead, published > ahead]);
            if (due) break;
          }
          x.hq.interruptSent();
        }
      }
    }
  });

  test("an event is met although 65533 elements were used since the last interrupt", () => {
    // the driver polls and leaves its event where it was; then it wants to hear of the next one
    for (const burst of [1, 2, 3, 4, 5, 9]) {
      const x = rig({ eventIdx: true, size: 16 });
      event(x, 0xffff);
      look(x);
      for (let n = 0; n < 65_533; n += 7) {
        expect(use(x, Math.min(7, 65_533 - n))).toBe(false);
        x.hq.confirmLater(x.ch.putCount);
        x.ch.land();
        for (let i = 0; i < 10 && x.hq.confirm !== 0; i++) {
          expect(x.hq.interruptDue(x.ch)).toBe(false);
          x.hq.step(false);
          x.fetcher.land();
        }
        x.fetcher.forget();
        x.ch.puts.length = 0;
      }
      expect(x.hq.published).toBe(65_533);
      event(x, 65_533);
      look(x);
      expect([burst, use(x, burst)]).toEqual([burst, true]);
    }
  });
});
