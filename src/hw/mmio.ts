/**
 * Register access as the rest of epnic sees it. Two implementations: mapped memory (mapped-mmio.ts) and the
 * software controller (model/). Only one is live in a process, so call sites stay monomorphic.
 *
 * Every call is exactly one access of that width, never elided, merged, repeated or reordered against other
 * Mmio calls. Offsets are bytes and must be aligned to the width. Loads return unsigned numbers.
 */
export interface Mmio {
  /** bytes that may be addressed */
  readonly size: number;
  ld8(off: number): number;
  ld16(off: number): number;
  ld32(off: number): number;
  st8(off: number, value: number): void;
  st16(off: number, value: number): void;
  st32(off: number, value: number): void;
}
