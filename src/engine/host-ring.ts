/**
 * One of the host's virtqueues (HQ) as its device: a local mirror of the driver's area (avail ring, descriptors,
 * indirect tables) that is filled by a Fetcher, and the staging area from which used elements and the used index
 * travel to the host as elements of a write channel, behind the data they announce.
 *
 * VIRTIO 1.2 2.7.13.3: an entry may be read only after the avail index that covers it, a descriptor only after its
 * entry. Each of these is therefore a fetch of its own; step() is the state machine that chains them.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { ld16 } from "../hw/mem.ts";
import { AVAIL_F_NO_INTERRUPT, availBytes, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../hw/virtio.layout.ts";
import { INDIRECT, walk, walkIndirect } from "./chain.ts";
import { OK, R_AVAIL_JUMP, R_DESC_INDEX, R_DESC_LOOP, R_INDIRECT, R_INDIRECT_NOT_NEGOTIATED } from "./codes.ts";
import type { Fetcher } from "./fetch.ts";
import type { Segments } from "./segments.ts";

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

/** descriptors of an indirect table that are mirrored; Linux uses at most 2 + MAX_SKB_FRAGS */
export const INDIRECT_MAX = 64;
/** descriptors fetched from a link's target on: 128 bytes, one small read request */
const AHEAD = 8;
/** used-index words in flight; more than any channel has elements, so a slot is free again when its turn comes */
const IDX_SLOTS = 8192;

const IDLE = 0;
const INDEX = 1;
const ENTRIES = 2;
const DESCS = 3;
const TABLES = 4;

export class HostRing {
  readonly name: string;
  /** DESC_F_WRITE for the receive queue, 0 for the transmit queue */
  readonly write: number;
  size = 0;
  mask = 0;
  /** free-running u16: next entry to consume; entries [next, ready) are complete in the mirror */
  next = 0;
  ready = 0;
  /** free-running u16: used elements staged */
  used = 0;
  /** u16: used index last put on the way to the host */
  published = 0;
  /** numbers for codes.describe() */
  a = 0;
  b = 0;
  /** the chain that single() found: address as int32 words, bytes */
  lo = 0;
  hi = 0;
  len = 0;
  /** fetches begun and fetches that found nothing new (counters) */
  fetches = 0;
  emptyFetches = 0;

  // Interrupt suppression, see wantsInterrupt().
  private irqState = 0;
  private irqMark = 0;
  private irqIdx = 0;
  private irqAgain = false;
  private signalled = 0;

  private readonly fetcher: Fetcher;
  private readonly mem: DmaRegion;
  private readonly maxSize: number;
  private readonly avail: Uint16Array;
  private readonly desc: Int32Array;
  private readonly table: Int32Array;
  private readonly stage: Int32Array;
  private readonly idx: Uint16Array;
  private readonly descOff: number;
  private readonly tableOff: number;
  private readonly stageOff: number;
  private readonly idxOff: number;
  private readonly stamp: Int32Array;
  private round = 0;
  private idxSlot = 0;

  private state = IDLE;
  private mark = 0;
  private seen = 0;
  private target = 0;
  private irqFetch = false;
  private eventIdx = false;
  private indirect = false;
  private descLo = 0;
  private descHi = 0;
  private availLo = 0;
  private availHi = 0;
  private usedLo = 0;
  private usedHi = 0;
  private runLo = -1;
  private runHi = -1;

  /** @param maxSize largest queue size that attach() will be given; memory is taken once, here */
  constructor(name: string, write: number, memory: DmaMemory, fetcher: Fetcher, maxSize: number) {
    this.name = name;
    this.write = write;
    this.fetcher = fetcher;
    this.maxSize = maxSize;
    const availSpan = (availBytes(maxSize) + 63) & ~63;
    this.descOff = availSpan;
    this.tableOff = this.descOff + maxSize * 16;
    this.stageOff = this.tableOff + maxSize * INDIRECT_MAX * 16;
    this.idxOff = this.stageOff + maxSize * 8;
    this.mem = memory.alloc(`mirror.${name}`, this.idxOff + IDX_SLOTS * 2, 4096);
    this.avail = this.mem.u16.subarray(0, availSpan >> 1);
    this.desc = this.mem.i32.subarray(this.descOff >> 2, this.tableOff >> 2);
    this.table = this.mem.i32.subarray(this.tableOff >> 2, this.stageOff >> 2);
    this.stage = this.mem.i32.subarray(this.stageOff >> 2, this.idxOff >> 2);
    this.idx = this.mem.u16.subarray(this.idxOff >> 1, (this.idxOff >> 1) + IDX_SLOTS);
    this.stamp = new Int32Array(maxSize);
  }

  /** Begin a new life with the addresses that the host gave. Called with no DMA outstanding. */
  attach(q: RingAddresses, eventIdx: boolean, indirect: boolean): void {
    if (q.size > this.maxSize) throw new RangeError(`${this.name}: queue size ${q.size}, room for ${this.maxSize}`);
    this.size = q.size;
    this.mask = q.size - 1;
    this.descLo = q.descLo;
    this.descHi = q.descHi;
    this.availLo = q.availLo;
    this.availHi = q.availHi;
    this.usedLo = q.usedLo;
    this.usedHi = q.usedHi;
    this.eventIdx = eventIdx;
    this.indirect = indirect;
    this.next = this.ready = this.used = this.published = this.signalled = 0;
    this.seen = this.target = 0;
    this.state = IDLE;
    this.irqState = 0;
    this.irqFetch = this.irqAgain = false;
    this.avail.fill(0);
  }

  /** entries that can be consumed */
  available(): number {
    return (this.ready - this.next) & 0xffff;
  }

  /**
   * One step of the fetch machine. `wanted`: begin a new round when idle (an interrupt decision that waits begins one
   * in any case). @returns 0 or a negative code with a, b
   */
  step(wanted: boolean): number {
    switch (this.state) {
      case IDLE:
        return wanted || this.irqState === 2 ? this.fetchIndex() : OK;
      case INDEX:
        return this.fetcher.landed(this.mark) ? this.onIndex() : OK;
      case ENTRIES:
        return this.fetcher.landed(this.mark) ? this.onEntries() : OK;
      case DESCS:
        return this.fetcher.landed(this.mark) ? this.closeChains() : OK;
      default:
        if (this.fetcher.landed(this.mark)) this.finish();
        return OK;
    }
  }

  private fetchIndex(): number {
    if (this.fetcher.room() < 4) return OK;
    this.fetches++;
    this.irqFetch = this.irqState === 2;
    this.fetcher.put(4, this.availLo, this.availHi, this.mem, 0);
    if (this.eventIdx) this.fetchAt(2, this.availLo, this.availHi, 4 + 2 * this.size, 4 + 2 * this.size);
    this.mark = this.fetcher.commit();
    this.state = INDEX;
    return this.fetcher.landed(this.mark) ? this.onIndex() : OK;
  }

  private onIndex(): number {
    this.state = IDLE;
    const idx = ld16(this.mem.ptr + 2);
    if (this.irqFetch) {
      this.irqFetch = false;
      this.irqState = 3;
    }
    const ahead = (idx - this.used) & 0xffff;
    if (ahead > this.size) return this.bad(R_AVAIL_JUMP, ahead, this.size);
    const fresh = (idx - this.seen) & 0xffff;
    if (fresh === 0) {
      this.emptyFetches++;
      return OK;
    }
    if (fresh > this.size) return this.bad(R_AVAIL_JUMP, ahead, this.size);
    if (this.fetcher.room() < 3) return OK;
    const slot = this.seen & this.mask;
    const first = fresh < this.size - slot ? fresh : this.size - slot;
    this.fetchAt(2 * first, this.availLo, this.availHi, 4 + 2 * slot, 4 + 2 * slot);
    if (first < fresh) this.fetchAt(2 * (fresh - first), this.availLo, this.availHi, 4, 4);
    this.target = idx;
    this.mark = this.fetcher.commit();
    this.state = ENTRIES;
    return this.fetcher.landed(this.mark) ? this.onEntries() : OK;
  }

  private onEntries(): number {
    const fresh = (this.target - this.seen) & 0xffff;
    this.round = (this.round + 1) | 0;
    this.runLo = -1;
    // Many new heads: the whole table in one element is cheaper than as many requests.
    if (fresh * 4 >= this.size || this.fetcher.room() < fresh + 4) {
      if (this.fetcher.room() < 1) return OK;
      this.fetchAt(this.size * 16, this.descLo, this.descHi, 0, this.descOff);
      this.stamp.fill(this.round, 0, this.size);
    } else {
      for (let i = this.seen; i !== this.target; i = (i + 1) & 0xffff) {
        const head = this.avail[2 + (i & this.mask)]!;
        if (head >= this.size) return this.bad(R_DESC_INDEX, head, this.size);
        this.need(head);
      }
      this.flushRun();
    }
    this.mark = this.fetcher.commit();
    this.state = DESCS;
    return this.fetcher.landed(this.mark) ? this.closeChains() : OK;
  }

  /** Follow the chains of the new heads; fetch what links point to until every chain is complete. */
  private closeChains(): number {
    const desc = this.desc;
    const mask = this.mask;
    let missing = 0;
    let tables = 0;
    // Once stamped, a descriptor must really be fetched: so begin only with room for one element a chain.
    if (this.fetcher.room() < ((this.target - this.seen) & 0xffff) + 2) return OK;
    this.runLo = -1;
    for (let i = this.seen; i !== this.target; i = (i + 1) & 0xffff) {
      const head = this.avail[2 + (i & mask)]!;
      if (head >= this.size) return this.bad(R_DESC_INDEX, head, this.size);
      let d = head;
      for (let ttl = this.size; ; ttl--) {
        if (this.stamp[d] !== this.round) {
          // Drivers mostly link neighbours: a piece of the table at once saves a round trip for every link.
          const end = d + AHEAD < this.size ? d + AHEAD : this.size;
          for (let k = d; k < end && this.stamp[k] !== this.round; k++) this.need(k);
          missing++;
          break;
        }
        const flagsNext = desc[(d << 2) + 3]!;
        if ((flagsNext & DESC_F_INDIRECT) !== 0) {
          tables++;
          break;
        }
        if ((flagsNext & DESC_F_NEXT) === 0) break;
        d = flagsNext >>> 16;
        if (d >= this.size) return this.bad(R_DESC_INDEX, d, this.size);
        if (ttl === 0) return this.bad(R_DESC_LOOP, head, this.size);
      }
    }
    if (missing > 0) {
      this.flushRun();
      this.mark = this.fetcher.commit();
      return this.fetcher.landed(this.mark) ? this.closeChains() : OK;
    }
    if (tables > 0) return this.fetchTables();
    this.finish();
    return OK;
  }

  private fetchTables(): number {
    for (let i = this.seen; i !== this.target; i = (i + 1) & 0xffff) {
      const head = this.avail[2 + (i & this.mask)]!;
      // closeChains() has seen the whole chain; the indirect descriptor is its last one (2.7.5.3.2).
      let d = head;
      let flagsNext = this.desc[(d << 2) + 3]!;
      while ((flagsNext & (DESC_F_INDIRECT | DESC_F_NEXT)) === DESC_F_NEXT) {
        d = flagsNext >>> 16;
        flagsNext = this.desc[(d << 2) + 3]!;
      }
      if ((flagsNext & DESC_F_INDIRECT) === 0) continue;
      if (!this.indirect) return this.bad(R_INDIRECT_NOT_NEGOTIATED, d, flagsNext & 0xffff);
      const w = d << 2;
      const len = this.desc[w + 2]!;
      if (len <= 0 || (len & 15) !== 0 || len > INDIRECT_MAX * 16) return this.bad(R_INDIRECT, head, len);
      if (this.fetcher.room() < 1) {
        // Take what has been asked for; the rest comes with the next round.
        this.target = i;
        break;
      }
      this.fetcher.put(len, this.desc[w]!, this.desc[w + 1]!, this.mem, this.tableOff + head * INDIRECT_MAX * 16);
    }
    this.mark = this.fetcher.commit();
    this.state = TABLES;
    if (this.fetcher.landed(this.mark)) this.finish();
    return OK;
  }

  private finish(): void {
    this.seen = this.target;
    this.ready = this.target;
    this.state = IDLE;
  }

  /** Ask for descriptor `d`, joined with its neighbours to one element where the gap is under a cache line. */
  private need(d: number): void {
    if (this.stamp[d] === this.round) return;
    this.stamp[d] = this.round;
    if (this.runLo >= 0) {
      if (d > this.runHi && d - this.runHi <= 4) {
        for (let k = this.runHi + 1; k < d; k++) this.stamp[k] = this.round;
        this.runHi = d;
        return;
      }
      if (d < this.runLo && this.runLo - d <= 4) {
        for (let k = d + 1; k < this.runLo; k++) this.stamp[k] = this.round;
        this.runLo = d;
        return;
      }
      this.flushRun();
    }
    this.runLo = this.runHi = d;
  }

  private flushRun(): void {
    if (this.runLo < 0) return;
    const off = this.runLo * 16;
    this.fetchAt((this.runHi - this.runLo + 1) * 16, this.descLo, this.descHi, off, this.descOff + off);
    this.runLo = -1;
  }

  private fetchAt(bytes: number, lo: number, hi: number, add: number, off: number): void {
    const at = (lo + add) | 0;
    this.fetcher.put(bytes, at, at >>> 0 < lo >>> 0 ? hi + 1 : hi, this.mem, off);
  }

  /** The channel that fetches was restarted: what was asked for is lost, ask again. */
  refetch(): void {
    this.state = IDLE;
    if (this.irqFetch) this.irqState = 2;
    this.irqFetch = false;
  }

  /** Head of the k-th entry behind `next`; the caller has checked available(). */
  peek(k: number): number {
    return this.avail[2 + ((this.next + k) & this.mask)]!;
  }

  /**
   * The short way for a chain of one descriptor: fills lo, hi, len.
   * @returns false for everything else, faults included; then segments() knows better
   */
  single(head: number): boolean {
    const desc = this.desc;
    const w = head << 2;
    const len = desc[w + 2]!;
    if ((desc[w + 3]! & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT)) !== this.write || len <= 0) return false;
    this.lo = desc[w]!;
    this.hi = desc[w + 1]!;
    this.len = len;
    return true;
  }

  /** Append the segments of the chain at `head` to `out`. @returns 0 or a negative code with out.a, out.b */
  segments(head: number, out: Segments): number {
    const rc = walk(this.desc, 0, this.size, head, this.write === 0 ? 0 : DESC_F_WRITE, out);
    if (rc !== INDIRECT) return rc;
    const bytes = out.len[out.count]!;
    return walkIndirect(this.table, head * INDIRECT_MAX * 4, bytes, INDIRECT_MAX * 16, head, this.write, out);
  }

  /** Consume `k` entries. */
  consume(k: number): void {
    this.next = (this.next + k) & 0xffff;
  }

  /** Stage one used element; it is not on its way before publish(). */
  pushUsed(head: number, len: number): void {
    const w = (this.used & this.mask) << 1;
    this.stage[w] = head;
    this.stage[w + 1] = len;
    this.used = (this.used + 1) & 0xffff;
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
    this.putToHost(ch, first * 8, this.stageOff + slot * 8, 4 + slot * 8);
    if (first < count) this.putToHost(ch, (count - first) * 8, this.stageOff, 4);
    const k = this.idxSlot;
    this.idxSlot = (k + 1) & (IDX_SLOTS - 1);
    this.idx[k] = this.used;
    this.putToHost(ch, 2, this.idxOff + k * 2, 2);
    this.published = this.used;
  }

  /** Put the used ring's flags (2.7.10: NO_NOTIFY is a hint) on the write channel. */
  putUsedFlags(ch: DmaChannel, flags: number): void {
    const k = this.idxSlot;
    this.idxSlot = (k + 1) & (IDX_SLOTS - 1);
    this.idx[k] = flags;
    this.putToHost(ch, 2, this.idxOff + k * 2, 0);
  }

  private putToHost(ch: DmaChannel, bytes: number, off: number, hostOff: number): void {
    const bus = this.mem.bus + off;
    const hi = Math.floor(bus / 4294967296);
    const lo = (this.usedLo + hostOff) | 0;
    ch.put(
      bytes,
      (bus - hi * 4294967296) | 0,
      hi | 0,
      lo,
      lo >>> 0 < this.usedLo >>> 0 ? this.usedHi + 1 : this.usedHi,
    );
  }

  /**
   * 2.7.7.2: is an interrupt due for what was published since the last one, by the mirror's copy of flags or
   * used_event? The copy may be old. "Yes" is always safe (a spurious interrupt); "no" must be confirmed by a copy
   * that was fetched after the index landed: the driver re-checks the ring after it enabled interrupts, so either it
   * sees our index or we see its flag.
   */
  wantsInterrupt(): boolean {
    if (this.eventIdx) {
      const event = ld16(this.mem.ptr + 4 + 2 * this.size);
      return ((this.published - event - 1) & 0xffff) < ((this.published - this.signalled) & 0xffff);
    }
    return (ld16(this.mem.ptr) & AVAIL_F_NO_INTERRUPT) === 0;
  }

  /** An interrupt is on its way for everything published so far. */
  interruptSent(): void {
    this.signalled = this.published;
    this.irqState = 0;
    this.irqFetch = this.irqAgain = false;
  }

  /** Nothing was sent for the last publish(): confirm with a fresh copy once element `mark` has landed. */
  confirmLater(mark: number): void {
    if (this.irqState === 0) {
      this.irqState = 1;
      this.irqMark = mark;
      this.irqIdx = this.published;
    } else this.irqAgain = true;
  }

  /**
   * Drive the confirmation. @returns true when an interrupt must be sent now (then call interruptSent()).
   * States: 1 the index is on its way, 2 it landed and a fetch is due, 3 the fetch is here.
   */
  interruptDue(ch: DmaChannel): boolean {
    if (this.irqState === 1 && ((ch.doneCount - this.irqMark) | 0) >= 0) this.irqState = 2;
    if (this.irqState !== 3) return false;
    this.irqState = 0;
    const due = this.wantsInterrupt();
    // A confirmed "no" settles everything up to there. Without this the distance since the last interrupt could
    // reach 65536, and used_event just behind an old `signalled` would look as if it had been passed already.
    if (!due) this.signalled = this.irqIdx;
    if (this.irqAgain) {
      this.irqAgain = false;
      if (!due) this.confirmLater(ch.putCount);
    }
    return due;
  }

  private bad(code: number, a: number, b: number): number {
    this.a = a;
    this.b = b;
    return code;
  }
}
