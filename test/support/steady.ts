/**
 * A steady stream of equal frames both ways through a PairRig, with drivers that allocate nothing: what is left of the
 * heap's growth is the engine's and the model's.
 */
import type { DriverRing } from "../../src/hw/driver-ring.ts";
import type { End, PairRig } from "./pair-rig.ts";

const BUFFER = 2048;

/** Keep `ring` filled with one-buffer chains at base + 2 KiB * i. */
function fillRing(ring: DriverRing, base: number, len: number, write: boolean): number {
  let added = 0;
  while (ring.freeCount > 0) {
    const at = base + (cursor++ & 4095) * BUFFER;
    ring.addOne(at | 0, Math.floor(at / 4294967296), len, write);
    added++;
  }
  ring.publish();
  return added;
}
let cursor = 0;

function drain(ring: DriverRing): number {
  let n = 0;
  while (ring.take() >= 0) n++;
  return n;
}

export interface Bases {
  host: number;
  board: number;
}

/** Move at least `frames` frames in all. @returns frames moved */
export function steady(rig: PairRig, bases: Bases, frames: number, frameBytes: number): number {
  const pump = (end: End, base: number): number => {
    const got = drain(end.rx);
    drain(end.tx);
    fillRing(end.rx, base, BUFFER, true);
    fillRing(end.tx, base + 0x80_0000, frameBytes, false);
    return got;
  };
  let moved = 0;
  while (moved < frames) {
    moved += pump(rig.host, bases.host) + pump(rig.board, bases.board);
    rig.turn();
  }
  return moved;
}
