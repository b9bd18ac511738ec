/**
 * One of the board's virtqueues (EQ) as its device: live local memory whose driver is another agent (the board's
 * kernel behind VDUSE, or our own TAP port). VIRTIO 1.2 2.7.
 */
import { fence, ld16, st16 } from "../hw/mem.ts";
import type { LocalBuffers, LocalRing } from "../hw/net-port.ts";
import { PIECE_HI, PIECE_LEN, PIECE_LO, PIECE_WORDS } from "../hw/pieces.ts";
import { AVAIL_F_NO_INTERRUPT, DESC_F_WRITE } from "../hw/virtio.layout.ts";
import { gatherSingles, INDIRECT, walk, walkIndirect } from "./chain.ts";
import { OK, R_AVAIL_BACK, R_AVAIL_JUMP, R_LOCAL_ADDRESS } from "./codes.ts";
import { PIECE_OFF, type Segments, translate } from "./segments.ts";

/** of what locate() gives where there is nothing, or a frame does not begin at a 16-bit word */
export const ODD = 1 | (1 << 31);

/** The same memory as signed words, as all others are here. */
const words = (u32: Uint32Array): Int32Array => new Int32Array(u32.buffer, u32.byteOffset, u32.length);

export class BoardRing {
  readonly name: string;
  readonly write: number;
  size = 0;
  /** u16 cursors: next entry to take, used elements written, used index published */
  next = 0;
  used = 0;
  private published = 0;
  private seen = 0;
  a = 0;
  b = 0;
  mask = 0;
  private ring: LocalRing;
  private buffers: LocalBuffers;
  private table: Int32Array;
  desc: Int32Array;
  avail: Uint16Array;
  usedElem: Int32Array;
  private readonly raw: Segments;

  /** buffers that gather() found, bytes of the first and of the last of them */
  gathered = 0;
  firstLen = 0;
  lastLen = 0;
  private u8: Uint8Array;
  /** `bytes` in 16-bit words, for what is at an even offset there */
  u16: Uint16Array;
  // base and bus address of the buffers as int32 words, for locate()
  private baseLo = 0;
  private baseHi = 0;
  private busLo = 0;
  private busHi = 0;
  private limit = 0;
  private pageLo: Int32Array | null = null;
  private pageHi: Int32Array | null = null;

  constructor(name: string, write: number, ring: LocalRing, buffers: LocalBuffers, scratch: Segments) {
    this.name = name;
    this.write = write;
    this.ring = ring;
    this.buffers = buffers;
    this.raw = scratch;
    this.table = new Int32Array(0);
    this.desc = ring.desc;
    this.avail = ring.avail;
    this.usedElem = words(ring.usedElem);
    this.u8 = buffers.u8;
    this.u16 = new Uint16Array(0);
    this.attach(ring, buffers, 0);
  }

  /** Take over the rings of a new life of the board's driver. `idx`: where the device before us stopped (its used index). */
  attach(ring: LocalRing, buffers: LocalBuffers, idx: number): void {
    this.ring = ring;
    this.buffers = buffers;
    this.size = ring.size;
    this.mask = ring.size - 1;
    this.next = this.used = this.published = this.seen = idx & 0xffff;
    this.desc = ring.desc;
    this.avail = ring.avail;
    this.usedElem = words(ring.usedElem);
    this.u8 = buffers.u8;
    this.baseLo = buffers.base | 0;
    this.baseHi = Math.floor(buffers.base / 4294967296) | 0;
    this.busLo = buffers.busBase | 0;
    this.busHi = Math.floor(buffers.busBase / 4294967296) | 0;
    this.limit = Math.min(buffers.u8.length, 0x7fffffff);
    this.pageLo = buffers.pageBusLo;
    this.pageHi = buffers.pageBusHi;
    this.u16 = new Uint16Array(buffers.u8.buffer, buffers.u8.byteOffset, buffers.u8.byteLength >> 1);
    const whole = buffers.u8.byteOffset % 4 === 0 ? buffers.u8.byteLength & ~3 : 0;
    this.table = new Int32Array(buffers.u8.buffer, buffers.u8.byteOffset, whole >> 2);
  }

  /** Entries that can be taken, after one fresh look at the avail index; or a negative code. */
  available(): number {
    const n = (this.seen - this.next) & 0xffff;
    return n > 0 ? n : this.look();
  }

  /** Read the avail index. @returns entries that can be taken, or R_AVAIL_JUMP or R_AVAIL_BACK */
  look(): number {
    const idx = ld16(this.ring.availPtr + 2);
    const ahead = (idx - this.used) & 0xffff;
    if (ahead > this.size) {
      this.a = ahead;
      this.b = this.size;
      return R_AVAIL_JUMP;
    }
    const n = (idx - this.next) & 0xffff;
    // Behind what was taken: entries from there on are stale.
    if (n > ahead) {
      this.a = this.seen;
      this.b = idx;
      return R_AVAIL_BACK;
    }
    this.seen = idx;
    return n;
  }

  /** Head of the k-th entry behind `next`. */
  peek(k: number): number {
    return this.avail[2 + ((this.next + k) & this.mask)]!;
  }

  consume(k: number): void {
    this.next = (this.next + k) & 0xffff;
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

  /** Append the chain at `head`, translated to bus addresses. @returns 0 or a negative code with out.a, out.b */
  segments(head: number, out: Segments): number {
    const flat = this.pageLo === null;
    // Contiguous memory: the segments stay as many as they are and are translated where they stand.
    const raw = flat ? out : this.raw;
    if (!flat) raw.clear();
    const from = raw.count;
    let rc = walk(this.desc, 0, this.size, head, this.write === 0 ? 0 : DESC_F_WRITE, raw);
    if (rc === INDIRECT) {
      const k = raw.count;
      const bytes = raw.len(k);
      const off = raw.hi(k) * 4294967296 + (raw.lo(k) >>> 0) - this.buffers.base;
      if (!(off >= 0 && off + bytes <= this.table.length * 4) || (off & 3) !== 0) {
        out.a = raw.lo(k);
        out.b = raw.hi(k);
        return R_LOCAL_ADDRESS;
      }
      rc = walkIndirect(this.table, off >>> 2, bytes, bytes, head, this.write, raw);
    }
    if (rc < 0) {
      out.a = raw.a;
      out.b = raw.b;
      return rc;
    }
    if (!flat) return translate(raw, 0, this.buffers, out);
    const placed = this.placeFlat(from, out);
    if (placed === out.count) return OK;
    out.a = out.lo(placed);
    out.b = out.hi(placed);
    return R_LOCAL_ADDRESS;
  }

  /**
   * Append receive buffers behind `next` to `out`, which is empty, until they hold `bytes` or there are `most`; `gathered`
   * tells how many they are. Nothing is consumed, but their used elements are written: buffers go back in the order in which
   * they came, so their places are known, and nobody reads there any more or yet: the driver got the elements of a lap
   * before back, and used.idx ends before these. @returns 0 or a negative code with out.a, out.b
   */
  gather(bytes: number, most: number, out: Segments): number {
    const { desc, avail, mask, next, write, usedElem } = this;
    let rc: number = OK;
    let k = 0;
    let first = 0;
    let last = 0;
    for (;;) {
      const from = out.count;
      const had = k;
      k = gatherSingles(desc, avail, mask, next, write, bytes, most, k, out, usedElem);
      const placed = this.pageLo === null ? this.placeFlat(from, out) : this.placePaged(from, out);
      for (; out.count > placed; k--) out.total -= out.len(--out.count);
      if (k > had) last = out.len(out.count - 1);
      if (had === 0 && k > 0) first = out.len(0);
      if (out.total >= bytes || k >= most) break;
      // One that is not of one piece, or wrong.
      const { count, total } = out;
      const slot = (next + k) & mask;
      const head = avail[2 + slot]!;
      rc = this.segments(head, out);
      if (rc < 0) {
        out.count = count;
        out.total = total;
        break;
      }
      last = out.total - total;
      if (k === 0) first = last;
      usedElem[slot << 1] = head;
      usedElem[(slot << 1) + 1] = last;
      k++;
    }
    this.gathered = k;
    this.firstLen = first;
    this.lastLen = last;
    return rc;
  }

  /**
   * Translate the segments from `from` on to bus addresses where they stand, in memory that is contiguous there.
   * @returns number of the first one that is not in it, or of all
   */
  private placeFlat(from: number, out: Segments): number {
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
  private placePaged(from: number, out: Segments): number {
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

  pushUsed(head: number, len: number): void {
    const w = (this.used & this.mask) << 1;
    this.usedElem[w] = head;
    this.usedElem[w + 1] = len;
    this.used = (this.used + 1) & 0xffff;
  }

  /**
   * The next `k` chains behind `used` go back unwritten, in the order in which they came: until then the avail ring
   * still names them (a driver has at most `size` entries outstanding, 2.7.13).
   */
  giveBack(k: number): void {
    const { avail, usedElem, mask, used } = this;
    for (let i = 0; i < k; i++) {
      const slot = (used + i) & mask;
      usedElem[slot << 1] = avail[2 + slot]!;
      usedElem[(slot << 1) + 1] = 0;
    }
    this.used = (used + k) & 0xffff;
  }

  /**
   * Consume the buffers that gather() found, of whose last one `free` bytes stay empty (5.1.6.4). They are given back by
   * moving `used`. What gather() knows of their lengths is used, and not what is in the driver's memory by now.
   */
  stageFilled(free: number): void {
    const { gathered: k, next, mask } = this;
    this.usedElem[(((next + k - 1) & mask) << 1) + 1] = this.lastLen - free;
    this.next = (next + k) & 0xffff;
  }

  /** entries taken and not given back */
  get taken(): number {
    return (this.next - this.used) & 0xffff;
  }

  /**
   * Publish the used index (2.7.8.2), then look whether the driver wants an interrupt (2.7.7).
   * @returns true when it does
   */
  publish(): boolean {
    if (this.used === this.published) return false;
    this.published = this.used;
    // st16 releases: the elements are visible before the index.
    st16(this.ring.usedPtr + 2, this.used);
    // The index must be visible before the flag is read, or an interrupt can be missed.
    fence();
    return (ld16(this.ring.availPtr) & AVAIL_F_NO_INTERRUPT) === 0;
  }

  /** 2.7.10: ask the driver (not) to notify; a hint. */
  suppressNotify(on: boolean): void {
    st16(this.ring.usedPtr, on ? 1 : 0);
  }

  /** Put taken but unused entries back: the next taker finds them again. Only valid without used entries of later ones. */
  rewind(k: number): void {
    this.next = (this.next - k) & 0xffff;
  }

  get bytes(): Uint8Array {
    return this.u8;
  }
}
