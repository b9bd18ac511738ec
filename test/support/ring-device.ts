/**
 * A plain device for one split ring, written from VIRTIO 1.2 2.7 and independent of the engine: it walks chains by
 * bus address and writes used elements. For tests of the driver's side.
 */
import { fence, ld16, st16, view } from "../../src/hw/mem.ts";
import type { LocalRing } from "../../src/hw/net-port.ts";

export interface Piece {
  addr: number;
  len: number;
  write: boolean;
}

export class RingDevice {
  readonly ring: LocalRing;
  readonly eventIdx: boolean;
  readonly tableAt: (bus: number) => number;
  lastAvail = 0;
  usedIdx = 0;

  /** @param tableAt CPU address of a bus address, for indirect tables */
  constructor(ring: LocalRing, eventIdx: boolean, tableAt: (bus: number) => number) {
    this.ring = ring;
    this.eventIdx = eventIdx;
    this.tableAt = tableAt;
  }

  /** next available head, -1 when none */
  pop(): number {
    if (ld16(this.ring.availPtr + 2) === this.lastAvail) return -1;
    const head = this.ring.avail[2 + (this.lastAvail % this.ring.size)]!;
    this.lastAvail = (this.lastAvail + 1) & 0xffff;
    return head;
  }

  chain(head: number): Piece[] {
    const out: Piece[] = [];
    let d = this.ring.desc;
    let at = head;
    for (;;) {
      const addr = (d[4 * at + 1]! >>> 0) * 2 ** 32 + (d[4 * at]! >>> 0);
      const flags = d[4 * at + 3]! & 0xffff;
      if (flags & 4) {
        d = new Int32Array(view(this.tableAt(addr), d[4 * at + 2]!));
        at = 0;
        continue;
      }
      out.push({ addr, len: d[4 * at + 2]!, write: (flags & 2) !== 0 });
      if (!(flags & 1)) return out;
      at = d[4 * at + 3]! >>> 16;
      if (out.length > 65536) throw new Error("loop");
    }
  }

  /** Write one used element without showing it. */
  put(id: number, len: number): void {
    const e = (this.usedIdx % this.ring.size) * 2;
    this.ring.usedElem[e] = id;
    this.ring.usedElem[e + 1] = len;
    this.usedIdx = (this.usedIdx + 1) & 0xffff;
  }

  /** Show everything put; true when the driver wants an interrupt. */
  show(): boolean {
    const old = ld16(this.ring.usedPtr + 2);
    st16(this.ring.usedPtr + 2, this.usedIdx);
    fence();
    if (!this.eventIdx) return (ld16(this.ring.availPtr) & 1) === 0;
    const event = ld16(this.ring.availPtr + 4 + 2 * this.ring.size);
    return ((this.usedIdx - event - 1) & 0xffff) < ((this.usedIdx - old) & 0xffff);
  }

  /** Wish for notifications: flags word, or avail_event when EVENT_IDX is on. */
  wantNotify(on: boolean): void {
    const event = on ? this.lastAvail : (this.lastAvail - 1) & 0xffff;
    if (this.eventIdx) st16(this.ring.usedPtr + 4 + 8 * this.ring.size, event);
    else st16(this.ring.usedPtr, on ? 0 : 1);
    fence();
  }
}
