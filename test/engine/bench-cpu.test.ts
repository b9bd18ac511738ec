/** bench cpu: that it measures what it says. The figures themselves belong in reports, not here. */
import { expect, test } from "bun:test";
import { measureCpu } from "../../src/engine/bench/cpu.ts";
import { heapBlocks } from "../../src/engine/bench/heap.ts";
import { CpuRig } from "../../src/engine/bench/rig.ts";
import { HDR, rxBuffer, SHAPES, type Shape, txPieces } from "../../src/engine/bench/side.ts";
import { type CpuWithout, casesOf, measureRow } from "../../src/engine/bench.ts";
import { TUNING } from "../../src/engine/tuning.ts";
import type { Direction } from "../../src/hw/model/timing.ts";

test.each(SHAPES.map((s) => [s] as const))("shape %s: the pieces are the frame, with header", (shape) => {
  for (const bytes of [60, 64, 78, 1500, 9000, 65000]) {
    expect(txPieces(shape, bytes).reduce((n, len) => n + len, 0)).toBe(bytes + HDR);
    expect(rxBuffer(shape, bytes)).toBeGreaterThanOrEqual(Math.min(bytes + HDR, 4096));
  }
});

function blocks(shape: Shape, direction: Direction, frameBytes: number, batch: number, frames: number): CpuRig {
  const rig = new CpuRig({ shape, direction, frameBytes, batch });
  while (rig.frames < frames) {
    rig.between();
    for (let t = 0; t < rig.turns; t++) {
      const rc = rig.dp.turn();
      if (rc < 0) throw new Error(`code ${rc}, ${rig.dp.culprit} a=${rig.dp.a} b=${rig.dp.b}`);
    }
  }
  return rig;
}

test.each([
  ["single", 64, 1],
  ["single", 64, 32],
  ["frags4k", 1500, 4],
  ["frags4k", 65000, 4],
  ["frags32k", 65000, 1],
  ["tso", 65000, 4],
] as const)("%s, %i bytes, batch %i: every frame arrives at both drivers, whole", (shape, bytes, batch) => {
  for (const direction of ["ep_to_host", "host_to_ep", "both"] as const) {
    const rig = blocks(shape, direction, bytes, batch, 3000);
    const { toHost, toBoard } = rig.dp;
    const sent = { host: toHost.frames, board: toBoard.frames };
    // Let everything land, which is attended to after some turns: more blocks, then what the drivers saw is at least what was begun before.
    for (let i = 0; i < 2 * TUNING.tendAfter + 4; i++) {
      rig.between();
      rig.dp.turn();
    }
    expect(rig.host.receivedBytes).toBeGreaterThanOrEqual(sent.host * (bytes + HDR));
    expect(rig.board.receivedBytes).toBeGreaterThanOrEqual(sent.board * (bytes + HDR));
    expect(toHost.dropped + toBoard.dropped).toBe(0);
    expect(direction === "host_to_ep" ? toHost.frames : toBoard.frames).toBe(direction === "both" ? toBoard.frames : 0);
    rig.close();
  }
});

test("a row has what it says, and the turns allocate nothing", () => {
  const r = measureCpu(
    { shape: "single", direction: "both", frameBytes: 64, batch: 32 },
    { runs: 2, frames: 60_000, warmup: 300_000, repeats: 0 },
  );
  expect(r.frames).toBeGreaterThanOrEqual(60_000);
  expect(r.ns_per_frame.min).toBeLessThanOrEqual(r.ns_per_frame.median);
  expect(r.ns_per_frame.median).toBeLessThanOrEqual(r.ns_per_frame.max);
  expect(r.ns_per_frame.min).toBeGreaterThan(0);
  expect(r.burst).toBeGreaterThan(1);
  expect(r.burst).toBeLessThanOrEqual(32);
  expect(r.elements_per_frame).toBeGreaterThan(1);
  expect(r.elements_per_frame).toBeLessThan(2);
  // Compiler threads may still install code; a single 16-byte cell a frame would be 2 MB.
  expect(r.bytes_allocated).toBeLessThan(200_000);
  expect([4096, 2 ** 21]).toContain(r.page_bytes);
});

test("a run beside which the core is shared is made again, so often as is asked for, and does not count", () => {
  const row = { shape: "single", direction: "ep_to_host", frameBytes: 64, batch: 32 } as const;
  const limits = { runs: 2, frames: 10_000, warmup: 10_000 };
  // No core is as fast as this: every run looks like one on a shared core.
  const slow = measureCpu(row, { ...limits, repeats: 2, calm: 1 });
  expect([slow.runs_repeated, slow.waited_ms, slow.core_calm_ns]).toEqual([2, 600, 1]);
  const all = measureCpu(row, { ...limits, repeats: 0, calm: 1 });
  expect([all.runs_repeated, all.waited_ms]).toEqual([0, 0]);
  for (const r of [slow, all]) expect(Math.abs(r.frames / 20_000 - 1)).toBeLessThan(0.1);
  expect(slow.core_ns.min).toBeGreaterThan(100);
});

test("what the heap takes shows, garbage included", () => {
  let kept: object = {};
  const objects = (n: number): number => {
    Bun.gc(true);
    const before = heapBlocks();
    for (let i = 0; i < n; i++) kept = { i, before: i, after: i };
    return heapBlocks() - before;
  };
  objects(1000);
  // an object a turn of 32 frames, over 10^6 frames
  expect(objects(31_250)).toBeGreaterThan(500_000);
  expect(objects(0)).toBe(0);
  expect(kept).toEqual({ i: 31_249, before: 31_249, after: 31_249 });
});

test("--ablation: rows without each optimisation of the CPU, which is really off", () => {
  const o = {
    sizes: [64],
    batches: [1],
    shape: "single",
    frames: 20_000,
    warmup: 20_000,
    runs: 1,
    repeats: 0,
  } as const;
  const all = [...casesOf({ ...o, ablation: true })].map((c) => measureRow(c, { ...o, ablation: true }));
  const of = (without: CpuWithout | null) => {
    const found = all.filter((r) => r.without === without);
    expect(found.map((r) => r.direction)).toEqual(["ep_to_host", "host_to_ep", "both"]);
    return found[0]!;
  };
  // used elements and index go out more often than for those of several turns together
  expect(of("tend-after").elements_per_frame).toBeGreaterThan(1.1 * of(null).elements_per_frame);
  expect([...casesOf({ ...o, ablation: false })].map((c) => c.without)).toEqual([null, null, null]);
});
