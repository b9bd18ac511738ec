/** Single behaviours of both personalities over plain memory: hostile and unusual drivers, ring reset, hints, cost of a poll. */
import { afterEach, describe, expect, test } from "bun:test";
import { NetConfig } from "../../../src/engine/function/config.ts";
import { FN_DOWN, FN_NONE, FN_REFUSED, FN_UP, type HostFunction } from "../../../src/engine/function/host-function.ts";
import { LegacyFunction } from "../../../src/engine/function/legacy.ts";
import { ModernFunction } from "../../../src/engine/function/modern.ts";
import { ld8, ld16, ld32, mapAnonymous, st8, st16, st32, unmap } from "../../../src/hw/mem.ts";
import { BAR_SIZE, FakeConfig, MSIX_CAP } from "./plain-host.ts";

const MAC = Uint8Array.from([2, 0, 0, 1, 0, 2]);
const WIDE = 0x200199fb | 0;
const bars: number[] = [];
afterEach(() => {
  for (const b of bars.splice(0)) unmap(b, BAR_SIZE);
});

function make(personality: "modern" | "legacy", features: number, msix = false) {
  const bar = mapAnonymous(BAR_SIZE);
  bars.push(bar);
  const config = new FakeConfig(bar);
  const parts = {
    bar,
    msixTablePtr: 0,
    pbaPtr: 0,
    vectors: msix ? 4 : 0,
    intxPin: true,
    dbi: config,
    msixCap: msix ? MSIX_CAP : 0,
    features,
    queueSize: 256,
    config: new NetConfig(MAC, 1500),
    intact: () => true,
    program: () => {},
    onClose: () => {},
  };
  const fn: HostFunction = personality === "modern" ? new ModernFunction(parts) : new LegacyFunction(parts);
  /** what poll() said that was not FN_NONE, two polls at a time */
  const seen: number[] = [];
  const poll = (): void => {
    for (let i = 0; i < 2; i++) {
      const e = fn.poll();
      if (e !== FN_NONE) seen.push(e);
    }
  };
  const w = (off: number, size: 1 | 2 | 4, v: number): void => {
    if (size === 1) st8(bar + off, v);
    else if (size === 2) st16(bar + off, v);
    else st32(bar + off, v);
    poll();
  };
  return { bar, fn, config, seen, poll, w };
}

type Rig = ReturnType<typeof make>;

function begin({ w }: Rig, words = 4): void {
  w(0x14, 1, 0);
  w(0x14, 1, 1);
  w(0x14, 1, 3);
  for (let i = 0; i < words; i++) w(0x00, 4, i);
  for (let i = 0; i < words; i++) {
    w(0x08, 4, i);
    w(0x0c, 4, i === 1 ? 1 : 0);
  }
  w(0x14, 1, 0xb);
}

function setQueue({ w }: Rig, k: number, size: number, desc: number, avail: number, used: number): void {
  w(0x16, 2, k);
  w(0x18, 2, size);
  w(0x16, 2, k);
  let off = 0x20;
  for (const a of [desc, avail, used]) {
    w(off, 4, (a % 2 ** 32) | 0);
    w(off + 4, 4, Math.floor(a / 2 ** 32));
    off += 8;
  }
  w(0x16, 2, k);
}

function finish({ w }: Rig): void {
  for (let k = 0; k < 2; k++) {
    w(0x16, 2, k);
    w(0x1c, 2, 1);
  }
  w(0x14, 1, 0xf);
}

/** table, available and used ring of a block at `desc` as Linux lays it out */
const block = (desc: number, size = 256): [number, number, number] => [
  desc,
  desc + 16 * size,
  Math.ceil((desc + 16 * size + 6 + 2 * size) / 64) * 64,
];

const at = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);
const rings = (fn: HostFunction): number[][] =>
  fn.queues.map((q) => [at(q.descLo, q.descHi), at(q.availLo, q.availHi), at(q.usedLo, q.usedHi)]);

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

describe("legacy", () => {
  const MAC_AT = (bar: number, off: number): number[] => Array.from({ length: 6 }, (_, i) => ld8(bar + off + i));

  function bind(r: Rig, a: number, b: number, accepted = 0x9821): void {
    r.w(0x12, 1, 0);
    r.w(0x12, 1, 1);
    r.w(0x12, 1, 3);
    r.w(0x04, 4, accepted);
    for (const [k, pfn] of [a, b].entries()) {
      r.w(0x0e, 2, k);
      expect(ld32(r.bar + 8)).toBe(0);
      r.w(0x08, 4, pfn);
    }
    r.w(0x12, 1, 7);
  }

  test("rings of a page number; header by the accepted word", () => {
    for (const [accepted, hdr] of [
      [0x9821, 12],
      [0x1821, 10],
    ] as const) {
      const r = make("legacy", 0x19821);
      bind(r, 0x100, 0xfffff000, accepted);
      expect(r.seen).toEqual([FN_UP]);
      expect(rings(r.fn)).toEqual([
        [0x100000, 0x101000, 0x102000],
        [0xfffff000 * 4096, 0xfffff000 * 4096 + 0x1000, 0xfffff000 * 4096 + 0x2000],
      ]);
      expect([r.fn.hdrLen, r.fn.featuresLo]).toEqual([hdr, accepted]);
    }
  });

  test("the MAC moves with MSI-X Enable and the vector cells keep what the host wrote", () => {
    const r = make("legacy", 0x19821, true);
    expect(MAC_AT(r.bar, 0x14)).toEqual([...MAC]);
    r.config.msixOn = true;
    r.poll();
    expect(MAC_AT(r.bar, 0x18)).toEqual([...MAC]);
    r.w(0x14, 2, 0);
    r.w(0x16, 2, 0xffff);
    expect([ld16(r.bar + 0x14), ld16(r.bar + 0x16)]).toEqual([0, 0xffff]);
    r.config.msixOn = false;
    r.poll();
    expect(MAC_AT(r.bar, 0x14)).toEqual([...MAC]);
    r.fn.setLink(true);
    expect(ld16(r.bar + 0x1a)).toBe(1);
  });

  test("refused: same page, overlap, one queue, a bit that was not offered, queue_select elsewhere; then served", () => {
    const r = make("legacy", 0x19821);
    bind(r, 0x100, 0x100);
    expect(r.fn.lastRefusal).toMatch(/queue 0 \(page 0x100\) and queue 1 \(page 0x100\) overlap at queue size 256/);
    bind(r, 0x100, 0x102);
    expect(r.fn.lastRefusal).toMatch(/overlap/);
    bind(r, 0x100, 0);
    expect(r.fn.lastRefusal).toMatch(/only one queue address was seen \(page 0x100\)/);
    bind(r, 0, 0);
    expect(r.fn.lastRefusal).toMatch(/no queue address was seen/);
    bind(r, 0x100, 0x200, 0x80009821 | 0);
    expect(r.fn.lastRefusal).toMatch(/accepted features 0x80009821, 0x19821 were offered/);
    r.w(0x12, 1, 0);
    for (const [
      off,
      size,
      v,
    ] of [[0x12, 1, 3], [0x0e, 2, 1], [8, 4, 0x200], [0x0e, 2, 0], [8, 4, 0x100], [0x12, 1, 7]] as const) // biome-ignore format: a script
      r.w(off, size, v);
    expect(r.fn.lastRefusal).toMatch(/queue_select rests at 0/);
    expect(r.seen.filter((e) => e === FN_REFUSED).length).toBe(6);
    bind(r, 0x100, 0x200);
    expect(r.fn.live).toBe(true);
    expect(r.fn.lastRefusal).toBe("");
  });

  test("a page number while live is a new life", () => {
    const r = make("legacy", 0x19821);
    bind(r, 0x100, 0x200);
    st32(r.bar + 8, 0x300);
    r.poll();
    expect(r.seen.slice(0, 2)).toEqual([FN_UP, FN_DOWN]);
    // the status never moved, so this is not a life that can be served
    expect(r.fn.live).toBe(false);
  });

  test("ISR rests at 1; the config bit is taken back after a while", () => {
    const r = make("legacy", 0x19821);
    bind(r, 0x100, 0x200, 0x19821);
    expect(ld8(r.bar + 0x13)).toBe(1);
    expect(r.fn.setLink(true)).toBe(1);
    expect(ld8(r.bar + 0x13)).toBe(3);
    for (let i = 0; i < 20000; i++) r.fn.poll();
    expect(ld8(r.bar + 0x13)).toBe(1);
  });

  test("notify hints", () => {
    const r = make("legacy", 0x19821);
    expect(r.fn.notifyHint(0)).toBe(-1);
    st16(r.bar + 0x10, 0);
    expect([r.fn.notifyHint(0), r.fn.notifyHint(1), r.fn.notifyHint(0)]).toEqual([0, 1, -1]);
  });
});

describe("cost", () => {
  for (const personality of ["modern", "legacy"] as const) {
    test(`${personality}: a quiet poll of a live function is cheap and allocates nothing`, () => {
      const r = make(personality, personality === "modern" ? 0x19823 : 0x19821);
      if (personality === "modern") {
        begin(r);
        setQueue(r, 0, 256, ...block(0x100000));
        setQueue(r, 1, 256, ...block(0x110000));
        finish(r);
      } else {
        for (const [
          off,
          size,
          v,
        ] of [[0x12, 1, 3], [0x0e, 2, 0], [8, 4, 0x100], [0x0e, 2, 1], [8, 4, 0x200], [0x12, 1, 7]] as const) // biome-ignore format: a script
          r.w(off, size, v);
      }
      expect(r.seen).toEqual([FN_UP]);
      const { fn } = r;
      const N = 1_000_000;
      const spin = (): number => {
        let sum = 0;
        for (let i = 0; i < N; i++) sum += fn.poll();
        return sum;
      };
      expect(spin()).toBe(0);
      Bun.gc(true);
      const before = process.memoryUsage().heapUsed;
      let best = Number.POSITIVE_INFINITY;
      for (let k = 0; k < 5; k++) {
        const t = Bun.nanoseconds();
        expect(spin()).toBe(0);
        best = Math.min(best, (Bun.nanoseconds() - t) / N);
      }
      const grown = process.memoryUsage().heapUsed - before;
      console.log(`${personality}: ${best.toFixed(1)} ns a poll`);
      // the target is 150 ns on a quiet machine; this one is shared
      expect(best).toBeLessThan(600);
      expect(grown).toBeLessThan(512 * 1024);
    });
  }
});
