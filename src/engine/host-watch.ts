/**
 * What nobody tells the board about its host, looked for once a slice of the service loop: a link that went down, a hot
 * reset that erased config space, bus mastering switched off, a DMA channel that hangs. And from the same knowledge: how
 * long the loop may sleep.
 */
import type { Controller } from "../hw/controller.ts";
import { command, linkUp } from "../hw/dbi.ts";
import { COMMAND_MASTER, COMMAND_MEMORY } from "../hw/pci.layout.ts";
import { R_NEVER_FILLED } from "./codes.ts";
import type { DataPath } from "./datapath.ts";
import type { HostFunction } from "./function/function.ts";

/** look(): nothing, or one of these */
export const HOST_GONE = 1;
export const HOST_RESET = 2;
export const HOST_NO_MASTER = 3;
export const HOST_STUCK = 4;
/** the host sends, and its receive queue has not had one buffer in this life */
export const HOST_NO_BUFFERS = 5;

/** longest sleep while a driver is served or cannot reach us, while one may begin, and how long one may take */
const NAP_LIVE_NS = 1_000_000;
const NAP_WATCH_NS = 50_000;
const NEGOTIATION_NS = 5_000_000_000;
/** nanoseconds without a link before the host counts as gone: training (speed change, recovery) is not that */
const LINK_DOWN_NS = 50_000_000;
const RETRY_NS = 100_000_000;
/** nanoseconds of slices in which nothing moves although DMA is under way, after which a channel counts as stuck */
const STUCK_NS = 1_000_000_000;
/** nanoseconds in which a host that sends fills its receive queue: drivers do it before they send anything */
const FILL_NS = 2_000_000_000;
/** most that one slice adds to these: a process that was stopped for a while has not waited */
const STEP_NS = 10_000_000;

export class HostWatch {
  /** nanoseconds since an element landed while some are outstanding */
  still = 0;
  /** what was seen of the host's rings in this life, and for how long the receive queue alone has stayed untouched */
  private rxSeen = false;
  private txSeen = false;
  private bare = 0;
  private last = 0;
  private lastDone = 0;
  private downFor = 0;
  private notBefore = 0;
  private negotiatingSince = 0;

  constructor(
    private readonly ctrl: Controller,
    private readonly fn: HostFunction,
    private readonly dp: DataPath,
  ) {}

  /** @param now ns @param waiting no driver is known @param live queues are served */
  look(now: number, waiting: boolean, live: boolean): number {
    const { ctrl, fn, dp } = this;
    const step = Math.min(now - this.last, STEP_NS);
    this.last = now;
    if (!linkUp(ctrl)) {
      this.downFor += step;
      return !waiting && this.downFor > LINK_DOWN_NS ? HOST_GONE : 0;
    }
    this.downFor = 0;
    if (!fn.intact()) return now < this.notBefore ? 0 : HOST_RESET;
    if (!live) {
      this.rxSeen = this.txSeen = false;
      this.bare = 0;
      return 0;
    }
    if ((command(ctrl) & COMMAND_MASTER) === 0) return fn.stillLive() ? HOST_NO_MASTER : 0;
    const done = dp.doneSum;
    if (done !== this.lastDone || dp.drained) {
      this.lastDone = done;
      this.still = 0;
    } else this.still += step;
    if (this.still > STUCK_NS) return HOST_STUCK;
    if (this.rxSeen) return 0;
    this.rxSeen = dp.hqRx.ready !== 0;
    this.txSeen ||= dp.hqTx.ready !== 0;
    if (this.txSeen) this.bare += step;
    return this.bare > FILL_NS ? HOST_NO_BUFFERS : 0;
  }

  /** HOST_NO_BUFFERS: culprit and numbers are set. @returns the code */
  neverFilled(): number {
    const { dp } = this;
    const rx = this.fn.queues[0]!;
    this.bare = 0;
    dp.culprit = "hq.rx";
    dp.a = rx.availLo;
    dp.b = rx.availHi;
    return R_NEVER_FILLED;
  }

  /** HOST_RESET could not be dealt with. */
  retryLater(): void {
    this.notBefore = this.last + RETRY_NS;
  }

  /**
   * Nanoseconds that the loop may sleep. Nothing tells us when the host's driver comes, and it sets up its queues within
   * a fraction of a millisecond.
   */
  nap(live: boolean): number {
    const { ctrl, fn } = this;
    if (live) return NAP_LIVE_NS;
    if (!fn.negotiating) this.negotiatingSince = this.last;
    // not for ever: a driver that hung half-way must not cost a core
    else if (this.last - this.negotiatingSince < NEGOTIATION_NS) return 0;
    return linkUp(ctrl) && (command(ctrl) & COMMAND_MEMORY) !== 0 ? NAP_WATCH_NS : NAP_LIVE_NS;
  }
}
