/**
 * Capture under every spacing of host accesses and polls. Two promises are kept: with at least two polls for each access
 * every capture is right, and with any spacing at all the function is never live with anything but what the host set up.
 */
import { describe, expect, test } from "bun:test";
import { NetConfig } from "../../../src/engine/function/config.ts";
import { featureWord } from "../../../src/engine/function/features.ts";
import { FN_DOWN, FN_REFUSED, FN_UP, type HostFunction } from "../../../src/engine/function/host-function.ts";
import { LegacyFunction } from "../../../src/engine/function/legacy.ts";
import { ModernFunction } from "../../../src/engine/function/modern.ts";
import { unmap } from "../../../src/hw/mem.ts";
import { BAR_SIZE, Chance, MSIX_CAP, PlainHost, type PlainHostOptions } from "./plain-host.ts";

const MAC = Uint8Array.from([2, 0, 0, 1, 0, 2]);

export function over(host: PlainHost): HostFunction {
  const { personality, msix } = host.o;
  const parts = {
    bar: host.bar,
    msixTablePtr: 0,
    pbaPtr: 0,
    vectors: msix ? 4 : 0,
    intxPin: true,
    dbi: host.config,
    msixCap: msix ? MSIX_CAP : 0,
    features: featureWord("default", personality),
    queueSize: 256,
    config: new NetConfig(MAC, 1500),
    onClose: () => {},
  };
  return personality === "modern" ? new ModernFunction(parts) : new LegacyFunction(parts);
}

const at = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);

/** "" when the function may be live with what it holds. */
function wrong(fn: HostFunction, host: PlainHost): string {
  const t = host.truth;
  if (t === null) return "live without a driver";
  if (fn.msix !== t.msix) return `MSI-X ${fn.msix}, host ${t.msix}`;
  for (let k = 0; k < 2; k++) {
    const c = fn.queues[k]!;
    const q = t.rings[k]!;
    const got = [c.size, at(c.descLo, c.descHi), at(c.availLo, c.availHi), at(c.usedLo, c.usedHi), c.vector];
    const want = [q.size, q.desc, q.avail, q.used, q.vector];
    for (let i = 0; i < 5; i++)
      if (got[i] !== want[i])
        return `queue ${k}: ${got.map((v) => v.toString(16))} for ${want.map((v) => v.toString(16))}`;
  }
  const hdr = host.o.personality === "legacy" ? 12 : host.o.words === 4 ? 24 : 12;
  if (fn.hdrLen !== hdr) return `header ${fn.hdrLen} for ${hdr}`;
  return "";
}

interface Outcome {
  lives: number;
  right: number;
  refused: number;
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
  const fn = over(host);
  const out: Outcome = { lives: 0, right: 0, refused: 0, downs: 0, wrong: [], host, fn };
  const steps = host.forever();
  while (host.lives < lives) {
    for (let n = gap(chance); n > 0; n--) steps.next();
    for (let p = 0; p < polls; p++) {
      const e = fn.poll();
      if (e === FN_UP) out.right++;
      else if (e === FN_REFUSED) out.refused++;
      else if (e === FN_DOWN) out.downs++;
      if (fn.live) {
        const why = wrong(fn, host);
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
    test(`${name}: 10^4 negotiations with retries and resets at any point are all right`, () => {
      const o = drive({ ...shape, retry: 0.15, cut: 0.1 }, 11, 10_000, () => 1, 2);
      expect(o.wrong).toEqual([]);
      expect(o.refused).toBe(0);
      // the last life's capture may be one poll away
      expect(o.lives - o.right).toBeLessThanOrEqual(1);
      expect(o.host.retries).toBeGreaterThan(1000);
      expect(o.host.macWrong).toBe(0);
    });
  }
});

/** accesses between polls, most often few, up to `most` */
const upTo = (most: number) => (c: Chance) => (c.is(0.7) ? c.below(3) : c.below(most + 1));

describe("any spacing: never live with something else", () => {
  // A retry of the host can be told from its first attempt only by what shows in between; a poller that sleeps
  // through the whole of it (13 accesses, several reads, a memory allocation and a request_irq) may not.
  for (const [name, shape] of shapes) {
    test(`${name}: gaps up to 12 accesses, with retries`, () => {
      const o = drive({ ...shape, retry: 0.15, cut: 0.1 }, 23, 6_000, upTo(12), 1);
      expect(o.wrong).toEqual([]);
      expect(o.right).toBeGreaterThan(o.lives / 4);
    });
    test(`${name}: gaps up to 400 accesses, whole lives unseen`, () => {
      const o = drive({ ...shape, retry: 0, cut: 0.2 }, 37, 6_000, upTo(400), 1);
      expect(o.wrong).toEqual([]);
      expect(o.fn.stats.resets).toBeGreaterThan(100);
    });
    test(`${name}: a poll now and then`, () => {
      const o = drive({ ...shape, retry: 0, cut: 0.05 }, 41, 6_000, (c) => 1 + c.below(30), 1);
      expect(o.wrong).toEqual([]);
    });
  }
});
