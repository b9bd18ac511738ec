/**
 * What the loop does when there is no work. "adaptive": wait on the port's file descriptors for a time that grows from
 * 50 us to 1 ms, because a host's write to a BAR wakes nobody (design.md fact 1); "spin": never sleep.
 */
import { libc, POLLIN, ptrOf } from "../hw/libc.ts";

const FIRST_NS = 50_000;
const LAST_NS = 1_000_000;

export class Sleeper {
  sleeps = 0;
  /** the last thing done was a sleep: a short look suffices before the next one */
  dozing = false;
  private ns = FIRST_NS;
  private readonly spin: boolean;
  private fds = new Int32Array(2);
  /** struct timespec, two little-endian 64-bit words: [0] seconds, [2] nanoseconds */
  private readonly time = new Int32Array(4);
  private count = 0;
  /** a descriptor ended the last sleep; and it did so before although nothing could be done with it */
  private woken = false;
  private deaf = false;

  constructor(spin: boolean) {
    this.spin = spin;
  }

  /** File descriptors that end a sleep when they become readable. */
  watch(fds: readonly number[]): void {
    this.count = fds.length;
    this.fds = new Int32Array(Math.max(1, fds.length) * 2);
    fds.forEach((fd, i) => {
      this.fds[2 * i] = fd;
      this.fds[2 * i + 1] = POLLIN;
    });
  }

  /** There was work: the next sleep is short again. */
  busy(): void {
    this.dozing = this.woken = this.deaf = false;
    this.ns = FIRST_NS;
  }

  /** Sleep once, at most `most` ns (a signal ends it too). @returns whether something ended it before its time */
  sleep(most = LAST_NS): boolean {
    if (this.spin) return false;
    if (most === 0) {
      this.dozing = false;
      return false;
    }
    this.sleeps++;
    this.dozing = true;
    this.time[2] = this.ns < most ? this.ns : most;
    // A TAP stays readable while its frames cannot be taken (the host has no buffers, or is not there): no reason to wake.
    if (this.woken) this.deaf = true;
    const rc = libc.ppoll(ptrOf(this.fds), this.deaf ? 0 : this.count, ptrOf(this.time), null);
    this.woken = rc > 0;
    if (this.ns < LAST_NS) this.ns *= 2;
    return rc !== 0;
  }
}
