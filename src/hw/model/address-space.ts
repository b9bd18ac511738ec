/**
 * A bus as the model sees it: regions of bus addresses and the process memory behind them. The host's memory and the
 * board's memory are one AddressSpace each. It owns no memory: who adds a region maps it, removes it and only then
 * unmaps it.
 */
import { Fault } from "../fault.ts";
import { Shadow } from "./shadow.ts";

/** DMA may read the region */
export const REGION_READ = 1;
/** DMA may write the region */
export const REGION_WRITE = 2;

export class AddressSpace {
  readonly name: string;
  /** strict mode, or null */
  readonly shadow: Shadow | null;
  /** contiguous bytes behind the last resolve(), at most the length asked for */
  run = 0;
  /** changes whenever a region is added or removed: cached pointers are void then */
  generation = 0;
  readonly #base: number[] = [];
  readonly #end: number[] = [];
  readonly #ptr: number[] = [];
  readonly #flags: number[] = [];
  // the region of the last hit; an empty range when there is none
  #hitBase = 0;
  #hitEnd = 0;
  #hitPtr = 0;
  #hitFlags = 0;

  constructor(name: string, options: { strict?: boolean } = {}) {
    this.name = name;
    this.shadow = options.strict ? new Shadow() : null;
  }

  /** regions now in the space */
  get count(): number {
    return this.#base.length;
  }

  /**
   * Put `size` bytes of process memory at `ptr` behind bus addresses from `base` on.
   * @param size any number of bytes, regions above 4 GiB included
   * @param flags REGION_READ | REGION_WRITE
   * @throws Fault E_SYS when the range overlaps another region or leaves 2^53
   */
  add(base: number, size: number, ptr: number, flags: number): void {
    const end = base + size;
    if (!(size > 0) || base < 0 || end > Number.MAX_SAFE_INTEGER)
      throw new Fault("E_SYS", `${this.name}: no region of ${size} bytes can be at 0x${base.toString(16)}`);
    const at = this.#after(base);
    const clash =
      at > 0 && this.#end[at - 1]! > base ? at - 1 : at < this.#base.length && this.#base[at]! < end ? at : -1;
    if (clash >= 0)
      throw new Fault(
        "E_SYS",
        `${this.name}: region 0x${base.toString(16)}-0x${end.toString(16)} overlaps 0x${this.#base[clash]!.toString(16)}-0x${this.#end[clash]!.toString(16)}`,
        "remove the old region first",
      );
    this.#base.splice(at, 0, base);
    this.#end.splice(at, 0, end);
    this.#ptr.splice(at, 0, ptr);
    this.#flags.splice(at, 0, flags);
    this.shadow?.add(base, size);
    this.#changed();
  }

  /** Take a range of addresses out; regions that stick out of it are cut. A range with no memory is no error. */
  remove(base: number, size: number): void {
    const end = base + size;
    for (let i = this.#base.length - 1; i >= 0; i--) {
      const b = this.#base[i]!;
      const e = this.#end[i]!;
      if (e <= base || b >= end) continue;
      const ptr = this.#ptr[i]!;
      const flags = this.#flags[i]!;
      this.#base.splice(i, 1);
      this.#end.splice(i, 1);
      this.#ptr.splice(i, 1);
      this.#flags.splice(i, 1);
      if (e > end) this.#insert(i, end, e, ptr + (end - b), flags);
      if (b < base) this.#insert(i, b, base, ptr, flags);
    }
    this.shadow?.remove(base, size);
    this.#changed();
  }

  /**
   * CPU pointer of `addr`, or 0 when nothing is there or the region may not be accessed this way. `run` then says how
   * many of `len` bytes follow contiguously (0 when nothing); the rest is to be resolved again.
   */
  resolve(addr: number, len: number, write: boolean): number {
    if (addr < this.#hitBase || addr >= this.#hitEnd) {
      if (!this.#find(addr)) {
        this.run = 0;
        return 0;
      }
    }
    if ((this.#hitFlags & (write ? REGION_WRITE : REGION_READ)) === 0) {
      this.run = 0;
      return 0;
    }
    const left = this.#hitEnd - addr;
    this.run = left < len ? left : len;
    return this.#hitPtr + (addr - this.#hitBase);
  }

  /** Whether some region holds `addr`, whatever may be done with it. */
  holds(addr: number): boolean {
    return (addr >= this.#hitBase && addr < this.#hitEnd) || this.#find(addr);
  }

  /** index of the first region whose base is above `base` */
  #after(base: number): number {
    let lo = 0;
    let hi = this.#base.length;
    while (lo < hi) {
      const mid = (lo + hi) >> 1;
      if (this.#base[mid]! <= base) lo = mid + 1;
      else hi = mid;
    }
    return lo;
  }

  #find(addr: number): boolean {
    const i = this.#after(addr) - 1;
    if (i < 0 || addr >= this.#end[i]!) return false;
    this.#hitBase = this.#base[i]!;
    this.#hitEnd = this.#end[i]!;
    this.#hitPtr = this.#ptr[i]!;
    this.#hitFlags = this.#flags[i]!;
    return true;
  }

  #insert(at: number, base: number, end: number, ptr: number, flags: number): void {
    this.#base.splice(at, 0, base);
    this.#end.splice(at, 0, end);
    this.#ptr.splice(at, 0, ptr);
    this.#flags.splice(at, 0, flags);
  }

  #changed(): void {
    this.#hitBase = 0;
    this.#hitEnd = 0;
    this.generation++;
  }
}
