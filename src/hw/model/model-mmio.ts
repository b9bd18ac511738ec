/**
 * Register windows of the model: sub-word accesses become 32-bit accesses with byte lanes, as on the bus. A space
 * gives reads of whole words (int32) and writes with a lane mask.
 */
import type { Mmio } from "../mmio.ts";

export interface WordSpace {
  /** the aligned word at byte offset `off`, int32 */
  readWord(off: number): number;
  /** @param lanes mask of the bits that the access carries */
  writeWord(off: number, value: number, lanes: number): void;
}

export class ModelMmio implements Mmio {
  readonly size: number;
  readonly #space: WordSpace;

  constructor(space: WordSpace, size: number) {
    this.#space = space;
    this.size = size;
  }

  ld8(off: number): number {
    return (this.#space.readWord(off & ~3) >>> ((off & 3) * 8)) & 0xff;
  }
  ld16(off: number): number {
    return (this.#space.readWord(off & ~3) >>> ((off & 3) * 8)) & 0xffff;
  }
  ld32(off: number): number {
    return this.#space.readWord(off) >>> 0;
  }
  st8(off: number, value: number): void {
    const shift = (off & 3) * 8;
    this.#space.writeWord(off & ~3, value << shift, 0xff << shift);
  }
  st16(off: number, value: number): void {
    const shift = (off & 3) * 8;
    this.#space.writeWord(off & ~3, value << shift, 0xffff << shift);
  }
  st32(off: number, value: number): void {
    this.#space.writeWord(off, value | 0, -1);
  }
}
