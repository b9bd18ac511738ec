/** The built-in host's data side against a trapping function that sends every frame back; strict mode throughout. */

import { heapStats } from "bun:jsc";
import { afterEach, describe, expect, test } from "bun:test";
import { BuiltInHost } from "../../../src/hw/model/host.ts";
import type { RingFault } from "../../../src/hw/model/host-faults.ts";
import { DEFAULT_NET, type NetOptions } from "../../../src/hw/model/host-net.ts";
import type { HostOptions } from "../../../src/hw/model/host-options.ts";
import {
  FRAME_BAD_BYTES,
  FRAME_OUT_OF_ORDER,
  FrameChecker,
  TrafficEnd,
  type TrafficOptions,
  writeFrame,
} from "../../../src/hw/model/host-traffic.ts";
import { type FunctionOptions, TestFunction } from "../../support/virtio-function.ts";

const FAST = { readDelayTurns: 0, writeDelayTurns: 0, softwareDelayTurns: 0, reuseDelayTurns: 3, accessesPerTurn: 64 };
const open: BuiltInHost[] = [];

afterEach(() => {
  for (const host of open.splice(0)) host.close();
});

interface Traffic {
  frames: number;
  least: number;
  most: number;
}

function rig(t: Traffic, options: Partial<HostOptions>, fn: Partial<FunctionOptions>) {
  // the end reads and writes host memory, which exists only after the host: filled in below
  const traffic: TrafficOptions = { seed: 42, checkSeed: 42, ...t, u8: new Uint8Array(0), ptr: 0 };
  const end = new TrafficEnd(traffic);
  const host = new BuiltInHost({ memory: 16 << 20, strict: true, pace: { ...FAST }, end, ...options });
  traffic.u8 = host.hostMemory.u8;
  traffic.ptr = host.hostMemory.ptr;
  open.push(host);
  const device = new TestFunction(host, fn);
  host.attach(device);
  const run = (until: () => boolean, limit = 200000) => {
    for (let i = 0; i < limit && !until(); i++) {
      host.turn();
      device.turn();
    }
    return until();
  };
  return { host, device, end, run };
}

const bits = (...list: number[]) => {
  const w = [0, 0, 0, 0];
  for (const b of list) w[b >> 5]! |= 1 << (b & 31);
  return w;
};
const MODERN = [0, 5, 16, 32];
const LEGACY = [0, 5, 16];

interface Case {
  name: string;
  modern: boolean;
  features: number[];
  most: number;
  net?: Partial<NetOptions>;
  irq?: "auto" | "intx";
  base?: number;
  queueSize?: number;
  header?: number;
}

const tx = (o: Partial<NetOptions["tx"]>): Partial<NetOptions> => ({ tx: { ...DEFAULT_NET.tx, ...o } });
const MIXED: Partial<NetOptions> = {
  rx: { least: 1536, most: 4096, align: 1, splitHeader: false, spare: 0 },
  tx: { layout: "mixed", piece: 4096, linear: 128, scatter: true, align: 1 },
};

const CASES: Case[] = [
  {
    name: "modern, mergeable, one descriptor a frame",
    modern: true,
    features: [...MODERN, 15],
    most: 1514,
    net: tx({ layout: "linear" }),
  },
  {
    name: "modern, mergeable, 64 KiB in 32 KiB pieces",
    modern: true,
    features: [...MODERN, 15, 11, 12, 1, 7, 8],
    most: 65535,
  },
  {
    name: "modern, mergeable, mixed and scattered",
    modern: true,
    features: [...MODERN, 15, 1, 7],
    most: 65535,
    net: MIXED,
  },
  {
    name: "modern, mergeable, memory above 4 GiB",
    modern: true,
    features: [...MODERN, 15],
    most: 9000,
    net: MIXED,
    base: 0x2_4000_0000,
  },
  { name: "modern, big buffers", modern: true, features: [...MODERN, 1, 7, 8], most: 65535, net: tx({ piece: 4096 }) },
  { name: "modern, small buffers", modern: true, features: MODERN, most: 1514, net: tx({ layout: "split" }) },
  {
    name: "modern, small buffers, header apart",
    modern: true,
    features: MODERN,
    most: 1514,
    net: { rx: { ...DEFAULT_NET.rx, splitHeader: true } },
  },
  { name: "modern, EVENT_IDX", modern: true, features: [...MODERN, 15, 29], most: 20000, net: MIXED },
  { name: "modern, INTx", modern: true, features: [...MODERN, 15], most: 20000, irq: "intx" },
  { name: "modern, INTx and EVENT_IDX", modern: true, features: [...MODERN, 15, 29], most: 20000, irq: "intx" },
  { name: "modern, NOTIFICATION_DATA", modern: true, features: [...MODERN, 15, 38], most: 5000 },
  {
    name: "modern, header of 24 bytes",
    modern: true,
    features: [...MODERN, 15, 1, 65],
    most: 20000,
    net: MIXED,
    header: 24,
  },
  { name: "modern, 16 descriptors", modern: true, features: [...MODERN, 15], most: 5000, queueSize: 16 },
  { name: "legacy, mergeable", modern: false, features: [...LEGACY, 15, 1, 7], most: 65535, net: MIXED },
  {
    name: "legacy, small buffers, header of 10 bytes",
    modern: false,
    features: LEGACY,
    most: 1514,
    net: tx({ layout: "split" }),
    header: 10,
  },
  {
    name: "legacy, big buffers, INTx",
    modern: false,
    features: [...LEGACY, 1, 7],
    most: 65535,
    irq: "intx",
    header: 10,
  },
  { name: "legacy, indirect and EVENT_IDX", modern: false, features: [...LEGACY, 15, 28, 29], most: 65535, net: MIXED },
  {
    name: "legacy, indirect big buffers",
    modern: false,
    features: [...LEGACY, 1, 7, 28],
    most: 65535,
    net: tx({ piece: 4096 }),
    header: 10,
  },
];

describe("frames there and back, every byte compared", () => {
  for (const c of CASES) {
    test(c.name, () => {
      const frames = c.most > 10000 ? 400 : 1500;
      const { host, device, end, run } = rig(
        { frames, least: 60, most: c.most },
        { net: c.net ?? {}, irq: c.irq ?? "auto", memoryBase: c.base ?? 0x0800_0000 },
        { modern: c.modern, features: bits(...c.features), queueSize: c.queueSize ?? 256 },
      );
      expect(run(() => end.checker.frames === frames)).toBe(true);
      expect({ error: end.checker.error, seq: end.checker.errorSeq, at: end.checker.errorAt }).toMatchObject({
        error: 0,
      });
      expect(host.truth!.hdrLen).toBe(c.header ?? 12);
      const { rx, tx: out } = host.net!;
      run(() => out.completed === out.frames, 500);
      expect([
        rx.badHeader,
        rx.badLength,
        rx.missing,
        rx.dropped,
        rx.foreign,
        rx.broken,
        out.broken,
        out.tooLong,
        out.written,
      ]).toEqual(Array(9).fill(0));
      expect(device.broken).toEqual([]);
      expect([device.violations, device.faults, host.irq.spurious, host.irq.redundant]).toEqual([0, 0, 0, 0]);
      expect(host.net!.unhandled).toBeLessThan(3);
      // an interrupt is sent in the turn of the device that used the buffers: the host sees it in its next turn
      expect(host.net!.longestIrqWait).toBeLessThanOrEqual(c.irq === "intx" ? 8 : 2);
      expect(host.net!.interrupts).toBeGreaterThan(0);
      if (c.most > 10000) expect(rx.merged).toBeGreaterThan(10);
      if (c.features.includes(38)) {
        const last = device.notifies.filter((v) => (v & 0xffff) === 1).at(-1)!;
        expect(last >>> 16).toBe(out.frames & 0xffff);
      } else if (c.modern) expect(device.notifies.every((v) => v === 0 || v === 1)).toBe(true);
    });
  }
});

test("strict mode is strict: memory outside of posted buffers, before DRIVER_OK and after a removal is not granted", () => {
  const { host, device, end, run } = rig(
    { frames: 10, least: 60, most: 1514 },
    { autoBind: false, pace: { ...FAST, readDelayTurns: 1 } },
    { features: bits(...MODERN, 15) },
  );
  const shadow = host.memory.shadow!;
  run(() => host.state === "idle");
  host.bind();
  run(() => host.driver !== null && host.driver.queues.length === 2);
  const queue = host.driver!.queues[0]!;
  expect(device.status & 4).toBe(0);
  expect(shadow.check(queue.desc, 16, false)).toBe(false);
  run(() => host.state === "bound" && end.checker.frames === 10);
  expect(shadow.check(queue.desc, 16, false)).toBe(true);
  expect(shadow.check(queue.desc, 16, true)).toBe(false);
  expect(shadow.check(queue.used, 4, true)).toBe(true);
  const ring = host.net!.rx.ring;
  const buffer =
    (ring.desc[4 * (ring.avail[2]! % 256)]! >>> 0) + 2 ** 32 * (ring.desc[4 * (ring.avail[2]! % 256) + 1]! >>> 0);
  const len = ring.desc[4 * (ring.avail[2]! % 256) + 2]!;
  expect(shadow.check(buffer, len, true)).toBe(true);
  expect(shadow.check(buffer, len + 1, true)).toBe(false);
  host.unbind();
  run(() => host.state === "idle");
  expect(shadow.check(queue.desc, 1, false)).toBe(false);
  expect(shadow.check(queue.used, 1, true)).toBe(false);
  expect(shadow.check(buffer, 1, true)).toBe(false);
  device.bytes(buffer, 64, true);
  expect(device.violations).toBe(1);
});

test("a reset in the middle of a transfer keeps memory handed over for reuseDelayTurns, not longer", () => {
  const { host, device, run } = rig(
    { frames: 1e9, least: 60, most: 1514 },
    { pace: { ...FAST, reuseDelayTurns: 50 } },
    { features: bits(...MODERN, 15) },
  );
  run(() => host.net !== null && host.net.rx.frames > 100);
  const { desc } = host.truth!.queues[0]!;
  const from = host.turns;
  host.reset();
  expect(device.status).toBe(0);
  expect(host.memory.shadow!.check(desc, 16, false)).toBe(true);
  run(() => !host.memory.shadow!.check(desc, 16, false));
  expect(host.turns - from).toBeGreaterThanOrEqual(50);
  expect(host.turns - from).toBeLessThan(55);
  run(() => host.state === "idle");
  expect(device.violations).toBe(0);
});

test("vectors: masked for a while, then unmasked; moved to another CPU under traffic", () => {
  const { host, device, end, run } = rig({ frames: 1e9, least: 60, most: 1514 }, {}, { features: bits(...MODERN, 15) });
  run(() => end.checker.frames > 200);
  expect(host.maskVector(1, 300)).toBe(true);
  expect(host.maskVector(2, 10)).toBe(false);
  const seen = end.checker.frames;
  run(() => (device.pendingBits & 2) !== 0);
  const stuck = end.checker.frames;
  const from = host.turns;
  run(() => end.checker.frames > stuck);
  expect(host.turns - from).toBeGreaterThan(200);
  expect(stuck - seen).toBeLessThan(1000);
  expect(host.net!.longestIrqWait).toBeGreaterThan(200);
  for (let i = 0; i < 20; i++) {
    run(() => !host.busy);
    const address = device.table[4]! + device.table[6]!;
    expect(host.retargetVector(1)).toBe(true);
    run(() => !host.busy);
    expect(device.table[4]! + device.table[6]!).not.toBe(address);
    const before = end.checker.frames;
    expect(run(() => end.checker.frames > before + 50)).toBe(true);
  }
  expect(host.irq.spurious).toBe(0);
  expect(end.checker.error).toBe(0);
});

test("ring reset: one queue starts over under traffic, the other goes on", () => {
  const { host, device, end, run } = rig(
    { frames: 1e9, least: 60, most: 1514 },
    { kernel: "6.1" },
    { features: bits(...MODERN, 15, 29, 40) },
  );
  for (let round = 0; round < 20; round++) {
    const which = (round & 1) as 0 | 1;
    const from = end.checker.frames;
    expect(run(() => end.checker.frames > from + 100 && !host.busy)).toBe(true);
    end.checker.error = 0;
    expect(host.resetQueue(which)).toBe(true);
    expect(host.resetQueue(which)).toBe(false);
    expect(run(() => !host.busy)).toBe(true);
    expect(host.error).toBe("");
  }
  const from = end.checker.frames;
  run(() => end.checker.frames > from + 100);
  end.checker.error = 0;
  run(() => end.checker.frames > from + 500);
  expect(end.checker.error).toBe(0);
  expect([device.violations, device.faults, host.net!.rx.broken, host.net!.tx.broken]).toEqual([0, 0, 0, 0]);
  expect(device.broken).toEqual([]);
  host.rebind();
  expect(run(() => host.binds === 2)).toBe(true);
});

test("link: config interrupts of both kinds reach the end", () => {
  for (const irq of ["auto", "intx"] as const) {
    for (const modern of [true, false]) {
      const { host, device, end, run } = rig(
        { frames: 5, least: 60, most: 1514 },
        { irq },
        { modern, features: bits(...(modern ? MODERN : LEGACY), 15) },
      );
      run(() => end.done);
      expect(end.linkUp).toBe(true);
      device.setLink(false);
      expect(run(() => !end.linkUp, 50)).toBe(true);
      device.setLink(true);
      expect(run(() => end.linkUp, 50)).toBe(true);
      expect(host.net!.configInterrupts).toBe(2);
    }
  }
});

test("INTx: a line that stays up with nothing to do is disabled as Linux does", () => {
  const { host, device, run } = rig(
    { frames: 5, least: 60, most: 1514 },
    { irq: "intx" },
    { features: bits(...MODERN, 15) },
  );
  run(() => host.net !== null && host.net.rx.frames === 5);
  device.paused = true;
  host.intx(true);
  run(() => host.net!.lineDisabled, 300000);
  expect(host.net!.lineDisabled).toBe(true);
  expect(host.net!.unhandled).toBeGreaterThan(99900);
});

test("injected faults: the device finds exactly the broken rule, and a reset repairs the queue", () => {
  const cases: [RingFault, RegExp, boolean][] = [
    ["desc-loop", /descriptor loop/, false],
    ["next-out-of-range", /descriptor 256 of 256/, false],
    ["head-out-of-range", /descriptor 256 of 256/, false],
    ["zero-length", /length 0/, false],
    ["write-before-read", /readable after writable/, false],
    ["avail-jump", /index jumped/, false],
    ["indirect-length", /indirect table of 24/, true],
    ["indirect-nested", /indirect descriptor in the wrong place/, true],
  ];
  for (const [fault, rule, indirect] of cases) {
    for (const queue of [0, 1] as const) {
      const { host, device, end, run } = rig(
        { frames: 1e9, least: 60, most: 1514 },
        { net: { ...tx({ piece: 4096 }), rx: { ...DEFAULT_NET.rx, spare: 4 } } },
        { modern: false, features: bits(...LEGACY, 15, ...(indirect ? [28] : [])) },
      );
      run(() => end.checker.frames > 50);
      device.paused = true;
      end.paused = true;
      expect(host.inject(fault, queue)).toBeGreaterThanOrEqual(0);
      expect(device.broken).toEqual([]);
      while (device.pop(device.queues[queue]!) !== null && device.broken.length === 0);
      expect(device.broken[0]).toMatch(rule);
      host.reset(true);
      device.broken = [];
      device.violations = 0;
      device.paused = false;
      end.paused = false;
      const before = end.checker.frames;
      expect(run(() => host.state === "bound" && end.checker.frames > before + 50)).toBe(true);
      expect(device.broken).toEqual([]);
      expect(device.violations).toBe(0);
    }
  }
});

test("injected faults: a bad address is a bus error at the device, a long chain is legal", () => {
  const { host, device, end, run } = rig({ frames: 1e9, least: 60, most: 1514 }, {}, { features: bits(...MODERN, 15) });
  run(() => end.checker.frames > 50);
  end.paused = true;
  run(() => host.net!.tx.ring.inFlight === 0, 1000);
  device.paused = true;
  const free = host.net!.tx.ring.freeCount;
  expect(host.inject("long-chain", 1)).toBeGreaterThanOrEqual(0);
  expect(device.pop(device.queues[1]!)!.length).toBe(free);
  host.reset(true);
  device.paused = false;
  end.paused = false;
  run(() => host.state === "bound" && host.net!.rx.frames > 20);
  expect(host.inject("bad-address", 1)).toBeGreaterThanOrEqual(0);
  run(() => device.faults > 0, 100);
  expect(device.faults).toBeGreaterThan(0);
  const before = end.checker.frames;
  run(() => end.checker.frames > before + 50);
  host.reset(true);
  expect(run(() => host.state === "bound" && host.net!.rx.frames > 20)).toBe(true);
});

test("set-up faults: addresses, sizes and bus mastering as asked", () => {
  const word = bits(...MODERN, 15);
  const one = (faults: HostOptions["faults"]) => {
    const r = rig({ frames: 0, least: 60, most: 60 }, { faults }, { features: word });
    r.device.paused = true;
    r.run(() => r.host.state === "bound");
    return r;
  };
  expect(one({ misalignedQueue: true }).device.queues[0]!.desc % 16).toBe(8);
  const overlap = one({ overlappingQueue: true }).device.queues[0]!;
  expect(overlap.used).toBe(overlap.avail);
  expect(one({ badRingSize: 100 }).device.queues[1]!.size).toBe(100);
  const nowhere = one({ unmappedQueue: true });
  expect(nowhere.host.memory.holds(nowhere.device.queues[0]!.desc)).toBe(false);
  expect(one({ noBusMaster: true }).device.command & 4).toBe(0);
});

test("broken used rings stop the queue: an id never handed out, a length too large", () => {
  for (const [id, len] of [
    [300, 0],
    [0, 70000],
  ] as const) {
    const { host, device, run } = rig({ frames: 0, least: 60, most: 60 }, {}, { features: bits(...MODERN, 15) });
    run(() => host.state === "bound" && host.net !== null);
    const q = device.queues[0]!;
    const words = new Uint32Array(host.hostMemory.u8.buffer, q.used - host.hostMemory.base, 8);
    words[1] = id;
    words[2] = len;
    new Uint16Array(words.buffer, words.byteOffset, 2)[1] = 1;
    const entry = device.table.subarray(4, 8);
    host.message(entry[0]!, entry[2]!);
    run(() => host.net!.rx.broken !== 0, 10);
    expect(host.net!.rx.broken).toBeLessThan(-1);
  }
});

test("the checker finds one wrong byte, a lost frame and a foreign one", () => {
  const buffer = new Uint8Array(2000);
  const good = new FrameChecker(9);
  writeFrame(buffer, 100, 9, 0, 1500);
  expect(good.check(buffer, 100, 1500)).toBe(0);
  writeFrame(buffer, 100, 9, 1, 1500);
  buffer[100 + 777]! ^= 4;
  expect(good.check(buffer, 100, 1500)).toBe(FRAME_BAD_BYTES);
  expect([good.errorSeq, good.errorAt]).toEqual([1, 777]);
  const gap = new FrameChecker(9);
  writeFrame(buffer, 100, 9, 2, 61);
  expect(gap.check(buffer, 100, 61)).toBe(FRAME_OUT_OF_ORDER);
  writeFrame(buffer, 100, 10, 3, 61);
  expect(gap.check(buffer, 100, 61)).toBe(FRAME_BAD_BYTES);
});

test("the service loop of the host allocates nothing: heap after 200000 frames", () => {
  // a device that is not the trapping one (that allocates): frames are consumed and produced by index only
  const { host, device, end, run } = rig(
    { frames: 1e9, least: 60, most: 60 },
    { strict: false, net: tx({ layout: "linear" }) },
    { features: bits(...MODERN, 15) },
  );
  run(() => end.checker.frames > 100);
  device.paused = true;
  end.paused = true;
  run(() => host.net!.tx.ring.inFlight === 0, 100);
  const q = device.queues as [(typeof device.queues)[0], (typeof device.queues)[0]];
  const base = host.hostMemory.base;
  const u16 = new Uint16Array(host.hostMemory.u8.buffer);
  const u32 = new Uint32Array(host.hostMemory.u8.buffer);
  const serve = (which: 0 | 1, len: number, most: number) => {
    const { avail, used, size } = q[which];
    const to = u16[(avail - base + 2) / 2]!;
    let at = q[which].lastAvail;
    for (let n = 0; at !== to && n < most; n++) {
      const slot = q[which].usedIdx & (size - 1);
      u32[(used - base + 4) / 4 + 2 * slot] = u16[(avail - base + 4) / 2 + (at & (size - 1))]!;
      u32[(used - base + 4) / 4 + 2 * slot + 1] = len;
      at = (at + 1) & 0xffff;
      q[which].usedIdx = (q[which].usedIdx + 1) & 0xffff;
    }
    q[which].lastAvail = at;
    u16[(used - base + 2) / 2] = q[which].usedIdx;
  };
  const entry = device.table.subarray(4, 8);
  const loop = (turns: number) => {
    for (let i = 0; i < turns; i++) {
      serve(1, 0, 32);
      serve(0, 72, 32);
      host.message(entry[0]!, entry[2]!);
      host.turn();
      device.notifies.length = 0;
    }
  };
  end.paused = false;
  loop(3000);
  Bun.gc(true);
  const before = heapStats().objectCount;
  const frames = host.net!.rx.frames;
  loop(7000);
  Bun.gc(true);
  const grown = heapStats().objectCount - before;
  expect(host.net!.rx.frames - frames).toBeGreaterThan(100000);
  expect(host.net!.tx.frames).toBeGreaterThan(200000);
  expect(grown).toBeLessThan(200);
});
