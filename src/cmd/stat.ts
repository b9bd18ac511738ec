/** `epnic stat`: the counters of a run, from its shared page; the run does not notice. */
import { readdirSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type ArgsDef, defineCommand } from "citty";
import type { CounterSnapshot } from "../engine/counters.ts";
import { Fault } from "../hw/fault.ts";
import { commonArgs, deviceArgs, deviceOf, integer, runDirArgs, seconds } from "./_args.ts";
import type { About } from "./_help.ts";
import { nearest } from "./_nearest.ts";
import type { Out } from "./_out.ts";

const args = {
  ...deviceArgs,
  interval: { type: "string", alias: "i", valueHint: "SEC", description: "print rates every SEC seconds" },
  count: { type: "string", alias: "c", valueHint: "COUNT", description: "with --interval: stop after COUNT lines" },
  prom: { type: "boolean", description: "print Prometheus text exposition" },
  "prom-file": {
    type: "string",
    valueHint: "FILE",
    description:
      "write that to FILE in one step, for the textfile collector, also that no run is up; with --interval again and again",
  },
  stale: { type: "boolean", description: "print the last values of a run that has died" },
  ...runDirArgs,
  ...commonArgs,
} as const satisfies ArgsDef;

export const about: About = {
  name: "stat",
  summary: "print the counters of a run",
  description: [
    "Prints the counters of the run of DEVICE, or of the only run there is, as 'name: value'; with --interval one line of rates each time, as vmstat does. A run does not notice that it is looked at.",
    "With --json --interval every line is one JSON object.",
  ],
  examples: [
    ["epnic stat", "everything, once"],
    ["epnic stat -i 1 -c 10", "ten lines of rates, one a second"],
    ["epnic stat model --json | jq .counters", "counters for a script"],
    ["epnic stat --prom-file /var/lib/prometheus/node-exporter/epnic.prom", "for node-exporter, from a timer"],
  ],
  args,
  files: [["/run/epnic/DEVICE.counters", "the counter page of a run"]],
};

/** Devices that have a counter page, in order of name. */
function pages(runDir: string): string[] {
  try {
    return readdirSync(runDir)
      .filter((f) => f.endsWith(".counters"))
      .map((f) => f.slice(0, -".counters".length))
      .sort();
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw e;
  }
}

/**
 * The run that `named` or its beginning means, or the only one.
 * @throws Fault E_NODEV when there is no such run, E_USAGE when there are several
 */
function choose(runDir: string, named: string): string {
  const found = pages(runDir);
  if (named !== "") {
    if (found.includes(named.replaceAll("/", "_"))) return named;
    const begins = found.filter((f) => f.startsWith(named));
    if (begins.length === 1) return begins[0];
    if (begins.length > 1) {
      throw new Fault("E_USAGE", `'${named}' is the beginning of ${begins.length} runs: ${begins.join(", ")}`);
    }
    const guess = nearest(named, found);
    throw new Fault(
      "E_NODEV",
      `there is no run of device '${named}' (no ${join(runDir, `${named}.counters`)})`,
      guess
        ? `did you mean '${guess}'?`
        : found.length > 0
          ? `runs: ${found.join(", ")}`
          : "start one with 'epnic run'",
    );
  }
  if (found.length === 1) return found[0];
  if (found.length === 0) {
    throw new Fault("E_NODEV", `there is no run (no counter page in ${runDir})`, "start one with 'epnic run'");
  }
  throw new Fault("E_USAGE", `there are ${found.length} runs: ${found.join(", ")}`, "name the device");
}

/** Replace `path` in one step, so that a collector never reads half a file. @throws Fault naming `path` */
function writeWhole(path: string, text: string): void {
  const temporary = join(dirname(path), `.${process.pid}.epnic.tmp`);
  try {
    writeFileSync(temporary, text, { mode: 0o644 });
    renameSync(temporary, path);
  } catch (e) {
    try {
      unlinkSync(temporary);
    } catch {
      // it was never made
    }
    const code = (e as NodeJS.ErrnoException).code ?? String(e);
    const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
    throw new Fault(
      denied ? "E_PERM" : "E_SYS",
      `${path} cannot be written: ${code}`,
      denied ? `run as root, or choose a file in another directory than ${dirname(path)}` : undefined,
    );
  }
}

export default defineCommand({
  meta: { name: "stat", description: about.summary },
  args,
  async run({ args, data }) {
    const out = data as Out;
    const interval = args.interval === undefined ? 0 : seconds("interval", args.interval);
    const count = args.count === undefined ? 0 : integer("count", args.count, 1, 2 ** 31);
    if (count > 0 && interval === 0) {
      throw new Fault("E_USAGE", "--count is given without --interval", "add for example -i 1");
    }
    if (args.prom && args["prom-file"] !== undefined) {
      throw new Fault("E_USAGE", "--prom and --prom-file are both given", "one prints, the other writes: choose one");
    }
    if (args.prom && (out.options.json || interval > 0)) {
      throw new Fault("E_USAGE", `--prom does not go with ${out.options.json ? "--json" : "--interval"}`);
    }
    (await import("./_jit.ts")).needJit();
    const [{ readCounterPage }, { counterPath }, render] = await Promise.all([
      import("../engine/counters.ts"),
      import("./_engine.ts"),
      import("./_counters.ts"),
    ]);
    const read = (device: string): CounterSnapshot => {
      const s = readCounterPage(counterPath(args["run-dir"], device));
      if (s.stale && !args.stale) {
        throw new Fault(
          "E_NODEV",
          `the run of '${device}' has died: process ${s.pid} is gone, its last values are ${render.age(s)} old`,
          "--stale prints them",
        );
      }
      return s;
    };
    const promFile = args["prom-file"];
    if (promFile !== undefined) {
      let device = deviceOf(args);
      let told = "";
      for (let n = 1; ; n++) {
        try {
          device = choose(args["run-dir"], device);
          writeWhole(promFile, render.promText(read(device), device));
          told = "";
        } catch (e) {
          // a file that nobody replaces would say for ever that the run is up
          if (!(e instanceof Fault) || e.code !== "E_NODEV") throw e;
          writeWhole(promFile, render.promDown(device));
          if (interval === 0) throw e;
          if (told !== e.message) out.log.warn(e.message);
          told = e.message;
        }
        if (interval === 0 || n === count) return 0;
        await Bun.sleep(interval * 1000);
      }
    }
    const device = choose(args["run-dir"], deviceOf(args));
    const show = (s: CounterSnapshot, before: CounterSnapshot | null, lines: number): void => {
      if (args.prom) out.print(render.promText(s, device).trimEnd());
      else if (out.options.json) out.json(render.snapshotJson(s, before, device));
      else if (before === null) out.pairs({ device, ...s.state, ...s.counters });
      else out.print(render.rateLine(s, before, lines));
    };

    let last = read(device);
    if (interval === 0) {
      show(last, null, 0);
      return 0;
    }
    for (let lines = 0; count === 0 || lines < count; lines++) {
      await Bun.sleep(interval * 1000);
      const now = read(device);
      // a run that was restarted in between counts from zero again
      show(
        now,
        now.pid === last.pid && now.startedMs === last.startedMs
          ? last
          : { ...now, updatedMs: now.startedMs, counters: {} },
        lines,
      );
      last = now;
    }
    return 0;
  },
});
