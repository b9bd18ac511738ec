/**
 * `bench cpu`: time of DataPath.turn() a frame, on the real engine and the real EdmaChannel against the stand-in
 * hardware. Only turn() is inside the clock; method and its limits: docs/bench.md.
 */
import { heapSize } from "bun:jsc";
import { CpuRig, type RigOptions } from "./rig.ts";

export interface Spread {
  min: number;
  median: number;
  max: number;
}

export interface CpuResult {
  /** frames counted and turns timed, all runs */
  frames: number;
  turns: number;
  /** frames that a turn with work began, mean */
  burst: number;
  /** over the runs: each run's median over samples of SAMPLE_TURNS turns */
  ns_per_frame: Spread;
  /** all time over all frames, interruptions by other programs included */
  mean_ns_per_frame: number;
  /** one turn: median, 99.9th percentile and the greatest, ns */
  turn_ns: { p50: number; p999: number; max: number };
  /** linked-list elements a frame, ring words included */
  elements_per_frame: number;
  /** growth of the JavaScript heap over the timed turns of all runs, bytes */
  bytes_allocated: number;
}

export interface CpuLimits {
  readonly runs: number;
  /** frames of one run */
  readonly frames: number;
  /** frames before the first run; the optimising compiler needs some 10^5 */
  readonly warmup: number;
}

/** Turns of one sample: several rounds of the ring fetches and one clock overhead that hardly counts. */
export const SAMPLE_TURNS = 64;
const MOST_TURNS = 1 << 20;

const turnNs = new Float64Array(MOST_TURNS);
const sampleNs = new Float64Array(MOST_TURNS / SAMPLE_TURNS);

/** What two readings of the clock right after each other differ by: median, ns. */
export function clockOverhead(): number {
  const n = 20_000;
  const d = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const a = Bun.nanoseconds();
    d[i] = Bun.nanoseconds() - a;
  }
  const late = d.subarray(n / 2).sort();
  return late[late.length >> 1]!;
}

function spread(values: readonly number[]): Spread {
  const v = [...values].sort((a, b) => a - b);
  return { min: v[0]!, median: v[v.length >> 1]!, max: v[v.length - 1]! };
}

function work(rig: CpuRig, frames: number): void {
  const end = rig.frames + frames;
  while (rig.frames < end) {
    rig.between();
    const rc = rig.dp.turn();
    if (rc < 0) fault(rig, rc);
  }
}

function fault(rig: CpuRig, rc: number): never {
  throw new Error(`bench: the data path stopped with code ${rc}, ${rig.dp.culprit} a=${rig.dp.a} b=${rig.dp.b}`);
}

/** Fill turnNs with `turns` turns. @returns sum of them, ns */
function timed(rig: CpuRig, turns: number, overhead: number): number {
  const dp = rig.dp;
  let sum = 0;
  for (let t = 0; t < turns; t++) {
    rig.between();
    const a = Bun.nanoseconds();
    const rc = dp.turn();
    const ns = Bun.nanoseconds() - a - overhead;
    if (rc < 0) fault(rig, rc);
    turnNs[t] = ns;
    sum += ns;
  }
  return sum;
}

/** Measure one row. */
export function measureCpu(o: RigOptions, limits: CpuLimits): CpuResult {
  const rig = new CpuRig(o);
  work(rig, limits.warmup);
  const overhead = clockOverhead();
  // The timing loop itself gets compiled here.
  timed(rig, 20_000, overhead);
  const perTurn = o.batch * (o.direction === "both" ? 2 : 1);
  const want = Math.ceil(limits.frames / perTurn / SAMPLE_TURNS) * SAMPLE_TURNS;
  const turns = Math.min(MOST_TURNS, Math.max(want, 16 * SAMPLE_TURNS));
  const medians: number[] = [];
  const p50: number[] = [];
  const p999: number[] = [];
  let worst = 0;
  let sum = 0;
  let frames = 0;
  let elements = 0;
  let grown = 0;
  const bursts = rig.dp.toHost.bursts + rig.dp.toBoard.bursts;
  for (let run = 0; run < limits.runs; run++) {
    Bun.gc(true);
    const framesBefore = rig.frames;
    const elementsBefore = rig.dma.elements;
    const heap = heapSize();
    sum += timed(rig, turns, overhead);
    grown += heapSize() - heap;
    const n = rig.frames - framesBefore;
    frames += n;
    elements += rig.dma.elements - elementsBefore;
    const samples = turns / SAMPLE_TURNS;
    for (let s = 0; s < samples; s++) {
      let ns = 0;
      for (let t = s * SAMPLE_TURNS; t < (s + 1) * SAMPLE_TURNS; t++) ns += turnNs[t]!;
      sampleNs[s] = ns;
    }
    const sorted = sampleNs.subarray(0, samples).sort();
    medians.push(sorted[samples >> 1]! / (n / samples));
    const each = turnNs.subarray(0, turns).sort();
    p50.push(each[turns >> 1]!);
    p999.push(each[Math.floor(turns * 0.999)]!);
    worst = Math.max(worst, each[turns - 1]!);
  }
  const result: CpuResult = {
    frames,
    turns: turns * limits.runs,
    burst: frames / (rig.dp.toHost.bursts + rig.dp.toBoard.bursts - bursts),
    ns_per_frame: spread(medians),
    mean_ns_per_frame: sum / frames,
    turn_ns: { p50: spread(p50).median, p999: spread(p999).median, max: worst },
    elements_per_frame: elements / frames,
    bytes_allocated: grown,
  };
  rig.close();
  return result;
}
