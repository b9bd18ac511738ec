/**
 * Frames of the board for the host: EQ.tx chains paired with HQ.rx buffers on a write channel. Behind the data of a
 * burst go its used elements, the used index and the interrupt, on the same channel, so that posted-write order makes
 * them visible in this order. The board's chains are given back when the list has passed the burst.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory } from "../hw/dma-memory.ts";
import type { BoardRing } from "./board-ring.ts";
import { HostRing } from "./host-ring.ts";
import type { Interrupts } from "./interrupts.ts";
import { BURSTS, PairToHost } from "./pair-to-host.ts";
import type { DirectionLimits } from "./tuning.ts";

/** bursts in flight */
const RECORDS = 1024;
// one of them: list position behind which all of it landed, frames and bytes in it
const REC_WORDS = 4;
const REC_FRAMES = 1;
const REC_BYTES = 2;
/** bytes of frames that are announced together at the most */
const OWED_BYTES = 96 * 1024;
/** elements of others in front of which used elements are not announced at once */
const LINE = 6;

export class ToHost extends PairToHost {
  bursts = 0;
  elements = 0;
  /** set by finish() and abandon(): the board's driver wants to be told about used chains */
  notify = false;

  private readonly irq: Interrupts;
  private vector = 0xffff;
  /** bursts in flight, oldest first */
  private readonly rec = new Int32Array(RECORDS * REC_WORDS);
  private recHead = 0;
  private recTail = 0;
  private readonly coalesce: number;
  /** bytes of the frames that are put and not announced */
  private owedBytes = 0;

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
  protected close(before: number, frames: number, bytes: number): void {
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
}
