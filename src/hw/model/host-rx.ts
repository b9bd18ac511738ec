/**
 * The receive queue of the built-in host: buffers in the shapes that Linux virtio_net posts (mergeable, big, small),
 * and the reassembly of what the device wrote (VIRTIO 1.2 5.1.6.3, 5.1.6.4). Runs per frame: no allocation.
 */
import type { DriverRing } from "../driver-ring.ts";
import { NET_HDR_F_NEEDS_CSUM, NET_HDR_GSO_NONE, NET_HDR_NUM_BUFFERS } from "../virtio.layout.ts";
import type { HostEnd } from "./host-end.ts";
import type { HostBlock } from "./host-memory.ts";
import type { Random } from "./random.ts";

const PAGE = 4096;
const ETH_HLEN = 14;
/** longest frame without GSO: Ethernet and VLAN header on the MTU */
const FRAME_OVERHEAD = 18;
/** Linux pads the header in the first page of a big buffer to this */
const PADDED_HDR = 32;
/** descriptors of a big buffer: header, rest of the first page, 17 pages */
const BIG_DESCS = 19;
const BIG_SLOT = 18 * PAGE;

export type RxShape = "mergeable" | "big" | "small";

export interface RxOptions {
  shape: RxShape;
  hdrLen: number;
  /** mergeable: least and largest buffer in bytes, header included */
  least: number;
  most: number;
  /** mergeable and small: buffers begin at a multiple of this (1..64) */
  align: number;
  /** small: header in a descriptor of its own, as drivers without ANY_LAYOUT did */
  splitHeader: boolean;
  /** descriptors never posted, room for fault injection */
  spare: number;
  mtu: number;
  /** GUEST_CSUM / GUEST_TSO was accepted */
  csum: boolean;
  gso: boolean;
  /** the ring puts chains into indirect tables */
  indirect: boolean;
}

export class HostRx {
  readonly ring: DriverRing;
  readonly options: RxOptions;
  /** buffers (chains) this queue posts at most */
  readonly slots: number;
  frames = 0;
  bytes = 0;
  /** frames over more than one buffer */
  merged = 0;
  /** frames the end did not take */
  dropped = 0;
  /** used length below header + Ethernet header, or above what one buffer holds */
  badLength = 0;
  /** num_buffers is 0, or names more buffers than were used */
  missing = 0;
  /** header asks for an offload that was not accepted, or its unused bytes are not zero */
  badHeader = 0;
  /** used chains that this queue did not post (fault injection) */
  foreign = 0;
  /** code of a broken used ring, 0 if none */
  broken = 0;

  readonly #area: HostBlock;
  readonly #u8: Uint8Array;
  readonly #u8Ptr: number;
  readonly #random: Random;
  readonly #slotBytes: number;
  readonly #slotOf: Int32Array;
  readonly #slotPtr: Float64Array;
  readonly #free: Int32Array;
  #freeTop = 0;
  readonly #lo = new Int32Array(BIG_DESCS);
  readonly #hi = new Int32Array(BIG_DESCS);
  readonly #len = new Int32Array(BIG_DESCS);
  readonly #segPtr = new Float64Array(1024);
  readonly #segLen = new Int32Array(1024);

  /** @param u8 view over all of host memory, whose first byte is at CPU address u8Ptr */
  constructor(ring: DriverRing, area: HostBlock, u8: Uint8Array, u8Ptr: number, random: Random, o: RxOptions) {
    this.ring = ring;
    this.options = o;
    this.#area = area;
    this.#u8 = u8;
    this.#u8Ptr = u8Ptr;
    this.#random = random;
    this.#slotBytes = o.shape === "big" ? BIG_SLOT : PAGE + 64;
    const descs = o.indirect ? 1 : o.shape === "big" ? BIG_DESCS : o.shape === "small" && o.splitHeader ? 2 : 1;
    this.slots = Math.min(Math.floor((ring.size - o.spare) / descs), Math.floor(area.bytes / this.#slotBytes));
    this.#slotOf = new Int32Array(ring.size).fill(-1);
    this.#slotPtr = new Float64Array(this.slots);
    this.#free = new Int32Array(this.slots);
    for (let i = 0; i < this.slots; i++) this.#free[i] = i;
    this.#freeTop = this.slots;
  }

  /** The queue was reset: buffers are the driver's again, the ring is empty. */
  restart(): void {
    this.ring.reset();
    this.#slotOf.fill(-1);
    for (let i = 0; i < this.slots; i++) this.#free[i] = i;
    this.#freeTop = this.slots;
    this.broken = 0;
  }

  /** Post every free buffer. @returns true when the device wants to be notified */
  fill(): boolean {
    while (this.#freeTop > 0) {
      const slot = this.#free[this.#freeTop - 1];
      const head = this.#post(slot);
      if (head < 0) break;
      this.#freeTop--;
      this.#slotOf[head] = slot;
    }
    return this.ring.publish();
  }

  /** Worth refilling, as virtnet_receive decides. */
  get hungry(): boolean {
    return this.#freeTop * 2 > this.slots || this.#freeTop >= 32;
  }

  #post(slot: number): number {
    const o = this.options;
    const base = this.#area.ptr + slot * this.#slotBytes;
    if (o.shape === "big") return this.#postBig(slot, base);
    const ptr = base + this.#random.below(64 / o.align) * o.align;
    this.#slotPtr[slot] = ptr;
    if (o.shape === "mergeable") {
      const len = o.least === o.most ? o.most : o.least + this.#random.below(o.most - o.least + 1);
      const bus = ptr - this.#area.ptr + this.#area.bus;
      return this.ring.addOne(bus | 0, (bus / 4294967296) | 0, len, true);
    }
    const room = o.hdrLen + o.mtu + FRAME_OVERHEAD;
    if (!o.splitHeader) {
      this.#entry(0, ptr, room);
      return this.ring.add(this.#lo, this.#hi, this.#len, 0, 1);
    }
    this.#entry(0, ptr, o.hdrLen);
    this.#entry(1, ptr + o.hdrLen, room - o.hdrLen);
    return this.ring.add(this.#lo, this.#hi, this.#len, 0, 2);
  }

  /** Header, rest of its page, then 17 pages; the pages are posted in falling order so that nothing is contiguous. */
  #postBig(slot: number, base: number): number {
    this.#slotPtr[slot] = base;
    this.#entry(0, base, this.options.hdrLen);
    this.#entry(1, base + PADDED_HDR, PAGE - PADDED_HDR);
    for (let i = 2; i < BIG_DESCS; i++) this.#entry(i, base + BIG_SLOT - (i - 1) * PAGE, PAGE);
    return this.ring.add(this.#lo, this.#hi, this.#len, 0, BIG_DESCS);
  }

  #entry(i: number, ptr: number, len: number): void {
    const bus = ptr - this.#area.ptr + this.#area.bus;
    this.#lo[i] = bus | 0;
    this.#hi[i] = (bus / 4294967296) | 0;
    this.#len[i] = len;
  }

  /** Take up to `budget` frames from the used ring to the end. @returns frames taken */
  poll(budget: number, end: HostEnd): number {
    const o = this.options;
    let done = 0;
    while (done < budget) {
      const head = this.ring.take();
      if (head < 0) {
        if (head !== -1) this.broken = head;
        break;
      }
      done++;
      const slot = this.#slotOf[head];
      this.#slotOf[head] = -1;
      if (slot < 0) {
        this.foreign++;
        continue;
      }
      const len = this.ring.usedLen;
      const ptr = this.#slotPtr[slot];
      this.#free[this.#freeTop++] = slot;
      if (len < o.hdrLen + ETH_HLEN) {
        this.badLength++;
        continue;
      }
      this.#checkHeader(ptr - this.#u8Ptr);
      let total = len;
      let n = 1;
      this.#segPtr[0] = ptr;
      this.#segLen[0] = len;
      if (o.shape === "mergeable") {
        const at = ptr - this.#u8Ptr + NET_HDR_NUM_BUFFERS;
        const buffers = this.#u8[at] | (this.#u8[at + 1] << 8);
        const more = this.#collect(buffers);
        if (more < 0) continue;
        total += more;
        n = buffers;
      } else if (o.shape === "big") {
        n = this.#spread(ptr, len);
      }
      this.frames++;
      this.bytes += total - o.hdrLen;
      if (n > 1) this.merged++;
      if (end.deliver(this.#segPtr, this.#segLen, n, total) < 0) this.dropped++;
    }
    return done;
  }

  /** The other buffers of a merged frame. @returns their bytes, or -1 when the frame is broken */
  #collect(buffers: number): number {
    if (buffers < 1 || buffers > this.#segPtr.length) {
      this.missing++;
      return -1;
    }
    let bytes = 0;
    for (let i = 1; i < buffers; i++) {
      const head = this.ring.take();
      if (head < 0) {
        if (head !== -1) this.broken = head;
        this.missing++;
        return -1;
      }
      const slot = this.#slotOf[head];
      this.#slotOf[head] = -1;
      if (slot < 0) {
        this.foreign++;
        this.missing++;
        return -1;
      }
      this.#free[this.#freeTop++] = slot;
      this.#segPtr[i] = this.#slotPtr[slot];
      this.#segLen[i] = this.ring.usedLen;
      bytes += this.ring.usedLen;
    }
    return bytes;
  }

  /** Pieces of a frame in a big buffer. */
  #spread(base: number, len: number): number {
    let n = 1;
    let left = len - this.options.hdrLen;
    this.#segLen[0] = this.options.hdrLen;
    for (let i = 1; left > 0; i++, n++) {
      const room = i === 1 ? PAGE - PADDED_HDR : PAGE;
      const take = Math.min(left, room);
      this.#segPtr[i] = i === 1 ? base + PADDED_HDR : base + BIG_SLOT - (i - 1) * PAGE;
      this.#segLen[i] = take;
      left -= take;
    }
    return n;
  }

  #checkHeader(at: number): void {
    const u8 = this.#u8;
    const o = this.options;
    let bad = (u8[at] & NET_HDR_F_NEEDS_CSUM) !== 0 && !o.csum;
    if (u8[at + 1] !== NET_HDR_GSO_NONE && !o.gso) bad = true;
    for (let i = 12; i < o.hdrLen; i++) if (u8[at + i] !== 0) bad = true;
    if (bad) this.badHeader++;
  }
}
