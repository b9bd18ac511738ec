/**
 * Pairing for frames of the board (to-host.ts): what EQ.tx has with buffers of HQ.rx, as elements of a write channel and
 * staged used elements.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory } from "../hw/dma-memory.ts";
import {
  DESC_F_WRITE,
  NET_HDR_GSO_ECN,
  NET_HDR_GSO_NONE,
  NET_HDR_GSO_TYPE,
  NET_HDR_NUM_BUFFERS,
} from "../hw/virtio.layout.ts";
import type { BoardRing } from "./board-ring.ts";
import { SINGLE_KIND } from "./chain.ts";
import { R_BUFFER_SMALL, R_CHAIN_TOO_LONG, R_FRAME_SHORT } from "./codes.ts";
import { HeaderSlots } from "./header-slots.ts";
import { HostRing } from "./host-ring.ts";
import { cutOut, localOffset, MAX_SEGMENTS, prepend, Segments } from "./segments.ts";
import type { DirectionLimits } from "./tuning.ts";

/** receive buffers of one frame at the most: 64 KiB in buffers of 512 bytes */
const MAX_BUFFERS = 128;
/** bursts that the limit of bytes under way is divided in */
export const BURSTS = 4;
/** Ethernet header */
const ETH_MIN = 14;
const VLAN_TAG = 4;
/** elements of a frame in one piece, with what ends its burst */
export const SINGLE_ROOM = 2 + HostRing.PUBLISH_ELEMENTS + 1;

export abstract class PairToHost {
  /** frames that no receive buffer of the host can take */
  dropped = 0;
  /** turns in which frames waited for the host's receive buffers */
  starved = 0;
  a = 0;
  b = 0;
  /** which ring the last negative code is about: "eq.tx" or "hq.rx" */
  culprit = "";

  protected readonly eq: BoardRing;
  protected readonly hq: HostRing;
  protected readonly ch: DmaChannel;
  /** frames of one burst, bytes in flight after which no more is begun */
  protected readonly most: number;
  protected readonly inflightMost: number;
  /** bytes of one burst at the most */
  private readonly share: number;
  private readonly headers: HeaderSlots;
  private readonly src = new Segments();
  private readonly dst = new Segments();
  // the burst that is being put together
  protected begun = 0;
  protected burstBytes = 0;
  /** bytes of the bursts in flight */
  protected inflight = 0;
  // Counted where it costs least, see frames and bytes.
  /** bursts of one frame in one element that was not announced; frames beside them */
  protected lone = 0;
  protected moreFrames = 0;
  /** bytes of frames that landed, their headers included; bytes and frames of earlier lives */
  protected landed = 0;
  private bytesBefore = 0;
  private framesBefore = 0;
  /** the last frame was not of one descriptor on each side, so the next one probably is not either */
  protected long = false;
  /** room that it took in the list */
  private lastRoom = 0;
  protected hdrLen = 12;
  /** header of the board's frames, and how much longer the host's is */
  private eqHdrLen = 12;
  private grow = 0;
  private mergeable = true;
  private patch = false;
  /** a frame of one descriptor is one element; its num_buffers is patched in place */
  protected plain = false;
  protected stamp = false;
  /** shortest frame, its header included */
  protected least = 0;
  /** longest that needs no look at its gso_type */
  protected longest = 0x7fffffff;

  constructor(eq: BoardRing, hq: HostRing, ch: DmaChannel, memory: DmaMemory, limits: DirectionLimits) {
    this.eq = eq;
    this.hq = hq;
    this.ch = ch;
    this.most = limits.burst;
    this.inflightMost = limits.inflightBytes;
    this.share = (limits.inflightBytes / BURSTS) | 0;
    this.headers = new HeaderSlots(memory);
  }

  /** frames begun */
  get frames(): number {
    return this.moreFrames + this.lone;
  }

  /** bytes of them without their headers */
  get bytes(): number {
    const headers = (this.frames - this.framesBefore) * this.hdrLen;
    return this.bytesBefore + this.landed + this.inflight - headers;
  }

  protected attachPairing(hdrLen: number, mergeable: boolean, patch: boolean, eqHdrLen: number, mtu: number): void {
    this.bytesBefore = this.bytes;
    this.framesBefore = this.frames;
    this.landed = 0;
    this.hdrLen = hdrLen;
    this.eqHdrLen = eqHdrLen;
    this.grow = hdrLen - eqHdrLen;
    this.mergeable = mergeable;
    this.patch = patch && this.grow === 0;
    this.plain = this.grow === 0 && (hdrLen < 12 || this.patch);
    this.stamp = this.plain && hdrLen >= 12;
    this.least = hdrLen + ETH_MIN;
    this.longest = mtu === 0 ? 0x7fffffff : hdrLen + ETH_MIN + VLAN_TAG + mtu;
    this.inflight = 0;
  }

  /** The burst whose first element is `before` is complete. */
  protected abstract close(before: number, frames: number, bytes: number): void;

  /**
   * Frames of one descriptor on each side, as nearly every frame of a usual MTU is, until `most` are begun or one is
   * not so; what is unusual or wrong goes the long way. Rings are read here and not by methods of them: calls and
   * results passed through fields cost as much as the rest of a frame.
   */
  protected singles(most: number): void {
    const { eq, hq, ch, least, longest, plain, stamp, grow } = this;
    let frames = most - this.begun;
    const hqNext = hq.next;
    const buffers = (hq.ready - hqNext) & 0xffff;
    if (buffers < frames) frames = buffers;
    const room = (ch.room() - SINGLE_ROOM) >> 1;
    if (room < frames) frames = room;
    let left = this.inflightMost - this.inflight - this.burstBytes;
    const share = this.share - this.burstBytes;
    if (share < left) left = share;
    if (frames <= 0 || left <= 0) return;
    const { desc, avail, mask, next } = eq;
    const { desc: hqDesc, avail: hqAvail, mask: hqMask, stage } = hq;
    const { u16 } = eq;
    let used = hq.used;
    let bytes = 0;
    let n = 0;
    do {
      const head = avail[2 + ((next + n) & mask)]!;
      const buffer = hqAvail[2 + ((hqNext + n) & hqMask)]!;
      if (head > mask || buffer > hqMask) break;
      const w = head << 2;
      const v = buffer << 2;
      const from = desc[w + 2]!;
      const len = (from + grow) | 0;
      const kinds = (desc[w + 3]! & SINGLE_KIND) | ((hqDesc[v + 3]! & SINGLE_KIND) ^ DESC_F_WRITE);
      if (kinds !== 0 || from <= 0 || len < least || len > longest || hqDesc[v + 2]! < len) break;
      const off = eq.locate(desc[w]!, desc[w + 1]!, from);
      if (off < 0 || (off & 1) !== 0) break;
      if (plain) ch.put(len, eq.busLow(off), eq.busHigh(off), hqDesc[v]!, hqDesc[v + 1]!);
      else this.putApart(off, from, eq.busLow(off), eq.busHigh(off), hqDesc[v]!, hqDesc[v + 1]!);
      if (stamp) u16[(off + NET_HDR_NUM_BUFFERS) >> 1] = 1;
      const e = (used & hqMask) << 1;
      stage[e] = buffer;
      stage[e + 1] = len;
      used = (used + 1) & 0xffff;
      bytes = (bytes + len) | 0;
      n++;
    } while (n < frames && bytes < left);
    if (n === 0) return;
    eq.next = (next + n) & 0xffff;
    hq.next = (hqNext + n) & 0xffff;
    hq.used = used;
    this.begun += n;
    this.burstBytes += bytes;
    this.moreFrames += n;
  }

  /** One frame the long way. @returns 1 begun (or dropped), 0 nothing can go now, or a negative code */
  protected chain(): number {
    const { eq, hq, ch, src, dst } = this;
    // A list that has no room for one as the last can wait for it: else all of this is for nothing, turn after turn.
    if (ch.room() < this.lastRoom) return 0;
    const head = eq.peek(0);
    src.clear();
    let rc = eq.segments(head, src);
    if (rc < 0) return this.fault("eq.tx", rc, src.a, src.b);
    const total = src.total + this.grow;
    const least = this.hdrLen + ETH_MIN;
    if (total < least) return this.fault("eq.tx", R_FRAME_SHORT, total, least);
    if (total > this.longest && this.uncut(src)) {
      this.dropped++;
      this.take();
      return 1;
    }
    const ready = hq.available();
    const limit = this.mergeable ? MAX_BUFFERS : 1;
    dst.clear();
    rc = hq.gather(total, ready < limit ? ready : limit, dst);
    const k = hq.gathered;
    if (k > 0 && hq.firstLen < this.hdrLen) return this.fault("hq.rx", R_BUFFER_SMALL, hq.firstLen, this.hdrLen);
    // More pieces than are handled would never go, and block what is behind them.
    let never = src.count + dst.count >= MAX_SEGMENTS;
    if (rc === R_CHAIN_TOO_LONG && k > 0) never = true;
    else if (rc < 0) return this.fault("hq.rx", rc, dst.a, dst.b);
    if (never || dst.total < total) {
      if (never || k === limit || k === hq.size) {
        this.dropped++;
        this.take();
        return 1;
      }
      this.starved++;
      return 0;
    }
    this.lastRoom = src.count + dst.count + 2 + HostRing.PUBLISH_ELEMENTS + 1;
    if (ch.room() < this.lastRoom) return 0;
    this.long = src.count + dst.count > 2;
    this.header(src, k);
    ch.putPieces(src.rows, dst.rows, total);
    hq.useFilled(dst.total - total);
    this.take();
    this.burstBytes += total;
    this.moreFrames++;
    return 1;
  }

  /** The frame has a gso_type of NONE: nobody will cut it to the mtu. */
  private uncut(src: Segments): boolean {
    return (this.eq.bytes[localOffset(src, NET_HDR_GSO_TYPE)]! & ~NET_HDR_GSO_ECN) === NET_HDR_GSO_NONE;
  }

  /** The board's next chain belongs to this burst. */
  private take(): void {
    this.eq.consume(1);
    this.begun++;
  }

  /** Header and data of a frame of one descriptor on each side, as an element each. `off`: where it is in the board's memory */
  private putApart(off: number, len: number, lo: number, hi: number, toLo: number, toHi: number): void {
    const { ch, headers, hdrLen, eqHdrLen } = this;
    headers.copy(this.eq.bytes, off, eqHdrLen, hdrLen, 1);
    ch.put(hdrLen, headers.lo, headers.hi, toLo, toHi);
    const src = (lo + eqHdrLen) | 0;
    const dst = (toLo + hdrLen) | 0;
    ch.put(
      len - eqHdrLen,
      src,
      src >>> 0 < lo >>> 0 ? (hi + 1) | 0 : hi,
      dst,
      dst >>> 0 < toLo >>> 0 ? (toHi + 1) | 0 : toHi,
    );
  }

  /**
   * num_buffers is the device's to set (5.1.6.4.1) and is what makes the header differ: patch it in the board's own
   * buffer where allowed, else send the header from a slot of ours as an element of its own.
   */
  private header(src: Segments, buffers: number): void {
    const { hdrLen, eqHdrLen, headers } = this;
    if (hdrLen < 12 && this.grow === 0) return;
    const u8 = this.eq.bytes;
    if (this.patch) {
      const off = src.off(0);
      if (src.len(0) >= hdrLen && (off & 1) === 0) {
        this.eq.u16[(off + NET_HDR_NUM_BUFFERS) >> 1] = buffers;
        return;
      }
      u8[localOffset(src, NET_HDR_NUM_BUFFERS)] = buffers & 0xff;
      u8[localOffset(src, NET_HDR_NUM_BUFFERS + 1)] = buffers >>> 8;
      return;
    }
    headers.gather(u8, src, eqHdrLen, hdrLen, buffers);
    cutOut(src, 0, eqHdrLen);
    prepend(src, headers.lo, headers.hi, hdrLen);
  }

  protected fault(culprit: string, code: number, a: number, b: number): number {
    this.culprit = culprit;
    this.a = a;
    this.b = b;
    return code;
  }
}
