/** `epnic bench`: measure, report and compare. */
import { type ArgsDef, defineCommand, type ParsedArgs } from "citty";
import type { BenchResult } from "../engine/bench.ts";
import { Fault } from "../hw/fault.ts";
import { commonArgs, deviceOf, integer } from "./_args.ts";
import { needOwnFlags, needWritable, publish } from "./_bench_args.ts";
import type { About } from "./_help.ts";
import { linkArgs } from "./_link_args.ts";
import { liveArgs } from "./_live_args.ts";
import type { Out } from "./_out.ts";

/** The sizes of --all, as in the published tables of this field (without FCS), and a TSO frame. */
export const ALL_SIZES = [60, 128, 256, 512, 1024, 1514, 4096, 9014, 16384, 32768, 65000] as const;
const MODES = ["cpu", "link", "live"] as const;
type Mode = (typeof MODES)[number];

const args = {
  mode: {
    type: "positional",
    required: false,
    valueHint: "cpu|link|live",
    description:
      "what to measure: cpu, the engine's CPU time; link, designs on a modelled link; live, an attached device; with --compare the first report",
  },
  other: {
    type: "positional",
    required: false,
    valueHint: "DEVICE|REPORT",
    description: "live: the controller, as for run; with --compare: the second report",
  },
  device: {
    type: "string",
    alias: "d",
    valueHint: "DEVICE",
    description: "live: the same as the argument; cpu and link run on models of their own and take 'model' only",
  },
  sizes: {
    type: "string",
    alias: "s",
    valueHint: "LIST",
    description:
      "frame sizes in bytes, separated by commas; without it cpu takes 60, 1514 and 65000, link 64, 1500 and 65000, live the least and the greatest",
  },
  all: { type: "boolean", alias: "a", description: "all sizes from 60 to 65000" },
  frames: {
    type: "string",
    alias: "n",
    valueHint: "N",
    default: "200000",
    description: "cpu: frames of each measurement",
  },
  repeats: {
    type: "string",
    valueHint: "N",
    default: "30",
    description: "cpu: times a row that a run is made again while the core is shared",
  },
  warmup: {
    type: "string",
    alias: "w",
    valueHint: "N",
    default: "3000000",
    description: "cpu: frames before the first one of each row; the compiler needs some 2000000",
  },
  shape: {
    type: "enum",
    options: ["single", "frags4k", "frags32k", "tso"],
    default: "single",
    description: "cpu: a frame in one piece, or as Linux cuts large ones",
  },
  batch: {
    type: "string",
    alias: "b",
    valueHint: "LIST",
    default: "32",
    description: "cpu: frames taken up in one turn at the most, separated by commas",
  },
  runs: {
    type: "string",
    alias: "r",
    valueHint: "N",
    default: "3",
    description: "cpu, live: measurements of each size",
  },
  cpu: { type: "string", valueHint: "N", description: "cpu, live: pin to this CPU" },
  output: { type: "string", alias: "o", valueHint: "FILE", description: "write the JSON report to FILE as well" },
  html: { type: "string", valueHint: "FILE", description: "write a page with charts to FILE" },
  ...linkArgs,
  ...liveArgs,
  compare: { type: "boolean", description: "compare two JSON reports instead" },
  ...commonArgs,
} as const satisfies ArgsDef;

export const about: About = {
  name: "bench",
  summary: "measure, report and compare",
  synopsis: "[FLAGS] cpu | link | live DEVICE | --compare REPORT REPORT",
  description: [
    "cpu: time of the engine's data path a frame, one direction at a time and both, between two drivers in memory. The DMA is a stand-in outside of the clock and moves no payload, so this is what a board's CPU spends.",
    "Prints the median, the least and the greatest of several measurements; mpps is what one CPU could do at that cost. block p50 and p99.9 are ns for a block of 16 frames (4 of large ones, or a batch; both directions together), spin p99.9 the same of blocks as long that do nothing: what the machine itself adds. core is a piece of arithmetic that fills a core, in ns, beside each run: where it is more than 1.1 times the least known, another hardware thread has a share, and the run is made again (again; --repeats).",
    "link: the engine with a TAP and with VDUSE, and two designs that were published before, on a model of a PCIe link with time: rate as a share of what the link can carry, latency of a lone frame, CPU loads across the link. The same seed gives the same figures on every machine.",
    "live: the whole card on an attached device, with a station in this process where the board's interface would be. Three cases a size: round_trip, one ICMP echo at a time; to_host, frames that the host throws away; both, a window of echoes that the host's kernel answers. Every measurement ends by the clock, and a device that a run holds is refused.",
  ],
  examples: [
    ["epnic bench cpu -a --html bench.html -o bench.json", "all sizes, with charts and a report to keep"],
    [
      "epnic bench live model --host-netns host",
      "the card with a simulated host, whose kernel answers in that namespace",
    ],
    ["epnic bench link -a --preset rk3588 --html link.html", "all designs on one link, with charts"],
    ["epnic bench --compare old.json bench.json", "what became slower"],
  ],
  args,
};

function list(flag: string, value: string, min: number, max: number): number[] {
  return [...new Set(value.split(",").map((s) => integer(flag, s.trim(), min, max)))];
}

/** Every frame size and case on an attached device. */
async function live(given: ParsedArgs<typeof args>, out: Out): Promise<number> {
  const device = deviceOf({ name: given.other, device: given.device });
  if (device === "")
    throw new Fault("E_USAGE", "no device is named", "'epnic probe' lists them; 'model' needs no board");
  const common = {
    sizes: given.all
      ? ALL_SIZES.filter((s) => s <= Number(given.mtu ?? 1500) + 14)
      : given.sizes === undefined
        ? null
        : list("sizes", given.sizes, 60, 65535),
    runs: integer("runs", given.runs, 1, 1000),
    cpu: given.cpu === undefined ? null : integer("cpu", given.cpu, 0, 1023),
  };
  const { benchLive } = await import("./_bench_live.ts");
  const { liveHtml } = await import("./_live_html.ts");
  return benchLive(device, given, common, out, (report, text) =>
    publish(out, given, report, text, () => liveHtml(report)),
  );
}

/** Every preset, design, direction and size in simulated time. */
async function link(given: ParsedArgs<typeof args>, out: Out): Promise<number> {
  const sizes = given.all
    ? ALL_SIZES.map((s) => (s === 60 ? 64 : s === 1514 ? 1500 : s))
    : given.sizes === undefined
      ? [64, 1500, 65000]
      : list("sizes", given.sizes, 60, 65535);
  (await import("./_jit.ts")).needJit();
  const { benchLink } = await import("./_bench_link.ts");
  const { linkHtml } = await import("./_link_html.ts");
  return benchLink(given, sizes, out, (report, text) => publish(out, given, report, text, () => linkHtml(report)));
}

export default defineCommand({
  meta: { name: "bench", description: about.summary },
  args,
  async run({ args, rawArgs, data }) {
    const out = data as Out;
    if (args.compare) {
      needOwnFlags("--compare", rawArgs);
      return (await import("./_bench_compare.ts")).compare([args.mode, args.other], out);
    }
    const mode = MODES.find((m) => m === args.mode) as Mode | undefined;
    if (mode === undefined) {
      const { nearest } = await import("./_nearest.ts");
      const guess = args.mode && nearest(args.mode, MODES);
      if (args.mode === undefined)
        throw new Fault("E_USAGE", "nothing to measure is named", `one of ${MODES.join(", ")}`);
      throw new Fault(
        "E_USAGE",
        `unknown measurement '${args.mode}'`,
        guess ? `did you mean '${guess}'?` : `one of ${MODES.join(", ")}`,
      );
    }
    needOwnFlags(mode, rawArgs);
    if (mode !== "live" && args.other !== undefined) {
      throw new Fault("E_USAGE", `unexpected argument '${args.other}': bench ${mode} takes none`);
    }
    if (mode !== "live" && args.device !== undefined && args.device !== "model")
      throw new Fault(
        "E_USAGE",
        `bench ${mode} runs on a model, --device is '${args.device}'`,
        `'epnic bench live ${args.device}' measures a device`,
      );
    if (args.all && args.sizes !== undefined) {
      throw new Fault("E_USAGE", "--all and --sizes are both given");
    }
    needWritable(args);
    if (mode === "live") return live(args, out);
    if (mode === "link") return link(args, out);
    const options = {
      sizes: args.all
        ? [...ALL_SIZES]
        : args.sizes === undefined
          ? [60, 1514, 65000]
          : list("sizes", args.sizes, 60, 65535),
      batches: list("batch", args.batch, 1, 256),
      shape: args.shape,
      frames: integer("frames", args.frames, 1, 4e6),
      warmup: integer("warmup", args.warmup, 0, 1e8),
      repeats: integer("repeats", args.repeats, 0, 1000),
      runs: integer("runs", args.runs, 1, 1000),
      ablation: args.ablation === true,
      cpu: args.cpu === undefined ? null : integer("cpu", args.cpu, 0, 1023),
    };
    (await import("./_jit.ts")).needJit();
    const { newReport, reportTable, reportWarnings } = await import("./_report.ts");
    const { reportHtml } = await import("./_report_html.ts");
    const { casesOf } = await import("../engine/bench.ts");
    const { measureApart } = await import("./_bench_row.ts");
    const { Interrupt, NO_ROWS } = await import("./_interrupt.ts");
    const report = newReport(mode, null, { ...options });
    const interrupt = new Interrupt();
    let calm: number | null = null;
    for (const asked of casesOf(options)) {
      const row: BenchResult | number = await measureApart(asked, options, options.cpu, calm, interrupt);
      if (interrupt.stop) break;
      if (typeof row === "number") return row;
      report.rows.push(row);
      calm = row.core_calm_ns;
      out.log.debug(`${row.direction} ${row.frame_bytes} B: ${row.ns_per_frame.median.toFixed(1)} ns/frame`);
    }
    interrupt.release();
    if (report.rows.length === 0) {
      out.log.warn(NO_ROWS);
      if (out.options.json) out.json(report);
      return interrupt.status;
    }
    for (const w of reportWarnings(report)) out.log.warn(w);
    publish(
      out,
      args,
      report,
      () => reportTable(report),
      () => reportHtml(report),
    );
    return interrupt.status;
  },
});
