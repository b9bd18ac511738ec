/** Seeded random chains both ways against the naive pairing: every byte, every used element, strict mode on. */
import { expect, test } from "bun:test";
import { type PairOptions, PairRig } from "../support/pair-rig.ts";

const CASES: { name: string; frames: number; options: Partial<PairOptions> }[] = [
  { name: "mergeable both ways", frames: 14_000, options: {} },
  { name: "header patched in place", frames: 12_000, options: { patch: true, seed: 2 } },
  { name: "event index", frames: 6_000, options: { eventIdx: true, seed: 3 } },
  { name: "indirect tables", frames: 8_000, options: { indirect: true, seed: 4 } },
  {
    name: "no mergeable buffers, header of 10 bytes",
    frames: 6_000,
    options: { hdrLen: 10, mergeable: false, boardMergeable: false, rxBuffer: [3100, 4000], seed: 5 },
  },
  { name: "header of 24 bytes", frames: 4_000, options: { hdrLen: 24, seed: 6 } },
  { name: "host at 24 bytes, board at 12", frames: 6_000, options: { hdrLen: 24, boardHdrLen: 12, seed: 12 } },
  {
    name: "host at 10 bytes without mergeable buffers, board at 12",
    frames: 5_000,
    options: { hdrLen: 10, boardHdrLen: 12, mergeable: false, rxBuffer: [3100, 4000], seed: 13 },
  },
  {
    name: "host at 24 bytes, board at 12, large frames in small buffers",
    frames: 400,
    options: { hdrLen: 24, boardHdrLen: 12, seed: 14, maxFrame: 65550, rxBuffer: [1024, 4096] },
  },
  { name: "small rings", frames: 5_000, options: { hostQueue: 64, boardQueue: 32, maxFrame: 1500, seed: 7 } },
  {
    name: "one channel each way, viewport maps",
    frames: 5_000,
    options: { seed: 8, model: { readChannels: 1, writeChannels: 1, dmaMap: "legacy", atu: "viewport" } },
  },
  {
    name: "lost doorbells and stale fetches",
    frames: 5_000,
    options: { seed: 9, model: { faults: { lostDoorbell: 0.2 } } },
  },
  {
    name: "64 KiB frames in 1 KiB to 4 KiB buffers",
    frames: 400,
    options: { seed: 10, maxFrame: 65550, rxBuffer: [1024, 4096] },
  },
  {
    name: "in place, indirect tables, event index",
    frames: 4_000,
    options: { patch: true, indirect: true, eventIdx: true, seed: 15 },
  },
  { name: "in place, header of 24 bytes", frames: 3_000, options: { patch: true, hdrLen: 24, seed: 16 } },
  {
    name: "in place, header of 10 bytes, indirect tables",
    frames: 3_000,
    options: {
      patch: true,
      indirect: true,
      hdrLen: 10,
      mergeable: false,
      boardMergeable: false,
      rxBuffer: [3100, 4000],
      seed: 17,
    },
  },
  { name: "scattered pages", frames: 6_000, options: { scattered: true, seed: 18 } },
  { name: "scattered pages, in place", frames: 4_000, options: { scattered: true, patch: true, seed: 19 } },
  {
    name: "scattered pages, indirect tables, event index",
    frames: 4_000,
    options: { scattered: true, indirect: true, eventIdx: true, seed: 20 },
  },
  {
    name: "scattered pages, host at 24 bytes, board at 12",
    frames: 4_000,
    options: { scattered: true, hdrLen: 24, boardHdrLen: 12, seed: 21 },
  },
  {
    name: "scattered pages, host at 10 bytes without mergeable buffers, board at 12",
    frames: 3_000,
    options: { scattered: true, hdrLen: 10, boardHdrLen: 12, mergeable: false, rxBuffer: [3100, 4000], seed: 22 },
  },
  {
    name: "scattered pages, header of 10 bytes both ways, in place",
    frames: 2_000,
    options: {
      scattered: true,
      patch: true,
      hdrLen: 10,
      mergeable: false,
      boardMergeable: false,
      rxBuffer: [3100, 4000],
      seed: 23,
    },
  },
  {
    name: "scattered pages, 64 KiB frames in 1 KiB to 4 KiB buffers, header of 24 bytes in place",
    frames: 300,
    options: { scattered: true, patch: true, hdrLen: 24, maxFrame: 65550, rxBuffer: [1024, 4096], seed: 24 },
  },
  { name: "notification data", frames: 4_000, options: { notices: true, seed: 15 } },
  { name: "notification data, event index", frames: 4_000, options: { notices: true, eventIdx: true, seed: 16 } },
  { name: "host memory across the 4 GiB line", frames: 2_000, options: { seed: 11, hostBase: 0xfe00_0000 } },
];

for (const c of CASES) {
  test(`${c.name}: ${2 * c.frames} chains`, () => {
    const rig = new PairRig(c.options);
    rig.exchange(c.frames);
    expect(rig.host.received).toBe(c.frames);
    expect(rig.board.received).toBe(c.frames);
    expect(rig.dp.toHost.bytes).toBe(rig.host.receivedBytes);
    expect(rig.dp.toBoard.bytes).toBe(rig.board.receivedBytes);
    expect(rig.dp.toHost.dropped + rig.dp.toBoard.dropped).toBe(0);
    if (c.options.scattered) expect(rig.pages!.learnt).toBeGreaterThan(100);
    expect(rig.model.violationCount).toBe(0);
    rig.close();
  }, 60_000);
}

test("the cases make more than 10^5 chains", () => {
  expect(CASES.reduce((n, c) => n + 2 * c.frames, 0)).toBeGreaterThan(100_000);
});

const TRICKLE = 3000;
test("lone frames of the host over linked lists alone: nothing is prepared", () => {
  const rig = new PairRig({ notices: true, seed: 18, singles: false });
  rig.trickle(500, 400);
  expect(rig.dp.hqTx.notices).toBeGreaterThan(250);
  expect([rig.dp.hqTx.prepared, rig.model.stats.doorbells > 0]).toEqual([0, true]);
  rig.close();
}, 60_000);

for (const eventIdx of [false, true])
  for (const [name, model] of [
    ["two read channels", {}],
    ["one read channel", { readChannels: 1, writeChannels: 1 }],
    ["lost doorbells and stale fetches", { faults: { lostDoorbell: 0.2 } }],
    ["data in pieces, doorbells only for the idle", { faults: { splitData: 0.3, notIdleDoorbell: true } }],
    ["one context window for all channels", { dmaMap: "legacy", atu: "viewport" }],
  ] as const)
    test(`lone frames of the host, ${eventIdx ? "event index" : "flags"}, ${name}: by notification, and none is lost`, () => {
      const rig = new PairRig({ notices: true, eventIdx, indirect: false, seed: 17, model });
      rig.trickle(TRICKLE, 400);
      // The others find their ring busy, or asked of a moment ago.
      expect(rig.dp.hqTx.notices).toBeGreaterThan(TRICKLE / 2);
      expect(rig.dp.hqTx.listening).toBe(true);
      // Chains of random shapes: after a wrong guess there is none for 64 rounds.
      const { stats, edma } = rig.model;
      if (edma.readChannels.length > 1) expect(rig.dp.hqTx.prepared).toBeGreaterThan(TRICKLE / 20);
      else expect(rig.dp.hqTx.prepared).toBe(0);
      expect([edma.contextWritesWhileBusy, stats.busyDoorbells, stats.deadDoorbells]).toEqual([0, 0, 0]);
      rig.close();
    }, 60_000);
