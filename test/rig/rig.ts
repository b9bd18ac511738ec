/**
 * `bun run rig [SCENARIO...]`: unmodified Linux guests in QEMU whose PCIe slot holds epnic's function. Without a
 * scenario it prints the list; `all` runs every scenario in every combination, `fast` the subset of `bun run test`.
 */

import { readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { RigError } from "./apt.ts";
import { ensureDir, logDir } from "./cache.ts";
import { fetchAll, KERNELS, type KernelName } from "./packages.ts";
import type { Combination, Scenario } from "./scenario.ts";
import { SCENARIOS } from "./scenarios.ts";
import { handleSignals, undoAll } from "./undo.ts";

interface Options {
  names: string[];
  json: boolean;
  strict: boolean;
  refresh: boolean;
  kernels: KernelName[];
  personalities: Combination["personality"][];
  irqs: Combination["irq"][];
  modes: Combination["mode"][];
}

const usage = `usage: bun run rig [SCENARIO...|all|fast|fetch|list] [--json] [--kernel K] [--personality P] [--irq I]
                   [--mode held|plain] [--strict] [--refresh]
  K: ${KERNELS.join(", ")} (default: all)   P: modern, legacy   I: msix, intx
  --strict   the model records DMA outside what was handed over; any such access fails the scenario
  --refresh  fetch packages again
  $EPNIC_BIN: a compiled epnic to test instead of the sources; $EPNIC_RIG_CACHE: where fetched packages are kept`;

function pick<T extends string>(flag: string, value: string | undefined, all: readonly T[]): T[] {
  if (value === undefined) return [...all];
  const wanted = value.split(",");
  const bad = wanted.find((w) => !all.includes(w as T));
  if (bad !== undefined) throw new RigError(`${flag} is '${bad}', expected one of ${all.join(", ")}\n${usage}`);
  return wanted as T[];
}

function parse(argv: string[]): Options {
  const value = new Map<string, string>();
  const names: string[] = [];
  const flags = new Set<string>();
  for (let i = 0; i < argv.length; i++) {
    const a = argv[i];
    if (["--json", "--strict", "--refresh", "--help"].includes(a)) flags.add(a);
    else if (["--kernel", "--personality", "--irq", "--mode"].includes(a)) {
      const v = argv[++i];
      if (v === undefined) throw new RigError(`${a} needs a value\n${usage}`);
      value.set(a, v);
    } else if (a.startsWith("-")) throw new RigError(`unknown flag '${a}'\n${usage}`);
    else names.push(a);
  }
  if (flags.has("--help")) names.splice(0, names.length, "list");
  return {
    names,
    json: flags.has("--json"),
    strict: flags.has("--strict"),
    refresh: flags.has("--refresh"),
    kernels: pick("--kernel", value.get("--kernel"), KERNELS),
    personalities: pick("--personality", value.get("--personality"), ["modern", "legacy"]),
    irqs: pick("--irq", value.get("--irq"), ["msix", "intx"]),
    modes: pick("--mode", value.get("--mode"), ["held", "plain"]),
  };
}

interface Job {
  scenario: Scenario;
  combination: Combination;
}

function jobs(o: Options): Job[] {
  const all = o.names.includes("all");
  const list = all
    ? SCENARIOS
    : o.names.map((n) => {
        const s = SCENARIOS.find((x) => x.name === n);
        if (!s) throw new RigError(`there is no scenario '${n}'; they are: ${SCENARIOS.map((x) => x.name).join(", ")}`);
        return s;
      });
  const found: Job[] = [];
  for (const scenario of list)
    for (const kernel of o.kernels)
      for (const personality of o.personalities)
        for (const irq of o.irqs)
          for (const mode of o.modes) {
            const combination = { kernel, personality, irq, mode, strict: o.strict };
            if (scenario.fits(combination)) found.push({ scenario, combination });
          }
  return found;
}

/** What `bun run test` runs: every personality and interrupt kind once, every kernel once, and the rare events. */
function fastJobs(strict: boolean): Job[] {
  const job = (name: string, kernel: KernelName, personality: "modern" | "legacy", irq: "msix" | "intx"): Job => ({
    scenario: SCENARIOS.find((s) => s.name === name) as Scenario,
    combination: { kernel, personality, irq, mode: "held", strict },
  });
  return [
    job("basic", "6.12", "modern", "msix"),
    job("basic", "6.1", "legacy", "intx"),
    job("basic", "newest", "modern", "intx"),
    job("basic", "newest", "legacy", "msix"),
    job("life", "6.12", "modern", "msix"),
    job("life", "6.1", "legacy", "msix"),
    job("ends", "6.12", "legacy", "intx"),
    job("mtu", "newest", "modern", "msix"),
    job("highmem", "6.1", "modern", "msix"),
    job("iommu", "6.12", "modern", "msix"),
    job("iommu-blocked", "6.12", "legacy", "msix"),
    job("board-short", "6.12", "modern", "msix"),
  ];
}

function list(): void {
  console.log(usage);
  console.log("\nscenarios:");
  for (const s of SCENARIOS) console.log(`  ${s.name.padEnd(14)} ${s.about}`);
}

/** Logs of failed scenarios stay for a day. */
function pruneLogs(dir: string): void {
  for (const name of readdirSync(dir)) {
    const path = join(dir, name);
    if (Date.now() - statSync(path).mtimeMs > 86_400_000) rmSync(path, { recursive: true, force: true });
  }
}

const round = (n: number, digits: number): number | null => (Number.isFinite(n) ? Number(n.toFixed(digits)) : null);

async function main(): Promise<number> {
  const o = parse(process.argv.slice(2));
  if (o.names.length === 0 || o.names.includes("list")) {
    list();
    return 0;
  }
  if (process.getuid?.() !== 0) throw new RigError("the rig needs root (TAPs and network namespaces)");
  handleSignals();
  const say = (text: string): void => console.error(`rig: ${text}`);
  const fetchOnly = o.names.length === 1 && o.names[0] === "fetch";
  const todo = fetchOnly ? [] : o.names.includes("fast") ? fastJobs(o.strict) : jobs(o);
  if (!fetchOnly && todo.length === 0) throw new RigError("no combination fits");
  const releases = await fetchAll(fetchOnly ? o.kernels : [...new Set(todo.map((j) => j.combination.kernel))], {
    refresh: o.refresh,
    say,
  });
  pruneLogs(ensureDir(logDir()));
  let failed = 0;
  let right = 0;
  let total = 0;
  const start = performance.now();
  for (const { scenario, combination } of todo) {
    const begin = performance.now();
    const base = { scenario: scenario.name, ...combination, kernel: releases[combination.kernel] };
    const label = `${scenario.name} ${base.kernel} ${combination.personality} ${combination.irq} ${combination.mode}`;
    try {
      const f = await scenario.run(combination);
      const seconds = round((performance.now() - begin) / 1000, 1);
      const result = {
        ...base,
        ok: true,
        features: f.features.join(","),
        header: f.header,
        negotiations: `${f.negotiationsRight}/${f.negotiations}`,
        refused: f.refused,
        ping_min_ms: round(f.pingMinMs, 2),
        ping_avg_ms: round(f.pingAvgMs, 2),
        tcp_to_board_gbps: round(f.tcpToBoardGbps, 3),
        tcp_to_guest_gbps: round(f.tcpToGuestGbps, 3),
        strict_violations: f.strictViolations,
        ...f.figures,
        notes: f.notes,
        seconds,
      };
      right += f.negotiationsRight;
      total += f.negotiations;
      if (o.json) console.log(JSON.stringify(result));
      else
        console.log(
          `ok   ${label}: ${result.negotiations} right, ping ${result.ping_min_ms ?? "-"}/${result.ping_avg_ms ?? "-"} ms, TCP ${result.tcp_to_board_gbps ?? "-"}/${result.tcp_to_guest_gbps ?? "-"} Gb/s, ${seconds} s`,
        );
    } catch (e) {
      failed++;
      await undoAll();
      if (o.json) console.log(JSON.stringify({ ...base, ok: false, error: (e as Error).message }));
      else console.log(`FAIL ${label}`);
      console.error((e as Error).message);
    }
  }
  if (todo.length > 0)
    say(
      `${todo.length - failed} of ${todo.length} ok, ${right} of ${total} negotiations right, ${round((performance.now() - start) / 1000, 0)} s`,
    );
  return failed === 0 ? 0 : 1;
}

try {
  const status = await main();
  await undoAll();
  process.exit(status);
} catch (e) {
  await undoAll();
  console.error(e instanceof RigError ? `rig: ${e.message}` : e);
  process.exit(1);
}
