/**
 * What a data path is made of, and what happens to it as lives of the two drivers begin and end: rings are attached, channels
 * brought to rest, what was in flight given back; interrupts beside the traffic. The turns are in datapath.ts.
 */
import type { Controller } from "../hw/controller.ts";
import type { NetPort } from "../hw/net-port.ts";
import { DESC_F_WRITE, NO_VECTOR } from "../hw/virtio.layout.ts";
import { BoardRing } from "./board-ring.ts";
import { ChannelSet, type Channels } from "./channel-set.ts";
import { OK } from "./codes.ts";
import { EdmaFetcher, type Fetcher } from "./fetch.ts";
import type { HeaderCheck } from "./header-check.ts";
import type { NoticeWord } from "./host-notices.ts";
import { HostRing, type RingAddresses } from "./host-ring.ts";
import type { Interrupts } from "./interrupts.ts";
import { Segments } from "./segments.ts";
import { ToBoard } from "./to-board.ts";
import { ToHost } from "./to-host.ts";
import { type DirectionLimits, TUNING, type Tuning } from "./tuning.ts";
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
  /** the host's driver took F_MTU: larger frames must not reach it (5.1.4.1); 0: it did not */
  readonly mtu?: number;
  /** where the driver tells its avail index with a notification (NOTIFICATION_DATA) */
  readonly notices?: NoticeWord | null;
}

export class DataPathLife {
  readonly toHost: ToHost;
  readonly toBoard: ToBoard;
  readonly hqRx: HostRing;
  readonly hqTx: HostRing;
  readonly eqRx: BoardRing;
  readonly eqTx: BoardRing;
  /** looks at the first frames of the host, see header-check.ts */
  header: HeaderCheck | null = null;
  /** the same while it has frames to look at */
  protected checking: HeaderCheck | null = null;
  /** what the last negative code is about */
  culprit = "";
  a = 0;
  b = 0;
  /** frames lost because the host went away under them */
  abandoned = 0;
  /** interrupts given to the board's driver */
  boardInterrupts = 0;

  protected readonly port: NetPort;
  protected readonly ch: ChannelSet;
  protected readonly irq: Interrupts;
  protected readonly fetcher: Fetcher;
  protected rxVector = 0xffff;
  protected txVector = 0xffff;
  protected hdrLen = 0;
  /** vector of a configuration change that found no room on the channel */
  protected configDue = NO_VECTOR;
  protected generation = -1;
  protected readonly tuning: Tuning;
  protected readonly vigil: Vigil;
  /** receive buffers of the host below which more are fetched */
  protected rxLow = 0;

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
    this.toHost = new ToHost(this.eqTx, this.hqRx, channels.write, irq, ctrl.memory, limits, tuning.coalesce);
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
    this.toHost.attach(o.hdrLen, o.mergeable, this.port.txHeaderWritable, o.rxVector, o.boardHdrLen, o.mtu);
    this.toBoard.attach(o.hdrLen, o.boardMergeable, o.txVector, o.boardHdrLen);
    this.hdrLen = o.hdrLen;
    this.header?.attach(o.hdrLen);
    this.checking = this.header;
    this.irq.attach(o.msix);
    if (fresh === 3 || this.port.generation !== this.generation) this.attachBoard();
    // 2.7.10.2: the loop polls, so the host need not spend a posted write on every notification. With EVENT_IDX avail_event
    // stays 0 as the driver left it, which asks for one notification in 65536.
    this.hqRx.putNotifyWish(this.ch.write, false, 0);
    this.hqTx.putNotifyWish(this.ch.write, false, 0);
    this.ch.write.commit();
    // What the driver was owed was forgotten with the rest; one interrupt too many does no harm.
    if ((fresh & 1) === 0) this.interrupt(this.hqRx, this.rxVector);
    if ((fresh & 2) === 0) this.interrupt(this.hqTx, this.txVector);
  }

  protected attachBoard(): void {
    this.eqRx.attach(this.port.rx, this.port.buffers, this.port.resumeIdx(0));
    this.eqTx.attach(this.port.tx, this.port.buffers, this.port.resumeIdx(1));
    this.toBoard.attachBoard(this.port.rxMergeable);
    this.eqRx.suppressNotify(true);
    this.eqTx.suppressNotify(true);
    this.generation = this.port.generation;
  }

  protected interrupt(hq: HostRing, vector: number): void {
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
  protected boardReset(): number {
    const { read } = this.ch;
    if (read.putCount !== read.doneCount) {
      const rc = this.ch.recoverReads();
      if (rc < 0) return this.channelFault(rc);
      this.header?.lost();
      // Ring contents that were under way are lost.
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

  protected channelFault(rc: number): number {
    const { ch } = this;
    return this.fault(rc, ch.culprit, ch.a, ch.b);
  }

  protected ringFault(rc: number, ring: HostRing): number {
    return this.fault(rc, ring.name, ring.a, ring.b);
  }

  protected fault(code: number, culprit: string, a: number, b: number): number {
    this.culprit = culprit;
    this.a = a;
    this.b = b;
    return code;
  }
}
