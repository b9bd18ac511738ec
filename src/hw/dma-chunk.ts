/**
 * DmaMemory over one piece of memory that is contiguous both for the CPU and on the bus: regions are cut from its
 * front and never given back. Where the piece comes from is the owner's business (dma-hugepage.ts).
 */
import type { DmaMemory, DmaRegion } from "./dma-memory.ts";
import { Fault } from "./fault.ts";
import { view } from "./mem.ts";

/** least alignment of a region: a cache line, so that two agents never share one */
const LINE = 64;

export class ChunkMemory implements DmaMemory {
  readonly regions: DmaRegion[] = [];
  private readonly ptr: number;
  private readonly bus: number;
  private readonly size: number;
  private readonly hint: string;
  private next = 0;

  /** @param hint the command that makes a larger piece possible, for the Fault */
  constructor(ptr: number, bus: number, size: number, hint: string) {
    this.ptr = ptr;
    this.bus = bus;
    this.size = size;
    this.hint = hint;
  }

  get free(): number {
    return this.size - this.next;
  }

  alloc(name: string, size: number, align: number): DmaRegion {
    if (!Number.isInteger(size) || size <= 0)
      throw new Fault("E_USAGE", `DMA region ${name} of ${size} bytes was asked`);
    if (!Number.isInteger(Math.log2(align)))
      throw new Fault("E_USAGE", `alignment ${align} of ${name} is no power of two`);
    const unit = Math.max(align, LINE);
    // aligned on the bus: that is what BAR targets and the engine look at
    const off = Math.ceil((this.bus + this.next) / unit) * unit - this.bus;
    if (off + size > this.size)
      throw new Fault(
        "E_MISSING",
        `DMA memory for ${name}: ${size} bytes aligned to ${unit} were asked, ${Math.max(0, this.size - off)} of ${this.size} are left`,
        this.hint,
      );
    this.next = off + size;
    // whole words in every view, so the length is rounded up inside the cache line the region owns
    const buffer = view(this.ptr + off, Math.ceil(size / 4) * 4);
    const region: DmaRegion = {
      name,
      ptr: this.ptr + off,
      bus: this.bus + off,
      size,
      u8: new Uint8Array(buffer, 0, size),
      u16: new Uint16Array(buffer, 0, size >>> 1),
      u32: new Uint32Array(buffer, 0, size >>> 2),
      i32: new Int32Array(buffer, 0, size >>> 2),
    };
    this.next = Math.ceil(this.next / LINE) * LINE;
    this.regions.push(region);
    return region;
  }
}
