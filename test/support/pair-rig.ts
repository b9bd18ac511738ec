/**
 * Both drivers, the data path between them and the model's DMA, without a PCI function: the rings are handed to the
 * engine as if they had been captured. Drivers lay out chains at random (seeded) and check every byte that arrives.
 */
import { DataPath } from "../../src/engine/datapath.ts";
import { EdmaFetcher } from "../../src/engine/fetch.ts";
import { NotifyWord } from "../../src/engine/function/notify.ts";
import type { RingAddresses } from "../../src/engine/host-ring.ts";
import { Interrupts } from "../../src/engine/interrupts.ts";
import { CHANNEL_ELEMENTS } from "../../src/engine/tuning.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import { DriverRing, type Grants, RING_NONE, ringLayout } from "../../src/hw/driver-ring.ts";
import { Edma } from "../../src/hw/edma.ts";
import { st32 } from "../../src/hw/mem.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import { HostMemory } from "../../src/hw/model/host-memory.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { Random } from "../../src/hw/model/random.ts";
import type { LocalBuffers, NetPort } from "../../src/hw/net-port.ts";
import { ScatteredBuffers } from "./scattered.ts";

const TWO32 = 2 ** 32;

export interface PairOptions {
  seed: number;
  hostQueue: number;
  boardQueue: number;
  hdrLen: number;
  /** header of the board's frames, 0: the same as the host's */
  boardHdrLen: number;
  mergeable: boolean;
  boardMergeable: boolean;
  eventIdx: boolean;
  indirect: boolean;
  /** the board's header may be patched in place */
  patch: boolean;
  /** the board's memory is in 4 KiB pages anywhere on its bus, as with VDUSE */
  scattered: boolean;
  /** largest frame without header */
  maxFrame: number;
  /** smallest and largest receive buffer */
  rxBuffer: [number, number];
  model: Partial<ModelOptions>;
  hostBase: number;
  /** the host's driver tells its avail index when it is asked to notify (NOTIFICATION_DATA) */
  notices: boolean;
  /** rounds may be prepared in registers */
  singles: boolean;
}

const DEFAULTS: PairOptions = {
  seed: 1,
  hostQueue: 256,
  boardQueue: 256,
  hdrLen: 12,
  boardHdrLen: 0,
  mergeable: true,
  boardMergeable: true,
  eventIdx: false,
  indirect: false,
  patch: false,
  scattered: false,
  maxFrame: 3000,
  rxBuffer: [200, 2048],
  model: {},
  hostBase: 0x1_0000_0000,
  notices: false,
  singles: true,
};

/** Space for the pieces of one chain: frames up to 64 KiB with gaps between the pieces. */
const SLOT = 80 * 1024;
const SCATTERED_BYTES = 16 << 20;

function flat(r: DmaRegion): LocalBuffers & { ptr: number } {
  return { ptr: r.ptr, base: r.bus, busBase: r.bus, u8: r.u8, pageBusLo: null, pageBusHi: null, learn: () => -1 };
}

/** One end: two driver's rings over memory with a CPU view and bus addresses. */
export class End {
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  /** frames sent and not yet received by the other end, oldest first */
  readonly sent: Uint8Array[] = [];
  received = 0;
  receivedBytes = 0;
  readonly hdrLen: number;
  reaped = 0;
  /** the device asked to be notified of what this queue has got */
  notify: (queue: number, ring: DriverRing) => void = () => {};
  /** what the naive pairing needs: the pieces of every receive buffer by head, and the heads in the order they were offered */
  private readonly rxPieces = new Map<number, { at: number; len: number }[]>();
  private readonly rxOrder: number[] = [];
  private readonly slots: { rx: number[]; tx: number[] } = { rx: [], tx: [] };
  private readonly slotOf = { rx: new Map<number, number>(), tx: new Map<number, number>() };
  private readonly lo = new Int32Array(256);
  private readonly hi = new Int32Array(256);
  private readonly len = new Int32Array(256);

  constructor(
    readonly name: string,
    private readonly u8: Uint8Array,
    private readonly busBase: number,
    ptr: number,
    size: number,
    private readonly o: PairOptions,
    private readonly random: Random,
    grants: Grants | null,
  ) {
    this.hdrLen = name === "board" && o.boardHdrLen > 0 ? o.boardHdrLen : o.hdrLen;
    const lay = ringLayout(size, 4096);
    const entries = 64;
    const ring = (index: number): DriverRing =>
      new DriverRing({
        size,
        mem: { ptr: ptr + index * 65536, busBase: busBase + index * 65536 },
        align: 4096,
        eventIdx: name === "host" && o.eventIdx,
        indirect: o.indirect
          ? {
              mem: {
                ptr: ptr + 131072 + index * size * entries * 16,
                busBase: busBase + 131072 + index * size * entries * 16,
              },
              entries,
            }
          : undefined,
        grants,
      });
    if (lay.bytes > 65536) throw new Error(`ring of ${lay.bytes} bytes`);
    this.rx = ring(0);
    this.tx = ring(1);
    let at = 131072 + (o.indirect ? 2 * size * entries * 16 : 0);
    while (at + SLOT <= u8.length) {
      this.slots[this.slots.rx.length < this.slots.tx.length ? "rx" : "tx"].push(at);
      at += SLOT;
    }
  }

  /** Lay `bytes` bytes out as 1..parts pieces with gaps in a slot; fills lo/hi/len. @returns offsets */
  private layOut(slot: number, cuts: number[]): number[] {
    // anywhere in a page, so that pieces cross into the next one
    let at = slot + this.random.below(4096);
    return cuts.map((n, i) => {
      at += this.random.below(64);
      const bus = this.busBase + at;
      this.hi[i] = Math.floor(bus / TWO32);
      this.lo[i] = bus | 0;
      this.len[i] = n;
      const here = at;
      at += n;
      return here;
    });
  }

  private cut(bytes: number, most: number): number[] {
    const cuts: number[] = [];
    let left = bytes;
    while (left > 0 && cuts.length < most - 1 && this.random.chance(0.6)) {
      const n = 1 + this.random.below(Math.min(left, 65535));
      cuts.push(n);
      left -= n;
    }
    if (left > 0) cuts.push(left);
    return cuts;
  }

  /** Queue one frame with random content and header. @returns false when ring or memory is full */
  send(frameBytes: number): boolean {
    if (this.slots.tx.length === 0) return false;
    const frame = new Uint8Array(this.hdrLen + frameBytes);
    for (let i = 0; i < frame.length; i++) frame[i] = this.random.next();
    const shape = this.random.below(3);
    const cuts =
      shape === 0
        ? [frame.length]
        : shape === 1
          ? [this.hdrLen, ...this.cut(frameBytes, 18)]
          : this.cut(frame.length, 19);
    const slot = this.slots.tx[this.slots.tx.length - 1]!;
    const at = this.layOut(slot, cuts);
    const head = this.tx.add(this.lo, this.hi, this.len, cuts.length, 0);
    if (head === RING_NONE) return false;
    this.slots.tx.pop();
    this.slotOf.tx.set(head, slot);
    let from = 0;
    cuts.forEach((n, i) => {
      this.u8.set(frame.subarray(from, from + n), at[i]!);
      from += n;
    });
    this.sent.push(frame);
    if (this.tx.publish()) this.notify(1, this.tx);
    return true;
  }

  /** Keep the receive ring filled with buffers of random shapes. */
  refill(most: number): void {
    for (let i = 0; i < most && this.slots.rx.length > 0; i++) {
      const [low, high] = this.o.rxBuffer;
      const bytes = low + this.random.below(high - low + 1);
      const cuts = this.cut(bytes, 4);
      const slot = this.slots.rx[this.slots.rx.length - 1]!;
      const at = this.layOut(slot, cuts);
      const head = this.rx.add(this.lo, this.hi, this.len, 0, cuts.length);
      if (head === RING_NONE) break;
      this.slots.rx.pop();
      this.slotOf.rx.set(head, slot);
      this.rxPieces.set(
        head,
        cuts.map((len, k) => ({ at: at[k]!, len })),
      );
      this.rxOrder.push(head);
    }
    if (this.rx.publish()) this.notify(0, this.rx);
  }

  /** Take transmitted chains back. */
  reap(): void {
    for (;;) {
      const head = this.tx.take();
      if (head === RING_NONE) return;
      if (head < 0) throw new Error(`${this.name}.tx: the device broke the ring, code ${head}`);
      if (this.tx.usedLen !== 0) throw new Error(`${this.name}.tx: used length ${this.tx.usedLen}`);
      this.slots.tx.push(this.slotOf.tx.get(head)!);
      this.reaped++;
    }
  }

  /**
   * Take received frames and compare with what `peer` sent, by the naive pairing: buffers in the order they were made
   * available, each filled to its end before the next, num_buffers of them.
   */
  receive(peer: End, mergeable: boolean): void {
    while (this.rx.pending()) {
      const sent = peer.sent.shift();
      if (sent === undefined) throw new Error(`${this.name}: a frame that nobody sent`);
      // The same frame behind a header of this side's length: what the sender's has not is zero.
      const want = new Uint8Array(this.hdrLen + sent.length - peer.hdrLen);
      want.set(sent.subarray(0, Math.min(this.hdrLen, peer.hdrLen)));
      want.set(sent.subarray(peer.hdrLen), this.hdrLen);
      let at = 0;
      let buffers = 0;
      const got = new Uint8Array(want.length);
      while (at < want.length) {
        const head = this.rx.take();
        if (head < 0) throw new Error(`${this.name}.rx: ${at} of ${want.length} bytes, take() says ${head}`);
        const due = this.rxOrder.shift();
        if (head !== due) throw new Error(`${this.name}.rx: buffer ${head} used, ${due} was next`);
        const pieces = this.rxPieces.get(head)!;
        const capacity = pieces.reduce((n, p) => n + p.len, 0);
        const expectLen = Math.min(capacity, want.length - at);
        if (this.rx.usedLen !== expectLen) {
          throw new Error(`${this.name}.rx: used length ${this.rx.usedLen}, ${expectLen} expected`);
        }
        let left = expectLen;
        for (const p of pieces) {
          const n = Math.min(left, p.len);
          got.set(this.u8.subarray(p.at, p.at + n), at);
          at += n;
          left -= n;
        }
        this.slots.rx.push(this.slotOf.rx.get(head)!);
        buffers++;
      }
      if (buffers > 1 && !mergeable) throw new Error(`${this.name}: ${buffers} buffers without MRG_RXBUF`);
      if (this.hdrLen >= 12) {
        want[10] = buffers & 0xff;
        want[11] = buffers >>> 8;
      }
      if (Buffer.compare(got, want) !== 0) {
        const i = got.findIndex((b, k) => b !== want[k]);
        throw new Error(
          `${this.name}: frame ${this.received} of ${want.length} bytes differs at byte ${i}: ${got[i]}, sent ${want[i]}`,
        );
      }
      this.received++;
      this.receivedBytes += want.length - this.hdrLen;
    }
  }
}

export class PairRig {
  readonly model: EndpointModel;
  readonly host: End;
  readonly board: End;
  readonly dp: DataPath;
  readonly random: Random;
  readonly o: PairOptions;
  readonly memory: HostMemory;
  readonly pages: ScatteredBuffers | null;
  /** notifications of the host, both queues */
  notified = 0;
  private readonly edma: Edma;

  constructor(options: Partial<PairOptions> = {}) {
    const o = { ...DEFAULTS, ...options };
    this.o = o;
    this.random = new Random(o.seed);
    this.model = new EndpointModel({ strict: true, seed: o.seed, ...o.model });
    const memory = new HostMemory({ bytes: 64 << 20, base: o.hostBase, strict: true });
    this.memory = memory;
    this.model.attach({ memory: memory.space, message: () => false, intx: () => {} });
    // memory decoding and bus master on, as after the host's probe
    this.model.cfgWrite(4, 2, 6);
    const ctrl = this.model.controller();
    this.edma = new Edma(ctrl);
    const write = this.edma.open(true, 0, CHANNEL_ELEMENTS);
    const read = this.edma.open(false, 0, CHANNEL_ELEMENTS);
    const fetch = this.edma.readChannels > 1 ? this.edma.open(false, 1, CHANNEL_ELEMENTS) : read;
    const { board } = this.model;
    this.pages = o.scattered ? new ScatteredBuffers(board, SCATTERED_BYTES, this.random) : null;
    const area = this.pages ?? flat(ctrl.memory.alloc("eq.test", 44 << 20, 4096));
    const grants = this.pages ?? board.shadow;
    this.board = new End("board", area.u8, area.base, area.ptr, o.boardQueue, o, this.random, grants);
    this.host = new End("host", memory.u8, memory.base, memory.ptr, o.hostQueue, o, this.random, memory.grants);
    const port: NetPort = {
      kind: "test",
      netdev: "",
      ready: true,
      generation: 1,
      rx: this.board.rx,
      tx: this.board.tx,
      buffers: area,
      txHeaderWritable: o.patch,
      rxMergeable: o.boardMergeable,
      resumeIdx: () => 0,
      start: () => {},
      stop: () => {},
      turn: () => 0,
      copiedBytes: 0,
      notify: () => {},
      setLink: () => {},
      waitFds: [],
      close: () => {},
    };
    const bell = ctrl.memory.alloc("bell.test", 64, 64);
    const word = new NotifyWord(bell.ptr);
    word.park();
    this.host.notify = (queue, ring) => {
      this.notified++;
      st32(bell.ptr, (ring.avail[1]! << 16) | queue);
    };
    const irq = new Interrupts(ctrl.memory, null, null, 1);
    this.dp = new DataPath(ctrl, port, { write, read, fetch }, new EdmaFetcher(fetch, o.singles), irq, o.hostQueue, {
      burst: 64,
      inflightBytes: 512 * 1024,
    });
    this.dp.attach({
      rx: addresses(this.host.rx),
      tx: addresses(this.host.tx),
      rxVector: 0xffff,
      txVector: 0xffff,
      hdrLen: o.hdrLen,
      ...(o.boardHdrLen > 0 ? { boardHdrLen: o.boardHdrLen } : {}),
      mergeable: o.mergeable,
      eventIdx: o.eventIdx,
      indirect: o.indirect,
      boardMergeable: o.boardMergeable,
      msix: true,
      notices: o.notices ? word : null,
    });
  }

  /** One turn of model and data path. Throws on a fault code. */
  turn(): number {
    this.model.turn();
    const rc = this.dp.turn();
    if (rc < 0) throw new Error(`data path: code ${rc}, ${this.dp.culprit} a=${this.dp.a} b=${this.dp.b}`);
    return rc;
  }

  /** One turn of both drivers: refill, take back, receive and compare. */
  drivers(): void {
    this.host.refill(1 + this.random.below(64));
    this.board.refill(1 + this.random.below(64));
    this.host.reap();
    this.board.reap();
    this.host.receive(this.board, this.o.mergeable);
    this.board.receive(this.host, this.o.boardMergeable);
  }

  /** Move `frames` frames each way with random sizes and pauses. @returns turns used */
  exchange(frames: number): number {
    let toSend = frames;
    let toSendBoard = frames;
    const wantHost = this.host.received + frames;
    const wantBoard = this.board.received + frames;
    let turns = 0;
    let idle = 0;
    while (this.host.received < wantHost || this.board.received < wantBoard) {
      for (let i = this.random.below(12); i > 0 && toSend > 0; i--) if (this.host.send(this.size())) toSend--;
      for (let i = this.random.below(12); i > 0 && toSendBoard > 0; i--)
        if (this.board.send(this.size())) toSendBoard--;
      const before = this.host.received + this.board.received + this.host.reaped + this.board.reaped;
      for (let i = 1 + this.random.below(4); i > 0; i--) this.turn();
      this.drivers();
      turns++;
      const after = this.host.received + this.board.received + this.host.reaped + this.board.reaped;
      idle = after === before ? idle + 1 : 0;
      if (idle > 5000) {
        throw new Error(
          `no progress: host ${this.host.received}/${wantHost}, board ${this.board.received}/${wantBoard}`,
        );
      }
    }
    if (this.model.violationCount > 0) throw new Error(`strict mode: ${this.model.violations[0]}`);
    return turns;
  }

  /** The host sends `times` times one or a few frames, with pauses of at most `pause` turns between; the board a frame now and then. */
  trickle(times: number, pause: number): void {
    const { random, host, board } = this;
    for (let i = 0; i < times; i++) {
      for (let k = random.chance(0.8) ? 1 : 1 + random.below(6); k > 0; k--) {
        host.send(this.size());
        for (let t = random.below(3); t > 0; t--) this.turn();
      }
      if (random.chance(0.2)) board.send(this.size());
      for (let t = random.below(pause); t > 0; t--) {
        this.turn();
        if (random.chance(0.3)) this.drivers();
      }
    }
    for (let t = 0; t < 5000 && (host.sent.length > 0 || board.sent.length > 0); t++) {
      this.turn();
      this.drivers();
    }
    if (host.sent.length > 0 || board.sent.length > 0)
      throw new Error(`${host.sent.length} frames of the host and ${board.sent.length} of the board did not arrive`);
    if (this.model.violationCount > 0) throw new Error(`strict mode: ${this.model.violations[0]}`);
  }

  private size(): number {
    return 14 + (this.random.chance(0.5) ? this.random.below(120) : this.random.below(this.o.maxFrame - 14));
  }

  close(): void {
    this.edma.quiesce();
    if (this.model.violationCount > 0) throw new Error(`strict mode: ${this.model.violations[0]}`);
    this.pages?.close();
    this.memory.close();
    this.model.close();
  }
}

export function addresses(ring: DriverRing): RingAddresses {
  const word = (n: number): [number, number] => [n | 0, Math.floor(n / TWO32)];
  const [descLo, descHi] = word(ring.descBus);
  const [availLo, availHi] = word(ring.availBus);
  const [usedLo, usedHi] = word(ring.usedBus);
  return { size: ring.size, descLo, descHi, availLo, availHi, usedLo, usedHi };
}
