/**
 * The service loop allocates nothing: over 10^6 frames each way not as much as the 200 KB that would bring a collection
 * about. In a process of its own, where that is so little (support/canaries.ts).
 */
import { expect, test } from "bun:test";
import { underCollector } from "../support/canaries.ts";

interface Result {
  name: string;
  toHost: number;
  toBoard: number;
  turns: number;
  dead: number;
  link: string;
  faults: number;
  violations: number;
}

test("10^6 frames each way through the service loop: no garbage, and the test sees garbage where there is some", async () => {
  const results = await underCollector<Result>(new URL("heap-child.ts", import.meta.url));
  expect(results.length).toBe(4);
  const spoiled = results.pop()!;
  for (const r of results) {
    expect(r.toHost, r.name).toBeGreaterThanOrEqual(1_000_000);
    expect(r.toBoard, r.name).toBeGreaterThanOrEqual(1_000_000);
    expect([r.link, r.faults, r.violations], r.name).toEqual(["live", 0, 0]);
    expect(r.dead, `${r.name}: collections in ${r.turns} turns`).toBe(0);
  }
  expect(spoiled.dead, spoiled.name).toBeGreaterThan(0);
}, 120_000);
