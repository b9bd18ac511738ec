/**
 * Looks at the avail index of one of the host's virtqueues, and at the driver's interrupt wishes beside it: small reads
 * that are begun again and again, several under way, answers in the order of asking. What an index covers is fetched
 * by host-mirror.ts.
 *
 * While a payload channel rests, looks go over it and leave the channel for ring contents at rest: a doorbell starts a
 * resting channel at once, but what is appended to a running one waits until the engine next looks at its list.
 */
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { ld16 } from "../hw/mem.ts";
import { OK, R_ALL_ONES, R_AVAIL_BACK, R_AVAIL_JUMP } from "./codes.ts";
import type { Fetcher, SpareFetcher } from "./fetch.ts";
import { CONFIRM_DUE, HostUsed, type RingAddresses } from "./host-used.ts";
import type { Tuning } from "./tuning.ts";

/** places for answers, each flags, index, used_event, unused (u16 each); twice the most looks under way, see lookAgain() */
const LOOKS = 16;
const LOOK_BYTES = 8;
/** looks without news in a row after which they come closer together */
const CALM = 8;

export class HostLooks extends HostUsed {
  /** numbers for codes.describe() */
  a = 0;
  b = 0;
  /** looks begun and looks that found nothing new (counters) */
  fetches = 0;
  emptyFetches = 0;

  protected readonly fetcher: Fetcher;
  protected readonly spare: SpareFetcher | null;
  protected readonly tuning: Tuning;
  /** avail index as of the newest answer */
  protected hostIdx = 0;
  protected availLo = 0;
  protected availHi = 0;

  private readonly answers: DmaRegion;
  private readonly words: Uint16Array;
  // looks, oldest first
  private readonly marks = new Int32Array(LOOKS);
  private readonly aside = new Uint8Array(LOOKS);
  private readonly serials = new Int32Array(LOOKS);
  private first = 0;
  private count = 0;
  /** looks under way that began before the newest index was known: only their answers may be older */
  private elder = 0;
  /** turns until the next look at a ring without news */
  private wait = 0;
  /** answers without news in a row, up to CALM */
  private calm = 0;
  /** news comes another way (host-notices.ts), looks only make sure */
  protected rare = false;

  constructor(
    name: string,
    memory: DmaMemory,
    fetcher: Fetcher,
    maxSize: number,
    tuning: Tuning,
    spare: SpareFetcher | null,
  ) {
    super(name, memory, maxSize);
    this.fetcher = fetcher;
    this.spare = spare;
    this.tuning = tuning;
    this.answers = memory.alloc(`looks.${name}`, (LOOKS + 1) * LOOK_BYTES, 64);
    this.words = this.answers.u16;
  }

  protected attachLooks(q: RingAddresses, eventIdx: boolean): void {
    this.attachUsed(q, eventIdx);
    this.availLo = q.availLo;
    this.availHi = q.availHi;
    this.hostIdx = 0;
    this.count = 0;
    this.elder = 0;
    this.calm = 0;
    this.hasten();
  }

  /** The next look is due, and looks are as frequent as ever. */
  protected hasten(): void {
    this.wait = 0;
    this.rare = false;
  }

  /** No look in this step: what comes next on the payload's channel must not stand behind it. */
  protected standBack(): void {
    if (this.wait <= 0) this.wait = 1;
  }

  /** hostIdx was moved. */
  protected newsCame(): void {
    this.elder = this.count;
    this.calm = 0;
  }

  /** There was no news for some time. */
  protected get calmed(): boolean {
    return this.calm >= CALM;
  }

  /** looks whose answers are here */
  protected get looksAnswered(): number {
    return this.fetches - this.count;
  }

  /** Take the answers that are here. @returns 0 or a negative code with a, b */
  protected endLooks(): number {
    while (this.count > 0) {
      const k = this.first;
      const via = this.aside[k] !== 0 ? this.spare! : this.fetcher;
      if (!via.landed(this.marks[k]!)) return OK;
      const rc = this.endLook();
      if (rc < 0) return rc;
    }
    return OK;
  }

  /**
   * Once a turn in which a look may begin. @param wanted look for news (an interrupt decision that waits looks in any
   * case) @param busy the way to the host is full: look less often
   */
  protected lookOn(wanted: boolean, busy: boolean): void {
    const due = this.confirm === CONFIRM_DUE;
    if ((--this.wait >= 0 && !(due && this.rare)) || (!wanted && !due)) return;
    const t = this.tuning;
    this.look(this.rare ? t.rareGap : busy ? t.busyGap : this.calm < CALM ? t.pollGap : t.calmGap);
  }

  /** Begin a look, the next one not before `gap` turns. */
  protected look(gap: number): void {
    if (this.count >= this.tuning.polls) return;
    const { spare } = this;
    const aside = spare?.onlyLooks() === true;
    const via = aside ? spare! : this.fetcher;
    if (via.room() < 4) return;
    const k = (this.first + this.count) & (LOOKS - 1);
    this.fetches++;
    this.count++;
    this.wait = gap;
    this.serials[k] = this.lookBegins();
    if (aside) spare!.lookBegins();
    via.put(4, this.availLo, this.availHi, this.answers, k * LOOK_BYTES);
    if (this.eventIdx) {
      const at = (this.availLo + 4 + 2 * this.size) | 0;
      const hi = at >>> 0 < this.availLo >>> 0 ? (this.availHi + 1) | 0 : this.availHi;
      via.put(2, at, hi, this.answers, k * LOOK_BYTES + 4);
    }
    this.marks[k] = via.commit();
    this.aside[k] = aside ? 1 : 0;
    if (aside) spare!.lookEnds();
  }

  private endLook(): number {
    const k = this.first;
    this.first = (k + 1) & (LOOKS - 1);
    this.count--;
    const elder = this.elder > 0;
    if (elder) this.elder--;
    const idx = ld16(this.answers.ptr + k * LOOK_BYTES + 2);
    this.flags = this.words[k << 2]!;
    this.event = this.words[(k << 2) + 2]!;
    this.lookEnds(this.serials[k]!);
    // What blocked or absent memory reads as; a driver uses bit 0 of the flags only (2.7.6).
    if (this.flags === 0xffff && idx === 0xffff) return this.bad(R_ALL_ONES, this.flags, idx);
    const fresh = (idx - this.hostIdx) & 0xffff;
    if (fresh === 0) {
      this.emptyFetches++;
      if (this.calm < CALM) this.calm++;
      return OK;
    }
    const ahead = (idx - this.used) & 0xffff;
    if (ahead <= this.size && fresh <= this.size) {
      this.hostIdx = idx;
      this.newsCame();
      return OK;
    }
    if (((this.hostIdx - idx) & 0xffff) <= this.size) {
      // Reads may pass each other on their way (PCIe 2.4.1): an answer older than the one before is no news.
      return elder ? OK : this.bad(R_AVAIL_BACK, this.hostIdx, idx);
    }
    return this.bad(R_AVAIL_JUMP, ahead, this.size);
  }

  /** A channel was restarted: answers may be lost, ask again. What another channel still brings gets no place of a new look. */
  protected lookAgain(): void {
    this.first = (this.first + this.count) & (LOOKS - 1);
    this.count = 0;
    this.elder = 0;
    this.wait = 0;
    this.lookLost();
  }

  /** A small read behind a lone frame on the payload's channel, see putTail(). */
  tail(): void {
    if (this.spare !== null) this.putTail(this.spare);
  }

  /** A small read behind what matters: once the engine is at it, what is before it is known to be here; a stop takes longer. */
  protected putTail(via: Fetcher): void {
    // What goes without a list shows its end at once.
    if (this.spare === null || !this.tuning.tail || via.alone() || via.room() < 2) return;
    via.put(4, this.availLo, this.availHi, this.answers, LOOKS * LOOK_BYTES);
    via.commit();
  }

  protected bad(code: number, a: number, b: number): number {
    this.a = a;
    this.b = b;
    return code;
  }
}
