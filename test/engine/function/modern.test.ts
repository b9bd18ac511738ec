/** Single behaviours of the modern function over plain memory: hostile and unusual drivers, ring reset, hints. */
import { afterEach, describe, expect, test } from "bun:test";
import { FN_DOWN, FN_REFUSED, FN_UP } from "../../../src/engine/function/host-function.ts";
import { ld8, ld16, ld32, st8, st16, st32 } from "../../../src/hw/mem.ts";
import { begin, block, finish, make, releaseFunctions, rings, setQueue } from "./function-rig.ts";

const WIDE = 0x200199fb | 0;
afterEach(releaseFunctions);

describe("modern: unusual but sound drivers", () => {
  for (const [name, base] of [
    ["below 4 GiB", 0x1000_0000],
    ["above 4 GiB", 0x7_1000_0000],
    ["right at 4 GiB", 0x1_0000_0000],
  ] as const) {
    test(`ring blocks ${name}`, () => {
      const r = make("modern", 0x19823);
      begin(r);
      setQueue(r, 0, 256, ...block(base));
      setQueue(r, 1, 256, ...block(base + 0x10000));
      finish(r);
      expect(r.seen).toEqual([FN_UP]);
      expect(rings(r.fn)).toEqual([block(base), block(base + 0x10000)]);
    });
  }

  test("three separate areas, out of order, are taken once the driver has gone on", () => {
    const r = make("modern", 0x19823);
    begin(r, 2);
    setQueue(r, 0, 64, 0x50000, 0x30002, 0x20004);
    setQueue(r, 1, 128, 0x1_00080000, 0x70000, 0x2_00060000);
    finish(r);
    expect(r.seen).toEqual([FN_UP]);
    expect(rings(r.fn)).toEqual([
      [0x50000, 0x30002, 0x20004],
      [0x1_00080000, 0x70000, 0x2_00060000],
    ]);
    expect(r.fn.queues.map((q) => q.size)).toEqual([64, 128]);
  });

  test("a used ring on its own page, as other drivers place it", () => {
    const r = make("modern", 0x19823);
    begin(r);
    setQueue(r, 0, 256, 0x100000, 0x101000, 0x102000);
    setQueue(r, 1, 256, 0x110000, 0x111000, 0x112000);
    finish(r);
    expect(r.seen).toEqual([FN_UP]);
  });

  test("a driver without interrupts: MSI-X on, no queue vector", () => {
    const r = make("modern", 0x19823, true);
    begin(r);
    r.config.msixOn = true;
    setQueue(r, 0, 256, ...block(0x100000));
    setQueue(r, 1, 256, ...block(0x110000));
    finish(r);
    expect(r.seen).toEqual([FN_UP]);
    expect(r.fn.msix).toBe(true);
    expect(r.fn.queues.map((q) => q.vector)).toEqual([0xffff, 0xffff]);
    expect(r.fn.configVector).toBe(0xffff);
  });

  test("a missed used ring of queue 0 is rebuilt from queue 1's layout", () => {
    const r = make("modern", 0x19823);
    begin(r);
    // the poller sees table and available ring, then sleeps until queue 1's are all there
    const [desc, avail, used] = block(0x7_00200000);
    r.w(0x16, 2, 0);
    for (const [off, a] of [
      [0x20, desc],
      [0x28, avail],
    ] as const) {
      st32(r.bar + off, (a % 2 ** 32) | 0);
      st32(r.bar + off + 4, 7);
    }
    r.poll();
    st32(r.bar + 0x30, (used % 2 ** 32) | 0);
    st32(r.bar + 0x34, 7);
    st16(r.bar + 0x16, 1);
    const other = block(0x7_00300000);
    other.forEach((a, i) => {
      st32(r.bar + 0x20 + 8 * i, (a % 2 ** 32) | 0);
      st32(r.bar + 0x24 + 8 * i, 7);
    });
    r.poll();
    finish(r);
    expect(r.seen).toEqual([FN_UP]);
    expect(rings(r.fn)).toEqual([[desc, avail, used], other]);
    expect(r.fn.stats.recovered).toBe(1);
  });
});

test("modern: words of an attempt that went by unseen are not the next one's", () => {
  const a = block(0x100000);
  for (const woken of ["before the vector", "behind the vector"] as const) {
    const r = make("modern", 0x19823, true);
    const unseen = (desc: number, k: number): void => {
      st16(r.bar + 0x16, k);
      for (const [i, v] of block(desc).entries()) st32(r.bar + 0x20 + 8 * i, v);
      st16(r.bar + 0x1a, 1 + k);
    };
    begin(r);
    r.config.msixOn = true;
    st16(r.bar + 0x10, 0);
    unseen(0x100000, 0);
    // torn down, and the next one begins
    st16(r.bar + 0x1a, 0xffff);
    st16(r.bar + 0x10, 0xffff);
    st16(r.bar + 0x10, 0);
    r.poll();
    unseen(0x120000, 0);
    if (woken === "behind the vector") r.poll();
    unseen(0x130000, 1);
    r.poll();
    finish(r);
    if (woken === "behind the vector") {
      expect(r.seen).toEqual([FN_UP]);
      expect(rings(r.fn)).toEqual([block(0x120000), block(0x130000)]);
    } else expect(r.seen).toEqual([FN_REFUSED]);
    expect(rings(r.fn)).not.toContainEqual(a);
  }
});

test("modern: the driver reads one queue until the first is captured, and the vector as it wrote it", () => {
  const r = make("modern", 0x19823, true);
  expect(ld16(r.bar + 0x12)).toBe(1);
  begin(r);
  r.config.msixOn = true;
  r.w(0x10, 2, 0);
  expect([ld16(r.bar + 0x12), ld16(r.bar + 0x10)]).toEqual([1, 0]);
  setQueue(r, 0, 256, ...block(0x100000));
  expect(ld16(r.bar + 0x12)).toBe(2);
  // the attempt fails, the next one waits again
  r.w(0x1a, 2, 1);
  r.w(0x1a, 2, 0xffff);
  r.w(0x10, 2, 0xffff);
  r.w(0x10, 2, 0);
  expect(ld16(r.bar + 0x12)).toBe(1);
});

describe("modern: refused", () => {
  const good = block(0x110000);
  const cases: [string, number, [number, number, number], RegExp][] = [
    ["address 0", 256, [0, 0x101000, 0x102000], /queue 0 \(receive\).*an address is 0/],
    ["size 0", 0, block(0x100000), /queue size 0 is not a power of two/],
    ["size 200", 200, block(0x100000), /queue size 200 is not a power of two/],
    ["size 512 of 256", 512, block(0x100000, 512), /queue size 512 is larger than the 256 offered/],
    ["used ring inside the table", 256, [0x100000, 0x101000, 0x100800], /overlap at queue size 256/],
    ["table at 8 bytes", 256, [0x100008, 0x101008, 0x102000], /aligned to 16, 2 and 4/],
    ["address of 2^53", 256, [0x100000, 0x101000, 2 ** 53], /2\^53 or more/],
    ["both queues in one place", 256, [0x110000, 0x118000, 0x119000], /overlap/],
  ];
  for (const [name, size, ring, text] of cases) {
    test(name, () => {
      const r = make("modern", 0x19823);
      begin(r);
      setQueue(r, 0, size, ...ring);
      setQueue(r, 1, 256, ...good);
      finish(r);
      expect(r.seen).toEqual([FN_REFUSED]);
      expect(r.fn.live).toBe(false);
      expect(r.fn.stillLive()).toBe(false);
      expect(r.fn.lastRefusal).toMatch(text);
      expect(r.fn.lastRefusal).toMatch(/; rebind the driver on the host/);
      r.seen.length = 0;
      begin(r);
      setQueue(r, 0, 256, ...block(0x100000));
      setQueue(r, 1, 256, ...good);
      finish(r);
      expect(r.seen).toEqual([FN_DOWN, FN_UP]);
    });
  }

  test("DRIVER_OK without queues, without FEATURES_OK, without VERSION_1, with a bit that was not offered", () => {
    const r = make("modern", 0x19823);
    begin(r);
    finish(r);
    expect(r.fn.lastRefusal).toMatch(/queue 0 \(receive\) was never seen being set up/);
    r.w(0x14, 1, 0);
    r.w(0x14, 1, 7);
    expect(r.fn.lastRefusal).toMatch(/DRIVER_OK without FEATURES_OK \(status 0x7\)/);
    for (const [high, text] of [
      [0, /did not accept VERSION_1/],
      [0x80000001, /features 32\.\.63 = 0x80000001, 0x19823 were offered/],
    ] as const) {
      begin(r, 2);
      r.w(0x0c, 4, high);
      setQueue(r, 0, 256, ...block(0x100000));
      setQueue(r, 1, 256, ...good);
      finish(r);
      expect(r.fn.lastRefusal).toMatch(text);
    }
    expect(r.seen.filter((e) => e === FN_REFUSED).length).toBe(4);
  });

  test("FAILED is said once; the next driver may come without a reset, as on Linux", () => {
    const r = make("modern", 0x19823);
    begin(r);
    setQueue(r, 0, 256, ...block(0x100000));
    r.w(0x14, 1, 0x8b);
    r.w(0x14, 1, 0x8f);
    expect(r.seen).toEqual([FN_REFUSED]);
    expect(r.fn.lastRefusal).toMatch(/gave up its set-up \(status FAILED\)/);
    expect(r.fn.negotiating).toBe(false);
    r.w(0x14, 1, 0x8b);
    for (let i = 0; i < 4; i++) r.w(0x00, 4, i);
    expect(r.fn.negotiating).toBe(true);
    for (let i = 0; i < 4; i++) {
      r.w(0x08, 4, i);
      r.w(0x0c, 4, i === 1 ? 1 : 0);
    }
    // the same places as before
    setQueue(r, 0, 256, ...block(0x100000));
    setQueue(r, 1, 256, ...good);
    for (let k = 0; k < 2; k++) {
      r.w(0x16, 2, k);
      r.w(0x1c, 2, 1);
    }
    r.w(0x14, 1, 0x8f);
    expect(r.seen).toEqual([FN_REFUSED, FN_UP]);
    expect(rings(r.fn)).toEqual([block(0x100000), good]);
  });

  test("a live driver that sets FAILED is gone", () => {
    const r = make("modern", 0x19823);
    begin(r);
    setQueue(r, 0, 256, ...block(0x100000));
    setQueue(r, 1, 256, ...good);
    finish(r);
    expect(r.fn.stillLive()).toBe(true);
    r.fn.setNeedsReset();
    r.poll();
    expect(ld8(r.bar + 0x14)).toBe(0x4f);
    expect(r.fn.stillLive()).toBe(true);
    r.w(0x14, 1, 0xcf);
    expect(r.seen).toEqual([FN_UP, FN_DOWN, FN_REFUSED]);
    expect(r.fn.stillLive()).toBe(false);
  });
});

test("modern: reset and rebind between two polls is noticed by the parked feature select", () => {
  const r = make("modern", 0x19823);
  begin(r);
  setQueue(r, 0, 256, ...block(0x100000));
  setQueue(r, 1, 256, ...block(0x110000));
  finish(r);
  // a whole life unseen; all it leaves is the last values
  st8(r.bar + 0x14, 0);
  st32(r.bar, 3);
  for (const [i, a] of block(0x130000).entries()) st32(r.bar + 0x20 + 8 * i, a);
  st8(r.bar + 0x14, 0xf);
  r.poll();
  expect(r.seen).toEqual([FN_UP, FN_DOWN, FN_REFUSED]);
});

test("modern: header length and bits by what rests in the feature registers", () => {
  for (const [words, features, hdr] of [
    [2, 0x19823, 12],
    [4, 0x19823, 24],
    [4, 0x19821, 12],
    [4, 0x19829, 24],
  ] as const) {
    const r = make("modern", features);
    begin(r, words);
    setQueue(r, 0, 256, ...block(0x100000));
    setQueue(r, 1, 256, ...block(0x110000));
    finish(r);
    expect(r.fn.hdrLen).toBe(hdr);
    expect(r.fn.inOrder).toBe((features & 8) !== 0);
    // a two-word kernel leaves its high word: here VERSION_1 and nothing else
    expect(r.fn.featuresHi).toBe(words === 2 ? 1 : features & 0x3);
  }
});

test("modern: every register a select could change reads the same for every select", () => {
  const { bar } = make("modern", 0x19823);
  for (let i = 0; i < 4; i++) {
    st32(bar, i);
    expect(ld32(bar + 4)).toBe(0x19823);
    st16(bar + 0x16, i);
    expect([ld16(bar + 0x12), ld16(bar + 0x18), ld16(bar + 0x1c), ld16(bar + 0x1e)]).toEqual([2, 256, 0, 0]);
  }
});

test("modern: ring reset of one queue (2.6.1), the other goes on", () => {
  const r = make("modern", WIDE);
  begin(r);
  setQueue(r, 0, 256, ...block(0x100000));
  setQueue(r, 1, 256, ...block(0x110000));
  finish(r);
  expect(r.fn.freshQueues).toBe(3);
  for (const [k, place, size] of [
    [0, 0x120000, 128],
    [1, 0x130000, 256],
    [1, 0x110000, 64],
    [0, 0x5_00100000, 256],
  ] as const) {
    const other = rings(r.fn)[1 - k];
    r.seen.length = 0;
    st16(r.bar + 0x16, k);
    st16(r.bar + 0x3a, 1);
    expect(r.fn.poll()).toBe(FN_DOWN);
    expect(r.fn.stillLive()).toBe(false);
    // the answer comes only after the engine had its chance to stop
    expect(ld16(r.bar + 0x3a)).toBe(1);
    r.poll();
    expect([ld16(r.bar + 0x3a), ld16(r.bar + 0x1c)]).toEqual([0, 0]);
    setQueue(r, k, size, ...block(place, size));
    expect(r.seen).toEqual([]);
    r.w(0x1c, 2, 1);
    expect(r.seen).toEqual([FN_UP]);
    expect(r.fn.freshQueues).toBe(1 << k);
    expect(rings(r.fn)[k]).toEqual(block(place, size));
    expect(rings(r.fn)[1 - k]).toEqual(other!);
    expect(r.fn.stillLive()).toBe(true);
  }
  r.w(0x14, 1, 0);
  expect(r.seen).toEqual([FN_UP, FN_DOWN]);
});

test("modern: notify hints, one word for both queues", () => {
  const r = make("modern", 0x19823);
  expect([r.fn.notifyHint(0), r.fn.notifyHint(1)]).toEqual([-1, -1]);
  st16(r.bar + 0x3000, 1);
  // queue 0's notify may have been overwritten by queue 1's, so both are told
  expect(r.fn.notifyHint(0)).toBe(0);
  expect(r.fn.notifyHint(1) & 0xffff).toBe(1);
  expect([r.fn.notifyHint(0), r.fn.notifyHint(1)]).toEqual([-1, -1]);
  st32(r.bar + 0x3000, 1 | (77 << 16));
  expect(r.fn.notifyHint(1)).toBe((77 << 16) | 1);
});
