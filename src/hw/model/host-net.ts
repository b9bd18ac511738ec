/**
 * The data side of the built-in host's driver, from DRIVER_OK on: two rings, interrupts handled in the manner of
 * NAPI, doorbells, the link. One call of turn() does a bounded amount of work and allocates nothing.
 */
import { DriverRing } from "../driver-ring.ts";
import {
  F_CSUM,
  F_EVENT_IDX,
  F_GUEST_CSUM,
  F_HOST_TSO4,
  F_HOST_TSO6,
  F_INDIRECT_DESC,
  F_MRG_RXBUF,
  F_NOTIFICATION_DATA,
  F_STATUS,
  NET_S_LINK_UP,
  NO_VECTOR,
} from "../virtio.layout.ts";
import type { HostDriver, HostQueue } from "./host-driver.ts";
import type { EndFeatures, HostEnd } from "./host-end.ts";
import { hasBit, wantsBigBuffers } from "./host-features.ts";
import type { HostBlock } from "./host-memory.ts";
import { HostRx, type RxOptions } from "./host-rx.ts";
import { HostTx, TX_DESCS, TX_MOST, type TxOptions } from "./host-tx.ts";
import type { Random } from "./random.ts";

const ISR_QUEUE = 1;
const ISR_CONFIG = 2;
/** Linux disables a line of which this many of 100000 interrupts were not handled */
const NOBODY_CARED = 99900;
const NOBODY_WINDOW = 100000;

export interface NetOptions {
  /** frames from the used ring per turn */
  rxBudget: number;
  /** frames into the transmit ring per turn */
  txBudget: number;
  rx: Pick<RxOptions, "least" | "most" | "align" | "splitHeader" | "spare">;
  tx: Pick<TxOptions, "layout" | "piece" | "linear" | "scatter" | "align">;
  /** use indirect tables when negotiated */
  indirect: boolean;
}

export const DEFAULT_NET: Readonly<NetOptions> = {
  rxBudget: 64,
  txBudget: 32,
  rx: { least: 1536, most: 1536, align: 64, splitHeader: false, spare: 0 },
  tx: { layout: "frags", piece: 32768, linear: 192, scatter: false, align: 2 },
  indirect: true,
};

export class HostNet {
  readonly rx: HostRx;
  readonly tx: HostTx;
  /** doorbells written per queue */
  readonly kicks = new Int32Array(2);
  /** interrupts handled: per MSI-X message source or INTx handler run */
  interrupts = 0;
  configInterrupts = 0;
  /** INTx handler runs that found nothing to do, and whether Linux would have disabled the line for it */
  unhandled = 0;
  lineDisabled = false;
  /** longest time, in turns, that received frames waited for an interrupt */
  longestIrqWait = 0;
  linkUp = false;

  readonly #driver: HostDriver;
  readonly #end: HostEnd;
  readonly #o: NetOptions;
  readonly #indirectBlocks: HostBlock[] = [];
  readonly #wideKick: boolean;
  readonly #intx: boolean;
  readonly #rxVector: number;
  readonly #txVector: number;
  readonly #configVector: number;
  #held = 0;
  #rxNapi = false;
  #txNapi = false;
  #txStopped = false;
  #irqDelay = 0;
  #irqWait = 0;
  #handlerRuns = 0;
  #windowUnhandled = 0;

  /** Make the rings; nothing is posted before start(). */
  constructor(driver: HostDriver, end: HostEnd, rxArea: HostBlock, txArea: HostBlock, random: Random, o: NetOptions) {
    this.#driver = driver;
    this.#end = end;
    this.#o = o;
    const { accepted, hdrLen, mtu } = driver.truth;
    const memory = driver.env.memory;
    const indirect = o.indirect && hasBit(accepted, F_INDIRECT_DESC);
    const gso = wantsBigBuffers(accepted);
    const rxRing = this.#ring(driver.queues[0], indirect);
    const txRing = this.#ring(driver.queues[1], indirect);
    this.rx = new HostRx(rxRing, rxArea, memory.u8, memory.ptr, random, {
      ...o.rx,
      shape: hasBit(accepted, F_MRG_RXBUF) ? "mergeable" : gso ? "big" : "small",
      hdrLen,
      mtu: mtu > 0 ? mtu : 1500,
      csum: hasBit(accepted, F_GUEST_CSUM),
      gso,
      indirect,
    });
    this.tx = new HostTx(txRing, txArea, random, { ...o.tx, hdrLen, indirect });
    this.#wideKick = hasBit(accepted, F_NOTIFICATION_DATA);
    const vectors = driver.msix?.vectors ?? [];
    this.#intx = driver.truth.policy === "intx";
    this.#rxVector = vectorOf(vectors, driver.queues[0]);
    this.#txVector = vectorOf(vectors, driver.queues[1]);
    this.#configVector = this.#intx ? -1 : vectors[0];
  }

  #ring(q: HostQueue, indirect: boolean): DriverRing {
    const { memory } = this.#driver.env;
    const table = indirect ? memory.allocRing(q.size * TX_DESCS * 16) : null;
    if (table !== null) this.#indirectBlocks.push(table);
    return new DriverRing({
      size: q.size,
      mem: { ptr: q.block.ptr, busBase: q.block.bus },
      align: q.align,
      eventIdx: hasBit(this.#driver.truth.accepted, F_EVENT_IDX),
      indirect: table === null ? undefined : { mem: { ptr: table.ptr, busBase: table.bus }, entries: TX_DESCS },
      grants: memory.grants,
    });
  }

  /** ndo_open: buffers posted, first doorbell, the end told what was negotiated. */
  start(): void {
    const { accepted, hdrLen, mac, mtu, linkStatus } = this.#driver.truth;
    const f: EndFeatures = {
      hdrLen,
      mac,
      mtu,
      txCsum: hasBit(accepted, F_CSUM),
      txTso4: hasBit(accepted, F_HOST_TSO4),
      txTso6: hasBit(accepted, F_HOST_TSO6),
    };
    this.#end.start(f);
    this.#setLink(!hasBit(accepted, F_STATUS) || (linkStatus & NET_S_LINK_UP) !== 0);
    this.rx.ring.enableInterrupts();
    this.tx.ring.disableInterrupts();
    if (this.rx.fill()) this.#kick(0);
  }

  /** The device lost or gave up the queues: rights revoked, memory of tables freed. Frames in flight are gone. */
  stop(): void {
    this.#end.setLink(false);
    this.#end.stop();
    this.linkUp = false;
    this.rx.ring.release();
    this.tx.ring.release();
    for (const block of this.#indirectBlocks) this.#driver.env.memory.freeRing(block);
    this.#indirectBlocks.length = 0;
  }

  /** Leave queue 0 or 1 alone: its reset is under way. */
  hold(which: number): void {
    this.#held |= 1 << which;
  }

  /** The device has given the queue up: empty it, and take every right back before it gets new ones. */
  emptied(which: number): void {
    if (which === 0) this.rx.restart();
    else this.tx.restart();
  }

  /** The queue is enabled again. */
  resume(which: number): void {
    this.#held &= ~(1 << which);
    if (which === 0) {
      this.#rxNapi = false;
      this.rx.ring.enableInterrupts();
      if (this.rx.fill()) this.#kick(0);
    } else {
      this.#txNapi = false;
      this.#txStopped = false;
    }
  }

  turn(): void {
    if (this.#irqDelay > 0) this.#irqDelay--;
    else if (this.#intx) this.#lineIrq();
    else this.#messageIrqs();
    if ((this.#held & 1) === 0) {
      if (this.#rxNapi) this.#pollRx();
      else this.#watch();
    }
    if ((this.#held & 2) !== 0) return;
    if (this.#txNapi) this.#pollTx();
    this.#transmit();
  }

  #messageIrqs(): void {
    const irq = this.#driver.env.irq;
    let seen = 0;
    if (this.#configVector >= 0 && irq.take(this.#configVector) > 0) {
      this.configInterrupts++;
      this.#configChanged();
      seen++;
    }
    if (irq.take(this.#rxVector) > 0) {
      this.#scheduleRx();
      // one vector for both queues: vring_interrupt looks at each
      if (this.#txVector === this.#rxVector) this.#scheduleTx();
      seen++;
    }
    if (this.#txVector !== this.#rxVector && irq.take(this.#txVector) > 0) {
      this.#scheduleTx();
      seen++;
    }
    if (seen > 0) {
      this.interrupts += seen;
      this.#irqDelay = this.#driver.access.pace.irqDelayTurns;
    }
  }

  /** vp_interrupt: a level-triggered line is served again and again while it is asserted. */
  #lineIrq(): void {
    if (!this.#driver.env.irq.line || this.lineDisabled) return;
    const isr = this.#driver.readIsrNow();
    this.interrupts++;
    this.#irqDelay = this.#driver.access.pace.readDelayTurns + this.#driver.access.pace.irqDelayTurns;
    let handled = false;
    if ((isr & ISR_CONFIG) !== 0) {
      this.configInterrupts++;
      this.#configChanged();
      handled = true;
    }
    if ((isr & (ISR_QUEUE | ISR_CONFIG)) !== 0) {
      if (this.rx.ring.pending()) {
        this.#scheduleRx();
        handled = true;
      }
      if (this.tx.ring.pending()) {
        this.#scheduleTx();
        handled = true;
      }
    }
    if (!handled) {
      this.unhandled++;
      this.#windowUnhandled++;
    }
    if (++this.#handlerRuns === NOBODY_WINDOW) {
      if (this.#windowUnhandled > NOBODY_CARED) this.lineDisabled = true;
      this.#handlerRuns = 0;
      this.#windowUnhandled = 0;
    }
  }

  #scheduleRx(): void {
    this.#rxNapi = true;
    this.rx.ring.disableInterrupts();
  }

  #scheduleTx(): void {
    this.#txNapi = true;
    this.tx.ring.disableInterrupts();
  }

  #pollRx(): void {
    const done = this.rx.poll(this.#o.rxBudget, this.#end);
    if (this.rx.hungry && this.rx.fill()) this.#kick(0);
    if (done < this.#o.rxBudget && this.rx.broken === 0) {
      if (this.rx.fill()) this.#kick(0);
      // napi_complete: more used meanwhile means another poll, as no interrupt may come for it
      if (this.rx.ring.enableInterrupts()) this.rx.ring.disableInterrupts();
      else this.#rxNapi = false;
    }
  }

  #pollTx(): void {
    this.tx.reap();
    if (this.tx.broken !== 0 || !this.tx.ring.enableInterrupts()) this.#txNapi = false;
    else this.tx.ring.disableInterrupts();
  }

  #transmit(): void {
    const tx = this.tx;
    if (tx.broken !== 0) return;
    if (this.#txStopped && !tx.room) return;
    this.#txStopped = false;
    let sent = 0;
    let more = true;
    while (sent < this.#o.txBudget && more) {
      if (!tx.room && tx.reap() === 0) break;
      if (!tx.room) break;
      const ptr = tx.begin();
      const n = this.#end.fetch(ptr, TX_MOST);
      if (n > 0) {
        tx.commit(n);
        sent++;
      } else {
        more = false;
      }
    }
    if (sent > 0 && tx.ring.publish()) this.#kick(1);
    if (!tx.room) {
      // netif_stop_queue; what was used before the flag is seen now, later uses interrupt
      this.#txStopped = true;
      if (tx.ring.enableInterrupts()) tx.reap();
    } else if (sent > 0 && !this.#txNapi) {
      // virtqueue_enable_cb_delayed: one interrupt when three quarters of what is in flight are done
      if (tx.ring.enableInterrupts((tx.ring.inFlight * 3) >> 2)) this.#scheduleTx();
    }
  }

  /** Measure how long used receive buffers lie without an interrupt: a lost one shows as a growing number. */
  #watch(): void {
    if (this.rx.ring.pending()) {
      if (++this.#irqWait > this.longestIrqWait) this.longestIrqWait = this.#irqWait;
    } else {
      this.#irqWait = 0;
    }
  }

  #configChanged(): void {
    if (!hasBit(this.#driver.truth.accepted, F_STATUS)) return;
    this.#setLink((this.#driver.readLinkNow() & NET_S_LINK_UP) !== 0);
  }

  #setLink(up: boolean): void {
    this.linkUp = up;
    this.#end.setLink(up);
  }

  /** Ring the doorbell of queue 0 or 1; with NOTIFICATION_DATA it carries the available index (4.1.5.2). */
  #kick(which: number): void {
    const q = this.#driver.queues[which];
    const ring = which === 0 ? this.rx.ring : this.tx.ring;
    this.kicks[which]++;
    const bus = this.#driver.access.bus;
    if (this.#wideKick) bus.barWrite(q.notifyBar, q.notifyOff, 4, (q.index | (ring.avail[1] << 16)) >>> 0);
    else bus.barWrite(q.notifyBar, q.notifyOff, 2, q.index);
  }

  /** Ring the doorbell although nothing asks for it (tests: a notify is a hint). */
  kick(which: number): void {
    this.#kick(which);
  }
}

function vectorOf(vectors: readonly number[], q: HostQueue): number {
  return q.entry === NO_VECTOR || vectors.length === 0 ? 0 : vectors[q.entry];
}
