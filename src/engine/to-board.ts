/**
 * Frames of the host for the board: HQ.tx chains paired with EQ.rx buffers on a read channel. When the data has landed
 * in the board's memory, num_buffers is patched there, the board's used ring is marked, and the host's used elements,
 * index and interrupt follow on the write channel.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { BoardRing } from "./board-ring.ts";
import { HostRing } from "./host-ring.ts";
import type { Interrupts } from "./interrupts.ts";
import { BARE, DROPPED, FEW, PairToBoard, REC_BYTES, REC_FILLS, REC_WORDS, RECORDS } from "./pair-to-board.ts";
import type { DirectionLimits } from "./tuning.ts";

/** bytes of frames whose chains the host gets back together at the most */
const OWED_BYTES = 192 * 1024;

export class ToBoard extends PairToBoard {
  /** set by finish(): the board's driver wants to be told about used buffers */
  notify = false;

  private readonly wr: DmaChannel;
  private readonly irq: Interrupts;
  private readonly coalesce: number;
  private vector = 0xffff;
  /** bytes of the frames whose chains the host has not got back */
  private owedBytes = 0;

  constructor(
    eq: BoardRing,
    hq: HostRing,
    rd: DmaChannel,
    wr: DmaChannel,
    irq: Interrupts,
    limits: DirectionLimits,
    coalesce = 1,
  ) {
    super(eq, hq, rd, limits);
    this.wr = wr;
    this.irq = irq;
    this.coalesce = coalesce;
  }

  /** @param mergeable a frame may take several of the board's buffers (the board's driver negotiated MRG_RXBUF) */
  attach(hdrLen: number, mergeable: boolean, vector: number, eqHdrLen = hdrLen): void {
    this.attachPairing(hdrLen, mergeable, eqHdrLen);
    this.vector = vector;
    this.owedBytes = 0;
  }

  /** Begin what can be begun. @returns frames begun, or a negative code with culprit, a, b */
  begin(): number {
    const queued = this.hq.available();
    if (queued === 0) return 0;
    const most = queued < this.burst ? queued : this.burst;
    return most === 1 && this.one() !== 0 ? 1 : this.many(most);
  }

  private many(most: number): number {
    const { eq, hq, rd } = this;
    this.ready = eq.available();
    if (this.ready < 0) return this.fault("eq.rx", this.ready, eq.a, eq.b);
    const before = rd.putCount;
    this.begun = 0;
    let rc = 1;
    while (rc > 0) {
      if (!this.long) this.singles(most);
      if (this.begun >= most || this.inflight >= this.inflightMost) break;
      rc = this.chain();
    }
    if (rd.putCount !== before) {
      rd.commit();
      this.moreElements += (rd.putCount - before) | 0;
      if (((rd.putCount - rd.doneCount) | 0) <= FEW) hq.tail();
    }
    if (this.begun > 0) this.moreBursts++;
    return rc < 0 ? rc : this.begun;
  }

  /**
   * Finish frames whose data landed, for the board: its driver is waiting. The caller tells it, and then the host's side is due,
   * see giveBack(). @returns frames finished
   */
  finish(): number {
    this.notify = false;
    if (this.first === this.last) return 0;
    const done = this.rd.doneCount;
    const { eq, rec, last } = this;
    if (this.wr.room() < HostRing.PUBLISH_ELEMENTS + 2) return 0;
    const { u16, avail, usedElem, mask } = eq;
    let used = eq.used;
    let first = this.first;
    let bytes = 0;
    while (first !== last) {
      const r = (first & (RECORDS - 1)) * REC_WORDS;
      if (((done - rec[r]!) | 0) < 0) break;
      const fills = rec[r + REC_FILLS]!;
      const len = rec[r + REC_BYTES]!;
      if (fills >= BARE) {
        // 5.1.6.4.1: the device sets num_buffers; the sender's header has 0 there.
        if (fills !== BARE) u16[fills] = 1;
        const slot = used & mask;
        usedElem[slot << 1] = avail[2 + slot]!;
        usedElem[(slot << 1) + 1] = len;
        used = (used + 1) & 0xffff;
      } else if (fills !== DROPPED) {
        this.stamp(first, DROPPED - fills);
        used = (used + DROPPED - fills) & 0xffff;
      }
      bytes += len;
      first = (first + 1) | 0;
    }
    const frames = (first - this.first) | 0;
    if (frames === 0) return 0;
    this.first = first;
    eq.used = used;
    this.hq.giveBack(frames);
    this.inflight -= bytes;
    this.landed += bytes;
    this.owedBytes += bytes;
    this.notify = eq.publish();
    return frames;
  }

  /** Behind finish() that finished some: the host's chains go back. It only gets buffers: while more is under way it can wait for some more. */
  giveBack(): void {
    const { hq, wr } = this;
    if (this.first !== this.last && hq.staged < this.coalesce && this.owedBytes < OWED_BYTES) return;
    this.owedBytes = 0;
    hq.publish(wr);
    if (hq.wantsInterrupt()) {
      this.irq.raise(wr, this.vector);
      hq.interruptSent();
    } else hq.confirmLater(wr.putCount);
    wr.commit();
  }

  /** A frame that is not in one piece has landed, that of record `k`, in `buffers` buffers. */
  private stamp(k: number, buffers: number): void {
    const { eq, stamps } = this;
    const s = (k & (RECORDS - 1)) << 1;
    const low = stamps[s]!;
    if (low < 0) return;
    eq.bytes[low] = buffers & 0xff;
    eq.bytes[stamps[s + 1]!] = buffers >>> 8;
  }

  /** The host went away with frames in flight: the board's buffers they would have filled are free again. @returns frames lost */
  abandon(): number {
    const lost = (this.last - this.first) | 0;
    this.eq.rewind(this.eq.taken);
    this.first = this.last;
    this.landed += this.inflight;
    this.inflight = 0;
    this.owedBytes = 0;
    this.notify = false;
    return lost;
  }

  /**
   * The board's driver started over (the channel is at rest): its buffers are void, the host's chains go back
   * undelivered with the next finish(). @returns frames lost
   */
  disown(): number {
    for (let i = this.first; i !== this.last; i = (i + 1) | 0) {
      this.rec[(i & (RECORDS - 1)) * REC_WORDS + REC_FILLS] = DROPPED;
    }
    this.notify = false;
    return this.outstanding;
  }

  get outstanding(): number {
    return (this.last - this.first) | 0;
  }
}
