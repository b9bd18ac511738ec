/** What the model costs where the demo runs on it: heap growth and ns per element, warmed up and optimised. */
import { heapSize } from "bun:jsc";
import { expect, test } from "bun:test";
import type { LinkTiming } from "../../../src/hw/model/timing.ts";
import { preset } from "../../../src/hw/model/timing.ts";
import { type Bench, bench, HOST_BASE } from "./bench-board.ts";

const N = 160;

/** `laps` lists of N elements in each direction; returns user CPU ns inside turn() per element. */
function stream(b: Bench, laps: number, first: boolean): number {
  let ns = 0;
  for (let lap = first ? 0 : 1, n = 0; n < laps; n++, lap++) {
    const c = (lap & 1) ^ 1;
    for (let i = 0; i < N / 2; i++) {
      b.list.data(i, c, 64, b.data.bus + 64 * i, HOST_BASE + 64 * i);
      b.list.data(i + 85, c, 64, HOST_BASE + 64 * i, b.data.bus + 64 * i);
    }
    b.list.link(80, c ^ 1, b.list.slot(0));
    b.list.link(165, c ^ 1, b.list.slot(85));
    if (lap === 0) {
      b.wr.start(b.list.slot(0));
      b.rd.start(b.list.slot(85));
    } else {
      b.wr.doorbell();
      b.rd.doorbell();
    }
    const t0 = process.cpuUsage().user;
    while (b.model.edma.running !== 0) b.model.turn();
    ns += (process.cpuUsage().user - t0) * 1000;
  }
  return ns / (laps * N);
}

const cases: [string, boolean, LinkTiming | null, number][] = [
  ["live", false, null, 6250],
  ["live, strict", true, null, 6250],
  ["in time", false, preset("rk3588"), 2000],
];

for (const [name, strict, timing, laps] of cases) {
  test(`${name}: ${laps * N} elements leave no garbage`, () => {
    const b = bench({ strict, timing, turnNs: timing === null ? 100 : 1000 });
    stream(b, 2001, true);
    Bun.gc(true);
    const before = heapSize();
    const per = stream(b, laps, false);
    const grown = heapSize() - before;
    expect(b.model.stats.elements).toBe((2001 + laps) * N);
    expect(b.model.violationCount).toBe(0);
    // one 16-byte cell an element would be 16 MB
    expect(grown).toBeLessThan(200_000);
    console.log(`model ${name}: ${per.toFixed(0)} ns of user CPU per 64-byte element`);
  }, 60_000);
}
