/** `epnic bench link`: its report, table and comparison around the engine's measurement. */
import { readFileSync } from "node:fs";
import * as v from "valibot";
import {
  ALL_WITHOUT,
  DESIGNS,
  type Design,
  type LinkParameter,
  type LinkRow,
  type LinkTiming,
  linksOf,
  measureLink,
  PRESETS,
} from "../engine/bench/link.ts";
import { Fault } from "../hw/fault.ts";
import { integer } from "./_args.ts";
import { nearest } from "./_nearest.ts";
import { type Cell, type Out, tableText } from "./_out.ts";
import { type BenchReport, machineLine, newReport, optionLines, whose, wrongKey } from "./_report.ts";

const amount = v.pipe(v.number(), v.minValue(0));

export const LinkRowSchema = v.object({
  preset: v.string(),
  design: v.picklist(DESIGNS),
  without: v.nullable(v.string()),
  direction: v.picklist(["ep_to_host", "host_to_ep", "both"]),
  frame_bytes: amount,
  frames: amount,
  gbps: amount,
  limit_gbps: amount,
  share_of_limit: amount,
  mframes_per_s: amount,
  latency_us: v.nullable(v.object({ p50: amount, p99: amount })),
  latency_steps_us: v.nullable(v.array(amount)),
  latency_round_trips: v.nullable(amount),
  cpu_reads_per_frame: amount,
  elements_per_frame: amount,
});

export type LinkReport = Omit<BenchReport, "rows"> & { rows: LinkRow[] };

const short = (n: number): string => n.toFixed(n >= 100 ? 0 : n >= 10 ? 1 : 2);

/** Parameters are named as keys of reports are: round_trip_ns. */
const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
const KEYS = Object.keys(Object.values(PRESETS)[0]!) as (keyof LinkTiming)[];
const PARAMETERS: readonly LinkParameter[] = [
  "gen",
  "width",
  ...KEYS.filter((k): k is LinkParameter => !["name", "gen", "width"].includes(k)),
];

/** A link as the report has it. */
const linkOf = (t: LinkTiming): Record<string, string | number> =>
  Object.fromEntries([["name", t.name], ...PARAMETERS.map((k) => [snake(k), t[k]] as const)]);

/** What --set says. @throws Fault E_USAGE */
function parametersOf(text: string | undefined): Partial<Record<LinkParameter, number>> {
  const set: Partial<Record<LinkParameter, number>> = {};
  for (const item of text === undefined ? [] : text.split(",")) {
    const [, name, value] = /^\s*([^=]*?)\s*=\s*(.*?)\s*$/.exec(item) ?? [];
    if (name === undefined || value === undefined) {
      throw new Fault(
        "E_USAGE",
        `--set is '${item}', expected NAME=VALUE`,
        `names: ${PARAMETERS.map(snake).join(", ")}`,
      );
    }
    const key = PARAMETERS.find((k) => snake(k) === name);
    if (key === undefined) {
      const guess = nearest(name, PARAMETERS.map(snake));
      throw new Fault(
        "E_USAGE",
        `--set: a link has no parameter '${name}'`,
        guess ? `did you mean '${guess}'?` : `one of ${PARAMETERS.map(snake).join(", ")}`,
      );
    }
    set[key] = integer(`set ${name}`, value, 0, 1e6);
  }
  return set;
}

/** @throws Fault E_USAGE for a value that no link can have */
function links(presets: readonly string[], set: string | undefined): LinkTiming[] {
  try {
    return linksOf(presets, parametersOf(set));
  } catch (e) {
    if (!(e instanceof Fault) || e.code !== "E_CONFIG") throw e;
    throw new Fault("E_USAGE", `--set: ${e.message.replace(/\b[a-z]+(?:[A-Z][a-z]+)+\b/g, snake)}`);
  }
}

export function linkTable(r: LinkReport): string {
  const head = [
    "link",
    "design",
    "direction",
    "bytes",
    "gb/s",
    "of limit",
    "mfps",
    "p50 us",
    "p99",
    "rtts",
    "reads",
    "el",
  ];
  const rows = r.rows.map((x): Cell[] => [
    x.preset,
    whose(x),
    x.direction,
    x.frame_bytes,
    short(x.gbps),
    x.share_of_limit.toFixed(3),
    x.mframes_per_s.toFixed(3),
    x.latency_us === null ? null : short(x.latency_us.p50),
    x.latency_us === null ? null : short(x.latency_us.p99),
    x.latency_round_trips === null ? null : short(x.latency_round_trips),
    short(x.cpu_reads_per_frame),
    short(x.elements_per_frame),
  ]);
  return `${machineLine({ ...r, rows: [] })}\n${optionLines({ ...r, rows: [] })}# simulated time; p50, p99, rtts: a lone frame; reads, el: CPU loads across the link and DMA elements a frame; "- x": the design without x\n${tableText(head, rows)}`;
}

/** @throws Fault E_CONFIG naming the key that is wrong */
export function linkRowsOf(path: string): v.InferOutput<typeof LinkRowSchema>[] {
  const result = v.safeParse(v.object({ rows: v.array(LinkRowSchema) }), JSON.parse(readFileSync(path, "utf8")));
  if (result.success) return result.output.rows;
  const issue = result.issues[0];
  throw wrongKey(path, "epnic bench link", issue);
}

/** The same rows of two reports side by side: what b has of a. */
export function compareLink(a: string, b: string, out: Out): number {
  const key = (r: v.InferOutput<typeof LinkRowSchema>): string =>
    [r.preset, r.design, r.without, r.direction, r.frame_bytes].join(" ");
  const others = new Map(linkRowsOf(b).map((r) => [key(r), r]));
  const rows = linkRowsOf(a).flatMap((x) => {
    const y = others.get(key(x));
    if (y === undefined) return [];
    return [
      {
        preset: x.preset,
        design: x.design,
        without: x.without,
        direction: x.direction,
        frame_bytes: x.frame_bytes,
        rate: x.gbps === 0 ? null : y.gbps / x.gbps,
        latency_p50: x.latency_us === null || y.latency_us === null ? null : y.latency_us.p50 / x.latency_us.p50,
      },
    ];
  });
  if (rows.length === 0) throw new Fault("E_CONFIG", `${a} and ${b} have no row of the same link, design and size`);
  if (out.options.json) out.json({ version: 1, rows });
  else {
    const cell = (n: number | null): Cell => (n === null ? null : n.toFixed(3));
    out.print(
      tableText(
        ["link", "design", "direction", "bytes", "gb/s b/a", "p50 b/a"],
        rows.map((r) => [r.preset, whose(r), r.direction, r.frame_bytes, cell(r.rate), cell(r.latency_p50)]),
      ),
    );
  }
  return 0;
}

function names<T extends string>(flag: string, text: string, known: readonly T[]): T[] {
  const found = text.split(",").map((s) => {
    const name = known.find((k) => k === s.trim());
    if (name !== undefined) return name;
    const guess = nearest(s.trim(), known);
    throw new Fault(
      "E_USAGE",
      `--${flag} is '${s}', expected one of ${known.join(", ")}`,
      guess && `did you mean '${guess}'?`,
    );
  });
  return [...new Set(found)];
}

export interface LinkGiven {
  preset: string;
  set?: string | undefined;
  design: string;
  ablation?: boolean | undefined;
  seed: string;
  "turn-ns": string;
  "frame-ns": string;
}

/** Measure; `done` prints and writes. */
export function benchLink(
  given: LinkGiven,
  sizes: readonly number[],
  out: Out,
  done: (report: LinkReport, text: () => string) => void,
): number {
  const presets = names("preset", given.preset, Object.keys(PRESETS));
  const options = {
    links: links(presets, given.set),
    designs: names<Design>("design", given.design, DESIGNS),
    sizes,
    without: given.ablation === true ? ALL_WITHOUT : [],
    seed: integer("seed", given.seed, 0, 2 ** 31 - 1),
    turnNs: integer("turn-ns", given["turn-ns"], 1, 100_000),
    frameNs: integer("frame-ns", given["frame-ns"], 0, 100_000),
  };
  if (given.ablation === true && !options.designs.some((d) => d === "epnic" || d === "epnic-vduse")) {
    throw new Fault("E_USAGE", `--ablation is of epnic and epnic-vduse, --design is '${given.design}'`);
  }
  const report: LinkReport = {
    ...newReport("link", options.seed, {
      presets: presets.join(","),
      designs: options.designs.join(","),
      sizes: [...sizes],
      ablation: given.ablation === true,
      turn_ns: options.turnNs,
      frame_ns: options.frameNs,
    }),
    links: options.links.map(linkOf),
    rows: [],
  };
  for (const row of measureLink(options)) {
    report.rows.push(row);
    out.log.debug(`${row.preset} ${row.design} ${row.direction} ${row.frame_bytes} B: ${row.gbps.toFixed(2)} Gb/s`);
  }
  done(report, () => linkTable(report));
  return 0;
}
