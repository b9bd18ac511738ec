/** The service loop allocates nothing: heap growth over 10^6 frames, without a collection in between. */
import { heapSize } from "bun:jsc";
import { expect, test } from "bun:test";
import { PairRig } from "../support/pair-rig.ts";
import { steady } from "../support/steady.ts";

for (const patch of [true, false]) {
  test(`10^6 frames, header ${patch ? "patched in place" : "as its own element"}`, () => {
    const rig = new PairRig({ patch, model: { boardMemory: 80 << 20 } });
    const bases = { host: rig.memory.base + 0x40_0000, board: 0x4000_0000 + 0x100_0000 };
    // Optimising compiles allocate; 3 * 10^5 frames are behind us before the count starts.
    steady(rig, bases, 300_000, 128);
    Bun.gc(true);
    const before = heapSize();
    const moved = steady(rig, bases, 1_000_000, 128);
    const grown = heapSize() - before;
    expect(moved).toBeGreaterThanOrEqual(1_000_000);
    expect(rig.model.violationCount).toBe(0);
    // Compiler threads may still install code; a single 16-byte cell a frame would be 16 MB.
    expect(grown).toBeLessThan(200_000);
    rig.close();
  }, 60_000);
}
