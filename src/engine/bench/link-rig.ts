/**
 * `bench link`: two drivers and the model with time, and what is common to all designs: the loop that keeps the senders
 * busy, and the lone frame. A design is what moves frames in step(). Host CPU time is not modelled: drivers cost
 * nothing and react at the next turn of the loop.
 */

import { type Direction, type LinkModel, type LinkTiming, openLink } from "../../hw/model/open-model.ts";
import type { LocalBuffers, NetPort } from "../../hw/net-port.ts";
import { Draw } from "./draw.ts";
import { HostBell } from "./host-bell.ts";
import { benchPort } from "./rig.ts";
import { buffersSpan, RING_SPAN, type Shape, Side } from "./side.ts";

export interface LinkRigOptions {
  readonly timing: LinkTiming;
  readonly seed: number;
  readonly direction: Direction;
  readonly frameBytes: number;
  /** how frames lie in memory, on both sides */
  readonly shape: Shape;
  /** descriptors of every ring */
  readonly ring: number;
  /** the board's header may be patched in place */
  readonly patch: boolean;
  /** simulated ns of the board's CPU: one turn of the loop, and what each frame adds */
  readonly turnNs: number;
  readonly frameNs: number;
}

/** Large frames as Linux's TSO makes them, the others in one piece; where memory is only contiguous in pages, 4 KiB each. */
export function shapeOf(frameBytes: number, pages = false): Shape {
  if (pages) return frameBytes > 4000 ? "frags4k" : "single";
  return frameBytes > 9100 ? "tso" : "single";
}

export abstract class LinkRig {
  readonly o: LinkRigOptions;
  readonly model: LinkModel;
  readonly host: Side;
  readonly board: Side;
  protected readonly port: NetPort;
  /** the host's notifications of frames it sends, when it is asked for them */
  readonly bell: HostBell;
  /** bytes that receivers have got, and when the newest of them came: frames are announced in groups */
  arrivedBytes = 0;
  arrivedAt = 0;

  constructor(o: LinkRigOptions) {
    this.o = o;
    this.varied = new Draw(o.seed + 1);
    const { shape } = o;
    const area = 2 * RING_SPAN + buffersSpan(shape, o.frameBytes, o.ring);
    const mib = (n: number): number => Math.ceil(n / 2 ** 20) * 2 ** 20;
    this.model = openLink(o.timing, o.seed, o.turnNs, mib(area) + (8 << 20), Math.max(mib(area), 16 << 20));
    const eq = this.model.controller.memory.alloc("eq.bench", area, 4096);
    const { host } = this.model;
    this.board = new Side(eq.ptr, eq.bus, eq.bus + 2 * RING_SPAN, o.ring, shape, o.frameBytes);
    this.host = new Side(host.ptr, host.base, host.base + 2 * RING_SPAN, o.ring, shape, o.frameBytes);
    this.bell = new HostBell(this.model, this.host.tx.availPtr, 1);
    const buffers: LocalBuffers = {
      base: eq.bus,
      busBase: eq.bus,
      u8: eq.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => -1,
    };
    this.port = benchPort(this.board, buffers, o.patch, (queue) => {
      if (queue === 0) this.tellBoard(o.frameNs / 2);
    });
  }

  /** when the board's driver was told of frames last */
  private toldAt = 0;

  /** The board's driver gets an interrupt for frames. @param ns CPU time of theirs that comes before it and is not spent yet */
  protected tellBoard(ns: number): void {
    this.toldAt = this.now + ns;
  }

  /** Let the design work once; simulated time goes on. */
  protected abstract step(): void;

  /** ns of the next turn that have passed already; below 0, what a busy one before it still takes */
  private passed = 0;
  /** how long the next turn is, of its usual length */
  private length = 1;
  private readonly varied: Draw;

  /**
   * The time of one turn of the loop passes, a quarter more or less. Were all of them as long, a look would come the same
   * time after what it looks for in every lone frame of a row: up to a turn by chance, not half of one.
   */
  protected pass(): void {
    const left = this.turnNs * this.length - this.passed;
    this.passed = 0;
    this.length = 0.75 + this.varied.next(512) / 1024;
    if (left > 0) this.spend(left);
  }

  /** usual ns of the next turn */
  protected get turnNs(): number {
    return this.o.turnNs;
  }

  /** CPU loads across the link so far */
  get cpuReads(): number {
    return this.model.endpoint.stats.nonPostedReads;
  }

  get now(): number {
    return this.model.endpoint.clock.now;
  }

  /** The board's CPU is busy for `ns`, everything else goes on. */
  protected spend(ns: number): void {
    const { endpoint } = this.model;
    endpoint.timed?.runTo(endpoint.clock.now + ns);
  }

  private drivers(send: boolean): void {
    const { host, board, o } = this;
    host.reap();
    board.reap();
    const bytes = host.receivedBytes + board.receivedBytes;
    if (bytes !== this.arrivedBytes) {
      this.arrivedBytes = bytes;
      this.arrivedAt = this.now;
    }
    host.refill();
    board.refill();
    if (!send) return;
    if (o.direction !== "host_to_ep") board.send(o.ring);
    if (o.direction !== "ep_to_host" && host.send(o.ring) > 0 && host.notifies) this.bell.ring();
  }

  /** Senders always have something to send, for `ns` of simulated time. */
  saturate(ns: number): void {
    const end = this.now + ns;
    this.host.polls();
    this.board.polls();
    while (this.now < end) {
      this.drivers(true);
      this.step();
    }
  }

  /** Let everything come to rest. */
  drain(): void {
    for (let i = 0; i < 400; i++) {
      this.drivers(false);
      this.step();
    }
  }

  /**
   * One frame on an idle link. @param idleNs pause before it
   * @returns ns from its hand-over until the receiver has it: towards the host when its interrupt is there, towards the board when
   * its driver is told
   */
  lone(idleNs: number): number {
    const { host, board, o, model } = this;
    const toHost = o.direction !== "host_to_ep";
    const until = this.now + idleNs;
    while (this.now + this.turnNs * this.length <= until) {
      this.drivers(false);
      this.step();
    }
    // The sender knows nothing of the loop's turns: anywhere within one.
    this.passed = until - this.now;
    if (this.passed > 0) this.spend(this.passed);
    host.rx.enableInterrupts();
    board.rx.enableInterrupts();
    const seen = model.messages.count;
    const start = this.now;
    (toHost ? board : host).send(1);
    if (!toHost && host.notifies) this.bell.ring();
    const limit = start + 10_000_000;
    while (this.now < limit) {
      if (toHost ? model.messages.count !== seen && host.rx.pending() : board.rx.pending()) break;
      this.step();
    }
    if (this.now >= limit) throw new Error("bench: a lone frame did not arrive within 10 ms");
    if (!toHost && this.toldAt < start) throw new Error("bench: the board's driver was not told of a lone frame");
    const end = toHost ? model.messages.at : this.toldAt;
    this.drivers(false);
    return end - start;
  }

  close(): void {
    this.model.close();
  }
}
