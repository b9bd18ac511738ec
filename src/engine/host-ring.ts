/**
 * One of the host's virtqueues (HQ) as its device: chains are taken from the local mirror (host-mirror.ts), and go back
 * through staged used elements (host-used.ts). VIRTIO 1.2 2.7.
 */
import { DESC_F_INDIRECT, DESC_F_WRITE } from "../hw/virtio.layout.ts";
import { gatherSingles, INDIRECT, walk, walkIndirect } from "./chain.ts";
import { OK, R_INDIRECT_NOT_NEGOTIATED } from "./codes.ts";
import { INDIRECT_MAX } from "./host-descs.ts";
import { HostMirror } from "./host-mirror.ts";
import type { RingAddresses } from "./host-used.ts";
import type { Segments } from "./segments.ts";

export type { RingAddresses };

export class HostRing extends HostMirror {
  /** free-running u16: next entry to consume; entries [next, ready) are complete in the mirror */
  next = 0;
  /** buffers that gather() found */
  gathered = 0;

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
   * tells how many they are, lens[] what each holds. Nothing is consumed. @returns 0 or a negative code with out.a, out.b
   */
  gather(bytes: number, most: number, out: Segments, lens: Int32Array): number {
    const { desc, avail, mask, next, write } = this;
    let rc: number = OK;
    let k = 0;
    for (;;) {
      k = gatherSingles(desc, avail, mask, next, write, bytes, most, k, out, lens);
      if (out.total >= bytes || k >= most) break;
      const { count, total } = out;
      rc = this.segments(avail[2 + ((next + k) & mask)]!, out);
      if (rc < 0) {
        out.count = count;
        out.total = total;
        break;
      }
      lens[k] = out.total - total;
      k++;
    }
    this.gathered = k;
    return rc;
  }

  /** Consume `k` entries and stage used elements for them, filled one after the other with `bytes` (5.1.6.4). */
  useFilled(k: number, lens: Int32Array, bytes: number): void {
    const { avail, stage, mask, next, used } = this;
    // Only the last one is not full.
    let left = bytes;
    let from = next & mask;
    let slot = used & mask;
    for (let i = 0; i < k - 1; i++) {
      const len = lens[i]!;
      stage[slot << 1] = avail[2 + from]!;
      stage[(slot << 1) + 1] = len;
      left = (left - len) | 0;
      from = (from + 1) & mask;
      slot = (slot + 1) & mask;
    }
    stage[slot << 1] = avail[2 + from]!;
    stage[(slot << 1) + 1] = left;
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
