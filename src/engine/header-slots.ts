/**
 * Headers that travel to the host as elements of their own, because the board's header must not be written or has
 * another length: a ring of copies in DMA memory, each complete with num_buffers (VIRTIO 1.2 5.1.6.4.1).
 */
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { NET_HDR_NUM_BUFFERS } from "../hw/virtio.layout.ts";
import type { Segments } from "./segments.ts";

/** more than a write channel has elements, so a slot is free again when its turn comes */
const SLOTS = 4096;
/** the longest header is 24 bytes */
const SLOT = 32;

export class HeaderSlots {
  /** bus address of the header made last, int32 words */
  lo = 0;
  hi = 0;
  private readonly out: Uint8Array;
  private readonly baseLo: number;
  private readonly baseHi: number;
  private slot = 0;

  constructor(memory: DmaMemory) {
    const region: DmaRegion = memory.alloc("tx-headers", SLOTS * SLOT, 64);
    this.out = region.u8;
    this.baseLo = region.bus | 0;
    this.baseHi = Math.floor(region.bus / 4294967296);
  }

  /**
   * From a header that lies in one piece at u8[off]. What a longer header of the host has behind the board's belongs to
   * offloads that nobody here uses: zero.
   */
  copy(u8: Uint8Array, off: number, from: number, len: number, buffers: number): void {
    const { out } = this;
    const at = this.take();
    for (let i = 0; i < len; i++) out[at + i] = i < from ? u8[off + i]! : 0;
    this.finish(at, len, buffers);
  }

  /** From the first `from` bytes of a chain, wherever they lie. */
  gather(u8: Uint8Array, src: Segments, from: number, len: number, buffers: number): void {
    const { out } = this;
    const at = this.take();
    let seg = 0;
    let skip = 0;
    for (let i = 0; i < len; i++) {
      if (i >= from) {
        out[at + i] = 0;
        continue;
      }
      while (i - skip >= src.len(seg)) {
        skip += src.len(seg);
        seg++;
      }
      out[at + i] = u8[src.off(seg) + i - skip]!;
    }
    this.finish(at, len, buffers);
  }

  private take(): number {
    const at = this.slot * SLOT;
    this.slot = (this.slot + 1) & (SLOTS - 1);
    return at;
  }

  private finish(at: number, len: number, buffers: number): void {
    const { out, baseLo } = this;
    if (len >= 12) {
      out[at + NET_HDR_NUM_BUFFERS] = buffers & 0xff;
      out[at + NET_HDR_NUM_BUFFERS + 1] = buffers >>> 8;
    }
    const bus = (baseLo + at) | 0;
    this.lo = bus;
    this.hi = bus >>> 0 < baseLo >>> 0 ? (this.baseHi + 1) | 0 : this.baseHi;
  }
}
