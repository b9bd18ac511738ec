/**
 * Frames of the board for the host: EQ.tx chains paired with HQ.rx buffers on a write channel. Behind the data of a
 * burst go its used elements, the used index and the interrupt, on the same channel, so that posted-write order makes
 * them visible in this order. The board's chains are given back when the list has passed the burst.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory } from "../hw/dma-memory.ts";
import { DESC_F_WRITE, NET_HDR_NUM_BUFFERS } from "../hw/virtio.layout.ts";
import { ODD } from "./board-buffers.ts";
import type { BoardRing } from "./board-ring.ts";
import { SINGLE_KIND } from "./chain.ts";
import { HostRing } from "./host-ring.ts";
import type { Interrupts } from "./interrupts.ts";
import { BURSTS, PairToHost, SINGLE_ROOM } from "./pair-to-host.ts";
import type { DirectionLimits } from "./tuning.ts";

/** bursts in flight */
const RECORDS = 1024;
// one of them: list position behind which all of it landed, frames and bytes in it
const REC_WORDS = 4;
const REC_FRAMES = 1;
const REC_BYTES = 2;
/** bytes of frames that are announced together at the most, 75 us of a link of 28 Gb/s, and no more than half of what may be under way */
const OWED_BYTES = 256 * 1024;
/** elements of others in front of which used elements are not announced at once */
const LINE = 6;

export class ToHost extends PairToHost {
  /** set by finish() and abandon(): the board's driver wants to be told about used chains */
  notify = false;

  private readonly irq: Interrupts;
  /** beside those of one frame in one element */
  private moreBursts = 0;
  private moreElements = 0;
  private vector = 0xffff;
  /** bursts in flight, oldest first */
  private readonly rec = new Int32Array(RECORDS * REC_WORDS);
  private recHead = 0;
  private recTail = 0;
  private readonly coalesce: number;
  /** bytes of the frames that are put and not announced, and how many may be */
  private owedBytes = 0;
  private readonly owedMost: number;

  constructor(
    eq: BoardRing,
    hq: HostRing,
    ch: DmaChannel,
    irq: Interrupts,
    memory: DmaMemory,
    limits: DirectionLimits,
    coalesce = 1,
  ) {
    super(eq, hq, ch, memory, limits);
    this.irq = irq;
    this.coalesce = coalesce;
    this.owedMost = Math.min(OWED_BYTES, limits.inflightBytes >> 1);
  }

  /**
   * @param hdrLen virtio-net header of the host
   * @param eqHdrLen header of the board's frames; where it differs, the header goes as an element of its own
   * @param mergeable a frame may take several receive buffers (MRG_RXBUF accepted by the host)
   * @param mtu what the host's driver was told, frames above it that no offload cuts are dropped (5.1.4.1); 0: nothing
   * @param patch the board's header may be overwritten in place, so that a frame can be one element
   */
  attach(hdrLen: number, mergeable: boolean, patch: boolean, vector: number, eqHdrLen = hdrLen, mtu = 0): void {
    this.attachPairing(hdrLen, mergeable, patch, eqHdrLen, mtu);
    this.vector = vector;
    this.recHead = this.recTail = 0;
    this.owedBytes = 0;
  }

  get bursts(): number {
    return this.moreBursts + this.lone;
  }

  get elements(): number {
    return this.moreElements + this.lone;
  }

  /** Begin what can be begun. @returns frames begun, or a negative code with culprit, a, b */
  begin(): number {
    const queued = this.eq.available();
    if (queued === 0) return 0;
    const most = queued < this.most ? queued : this.most;
    return most === 1 && this.one() !== 0 ? 1 : this.many(most);
  }

  private many(most: number): number {
    const { eq, ch } = this;
    if (most < 0) return this.fault("eq.tx", most, eq.a, eq.b);
    if (this.records() >= RECORDS - 1) return 0;
    const before = ch.putCount;
    this.begun = 0;
    this.burstBytes = 0;
    let rc = 1;
    ch.spread?.();
    while (rc > 0) {
      if (!this.long) this.singles(most);
      // A burst is given back as a whole: several must fit, or the list runs dry while one is waited for.
      if (this.begun >= most || this.inflight + this.burstBytes >= this.inflightMost) break;
      if (this.burstBytes * BURSTS >= this.inflightMost) break;
      rc = this.chain();
    }
    if (this.begun > 0) this.close(before, this.begun, this.burstBytes);
    else ch.commit();
    return rc < 0 ? rc : this.begun;
  }

  /**
   * A burst of one frame in one element, start to end: what most turns see while traffic is light. The same as singles()
   * and close(), which take twice the time for it. @returns 0: nothing begun, and the long way tells why
   */
  private one(): number {
    const { eq, hq, ch, rec, recTail } = this;
    const { next: hqNext, used } = hq;
    if (!this.plain || this.long || hq.ready === hqNext || this.inflight >= this.inflightMost) return 0;
    if (((recTail - this.recHead) | 0) >= RECORDS - 1 || ch.room() < SINGLE_ROOM + 1) return 0;
    const w = eq.avail[2 + (eq.next & eq.mask)]! << 2;
    const v = hq.avail[2 + (hqNext & hq.mask)]! << 2;
    if (w >> 2 > eq.mask || v >> 2 > hq.mask) return 0;
    const { desc } = eq;
    const { desc: hqDesc, stage } = hq;
    const len = desc[w + 2]!;
    if ((desc[w + 3]! & SINGLE_KIND) !== 0 || (hqDesc[v + 3]! & SINGLE_KIND) !== DESC_F_WRITE) return 0;
    if (len < this.least || len > this.longest || hqDesc[v + 2]! < len) return 0;
    const off = eq.locate(desc[w]!, desc[w + 1]!, len);
    if ((off & ODD) !== 0) return 0;
    const before = ch.putCount;
    const owed = (this.owedBytes + len) | 0;
    const staged = (used + 1 - hq.published) & 0xffff;
    if (this.stamp) eq.u16[(off + NET_HDR_NUM_BUFFERS) >> 1] = 1;
    eq.next = (eq.next + 1) & 0xffff;
    hq.next = (hqNext + 1) & 0xffff;
    // as hq.pushUsed()
    const e = (used & hq.mask) << 1;
    stage[e] = v >> 2;
    stage[e + 1] = len;
    hq.used = (used + 1) & 0xffff;
    ch.spread?.();
    if (((before - ch.doneCount) | 0) <= LINE) {
      ch.put(len, eq.busLow(off), eq.busHigh(off), hqDesc[v]!, hqDesc[v + 1]!);
      this.moreFrames++;
      this.announce();
      ch.commit();
      this.moreElements += (ch.putCount - before) | 0;
      this.remember(1, len);
      return 1;
    }
    this.owedBytes = owed;
    const r = (recTail & (RECORDS - 1)) * REC_WORDS;
    rec[r] = (before + 1) | 0;
    rec[r + REC_FRAMES] = 1;
    rec[r + REC_BYTES] = len;
    this.recTail = (recTail + 1) | 0;
    this.inflight += len;
    this.lone++;
    // Last, since nothing read before is known any more behind its barrier.
    ch.send(len, eq.busLow(off), eq.busHigh(off), hqDesc[v]!, hqDesc[v + 1]!);
    // The line is long: what comes behind this frame now is in time.
    if (staged >= this.coalesce || owed >= this.owedMost) this.announceAll();
    return 1;
  }

  /** The burst whose first element is `before` is complete: announce it or let it wait, start the channel, remember it. */
  protected close(before: number, frames: number, bytes: number): void {
    const { hq, ch } = this;
    if (ch.putCount !== before) {
      // Behind much else the announcement can wait for more of its kind: it would stand in line anyway.
      this.owedBytes += bytes;
      if (((before - ch.doneCount) | 0) <= LINE || hq.staged >= this.coalesce || this.owedBytes >= this.owedMost)
        this.announce();
      ch.commit();
      this.moreElements += (ch.putCount - before) | 0;
    }
    this.remember(frames, bytes);
  }

  /** A burst ends with what was put last. */
  private remember(frames: number, bytes: number): void {
    const { ch, rec } = this;
    const r = (this.recTail & (RECORDS - 1)) * REC_WORDS;
    rec[r] = ch.putCount;
    rec[r + REC_FRAMES] = frames;
    rec[r + REC_BYTES] = bytes;
    this.recTail = (this.recTail + 1) | 0;
    this.inflight += bytes;
    this.moreBursts++;
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
    if (ch.room() >= HostRing.PUBLISH_ELEMENTS + 1) this.announceAll();
  }

  /** Announce all that waits, and start the channel; there is room. */
  private announceAll(): void {
    const { ch } = this;
    const before = ch.putCount;
    this.announce();
    ch.commit();
    this.moreElements += (ch.putCount - before) | 0;
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
    this.landed += bytes;
    eq.giveBack(frames);
    this.notify = eq.publish();
    return frames;
  }

  /** The host went away with bursts in flight: give their chains back undelivered. @returns frames lost */
  abandon(): number {
    const lost = this.eq.taken;
    this.eq.giveBack(lost);
    this.recHead = this.recTail;
    this.landed += this.inflight;
    this.inflight = this.owedBytes = 0;
    this.notify = lost > 0 && this.eq.publish();
    return lost;
  }

  /** The board's driver started over: its chains are void. What is on its way to the host goes on. */
  disown(): void {
    this.recHead = this.recTail;
    this.landed += this.inflight;
    this.inflight = this.owedBytes = 0;
    this.notify = false;
  }

  get outstanding(): number {
    return this.records() + (this.hq.staged === 0 ? 0 : 1);
  }
}
