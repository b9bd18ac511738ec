/** `epnic bench --compare`: two reports of the same measurement side by side, and what else they differ in. */
import { Fault } from "../hw/fault.ts";
import type { Out } from "./_out.ts";
import { type Cell, tableText } from "./_out.ts";
import {
  type BenchReport,
  type BenchRow,
  type ReportHead,
  readHead,
  readReport,
  significant,
  whose,
} from "./_report.ts";

export interface Comparison {
  design: string;
  without: string | null;
  direction: string;
  frame_bytes: number;
  batch: number | null;
  a_ns: number;
  b_ns: number;
  /** B over A: below 1 B is cheaper */
  ratio: number;
  /** the ranges min..max of A and B do not overlap */
  significant: boolean;
}

/** Rows of the same design, direction, size and batch side by side. */
export function compareReports(a: BenchReport, b: BenchReport): Comparison[] {
  const key = (r: BenchRow): string => `${r.design} ${r.without} ${r.direction} ${r.shape} ${r.frame_bytes} ${r.batch}`;
  const out: Comparison[] = [];
  const rest = [...b.rows];
  for (const x of a.rows) {
    const at = rest.findIndex((r) => key(r) === key(x));
    if (at < 0) continue;
    const [y] = rest.splice(at, 1);
    const [p, q] = [x.ns_per_frame, y.ns_per_frame];
    out.push({
      design: x.design,
      without: x.without,
      direction: x.direction,
      frame_bytes: x.frame_bytes,
      batch: x.batch,
      a_ns: p.median,
      b_ns: q.median,
      ratio: q.median / p.median,
      significant: p.max < q.min || q.max < p.min,
    });
  }
  return out;
}

export function comparisonTable(rows: readonly Comparison[]): string {
  return tableText(
    ["design", "direction", "bytes", "batch", "a ns/frame", "b ns/frame", "b/a", "beyond noise"],
    rows.map((r) => [
      whose(r),
      r.direction,
      r.frame_bytes,
      r.batch,
      significant(r.a_ns),
      significant(r.b_ns),
      r.ratio.toFixed(3),
      r.significant ? "yes" : "no",
    ]),
  );
}

function compareCpu(a: string, b: string, out: Out): number {
  const rows = compareReports(readReport(a), readReport(b));
  if (rows.length === 0) throw new Fault("E_CONFIG", `${a} and ${b} have no row of the same case and size`);
  if (out.options.json) out.json({ version: 1, rows });
  else out.print(comparisonTable(rows));
  return 0;
}

/** Options that only choose rows: these are matched one by one. */
const CHOOSES_ROWS = new Set(["sizes", "batches", "presets", "designs", "ablation", "shape"]);

/** What was measured differently, in the words of the report; a ratio also has that in it. */
export function differences(a: ReportHead, b: ReportHead): string[] {
  const found: string[] = [];
  const look = (what: string, x: Cell, y: Cell): void => {
    if (x !== y) found.push(`${what} ${x ?? "-"} and ${y ?? "-"}`);
  };
  if (a.mode !== "link") look("cpu", a.machine.cpu, b.machine.cpu);
  look("JIT", a.jit ? "on" : "off", b.jit ? "on" : "off");
  look("seed", a.seed, b.seed);
  for (const key of new Set([...Object.keys(a.options), ...Object.keys(b.options)])) {
    // an option that one of two versions did not have says nothing
    if (CHOOSES_ROWS.has(key) || a.options[key] === undefined || b.options[key] === undefined) continue;
    look(key, String(a.options[key]), String(b.options[key]));
  }
  for (const x of a.links ?? []) {
    const y = b.links?.find((l) => l.name === x.name);
    for (const key of y === undefined ? [] : Object.keys(x)) look(`${x.name} ${key}`, x[key], y?.[key]);
  }
  return found;
}

/** @throws Fault E_USAGE, E_CONFIG naming the file that is wrong */
export async function compare(paths: readonly (string | undefined)[], out: Out): Promise<number> {
  const [a, b] = paths;
  if (a === undefined || b === undefined) {
    throw new Fault("E_USAGE", `--compare needs two reports, ${a === undefined ? "none" : "one"} is given`);
  }
  const [x, y] = [readHead(a), readHead(b)];
  if (x.mode !== y.mode) {
    throw new Fault(
      "E_CONFIG",
      `${a} is a report of bench ${x.mode}, ${b} of bench ${y.mode}`,
      "compare two reports of the same measurement",
    );
  }
  const other = differences(x, y);
  if (other.length > 0) out.log.warn(`not measured alike: ${other.join("; ")}`);
  if (x.mode === "live") return (await import("./_bench_live.ts")).compareLive(a, b, out);
  if (x.mode === "link") return (await import("./_bench_link.ts")).compareLink(a, b, out);
  return compareCpu(a, b, out);
}
