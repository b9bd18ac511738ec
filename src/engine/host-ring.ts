/**
 * One of the host's virtqueues (HQ) as its device: chains are taken from the local mirror (host-mirror.ts), and go back
 * through staged used elements (host-used.ts). VIRTIO 1.2 2.7.
 */
import { PIECE_HI, PIECE_LEN, PIECE_LO, PIECE_WORDS } from "../hw/pieces.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../hw/virtio.layout.ts";
import { INDIRECT, walk, walkIndirect } from "./chain.ts";
import { OK, R_INDIRECT_NOT_NEGOTIATED } from "./codes.ts";
import { INDIRECT_MAX } from "./host-descs.ts";
import { HostMirror } from "./host-mirror.ts";
import type { RingAddresses } from "./host-used.ts";
import { MAX_SEGMENTS, type Segments } from "./segments.ts";

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
    const { desc, avail, mask, next, size, write } = this;
    const { rows } = out;
    let rc: number = OK;
    let have = 0;
    let count = 0;
    let k = 0;
    while (have < bytes && k < most) {
      const head = avail[2 + ((next + k) & mask)]!;
      const w = head << 2;
      const n = head < size ? desc[w + 2]! : 0;
      if (n > 0 && (desc[w + 3]! & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT)) === write && count < MAX_SEGMENTS) {
        const r = count * PIECE_WORDS;
        rows[r + PIECE_LO] = desc[w]!;
        rows[r + PIECE_HI] = desc[w + 1]!;
        rows[r + PIECE_LEN] = n;
        lens[k] = n;
        have += n;
        count++;
      } else {
        out.count = count;
        out.total = have;
        rc = this.segments(head, out);
        if (rc < 0) break;
        lens[k] = out.total - have;
        count = out.count;
        have = out.total;
      }
      k++;
    }
    out.count = count;
    out.total = have;
    this.gathered = k;
    return rc;
  }

  /** Consume `k` entries and stage used elements for them, filled one after the other with `bytes` (5.1.6.4). */
  useFilled(k: number, lens: Int32Array, bytes: number): void {
    const { avail, stage, mask, next, used } = this;
    let left = bytes;
    for (let i = 0; i < k; i++) {
      const n = left < lens[i]! ? left : lens[i]!;
      const w = ((used + i) & mask) << 1;
      stage[w] = avail[2 + ((next + i) & mask)]!;
      stage[w + 1] = n;
      left -= n;
    }
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
