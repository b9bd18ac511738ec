/** What `bench` asks for, as rows: every size, direction and batch, each measured by bench/cpu.ts. */
import type { Direction } from "../hw/model/open-model.ts";
import { measureCpu, type Spread } from "./bench/cpu.ts";
import { SHAPES, type Shape } from "./bench/rig.ts";
import type { Tuning } from "./tuning.ts";

export { SHAPES, type Shape };

/** Optimisations that save CPU time and no link: switched off one by one here. `bench link` has the others. */
export const CPU_WITHOUT = {
  /** what landed and the rings of the host are attended to every turn */
  "tend-after": { tendAfter: 0 },
} as const satisfies Record<string, Partial<Tuning>>;
export type CpuWithout = keyof typeof CPU_WITHOUT;
const ALL: readonly (CpuWithout | null)[] = [null, ...(Object.keys(CPU_WITHOUT) as CpuWithout[])];

export interface BenchOptions {
  sizes: readonly number[];
  batches: readonly number[];
  shape: Shape;
  /** frames of one measurement, and before the first */
  frames: number;
  warmup: number;
  runs: number;
  /** times a row that a run is made again while the core is shared */
  repeats: number;
  /** also without each of CPU_WITHOUT */
  ablation: boolean;
}

/** One line of the report; src/cmd has its schema. */
export interface BenchResult {
  /** as in `bench link`; there is one here */
  design: "epnic";
  /** what it had to do without, null: nothing */
  without: CpuWithout | null;
  direction: Direction;
  shape: Shape;
  frame_bytes: number;
  /** frames the engine takes up in a turn at the most, and mean of turns with work */
  batch: number;
  burst: number;
  frames: number;
  runs: number;
  ns_per_frame: Spread;
  mpps: Spread;
  gbps: Spread;
  block_frames: number;
  block_p50_ns: number;
  block_p999_ns: number;
  block_max_ns: number;
  spin_p999_ns: number;
  core_ns: Spread;
  core_calm_ns: number;
  runs_repeated: number;
  block_steps_ns: number[];
  elements_per_frame: number;
  bytes_allocated: number;
  page_bytes: number;
  cpu_share: number;
}

const DIRECTIONS: readonly Direction[] = ["ep_to_host", "host_to_ep", "both"];
const over = (s: Spread, n: number): Spread => ({ min: n / s.max, median: n / s.median, max: n / s.min });

/** One row that is asked for. */
export interface BenchCase {
  readonly frameBytes: number;
  readonly direction: Direction;
  readonly batch: number;
  readonly without: CpuWithout | null;
}

/** Everything asked for, a row after the other. */
export function* casesOf(o: Pick<BenchOptions, "sizes" | "batches" | "ablation">): Generator<BenchCase> {
  for (const without of o.ablation ? ALL : [null])
    for (const frameBytes of o.sizes)
      for (const direction of DIRECTIONS)
        for (const batch of o.batches) yield { frameBytes, direction, batch, without };
}

/**
 * Measure one row. A process should measure one alone, as a card has one data path: rows behind the first took some 8 ns
 * a frame more at batch 1, it seems because JSC takes fields of a class's only object for constants. Rates are what one
 * CPU could do at that cost.
 * @param calm least core_calm_ns of the rows before, null: there were none
 */
export function measureRow(c: BenchCase, o: BenchOptions, calm: number | null = null): BenchResult {
  const { frameBytes, direction, batch, without } = c;
  const cpu = process.cpuUsage();
  const wall = Bun.nanoseconds();
  const tuning = without === null ? {} : CPU_WITHOUT[without];
  const r = measureCpu({ shape: o.shape, direction, frameBytes, batch, tuning }, { ...o, calm });
  const used = process.cpuUsage(cpu);
  const share = ((used.user + used.system) * 1000) / (Bun.nanoseconds() - wall - r.waited_ms * 1e6);
  return {
    design: "epnic",
    without,
    direction,
    shape: o.shape,
    frame_bytes: frameBytes,
    batch,
    burst: r.burst,
    frames: r.frames,
    runs: o.runs,
    ns_per_frame: r.ns_per_frame,
    mpps: over(r.ns_per_frame, 1000),
    gbps: over(r.ns_per_frame, 8 * frameBytes),
    block_frames: r.block_frames,
    block_p50_ns: r.block_ns.p50,
    block_p999_ns: r.block_ns.p999,
    block_max_ns: r.block_ns.max,
    spin_p999_ns: r.spin_p999_ns,
    core_ns: r.core_ns,
    core_calm_ns: r.core_calm_ns,
    runs_repeated: r.runs_repeated,
    block_steps_ns: r.block_steps_ns,
    elements_per_frame: r.elements_per_frame,
    bytes_allocated: r.bytes_allocated,
    page_bytes: r.page_bytes,
    cpu_share: Math.min(1, share),
  };
}
