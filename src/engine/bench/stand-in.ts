/**
 * The eDMA that `bench cpu` runs against: registers in plain memory, and step(), which stands for the hardware
 * between two blocks of turns and is not timed. It obeys doorbells, the cycle bit and LLP, and moves ring words
 * (mirror fetches, used elements, indexes); payload is not moved, so that what is timed is the engine and nothing else.
 * During a block the registers stand still, as a block is about as long as a round trip of a link: busy channels run.
 */
import type { DmaMemory, DmaRegion } from "../../hw/dma-memory.ts";
import {
  CS_RUNNING,
  CS_STOPPED,
  CTL_CB,
  CTL_CCS,
  CTL_CS_SHIFT,
  CTL_LLE,
  CTL_LLP,
  contextOffset,
  EDMA,
  EDMA_CH,
  EDMA_UNROLL_SIZE,
  LL_BYTES,
  LL_DAR_HI,
  LL_DAR_LO,
  LL_SAR_HI,
  LL_SAR_LO,
  LL_SIZE,
  LL_WORDS,
} from "../../hw/edma.regs.ts";
import { EdmaChannel } from "../../hw/edma-channel.ts";
import { MappedMmio } from "../../hw/mapped-mmio.ts";
import { copy, ld32, mapAnonymous, st32, unmap } from "../../hw/mem.ts";

/** what the doorbell register holds while nobody has rung */
const SILENT = 0xffffffff;
const TWO32 = 4294967296;

/** Where the host's ring words are; elements that touch nothing there are payload. */
export interface RingArea {
  readonly bus: number;
  readonly ptr: number;
  readonly bytes: number;
}

/** One channel's other side: what the silicon does with the list. */
class Lane {
  readonly channel: EdmaChannel;
  private readonly ll: DmaRegion;
  private readonly isWrite: boolean;
  private readonly control: number;
  private readonly llp: number;
  private word = 0;
  private ccs = 1;
  running = false;
  elements = 0;

  constructor(regs: MappedMmio, isWrite: boolean, index: number, ll: DmaRegion) {
    this.isWrite = isWrite;
    this.ll = ll;
    this.channel = new EdmaChannel(regs, { map: "edma-unroll", isWrite, index }, ll);
    const context = regs.ptr + contextOffset(isWrite, index);
    this.control = context + EDMA_CH.CH_CONTROL1;
    this.llp = context + EDMA_CH.CH_LLP_LO;
    this.channel.start();
  }

  /** Take up everything whose cycle bit matches; stop when there is nothing new. */
  step(rings: RingArea, boardPtr: number, boardBus: number): void {
    if (!this.running) return;
    const i32 = this.ll.i32;
    let w = this.word;
    let ccs = this.ccs;
    let done = 0;
    st32(this.control, (CS_RUNNING << CTL_CS_SHIFT) | CTL_CCS | CTL_LLE);
    for (;;) {
      const ctl = i32[w]!;
      if ((ctl & CTL_LLP) !== 0) {
        if ((ctl & CTL_CB) !== (ccs ^ 1)) break;
        ccs ^= 1;
        w = 0;
        continue;
      }
      if ((ctl & CTL_CB) !== ccs) break;
      const src = (i32[w + LL_SAR_HI]! >>> 0) * TWO32 + (i32[w + LL_SAR_LO]! >>> 0);
      const dst = (i32[w + LL_DAR_HI]! >>> 0) * TWO32 + (i32[w + LL_DAR_LO]! >>> 0);
      const at = (this.isWrite ? dst : src) - rings.bus;
      if (at >= 0 && at < rings.bytes) {
        const local = boardPtr + (this.isWrite ? src : dst) - boardBus;
        if (this.isWrite) copy(rings.ptr + at, local, i32[w + LL_SIZE]!);
        else copy(local, rings.ptr + at, i32[w + LL_SIZE]!);
      }
      w += LL_WORDS;
      done++;
    }
    this.word = w;
    this.ccs = ccs;
    this.elements += done;
    const llp = this.ll.bus + (w / LL_WORDS) * LL_BYTES;
    st32(this.llp, llp | 0);
    if (done === 0) {
      this.running = false;
      st32(this.control, (CS_STOPPED << CTL_CS_SHIFT) | CTL_CCS | CTL_LLE);
    }
  }
}

export class StandIn {
  readonly write: EdmaChannel;
  readonly read: EdmaChannel;
  readonly fetch: EdmaChannel;
  private readonly lanes: Lane[];
  private readonly regs: number;
  private readonly rings: RingArea;
  private readonly boardPtr: number;
  private readonly boardBus: number;

  /**
   * @param memory the board's memory; all of it starts at `boardBus` and is contiguous at `boardPtr`
   * @param elements list length of each channel
   */
  constructor(memory: DmaMemory, boardPtr: number, boardBus: number, rings: RingArea, elements: number) {
    this.rings = rings;
    this.boardPtr = boardPtr;
    this.boardBus = boardBus;
    this.regs = mapAnonymous(EDMA_UNROLL_SIZE);
    const mmio = new MappedMmio(this.regs, EDMA_UNROLL_SIZE);
    const lane = (isWrite: boolean, index: number): Lane =>
      new Lane(
        mmio,
        isWrite,
        index,
        memory.alloc(`ll-${isWrite ? "wr" : "rd"}${index}`, (elements + 3) * LL_BYTES, 64),
      );
    this.lanes = [lane(true, 0), lane(false, 0), lane(false, 1)];
    this.write = this.lanes[0]!.channel;
    this.read = this.lanes[1]!.channel;
    this.fetch = this.lanes[2]!.channel;
    st32(this.regs + EDMA.WR_DOORBELL, SILENT);
    st32(this.regs + EDMA.RD_DOORBELL, SILENT);
  }

  /** Everything that the hardware does until the next turn. One doorbell register serves both read channels. */
  step(): void {
    if (ld32(this.regs + EDMA.WR_DOORBELL) !== SILENT) {
      st32(this.regs + EDMA.WR_DOORBELL, SILENT);
      this.lanes[0]!.running = true;
    }
    if (ld32(this.regs + EDMA.RD_DOORBELL) !== SILENT) {
      st32(this.regs + EDMA.RD_DOORBELL, SILENT);
      // The last of two doorbells in one turn hides the other; a channel with nothing new stops again at once.
      this.lanes[1]!.running = true;
      this.lanes[2]!.running = true;
    }
    for (let i = 0; i < 3; i++) this.lanes[i]!.step(this.rings, this.boardPtr, this.boardBus);
  }

  /** elements taken up so far, all channels */
  get elements(): number {
    return this.lanes[0]!.elements + this.lanes[1]!.elements + this.lanes[2]!.elements;
  }

  close(): void {
    unmap(this.regs, EDMA_UNROLL_SIZE);
  }
}
