/**
 * Pairing for frames of the host (to-board.ts): what HQ.tx has with buffers of EQ.rx, as elements of a read channel and a
 * record of each frame under way.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import { DESC_F_WRITE, NET_HDR_NUM_BUFFERS } from "../hw/virtio.layout.ts";
import { ODD } from "./board-buffers.ts";
import type { BoardRing } from "./board-ring.ts";
import { SINGLE_KIND } from "./chain.ts";
import { R_BUFFER_SMALL, R_CHAIN_TOO_LONG, R_FRAME_SHORT } from "./codes.ts";
import type { HostRing } from "./host-ring.ts";
import { cutOut, localOffset, MAX_SEGMENTS, Segments } from "./segments.ts";
import type { DirectionLimits } from "./tuning.ts";

/** frames in flight */
export const RECORDS = 1024;
// one of them: list position behind it, what it fills, bytes
export const REC_WORDS = 4;
export const REC_FILLS = 1;
export const REC_BYTES = 2;
// what a frame fills: one buffer, whose num_buffers is this word of BoardRing.u16, or
/** one buffer whose header has no num_buffers */
export const BARE = -1;
/** none, it is dropped */
export const DROPPED = -2;
// DROPPED - n: n buffers, staged in the used ring; where num_buffers is, is in `stamps`
const MAX_BUFFERS = 128;
const ETH_MIN = 14;
/** elements under way that one more does not hold up */
export const FEW = 6;

export class PairToBoard {
  /** frames that no receive buffer of the board can take */
  dropped = 0;
  /** turns in which frames waited for the board's receive buffers */
  starved = 0;
  a = 0;
  b = 0;
  culprit = "";

  protected readonly eq: BoardRing;
  protected readonly hq: HostRing;
  protected readonly rd: DmaChannel;
  /** frames of one burst, bytes in flight after which no more is begun */
  protected readonly burst: number;
  protected readonly inflightMost: number;
  private readonly src = new Segments();
  private readonly dst = new Segments();
  private hdrLen = 12;
  /** header that the board's driver expects, and how much longer it is than the host's */
  private eqHdrLen = 12;
  protected grow = 0;
  /** shortest frame as the host sends it, its header included */
  private least = 0;
  /** BARE where the board's header has no num_buffers, else 0 */
  private bare = 0;
  private mergeable = false;

  /** frames in flight, oldest first */
  protected readonly rec = new Int32Array(RECORDS * REC_WORDS);
  protected first = 0;
  protected last = 0;
  /** of frames that are not in one piece, two words a record: where the two bytes of num_buffers are (-1: nowhere) */
  protected readonly stamps = new Int32Array(RECORDS * 2);
  protected inflight = 0;
  // Counted where it costs least, see frames and bytes.
  /** bursts of one frame in one element; frames, bursts and elements beside them */
  private lone = 0;
  private moreFrames = 0;
  protected moreBursts = 0;
  protected moreElements = 0;
  /** bytes of frames that landed, their headers included; bytes and frames of earlier lives */
  protected landed = 0;
  private bytesBefore = 0;
  private framesBefore = 0;
  // the burst that is being put together, and the board's receive buffers that are left for it
  protected begun = 0;
  protected ready = 0;
  /** the last frame was not of one descriptor on each side, so the next one probably is not either */
  protected long = false;
  /** room that it took in the list */
  private lastRoom = 0;

  constructor(eq: BoardRing, hq: HostRing, rd: DmaChannel, limits: DirectionLimits) {
    this.eq = eq;
    this.hq = hq;
    this.rd = rd;
    this.burst = limits.burst;
    this.inflightMost = limits.inflightBytes;
  }

  /** frames begun */
  get frames(): number {
    return this.moreFrames + this.lone;
  }

  /** bytes of them without their headers */
  get bytes(): number {
    const headers = (this.frames - this.framesBefore) * this.eqHdrLen;
    return this.bytesBefore + this.landed + this.inflight - headers;
  }

  get bursts(): number {
    return this.moreBursts + this.lone;
  }

  get elements(): number {
    return this.moreElements + this.lone;
  }

  protected attachPairing(hdrLen: number, mergeable: boolean, eqHdrLen: number): void {
    this.bytesBefore = this.bytes;
    this.framesBefore = this.frames;
    this.landed = 0;
    this.hdrLen = hdrLen;
    this.eqHdrLen = eqHdrLen;
    this.grow = eqHdrLen - hdrLen;
    this.least = hdrLen + ETH_MIN;
    this.bare = eqHdrLen >= 12 ? 0 : BARE;
    this.mergeable = mergeable;
    this.first = this.last = 0;
    this.inflight = 0;
  }

  /** A new life of the board's driver. @param mergeable it negotiated MRG_RXBUF */
  attachBoard(mergeable: boolean): void {
    this.mergeable = mergeable;
  }

  /**
   * Frames of one descriptor on each side, as nearly every frame of a usual MTU is, until `most` are begun or one is
   * not so; what is unusual or wrong goes the long way. As in pair-to-host.ts, rings are read here.
   */
  protected singles(most: number): void {
    const { eq, hq, rd, grow, rec, least } = this;
    const stamped = this.eqHdrLen >= 12;
    const elements = grow === 0 ? 1 : 2;
    let frames = most - this.begun;
    if (this.ready < frames) frames = this.ready;
    const room = ((rd.room() - 1) / elements) | 0;
    if (room < frames) frames = room;
    let last = this.last;
    const records = (RECORDS - 1 - (last - this.first)) | 0;
    if (records < frames) frames = records;
    const left = this.inflightMost - this.inflight;
    if (frames <= 0 || left <= 0) return;
    const { desc, avail, mask, next } = eq;
    const { desc: hqDesc, avail: hqAvail, mask: hqMask, next: hqNext, stage } = hq;
    let end = rd.putCount;
    let bytes = 0;
    let n = 0;
    do {
      const slot = (hqNext + n) & hqMask;
      const head = hqAvail[2 + slot]!;
      const buffer = avail[2 + ((next + n) & mask)]!;
      if (head > hqMask || buffer > mask) break;
      const v = head << 2;
      const w = buffer << 2;
      const from = hqDesc[v + 2]!;
      const room = desc[w + 2]!;
      const len = (from + grow) | 0;
      const kinds = (hqDesc[v + 3]! & SINGLE_KIND) | ((desc[w + 3]! & SINGLE_KIND) ^ DESC_F_WRITE);
      if (kinds !== 0 || from < least || room < len) break;
      const off = eq.locate(desc[w]!, desc[w + 1]!, room);
      if (off < 0 || (off & 1) !== 0) break;
      if (grow === 0) rd.put(len, hqDesc[v]!, hqDesc[v + 1]!, eq.busLow(off), eq.busHigh(off));
      else this.putApart(from, hqDesc[v]!, hqDesc[v + 1]!, eq.busLow(off), eq.busHigh(off));
      // as hq.stageUnused()
      stage[slot << 1] = head;
      end = (end + elements) | 0;
      const r = (last & (RECORDS - 1)) * REC_WORDS;
      rec[r] = end;
      rec[r + REC_FILLS] = stamped ? (off + NET_HDR_NUM_BUFFERS) >> 1 : BARE;
      rec[r + REC_BYTES] = len;
      last = (last + 1) | 0;
      bytes = (bytes + len) | 0;
      n++;
    } while (n < frames && bytes < left);
    if (n === 0) return;
    hq.next = (hqNext + n) & 0xffff;
    eq.next = (next + n) & 0xffff;
    this.ready -= n;
    this.last = last;
    this.inflight += bytes;
    this.begun += n;
    this.moreFrames += n;
  }

  /** A burst of one frame in one element, start to end, as in to-host.ts. @returns 0: nothing begun, take the long way */
  protected one(): number {
    const { eq, hq, rd, rec, last } = this;
    if (this.grow !== 0 || this.long || this.inflight >= this.inflightMost) return 0;
    if (((last - this.first) | 0) >= RECORDS - 1 || rd.room() < 2 || eq.available() <= 0) return 0;
    const { next } = hq;
    const slot = next & hq.mask;
    const v = hq.avail[2 + slot]! << 2;
    const w = eq.avail[2 + (eq.next & eq.mask)]! << 2;
    if (v >> 2 > hq.mask || w >> 2 > eq.mask) return 0;
    const { desc } = eq;
    const { desc: hqDesc } = hq;
    const len = hqDesc[v + 2]!;
    const room = desc[w + 2]!;
    if ((hqDesc[v + 3]! & SINGLE_KIND) !== 0 || (desc[w + 3]! & SINGLE_KIND) !== DESC_F_WRITE) return 0;
    if (len < this.least || room < len) return 0;
    const off = eq.locate(desc[w]!, desc[w + 1]!, room);
    if ((off & ODD) !== 0) return 0;
    const end = (rd.putCount + 1) | 0;
    const few = ((end - rd.doneCount) | 0) <= FEW;
    const r = (last & (RECORDS - 1)) * REC_WORDS;
    rec[r] = end;
    rec[r + REC_FILLS] = ((off + NET_HDR_NUM_BUFFERS) >> 1) | this.bare;
    rec[r + REC_BYTES] = len;
    this.last = (last + 1) | 0;
    // as hq.stageUnused()
    hq.stage[slot << 1] = v >> 2;
    hq.next = (next + 1) & 0xffff;
    eq.next = (eq.next + 1) & 0xffff;
    this.inflight += len;
    this.lone++;
    // Last, since nothing read before is known any more behind its barrier.
    rd.send(len, hqDesc[v]!, hqDesc[v + 1]!, eq.busLow(off), eq.busHigh(off));
    if (few) hq.tail();
    return 1;
  }

  /** One frame the long way. @returns 1 begun (or dropped), 0 nothing can go now, or a negative code */
  protected chain(): number {
    const { eq, hq, rd, src, dst, grow } = this;
    // As in pair-to-host.ts.
    if (rd.room() < this.lastRoom) return 0;
    const head = hq.peek(0);
    src.clear();
    let rc = hq.segments(head, src);
    if (rc < 0) return this.fault("hq.tx", rc, src.a, src.b);
    const total = src.total + grow;
    const least = this.hdrLen + ETH_MIN;
    if (src.total < least) return this.fault("hq.tx", R_FRAME_SHORT, src.total, least);
    const limit = this.mergeable ? MAX_BUFFERS : 1;
    let k = 0;
    for (;;) {
      dst.clear();
      rc = eq.gather(total, this.ready < limit ? this.ready : limit, dst);
      k = eq.gathered;
      if (rc < 0 || dst.total >= total || k < this.ready || k === limit) break;
      // Perhaps the board's driver has added buffers since we looked.
      const fresh = eq.look();
      if (fresh < 0) return this.fault("eq.rx", fresh, eq.a, eq.b);
      if (fresh <= this.ready) break;
      this.ready = fresh;
    }
    if (k > 0 && eq.firstLen < this.eqHdrLen) return this.fault("eq.rx", R_BUFFER_SMALL, eq.firstLen, this.eqHdrLen);
    let never = src.count + dst.count + 1 >= MAX_SEGMENTS;
    if (rc === R_CHAIN_TOO_LONG && k > 0) never = true;
    else if (rc < 0) return this.fault("eq.rx", rc, dst.a, dst.b);
    if (never || dst.total < total) {
      if (never || k === limit || k === eq.size) {
        // Larger than can ever be taken: a record without data, so that completions stay in order.
        if (this.full()) return 0;
        this.dropped++;
        hq.stageUnused(0, head);
        hq.consume(1);
        this.record(DROPPED, 0);
        this.begun++;
        return 1;
      }
      this.starved++;
      return 0;
    }
    this.lastRoom = src.count + dst.count + 2;
    if (rd.room() < this.lastRoom || this.full()) return 0;
    const stamped = this.eqHdrLen >= 12;
    const patch = stamped ? localOffset(dst, NET_HDR_NUM_BUFFERS) : -1;
    const patch1 = stamped ? localOffset(dst, NET_HDR_NUM_BUFFERS + 1) : 0;
    const simple = k === 1 && patch1 === patch + 1 && (patch < 0 || (patch & 1) === 0);
    this.long = src.count + dst.count > 2;
    const free = dst.total - total;
    if (grow < 0) cutOut(src, this.eqHdrLen, -grow);
    else if (grow > 0) cutOut(dst, this.hdrLen, grow);
    rd.putPieces(src.rows, dst.rows, grow > 0 ? total - grow : total);
    if (simple) eq.consume(k);
    else {
      const { stamps } = this;
      const s = (this.last & (RECORDS - 1)) << 1;
      stamps[s] = patch;
      stamps[s + 1] = patch1;
      eq.stageFilled(free);
    }
    hq.stageUnused(0, head);
    hq.consume(1);
    this.ready -= k;
    // -1 >> 1 is BARE
    this.record(simple ? patch >> 1 : DROPPED - k, total);
    this.begun++;
    this.moreFrames++;
    return 1;
  }

  private full(): boolean {
    return ((this.last - this.first) | 0) >= RECORDS - 1;
  }

  /** Header and data of a frame of one descriptor on each side, where header lengths differ. */
  private putApart(len: number, fromLo: number, fromHi: number, lo: number, hi: number): void {
    const { rd, hdrLen, eqHdrLen } = this;
    rd.put(hdrLen < eqHdrLen ? hdrLen : eqHdrLen, fromLo, fromHi, lo, hi);
    const src = (fromLo + hdrLen) | 0;
    const dst = (lo + eqHdrLen) | 0;
    rd.put(
      len - hdrLen,
      src,
      src >>> 0 < fromLo >>> 0 ? (fromHi + 1) | 0 : fromHi,
      dst,
      dst >>> 0 < lo >>> 0 ? (hi + 1) | 0 : hi,
    );
  }

  private record(fills: number, bytes: number): void {
    const { rec } = this;
    const r = (this.last & (RECORDS - 1)) * REC_WORDS;
    rec[r] = this.rd.putCount;
    rec[r + REC_FILLS] = fills;
    rec[r + REC_BYTES] = bytes;
    this.last = (this.last + 1) | 0;
    this.inflight += bytes;
  }

  protected fault(culprit: string, code: number, a: number, b: number): number {
    this.culprit = culprit;
    this.a = a;
    this.b = b;
    return code;
  }
}
