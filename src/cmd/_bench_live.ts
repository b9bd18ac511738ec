/** `epnic bench live`: lock and signals around the engine's measurement, and its report. */
import { readFileSync } from "node:fs";
import * as v from "valibot";
import type { LiveRow } from "../engine/bench/live.ts";
import { Fault } from "../hw/fault.ts";
import { integer, seconds } from "./_args.ts";
import { Interrupt, NO_ROWS } from "./_interrupt.ts";
import { type Cell, type Out, tableText } from "./_out.ts";
import { type BenchReport, machineLine, newReport, optionLines, wrongKey } from "./_report.ts";

const amount = v.pipe(v.number(), v.minValue(0));
const spread = v.object({ min: amount, median: amount, max: amount });

export const LiveRowSchema = v.object({
  case: v.picklist(["round_trip", "to_host", "both"]),
  frame_bytes: amount,
  window: v.nullable(amount),
  runs: amount,
  seconds: amount,
  frames_to_host: amount,
  frames_from_host: amount,
  lost: amount,
  wrong: amount,
  dropped: amount,
  mpps_to_host: spread,
  gbps_to_host: spread,
  mpps_from_host: spread,
  gbps_from_host: spread,
  rtt_us: v.nullable(
    v.object({ min: amount, p10: amount, p50: amount, p90: amount, p99: amount, p999: amount, max: amount }),
  ),
  cpu_ns_per_frame: spread,
  cpu_share: spread,
});

export type LiveReport = Omit<BenchReport, "rows"> & { rows: LiveRow[] };

const short = (n: number): string => n.toFixed(n >= 100 ? 0 : n >= 10 ? 1 : n >= 0.01 ? 3 : 5);

/** Medians; one line a case and size. */
export function liveTable(r: LiveReport): string {
  const head = [
    "case",
    "bytes",
    "window",
    "mpps out",
    "gb/s out",
    "mpps in",
    "gb/s in",
    "rtt p50",
    "p99",
    "lost",
    "cpu %",
  ];
  const rows = r.rows.map((x): Cell[] => [
    x.case,
    x.frame_bytes,
    x.window,
    short(x.mpps_to_host.median),
    short(x.gbps_to_host.median),
    x.window === null ? null : short(x.mpps_from_host.median),
    x.window === null ? null : short(x.gbps_from_host.median),
    x.rtt_us === null ? null : short(x.rtt_us.p50),
    x.rtt_us === null ? null : short(x.rtt_us.p99),
    x.lost + x.dropped,
    (x.cpu_share.median * 100).toFixed(0),
  ]);
  return `${machineLine({ ...r, rows: [] })}\n${optionLines({ ...r, rows: [] })}# out: to the host, in: from it, rtt in us, cpu: share of one CPU\n${tableText(head, rows)}`;
}

/** What a reader must know beside the figures. */
export function liveWarnings(r: LiveReport): string[] {
  const out: string[] = [];
  const wrong = r.rows.reduce((n, x) => n + x.wrong, 0);
  if (wrong > 0) out.push(`${wrong} echoes came back with another payload than was sent`);
  const lost = r.rows.reduce((n, x) => n + x.lost, 0);
  // while it floods, the loop never sleeps: what is missing of one CPU had somebody else
  const shares = r.rows.filter((x) => x.case === "to_host").map((x) => x.cpu_share.median);
  if (shares.length > 0 && Math.min(...shares) < 0.9)
    out.push(
      `the CPU was shared (as little as ${(Math.min(...shares) * 100).toFixed(0)} % was ours): rates and round trips are too bad`,
    );
  if (lost > 0) out.push(`${lost} echoes got no answer within 250 ms`);
  if (r.rows.some((x) => x.case === "round_trip" && x.rtt_us === null && x.lost > 0))
    out.push("no echo was answered: is --address in the network of --peer, and does the host answer pings?");
  return out;
}

function rowsOf(path: string): LiveRow[] {
  const result = v.safeParse(v.object({ rows: v.array(LiveRowSchema) }), JSON.parse(readFileSync(path, "utf8")));
  if (result.success) return result.output.rows;
  const issue = result.issues[0];
  throw wrongKey(path, "epnic bench live", issue);
}

/** Rows of the same case, size and window side by side: what b has of a. */
export function compareLive(a: string, b: string, out: Out): number {
  const others = rowsOf(b);
  const rows = rowsOf(a).flatMap((x) => {
    const y = others.find((r) => r.case === x.case && r.frame_bytes === x.frame_bytes && r.window === x.window);
    if (y === undefined) return [];
    const ratio = (of: (r: LiveRow) => number): number => of(y) / of(x);
    return [
      {
        case: x.case,
        frame_bytes: x.frame_bytes,
        window: x.window,
        rate_out: ratio((r) => r.mpps_to_host.median),
        rate_in: x.window === null ? null : ratio((r) => r.mpps_from_host.median),
        rtt_p50: x.rtt_us === null || y.rtt_us === null ? null : y.rtt_us.p50 / x.rtt_us.p50,
        cpu_ns_per_frame: ratio((r) => r.cpu_ns_per_frame.median),
      },
    ];
  });
  if (rows.length === 0) throw new Fault("E_CONFIG", `${a} and ${b} have no row of the same case, size and window`);
  if (out.options.json) out.json({ version: 1, rows });
  else {
    const cell = (n: number | null): Cell => (n === null ? null : n.toFixed(3));
    out.print(
      tableText(
        ["case", "bytes", "window", "mpps out b/a", "mpps in b/a", "rtt b/a", "cpu ns/frame b/a"],
        rows.map((r) => [
          r.case,
          r.frame_bytes,
          r.window,
          cell(r.rate_out),
          cell(r.rate_in),
          cell(r.rtt_p50),
          cell(r.cpu_ns_per_frame),
        ]),
      ),
    );
  }
  return 0;
}

/** What citty gives for the flags that are looked at here. */
export type LiveGiven = Readonly<Record<string, unknown>> & {
  seconds: string;
  window: string;
  address: string;
  peer: string;
  wait: string;
  mtu?: string | undefined;
  "run-dir": string;
  "sysfs-root": string;
};

/**
 * Measure `named`. Holds the lock of the device, so a running `run` is never disturbed.
 * @param sizes frame sizes in bytes, null: the least and the greatest
 * @returns the exit status: 0, or 128 + the signal that ended it early
 */
export async function benchLive(
  named: string,
  given: LiveGiven,
  common: { sizes: number[] | null; runs: number; cpu: number | null },
  out: Out,
  done: (report: LiveReport, text: () => string) => void,
): Promise<number> {
  const { FLAG_KEYS, needModel, resolveConfig } = await import("./_config.ts");
  const flags = Object.fromEntries(Object.keys(FLAG_KEYS).map((k) => [k, k === "cpu" ? undefined : given[k]]));
  const config = resolveConfig({}, "flags", flags);
  const { MODEL, resolveDevice } = await import("./_device.ts");
  const device = resolveDevice(named, given["sysfs-root"])?.name ?? MODEL;
  needModel(device, flags);
  const { engineLog, engineOptions } = await import("./_engine.ts");
  const options = engineOptions(config, device, given["run-dir"], given["sysfs-root"]);
  const live = {
    sizes: common.sizes ?? [60, options.mtu + 14],
    runs: common.runs,
    seconds: seconds("seconds", given.seconds, 0.01, 3600),
    window: integer("window", given.window, 1, options.queueSize),
    wait: seconds("wait", given.wait, 0.1, 3600),
    address: given.address,
    peer: given.peer,
  };
  (await import("./_jit.ts")).needJit();
  const report: LiveReport = {
    ...newReport("live", null, {
      device,
      ...live,
      mtu: options.mtu,
      personality: options.personality,
      features: given.features === undefined ? null : String(given.features),
      irq: options.irq,
      fetch: options.fetch,
      idle: options.idle,
      cpu: common.cpu,
      host: options.host?.kind ?? null,
      model_core: options.host === null ? null : options.modelCore,
    }),
    rows: [],
  };
  const stop = new Interrupt();
  const held = (await import("./_lock.ts")).lock(given["run-dir"], device);
  try {
    if (common.cpu !== null) (await import("../hw/affinity.ts")).pinTo(common.cpu);
    const { measureLive } = await import("../engine/bench/live.ts");
    const { sysfsRoot = "/" } = options;
    for await (const row of measureLive({ ...options, ...live, sysfsRoot }, engineLog(out), stop)) {
      report.rows.push(row);
      out.log.debug(`${row.case} ${row.frame_bytes} B: ${row.frames_to_host} frames out, ${row.frames_from_host} in`);
    }
  } finally {
    held.release();
    stop.release();
  }
  if (report.rows.length === 0) {
    out.log.warn(NO_ROWS);
    if (out.options.json) out.json(report);
    return stop.status;
  }
  for (const w of liveWarnings(report)) out.log.warn(w);
  done(report, () => liveTable(report));
  return stop.status;
}
