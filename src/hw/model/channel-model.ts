/**
 * One channel of the model's eDMA: its context registers and the linked-list protocol (cycle bit, links, stop, done,
 * abort, doorbells). Facts: dw-hardware.md 2, 3. When an element's data moves is decided by edma-model.ts (at once)
 * or timed-dma.ts (in time).
 *
 * Where the facts leave room: done of an element becomes visible when the engine has fetched behind it; a stop sets
 * done only if the last element executed did not ask for it; a link's CB is compared after its TCB has toggled CCS.
 */
import {
  CS_HALTED,
  CS_RUNNING,
  CS_STOPPED,
  CTL_CB,
  CTL_CCS,
  CTL_CS_MASK,
  CTL_CS_SHIFT,
  CTL_LIE,
  CTL_LLE,
  CTL_LLP,
  CTL_RIE,
  CTL_TCB,
  EDMA_CH,
  LINK_PTR_HI,
  LINK_PTR_LO,
  LL_BYTES,
  LL_DAR_HI,
  LL_DAR_LO,
  LL_SAR_HI,
  LL_SAR_LO,
  LL_SIZE,
} from "../edma.regs.ts";
import { ld32 } from "../mem.ts";
import type { EdmaModel } from "./edma-model.ts";
import { LL_ERROR } from "./edma-status.ts";

/** not running: never started, stopped or halted (see cs) */
export const IDLE = 0;
/** will fetch at LLP */
export const RUN = 1;
/** an element is fetched, its data has not moved */
export const HELD = 2;
/** has read a control word with the old cycle bit, has not stopped yet: the lost-doorbell window */
export const STALE = 3;
/** CS says stopped, inside it is not idle yet (only with the notIdleDoorbell fault) */
export const SETTLING = 4;
/** hangs after a doorbell at the wrong time, until the engine is disabled */
export const WEDGED = 5;

/** results of fetch() */
export const FETCHED = 1;
export const FOLLOWED = 2;
export const RESTS = 0;
export const ABORTED = -1;

const STORED = ~(CTL_CS_MASK | CTL_CCS | CTL_LLE);

export class ChannelModel {
  readonly isWrite: boolean;
  readonly index: number;
  /** this channel's bit in EdmaModel.running */
  readonly bit: number;
  readonly #edma: EdmaModel;
  state = IDLE;
  cs = 0;
  ccs = 0;
  lle = 0;
  #control1 = 0;
  control2 = 0;
  size = 0;
  sarLo = 0;
  sarHi = 0;
  darLo = 0;
  darHi = 0;
  /** where the engine fetches next */
  llp = 0;
  /** what the LLP register shows; behind llp while data is under way (timed-dma.ts) */
  llpShown = 0;
  /** control word of the element fetched last */
  control = 0;
  /** halted on an error and CONTROL1 not written since */
  halted = false;
  /** bytes of the fetched element that have moved so far (splitData) */
  moved = 0;
  /** elements executed by this channel */
  elements = 0;
  /** with time: data is under way, so what was found ahead (the old cycle bit, nothing behind a single transfer) does not stop the channel yet */
  deferStop = false;
  #latched = false;
  #pending = 0;
  #signalled = false;
  #once = false;
  /** turns until a channel that has read the old cycle bit stops */
  #staleTurns = 0;

  constructor(edma: EdmaModel, isWrite: boolean, index: number) {
    this.#edma = edma;
    this.isWrite = isWrite;
    this.index = index;
    this.bit = 1 << (isWrite ? index : index + 8);
  }

  describe(): string {
    return `dma ${this.isWrite ? "write" : "read"} channel ${this.index} element ${this.elements} (before LLP 0x${this.llp.toString(16)})`;
  }

  reset(): void {
    this.rest();
    this.cs = this.ccs = this.lle = this.#control1 = this.control2 = this.size = 0;
    this.sarLo = this.sarHi = this.darLo = this.darHi = this.llp = this.llpShown = 0;
    this.halted = false;
  }

  // --- context registers ---

  read(off: number): number {
    switch (off) {
      case EDMA_CH.CH_CONTROL1:
        return this.#control1 | (this.cs << CTL_CS_SHIFT) | (this.ccs ? CTL_CCS : 0) | this.lle;
      case EDMA_CH.CH_CONTROL2:
        return this.control2;
      case EDMA_CH.CH_SIZE:
        return this.size;
      case EDMA_CH.CH_SAR_LO:
        return this.sarLo;
      case EDMA_CH.CH_SAR_HI:
        return this.sarHi;
      case EDMA_CH.CH_DAR_LO:
        return this.darLo;
      case EDMA_CH.CH_DAR_HI:
        return this.darHi;
      case EDMA_CH.CH_LLP_LO:
        return this.llpShown | 0;
      case EDMA_CH.CH_LLP_HI:
        return (this.llpShown / 4294967296) | 0;
      default:
        return 0;
    }
  }

  /** Writes to a running channel's context are dropped and counted: on silicon they are unpredictable. */
  write(off: number, value: number): void {
    if (this.state !== IDLE) {
      this.#edma.contextWritesWhileBusy++;
      return;
    }
    switch (off) {
      case EDMA_CH.CH_CONTROL1:
        this.#control1 = value & STORED;
        this.ccs = value & CTL_CCS ? 1 : 0;
        this.lle = value & CTL_LLE;
        this.halted = false;
        break;
      case EDMA_CH.CH_CONTROL2:
        this.control2 = value;
        break;
      case EDMA_CH.CH_SIZE:
        this.size = value;
        break;
      case EDMA_CH.CH_SAR_LO:
        this.sarLo = value;
        break;
      case EDMA_CH.CH_SAR_HI:
        this.sarHi = value;
        break;
      case EDMA_CH.CH_DAR_LO:
        this.darLo = value;
        break;
      case EDMA_CH.CH_DAR_HI:
        this.darHi = value;
        break;
      case EDMA_CH.CH_LLP_LO:
        this.#moveTo(Math.floor(this.llp / 4294967296) * 4294967296 + (value >>> 0));
        break;
      case EDMA_CH.CH_LLP_HI:
        this.#moveTo((value >>> 0) * 4294967296 + (this.llp % 4294967296));
        break;
    }
  }

  #moveTo(llp: number): void {
    this.llp = llp;
    this.llpShown = llp;
  }

  // --- doorbell, stop, disable ---

  doorbell(): void {
    const edma = this.#edma;
    const stats = edma.link.stats;
    switch (this.state) {
      case IDLE:
        if (this.halted) {
          stats.deadDoorbells++;
          return;
        }
        this.cs = CS_RUNNING;
        this.state = RUN;
        this.#signalled = false;
        this.#once = false;
        edma.running |= this.bit;
        edma.timed?.kick(this);
        return;
      case WEDGED:
        stats.deadDoorbells++;
        return;
      default:
        stats.busyDoorbells++;
        if (edma.faults.notIdleDoorbell) {
          this.state = WEDGED;
          this.cs = CS_RUNNING;
          edma.running &= ~this.bit;
          edma.timed?.drop(this);
        } else if (this.state !== STALE) {
          this.#latched = true;
          edma.timed?.kick(this);
        }
    }
  }

  /** Not running any more, nothing remembered; LLP and CCS are kept. Engine disable and the STOP bit. */
  rest(): void {
    if (this.state !== IDLE) this.cs = CS_STOPPED;
    this.state = IDLE;
    this.halted = false;
    this.#latched = false;
    this.#pending = 0;
    this.moved = 0;
    this.#edma.running &= ~this.bit;
    this.#edma.timed?.drop(this);
  }

  /** What time alone changes: the windows of earlier turns close. */
  beginTurn(): void {
    if (this.state === STALE) {
      if (this.#staleTurns > 0) {
        this.#staleTurns--;
        return;
      }
      // the slot may hold an element by now, but its old control word is what decides
      if (this.#peek() === FETCHED) this.#edma.link.stats.lostDoorbells++;
      this.#stop();
    } else if (this.state === SETTLING) {
      this.state = IDLE;
      this.#edma.running &= ~this.bit;
      this.#doneOnStop();
    }
  }

  // --- the engine ---

  /**
   * Read the slot at LLP and act on its control word: FETCHED an element is in the registers, FOLLOWED a link,
   * RESTS the cycle bit did not match, ABORTED the list could not be read.
   */
  fetch(): number {
    const edma = this.#edma;
    if (this.lle === 0) return this.#single();
    const i = edma.locate(this.llp, this);
    if (i < 0) {
      this.abort(LL_ERROR);
      return ABORTED;
    }
    const w = edma.words;
    const ctl = w[i]!;
    const match = ctl & CTL_CB;
    if ((ctl & CTL_LLP) !== 0) {
      const ccs = (ctl & CTL_TCB) !== 0 ? this.ccs ^ 1 : this.ccs;
      if (edma.checkLinkCycle && match !== ccs) return this.#mismatch();
      this.ccs = ccs;
      this.llp = (w[i + LINK_PTR_HI]! >>> 0) * 4294967296 + (w[i + LINK_PTR_LO]! >>> 0);
      edma.link.stats.linksFollowed++;
      if (this.#pending !== 0) this.#done();
      return FOLLOWED;
    }
    if (match !== this.ccs) return this.#mismatch();
    this.control = ctl;
    this.size = w[i + LL_SIZE]!;
    this.sarLo = w[i + LL_SAR_LO]!;
    this.sarHi = w[i + LL_SAR_HI]!;
    this.darLo = w[i + LL_DAR_LO]!;
    this.darHi = w[i + LL_DAR_HI]!;
    this.llp += LL_BYTES;
    if (this.#pending !== 0) this.#done();
    return FETCHED;
  }

  /** The element's data has moved: remember what it asked for, it is signalled at the next fetch. */
  executed(control: number): void {
    this.elements++;
    if (this.lle === 0) this.#spent();
    const ask = control & (CTL_LIE | CTL_RIE);
    this.#pending = ask;
    this.#signalled = ask !== 0;
  }

  /** SAR and DAR are the next addresses, the size is what is left; of a list the next element overwrites them. */
  #spent(): void {
    if (this.#edma.faults.contextLost) {
      this.size = this.sarLo = this.sarHi = this.darLo = this.darHi = 0;
      return;
    }
    const size = this.size >>> 0;
    const sar = (this.sarLo >>> 0) + size;
    const dar = (this.darLo >>> 0) + size;
    this.sarLo = sar | 0;
    this.darLo = dar | 0;
    if (sar > 0xffffffff) this.sarHi = (this.sarHi + 1) | 0;
    if (dar > 0xffffffff) this.darHi = (this.darHi + 1) | 0;
    this.size = 0;
  }

  /** The same with time: the next slot was read before, so it is signalled at once. */
  finish(control: number): void {
    this.executed(control);
    if (this.#pending !== 0) this.#done();
  }

  /** Halt with an abort. @param cause a CAUSE_* bit, or LL_ERROR */
  abort(cause: number): void {
    this.cs = CS_HALTED;
    this.state = IDLE;
    this.halted = true;
    this.#latched = false;
    this.#pending = 0;
    this.moved = 0;
    this.llpShown = this.llp;
    this.#edma.running &= ~this.bit;
    this.#edma.aborted(this, cause);
  }

  #mismatch(): number {
    const edma = this.#edma;
    if (this.#latched) {
      this.#latched = false;
      return FOLLOWED;
    }
    if (this.deferStop) return RESTS;
    if (edma.timed !== null) {
      this.state = STALE;
      return RESTS;
    }
    if (edma.random.chance(edma.faults.lostDoorbell)) {
      this.state = STALE;
      this.#staleTurns = edma.random.below(4);
      return RESTS;
    }
    this.#stop();
    return RESTS;
  }

  #stop(): void {
    this.cs = CS_STOPPED;
    this.llpShown = this.llp;
    this.#latched = false;
    if (this.#edma.faults.notIdleDoorbell) {
      this.state = SETTLING;
      return;
    }
    this.state = IDLE;
    this.#edma.running &= ~this.bit;
    this.#doneOnStop();
  }

  #doneOnStop(): void {
    if (this.#pending !== 0) this.#done();
    else if (!this.#signalled) this.#edma.setDone(this);
    this.#signalled = true;
  }

  #done(): void {
    const remote = (this.#pending & CTL_RIE) !== 0;
    this.#pending = 0;
    this.#edma.setDone(this);
    if (remote) this.#edma.remoteDone(this);
  }

  /** Without LLE the context registers are the one transfer; it stops when that is done. */
  #single(): number {
    if (!this.#once) {
      this.#once = true;
      this.control = this.#control1;
      return FETCHED;
    }
    if (!this.deferStop) this.#stop();
    return RESTS;
  }

  #peek(): number {
    const ptr = this.#edma.link.board.resolve(this.llp, 4, false);
    if (ptr === 0) return RESTS;
    const ctl = ld32(ptr);
    if ((ctl & CTL_LLP) !== 0) return RESTS;
    return (ctl & CTL_CB) === this.ccs ? FETCHED : RESTS;
  }
}
