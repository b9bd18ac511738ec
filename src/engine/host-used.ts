/**
 * The device's side of one of the host's virtqueues: staging of used elements, which travel to the host as elements of
 * a write channel behind the data they announce, and the decision about interrupts. The driver's side is host-mirror.ts.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY } from "../hw/virtio.layout.ts";
import { busHi, busLo } from "./bus.ts";

/** What the ring needs of the capture (engine/function): addresses as int32 words. */
export interface RingAddresses {
  readonly size: number;
  readonly descLo: number;
  readonly descHi: number;
  readonly availLo: number;
  readonly availHi: number;
  readonly usedLo: number;
  readonly usedHi: number;
}

/** used-index words in flight; more than any channel has elements, so a slot is free again when its turn comes */
const IDX_SLOTS = 8192;

const NO_FLAGS = -1;

// Confirmation of a "no interrupt", see confirmLater().
const NONE = 0;
/** the index is on its way */
const SENT = 1;
/** it landed, a look at the driver's words is due */
export const CONFIRM_DUE = 2;
/** that look is under way */
const LOOKING = 3;
/** and its answer is here */
const ANSWERED = 4;

export class HostUsed {
  readonly name: string;
  size = 0;
  mask = 0;
  /** free-running u16: used elements staged */
  used = 0;
  /** u16: used index last put on the way to the host */
  published = 0;
  /** the driver's flags and used_event as of the last look */
  protected flags = 0;
  protected event = 0;
  protected eventIdx = false;
  /** an entry of this ring has been seen, or was in an earlier life of ours: it is where the driver says it is */
  protected known = false;
  /** flags that wait for that */
  private owedFlags = NO_FLAGS;
  /** see confirmLater() */
  confirm = NONE;

  private confirmMark = 0;
  private confirmIdx = 0;
  private confirmAgain = false;
  private lookSerial = 0;
  private signalled = 0;
  /** used elements as they travel: id, len */
  readonly stage: Int32Array;
  private readonly idx: Uint16Array;
  private readonly stageLo: number;
  private readonly stageHi: number;
  private readonly idxOff: number;
  private idxSlot = 0;
  private usedLo = 0;
  private usedHi = 0;

  constructor(name: string, memory: DmaMemory, maxSize: number) {
    this.name = name;
    this.idxOff = maxSize * 8;
    const mem: DmaRegion = memory.alloc(`used.${name}`, this.idxOff + IDX_SLOTS * 2, 64);
    this.stage = mem.i32.subarray(0, this.idxOff >> 2);
    this.idx = mem.u16.subarray(this.idxOff >> 1, (this.idxOff >> 1) + IDX_SLOTS);
    this.stageLo = busLo(mem.bus);
    this.stageHi = busHi(mem.bus);
  }

  protected attachUsed(q: RingAddresses, eventIdx: boolean): void {
    this.size = q.size;
    this.mask = q.size - 1;
    this.usedLo = q.usedLo;
    this.usedHi = q.usedHi;
    this.eventIdx = eventIdx;
    this.used = this.published = this.signalled = 0;
    this.flags = this.event = 0;
    this.known = false;
    this.owedFlags = NO_FLAGS;
    this.confirm = NONE;
    this.confirmAgain = false;
    // Lengths, since HostRing.stageUnused() writes heads only; the last head is of use to a ring that goes on, see resume().
    for (let w = 1; w < this.stage.length; w += 2) this.stage[w] = 0;
  }

  /** After attach(): the driver goes on behind `idx`, all of which it has been given back. */
  protected resumeUsed(idx: number): void {
    this.used = this.published = this.signalled = idx;
    this.known = idx !== 0;
  }

  /** Stage one used element; it is not on its way before publish(). */
  pushUsed(head: number, len: number): void {
    const w = (this.used & this.mask) << 1;
    this.stage[w] = head;
    this.stage[w + 1] = len;
    this.used = (this.used + 1) & 0xffff;
  }

  /** used elements that are not on their way yet */
  get staged(): number {
    return (this.used - this.published) & 0xffff;
  }

  /** The head used last; only valid once something was used in this life. */
  protected lastUsed(): number {
    return this.stage[((this.used - 1) & this.mask) << 1]!;
  }

  /** elements that publish() puts at the most, without the interrupt */
  static readonly PUBLISH_ELEMENTS = 3;

  /**
   * Put the staged used elements and then the index behind the data on the write channel (2.7.8.2: elements before
   * index). The caller commits.
   */
  publish(ch: DmaChannel): void {
    const count = (this.used - this.published) & 0xffff;
    if (count === 0) return;
    const slot = this.published & this.mask;
    const first = count < this.size - slot ? count : this.size - slot;
    this.putToHost(ch, first * 8, slot * 8, 4 + slot * 8);
    if (first < count) this.putToHost(ch, (count - first) * 8, 0, 4);
    this.putWord(ch, this.used, 2);
    this.published = this.used;
  }

  /**
   * The used ring's flags as they should be from now on (2.7.10: NO_NOTIFY is a hint). Not with EVENT_IDX: they are 0 and
   * must be. Nothing is written before an entry has shown that this memory is a ring; until then it is as the driver
   * zeroed it, which asks for notifications (flags 0, avail_event 0).
   */
  private wishFlags(ch: DmaChannel, flags: number): void {
    if (this.known) this.putWord(ch, flags, 0);
    else this.owedFlags = flags === 0 ? NO_FLAGS : flags;
  }

  /** Put what was held back, now that the ring is known. @returns whether the caller must commit */
  putOwedFlags(ch: DmaChannel): boolean {
    if (this.owedFlags === NO_FLAGS || !this.known || ch.room() < 2) return false;
    this.putWord(ch, this.owedFlags, 0);
    this.owedFlags = NO_FLAGS;
    return true;
  }

  /**
   * Ask the driver to notify of the entries behind `idx`, or of none (2.7.10). A hint. With EVENT_IDX it is heard once, so
   * nothing needs to be taken back. The caller commits.
   */
  putNotifyWish(ch: DmaChannel, wanted: boolean, idx: number): void {
    if (!this.eventIdx) this.wishFlags(ch, wanted ? 0 : USED_F_NO_NOTIFY);
    else if (wanted && this.known) this.putWord(ch, idx, 4 + 8 * this.size);
  }

  private putWord(ch: DmaChannel, word: number, hostOff: number): void {
    const k = this.idxSlot;
    this.idxSlot = (k + 1) & (IDX_SLOTS - 1);
    this.idx[k] = word;
    this.putToHost(ch, 2, this.idxOff + k * 2, hostOff);
  }

  private putToHost(ch: DmaChannel, bytes: number, off: number, hostOff: number): void {
    const src = (this.stageLo + off) | 0;
    const dst = (this.usedLo + hostOff) | 0;
    ch.put(
      bytes,
      src,
      src >>> 0 < this.stageLo >>> 0 ? (this.stageHi + 1) | 0 : this.stageHi,
      dst,
      dst >>> 0 < this.usedLo >>> 0 ? (this.usedHi + 1) | 0 : this.usedHi,
    );
  }

  /**
   * 2.7.7.2: is an interrupt due for what was published since the last one, by our copy of flags or used_event? The
   * copy may be old. "Yes" is always safe (a spurious interrupt); "no" must be confirmed by a copy that was fetched
   * after the index landed: the driver re-checks the ring after it enabled interrupts, so either it sees our index or
   * we see its flag.
   */
  wantsInterrupt(): boolean {
    if (this.eventIdx)
      return ((this.published - this.event - 1) & 0xffff) < ((this.published - this.signalled) & 0xffff);
    return (this.flags & AVAIL_F_NO_INTERRUPT) === 0;
  }

  /** An interrupt is on its way for everything published so far. */
  interruptSent(): void {
    this.signalled = this.published;
    this.confirm = NONE;
    this.confirmAgain = false;
  }

  /** Nothing was sent for the last publish(): confirm with a fresh copy once element `mark` has landed. */
  confirmLater(mark: number): void {
    if (this.confirm === NONE) {
      this.confirm = SENT;
      this.confirmMark = mark;
      this.confirmIdx = this.published;
    } else this.confirmAgain = true;
  }

  /** A look at the driver's words begins. @returns a serial number when it is the one that confirms, else 0 */
  protected lookBegins(): number {
    if (this.confirm !== CONFIRM_DUE) return 0;
    this.confirm = LOOKING;
    this.lookSerial = (this.lookSerial & 0xffff) + 1;
    return this.lookSerial;
  }

  /** The look's answer is in flags and event. An older look than the one that confirms may have begun too early. */
  protected lookEnds(serial: number): void {
    if (serial !== 0 && serial === this.lookSerial && this.confirm === LOOKING) this.confirm = ANSWERED;
  }

  /** The looks under way are lost. */
  protected lookLost(): void {
    if (this.confirm === LOOKING) this.confirm = CONFIRM_DUE;
  }

  /** Drive the confirmation. @returns true when an interrupt must be sent now (then call interruptSent()) */
  interruptDue(ch: DmaChannel): boolean {
    if (this.confirm === NONE) return false;
    if (this.confirm === SENT && ((ch.doneCount - this.confirmMark) | 0) >= 0) this.confirm = CONFIRM_DUE;
    if (this.confirm !== ANSWERED) return false;
    this.confirm = NONE;
    const due = this.wantsInterrupt();
    // A confirmed "no" settles everything up to there. Without this the distance since the last interrupt could
    // reach 65536, and used_event just behind an old `signalled` would look as if it had been passed already.
    if (!due) this.signalled = this.confirmIdx;
    if (this.confirmAgain) {
      this.confirmAgain = false;
      if (!due) this.confirmLater(ch.putCount);
    }
    return due;
  }
}
