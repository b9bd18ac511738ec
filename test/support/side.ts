/** One driver of a test: two rings and memory to cut buffers from, chain by chain. */
import { DriverRing, type Grants } from "../../src/hw/driver-ring.ts";

const TWO32 = 2 ** 32;
/** ring blocks, then indirect tables of the rings, then buffers */
const RING_SPAN = 65536;
const TABLES = 2 * RING_SPAN;
const TABLE_ENTRIES = 64;

/** A chain as it was made: its head, and where its pieces are. */
export interface Chain {
  readonly head: number;
  readonly addr: readonly number[];
  readonly lens: readonly number[];
}

/** One driver: two rings and memory to cut buffers from. */
export class Side {
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  /** bytes by which buffers are off the 64-byte line */
  shift = 0;
  private at: number;
  private readonly lo = new Int32Array(1024);
  private readonly hi = new Int32Array(1024);
  private readonly len = new Int32Array(1024);

  constructor(
    readonly base: number,
    readonly u8: Uint8Array,
    ptr: number,
    size: number,
    eventIdx: boolean,
    indirect: boolean,
    readonly grants: Grants | null,
  ) {
    const span = size * TABLE_ENTRIES * 16;
    const ring = (i: number): DriverRing =>
      new DriverRing({
        size,
        mem: { ptr: ptr + i * RING_SPAN, busBase: base + i * RING_SPAN },
        align: 4096,
        eventIdx,
        indirect: indirect
          ? { mem: { ptr: ptr + TABLES + i * span, busBase: base + TABLES + i * span }, entries: TABLE_ENTRIES }
          : undefined,
        grants,
      });
    this.rx = ring(0);
    this.tx = ring(1);
    this.at = TABLES + 2 * span;
  }

  /** Bus address of `bytes` bytes nobody else uses, with a gap in front. */
  alloc(bytes: number): number {
    const at = ((this.at + 64 + 63) & ~63) + this.shift;
    if (at + bytes > this.u8.length) throw new Error("the side's memory is used up");
    this.at = at + bytes;
    return this.base + at;
  }

  /** Forget all buffers: the next alloc() begins at the same place again. */
  rewind(mark: number): void {
    this.at = mark;
  }

  get mark(): number {
    return this.at;
  }

  bytes(bus: number, len: number): Uint8Array {
    return this.u8.subarray(bus - this.base, bus - this.base + len);
  }

  private add(ring: DriverRing, addr: number[], lens: readonly number[], write: boolean): Chain {
    for (let i = 0; i < lens.length; i++) {
      this.lo[i] = addr[i]! | 0;
      this.hi[i] = Math.floor(addr[i]! / TWO32);
      this.len[i] = lens[i]!;
    }
    const n = lens.length;
    const head = ring.add(this.lo, this.hi, this.len, write ? 0 : n, write ? n : 0);
    if (head < 0) throw new Error(`ring is full: ${head}`);
    return { head, addr, lens: [...lens] };
  }

  /** A receive buffer of these pieces, filled with 0xEE, published unless `hold`. */
  post(lens: readonly number[], hold = false): Chain {
    const addr = lens.map((n) => this.alloc(n));
    lens.forEach((n, i) => {
      this.bytes(addr[i]!, n).fill(0xee);
    });
    const c = this.add(this.rx, addr, lens, true);
    if (!hold) this.rx.publish();
    return c;
  }

  /** Transmit `frame` (header included) in pieces of these lengths (default: one), published unless `hold`. */
  send(frame: Uint8Array, lens: readonly number[] = [frame.length], hold = false): Chain {
    const addr = lens.map((n) => this.alloc(n));
    let from = 0;
    lens.forEach((n, i) => {
      this.bytes(addr[i]!, n).set(frame.subarray(from, from + n));
      from += n;
    });
    const c = this.add(this.tx, addr, lens, false);
    if (!hold) this.tx.publish();
    return c;
  }

  /** The first `len` bytes of a chain. */
  gather(c: Chain, len: number): Uint8Array {
    const out = new Uint8Array(len);
    let at = 0;
    for (let i = 0; i < c.lens.length && at < len; i++) {
      const n = Math.min(len - at, c.lens[i]!);
      out.set(this.bytes(c.addr[i]!, n), at);
      at += n;
    }
    return out;
  }
}
