/**
 * `bench link`: rates and latencies of several designs on the same model of a link, in simulated time. The same seed
 * gives the same figures on every machine. Method and assumptions: docs/bench.md.
 */
import {
  checkTiming,
  type Direction,
  type LinkTiming,
  PRESETS,
  payloadLimit,
  preset,
} from "../../hw/model/open-model.ts";
import { TUNING } from "../tuning.ts";
import { Draw } from "./draw.ts";
import { EpnicRig, FULL, type Variant } from "./link-epnic.ts";
import { type LinkRig, type LinkRigOptions, shapeOf } from "./link-rig.ts";
import { WindowRig } from "./link-window.ts";

export { type Direction, type LinkTiming, PRESETS };
/** epnic-vduse: pieces of 4 KiB, two write channels; that is what VDUSE makes of epnic */
export const DESIGNS = ["epnic", "epnic-vduse", "edma-per-frame", "memcpy-window"] as const;
export type Design = (typeof DESIGNS)[number];

/** A host that does not tell its avail index: what is for looks shows beside such a one. */
const DEAF = { notices: false };

const VDUSE: Variant = { ...FULL, lanes: 2 };

/** What can be left out of epnic, each alone; what is for looks, and "notify-data" itself; "tail" is for lists, beside "single-transfers". What saves CPU time alone: ../bench.ts. */
export const WITHOUT = {
  batching: { ...FULL, burst: 1, tuning: { coalesce: 1 } },
  coalescing: { ...FULL, tuning: { coalesce: 1 } },
  "dma-fetch": { ...FULL, window: true },
  prefetch: { ...FULL, tuning: { prefetch: false } },
  "look-ahead": { ...FULL, tuning: { pollAhead: false } },
  "several-looks": { ...FULL, tuning: { ...DEAF, polls: 1 } },
  "idle-channel": { ...FULL, tuning: { ...DEAF, idleChannel: false } },
  "chain-span": { ...FULL, tuning: { span: false } },
  "busy-gap": { ...FULL, tuning: { ...DEAF, busyGap: 2 } },
  tail: { ...FULL, tuning: { single: false, tail: false } },
  "calm-looks": { ...FULL, tuning: { ...DEAF, calmGap: TUNING.pollGap } },
  "notify-data": { ...FULL, tuning: DEAF },
  "short-turns": { ...FULL, tuning: { vigil: false } },
  "both-channels": { ...FULL, tuning: { bothChannels: false } },
  "single-transfers": { ...FULL, tuning: { single: false } },
  guess: { ...FULL, tuning: { guess: false } },
  "header-in-place": FULL,
  "second-channel": FULL,
  "equal-headers": VDUSE,
} as const satisfies Record<string, Variant>;
export type Without = keyof typeof WITHOUT;
export const ALL_WITHOUT = Object.keys(WITHOUT) as Without[];
/** rows of epnic-vduse. equal-headers: the host's header is longer than the board's (Linux from 6.17), so it is an element of its own */
const OF_VDUSE: readonly Without[] = ["second-channel", "equal-headers"];

export interface LinkBenchOptions {
  /** as linksOf() makes them */
  readonly links: readonly LinkTiming[];
  readonly designs: readonly Design[];
  readonly sizes: readonly number[];
  /** also without these, each alone, where their design is asked for */
  readonly without: readonly Without[];
  readonly seed: number;
  /** simulated time of the board's CPU: a turn of the loop, a frame */
  readonly turnNs: number;
  readonly frameNs: number;
}

/** One line of the report; src/cmd has its schema. */
export interface LinkRow {
  preset: string;
  design: Design;
  /** what epnic had to do without, null: nothing */
  without: Without | null;
  direction: Direction;
  frame_bytes: number;
  frames: number;
  gbps: number;
  limit_gbps: number;
  share_of_limit: number;
  mframes_per_s: number;
  /** one frame on an idle link; null for "both" */
  latency_us: { p50: number; p99: number } | null;
  /** the distribution: least, 5th, 10th ... 95th percentile, greatest */
  latency_steps_us: number[] | null;
  /** the same in link round trips */
  latency_round_trips: number | null;
  cpu_reads_per_frame: number;
  elements_per_frame: number;
}

/** What a link has besides its name: the numbers of LinkTiming. */
export type LinkParameter = Exclude<keyof LinkTiming, "name">;

/** The links of presets, with some parameters set to something else. @throws Fault E_USAGE, E_CONFIG for one that makes no sense */
export function linksOf(presets: readonly string[], set: Partial<Record<LinkParameter, number>>): LinkTiming[] {
  return presets.map((name) => {
    const link = { ...preset(name), ...set };
    checkTiming(link);
    return link;
  });
}

const DIRECTIONS: readonly Direction[] = ["ep_to_host", "host_to_ep", "both"];
/** simulated time before and while it is counted */
const WARM_NS = 300_000;
const COUNT_NS = 2_000_000;
const COUNT_FRAMES = 300;
const LONE_FRAMES = 200;

function openRig(design: Design, without: Without | null, o: LinkRigOptions): LinkRig {
  if (design === "epnic") return new EpnicRig(o, without === null ? FULL : WITHOUT[without]);
  if (design === "epnic-vduse") return new EpnicRig(o, without === null ? VDUSE : WITHOUT[without]);
  return new WindowRig(o, design === "edma-per-frame");
}

function measureRow(
  timing: LinkTiming,
  design: Design,
  without: Without | null,
  direction: Direction,
  frameBytes: number,
  o: LinkBenchOptions,
): LinkRow {
  const shape = shapeOf(frameBytes, design === "epnic-vduse");
  const options: LinkRigOptions = {
    timing,
    seed: o.seed,
    direction,
    frameBytes,
    shape,
    ring: shape === "single" ? 256 : 1024,
    patch: without !== "header-in-place" && without !== "equal-headers",
    turnNs: o.turnNs,
    frameNs: o.frameNs,
  };
  const rig = openRig(design, without, options);
  const latency = direction === "both" ? null : latencies(rig, o.seed);
  // At least COUNT_FRAMES frames at the limit, and many more for designs that copy by CPU.
  const slow = design === "memcpy-window" || without === "dma-fetch" ? Math.ceil(frameBytes / 1000) : 1;
  // The two directions arrive in groups of their own.
  const count =
    (direction === "both" ? 4 : 1) *
    slow *
    Math.max(COUNT_NS, (COUNT_FRAMES * frameBytes * 8) / payloadLimit(timing, direction));
  rig.saturate(WARM_NS * slow);
  const { stats } = rig.model.endpoint;
  const before = { bytes: rig.arrivedBytes, reads: stats.nonPostedReads, elements: stats.elements, now: rig.arrivedAt };
  rig.saturate(count);
  const ns = rig.arrivedAt - before.now;
  const frames = (rig.arrivedBytes - before.bytes) / (frameBytes + 12);
  const gbps = (frames * frameBytes * 8) / ns;
  const limit = payloadLimit(timing, direction);
  const row: LinkRow = {
    preset: timing.name,
    design,
    without,
    direction,
    frame_bytes: frameBytes,
    frames: Math.round(frames),
    gbps,
    limit_gbps: limit,
    share_of_limit: gbps / limit,
    mframes_per_s: (frames / ns) * 1000,
    latency_us: latency === null ? null : { p50: at(latency, 0.5), p99: at(latency, 0.99) },
    latency_steps_us: latency === null ? null : STEPS.map((q) => at(latency, q)),
    latency_round_trips: latency === null ? null : (at(latency, 0.5) * 1000) / timing.roundTripNs,
    cpu_reads_per_frame: frames === 0 ? 0 : (stats.nonPostedReads - before.reads) / frames,
    elements_per_frame: frames === 0 ? 0 : (stats.elements - before.elements) / frames,
  };
  rig.close();
  return row;
}

/** Lone frames, sorted, ns. */
function latencies(rig: LinkRig, seed: number): Float64Array {
  const pauses = new Draw(seed);
  const ns = new Float64Array(LONE_FRAMES);
  for (let i = 0; i < 20; i++) rig.lone(20_000 + pauses.next(10_000));
  for (let i = 0; i < LONE_FRAMES; i++) ns[i] = rig.lone(20_000 + pauses.next(10_000));
  return ns.sort();
}

const STEPS = Array.from({ length: 21 }, (_, i) => i / 20);
/** Quantile `q` in us. */
const at = (sorted: Float64Array, q: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))]! / 1000;

/** Whose optimisation it is. */
export const ownerOf = (without: Without): Design => (OF_VDUSE.includes(without) ? "epnic-vduse" : "epnic");

/** Everything asked for, a row after the other. */
export function* measureLink(o: LinkBenchOptions): Generator<LinkRow> {
  const left = o.without.filter((w) => o.designs.includes(ownerOf(w)));
  for (const link of o.links) {
    for (const design of o.designs)
      for (const direction of DIRECTIONS)
        for (const size of o.sizes) yield measureRow(link, design, null, direction, size, o);
    for (const without of left)
      for (const direction of ["ep_to_host", "host_to_ep"] as const)
        for (const size of o.sizes) yield measureRow(link, ownerOf(without), without, direction, size, o);
  }
}
