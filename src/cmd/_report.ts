/**
 * The report of `bench`: its schema is the contract with everything that reads such files (--compare, --html, charts
 * over releases). Numbers carry their unit in the key.
 */
import { readFileSync } from "node:fs";
import { cpus, loadavg, release, totalmem } from "node:os";
import * as v from "valibot";
import pkg from "../../package.json" with { type: "json" };
import { Fault } from "../hw/fault.ts";
import { jitIsOn } from "./_jit.ts";
import { type Cell, tableText } from "./_out.ts";

const positive = v.pipe(v.number(), v.gtValue(0));
const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const spread = v.object({ min: positive, median: positive, max: positive });

export const BenchRowSchema = v.object({
  /** as in `bench link`: whose data path, and which way frames went */
  design: v.string(),
  /** what it had to do without; reports of older versions lack it */
  without: v.optional(v.nullable(v.string()), null),
  direction: v.string(),
  /** bytes of a frame without the virtio-net header */
  frame_bytes: count,
  /** frames each sender hands over together */
  batch: v.nullable(positive),
  /** frames of all measurements, and how many these were */
  frames: count,
  runs: count,
  /** CPU time of the engine's thread a frame */
  ns_per_frame: spread,
  /** millions of frames a second by the clock on the wall */
  mpps: spread,
  /** 10^9 bits of frames a second */
  gbps: spread,
  /** how a frame lies in memory */
  shape: v.string(),
  /** frames that a turn with work took up, mean */
  burst: v.nullable(positive),
  /** frames of one block, and what a block took: median, 99.9th percentile, greatest; a block is what is timed */
  block_frames: v.nullable(positive),
  block_p50_ns: v.nullable(v.number()),
  block_p999_ns: v.nullable(v.number()),
  block_max_ns: v.nullable(v.number()),
  /** 99.9th percentile of blocks of that length that do nothing: what the machine adds; reports of older versions lack it */
  spin_p999_ns: v.optional(v.nullable(v.number()), null),
  /** a piece of arithmetic that fills a core, beside each run: greater while the core is shared; runs made again because of that */
  core_ns: v.optional(v.nullable(spread), null),
  core_calm_ns: v.optional(v.nullable(v.number()), null),
  runs_repeated: v.optional(v.nullable(count), null),
  /** distribution of block times: least, 10, 25, 50, 75, 90, 99, 99.9 %, greatest; reports of older versions lack it */
  block_steps_ns: v.optional(v.nullable(v.array(v.number())), null),
  /** linked-list elements of the DMA a frame, ring words included */
  elements_per_frame: v.nullable(positive),
  /** blocks of memory that the JavaScript heap took while it was measured */
  bytes_allocated: v.nullable(v.number()),
  /** size of the pages that rings and buffers were in; reports of older versions lack it, theirs were of 4 KiB */
  page_bytes: v.optional(v.nullable(count), null),
  /** CPU time over wall time: below about 0.9 somebody else was on this CPU, and the wall figures are too low */
  cpu_share: v.nullable(positive),
});
export type BenchRow = v.InferOutput<typeof BenchRowSchema>;

/** What reports of all measurements have; rows are looked at by their own schema. */
const ReportHeadSchema = v.object({
  version: v.literal(1),
  epnic: v.string(),
  commit: v.nullable(v.string()),
  started: v.pipe(v.string(), v.isoTimestamp()),
  mode: v.picklist(["cpu", "link", "live"]),
  machine: v.object({
    cpu: v.string(),
    cpus: count,
    arch: v.string(),
    kernel: v.string(),
    memory_bytes: count,
    load1: v.number(),
  }),
  bun: v.string(),
  jit: v.boolean(),
  /** null where nothing is random */
  seed: v.nullable(count),
  options: v.record(v.string(), v.union([v.string(), v.number(), v.boolean(), v.null(), v.array(v.number())])),
  /** link: the parameters of every link, as measured; reports of older versions lack it */
  links: v.optional(v.array(v.record(v.string(), v.union([v.string(), v.number()])))),
});
export type ReportHead = v.InferOutput<typeof ReportHeadSchema>;

export const BenchReportSchema = v.object({ ...ReportHeadSchema.entries, rows: v.array(BenchRowSchema) });
export type BenchReport = v.InferOutput<typeof BenchReportSchema>;

/** The commit of the work tree this runs from, or of the build; null when neither is known. */
function commit(): string | null {
  const built = process.env.EPNIC_COMMIT;
  if (built) return built;
  if (!import.meta.dir.startsWith("/") || import.meta.dir.startsWith("/$bunfs")) return null;
  const git = Bun.spawnSync(["git", "-C", import.meta.dir, "describe", "--always", "--dirty"], {
    stderr: "ignore",
    env: { ...process.env, GIT_OPTIONAL_LOCKS: "0" },
  });
  return git.success ? git.stdout.toString().trim() : null;
}

/** A report without rows, with everything about this machine filled in. */
export function newReport(
  mode: BenchReport["mode"],
  seed: number | null,
  options: BenchReport["options"],
  now = new Date(),
): BenchReport {
  const all = cpus();
  let found: string | null = null;
  try {
    found = commit();
  } catch {
    // no git on this machine
  }
  return {
    version: 1,
    epnic: pkg.version,
    commit: found,
    started: now.toISOString(),
    mode,
    machine: {
      cpu: all[0]?.model.trim() || "unknown",
      cpus: all.length,
      arch: process.arch,
      kernel: release(),
      memory_bytes: totalmem(),
      load1: loadavg()[0],
    },
    bun: Bun.version,
    jit: jitIsOn(),
    seed,
    options,
    rows: [],
  };
}

/** What is wrong with a report, from the schema's first complaint. */
export function wrongKey(path: string, kind: string, issue: v.BaseIssue<unknown>): Fault {
  const state = issue.received === "undefined" ? "absent" : `${issue.received}, expected ${issue.expected}`;
  return new Fault("E_CONFIG", `${path} is no report of ${kind}: key '${v.getDotPath(issue) ?? ""}' is ${state}`);
}

/** @throws Fault E_CONFIG when the file is no report, naming the key that is wrong */
function read<S extends v.GenericSchema>(path: string, schema: S): v.InferOutput<S> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (e) {
    const { code, message } = e as NodeJS.ErrnoException;
    throw new Fault("E_CONFIG", `the report ${path} cannot be read: ${code ?? message}`);
  }
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  throw wrongKey(path, "epnic bench", result.issues[0]);
}

/** What a report says of itself, whatever it measured. */
export const readHead = (path: string): ReportHead => read(path, ReportHeadSchema);

/** A report of `bench cpu`. */
export const readReport = (path: string): BenchReport => read(path, BenchReportSchema);

export const significant = (n: number): string => {
  const digits = n >= 100 ? 0 : n >= 10 ? 1 : n >= 0.1 ? 2 : 4;
  return n.toFixed(digits);
};
const optional = (n: number | null): Cell => (n === null ? null : significant(n));

/** The machine in one line. */
export function machineLine(r: BenchReport): string {
  const m = r.machine;
  return `# epnic ${r.epnic}${r.commit ? ` (${r.commit})` : ""}, ${r.mode}, ${m.cpu} x${m.cpus} ${m.arch}, Linux ${m.kernel}, Bun ${r.bun}, JIT ${r.jit ? "on" : "off"}${r.seed === null ? "" : `, seed ${r.seed}`}`;
}

/** The design, and what it had to do without. */
export const whose = (r: { design: string; without: string | null }): string =>
  r.without === null ? r.design : `${r.design === "epnic" ? "" : `${r.design} `}- ${r.without}`;

/** Below the machine: what was asked for, and the links it was measured on. */
export function optionLines(r: BenchReport): string {
  const text = (record: Readonly<Record<string, unknown>>): string =>
    Object.entries(record)
      .filter(([, value]) => value !== null)
      .map(([key, value]) => ` ${key}=${String(value)}`)
      .join("");
  const links = (r.links ?? []).map(({ name, ...rest }) => `# link ${name}:${text(rest)}\n`);
  const options = text(r.options);
  return `${options === "" ? "" : `# options:${options}\n`}${links.join("")}`;
}

/** Medians in the manner of perftest; the spread of the CPU cost behind them. */
export function reportTable(r: BenchReport): string {
  const head = [
    "design",
    "direction",
    "bytes",
    "batch",
    "ns/frame",
    "min",
    "max",
    "mpps",
    "block p50",
    "p99.9",
    "spin p99.9",
    "core",
    "again",
    "el/frame",
  ];
  const rows = r.rows.map((x) => [
    whose(x),
    x.direction,
    x.frame_bytes,
    x.batch === null ? null : Number(x.batch.toFixed(1)),
    significant(x.ns_per_frame.median),
    significant(x.ns_per_frame.min),
    significant(x.ns_per_frame.max),
    significant(x.mpps.median),
    optional(x.block_p50_ns),
    optional(x.block_p999_ns),
    optional(x.spin_p999_ns),
    optional(x.core_ns?.median ?? null),
    x.runs_repeated,
    optional(x.elements_per_frame),
  ]);
  return `${machineLine(r)}\n${optionLines(r)}${tableText(head, rows)}`;
}

/** Warnings a reader needs beside the figures. */
export function reportWarnings(r: BenchReport): string[] {
  const out: string[] = [];
  if (!r.jit) out.push("the JIT is off: figures are about 50 times too high");
  const shared = r.rows.filter((x) => x.cpu_share !== null && x.cpu_share < 0.9);
  if (shared.length > 0) {
    const least = Math.min(...shared.map((x) => x.cpu_share as number));
    out.push(
      `the CPU was shared in ${shared.length} of ${r.rows.length} rows (as little as ${(least * 100).toFixed(0)} % was ours): ns/frame still holds, block times do not`,
    );
  }
  const small = r.rows.filter((x) => x.page_bytes === 4096).length;
  if (small > 0)
    out.push(
      `rings and buffers were in pages of 4 KiB in ${small} of ${r.rows.length} rows, a board's are in hugepages: large frames cost more; see /sys/kernel/mm/transparent_hugepage`,
    );
  return out;
}
