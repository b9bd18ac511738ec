/**
 * Capture under every spacing of host accesses and polls. Two promises are kept: with at least two polls for each access
 * every capture is right, and with any spacing at all the function is never live with anything but what the host set up.
 */
import { describe, expect, test } from "bun:test";
import { FN_DOWN, FN_REFUSED, FN_UP, type HostFunction } from "../../../src/engine/function/host-function.ts";
import { GAVE_UP } from "../../../src/engine/function/parts.ts";
import { unmap } from "../../../src/hw/mem.ts";
import { judged, over } from "./drive.ts";
import { BAR_SIZE, Chance, PlainHost, type PlainHostOptions } from "./plain-host.ts";

/** a second on a quiet machine, many on one that is shared by ten */
const SLOW = 60_000;
const MAC = Uint8Array.from([2, 0, 0, 1, 0, 2]);

interface Outcome {
  lives: number;
  right: number;
  refused: number;
  /** FAILED set by the host, as said by the function */
  gaveUp: number;
  downs: number;
  wrong: string[];
  host: PlainHost;
  fn: HostFunction;
}

/**
 * Drive `lives` lives. `gap(chance)` accesses pass between two moments of polling, `polls` polls are made at each.
 * A life counts as right when the function went live in it.
 */
function drive(o: PlainHostOptions, seed: number, lives: number, gap: (c: Chance) => number, polls: number): Outcome {
  const chance = new Chance(seed);
  const host = new PlainHost(o, chance, MAC);
  const fn = over(host, MAC);
  const out: Outcome = { lives: 0, right: 0, refused: 0, gaveUp: 0, downs: 0, wrong: [], host, fn };
  const steps = host.forever();
  while (host.lives < lives) {
    for (let n = gap(chance); n > 0; n--) steps.next();
    for (let p = 0; p < polls; p++) {
      const e = fn.poll();
      if (e === FN_UP) out.right++;
      else if (e === FN_REFUSED && fn.lastRefusal === GAVE_UP) out.gaveUp++;
      else if (e === FN_REFUSED) out.refused++;
      else if (e === FN_DOWN) out.downs++;
      if (fn.live) {
        const why = judged(fn, host);
        if (why !== "" && out.wrong.length < 5) out.wrong.push(`seed ${seed}, life ${host.lives}: ${why}`);
      }
    }
  }
  out.lives = host.lives;
  unmap(host.bar, BAR_SIZE);
  return out;
}

const shapes: [string, Omit<PlainHostOptions, "retry" | "cut">][] = [
  ["modern MSI-X, 2 words", { personality: "modern", words: 2, msix: true }],
  ["modern MSI-X, 4 words", { personality: "modern", words: 4, msix: true }],
  ["modern INTx, 4 words", { personality: "modern", words: 4, msix: false }],
  ["legacy MSI-X", { personality: "legacy", words: 2, msix: true }],
  ["legacy INTx", { personality: "legacy", words: 2, msix: false }],
];

describe("held: two polls and more for each access", () => {
  for (const [name, shape] of shapes) {
    const lives = shape.msix && shape.words === (shape.personality === "modern" ? 4 : 2) ? 10_000 : 2_500;
    test(
      `${name}: ${lives} negotiations with retries and resets at any point are all right`,
      () => {
        const o = drive({ ...shape, retry: 0.15, cut: 0.1 }, 11, lives, () => 1, 2);
        expect(o.wrong).toEqual([]);
        expect(o.refused).toBe(0);
        expect(o.gaveUp).toBe(o.host.failedProbes);
        // the last life's capture may be one poll away
        expect(o.lives - o.right).toBeLessThanOrEqual(1);
        expect(o.host.retries).toBeGreaterThan(lives / 20);
        expect(o.host.macWrong).toBe(0);
      },
      SLOW,
    );
  }
});

/** accesses between polls, most often few, up to `most` */
const upTo = (most: number) => (c: Chance) => (c.is(0.7) ? c.below(3) : c.below(most + 1));

describe("any spacing: never live with something else", () => {
  for (const [name, shape] of shapes) {
    test(
      `${name}: gaps up to 12 accesses, with retries`,
      () => {
        const o = drive({ ...shape, retry: 0.15, cut: 0.1 }, 23, 2_000, upTo(12), 1);
        expect(o.wrong).toEqual([]);
        expect(o.right).toBeGreaterThan(o.lives / 4);
      },
      SLOW,
    );
    test(
      `${name}: gaps up to 400 accesses, whole lives unseen`,
      () => {
        const o = drive({ ...shape, retry: 0.15, cut: 0.2 }, 37, 2_000, upTo(400), 1);
        expect(o.wrong).toEqual([]);
        expect(o.fn.stats.resets).toBeGreaterThan(20);
      },
      SLOW,
    );
    test(
      `${name}: a poll now and then`,
      () => {
        const o = drive({ ...shape, retry: 0.15, cut: 0.05 }, 41, 2_000, (c) => 1 + c.below(30), 1);
        expect(o.wrong).toEqual([]);
      },
      SLOW,
    );
  }
});
