/**
 * The model's board memory: one anonymous mapping at a fixed bus address, handed out front to back. In strict mode a
 * region belongs to the DMA engine from the moment it is allocated, except those of a NetPort (names that begin with
 * "eq."): their driver grants buffer by buffer. Linked lists are granted for reading only.
 */
import type { DmaMemory, DmaRegion } from "../dma-memory.ts";
import { Fault } from "../fault.ts";
import { MAP_ANONYMOUS, MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from "../libc.ts";
import { unmap, view } from "../mem.ts";
import { type AddressSpace, REGION_READ, REGION_WRITE } from "./address-space.ts";
import { GRANT_READ, GRANT_WRITE } from "./shadow.ts";

/** bus address of the first byte unless told otherwise */
export const BOARD_BASE = 0x4000_0000;
/** allocations with this prefix are granted by the EQ driver, not here */
export const PORT_PREFIX = "eq.";
/** linked lists (Edma.open): the engine fetches them, nothing of it writes there */
export const LIST_PREFIX = "ll-";

export class BoardMemory implements DmaMemory {
  readonly regions: DmaRegion[] = [];
  readonly size: number;
  /** bus address of the first byte */
  readonly bus: number;
  readonly ptr: number;
  /** the whole memory as words */
  readonly words: Int32Array;
  readonly #space: AddressSpace;
  #used = 0;

  /**
   * @param size bytes, a multiple of 4096, below 2 GiB
   * @param bus bus address of the first byte
   */
  constructor(space: AddressSpace, size: number, bus: number = BOARD_BASE) {
    this.size = size;
    this.bus = bus;
    this.#space = space;
    // shared: a virtual machine may map BAR memory (vfio-user-backing.ts)
    this.ptr = mmap("the model's board memory", size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    this.words = new Int32Array(view(this.ptr, size));
    space.add(bus, size, this.ptr, REGION_READ | REGION_WRITE);
  }

  get free(): number {
    return this.size - this.#used;
  }

  alloc(name: string, size: number, align: number): DmaRegion {
    const unit = Math.max(align, 64);
    const at = Math.ceil(this.#used / unit) * unit;
    if (at + size > this.size)
      throw new Fault(
        "E_MISSING",
        `the model's board memory has ${this.free} bytes left, "${name}" needs ${size} aligned to ${unit}`,
        "make the model with more boardMemory",
      );
    this.#used = at + size;
    const ptr = this.ptr + at;
    // views end on a whole word; the memory behind is ours up to the next multiple of 64
    const bytes = view(ptr, Math.ceil(size / 4) * 4);
    const region: DmaRegion = {
      name,
      ptr,
      bus: this.bus + at,
      size,
      u8: new Uint8Array(bytes, 0, size),
      u16: new Uint16Array(bytes, 0, size >> 1),
      u32: new Uint32Array(bytes, 0, size >> 2),
      i32: new Int32Array(bytes, 0, size >> 2),
    };
    this.regions.push(region);
    if (!name.startsWith(PORT_PREFIX))
      this.#space.shadow?.grant(region.bus, size, name.startsWith(LIST_PREFIX) ? GRANT_READ : GRANT_READ | GRANT_WRITE);
    return region;
  }

  /** Give the mapping back; every view is void. */
  close(): void {
    this.#space.remove(this.bus, this.size);
    unmap(this.ptr, this.size);
  }
}
