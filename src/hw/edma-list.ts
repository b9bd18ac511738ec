/**
 * The linked list of one eDMA v0 channel as an endless one: a ring in board memory, slots 0..n-2 carry data, slot n-1 is
 * the link back to slot 0. Follows dw-hardware.md 2. What tells the controller of it, and how far it is, is
 * edma-channel.ts.
 *
 * How a reader of stale slots is kept out: the cycle bit CB alternates per lap and the engine's CCS with it, so a
 * slot of the lap before never matches. Of one commit only the *first* control word is withheld until everything
 * else of the batch is in memory; the engine cannot pass it, so one barrier serves the whole batch.
 */
import type { DmaRegion } from "./dma-memory.ts";
import {
  CTL_LIE,
  CTL_LLP,
  CTL_TCB,
  LINK_PTR_HI,
  LINK_PTR_LO,
  LL_BYTES,
  LL_DAR_HI,
  LL_DAR_LO,
  LL_SAR_HI,
  LL_SAR_LO,
  LL_SIZE,
  LL_WORDS,
} from "./edma.regs.ts";
import { Fault } from "./fault.ts";
import { wmb } from "./mem.ts";
import { PIECE_HI, PIECE_LEN, PIECE_LO, PIECE_WORDS } from "./pieces.ts";

/** slots that are never outstanding: the link, the slot the engine rests at, and one so that a position is unique */
const RESERVED_SLOTS = 3;

// words of an element behind its size
const SAR_LO = LL_SAR_LO - LL_SIZE;
const SAR_HI = LL_SAR_HI - LL_SIZE;
const DAR_LO = LL_DAR_LO - LL_SIZE;
const DAR_HI = LL_DAR_HI - LL_SIZE;

export class EdmaList {
  /** most elements that may be outstanding */
  readonly capacity: number;
  /** elements put so far, free-running int32 */
  putCount = 0;

  protected readonly ll: DmaRegion;
  protected readonly busLo: number;
  /** slot number of the link element */
  protected readonly linkSlot: number;
  protected readonly i32: Int32Array;
  private readonly linkWord: number;
  /** next word to fill, control word of this lap */
  private word = 0;
  private cb = 1;
  /** withheld control word of the first element since the last commit, and its place (-1: nothing put) */
  private firstWord = -1;
  private firstControl = 0;

  /** @param ll list memory; (size / 24) - 3 elements may be outstanding @throws Fault E_DMA when it is none */
  constructor(ll: DmaRegion) {
    const slots = Math.floor(ll.size / LL_BYTES);
    if (slots <= RESERVED_SLOTS)
      throw new Fault("E_DMA", `linked list of ${ll.size} bytes holds ${slots} slots, at least 4 are needed`);
    if (ll.bus % 4 !== 0)
      throw new Fault("E_DMA", `linked list at bus address 0x${ll.bus.toString(16)}, not 4-aligned`);
    this.ll = ll;
    this.i32 = ll.i32;
    this.linkSlot = slots - 1;
    this.linkWord = this.linkSlot * LL_WORDS;
    this.capacity = slots - RESERVED_SLOTS;
    this.busLo = ll.bus | 0;
  }

  /** First lap: CB 1 against cleared slots. The link's pointer never changes, its control word once a lap. */
  protected clear(): void {
    const { i32, linkWord } = this;
    for (let w = 0; w < linkWord; w += LL_WORDS) i32[w] = 0;
    i32[linkWord] = CTL_LLP | CTL_TCB;
    i32[linkWord + LINK_PTR_LO] = this.busLo;
    i32[linkWord + LINK_PTR_HI] = Math.floor(this.ll.bus / 2 ** 32);
    this.word = 0;
    this.cb = 1;
    this.firstWord = -1;
  }

  /** Something was put and not committed. */
  protected get putting(): boolean {
    return this.firstWord >= 0;
  }

  /** slot that the next element takes, and its cycle bit */
  protected get nextSlot(): number {
    return this.word / LL_WORDS;
  }
  protected get cycle(): number {
    return this.cb;
  }

  /** Free the slot of the only element that was put and not committed. @returns where its words are */
  protected takeBack(): number {
    const w = this.firstWord;
    this.word = w;
    this.cb = this.firstControl;
    this.firstWord = -1;
    return w;
  }

  /** See DmaChannel. */
  put(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): void {
    const i32 = this.i32;
    const w = this.word;
    i32[w + LL_SIZE] = size;
    i32[w + LL_SAR_LO] = sarLo;
    i32[w + LL_SAR_HI] = sarHi;
    i32[w + LL_DAR_LO] = darLo;
    i32[w + LL_DAR_HI] = darHi;
    if (this.firstWord < 0) {
      this.firstWord = w;
      this.firstControl = this.cb;
    } else i32[w] = this.cb;
    this.putCount = (this.putCount + 1) | 0;
    const next = w + LL_WORDS;
    if (next === this.linkWord) {
      // The engine reaches the link only through this lap's last slot, which commit() has not published yet. TCB
      // flips CCS before the link's CB is looked at, so it carries the next lap's.
      this.cb ^= 1;
      i32[next] = CTL_LLP | CTL_TCB | this.cb;
      this.word = 0;
    } else this.word = next;
  }

  /** put() and publish() of one element, while none is withheld. */
  protected putAlone(size: number, sarLo: number, sarHi: number, darLo: number, darHi: number): void {
    const { i32, word: w, cb } = this;
    i32[w + LL_SIZE] = size;
    i32[w + LL_SAR_LO] = sarLo;
    i32[w + LL_SAR_HI] = sarHi;
    i32[w + LL_DAR_LO] = darLo;
    i32[w + LL_DAR_HI] = darHi;
    this.putCount = (this.putCount + 1) | 0;
    const next = w + LL_WORDS;
    if (next === this.linkWord) {
      this.cb = cb ^ 1;
      i32[next] = CTL_LLP | CTL_TCB | (cb ^ 1);
      this.word = 0;
    } else this.word = next;
    wmb();
    i32[w] = cb;
  }

  /**
   * See DmaChannel. What put() keeps in fields is in locals here. There are more of them than registers, and what JSC then stores
   * and loads again is what takes the time: so each of the two ways on moves one side only, and `w` is the first word that
   * is filled, the size, which needs no other index to be checked.
   */
  putPieces(src: Int32Array, dst: Int32Array, bytes: number): number {
    const { i32, linkWord } = this;
    let { cb } = this;
    let w = (this.word + LL_SIZE) | 0;
    let from = w;
    const end = (linkWord + LL_SIZE) | 0;
    let si = 0;
    let di = 0;
    let dLo = dst[PIECE_LO]!;
    let dHi = dst[PIECE_HI]!;
    let dLen = dst[PIECE_LEN]!;
    let left = bytes;
    if (this.firstWord < 0) {
      this.firstWord = this.word;
      this.firstControl = cb;
    } else i32[this.word] = cb;
    for (;;) {
      let sLo = src[si]!;
      let sHi = src[si + PIECE_HI]!;
      let sLen = src[si + PIECE_LEN]!;
      if (left < sLen) sLen = left;
      left = (left - sLen) | 0;
      while (dLen < sLen) {
        i32[w] = dLen;
        i32[w + SAR_LO] = sLo;
        i32[w + SAR_HI] = sHi;
        i32[w + DAR_LO] = dLo;
        i32[w + DAR_HI] = dHi;
        w = (w + LL_WORDS) | 0;
        if (w === end) {
          cb ^= 1;
          i32[linkWord] = CTL_LLP | CTL_TCB | cb;
          w = LL_SIZE;
          from = (from - linkWord) | 0;
        }
        // Of the element that follows: the withheld one is before it.
        i32[w - LL_SIZE] = cb;
        const next = (sLo + dLen) | 0;
        if (next >>> 0 < sLo >>> 0) sHi = (sHi + 1) | 0;
        sLo = next;
        sLen = (sLen - dLen) | 0;
        di = (di + PIECE_WORDS) | 0;
        dLo = dst[di]!;
        dHi = dst[di + PIECE_HI]!;
        dLen = dst[di + PIECE_LEN]!;
      }
      i32[w] = sLen;
      i32[w + SAR_LO] = sLo;
      i32[w + SAR_HI] = sHi;
      i32[w + DAR_LO] = dLo;
      i32[w + DAR_HI] = dHi;
      w = (w + LL_WORDS) | 0;
      if (w === end) {
        cb ^= 1;
        i32[linkWord] = CTL_LLP | CTL_TCB | cb;
        w = LL_SIZE;
        from = (from - linkWord) | 0;
      }
      if (left <= 0) break;
      i32[w - LL_SIZE] = cb;
      si = (si + PIECE_WORDS) | 0;
      dLen = (dLen - sLen) | 0;
      if (dLen === 0) {
        di = (di + PIECE_WORDS) | 0;
        dLo = dst[di]!;
        dHi = dst[di + PIECE_HI]!;
        dLen = dst[di + PIECE_LEN]!;
      } else {
        const next = (dLo + sLen) | 0;
        if (next >>> 0 < dLo >>> 0) dHi = (dHi + 1) | 0;
        dLo = next;
      }
    }
    const elements = ((w - from) / LL_WORDS) | 0;
    this.word = (w - LL_SIZE) | 0;
    this.cb = cb;
    this.putCount = (this.putCount + elements) | 0;
    return elements;
  }

  /**
   * Show everything put since the last time to the engine. @param lie the last element raises the local done status
   * @returns whether there was any
   */
  protected publish(lie: boolean): boolean {
    const first = this.firstWord;
    if (first < 0) return false;
    const { i32 } = this;
    let control = this.firstControl;
    if (lie) {
      const last = (this.word === 0 ? this.linkWord : this.word) - LL_WORDS;
      if (last === first) control |= CTL_LIE;
      else i32[last] |= CTL_LIE;
    }
    wmb();
    i32[first] = control;
    this.firstWord = -1;
    return true;
  }
}
