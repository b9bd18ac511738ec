/**
 * What the machine itself does to the tail of a distribution: blocks of arithmetic that touch no memory, as long as the blocks
 * that are measured, timed in the same way and right after them. Timer ticks, other programs and the hypervisor hit both.
 */
let sink = 1;

function spin(rounds: number): void {
  let x = sink;
  for (let i = 0; i < rounds; i++) x = (Math.imul(x, 1664525) + 1013904223) | 0;
  sink = x;
}

const MOST = 1 << 19;
const times = new Float64Array(MOST);

function timed(rounds: number, blocks: number): Float64Array {
  for (let i = 0; i < blocks; i++) {
    const a = Bun.nanoseconds();
    spin(rounds);
    times[i] = Bun.nanoseconds() - a;
  }
  return times.subarray(0, blocks).sort();
}

/**
 * 99.9th percentile of `blocks` blocks whose median is about `ns`.
 * @param blocks at least 1000 and at most 2^19 are made @returns ns
 */
export function spinTail(ns: number, blocks: number): number {
  // Warm up, and see how long a round takes.
  const trial = timed(1000, 4000);
  const round = trial[trial.length >> 1]! / 1000;
  const n = Math.min(MOST, Math.max(1000, blocks));
  return timed(Math.max(1, Math.round(ns / round)), n)[Math.floor(n * 0.999)]!;
}
