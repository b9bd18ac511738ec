/**
 * One driver's pair of queues for the benches, with buffers laid out as Linux's virtio_net does it. Allocates nothing
 * once it is made, so that what a bench finds on the heap is the engine's. Frames have a size but no content.
 */
import { DriverRing } from "../../hw/driver-ring.ts";
import type { RingAddresses } from "../host-ring.ts";

/**
 * How a frame lies in memory.
 * single: header and frame in one descriptor on both sides.
 * frags4k, frags32k: header and 66 bytes, then pieces of that size; receive buffers of that size are merged.
 * tso: what TCP of Linux makes of a large send, fragments of 32 KiB, towards receive buffers of 4 KiB that are merged.
 */
export const SHAPES = ["single", "frags4k", "frags32k", "tso"] as const;
export type Shape = (typeof SHAPES)[number];

/** virtio-net header with num_buffers */
export const HDR = 12;
/** Linux copies this much of a TCP frame beside the header: Ethernet, IPv4, TCP with time stamps */
const LINEAR = 66;
/** GOOD_PACKET_LEN rounded up as Linux does it: the least buffer of a mergeable receive ring */
const RX_MIN = 1536;
const PIECE = { single: 0, frags4k: 4096, frags32k: 32768, tso: 32768 } as const;
const RX_MOST = { single: 65536 + 64, frags4k: 4096, frags32k: 32768, tso: 4096 } as const;
const LINE = 64;

const TWO32 = 4294967296;
/** bytes between the ring blocks of one side */
export const RING_SPAN = 1 << 20;

const lines = (bytes: number): number => Math.ceil(bytes / LINE) * LINE;

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
  return Math.min(Math.max(RX_MIN, lines(HDR + frameBytes)), RX_MOST[shape]);
}

function frameSpan(shape: Shape, frameBytes: number): number {
  return txPieces(shape, frameBytes).reduce((n, len) => n + lines(len), 0);
}

/** Bytes that the buffers of one side take with rings of `size`. */
export function buffersSpan(shape: Shape, frameBytes: number, size: number): number {
  const bytes = size * (frameSpan(shape, frameBytes) + lines(rxBuffer(shape, frameBytes)));
  return Math.ceil(bytes / 4096) * 4096;
}

const cutLo = new Int32Array(64);
const cutHi = new Int32Array(64);
const cutLen = new Int32Array(64);

export class Side {
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  /** receive buffers that came back and bytes in them */
  received = 0;
  receivedBytes = 0;
  /** the device asked to be notified of what was sent last */
  notifies = false;
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

  /** @param ptr,bus two ring blocks RING_SPAN apart begin here @param buffers bus address of the buffers */
  constructor(ptr: number, bus: number, buffers: number, ring: number, shape: Shape, frameBytes: number) {
    const make = (index: number): DriverRing =>
      new DriverRing({
        size: ring,
        mem: { ptr: ptr + index * RING_SPAN, busBase: bus + index * RING_SPAN },
        align: LINE,
        eventIdx: false,
      });
    this.rx = make(0);
    this.tx = make(1);
    const cuts = txPieces(shape, frameBytes);
    this.pieces = cuts.length;
    this.rxLen = rxBuffer(shape, frameBytes);
    this.slots = ring;
    this.lo = new Int32Array(ring * cuts.length);
    this.hi = new Int32Array(ring * cuts.length);
    this.len = new Int32Array(ring * cuts.length);
    let at = buffers;
    for (let i = 0; i < ring * cuts.length; i++) {
      const bytes = cuts[i % cuts.length]!;
      this.lo[i] = at | 0;
      this.hi[i] = Math.floor(at / TWO32);
      this.len[i] = bytes;
      at += lines(bytes);
    }
    this.rxLo = new Int32Array(ring);
    this.rxHi = new Int32Array(ring);
    for (let s = 0; s < ring; s++) {
      this.rxLo[s] = at | 0;
      this.rxHi[s] = Math.floor(at / TWO32);
      at += lines(this.rxLen);
    }
  }

  /** Under load virtio_net polls, and wants no interrupts. */
  polls(): void {
    this.rx.disableInterrupts();
    this.tx.disableInterrupts();
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
    if (sent > 0) this.notifies = tx.publish();
    return sent;
  }

  reap(): void {
    while (this.tx.take() >= 0);
    while (this.rx.take() >= 0) {
      this.received++;
      this.receivedBytes += this.rx.usedLen;
    }
    if (this.rx.broken !== 0 || this.tx.broken !== 0)
      throw new Error(`bench: the device broke a ring, code ${this.rx.broken || this.tx.broken}`);
  }
}

export function addresses(ring: DriverRing): RingAddresses {
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
