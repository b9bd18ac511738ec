/**
 * One of the host's virtqueues (HQ) as its device: chains are taken from the local mirror (host-mirror.ts), and go back
 * through staged used elements (host-used.ts). VIRTIO 1.2 2.7.
 */
import { DESC_F_INDIRECT, DESC_F_WRITE } from "../hw/virtio.layout.ts";
import { gatherSingles, INDIRECT, walk, walkIndirect, walkPlain } from "./chain.ts";
import { OK, R_INDIRECT_NOT_NEGOTIATED } from "./codes.ts";
import { INDIRECT_MAX } from "./host-descs.ts";
import { HostMirror } from "./host-mirror.ts";
import type { RingAddresses } from "./host-used.ts";
import type { Segments } from "./segments.ts";

export type { RingAddresses };

export class HostRing extends HostMirror {
  /** free-running u16: next entry to consume; entries [next, ready) are complete in the mirror */
  next = 0;
  /** buffers that gather() found, bytes of the first and of the last of them */
  gathered = 0;
  firstLen = 0;
  lastLen = 0;

  override attach(q: RingAddresses, eventIdx: boolean, indirect: boolean): void {
    super.attach(q, eventIdx, indirect);
    this.next = 0;
  }

  override resume(idx: number): void {
    super.resume(idx);
    this.next = idx;
  }

  /** entries that can be consumed */
  available(): number {
    return (this.ready - this.next) & 0xffff;
  }

  /** Head of the k-th entry behind `next`; the caller has checked available(). */
  peek(k: number): number {
    return this.avail[2 + ((this.next + k) & this.mask)]!;
  }

  /** Append the segments of the chain at `head` to `out`. @returns 0 or a negative code with out.a, out.b */
  segments(head: number, out: Segments): number {
    if (walkPlain(this.desc, this.mask, head, this.write, out)) return OK;
    const rc = walk(this.desc, 0, this.size, head, this.write === 0 ? 0 : DESC_F_WRITE, out);
    if (rc !== INDIRECT) return rc;
    if (!this.indirect) {
      out.a = head;
      out.b = DESC_F_INDIRECT;
      return R_INDIRECT_NOT_NEGOTIATED;
    }
    const bytes = out.len(out.count);
    return walkIndirect(this.table, head * INDIRECT_MAX * 4, bytes, INDIRECT_MAX * 16, head, this.write, out);
  }

  /**
   * Append receive buffers behind `next` to `out`, which is empty, until they hold `bytes` or there are `most`; `gathered`
   * tells how many they are. Their used elements are written where useFilled() will stage them, nothing is consumed.
   * @returns 0 or a negative code with out.a, out.b
   */
  gather(bytes: number, most: number, out: Segments): number {
    // Of a receive queue every buffer that is consumed is staged at once, so `next` and `used` are one.
    const { desc, avail, mask, next, write, stage } = this;
    let rc: number = OK;
    let k = 0;
    let first = 0;
    let last = 0;
    for (;;) {
      const had = k;
      k = gatherSingles(desc, avail, mask, next, write, bytes, most, k, out, stage);
      if (k > had) last = out.len(out.count - 1);
      if (had === 0 && k > 0) first = out.len(0);
      if (out.total >= bytes || k >= most) break;
      // One that is not of one descriptor, or wrong.
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
      stage[slot << 1] = head;
      stage[(slot << 1) + 1] = last;
      k++;
    }
    this.gathered = k;
    this.firstLen = first;
    this.lastLen = last;
    return rc;
  }

  /** Consume the buffers that gather() found and stage their used elements; `free` bytes of the last one stay empty (5.1.6.4). */
  useFilled(free: number): void {
    const { gathered: k, used, mask } = this;
    this.stage[(((used + k - 1) & mask) << 1) + 1] = this.lastLen - free;
    this.used = (used + k) & 0xffff;
    this.consume(k);
  }

  /**
   * Stage a used element of length 0 for the entry `k` behind `next`. Chains of a transmit queue go back in the order in
   * which they came, so its place is known, and nobody reads there any more: the driver got the one of a lap before back.
   * The length is 0 since attach(), nothing else is ever staged on such a queue.
   */
  stageUnused(k: number, head: number): void {
    this.stage[((this.next + k) & this.mask) << 1] = head;
  }

  /** The next `k` chains behind `used`, staged by stageUnused(), may go back. */
  giveBack(k: number): void {
    this.used = (this.used + k) & 0xffff;
  }

  /** Consume `k` entries. */
  consume(k: number): void {
    this.next = (this.next + k) & 0xffff;
  }
}
