/**
 * One of the board's virtqueues (EQ) as its device: live local memory whose driver is another agent (the board's
 * kernel behind VDUSE, or our own TAP port). VIRTIO 1.2 2.7.
 */
import { fence, ld16, st16 } from "../hw/mem.ts";
import type { LocalBuffers, LocalRing } from "../hw/net-port.ts";
import { AVAIL_F_NO_INTERRUPT, DESC_F_WRITE } from "../hw/virtio.layout.ts";
import { BoardBuffers } from "./board-buffers.ts";
import { gatherSingles, INDIRECT, walk, walkIndirect } from "./chain.ts";
import { OK, R_AVAIL_BACK, R_AVAIL_JUMP, R_LOCAL_ADDRESS } from "./codes.ts";
import { MAX_SEGMENTS, type Segments, translate } from "./segments.ts";

/** The same memory as signed words, as all others are here. */
const words = (u32: Uint32Array): Int32Array => new Int32Array(u32.buffer, u32.byteOffset, u32.length);

export class BoardRing extends BoardBuffers {
  readonly name: string;
  size = 0;
  /** u16 cursors: next entry to take, used elements written, used index published */
  next = 0;
  used = 0;
  private published = 0;
  private seen = 0;
  a = 0;
  b = 0;
  private ring: LocalRing;
  private table: Int32Array;
  avail: Uint16Array;
  usedElem: Int32Array;
  private readonly raw: Segments;

  /** buffers that gather() found, bytes of the first and of the last of them */
  gathered = 0;
  firstLen = 0;
  lastLen = 0;

  constructor(name: string, write: number, ring: LocalRing, buffers: LocalBuffers, scratch: Segments) {
    super(write, ring, buffers);
    this.name = name;
    this.ring = ring;
    this.raw = scratch;
    this.table = new Int32Array(0);
    this.avail = ring.avail;
    this.usedElem = words(ring.usedElem);
    this.attach(ring, buffers, 0);
  }

  /** Take over the rings of a new life of the board's driver. `idx`: where the device before us stopped (its used index). */
  attach(ring: LocalRing, buffers: LocalBuffers, idx: number): void {
    this.attachBuffers(ring, buffers);
    this.ring = ring;
    this.size = ring.size;
    this.next = this.used = this.published = this.seen = idx & 0xffff;
    this.avail = ring.avail;
    this.usedElem = words(ring.usedElem);
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

  /** Append the chain at `head`, translated to bus addresses. @returns 0 or a negative code with out.a, out.b */
  segments(head: number, out: Segments): number {
    const flat = this.pageLo === null;
    if (flat && this.walkFlat(head, out)) return OK;
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
      if (this.pageLo === null) {
        const room = MAX_SEGMENTS - from;
        const end = next + (most - k < room ? most : k + room);
        k = this.gatherFlat(avail, usedElem, next + k, end, bytes, out) - next;
      } else {
        k = gatherSingles(desc, avail, mask, next, write, bytes, most, k, out, usedElem);
        const placed = this.placePaged(from, out);
        for (; out.count > placed; k--) out.total -= out.len(--out.count);
      }
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
}
