/**
 * Storms over the whole engine (test/support/soak.ts), seeds one after the other. Some ten seconds by default;
 * EPNIC_SOAK=MINUTES for longer, EPNIC_SOAK_SEED=N to begin at a seed (a failure names its own).
 */
import { expect, test } from "bun:test";
import { Soak } from "../support/soak.ts";

const minutes = Number(process.env.EPNIC_SOAK ?? 0);
const first = Number(process.env.EPNIC_SOAK_SEED ?? (minutes > 0 ? Date.now() % 1_000_000 : 1));
const seconds = minutes > 0 ? minutes * 60 : 10;

test(
  `soak of ${seconds} s from seed ${first}`,
  () => {
    const until = Date.now() + seconds * 1000;
    const events: Record<string, number> = {};
    let seed = first;
    let frames = 0;
    for (; Date.now() < until; seed++) {
      const r = new Soak(seed).run(3);
      frames += r.frames;
      for (const [name, n] of Object.entries(r.events)) events[name] = (events[name] ?? 0) + n;
    }
    if (minutes > 0) console.log(`${seed - first} seeds, ${frames} frames`, events);
    expect(frames).toBeGreaterThan(1000);
    expect(Object.keys(events).length).toBeGreaterThan(5);
  },
  seconds * 1000 + 60_000,
);
