/**
 * Memory of the board that the endpoint controller's DMA and inbound windows can reach: one CPU view and one
 * bus address for the same bytes. Implementations: hugepages with addresses from pagemap (dma-hugepage.ts) and
 * the board memory of the model.
 *
 * Words that the eDMA or the host may write are read through mem.ts (`ld16/ld32` on `ptr + offset`); bulk
 * contents may be read through the typed arrays after such a call in the same turn (design.md fact 7).
 */
export interface DmaRegion {
  readonly name: string;
  /** CPU virtual address, a Number below 2^53 */
  readonly ptr: number;
  /** address the DMA engine uses for the first byte, a Number below 2^53 */
  readonly bus: number;
  readonly size: number;
  /** live views over exactly these bytes */
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
}

export interface DmaMemory {
  /**
   * A zeroed region, contiguous on the bus. `align` is a power of two, at least 64 is used.
   * @throws Fault E_MISSING when no such memory is left (both sizes named, with the command to reserve more)
   */
  alloc(name: string, size: number, align: number): DmaRegion;
  /** all regions handed out so far, in order of allocation */
  readonly regions: readonly DmaRegion[];
  /** bytes left for alloc() */
  readonly free: number;
}
