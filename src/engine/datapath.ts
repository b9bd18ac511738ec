/**
 * Both directions between one pair of board queues and one pair of host queues, one turn at a time. Knows channels and
 * rings, not registers and not who is on the other side. turn() allocates nothing and never throws.
 */
import type { Controller } from "../hw/controller.ts";
import type { NetPort } from "../hw/net-port.ts";
import { DESC_F_WRITE, NO_VECTOR, USED_F_NO_NOTIFY } from "../hw/virtio.layout.ts";
import { BoardRing } from "./board-ring.ts";
import { ChannelSet, type Channels } from "./channel-set.ts";
import { OK } from "./codes.ts";
import { EdmaFetcher, type Fetcher } from "./fetch.ts";
import { HEADER_WAIT, type HeaderCheck } from "./header-check.ts";
import type { NoticeWord } from "./host-notices.ts";
import { HostRing, type RingAddresses } from "./host-ring.ts";
import type { Interrupts } from "./interrupts.ts";
import type { DirectionLimits } from "./pair-to-host.ts";
import { Segments } from "./segments.ts";
import { ToBoard } from "./to-board.ts";
import { ToHost } from "./to-host.ts";
import { TUNING, type Tuning } from "./tuning.ts";
import { Vigil } from "./vigil.ts";

/** What a life of the host's driver fixed. */
export interface LifeOptions {
  readonly rx: RingAddresses;
  readonly tx: RingAddresses;
  readonly rxVector: number;
  readonly txVector: number;
  readonly hdrLen: number;
  /** header of the board's frames, when it is another */
  readonly boardHdrLen?: number;
  readonly mergeable: boolean;
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  /** the board's driver negotiated MRG_RXBUF */
  readonly boardMergeable: boolean;
  readonly msix: boolean;
  /** where the driver tells its avail index with a notification (NOTIFICATION_DATA) */
  readonly notices?: NoticeWord | null;
}

/** elements under way to the host from which on looks at its rings are rare: they take room on the same wire */
const BUSY = 8;

export class DataPath {
  readonly toHost: ToHost;
  readonly toBoard: ToBoard;
  readonly hqRx: HostRing;
  readonly hqTx: HostRing;
  readonly eqRx: BoardRing;
  readonly eqTx: BoardRing;
  /** looks at the first frames of the host, see header-check.ts */
  header: HeaderCheck | null = null;
  /** what the last negative code is about */
  culprit = "";
  a = 0;
  b = 0;
  /** frames lost because the host went away under them */
  abandoned = 0;
  /** interrupts given to the board's driver */
  boardInterrupts = 0;
  /** the last turn was a short one, see vigil.ts */
  brief = false;

  private readonly port: NetPort;
  private readonly ch: ChannelSet;
  private readonly irq: Interrupts;
  private readonly fetcher: Fetcher;
  private rxVector = 0xffff;
  private txVector = 0xffff;
  private hdrLen = 0;
  /** vector of a configuration change that found no room on the channel */
  private configDue = NO_VECTOR;
  private generation = -1;
  private readonly tuning: Tuning;
  private readonly vigil: Vigil;
  /** receive buffers of the host below which more are fetched */
  private rxLow = 0;
  /** frames begun in the last turn; turns and frames until channels and mirrors are attended to */
  private moved = 0;
  /** of them, frames to the host */
  private sent = 0;
  private tendWait = 0;
  /** toHost.starved as of the last turn */
  private starvedSeen = 0;

  /**
   * @param maxQueue largest host queue that will be attached
   * @param fetcher how the host's rings are read; one for both rings
   */
  constructor(
    ctrl: Pick<Controller, "memory">,
    port: NetPort,
    channels: Channels,
    fetcher: Fetcher,
    irq: Interrupts,
    maxQueue: number,
    limits: DirectionLimits,
    tuning: Tuning = TUNING,
  ) {
    this.port = port;
    this.tuning = tuning;
    this.ch = new ChannelSet(channels);
    this.irq = irq;
    this.fetcher = fetcher;
    const scratch = new Segments();
    const spare =
      tuning.idleChannel && fetcher instanceof EdmaFetcher && channels.read !== channels.fetch
        ? new EdmaFetcher(channels.read)
        : null;
    this.hqRx = new HostRing("hq.rx", DESC_F_WRITE, ctrl.memory, fetcher, maxQueue, tuning, spare);
    this.hqTx = new HostRing("hq.tx", 0, ctrl.memory, fetcher, maxQueue, tuning, spare);
    this.eqRx = new BoardRing("eq.rx", DESC_F_WRITE, port.rx, port.buffers, scratch);
    this.eqTx = new BoardRing("eq.tx", 0, port.tx, port.buffers, scratch);
    this.toHost = new ToHost(
      this.eqTx,
      this.hqRx,
      channels.write,
      irq,
      ctrl.memory,
      limits,
      tuning.lazyTurns,
      tuning.coalesce,
    );
    this.toBoard = new ToBoard(this.eqRx, this.hqTx, channels.read, channels.write, irq, limits, tuning.coalesce);
    this.vigil = new Vigil(this.ch, this.hqRx, this.hqTx, this.toHost, this.toBoard, tuning.vigil);
  }

  /**
   * Begin a life. The port has been started and the channels are empty.
   * @param fresh queues that start at index 0, bit 0 receive, bit 1 transmit; the others go on where settled() left them
   */
  attach(o: LifeOptions, fresh = 3): void {
    const rxAt = this.hqRx.used;
    const txAt = this.hqTx.used;
    this.hqRx.attach(o.rx, o.eventIdx, o.indirect);
    if ((fresh & 1) === 0) this.hqRx.resume(rxAt);
    this.rxLow = this.tuning.prefetch ? o.rx.size >> 1 : 0;
    this.hqTx.attach(o.tx, o.eventIdx, o.indirect);
    if ((fresh & 2) === 0) this.hqTx.resume(txAt);
    this.hqTx.listen(o.notices ?? null, 1, this.ch.write);
    this.rxVector = o.rxVector;
    this.txVector = o.txVector;
    this.toHost.attach(o.hdrLen, o.mergeable, this.port.txHeaderWritable, o.rxVector, o.boardHdrLen);
    this.toBoard.attach(o.hdrLen, o.boardMergeable, o.txVector, o.boardHdrLen);
    this.hdrLen = o.hdrLen;
    this.header?.attach(o.hdrLen);
    this.irq.attach(o.msix);
    if (fresh === 3 || this.port.generation !== this.generation) this.attachBoard();
    // 2.7.10.2: the loop polls, so the host need not spend a posted write on every notification. With EVENT_IDX the
    // flags must be 0; avail_event stays 0 as the driver left it, which asks for one notification in 65536.
    const flags = o.eventIdx ? 0 : USED_F_NO_NOTIFY;
    this.hqRx.putUsedFlags(this.ch.write, flags);
    this.hqTx.putUsedFlags(this.ch.write, flags);
    this.ch.write.commit();
    // What the driver was owed was forgotten with the rest; one interrupt too many does no harm.
    if ((fresh & 1) === 0) this.interrupt(this.hqRx, this.rxVector);
    if ((fresh & 2) === 0) this.interrupt(this.hqTx, this.txVector);
  }

  private attachBoard(): void {
    this.eqRx.attach(this.port.rx, this.port.buffers, this.port.resumeIdx(0));
    this.eqTx.attach(this.port.tx, this.port.buffers, this.port.resumeIdx(1));
    this.toBoard.attachBoard(this.port.rxMergeable);
    this.eqRx.suppressNotify(true);
    this.eqTx.suppressNotify(true);
    this.generation = this.port.generation;
  }

  /** @returns things done (0 = idle), or a negative code with culprit, a, b */
  turn(): number {
    const { port, toHost } = this;
    let work = 0;
    let rc = 0;
    // While frames move every turn, what landed meanwhile can wait a little; large bursts empty a ring.
    this.tendWait -= this.moved + 1;
    const short = this.vigil.left !== 0 && this.vigil.keep(this.moved);
    const tend =
      (this.moved === 0 && !short) || this.tendWait < 0 || this.irq.owed || port.generation !== this.generation;
    this.brief = short && !tend;
    if (tend) {
      this.tendWait = this.tuning.tendAfter;
      work = this.tend();
      if (work < 0) return work;
    }
    // While only the host sends, the board's ring is looked at when everything is.
    const look = tend || this.sent !== 0 || this.moved === 0;
    this.moved = 0;
    if (!port.ready) return work;
    rc = toHost.begin(look);
    if (rc < 0) return this.fault(rc, toHost.culprit, toHost.a, toHost.b);
    work += rc;
    this.moved = this.sent = rc;
    // The line is shorter than before only where channels were looked at.
    if (tend) toHost.flush();
    if (this.header !== null) {
      rc = this.header.turn(this.hqTx, this.ch.read);
      if (rc < 0) return this.fault(rc, "hq.tx", this.hdrLen, this.header.found);
      if (rc === HEADER_WAIT) return work;
    }
    rc = this.toBoard.begin();
    if (rc < 0) return this.fault(rc, this.toBoard.culprit, this.toBoard.a, this.toBoard.b);
    this.moved += rc;
    if (tend && this.moved === 0) this.vigil.begin();
    return work + rc;
  }

  /** See what landed, give it back on both sides, and let the mirrors make a step. @returns frames finished, or a negative code */
  private tend(): number {
    const { port, toHost, toBoard } = this;
    let rc = this.vigil.progressed ? OK : this.ch.progress();
    this.vigil.progressed = false;
    if (rc < 0) return this.channelFault(rc);
    if (port.generation !== this.generation) {
      rc = this.boardReset();
      if (rc < 0) return rc;
    }
    let work = toHost.finish();
    if (toHost.notify) {
      this.boardInterrupts++;
      port.notify(1);
    }
    work += toBoard.finish();
    if (toBoard.notify) {
      this.boardInterrupts++;
      port.notify(0);
    }
    rc = this.mirrors();
    if (rc < 0) return rc;
    if (this.configDue !== NO_VECTOR) this.configInterrupt(this.configDue);
    const write = this.ch.write;
    if (this.irq.turn(write) !== 0) write.commit();
    return work;
  }

  /** Let the mirrors of the host's rings make a step, and interrupts that wait for them. @returns 0 or a negative code */
  private mirrors(): number {
    const { hqRx, hqTx } = this;
    const write = this.ch.write;
    const busy = ((write.putCount - write.doneCount) | 0) > BUSY;
    let rc = hqTx.step(true, busy);
    if (rc < 0) return this.ringFault(rc, hqTx);
    // A frame may need more buffers than the low mark.
    const starved = this.toHost.starved;
    rc = hqRx.step(hqRx.available() <= this.rxLow || starved !== this.starvedSeen, busy);
    this.starvedSeen = starved;
    if (rc < 0) return this.ringFault(rc, hqRx);
    if (hqRx.interruptDue(write)) this.interrupt(hqRx, this.rxVector);
    if (hqTx.interruptDue(write)) this.interrupt(hqTx, this.txVector);
    return OK;
  }

  private interrupt(hq: HostRing, vector: number): void {
    const write = this.ch.write;
    if (write.room() < 2) {
      hq.confirmLater(write.putCount);
      return;
    }
    if (this.irq.raise(write, vector) !== 0) write.commit();
    hq.interruptSent();
  }

  /**
   * The board's driver started over: what was in flight for it is void and must not land any more, its new rings begin
   * where it says. The write channel goes on: the host's used elements are on it. @returns 0 or a negative code
   */
  private boardReset(): number {
    const { read } = this.ch;
    if (read.putCount !== read.doneCount) {
      if (read.recover() < 0) return this.channelFault(this.ch.stuck(read));
      this.header?.lost();
      // Ring contents may be under way on any read channel.
      this.hqRx.refetch();
      this.hqTx.refetch();
    }
    this.toHost.disown();
    this.abandoned += this.toBoard.disown();
    this.attachBoard();
    return OK;
  }

  /** Nothing in flight, nothing owed and no news on its way here: the loop may sleep. */
  get quiet(): boolean {
    return (
      !this.hqTx.gathering &&
      !this.hqRx.gathering &&
      this.toHost.outstanding === 0 &&
      this.toBoard.outstanding === 0 &&
      this.ch.write.putCount === this.ch.write.doneCount &&
      !this.irq.busy
    );
  }

  /** All channels at rest. */
  get drained(): boolean {
    return this.ch.drained;
  }

  /** Nothing is in flight, and the host has been given back everything that was taken from it. */
  get settled(): boolean {
    return this.drained && this.toHost.outstanding === 0 && this.toBoard.outstanding === 0;
  }

  /** Changes whenever an element lands. */
  get doneSum(): number {
    return this.ch.doneSum;
  }

  /** A channel has not moved for long. @returns the code, culprit and numbers are set */
  stalled(): number {
    return this.channelFault(this.ch.stalled());
  }

  /** Config change interrupt (4.1.5.4): the host re-reads link state. */
  configInterrupt(vector: number): void {
    const write = this.ch.write;
    // INTx takes no room.
    if (vector !== NO_VECTOR && write.room() < 2) {
      this.configDue = vector;
      return;
    }
    this.configDue = NO_VECTOR;
    if (this.irq.raise(write, vector) !== 0) write.commit();
  }

  /** One step towards drained: finish what is in flight, begin nothing. @returns 0 or a negative code */
  drain(): number {
    const rc = this.ch.progress();
    if (rc < 0) return this.channelFault(rc);
    this.toHost.finish();
    if (this.toHost.notify) this.port.notify(1);
    this.toHost.flush();
    this.toBoard.finish();
    if (this.toBoard.notify) this.port.notify(0);
    if (this.irq.turn(this.ch.write) !== 0) this.ch.write.commit();
    return OK;
  }

  /**
   * End a life: the host's memory must not be touched any more. Elements that the hardware has not begun are cut off,
   * the board's frames in flight are given back. @returns 0 or a negative code
   */
  detach(): number {
    let rc = this.ch.recover();
    if (rc < 0) rc = this.channelFault(rc);
    this.irq.detach();
    this.configDue = NO_VECTOR;
    this.fetcher.reset();
    if (this.port.generation !== this.generation) {
      this.toHost.disown();
      this.abandoned += this.toBoard.disown();
      return rc;
    }
    this.abandoned += this.toHost.abandon() + this.toBoard.abandon();
    if (this.toHost.notify) this.port.notify(1);
    return rc;
  }

  /** The link was reset while nothing was served. @throws Fault as the first set-up */
  hostGone(): void {
    this.fetcher.reset();
    this.irq.program();
  }

  /**
   * Begin a configuration change notification while no life is served (2.1.2: DEVICE_NEEDS_RESET); the channels are at
   * rest. The caller then runs settle() once a turn for as long as the host has not reset the function.
   */
  announce(msix: boolean, vector: number): void {
    this.irq.attach(msix);
    this.configInterrupt(vector);
  }

  /** @returns true while something of announce() is owed: a pulse to end, a mask to wait for, an element under way */
  settle(): boolean {
    const write = this.ch.write;
    if (this.ch.advance(write) < 0) {
      // The host cannot be reached by DMA; the next life needs the channel at rest.
      write.recover();
      return false;
    }
    if (this.irq.turn(write) !== 0) write.commit();
    return this.irq.owed || write.putCount !== write.doneCount;
  }

  private channelFault(rc: number): number {
    const { ch } = this;
    return this.fault(rc, ch.culprit, ch.a, ch.b);
  }

  private ringFault(rc: number, ring: HostRing): number {
    return this.fault(rc, ring.name, ring.a, ring.b);
  }

  private fault(code: number, culprit: string, a: number, b: number): number {
    this.culprit = culprit;
    this.a = a;
    this.b = b;
    return code;
  }
}
