/**
 * `bench cpu`: time of DataPath.turn() a frame, on the real engine and the real EdmaChannel against the stand-in
 * hardware. Blocks of turns are inside the clock, drivers and hardware are outside; method and limits: docs/bench.md.
 */
import { coreNs } from "./core.ts";
import { heapBlocks } from "./heap.ts";
import { CpuRig, type RigOptions } from "./rig.ts";
import { spinTail } from "./spin.ts";

export interface Spread {
  min: number;
  median: number;
  max: number;
}

export interface CpuResult {
  /** frames counted, all runs */
  frames: number;
  /** frames that a turn with work began, mean */
  burst: number;
  /** over the runs: each run's median over samples of 32 blocks */
  ns_per_frame: Spread;
  /** all time over all frames, interruptions by other programs included */
  mean_ns_per_frame: number;
  /** one block of frames: how many they are; median, 99.9th percentile and the greatest, ns */
  block_frames: number;
  block_ns: { p50: number; p999: number; max: number };
  /** 99.9th percentile of blocks of that length that do nothing, median over the runs, ns: see spin.ts */
  spin_p999_ns: number;
  /** the distribution of block times, ns, at BLOCK_QUANTILES: medians over the runs, the least and greatest of all */
  block_steps_ns: number[];
  /** over the runs, medians of what is timed beside each sample: greater while the core is shared, see core.ts */
  core_ns: Spread;
  /** the least that is known of it: the tenth part of a run, or what `calm` said */
  core_calm_ns: number;
  /** runs that were made again because it was */
  runs_repeated: number;
  /** ms that were waited before them */
  waited_ms: number;
  /** linked-list elements a frame, ring words included */
  elements_per_frame: number;
  /** blocks that the JavaScript heap took (or a collection gave back) over the timed turns of all runs, bytes, see heap.ts */
  bytes_allocated: number;
  /** size of the pages that rings and buffers were in */
  page_bytes: number;
}

export interface CpuLimits {
  readonly runs: number;
  /** frames of one run, were every block full; whole samples, MOST_BLOCKS blocks at the most */
  readonly frames: number;
  /** frames before the first run; the optimising compiler needs some 10^5 */
  readonly warmup: number;
  /** times that a run is made again while the core is shared */
  readonly repeats: number;
  /** core_calm_ns that is known from earlier rows on this CPU, null: none */
  readonly calm?: number | null;
}

/** least, tenth, quartile, median, quartile, ninth tenth, 99 %, 99.9 %, greatest */
export const BLOCK_QUANTILES = [0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1] as const;

/** Blocks of one sample: several rounds of the ring fetches are in it. */
const SAMPLE_BLOCKS = 32;
const MOST_BLOCKS = 1 << 20;
/** blocks behind a garbage collection that are not counted */
const SETTLE_BLOCKS = 256;

const blockNs = new Float64Array(MOST_BLOCKS);
const batchNs = new Float64Array(MOST_BLOCKS);
const sampleNs = new Float64Array(MOST_BLOCKS / SAMPLE_BLOCKS);
const besideNs = new Float64Array(MOST_BLOCKS / SAMPLE_BLOCKS);

/** A run beside which the core was slower than this many times its least is made again. */
const SHARED = 1.1;
/** ms before it is: what shares a core does so for some time */
const REPEAT_AFTER = 300;

function spread(values: readonly number[]): Spread {
  const v = [...values].sort((a, b) => a - b);
  return { min: v[0]!, median: v[v.length >> 1]!, max: v[v.length - 1]! };
}

/**
 * The turns of one block. What a turn without work waits for comes between two blocks, so such a turn is the last one.
 * @returns turns run
 */
function block(rig: CpuRig): number {
  const { dp, turns } = rig;
  let t = 0;
  while (t < turns) {
    const rc = dp.turn();
    if (rc < 0) fault(rig, rc);
    t++;
    if (rc === 0) break;
  }
  return t;
}

function work(rig: CpuRig, frames: number): void {
  const end = rig.frames + frames;
  while (rig.frames < end) {
    rig.between();
    block(rig);
  }
}

function fault(rig: CpuRig, rc: number): never {
  throw new Error(`bench: the data path stopped with code ${rc}, ${rig.dp.culprit} a=${rig.dp.a} b=${rig.dp.b}`);
}

/**
 * Fill blockNs with `blocks` blocks, batchNs with those that began frames, and besideNs with the core's state, once a sample.
 * @param clock what two readings of it cost, ns, is taken off @returns how many blocks began frames
 */
function timed(rig: CpuRig, blocks: number, clock: number): number {
  let batches = 0;
  for (let i = 0; i < blocks; i++) {
    if ((i & (SAMPLE_BLOCKS - 1)) === 0) besideNs[i / SAMPLE_BLOCKS] = coreNs();
    rig.between();
    const before = rig.frames;
    const a = Bun.nanoseconds();
    block(rig);
    const ns = Bun.nanoseconds() - a - clock;
    blockNs[i] = ns;
    if (rig.frames !== before) batchNs[batches++] = ns;
  }
  return batches;
}

/** Median of what an empty block reads, ns. */
function clockNs(): number {
  const n = 5000;
  for (let i = 0; i < n; i++) {
    const a = Bun.nanoseconds();
    blockNs[i] = Bun.nanoseconds() - a;
  }
  const late = blockNs.slice(n / 2, n).sort();
  return late[late.length >> 1]!;
}

/** Measure one row. */
export function measureCpu(o: RigOptions, limits: CpuLimits): CpuResult {
  const rig = new CpuRig(o);
  work(rig, limits.warmup);
  // The timing loops themselves get compiled here.
  clockNs();
  const clock = clockNs();
  timed(rig, 4000, clock);
  const perBlock = rig.block * (o.direction === "both" ? 2 : 1);
  const samples = Math.ceil(Math.min(MOST_BLOCKS, Math.max(64, limits.frames / perBlock)) / SAMPLE_BLOCKS);
  const blocks = samples * SAMPLE_BLOCKS;
  const medians: number[] = [];
  const cores: number[] = [];
  let calm = limits.calm ?? Number.POSITIVE_INFINITY;
  let repeated = 0;
  const p50: number[] = [];
  const p999: number[] = [];
  const spins: number[] = [];
  const steps = BLOCK_QUANTILES.map((): number[] => []);
  let worst = 0;
  let sum = 0;
  let frames = 0;
  let elements = 0;
  let grown = 0;
  const bursts = rig.dp.toHost.bursts + rig.dp.toBoard.bursts;
  const firstFrame = rig.frames;
  while (medians.length < limits.runs) {
    Bun.gc(true);
    // It leaves the engine's code and data out of the caches.
    timed(rig, SETTLE_BLOCKS, clock);
    const framesBefore = rig.frames;
    const elementsBefore = rig.dma.elements;
    const heap = heapBlocks();
    const batches = timed(rig, blocks, clock);
    grown += Math.abs(heapBlocks() - heap);
    const beside = besideNs.subarray(0, samples).sort();
    const core = beside[samples >> 1]!;
    const least = beside[Math.floor(samples / 10)]!;
    if (least < calm) calm = least;
    if (core > SHARED * calm && repeated < limits.repeats) {
      repeated++;
      Bun.sleepSync(REPEAT_AFTER);
      continue;
    }
    cores.push(core);
    const n = rig.frames - framesBefore;
    frames += n;
    elements += rig.dma.elements - elementsBefore;
    for (let s = 0; s < samples; s++) {
      let ns = 0;
      for (let t = s * SAMPLE_BLOCKS; t < (s + 1) * SAMPLE_BLOCKS; t++) ns += blockNs[t]!;
      sampleNs[s] = ns;
      sum += ns;
    }
    const sorted = sampleNs.subarray(0, samples).sort();
    medians.push(sorted[samples >> 1]! / (n / samples));
    const each = batchNs.subarray(0, batches).sort();
    p50.push(each[batches >> 1]!);
    p999.push(each[Math.floor(batches * 0.999)]!);
    spins.push(spinTail(each[batches >> 1]!, batches));
    worst = Math.max(worst, each[batches - 1]!);
    for (const [i, q] of BLOCK_QUANTILES.entries())
      steps[i]!.push(each[Math.min(batches - 1, Math.floor(batches * q))]!);
  }
  const result: CpuResult = {
    frames,
    burst: (rig.frames - firstFrame) / (rig.dp.toHost.bursts + rig.dp.toBoard.bursts - bursts),
    ns_per_frame: spread(medians),
    mean_ns_per_frame: sum / frames,
    block_frames: perBlock,
    block_ns: { p50: spread(p50).median, p999: spread(p999).median, max: worst },
    spin_p999_ns: spread(spins).median,
    block_steps_ns: steps.map((of, i) => {
      const { min, median, max } = spread(of);
      return i === 0 ? min : i === steps.length - 1 ? max : median;
    }),
    core_ns: spread(cores),
    core_calm_ns: calm,
    runs_repeated: repeated,
    waited_ms: repeated * REPEAT_AFTER,
    elements_per_frame: elements / frames,
    bytes_allocated: grown,
    page_bytes: rig.pageBytes,
  };
  rig.close();
  return result;
}
