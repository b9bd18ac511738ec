/** An end without loss: what is in flight ends, nothing more is begun, and rings can go on from there. */
import type { Controller } from "../hw/controller.ts";
import type { DataPath } from "./datapath.ts";

/**
 * The host's driver is alive and waits: finish all that is in flight within `ms` milliseconds, then let go of its memory.
 * @returns false when it did not end in time; then it was cut off
 */
export function bringToRest(ctrl: Pick<Controller, "turn">, dp: DataPath, ms: number): boolean {
  const until = Date.now() + ms;
  for (let rc = 0; !dp.settled && rc >= 0 && Date.now() < until; ) {
    ctrl.turn();
    rc = dp.drain();
  }
  const { settled } = dp;
  return dp.detach() >= 0 && settled;
}
