/** The modern function's notify word: one for both queues, so notifies collapse in it and are hints only. */
import { ld32, st32 } from "../../hw/mem.ts";

const PARKED = -1;

export class NotifyWord {
  /** last value by queue, and whether the caller has not had it */
  private readonly values = new Int32Array(2).fill(-1);
  private readonly fresh = new Uint8Array(2);

  /** @param at CPU address of the word */
  constructor(private readonly at: number) {}

  reset(): void {
    st32(this.at, PARKED);
    this.fresh.fill(0);
  }

  /** The word as it is, int32: a queue, and its avail index above it when the driver has NOTIFICATION_DATA. */
  read(): number {
    return ld32(this.at) | 0;
  }

  /** The word says nothing until it is written again. */
  park(): void {
    st32(this.at, PARKED);
  }

  /** @returns the last value for this queue since the last call, -1 for none */
  hint(queue: number): number {
    const value = ld32(this.at) | 0;
    if (value !== PARKED) {
      st32(this.at, PARKED);
      const k = value & 1;
      this.values[k] = value;
      this.fresh[k] = 1;
      // the other queue's may have been overwritten
      if (this.fresh[1 - k] === 0) {
        this.values[1 - k] = 1 - k;
        this.fresh[1 - k] = 1;
      }
    }
    if (this.fresh[queue] === 0) return -1;
    this.fresh[queue] = 0;
    return this.values[queue]! >>> 0;
  }
}
