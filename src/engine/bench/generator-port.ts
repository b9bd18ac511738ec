/**
 * The board's side of the card for `bench live`: instead of a netdev an own station in this process, which fills the
 * transmit ring with frames of its own and looks at everything that arrives. It is the driver of both rings, as the
 * TAP port is; no system call, and no copy but of a template into a buffer that held another one.
 */
import type { DmaMemory, DmaRegion } from "../../hw/dma-memory.ts";
import { DriverRing, ringLayout } from "../../hw/driver-ring.ts";
import { compare, copy } from "../../hw/mem.ts";
import type { LocalBuffers, NetPort, PortFeatures } from "../../hw/net-port.ts";
import {
  ARP_BYTES,
  ECHO_PAYLOAD,
  ETH_BYTES,
  FRAME_ARP_ASK,
  FRAME_ECHO_ASK,
  FRAME_ECHO_REPLY,
  FRAME_FRAGMENT,
  MIN_FRAME,
  type Station,
} from "./station.ts";

/** answer what must be answered, send nothing */
export const SEND_NOTHING = 0;
/** frames that nobody answers, as fast as the ring takes them */
export const SEND_FILLER = 1;
/** echo requests, `window` of them under way */
export const SEND_ECHO = 2;

const TWO32 = 4294967296;
const BURST = 64;
/** echoes are lost when none came back for this long while we were at work, ns */
const LOST_NS = 250_000_000;
/** a turn counts as this much of it at most: time in which this process was not running is nobody's loss */
const MOST_STEP_NS = 20_000_000;
const MOST_SAMPLES = 1 << 20;
const VLAN_BYTES = 4;

const align64 = (n: number): number => (n + 63) & ~63;

export interface GeneratorOptions {
  readonly memory: DmaMemory;
  readonly station: Station;
  readonly mtu: number;
  /** descriptors and buffers of each ring */
  readonly queueSize: number;
}

export class GeneratorPort implements NetPort {
  readonly kind = "generator";
  readonly netdev = "";
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  readonly buffers: LocalBuffers;
  readonly txHeaderWritable = true;
  readonly rxMergeable = false;
  readonly copiedBytes = 0;
  readonly waitFds: readonly number[] = [];
  ready = false;
  generation = 0;
  /** carrier as the engine set it */
  linkUp = false;

  readonly station: Station;
  /** frames that arrived, echoes among them that were ours, and echoes that came back with another payload */
  received = 0;
  echoes = 0;
  wrong = 0;
  /** pieces of echoes: the host's interface does not take our MTU */
  fragments = 0;
  /** echoes that did not come back in time */
  lost = 0;
  /** round trips of echoes in ns, the first `samples` of them valid; live.ts sets samples to 0 */
  readonly rttNs = new Float64Array(MOST_SAMPLES);
  samples = 0;

  readonly #pool: DmaRegion;
  readonly #stride: number;
  readonly #mtu: number;
  #hdrLen = 12;
  // buffer b of either ring; which one a head holds
  readonly #rxBuf: Int32Array;
  readonly #txBuf: Int32Array;
  readonly #free: Int32Array;
  #freeCount = 0;
  /** template that a transmit buffer holds a copy of, -1 for none */
  readonly #holds: Int32Array;
  #template = 0;
  #sending = SEND_NOTHING;
  #bytes = MIN_FRAME;
  #window = 1;
  #seq = 0;
  #out = 0;
  /** when echo n was sent, 0 when it is not under way */
  readonly #sentAt = new Float64Array(65536);
  #lastTurn = 0;
  #still = 0;
  #asking = false;

  /** @throws Fault E_MISSING when DMA memory is short */
  constructor(o: GeneratorOptions) {
    const n = o.queueSize;
    this.station = o.station;
    this.#mtu = o.mtu;
    this.#stride = align64(24 + ETH_BYTES + VLAN_BYTES + o.mtu);
    // receive buffers, transmit buffers, one template; first, so that a failure takes nothing
    this.#pool = o.memory.alloc("generator-buffers", (2 * n + 1) * this.#stride, 64);
    const ringBytes = ringLayout(n, 64).bytes;
    const ring = (name: string): DriverRing => {
      const r = o.memory.alloc(name, ringBytes, 64);
      return new DriverRing({ size: n, mem: { ptr: r.ptr, busBase: r.bus }, align: 64, eventIdx: false });
    };
    this.rx = ring("generator-rx-ring");
    this.tx = ring("generator-tx-ring");
    this.buffers = {
      base: this.#pool.bus,
      busBase: this.#pool.bus,
      u8: this.#pool.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => 0,
    };
    this.#rxBuf = new Int32Array(n);
    this.#txBuf = new Int32Array(n);
    this.#free = new Int32Array(n);
    this.#holds = new Int32Array(2 * n).fill(-1);
  }

  /** longest frame that fits, bytes */
  get longest(): number {
    return this.#mtu + ETH_BYTES;
  }

  resumeIdx(): number {
    return 0;
  }

  start(f: PortFeatures): void {
    this.#hdrLen = f.hdrLen;
    this.rx.reset();
    this.tx.reset();
    this.rx.disableInterrupts();
    this.tx.disableInterrupts();
    const n = this.tx.size;
    for (let i = 0; i < n; i++) {
      this.#free[i] = n + i;
      this.#post(i);
    }
    this.#freeCount = n;
    this.rx.publish();
    this.send(SEND_NOTHING);
    this.generation++;
    this.ready = true;
  }

  stop(): void {
    this.ready = false;
    this.linkUp = false;
  }

  setLink(up: boolean): void {
    this.linkUp = up;
  }

  notify(): void {}

  close(): void {
    this.ready = false;
  }

  /** Ask the peer's address in the next turn. */
  ask(): void {
    this.#asking = true;
  }

  /**
   * What to send from now on. Echoes under way are forgotten.
   * @param bytes of a frame, MIN_FRAME to `longest`
   * @param window echoes under way at a time
   */
  send(what: number, bytes = MIN_FRAME, window = 1): void {
    const { u8 } = this.#pool;
    const at = 2 * this.tx.size * this.#stride;
    this.#sending = what;
    this.#bytes = bytes;
    this.#window = window;
    this.#out = 0;
    this.#sentAt.fill(0);
    this.#lastTurn = Bun.nanoseconds();
    this.#still = 0;
    u8.fill(0, at, at + this.#hdrLen);
    if (what === SEND_FILLER) this.station.filler(u8, at + this.#hdrLen, bytes);
    else if (what === SEND_ECHO) this.station.echoAsk(u8, at + this.#hdrLen, bytes);
    this.#template++;
  }

  /** echoes under way */
  get outstanding(): number {
    return this.#out;
  }

  turn(): number {
    if (!this.ready) return 0;
    const now = this.#sending === SEND_ECHO ? Bun.nanoseconds() : 0;
    let done = this.#reclaim() + this.#receive(now);
    if (this.#asking) done += this.#askNow();
    if (this.#sending === SEND_FILLER) done += this.#fill();
    else if (this.#sending === SEND_ECHO) done += this.#echo(now);
    if (done > 0) this.tx.publish();
    if (this.rx.broken !== 0 || this.tx.broken !== 0) this.ready = false;
    return done;
  }

  #post(b: number): void {
    const bus = this.#pool.bus + b * this.#stride;
    const head = this.rx.addOne(bus | 0, (bus / TWO32) | 0, this.#stride, true);
    this.#rxBuf[head] = b;
  }

  #reclaim(): number {
    const ring = this.tx;
    let n = 0;
    for (let head = ring.take(); head >= 0; head = ring.take()) {
      this.#free[this.#freeCount++] = this.#txBuf[head]!;
      n++;
    }
    return n;
  }

  /** Put buffer b with a frame of `bytes` into the ring. */
  #put(b: number, bytes: number): void {
    const bus = this.#pool.bus + b * this.#stride;
    const head = this.tx.addOne(bus | 0, (bus / TWO32) | 0, this.#hdrLen + bytes, false);
    this.#txBuf[head] = b;
  }

  /** A free buffer with a copy of the template in it. */
  #copyOfTemplate(): number {
    const b = this.#free[--this.#freeCount]!;
    if (this.#holds[b] !== this.#template) {
      const { ptr } = this.#pool;
      copy(ptr + b * this.#stride, ptr + 2 * this.tx.size * this.#stride, this.#hdrLen + this.#bytes);
      this.#holds[b] = this.#template;
    }
    return b;
  }

  #fill(): number {
    let n = 0;
    for (; n < BURST && this.#freeCount > 0; n++) this.#put(this.#copyOfTemplate(), this.#bytes);
    return n;
  }

  #echo(now: number): number {
    const most = this.#window - this.#out;
    let n = 0;
    for (; n < most && n < BURST && this.#freeCount > 0; n++) {
      const b = this.#copyOfTemplate();
      const seq = this.#seq;
      this.#seq = (seq + 1) & 0xffff;
      this.station.number(this.#pool.u8, b * this.#stride + this.#hdrLen, seq);
      this.#sentAt[seq] = now;
      this.#put(b, this.#bytes);
    }
    this.#out += n;
    const step = now - this.#lastTurn;
    this.#lastTurn = now;
    this.#still = n > 0 || this.#out === 0 ? 0 : this.#still + (step < MOST_STEP_NS ? step : MOST_STEP_NS);
    if (this.#still > LOST_NS) {
      this.lost += this.#out;
      this.#out = 0;
      this.#still = 0;
      this.#sentAt.fill(0);
    }
    return n;
  }

  #receive(now: number): number {
    const ring = this.rx;
    let n = 0;
    for (; n < BURST; n++) {
      const head = ring.take();
      if (head < 0) break;
      const b = this.#rxBuf[head]!;
      this.received++;
      this.#look(b * this.#stride + this.#hdrLen, ring.usedLen - this.#hdrLen, now);
      this.#post(b);
    }
    if (n > 0) ring.publish();
    return n;
  }

  #look(at: number, len: number, now: number): void {
    const kind = this.station.classify(this.#pool.u8, at, len);
    if (kind === FRAME_ECHO_REPLY) this.#echoBack(at, len, now);
    else if (kind === FRAME_FRAGMENT) this.fragments++;
    else if (kind === FRAME_ARP_ASK || kind === FRAME_ECHO_ASK) this.#answer(kind, at, len);
  }

  #echoBack(at: number, len: number, now: number): void {
    const sent = this.#sentAt[this.station.seq]!;
    if (sent === 0 || this.#sending !== SEND_ECHO) return;
    this.#sentAt[this.station.seq] = 0;
    this.#out--;
    this.#still = 0;
    this.echoes++;
    if (this.samples < MOST_SAMPLES) this.rttNs[this.samples++] = now - sent;
    const { ptr } = this.#pool;
    const template = 2 * this.tx.size * this.#stride + this.#hdrLen;
    const payload = this.#bytes - ECHO_PAYLOAD;
    if (len < this.#bytes || compare(ptr + at + ECHO_PAYLOAD, ptr + template + ECHO_PAYLOAD, payload) !== 0)
      this.wrong++;
  }

  #answer(kind: number, at: number, len: number): void {
    if (this.#freeCount === 0) return;
    const { u8 } = this.#pool;
    const b = this.#free[--this.#freeCount]!;
    const to = b * this.#stride;
    this.#holds[b] = -1;
    u8.fill(0, to, to + this.#hdrLen);
    if (kind === FRAME_ARP_ASK) {
      this.station.arpTell(u8, to + this.#hdrLen, at);
      this.#put(b, ARP_BYTES);
    } else {
      u8.copyWithin(to + this.#hdrLen, at, at + len);
      this.station.echoTell(u8, to + this.#hdrLen);
      this.#put(b, len);
    }
    this.tx.publish();
  }

  #askNow(): number {
    if (this.#freeCount === 0) return 0;
    this.#asking = false;
    const b = this.#free[--this.#freeCount]!;
    const to = b * this.#stride;
    this.#holds[b] = -1;
    this.#pool.u8.fill(0, to, to + this.#hdrLen);
    this.station.arpAsk(this.#pool.u8, to + this.#hdrLen);
    this.#put(b, ARP_BYTES);
    return 1;
  }
}
