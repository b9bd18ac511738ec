/** Capture with host accesses inside polls, between any two of the poller's own: no poll is one moment. */
import { expect, test } from "bun:test";
import type { PlainHostOptions } from "./plain-host.ts";

const here = (name: string): string => new URL(name, import.meta.url).pathname;
const shapes: [string, Pick<PlainHostOptions, "personality" | "words" | "msix">][] = [
  ["modern MSI-X", { personality: "modern", words: 4, msix: true }],
  ["modern INTx", { personality: "modern", words: 2, msix: false }],
  ["legacy MSI-X", { personality: "legacy", words: 2, msix: true }],
  ["legacy INTx", { personality: "legacy", words: 2, msix: false }],
];
/** name, chance of host accesses before each access of the poller, most of them, retries, lives */
const paces: [string, number, number, number, number][] = [
  ["an access in some polls", 0.03, 1, 0.1, 800],
  ["an access in most polls", 0.15, 1, 0.1, 800],
  ["bursts inside polls", 0.2, 6, 0.2, 800],
  ["bursts of an attempt inside polls", 0.05, 60, 0.25, 2000],
  ["the poller is put to sleep inside polls", 0.02, 150, 0.2, 800],
];

test("host accesses inside polls: never live with something else", async () => {
  const jobs = shapes.flatMap(([name, shape], i) =>
    paces.map(([pace, inside, most, retry, lives], k) => ({
      name: `${name}, ${pace}`,
      options: { ...shape, retry, cut: 0.1 },
      seed: 100 * i + k,
      lives,
      inside,
      most,
    })),
  );
  const child = Bun.spawn(
    [process.execPath, "--preload", here("inside-preload.ts"), here("inside.ts"), JSON.stringify(jobs)],
    { stdout: "pipe", stderr: "pipe" },
  );
  const out = await new Response(child.stdout).text();
  const err = await new Response(child.stderr).text();
  expect(await child.exited, err).toBe(0);
  const results = out
    .trim()
    .split("\n")
    .map((l) => JSON.parse(l) as { name: string; lives: number; up: number; refused: number; wrong: string[] });
  expect(results.length).toBe(jobs.length);
  for (const r of results) {
    expect(r.wrong, r.name).toEqual([]);
    if (r.name.endsWith("an access in some polls")) expect(r.up, r.name).toBeGreaterThan(r.lives * 0.9);
  }
}, 120_000);
