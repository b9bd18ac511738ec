/**
 * DmaMemory over pieces of memory, each contiguous both for the CPU and on the bus: regions are cut from the front of
 * the piece that they fit best, and never given back. Where the pieces come from is the owner's business
 * (dma-hugepage.ts).
 */
import type { DmaMemory, DmaRegion } from "./dma-memory.ts";
import { Fault } from "./fault.ts";
import { view } from "./mem.ts";

/** least alignment of a region: a cache line, so that two agents never share one */
const LINE = 64;

/** CPU address, bus address and size of one contiguous piece, all multiples of 64 */
export interface Chunk {
  readonly ptr: number;
  readonly bus: number;
  readonly size: number;
}

export class ChunkMemory implements DmaMemory {
  readonly regions: DmaRegion[] = [];
  private readonly chunks: readonly Chunk[];
  /** per chunk, offset of the first byte that is not handed out */
  private readonly used: number[];
  private readonly hint: string;

  /** @param hint the command that makes larger pieces possible, for the Fault */
  constructor(chunks: readonly Chunk[], hint: string) {
    this.chunks = chunks;
    this.used = chunks.map(() => 0);
    this.hint = hint;
  }

  /** Bus addresses and sizes of the pieces in order, as text: equal for memory that hands out the same places. */
  get layout(): string {
    return this.chunks.map((c) => `${c.bus.toString(16)}+${c.size.toString(16)}`).join(",");
  }

  /** The largest region that could still be allocated, in bytes (alignment 64). */
  get free(): number {
    return this.chunks.reduce((most, c, i) => Math.max(most, c.size - this.used[i]!), 0);
  }

  alloc(name: string, size: number, align: number): DmaRegion {
    if (!Number.isInteger(size) || size <= 0)
      throw new Fault("E_USAGE", `DMA region ${name} of ${size} bytes was asked`);
    if (!Number.isInteger(Math.log2(align)))
      throw new Fault("E_USAGE", `alignment ${align} of ${name} is no power of two`);
    const unit = Math.max(align, LINE);
    let best = -1;
    let at = 0;
    let left = Number.POSITIVE_INFINITY;
    let most = 0;
    this.chunks.forEach((c, i) => {
      // aligned on the bus: that is what BAR targets and the engine look at
      const off = Math.ceil((c.bus + this.used[i]!) / unit) * unit - c.bus;
      const after = c.size - off - size;
      most = Math.max(most, c.size - off);
      if (after >= 0 && after < left) {
        best = i;
        at = off;
        left = after;
      }
    });
    if (best < 0) {
      const total = this.chunks.reduce((n, c) => n + c.size, 0);
      const pieces = this.chunks.length === 1 ? "" : ` in ${this.chunks.length} pieces`;
      throw new Fault(
        "E_MISSING",
        `DMA memory for ${name}: ${size} bytes aligned to ${unit} were asked, ${most} of ${total}${pieces} are left`,
        this.hint,
      );
    }
    const c = this.chunks[best]!;
    this.used[best] = Math.ceil((at + size) / LINE) * LINE;
    // whole words in every view, so the length is rounded up inside the cache line the region owns
    const buffer = view(c.ptr + at, Math.ceil(size / 4) * 4);
    const region: DmaRegion = {
      name,
      ptr: c.ptr + at,
      bus: c.bus + at,
      size,
      u8: new Uint8Array(buffer, 0, size),
      u16: new Uint16Array(buffer, 0, size >>> 1),
      u32: new Uint32Array(buffer, 0, size >>> 2),
      i32: new Int32Array(buffer, 0, size >>> 2),
    };
    this.regions.push(region);
    return region;
  }
}
