/**
 * Where the buffers are that the board's driver names: its addresses as offsets in local memory and as bus addresses, one by one
 * and for the segments of chains. Everything outside of that memory is found here.
 */
import type { LocalBuffers, LocalRing } from "../hw/net-port.ts";
import { PIECE_HI, PIECE_LEN, PIECE_LO, PIECE_WORDS } from "../hw/pieces.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../hw/virtio.layout.ts";
import { SINGLE_KIND } from "./chain.ts";
import { MAX_SEGMENTS, PIECE_OFF, type Segments } from "./segments.ts";

/** of what locate() gives where there is nothing, or a frame does not begin at a 16-bit word */
export const ODD = 1 | (1 << 31);

export class BoardBuffers {
  /** DESC_F_WRITE for the receive queue, 0 for the transmit queue */
  readonly write: number;
  desc: Int32Array;
  mask: number;
  /** `bytes` in 16-bit words, for what is at an even offset there */
  u16: Uint16Array;
  protected buffers: LocalBuffers;
  protected pageLo: Int32Array | null = null;
  private pageHi: Int32Array | null = null;
  private u8: Uint8Array;
  // base and bus address of the buffers as int32 words, for locate()
  private baseLo = 0;
  private baseHi = 0;
  private busLo = 0;
  private busHi = 0;
  private limit = 0;

  constructor(write: number, ring: LocalRing, buffers: LocalBuffers) {
    this.write = write;
    this.desc = ring.desc;
    this.mask = ring.size - 1;
    this.buffers = buffers;
    this.u8 = buffers.u8;
    this.u16 = new Uint16Array(0);
  }

  protected attachBuffers(ring: LocalRing, buffers: LocalBuffers): void {
    this.desc = ring.desc;
    this.mask = ring.size - 1;
    this.buffers = buffers;
    this.u8 = buffers.u8;
    this.baseLo = buffers.base | 0;
    this.baseHi = Math.floor(buffers.base / 4294967296) | 0;
    this.busLo = buffers.busBase | 0;
    this.busHi = Math.floor(buffers.busBase / 4294967296) | 0;
    this.limit = Math.min(buffers.u8.length, 0x7fffffff);
    this.pageLo = buffers.pageBusLo;
    this.pageHi = buffers.pageBusHi;
    this.u16 = new Uint16Array(buffers.u8.buffer, buffers.u8.byteOffset, buffers.u8.byteLength >> 1);
  }

  get bytes(): Uint8Array {
    return this.u8;
  }

  /**
   * Where the driver's address is, when `len` bytes from there are contiguous on the bus; busLow() and busHigh() tell where there.
   * @returns offset in `bytes`, or -1
   */
  locate(addrLo: number, addrHi: number, len: number): number {
    const { baseLo, pageLo } = this;
    const off = (addrLo - baseLo) | 0;
    // Of a difference below 2^31 the top bits alone tell whether there was a borrow, as of busHigh()'s sum.
    const borrow = (baseLo & ~addrLo) >>> 31;
    if (off < 0 || len <= 0 || off > ((this.limit - len) | 0) || ((addrHi - this.baseHi - borrow) | 0) !== 0) return -1;
    if (pageLo === null) return off;
    const page = off >>> 12;
    return (off & 4095) + len > 4096 || (pageLo[page]! | this.pageHi![page]!) === 0 ? -1 : off;
  }

  /** Low word of the bus address of `off`, which locate() gave. */
  busLow(off: number): number {
    const { pageLo } = this;
    return pageLo === null ? (this.busLo + off) | 0 : pageLo[off >>> 12]! | (off & 4095);
  }

  /** High word of it. */
  busHigh(off: number): number {
    const { pageHi, busLo } = this;
    if (pageHi !== null) return pageHi[off >>> 12]!;
    return (this.busHi + ((busLo & ~(busLo + off)) >>> 31)) | 0;
  }

  /**
   * Append the chain at `head`, without a table and in memory that is contiguous on the bus, in one pass. @returns false: it is not
   * of that kind, or wrong, and nothing was appended
   */
  protected walkFlat(head: number, out: Segments): boolean {
    const { desc, mask, write, baseLo, baseHi, busLo, busHi, limit } = this;
    const { rows } = out;
    const first = out.count * PIECE_WORDS;
    let r = first;
    let total = 0;
    let i = head;
    for (;;) {
      if (i > mask || r >= MAX_SEGMENTS * PIECE_WORDS) return false;
      const w = i << 2;
      const low = desc[w]!;
      const high = desc[w + 1]!;
      const len = desc[w + 2]!;
      const flagsNext = desc[w + 3]!;
      const at = (low - baseLo) | 0;
      // See locate() and busHigh().
      if ((flagsNext & (DESC_F_WRITE | DESC_F_INDIRECT)) !== write || len <= 0 || at < 0 || at > ((limit - len) | 0))
        return false;
      if (((high - baseHi - ((baseLo & ~low) >>> 31)) | 0) !== 0) return false;
      const bus = (busLo + at) | 0;
      rows[r + PIECE_LO] = bus;
      rows[r + PIECE_HI] = (busHi + ((busLo & ~bus) >>> 31)) | 0;
      rows[r + PIECE_LEN] = len;
      rows[r + PIECE_OFF] = at;
      r = (r + PIECE_WORDS) | 0;
      total += len;
      if ((flagsNext & DESC_F_NEXT) === 0) break;
      i = flagsNext >>> 16;
    }
    out.count += (r - first) / PIECE_WORDS;
    out.total += total;
    return true;
  }

  /**
   * gatherSingles() and placeFlat() in one pass, for a receive queue. @param slot where the ring has the first entry, as free-running
   * as `end`, which is where it has the one that is not taken any more @returns the first one that was not taken
   */
  protected gatherFlat(
    avail: Uint16Array,
    elems: Int32Array,
    slot: number,
    end: number,
    bytes: number,
    out: Segments,
  ): number {
    const { desc, mask, baseLo, baseHi, busLo, busHi, limit } = this;
    const { rows } = out;
    let r = out.count * PIECE_WORDS;
    let i = slot;
    // Of a frame beyond 2 GiB it is less than what is missing, and the caller goes on.
    const want = (bytes - out.total) | 0;
    let left = want;
    while (i < end && left > 0) {
      const e = i & mask;
      const head = avail[(e + 2) | 0]!;
      const w = (head & mask) << 2;
      const low = desc[w]!;
      const high = desc[w + 1]!;
      const len = desc[w + 2]!;
      const kind = desc[w + 3]! & SINGLE_KIND;
      const at = (low - baseLo) | 0;
      // See locate() and busHigh().
      if (((head & ~mask) | (kind ^ DESC_F_WRITE)) !== 0 || len <= 0 || at < 0 || at > ((limit - len) | 0)) break;
      if (((high - baseHi) | 0) !== (baseLo & ~low) >>> 31) break;
      const bus = (busLo + at) | 0;
      rows[r + PIECE_LO] = bus;
      rows[r + PIECE_HI] = (busHi + ((busLo & ~bus) >>> 31)) | 0;
      rows[r + PIECE_LEN] = len;
      rows[r + PIECE_OFF] = at;
      elems[e << 1] = head;
      elems[(e << 1) + 1] = len;
      r = (r + PIECE_WORDS) | 0;
      left = (left - len) | 0;
      i = (i + 1) | 0;
    }
    out.count = r / PIECE_WORDS;
    out.total += want - left;
    return i;
  }

  /**
   * Translate the segments from `from` on to bus addresses where they stand, in memory that is contiguous there.
   * @returns number of the first one that is not in it, or of all
   */
  protected placeFlat(from: number, out: Segments): number {
    const { baseLo, baseHi, busLo, busHi, limit } = this;
    const { rows, count } = out;
    // What a driver in this process calls its memory.
    const same = baseLo === busLo && baseHi === busHi;
    let r = from * PIECE_WORDS;
    for (let i = from; i < count; i++) {
      const low = rows[r + PIECE_LO]!;
      const high = rows[r + PIECE_HI]!;
      const at = (low - baseLo) | 0;
      // See locate() and busHigh().
      if (at < 0 || at > limit - rows[r + PIECE_LEN]! || ((high - baseHi - ((baseLo & ~low) >>> 31)) | 0) !== 0)
        return i;
      if (!same) {
        const bus = (busLo + at) | 0;
        rows[r + PIECE_LO] = bus;
        rows[r + PIECE_HI] = (busHi + ((busLo & ~bus) >>> 31)) | 0;
      }
      rows[r + PIECE_OFF] = at;
      r = (r + PIECE_WORDS) | 0;
    }
    return count;
  }

  /** The same in scattered memory. @returns number of the first one that is not in one known page of it, or of all */
  protected placePaged(from: number, out: Segments): number {
    const { rows, count } = out;
    for (let i = from; i < count; i++) {
      const r = i * PIECE_WORDS;
      const at = this.locate(rows[r + PIECE_LO]!, rows[r + PIECE_HI]!, rows[r + PIECE_LEN]!);
      if (at < 0) return i;
      rows[r + PIECE_LO] = this.busLow(at);
      rows[r + PIECE_HI] = this.busHigh(at);
      rows[r + PIECE_OFF] = at;
    }
    return count;
  }
}
