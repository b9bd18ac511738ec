/**
 * What `bench cpu` puts around the engine: rings and buffers in plain memory laid out as Linux's virtio_net does it, two
 * drivers that allocate nothing, and the stand-in eDMA. Frames have a size but no content.
 */
import { ChunkMemory } from "../../hw/dma-chunk.ts";
import { DriverRing } from "../../hw/driver-ring.ts";
import { fence, mapAnonymous, unmap } from "../../hw/mem.ts";
import type { LocalBuffers, NetPort } from "../../hw/net-port.ts";
import { DataPath } from "../datapath.ts";
import { EdmaFetcher } from "../fetch.ts";
import type { RingAddresses } from "../host-ring.ts";
import { Interrupts } from "../interrupts.ts";
import { StandIn } from "./stand-in.ts";

/**
 * How a frame lies in memory.
 * single: header and frame in one descriptor on both sides.
 * frags4k, frags32k: header and 66 bytes, then pieces of that size; receive buffers of that size are merged.
 */
export const SHAPES = ["single", "frags4k", "frags32k"] as const;
export type Shape = (typeof SHAPES)[number];

export type Direction = "to_host" | "to_board" | "both";

/** virtio-net header with num_buffers */
export const HDR = 12;
/** Linux copies this much of a TCP frame beside the header: Ethernet, IPv4, TCP with time stamps */
const LINEAR = 66;
/** GOOD_PACKET_LEN rounded up as Linux does it: the least buffer of a mergeable receive ring */
const RX_MIN = 1536;
const PIECE = { single: 0, frags4k: 4096, frags32k: 32768 } as const;

const TWO32 = 4294967296;
// low words beyond 2^31 and addresses beyond 4 GiB on purpose
const BOARD_BUS = 0x4_c000_0000;
const HOST_BUS = 0x2f_9000_0000;
const RING_SPAN = 1 << 20;

/** Lengths of the descriptors of one frame as its sender lays them out. */
export function txPieces(shape: Shape, frameBytes: number): number[] {
  const all = HDR + frameBytes;
  const piece = PIECE[shape];
  if (piece === 0 || frameBytes <= LINEAR) return [all];
  const out = [HDR + LINEAR];
  for (let left = frameBytes - LINEAR; left > 0; left -= piece) out.push(Math.min(left, piece));
  return out;
}

/** Length of the receive buffers posted for such frames. */
export function rxBuffer(shape: Shape, frameBytes: number): number {
  const need = Math.max(RX_MIN, Math.ceil((HDR + frameBytes) / 64) * 64);
  return shape === "single" ? need : Math.min(need, PIECE[shape]);
}

export interface RigOptions {
  readonly shape: Shape;
  readonly direction: Direction;
  readonly frameBytes: number;
  /** frames the engine takes up in one turn at the most */
  readonly batch: number;
}

/** Frames that each sender hands over at once: the engine works on them in turns of `batch`. */
export function blockFrames(o: RigOptions): number {
  return Math.max(o.batch, o.frameBytes <= 9018 ? 32 : 8);
}

/** One driver's pair of queues with its buffers. */
class Side {
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  received = 0;
  receivedBytes = 0;
  private readonly lo: Int32Array;
  private readonly hi: Int32Array;
  private readonly len: Int32Array;
  private readonly pieces: number;
  private readonly rxLen: number;
  private readonly rxLo: Int32Array;
  private readonly rxHi: Int32Array;
  private rxNext = 0;
  private txNext = 0;
  private readonly slots: number;

  constructor(ptr: number, bus: number, buffers: number, ring: number, o: RigOptions) {
    const place = (index: number) => ({ ptr: ptr + index * RING_SPAN, busBase: bus + index * RING_SPAN });
    const make = (index: number): DriverRing =>
      new DriverRing({ size: ring, mem: place(index), align: 64, eventIdx: false });
    this.rx = make(0);
    this.tx = make(1);
    // Under load virtio_net polls: interrupts are off.
    this.rx.disableInterrupts();
    this.tx.disableInterrupts();
    const cuts = txPieces(o.shape, o.frameBytes);
    this.pieces = cuts.length;
    this.rxLen = rxBuffer(o.shape, o.frameBytes);
    // Every slot holds one frame; pieces start at odd places of their own pages, as page fragments do.
    const span = frameSpan(o.shape, o.frameBytes);
    this.slots = ring;
    this.lo = new Int32Array(ring * cuts.length);
    this.hi = new Int32Array(ring * cuts.length);
    this.len = new Int32Array(ring * cuts.length);
    for (let s = 0; s < ring; s++) {
      let at = buffers + s * span;
      for (let i = 0; i < cuts.length; i++) {
        this.lo[s * cuts.length + i] = at | 0;
        this.hi[s * cuts.length + i] = Math.floor(at / TWO32);
        this.len[s * cuts.length + i] = cuts[i]!;
        at += Math.ceil(cuts[i]! / 64) * 64;
      }
    }
    const rxAt = buffers + ring * span;
    this.rxLo = new Int32Array(ring);
    this.rxHi = new Int32Array(ring);
    for (let s = 0; s < ring; s++) {
      const at = rxAt + s * Math.ceil(this.rxLen / 64) * 64;
      this.rxLo[s] = at | 0;
      this.rxHi[s] = Math.floor(at / TWO32);
    }
  }

  refill(): void {
    const rx = this.rx;
    while (rx.freeCount > 0) {
      const s = this.rxNext;
      this.rxNext = s + 1 === this.slots ? 0 : s + 1;
      rx.addOne(this.rxLo[s]!, this.rxHi[s]!, this.rxLen, true);
    }
    rx.publish();
  }

  /** @returns frames handed over */
  send(frames: number): number {
    const tx = this.tx;
    let sent = 0;
    while (sent < frames && tx.freeCount >= this.pieces) {
      const s = this.txNext;
      this.txNext = s + 1 === this.slots ? 0 : s + 1;
      const at = s * this.pieces;
      if (this.pieces === 1) tx.addOne(this.lo[at]!, this.hi[at]!, this.len[at]!, false);
      else {
        for (let i = 0; i < this.pieces; i++) {
          cutLo[i] = this.lo[at + i]!;
          cutHi[i] = this.hi[at + i]!;
          cutLen[i] = this.len[at + i]!;
        }
        tx.add(cutLo, cutHi, cutLen, this.pieces, 0);
      }
      sent++;
    }
    if (sent > 0) tx.publish();
    return sent;
  }

  reap(): void {
    while (this.tx.take() >= 0);
    while (this.rx.take() >= 0) {
      this.received++;
      this.receivedBytes += this.rx.usedLen;
    }
    if (this.rx.broken !== 0 || this.tx.broken !== 0)
      throw new Error(`bench: the engine broke a ring, code ${this.rx.broken || this.tx.broken}`);
  }
}

const cutLo = new Int32Array(64);
const cutHi = new Int32Array(64);
const cutLen = new Int32Array(64);

function frameSpan(shape: Shape, frameBytes: number): number {
  return txPieces(shape, frameBytes).reduce((n, len) => n + Math.ceil(len / 64) * 64, 0);
}

/** Descriptors of the largest ring that `o` needs to keep a few batches under way. */
function ringSize(o: RigOptions): number {
  const rx = Math.ceil((HDR + o.frameBytes) / rxBuffer(o.shape, o.frameBytes));
  const need = blockFrames(o) * 4 * Math.max(rx, txPieces(o.shape, o.frameBytes).length);
  return need <= 256 ? 256 : 1024;
}

export class CpuRig {
  readonly dp: DataPath;
  readonly dma: StandIn;
  readonly host: Side;
  readonly board: Side;
  /** frames of one block and direction, and turns in which the engine can take them up */
  readonly block: number;
  readonly turns: number;
  private readonly o: RigOptions;
  private readonly areas: [number, number][] = [];

  constructor(o: RigOptions) {
    this.o = o;
    this.block = blockFrames(o);
    this.turns = Math.ceil(this.block / o.batch);
    const ring = ringSize(o);
    const span = ring * (frameSpan(o.shape, o.frameBytes) + Math.ceil(rxBuffer(o.shape, o.frameBytes) / 64) * 64);
    const area = 2 * RING_SPAN + Math.ceil(span / 4096) * 4096;
    const own = 16 << 20;
    const boardPtr = this.map(own + area);
    // The host's buffers are addresses only; no byte of them is ever touched.
    const hostPtr = this.map(2 * RING_SPAN);
    const memory = new ChunkMemory([{ ptr: boardPtr, bus: BOARD_BUS, size: own + area }], "");
    this.dma = new StandIn(memory, boardPtr, BOARD_BUS, { bus: HOST_BUS, ptr: hostPtr, bytes: 2 * RING_SPAN }, 4000);
    const eq = memory.alloc("eq.bench", area, 4096);
    this.board = new Side(eq.ptr, eq.bus, eq.bus + 2 * RING_SPAN, ring, o);
    this.host = new Side(hostPtr, HOST_BUS, HOST_BUS + 2 * RING_SPAN, ring, o);
    const buffers: LocalBuffers = {
      base: eq.bus,
      busBase: eq.bus,
      u8: eq.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => -1,
    };
    const port: NetPort = {
      kind: "test",
      netdev: "",
      ready: true,
      generation: 1,
      rx: this.board.rx,
      tx: this.board.tx,
      buffers,
      txHeaderWritable: true,
      rxMergeable: true,
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
    const { write, read, fetch } = this.dma;
    const irq = new Interrupts(memory, null, null, 1);
    this.dp = new DataPath({ memory }, port, { write, read, fetch }, new EdmaFetcher(fetch), irq, ring, {
      burst: o.batch,
      inflightBytes: Number.MAX_SAFE_INTEGER,
    });
    this.dp.attach({
      rx: addresses(this.host.rx),
      tx: addresses(this.host.tx),
      rxVector: 0xffff,
      txVector: 0xffff,
      hdrLen: HDR,
      mergeable: true,
      eventIdx: false,
      indirect: false,
      boardMergeable: true,
      msix: true,
    });
    this.host.refill();
    this.board.refill();
  }

  private map(bytes: number): number {
    const ptr = mapAnonymous(bytes);
    this.areas.push([ptr, bytes]);
    return ptr;
  }

  /** Everything between two blocks: hardware, then both drivers. */
  between(): void {
    const { o, block } = this;
    this.dma.step();
    this.host.reap();
    this.board.reap();
    if (o.direction !== "to_board") {
      this.host.refill();
      this.board.send(block);
    }
    if (o.direction !== "to_host") {
      this.board.refill();
      this.host.send(block);
    }
    // What these other agents stored is not the engine's to drain.
    fence();
  }

  /** frames that the engine has finished, both directions */
  get frames(): number {
    return this.dp.toHost.frames + this.dp.toBoard.frames;
  }

  close(): void {
    this.dma.close();
    for (const [ptr, bytes] of this.areas) unmap(ptr, bytes);
  }
}

function addresses(ring: DriverRing): RingAddresses {
  const hi = (n: number): number => Math.floor(n / TWO32);
  return {
    size: ring.size,
    descLo: ring.descBus | 0,
    descHi: hi(ring.descBus),
    availLo: ring.availBus | 0,
    availHi: hi(ring.availBus),
    usedLo: ring.usedBus | 0,
    usedHi: hi(ring.usedBus),
  };
}
