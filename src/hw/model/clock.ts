/** Time of the model in nanoseconds: a Number that only goes forward. It has no relation to the wall clock. */
export class Clock {
  /** ns since the model was made */
  now = 0;

  advance(ns: number): void {
    this.now += ns;
  }

  /** Go to `time` unless it is past already. */
  reach(time: number): void {
    if (time > this.now) this.now = time;
  }
}
