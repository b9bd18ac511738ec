/**
 * Frames of the board for the host: EQ.tx chains paired with HQ.rx buffers on a write channel. Behind the data of a
 * burst go its used elements, the used index and the interrupt, on the same channel, so that posted-write order makes
 * them visible in this order. The board's chains are given back when the list has passed the burst.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory } from "../hw/dma-memory.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, NET_HDR_NUM_BUFFERS } from "../hw/virtio.layout.ts";
import type { BoardRing } from "./board-ring.ts";
import { R_BUFFER_SMALL, R_CHAIN_TOO_LONG, R_FRAME_SHORT } from "./codes.ts";
import { HeaderSlots } from "./header-slots.ts";
import { HostRing } from "./host-ring.ts";
import type { Interrupts } from "./interrupts.ts";
import { dropFront, emit, localOffset, MAX_SEGMENTS, prepend, Segments } from "./segments.ts";

/** bursts in flight */
const RECORDS = 1024;
// one of them: list position behind which all of it landed, frames and bytes in it
const REC_WORDS = 4;
const REC_FRAMES = 1;
const REC_BYTES = 2;
/** receive buffers of one frame at the most: 64 KiB in buffers of 512 bytes */
const MAX_BUFFERS = 128;
/** bytes of frames that are announced together at the most */
const OWED_BYTES = 96 * 1024;
/** bursts that the limit of bytes under way is divided in */
const BURSTS = 4;
/** elements of others in front of which used elements are not announced at once */
const LINE = 6;
/** chains under way from which on the board's driver gets them back as soon as they are done */
const LAZY_CHAINS = 32;
/** Ethernet header */
const ETH_MIN = 14;
/** elements of a frame in one piece, with what ends its burst */
const SINGLE_ROOM = 2 + HostRing.PUBLISH_ELEMENTS + 1;

/** flags that tell what kind a descriptor is */
export const SINGLE_KIND = DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT;

export interface DirectionLimits {
  /** frames of one burst */
  burst: number;
  /** bytes in flight after which no more is begun: what the host may see written after it reset us */
  inflightBytes: number;
}

export class ToHost {
  frames = 0;
  bytes = 0;
  /** frames that no receive buffer of the host can take */
  dropped = 0;
  /** turns in which frames waited for the host's receive buffers */
  starved = 0;
  bursts = 0;
  elements = 0;
  a = 0;
  b = 0;
  /** set by finish() and abandon(): the board's driver wants to be told about used chains */
  notify = false;
  /** which ring the last negative code is about: "eq.tx" or "hq.rx" */
  culprit = "";

  private readonly eq: BoardRing;
  private readonly hq: HostRing;
  private readonly ch: DmaChannel;
  private readonly irq: Interrupts;
  private readonly limits: DirectionLimits;
  /** bytes of one burst at the most */
  private readonly share: number;
  private readonly headers: HeaderSlots;
  private readonly src = new Segments();
  private readonly dst = new Segments();
  private readonly lens = new Int32Array(MAX_BUFFERS);
  // the burst that is being put together
  private begun = 0;
  /** the last frame was not of one descriptor on each side, so the next one probably is not either */
  private long = false;
  private burstBytes = 0;
  private hdrLen = 12;
  /** header of the board's frames, and how much longer the host's is */
  private eqHdrLen = 12;
  private grow = 0;
  private mergeable = true;
  private patch = false;
  /** a frame of one descriptor is one element; its num_buffers is patched in place */
  private plain = false;
  private stamp = false;
  /** shortest frame, its header included */
  private least = 0;
  private vector = 0xffff;

  /** bursts in flight, oldest first */
  private readonly rec = new Int32Array(RECORDS * REC_WORDS);
  private recHead = 0;
  private recTail = 0;
  private inflight = 0;
  private readonly lazyTurns: number;
  private readonly coalesce: number;
  /** bytes of the frames that are put and not announced */
  private owedBytes = 0;
  private lazy = 0;

  constructor(
    eq: BoardRing,
    hq: HostRing,
    ch: DmaChannel,
    irq: Interrupts,
    memory: DmaMemory,
    limits: DirectionLimits,
    lazyTurns = 0,
    coalesce = 1,
  ) {
    this.eq = eq;
    this.hq = hq;
    this.ch = ch;
    this.irq = irq;
    this.limits = limits;
    this.share = (limits.inflightBytes / BURSTS) | 0;
    this.lazyTurns = lazyTurns;
    this.coalesce = coalesce;
    this.headers = new HeaderSlots(memory);
  }

  /**
   * @param hdrLen virtio-net header of the host
   * @param eqHdrLen header of the board's frames; where it differs, the header goes as an element of its own
   * @param mergeable a frame may take several receive buffers (MRG_RXBUF accepted by the host)
   * @param patch the board's header may be overwritten in place, so that a frame can be one element
   */
  attach(hdrLen: number, mergeable: boolean, patch: boolean, vector: number, eqHdrLen = hdrLen): void {
    this.hdrLen = hdrLen;
    this.eqHdrLen = eqHdrLen;
    this.grow = hdrLen - eqHdrLen;
    this.mergeable = mergeable;
    this.patch = patch && this.grow === 0;
    this.plain = this.grow === 0 && (hdrLen < 12 || this.patch);
    this.stamp = this.plain && hdrLen >= 12;
    this.least = hdrLen + ETH_MIN;
    this.vector = vector;
    this.recHead = this.recTail = 0;
    this.inflight = this.owedBytes = 0;
  }

  /** Begin what can be begun. @returns frames begun, or a negative code with culprit, a, b */
  begin(): number {
    const { eq, ch } = this;
    const queued = eq.available();
    if (queued <= 0) return queued === 0 ? 0 : this.fault("eq.tx", queued, eq.a, eq.b);
    if (this.records() >= RECORDS - 1) return 0;
    const most = queued < this.limits.burst ? queued : this.limits.burst;
    if (most === 1 && this.plain && !this.long && this.one()) return 1;
    const before = ch.putCount;
    this.begun = 0;
    this.burstBytes = 0;
    let rc = 1;
    ch.spread?.();
    while (rc > 0) {
      if (!this.long) this.singles(most);
      // A burst is given back as a whole: several must fit, or the list runs dry while one is waited for.
      if (this.begun >= most || this.inflight + this.burstBytes >= this.limits.inflightBytes) break;
      if (this.burstBytes * BURSTS >= this.limits.inflightBytes) break;
      rc = this.chain();
    }
    if (this.begun > 0) this.close(before, this.begun, this.burstBytes);
    else ch.commit();
    return rc < 0 ? rc : this.begun;
  }

  /** The burst whose first element is `before` is complete: announce it or let it wait, start the channel, remember it. */
  private close(before: number, frames: number, bytes: number): void {
    const { hq, ch, rec } = this;
    if (ch.putCount !== before) {
      // Behind much else the announcement can wait for more of its kind: it would stand in line anyway.
      this.owedBytes += bytes;
      if (((before - ch.doneCount) | 0) <= LINE || hq.staged >= this.coalesce || this.owedBytes >= OWED_BYTES)
        this.announce();
      ch.commit();
      this.elements += (ch.putCount - before) | 0;
    }
    const r = (this.recTail & (RECORDS - 1)) * REC_WORDS;
    rec[r] = ch.putCount;
    rec[r + REC_FRAMES] = frames;
    rec[r + REC_BYTES] = bytes;
    this.recTail = (this.recTail + 1) | 0;
    this.inflight += bytes;
    this.bursts++;
  }

  /** Put used elements, index and interrupt; there is room, the caller commits. */
  private announce(): void {
    const { hq, ch } = this;
    this.owedBytes = 0;
    ch.gather?.();
    hq.publish(ch);
    if (hq.wantsInterrupt()) {
      this.irq.raise(ch, this.vector);
      hq.interruptSent();
    } else hq.confirmLater(ch.putCount);
  }

  /** Once a turn: announce what has waited, when the line has become short. */
  flush(): void {
    const { hq, ch } = this;
    if (hq.staged === 0 || ((ch.putCount - ch.doneCount) | 0) > LINE) return;
    if (ch.room() < HostRing.PUBLISH_ELEMENTS + 1) return;
    const before = ch.putCount;
    this.announce();
    ch.commit();
    this.elements += (ch.putCount - before) | 0;
  }

  /**
   * Frames of one descriptor on each side, as nearly every frame of a usual MTU is, until `most` are begun or one is
   * not so; what is unusual or wrong goes the long way. Rings are read here and not through BoardRing.single(): calls
   * and results passed through fields cost as much as the rest of a frame.
   */
  private singles(most: number): void {
    const { eq, hq, ch, least, plain, stamp, grow } = this;
    let frames = most - this.begun;
    const hqNext = hq.next;
    const buffers = (hq.ready - hqNext) & 0xffff;
    if (buffers < frames) frames = buffers;
    const room = (ch.room() - SINGLE_ROOM) >> 1;
    if (room < frames) frames = room;
    let left = this.limits.inflightBytes - this.inflight - this.burstBytes;
    const share = this.share - this.burstBytes;
    if (share < left) left = share;
    if (frames <= 0 || left <= 0) return;
    const { desc, avail, mask, next } = eq;
    const { desc: hqDesc, avail: hqAvail, mask: hqMask, stage } = hq;
    const u8 = eq.bytes;
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
      if (kinds !== 0 || from <= 0 || len < least || hqDesc[v + 2]! < len) break;
      const off = eq.locate(desc[w]!, desc[w + 1]!, from);
      if (off < 0) break;
      if (plain) ch.put(len, eq.busLow(off), eq.busHigh(off), hqDesc[v]!, hqDesc[v + 1]!);
      else this.putApart(off, from, eq.busLow(off), eq.busHigh(off), hqDesc[v]!, hqDesc[v + 1]!);
      if (stamp) {
        u8[off + NET_HDR_NUM_BUFFERS] = 1;
        u8[off + NET_HDR_NUM_BUFFERS + 1] = 0;
      }
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
    this.frames += n;
    this.bytes += bytes - n * this.hdrLen;
  }

  /**
   * A burst of one frame in one element, start to end: what most turns see while traffic is light. The same as singles()
   * and close(), which take twice the time for it. @returns false when nothing was begun, and the long way tells why
   */
  private one(): boolean {
    const { eq, hq, ch } = this;
    const hqNext = hq.next;
    if (hq.ready === hqNext || this.inflight >= this.limits.inflightBytes) return false;
    const head = eq.avail[2 + (eq.next & eq.mask)]!;
    const buffer = hq.avail[2 + (hqNext & hq.mask)]!;
    if (head > eq.mask || buffer > hq.mask) return false;
    const w = head << 2;
    const v = buffer << 2;
    const { desc } = eq;
    const { desc: hqDesc } = hq;
    const len = desc[w + 2]!;
    const kinds = (desc[w + 3]! & SINGLE_KIND) | ((hqDesc[v + 3]! & SINGLE_KIND) ^ DESC_F_WRITE);
    if (kinds !== 0 || len < this.least || hqDesc[v + 2]! < len || ch.room() < SINGLE_ROOM + 1) return false;
    const off = eq.locate(desc[w]!, desc[w + 1]!, len);
    if (off < 0) return false;
    ch.spread?.();
    const before = ch.putCount;
    ch.put(len, eq.busLow(off), eq.busHigh(off), hqDesc[v]!, hqDesc[v + 1]!);
    if (this.stamp) {
      const u8 = eq.bytes;
      u8[off + NET_HDR_NUM_BUFFERS] = 1;
      u8[off + NET_HDR_NUM_BUFFERS + 1] = 0;
    }
    eq.next = (eq.next + 1) & 0xffff;
    hq.next = (hqNext + 1) & 0xffff;
    hq.pushUsed(buffer, len);
    this.frames++;
    this.bytes += len - this.hdrLen;
    this.close(before, 1, len);
    return true;
  }

  /** One frame the long way. @returns 1 begun (or dropped), 0 nothing can go now, or a negative code */
  private chain(): number {
    const { eq, hq, ch, src, dst, lens } = this;
    const head = eq.peek(0);
    src.clear();
    let rc = eq.segments(head, src);
    if (rc < 0) return this.fault("eq.tx", rc, src.a, src.b);
    const total = src.total + this.grow;
    const least = this.hdrLen + ETH_MIN;
    if (total < least) return this.fault("eq.tx", R_FRAME_SHORT, total, least);
    const ready = hq.available();
    const limit = this.mergeable ? MAX_BUFFERS : 1;
    dst.clear();
    rc = hq.gather(total, ready < limit ? ready : limit, dst, lens);
    const k = hq.gathered;
    if (k > 0 && lens[0]! < this.hdrLen) return this.fault("hq.rx", R_BUFFER_SMALL, lens[0]!, this.hdrLen);
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
    if (ch.room() < src.count + dst.count + 2 + HostRing.PUBLISH_ELEMENTS + 1) return 0;
    this.long = src.count + dst.count > 2;
    this.header(src, k);
    emit(ch, src, dst, total);
    hq.useFilled(k, lens, total);
    this.take();
    this.burstBytes += total;
    this.frames++;
    this.bytes += total - this.hdrLen;
    return 1;
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
      u8[localOffset(src, NET_HDR_NUM_BUFFERS)] = buffers & 0xff;
      u8[localOffset(src, NET_HDR_NUM_BUFFERS + 1)] = buffers >>> 8;
      return;
    }
    headers.gather(u8, src, eqHdrLen, hdrLen, buffers);
    dropFront(src, eqHdrLen);
    prepend(src, headers.lo, headers.hi, hdrLen);
  }

  private records(): number {
    return (this.recTail - this.recHead) | 0;
  }

  /** Give back the chains of all bursts that landed. @returns frames finished */
  finish(): number {
    this.notify = false;
    if (this.recHead === this.recTail) return 0;
    const { rec, eq, recTail } = this;
    const done = this.ch.doneCount;
    if (((done - rec[(this.recHead & (RECORDS - 1)) * REC_WORDS]!) | 0) < 0) return 0;
    // While the board has more under way it can wait a little, and its driver is told about many chains at once.
    if (
      this.lazy < this.lazyTurns &&
      this.inflight * 2 < this.limits.inflightBytes &&
      eq.taken < LAZY_CHAINS &&
      ((done - rec[((recTail - 1) & (RECORDS - 1)) * REC_WORDS]!) | 0) < 0
    ) {
      this.lazy++;
      return 0;
    }
    this.lazy = 0;
    let frames = 0;
    let bytes = 0;
    let k = this.recHead;
    do {
      const r = (k & (RECORDS - 1)) * REC_WORDS;
      if (((done - rec[r]!) | 0) < 0) break;
      frames += rec[r + REC_FRAMES]!;
      bytes += rec[r + REC_BYTES]!;
      k = (k + 1) | 0;
    } while (k !== recTail);
    this.recHead = k;
    this.inflight -= bytes;
    eq.giveBack(frames);
    this.notify = eq.publish();
    return frames;
  }

  /** The host went away with bursts in flight: give their chains back undelivered. @returns frames lost */
  abandon(): number {
    const lost = this.eq.taken;
    this.eq.giveBack(lost);
    this.recHead = this.recTail;
    this.inflight = this.owedBytes = 0;
    this.notify = lost > 0 && this.eq.publish();
    return lost;
  }

  /** The board's driver started over: its chains are void. What is on its way to the host goes on. */
  disown(): void {
    this.recHead = this.recTail;
    this.inflight = this.owedBytes = 0;
    this.notify = false;
  }

  get outstanding(): number {
    return this.records() + (this.hq.staged === 0 ? 0 : 1);
  }

  private fault(culprit: string, code: number, a: number, b: number): number {
    this.culprit = culprit;
    this.a = a;
    this.b = b;
    return code;
  }
}
