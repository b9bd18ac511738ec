/**
 * Registers in memory that this process has mapped (a sysfs `resourceN` file, /dev/mem, a test page). Each call is one
 * access through mem.ts. Not for the model, which has its own Mmio.
 */
import { Fault } from "./fault.ts";
import { ld8, ld16, ld32, st8, st16, st32 } from "./mem.ts";
import type { Mmio } from "./mmio.ts";

export class MappedMmio implements Mmio {
  readonly size: number;
  /** CPU address of offset 0 */
  readonly ptr: number;

  /**
   * @param ptr CPU address of offset 0, 4-byte aligned
   * @param size bytes that may be addressed; offsets are not checked against it on access
   */
  constructor(ptr: number, size: number) {
    if (ptr % 4 !== 0)
      throw new Fault("E_SYS", `registers at 0x${ptr.toString(16)}: the address must be a multiple of 4`);
    this.ptr = ptr;
    this.size = size;
  }

  ld8(off: number): number {
    return ld8(this.ptr + off);
  }
  ld16(off: number): number {
    return ld16(this.ptr + off);
  }
  ld32(off: number): number {
    return ld32(this.ptr + off);
  }
  st8(off: number, value: number): void {
    st8(this.ptr + off, value);
  }
  st16(off: number, value: number): void {
    st16(this.ptr + off, value);
  }
  st32(off: number, value: number): void {
    st32(this.ptr + off, value);
  }
}
