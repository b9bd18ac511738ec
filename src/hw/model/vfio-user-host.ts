/**
 * A QEMU guest as the host at the other end of the simulated link: a vfio-user server that runs in the engine's own
 * thread, a bounded piece of work a turn.
 *
 * Two ways for the guest's accesses to BAR0 (facts: a BAR traps nothing, the endpoint polls):
 *  - "held": each access ends only after the engine had two more turns. That is the ratio real hardware has (a PCIe
 *    access takes longer than a turn of the poller), and it does not depend on how loaded the machine is.
 *  - "plain": the guest maps the board memory behind the BAR; nobody sees the accesses, as on silicon.
 *
 * A QEMU that breaks the protocol, hangs in a message or vanishes is reported, everything it gave is returned, and
 * the next QEMU may connect.
 */
import { AddressSpace } from "./address-space.ts";
import type { HostBus, HostSide } from "./host-side.ts";
import { ViolationLog } from "./stats.ts";
import { GuestAuditor } from "./vfio-user-auditor.ts";
import { type FunctionShape, VfioUserFunction } from "./vfio-user-function.ts";
import { VfioUserIrq } from "./vfio-user-irq.ts";
import { GuestMemory } from "./vfio-user-memory.ts";
import { ANSWERED, ENDED, HELD_ACCESS, VfioUserMessages } from "./vfio-user-messages.ts";
import { VfioUserMsi } from "./vfio-user-msi.ts";
import { RX_CLOSED, RX_MESSAGE, RX_NONE, VfioUserSocket } from "./vfio-user-socket.ts";
import { HostTruth } from "./vfio-user-truth.ts";

export type VfioUserMode = "held" | "plain";

export interface VfioUserOptions extends FunctionShape {
  /** unix socket to listen on; "plain:" or "held:" in front of it says the mode */
  path: string;
  /** default "held" */
  mode?: VfioUserMode;
  /** follow the guest's rings and let DMA touch only what they hand over; needs held accesses */
  strict?: boolean;
  /** the function is a virtio device: keep an account of what its driver writes (default true) */
  virtio?: boolean;
  /** where the guest's memory appears; an own space by default */
  space?: AddressSpace;
  /**
   * Where the engine is another process: milliseconds a BAR access is held while the guest's driver negotiates, 0 never;
   * accesses of a driver at DRIVER_OK are not held. Without it they are held for turns of the engine.
   */
  holdMs?: number;
  log?: (level: "info" | "warn" | "error", text: string) => void;
}

/** turns an access is held: the engine polls once a turn, and a change must be seen twice to be taken */
const HOLD_TURNS = 3;
/** messages handled in one turn at most */
const BURST = 16;
/** a socket that was quiet this many turns is looked at every eighth turn only */
const QUIET_TURNS = 256;

export class VfioUserHost implements HostSide {
  readonly memory: AddressSpace;
  readonly guest: GuestMemory;
  readonly irq: VfioUserIrq;
  readonly msi: VfioUserMsi;
  readonly mode: VfioUserMode;
  /** strict mode: what is wrong in the guest's rings themselves; accesses outside of them are the link's to report */
  readonly audit = new ViolationLog();
  /** figures for the log, the tests and the rig */
  attaches = 0;

  readonly #socket: VfioUserSocket;
  readonly #messages: VfioUserMessages;
  readonly #shape: FunctionShape;
  readonly #virtio: boolean;
  readonly #log: (level: "info" | "warn" | "error", text: string) => void;
  #auditor: GuestAuditor | null = null;
  #bus: HostBus | null = null;
  #function: VfioUserFunction | null = null;
  #turns = 0;
  #quiet = 0;
  /** turn at which the access in #socket.header/body may end; 0: none is held */
  #holdUntil = 0;
  /** the same as a time, with holdMs */
  #holdUntilMs = 0;
  readonly #holdMs: number | undefined;
  #straySeen = 0;

  /** Listen at once, so that QEMU may be started. @throws Fault when the socket cannot be made */
  constructor(options: VfioUserOptions) {
    const prefix = options.path.match(/^(held|plain):/);
    this.mode = (prefix?.[1] as VfioUserMode | undefined) ?? options.mode ?? "held";
    this.#log = options.log ?? ((level, text) => console.error(`vfio-user ${level}: ${text}`));
    const strict = (options.strict ?? false) && (options.virtio ?? true);
    if (strict && this.mode === "plain")
      this.#log(
        "warn",
        "strict mode does not cover the guest's memory: without trapped accesses nobody knows its rings",
      );
    this.memory = options.space ?? new AddressSpace("host", { strict: strict && this.mode === "held" });
    this.#holdMs = options.holdMs;
    this.guest = new GuestMemory(this.memory);
    this.irq = new VfioUserIrq((off, value) => this.#function?.tableWrite(off, value));
    this.msi = new VfioUserMsi((off, size) => this.#bus?.cfgRead(off, size) ?? 0);
    this.#shape = options;
    this.#virtio = options.virtio ?? true;
    this.#socket = new VfioUserSocket(prefix ? options.path.slice(prefix[0].length) : options.path);
    this.#messages = new VfioUserMessages({
      socket: this.#socket,
      guest: this.guest,
      irq: this.irq,
      msi: this.msi,
      mappable: this.mode === "plain",
      warn: (text) => this.#log("warn", text),
    });
  }

  attach(bus: HostBus): void {
    this.#bus = bus;
    const fn = new VfioUserFunction(bus, this.#shape);
    this.#function = fn;
    if (!this.#virtio) return;
    const truth = new HostTruth(fn);
    const { shadow } = this.memory;
    const auditor =
      shadow === null ? null : new GuestAuditor(this.memory, shadow, (text) => this.audit.add(`host memory, ${text}`));
    this.#auditor = auditor;
    truth.onDriverOk = () => {
      this.#log("info", `the guest set DRIVER_OK: ${truth.describe()}`);
      auditor?.start(truth.queues);
    };
    auditor?.follow(truth);
    this.#messages.truth = truth;
  }

  /** what the guest wrote so far; complete only where BAR0 traps */
  get truth(): HostTruth | null {
    return this.#messages.truth;
  }

  get resets(): number {
    return this.#messages.resets;
  }

  get reads(): number {
    return this.#messages.reads;
  }

  get writes(): number {
    return this.#messages.writes;
  }

  get connected(): boolean {
    return this.#socket.connected;
  }

  /** Wait on this while there is nothing to do. */
  get waitFd(): number {
    return this.#socket.waitFd;
  }

  message(addr: number, data: number): boolean {
    const known = this.irq.message(addr, data) || this.msi.message(addr, data);
    if (this.irq.stray !== this.#straySeen) {
      if (this.#straySeen === 0) this.#log("warn", this.irq.strayText);
      this.#straySeen = this.irq.stray;
    }
    return known;
  }

  intx(asserted: boolean): void {
    this.irq.intx(asserted);
  }

  /** A bounded piece of work; never blocks and allocates nothing while nothing comes. */
  turn(): void {
    this.#turns++;
    this.irq.turn();
    const socket = this.#socket;
    const fn = this.#function;
    if (fn === null) return;
    if (!socket.connected) {
      if ((this.#turns & 63) === 0 && fn.ready && socket.accept()) this.#begin(fn);
      return;
    }
    this.#auditor?.turn();
    if (this.#holdUntil !== 0) {
      if (this.#turns < this.#holdUntil || (this.#holdUntilMs !== 0 && performance.now() < this.#holdUntilMs)) return;
      this.#holdUntil = 0;
      if (!this.#goOn(this.#messages.finish(fn))) return;
    }
    if (socket.sending) {
      if (socket.flush() < 0) {
        this.#end(socket.reason, true);
        return;
      }
      if (socket.sending) return;
    }
    if (this.#quiet > QUIET_TURNS && (this.#turns & 7) !== 0) return;
    for (let i = 0; i < BURST; i++) {
      const got = socket.receive();
      if (got === RX_NONE) {
        this.#quiet++;
        return;
      }
      if (got !== RX_MESSAGE) {
        this.#end(got === RX_CLOSED ? "QEMU closed the connection" : socket.reason, got !== RX_CLOSED);
        return;
      }
      this.#quiet = 0;
      const ready = this.#ready;
      let rc = this.#messages.handle(fn);
      if (rc === HELD_ACCESS) {
        if (this.#hold(ready)) return;
        rc = this.#messages.finish(fn);
      }
      if (!this.#goOn(rc)) return;
    }
  }

  /** The driver has set DRIVER_OK, or is none that we could know it of. */
  get #ready(): boolean {
    return this.#messages.truth?.driverOk ?? true;
  }

  /** Whether the access is answered later. @param ready what #ready said before it */
  #hold(ready: boolean): boolean {
    const ms = this.#holdMs;
    if (ms === undefined) this.#holdUntil = this.#turns + HOLD_TURNS;
    else {
      if (ms === 0 || (ready && this.#ready)) return false;
      this.#holdUntil = this.#turns;
      this.#holdUntilMs = performance.now() + ms;
    }
    return true;
  }

  /** @returns whether the next message may be taken in this turn */
  #goOn(rc: number): boolean {
    if (rc === ENDED) this.#end(this.#messages.reason, true);
    return rc === ANSWERED;
  }

  #begin(fn: VfioUserFunction): void {
    this.attaches++;
    this.#messages.begin();
    this.#quiet = 0;
    fn.scan();
    this.irq.vectors = fn.vectors;
    // a virtio driver never uses MSI (the PCI transport knows MSI-X and INTx only)
    this.msi.cap = this.#virtio ? 0 : fn.msiCap;
    const kind = fn.vectors
      ? `${fn.vectors} MSI-X vectors`
      : this.msi.cap
        ? `${this.msi.vectors} MSI messages`
        : "INTx";
    this.#log("info", `QEMU connected (${this.mode} accesses, ${kind})`);
  }

  /** The connection is over: take everything back so that the next QEMU finds a function after power-on. */
  #end(reason: string, broken: boolean): void {
    this.#log(broken ? "error" : "info", `${broken ? "connection dropped: " : ""}${reason}; waiting for a new QEMU`);
    this.#holdUntil = 0;
    this.#socket.drop();
    this.irq.clear(true);
    this.msi.clear();
    this.#function?.resetConfig();
    this.#function?.close();
    this.guest.clear();
    this.#messages.truth?.reset();
  }

  /** End the connection and remove the socket. */
  close(): void {
    if (this.#socket.connected) this.#end("the server is closed", false);
    this.guest.clear();
    this.#function?.close();
    this.#socket.close();
  }
}
