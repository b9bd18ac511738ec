/**
 * The service loop: follows the life of the host's driver (none, live, stopped by a fault), runs the data path while it
 * is live, and sleeps when there is nothing to do. slice() is the hot part: no allocation, no closure, no exception.
 * Everything that happens once in a life (start, stop, messages) is in the methods below it.
 */
import type { Controller } from "../hw/controller.ts";
import { capReadRequest, command, linkUp } from "../hw/dbi.ts";
import { Fault } from "../hw/fault.ts";
import type { NetPort } from "../hw/net-port.ts";
import { COMMAND_MASTER } from "../hw/pci.layout.ts";
import { Carrier } from "./carrier.ts";
import { blockedHint, describe, R_DMA_ABORT, R_HEADER_LENGTH } from "./codes.ts";
import type { DataPath } from "./datapath.ts";
import { FN_DOWN, FN_NONE, FN_REFUSED, FN_UP, type HostFunction } from "./function/function.ts";
import { HOST_GONE, HOST_NO_BUFFERS, HOST_NO_MASTER, HOST_STUCK, HostWatch } from "./host-watch.ts";
import { featureText, lifeOptions, portFeatures, queueText } from "./life.ts";
import type { EngineLog } from "./log.ts";
import { bringToRest } from "./rest.ts";
import type { RingCheck } from "./ring-check.ts";

/** Why slice() came back. */
export const SLICE_OVER = 0;
export const SLICE_IDLE = 1;
export const SLICE_EVENT = 2;
export const SLICE_FAULT = 3;
/** the host's side of the link is not as it was, see host-watch.ts */
export const SLICE_HOST = 4;

export type LinkState = "waiting" | "no-bus-master" | "live" | "refused" | "stopped";

export interface ServiceOptions {
  readonly mtu: number;
  /** turns without work after which slice() returns SLICE_IDLE */
  readonly idleTurns: number;
}

/** far longer than an INTx is held (interrupts.ts) */
const PULSE_MS = 20;
/** most that transfers in flight may take to end while the host waits in a loop */
const PAUSE_MS = 100;

/** nanoseconds one slice may take before the event loop gets its turn (signals, timers) */
const SLICE_NS = 2_000_000;
/** without work for so long, this many turns more decide that there is nothing to do */
const PATIENCE_NS = 4_000_000;
const FEW_TURNS = 16;

export class Service {
  link: LinkState = "waiting";
  turns = 0;
  faults = 0;
  resets = 0;
  negotiations = 0;
  refusals = 0;
  /** what a person should know about a link that carries nothing; "" when all is well */
  diagnosis = "";
  private readonly watch: HostWatch;
  private readonly carrier: Carrier;
  private event = FN_NONE;
  private code = 0;
  private live = false;
  /** a configuration change notification is on its way although nothing is served */
  private owes = false;
  private framesAtUp = 0;
  /** turns without work in a row; a slice may end before there are enough of them */
  private idle = 0;
  /** nanoseconds of slices in a row in which there was no work at all */
  private calm = 0;
  private found = 0;
  private queueResets = 0;
  /** the header length was corrected in this life */
  private corrected = false;
  /** between a ring's reset by the host and its new start: the board's side goes on, no DMA is begun */
  private paused = false;
  private upSinceMs = 0;

  constructor(
    private readonly ctrl: Controller,
    private readonly fn: HostFunction,
    private readonly port: NetPort,
    private readonly dp: DataPath,
    private readonly log: EngineLog,
    private readonly options: ServiceOptions,
    private readonly rings: RingCheck | null = null,
  ) {
    this.watch = new HostWatch(ctrl, fn, dp);
    this.carrier = new Carrier(fn, port, dp, log);
  }

  /**
   * Run turns until something wants attention, or `most` turns or SLICE_NS are over. `patience`: turns without work
   * before SLICE_IDLE; less right after a sleep that found nothing. @returns SLICE_*
   */
  slice(most = 0x4000_0000, patience = this.options.idleTurns): number {
    const { ctrl, fn, port, dp } = this;
    // Where turns are slow (every register access is a message, in an emulated machine) few of them are patience enough.
    let idleTurns = this.calm > PATIENCE_NS && patience > FEW_TURNS ? FEW_TURNS : patience;
    const now = Bun.nanoseconds();
    const until = now + SLICE_NS;
    this.found = this.watch.look(now, this.link === "waiting", this.live);
    if (this.found !== 0) return SLICE_HOST;
    let idle = this.idle;
    for (let t = 1; ; t++) {
      ctrl.turn();
      this.turns++;
      const event = fn.poll();
      if (event !== FN_NONE) {
        this.event = event;
        this.idle = this.calm = 0;
        return SLICE_EVENT;
      }
      let work = this.live && dp.brief ? 0 : port.turn();
      // Re-read before every burst: a host that reset us may reuse its memory at once.
      if (this.live && fn.stillLive()) {
        const rc = dp.turn();
        if (rc < 0) {
          this.code = rc;
          this.idle = 0;
          return SLICE_FAULT;
        }
        work += rc;
      } else if (this.owes) this.owes = dp.settle();
      if (work > 0) {
        idle = this.calm = 0;
        idleTurns = this.options.idleTurns;
      } else if (++idle > idleTurns && (this.live ? dp.quiet : !this.owes)) {
        this.idle = 0;
        return SLICE_IDLE;
      }
      if (t === most || ((t & 15) === 0 && Bun.nanoseconds() > until)) {
        this.idle = idle;
        if (idle >= t) this.calm += SLICE_NS;
        return SLICE_OVER;
      }
    }
  }

  /** the last slice ended by the clock, with its last turns without work: slow turns do not count as activity */
  get resting(): boolean {
    return this.idle > 0;
  }

  /** a driver's queues are served */
  get serving(): boolean {
    return this.live;
  }

  /** nanoseconds that the loop may sleep now */
  get nap(): number {
    return this.watch.nap(this.live || this.paused);
  }

  /** Deal with what slice() returned. */
  attend(why: number): void {
    if (why === SLICE_FAULT && !linkUp(this.ctrl)) {
      // No wonder that DMA failed.
      this.found = HOST_GONE;
      this.changed();
    } else if (why === SLICE_FAULT && this.code === R_DMA_ABORT && (command(this.ctrl) & COMMAND_MASTER) === 0) {
      // The abort is only how it shows.
      this.found = HOST_NO_MASTER;
      this.changed();
    } else if (why === SLICE_FAULT && this.code === R_HEADER_LENGTH) this.correctHeader();
    else if (why === SLICE_FAULT) this.fault();
    else if (why === SLICE_HOST) this.changed();
    else if (why === SLICE_EVENT) {
      if (this.event === FN_UP) this.up();
      else if (this.event === FN_DOWN) this.down();
      else if (this.event === FN_REFUSED) this.refused();
      this.event = FN_NONE;
    } else if (this.link === "no-bus-master") this.tryStart();
  }

  private up(fresh = true): void {
    if (this.paused) {
      this.resume();
      return;
    }
    this.negotiations++;
    this.link = "no-bus-master";
    this.upSinceMs = Date.now();
    this.tryStart(fresh);
  }

  /** The function went on with a life of an earlier process (adopt.ts), whose rings stand at these used indices. */
  adopt(rxUsed: number, txUsed: number): void {
    const { dp, fn } = this;
    this.up(false);
    if (!this.live) return;
    dp.hqRx.resume(rxUsed);
    dp.hqTx.resume(txUsed);
    // Used buffers may lie there without the interrupt that belongs to them; one too many does no harm.
    for (const q of fn.queues) dp.configInterrupt(q.vector);
  }

  /** Start the data path once the host lets us master the bus (PCI 6.2.2; Linux does so before it binds). `fresh`: new rings. */
  private tryStart(fresh = true): void {
    const { fn, port, dp } = this;
    if (!fn.live) return;
    if ((command(this.ctrl) & COMMAND_MASTER) === 0) {
      if (this.diagnosis === "" && Date.now() - this.upSinceMs > 2000) {
        this.diagnosis =
          "the host's driver is ready but Bus Master Enable is off in the command register: no DMA and no interrupt can reach the host. On the host: setpci -s <device> COMMAND=0x6:0x6, or rebind the driver";
        this.log.warn(this.diagnosis);
      }
      return;
    }
    // The host sets the field whenever it enumerates, so once at start-up would not do.
    if (this.ctrl.core.maxReadRequest !== undefined) capReadRequest(this.ctrl, this.ctrl.core.maxReadRequest);
    const why = fresh ? (this.rings?.fault(fn.queues, fn.freshQueues) ?? "") : "";
    if (why !== "") {
      fn.setLink(false);
      this.refused(why);
      return;
    }
    if (!this.startPort()) return;
    dp.attach(lifeOptions(fn, port, this.options.mtu));
    this.live = true;
    this.corrected = false;
    this.link = "live";
    this.diagnosis = "";
    this.framesAtUp = dp.toHost.frames + dp.toBoard.frames;
    this.carrier.begin();
    this.log.info(
      `host driver is up: ${fn.personality}, ${fn.msix ? "MSI-X" : "INTx"}, features ${featureText(fn)}, header ${fn.hdrLen}, ${queueText(fn)}`,
    );
  }

  /** @returns false when the board's side cannot be had now (its netdev was deleted, a system call failed): that is said */
  private startPort(): boolean {
    try {
      this.port.start(portFeatures(this.fn, this.options.mtu));
      return true;
    } catch (e) {
      if (!(e instanceof Fault)) throw e;
      this.halt(`the board's side does not start: ${e.message}`);
      return false;
    }
  }

  /** A few times a second. */
  followBoard(): void {
    if (this.live) this.carrier.follow();
  }

  /** What the watch found. */
  private changed(): void {
    const { fn, dp } = this;
    if (this.found === HOST_NO_MASTER) {
      this.halt(
        "the host switched Bus Master Enable off while its driver was using the queues (a crash or a reboot does that too): no DMA and no interrupt can reach it. Rebind the driver on the host",
      );
      return;
    }
    if (this.found === HOST_STUCK || this.found === HOST_NO_BUFFERS) {
      this.watch.still = 0;
      this.code = this.found === HOST_STUCK ? dp.stalled() : this.watch.neverFilled();
      this.fault();
      return;
    }
    const said = this.diagnosis;
    if (this.link !== "waiting") this.resets++;
    this.stopData();
    this.link = "waiting";
    this.diagnosis = "";
    try {
      dp.hostGone();
      fn.hostGone();
      if (!fn.intact()) throw new Error("what was written does not read back");
    } catch (e) {
      this.watch.retryLater();
      const text = `config space could not be written again after a reset by the host: ${(e as Error).message}`;
      if (said !== text) this.log.error(text);
      this.diagnosis = text;
      return;
    }
    if (this.found === HOST_GONE) this.log.warn("the link to the host went down; waiting for it");
    else this.log.warn("the host reset the link; config space was written again, waiting for its driver");
  }

  /** The host's driver is alive and waits for us. @returns false when what is in flight did not end */
  private pause(): boolean {
    this.paused = bringToRest(this.ctrl, this.dp, PAUSE_MS);
    this.live = !this.paused;
    return this.paused;
  }

  /** A ring was reset and is enabled again (VIRTIO 1.2 2.6.1), the other one goes on. */
  private resume(): void {
    const { dp, fn, port } = this;
    const why = this.rings?.fault(fn.queues, fn.freshQueues) ?? "";
    if (why !== "") this.halt(why);
    else {
      this.paused = false;
      dp.attach(lifeOptions(fn, port, this.options.mtu), fn.freshQueues);
      this.live = true;
    }
  }

  /** The host's header is longer or shorter than was inferred: begin again behind what is done, with the right one. */
  private correctHeader(): void {
    const { dp, fn, port } = this;
    const text = describe(R_HEADER_LENGTH, "hq.tx", dp.a, dp.b);
    const found = dp.b;
    if (this.corrected || !this.pause()) {
      this.halt(text);
      return;
    }
    this.corrected = true;
    this.log.warn(`${text}; going on with that`);
    port.stop();
    fn.setHdrLen(found);
    if (!this.startPort()) return;
    this.paused = false;
    dp.attach(lifeOptions(fn, port, this.options.mtu), 0);
    this.live = true;
    port.setLink(true);
  }

  private down(): void {
    const { fn } = this;
    if (this.live && fn.stats.queueResets !== this.queueResets) {
      this.queueResets = fn.stats.queueResets;
      if (this.pause()) return;
      this.halt("the transfers in flight did not end while the host reset a queue");
      return;
    }
    this.resets++;
    const was = this.link;
    this.stopData();
    this.link = "waiting";
    this.diagnosis = "";
    if (was !== "waiting") this.log.info("the host reset the function; waiting for its driver");
  }

  private refused(text = this.fn.lastRefusal): void {
    this.refusals++;
    this.stopData();
    this.link = "refused";
    this.diagnosis = text;
    this.needsReset();
    this.log.error(`negotiation refused: ${text}`);
  }

  /** A rule was broken or DMA failed: stop this pair of queues, say it once, show both links down, wait for a reset. */
  private fault(): void {
    const { dp } = this;
    const first = dp.toHost.frames + dp.toBoard.frames === this.framesAtUp;
    const text = describe(this.code, dp.culprit, dp.a, dp.b) + (first ? blockedHint(this.code) : "");
    this.halt(text);
  }

  private halt(text: string): void {
    this.faults++;
    this.stopData();
    this.link = "stopped";
    this.diagnosis = text;
    this.log.error(`${text}. The queues are stopped until the host resets the function`);
    this.fn.setLink(false);
    this.needsReset();
  }

  /** 2.1.2: a driver that is at DRIVER_OK must be told. The channels are at rest here. */
  private needsReset(): void {
    const { fn, dp } = this;
    if (fn.setNeedsReset() === 0 || (command(this.ctrl) & COMMAND_MASTER) === 0) return;
    dp.announce(fn.msix, fn.configVector);
    this.owes = true;
  }

  private stopData(): void {
    if (this.owes) {
      this.owes = false;
      this.dp.detach();
    }
    if (!this.live && !this.paused) return;
    const rc = this.live ? this.dp.detach() : 0;
    this.live = this.paused = false;
    if (rc < 0) this.log.error(describe(rc, this.dp.culprit, this.dp.a, this.dp.b));
    this.port.setLink(false);
    this.port.stop();
  }

  /** Clean stop: let DMA in flight finish for at most `ms` milliseconds, show the link down on both sides. */
  shutdown(ms: number): void {
    const { dp, fn } = this;
    if (this.live) {
      if (fn.setLink(false) !== 0) dp.configInterrupt(fn.configVector);
      let until = Date.now() + ms;
      while (!(dp.settled && dp.quiet) && fn.stillLive() && Date.now() < until) {
        this.ctrl.turn();
        if (dp.drain() < 0) break;
        // not quiet then: the last INTx pulse, or a round of fetches that nobody goes on with
        if (dp.settled) until = Math.min(until, Date.now() + PULSE_MS);
      }
    }
    this.stopData();
    this.link = "waiting";
  }
}
