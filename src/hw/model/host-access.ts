/**
 * The built-in host's CPU on the link: config space and BAR accesses with a settable pace, and a trace of them.
 * Procedures of the host (enumeration, probe, remove) are generators that go through this class; `turn()` of the
 * host advances them. It is not the data side: a running queue's doorbell and ISR read use `bus` directly.
 */
import type { Clock } from "./clock.ts";
import type { HostBus } from "./host-side.ts";

/** A procedure of the host. Every `yield` gives the turn back to the model. */
export type Steps<T = void> = Generator<undefined, T, undefined>;

/** Pace of the host's accesses, in turns of the model, or in units of `turnNs` of the model's time. */
export interface HostPace {
  /** turns a non-posted access (any read, config writes) takes before the next access may follow */
  readDelayTurns: number;
  /** turns between a posted BAR write and the next access; 0 = as many in one turn as accessesPerTurn allows */
  writeDelayTurns: number;
  /** turns for kernel work between accesses: ring allocation, request_irq */
  softwareDelayTurns: number;
  /** turns of one msleep(1) in a wait loop */
  sleepTurns: number;
  /** most accesses in one turn */
  accessesPerTurn: number;
  /** turns between the moment a reset is done for the host and the reuse (revocation) of rings and buffers */
  reuseDelayTurns: number;
  /** turns between an interrupt message and its handler */
  irqDelayTurns: number;
  /** 0: delays count turns; else one "turn" of delay is this many ns of the clock given to HostAccess */
  turnNs: number;
}

export const DEFAULT_PACE: Readonly<HostPace> = {
  readDelayTurns: 5,
  writeDelayTurns: 1,
  softwareDelayTurns: 20,
  sleepTurns: 50,
  accessesPerTurn: 16,
  reuseDelayTurns: 200,
  irqDelayTurns: 0,
  turnNs: 0,
};

/**
 * One access as text: `r0:14/1=f` is a read of BAR0 offset 0x14, 1 byte, that gave 0xf; `wc:4/2=6` a config write.
 * All numbers but the BAR and the size are hexadecimal.
 */
export type TraceLine = string;

export class HostAccess {
  readonly bus: HostBus;
  readonly pace: HostPace;
  /** set to an array to record every access */
  trace: TraceLine[] | null = null;
  /** accesses made since the start */
  reads = 0;
  writes = 0;
  readonly #clock: Clock | null;
  #wait = 0;
  #until = 0;
  #budget: number;

  constructor(bus: HostBus, pace: HostPace, clock: Clock | null = null) {
    this.bus = bus;
    this.pace = pace;
    this.#clock = pace.turnNs > 0 ? clock : null;
    this.#budget = pace.accessesPerTurn;
  }

  /** A new turn has begun. @returns true when the running procedure may go on in this turn */
  begin(): boolean {
    this.#budget = this.pace.accessesPerTurn;
    if (this.#clock !== null && this.#wait > 0) {
      if (this.#clock.now < this.#until) return false;
      this.#wait = 0;
      return true;
    }
    if (this.#wait > 0) {
      this.#wait--;
      return this.#wait === 0;
    }
    return true;
  }

  /** Forget a pending delay; a new procedure begins. */
  restart(): void {
    this.#wait = 0;
  }

  /** Kernel work without accesses. */
  *software(): Steps {
    yield* this.#pass(this.pace.softwareDelayTurns);
  }

  /** One msleep(1). */
  *sleep(): Steps {
    yield* this.#pass(this.pace.sleepTurns);
  }

  /** The time in which the host's kernel has not reused freed memory yet. */
  *reuse(): Steps {
    yield* this.#pass(this.pace.reuseDelayTurns);
  }

  /** BAR read, non-posted. @returns unsigned value; all ones when nothing answers */
  *read(bar: number, off: number, size: number): Steps<number> {
    const value = this.bus.barRead(bar, off, size) >>> 0;
    this.reads++;
    this.#note("r", String(bar), off, size, value);
    yield* this.#spend(this.pace.readDelayTurns);
    return value;
  }

  /** BAR write, posted. */
  *write(bar: number, off: number, size: number, value: number): Steps {
    this.bus.barWrite(bar, off, size, value);
    this.writes++;
    this.#note("w", String(bar), off, size, value);
    yield* this.#spend(this.pace.writeDelayTurns);
  }

  *cfgRead(off: number, size: number): Steps<number> {
    const value = this.bus.cfgRead(off, size) >>> 0;
    this.reads++;
    this.#note("r", "c", off, size, value);
    yield* this.#spend(this.pace.readDelayTurns);
    return value;
  }

  *cfgWrite(off: number, size: number, value: number): Steps {
    this.bus.cfgWrite(off, size, value);
    this.writes++;
    this.#note("w", "c", off, size, value);
    yield* this.#spend(this.pace.readDelayTurns);
  }

  #note(kind: string, space: string, off: number, size: number, value: number): void {
    this.trace?.push(`${kind}${space}:${off.toString(16)}/${size}=${(value >>> 0).toString(16)}`);
  }

  *#spend(turns: number): Steps {
    this.#budget--;
    if (turns > 0) {
      yield* this.#pass(turns);
    } else if (this.#budget <= 0) {
      yield* this.#pass(1);
    }
  }

  *#pass(turns: number): Steps {
    if (turns <= 0) return;
    this.#wait = turns;
    if (this.#clock !== null) this.#until = this.#clock.now + turns * this.pace.turnNs;
    yield;
  }
}
