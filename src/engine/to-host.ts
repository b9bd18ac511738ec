/**
 * Frames of the board for the host: EQ.tx chains paired with HQ.rx buffers on a write channel. Behind the data of a
 * burst go its used elements, the used index and the interrupt, on the same channel, so that posted-write order makes
 * them visible in this order. The board's chains are given back when the list has passed the burst.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { NET_HDR_NUM_BUFFERS } from "../hw/virtio.layout.ts";
import type { BoardRing } from "./board-ring.ts";
import { R_BUFFER_SMALL, R_CHAIN_TOO_LONG, R_FRAME_SHORT } from "./codes.ts";
import { HostRing } from "./host-ring.ts";
import type { Interrupts } from "./interrupts.ts";
import { dropFront, emit, localOffset, MAX_SEGMENTS, Segments } from "./segments.ts";

const HDR_SLOTS = 4096;
const HDR_SLOT = 32;
const RECORDS = 4096;
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
  private readonly hdr: DmaRegion;
  private readonly hdrLo: number;
  private readonly hdrHi: number;
  private readonly src = new Segments();
  private readonly dst = new Segments();
  private readonly lens = new Int32Array(MAX_BUFFERS);
  private hdrSlot = 0;
  // the burst that is being put together
  private begun = 0;
  private burstBytes = 0;
  private hdrLen = 12;
  /** header of the board's frames, and how much longer the host's is */
  private eqHdrLen = 12;
  private grow = 0;
  private mergeable = true;
  private patch = false;
  private vector = 0xffff;

  // Bursts in flight, oldest first: list position behind which all of it landed, frames and bytes in it.
  private readonly recEnd = new Int32Array(RECORDS);
  private readonly recFrames = new Int32Array(RECORDS);
  private readonly recBytes = new Int32Array(RECORDS);
  private recHead = 0;
  private recTail = 0;
  private readonly eqHeads = new Uint16Array(65536);
  private eqHead = 0;
  private eqTail = 0;
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
    this.lazyTurns = lazyTurns;
    this.coalesce = coalesce;
    this.hdr = memory.alloc("tx-headers", HDR_SLOTS * HDR_SLOT, 64);
    this.hdrLo = this.hdr.bus | 0;
    this.hdrHi = Math.floor(this.hdr.bus / 4294967296);
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
    this.vector = vector;
    this.recHead = this.recTail = 0;
    this.eqHead = this.eqTail = 0;
    this.inflight = this.owedBytes = 0;
  }

  /** Begin what can be begun. @returns frames begun, or a negative code with culprit, a, b */
  begin(): number {
    const { eq, ch } = this;
    const queued = eq.available();
    if (queued <= 0) return queued === 0 ? 0 : this.fault("eq.tx", queued, eq.a, eq.b);
    const most = queued < this.limits.burst ? queued : this.limits.burst;
    const before = ch.putCount;
    this.begun = 0;
    this.burstBytes = 0;
    let rc = 1;
    while (rc > 0) {
      this.singles(most);
      // A burst is given back as a whole: several must fit, or the list runs dry while one is waited for.
      if (this.begun >= most || this.inflight + this.burstBytes >= this.limits.inflightBytes) break;
      if (this.burstBytes * BURSTS >= this.limits.inflightBytes) break;
      rc = this.chain();
    }
    if (this.begun > 0) this.endBurst(before);
    return rc < 0 ? rc : this.begun;
  }

  private endBurst(before: number): void {
    const { hq, ch } = this;
    if (ch.putCount !== before) {
      // Behind much else the announcement can wait for more of its kind: it would stand in line anyway.
      this.owedBytes += this.burstBytes;
      const enough = hq.staged >= this.coalesce || this.owedBytes >= OWED_BYTES;
      if (enough || ((before - ch.doneCount) | 0) <= LINE) this.announce();
      ch.commit();
      this.elements += (ch.putCount - before) | 0;
    }
    const r = this.recTail & (RECORDS - 1);
    this.recEnd[r] = ch.putCount;
    this.recFrames[r] = this.begun;
    this.recBytes[r] = this.burstBytes;
    this.recTail = (this.recTail + 1) | 0;
    this.inflight += this.burstBytes;
    this.bursts++;
  }

  /** Put used elements, index and interrupt; there is room, the caller commits. */
  private announce(): void {
    const { hq, ch } = this;
    this.owedBytes = 0;
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
   * not so; what is unusual or wrong goes the long way.
   */
  private singles(most: number): void {
    const { eq, hq, ch, grow } = this;
    const least = this.hdrLen + ETH_MIN;
    let frames = most - this.begun;
    const buffers = hq.available();
    if (buffers < frames) frames = buffers;
    const room = ((ch.room() - SINGLE_ROOM) / 2) | 0;
    if (room < frames) frames = room;
    if (this.records() >= RECORDS - 2) return;
    let left = this.limits.inflightBytes - this.inflight - this.burstBytes;
    const share = this.limits.inflightBytes / BURSTS - this.burstBytes;
    if (share < left) left = share;
    let bytes = 0;
    let tail = this.eqTail;
    let n = 0;
    while (n < frames && left > 0) {
      const head = eq.peek(n);
      const buffer = hq.peek(n);
      if (!eq.single(head) || !hq.single(buffer)) break;
      const len = eq.len + grow;
      if (len < least || hq.len < len) break;
      this.putSingle();
      hq.pushUsed(buffer, len);
      this.eqHeads[tail & 0xffff] = head;
      tail = (tail + 1) | 0;
      bytes += len;
      left -= len;
      n++;
    }
    if (n === 0) return;
    eq.consume(n);
    hq.consume(n);
    this.eqTail = tail;
    this.begun += n;
    this.burstBytes += bytes;
    this.frames += n;
    this.bytes += bytes - n * this.hdrLen;
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
    // Receive buffers until the frame fits.
    const ready = hq.available();
    dst.clear();
    let k = 0;
    while (dst.total < total && k < ready && (k === 0 || this.mergeable)) {
      const was = dst.total;
      const buffer = hq.peek(k);
      if (hq.single(buffer) && dst.count < MAX_SEGMENTS) dst.append(hq.lo, hq.hi, hq.len);
      else {
        rc = hq.segments(buffer, dst);
        if (rc < 0) break;
      }
      if (k === 0 && dst.total < this.hdrLen) return this.fault("hq.rx", R_BUFFER_SMALL, dst.total, this.hdrLen);
      lens[k] = dst.total - was;
      k++;
      if (k === MAX_BUFFERS) break;
    }
    // More pieces than are handled would never go, and block what is behind them.
    let never = src.count + dst.count >= MAX_SEGMENTS;
    if (rc === R_CHAIN_TOO_LONG && k > 0) never = true;
    else if (rc < 0) return this.fault("hq.rx", rc, dst.a, dst.b);
    if (never || dst.total < total) {
      if (never || (!this.mergeable && k === 1) || k === MAX_BUFFERS || k === hq.size) {
        this.dropped++;
        this.take(head);
        return 1;
      }
      this.starved++;
      return 0;
    }
    if (ch.room() < src.count + dst.count + 2 + HostRing.PUBLISH_ELEMENTS + 1) return 0;
    if (this.records() >= RECORDS - 2) return 0;
    this.header(src, k);
    emit(ch, src, dst, total);
    let left = total;
    for (let i = 0; i < k; i++) {
      const n = left < lens[i]! ? left : lens[i]!;
      hq.pushUsed(hq.peek(i), n);
      left -= n;
    }
    hq.consume(k);
    this.take(head);
    this.burstBytes += total;
    this.frames++;
    this.bytes += total - this.hdrLen;
    return 1;
  }

  /** The board's chain at `head` belongs to this burst. */
  private take(head: number): void {
    this.eq.consume(1);
    this.eqHeads[this.eqTail & 0xffff] = head;
    this.eqTail = (this.eqTail + 1) | 0;
    this.begun++;
  }

  /** Header and data of the frame that eq.single() and hq.single() found. */
  private putSingle(): void {
    const { eq, hq, ch, hdrLen, eqHdrLen } = this;
    const u8 = eq.bytes;
    const off = eq.off;
    if (this.grow === 0 && (hdrLen < 12 || this.patch)) {
      if (hdrLen >= 12) {
        u8[off + NET_HDR_NUM_BUFFERS] = 1;
        u8[off + NET_HDR_NUM_BUFFERS + 1] = 0;
      }
      ch.put(eq.len, eq.lo, eq.hi, hq.lo, hq.hi);
      return;
    }
    const slot = this.hdrSlot;
    this.hdrSlot = (slot + 1) & (HDR_SLOTS - 1);
    const at = slot * HDR_SLOT;
    const out = this.hdr.u8;
    // What a 24-byte header has behind the twelfth byte belongs to tunnel offloads, which nobody here uses: zero.
    for (let i = 0; i < hdrLen; i++) out[at + i] = i < eqHdrLen ? u8[off + i]! : 0;
    if (hdrLen >= 12) {
      out[at + NET_HDR_NUM_BUFFERS] = 1;
      out[at + NET_HDR_NUM_BUFFERS + 1] = 0;
    }
    const bus = (this.hdrLo + at) | 0;
    ch.put(hdrLen, bus, bus >>> 0 < this.hdrLo >>> 0 ? this.hdrHi + 1 : this.hdrHi, hq.lo, hq.hi);
    const src = (eq.lo + eqHdrLen) | 0;
    const dst = (hq.lo + hdrLen) | 0;
    ch.put(
      eq.len - eqHdrLen,
      src,
      src >>> 0 < eq.lo >>> 0 ? (eq.hi + 1) | 0 : eq.hi,
      dst,
      dst >>> 0 < hq.lo >>> 0 ? (hq.hi + 1) | 0 : hq.hi,
    );
  }

  /**
   * num_buffers is the device's to set (5.1.6.4.1) and is what makes the header differ: patch it in the board's own
   * buffer where allowed, else send the header from a slot of ours as an element of its own.
   */
  private header(src: Segments, buffers: number): void {
    if (this.hdrLen < 12 && this.grow === 0) return;
    const u8 = this.eq.bytes;
    if (this.patch) {
      const at = localOffset(src, NET_HDR_NUM_BUFFERS);
      const at1 = localOffset(src, NET_HDR_NUM_BUFFERS + 1);
      u8[at] = buffers & 0xff;
      u8[at1] = buffers >>> 8;
      return;
    }
    const slot = this.hdrSlot;
    this.hdrSlot = (slot + 1) & (HDR_SLOTS - 1);
    const off = slot * HDR_SLOT;
    const out = this.hdr.u8;
    let seg = 0;
    let skip = 0;
    for (let i = 0; i < this.hdrLen; i++) {
      if (i >= this.eqHdrLen) {
        out[off + i] = 0;
        continue;
      }
      while (i - skip >= src.len[seg]!) {
        skip += src.len[seg]!;
        seg++;
      }
      out[off + i] = u8[src.off[seg]! + i - skip]!;
    }
    if (this.hdrLen >= 12) {
      out[off + NET_HDR_NUM_BUFFERS] = buffers & 0xff;
      out[off + NET_HDR_NUM_BUFFERS + 1] = buffers >>> 8;
    }
    dropFront(src, this.eqHdrLen);
    const bus = (this.hdrLo + off) | 0;
    for (let i = src.count; i > 0; i--) {
      src.lo[i] = src.lo[i - 1]!;
      src.hi[i] = src.hi[i - 1]!;
      src.len[i] = src.len[i - 1]!;
      src.off[i] = src.off[i - 1]!;
    }
    src.lo[0] = bus;
    src.hi[0] = bus >>> 0 < this.hdrLo >>> 0 ? this.hdrHi + 1 : this.hdrHi;
    src.len[0] = this.hdrLen;
    src.count++;
    src.total += this.hdrLen;
  }

  private records(): number {
    return (this.recTail - this.recHead) | 0;
  }

  /** Give back the chains of all bursts that landed. @returns frames finished */
  finish(): number {
    this.notify = false;
    if (this.recHead === this.recTail) return 0;
    const done = this.ch.doneCount;
    if (((done - this.recEnd[this.recHead & (RECORDS - 1)]!) | 0) < 0) return 0;
    // While the board has more under way it can wait a little, and its driver is told about many chains at once.
    if (
      this.lazy < this.lazyTurns &&
      this.inflight * 2 < this.limits.inflightBytes &&
      ((this.eqTail - this.eqHead) | 0) < LAZY_CHAINS
    ) {
      const newest = this.recEnd[(this.recTail - 1) & (RECORDS - 1)]!;
      if (((done - newest) | 0) < 0) {
        this.lazy++;
        return 0;
      }
    }
    this.lazy = 0;
    let frames = 0;
    do {
      const r = this.recHead & (RECORDS - 1);
      if (((done - this.recEnd[r]!) | 0) < 0) break;
      const n = this.recFrames[r]!;
      for (let i = 0; i < n; i++) {
        this.eq.pushUsed(this.eqHeads[this.eqHead & 0xffff]!, 0);
        this.eqHead = (this.eqHead + 1) | 0;
      }
      this.inflight -= this.recBytes[r]!;
      this.recHead = (this.recHead + 1) | 0;
      frames += n;
    } while (this.recHead !== this.recTail);
    if (frames > 0) this.notify = this.eq.publish();
    return frames;
  }

  /** The host went away with bursts in flight: give their chains back undelivered. @returns frames lost */
  abandon(): number {
    let lost = 0;
    while (this.eqHead !== this.eqTail) {
      this.eq.pushUsed(this.eqHeads[this.eqHead & 0xffff]!, 0);
      this.eqHead = (this.eqHead + 1) | 0;
      lost++;
    }
    this.recHead = this.recTail;
    this.inflight = this.owedBytes = 0;
    this.notify = lost > 0 && this.eq.publish();
    return lost;
  }

  /** The board's driver started over: its chains are void. What is on its way to the host goes on. */
  disown(): void {
    this.eqHead = this.eqTail;
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
