/**
 * A steady stream of equal frames both ways, with drivers that allocate nothing: what is left of the heap's growth is
 * the engine's and the model's.
 */
import type { DriverRing } from "../../src/hw/driver-ring.ts";

const BUFFER = 2048;
/** buffers of one ring: more than it has under way, so that one is free again when its turn comes */
const BUFFERS = 512;
/** bytes that steady() uses from a base on */
export const STEADY_BYTES = 2 * BUFFERS * BUFFER;
const TWO32 = 4294967296;

/** One driver's pair of rings, and its buffers from bus address `base` on. */
export class SteadySide {
  private rxNext = 0;
  private txNext = 0;

  constructor(
    private readonly rx: DriverRing,
    private readonly tx: DriverRing,
    private readonly base: number,
  ) {}

  /** Take back what was used, and fill both rings again. @returns frames received */
  pump(frameBytes: number): number {
    const got = drain(this.rx);
    drain(this.tx);
    this.rxNext = fill(this.rx, this.base, this.rxNext, BUFFER, true);
    this.txNext = fill(this.tx, this.base + BUFFERS * BUFFER, this.txNext, frameBytes, false);
    return got;
  }
}

export interface Moved {
  toHost: number;
  toBoard: number;
}

/** Keep `ring` filled with chains of one buffer from `base` on, number `next` first. @returns the number after the last */
function fill(ring: DriverRing, base: number, next: number, len: number, write: boolean): number {
  let k = next;
  for (; ring.freeCount > 0; k = (k + 1) & (BUFFERS - 1)) {
    const at = base + k * BUFFER;
    ring.addOne(at | 0, Math.floor(at / TWO32), len, write);
  }
  ring.publish();
  return k;
}

function drain(ring: DriverRing): number {
  let n = 0;
  while (ring.take() >= 0) n++;
  if (ring.broken !== 0) throw new Error(`the device broke the ring, code ${ring.broken}`);
  return n;
}

/** Move at least `frames` frames in each direction; `moved` says how many they were. @param turn lets the engine work */
export function steady(
  turn: () => void,
  host: SteadySide,
  board: SteadySide,
  frames: number,
  frameBytes: number,
  moved: Moved,
): void {
  moved.toHost = moved.toBoard = 0;
  for (let idle = 0; moved.toHost < frames || moved.toBoard < frames; ) {
    const toHost = host.pump(frameBytes);
    const toBoard = board.pump(frameBytes);
    moved.toHost += toHost;
    moved.toBoard += toBoard;
    idle = toHost + toBoard > 0 ? 0 : idle + 1;
    if (idle > 100_000) throw new Error(`nothing moves after ${moved.toHost} and ${moved.toBoard} frames`);
    turn();
  }
}
