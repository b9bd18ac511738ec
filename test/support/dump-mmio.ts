/** Registers with the contents of a dump (fixtures/boards): plain cells without behaviour, unknown ones read 0. */
import type { Mmio } from "../../src/hw/mmio.ts";
import type { DumpEntry } from "../../src/hw/reg-table.ts";

export class DumpMmio implements Mmio {
  readonly size: number;
  readonly cells = new Map<number, number>();
  readonly writes: [off: number, value: number][] = [];

  constructor(entries: readonly DumpEntry[], size = 0x100000) {
    this.size = size;
    for (const e of entries) this.cells.set(e.offset, e.value);
  }
  ld32(off: number): number {
    return (this.cells.get(off) ?? 0) >>> 0;
  }
  ld16(off: number): number {
    return (this.ld32(off & ~3) >>> ((off & 2) * 8)) & 0xffff;
  }
  ld8(off: number): number {
    return (this.ld32(off & ~3) >>> ((off & 3) * 8)) & 0xff;
  }
  st32(off: number, value: number): void {
    this.writes.push([off, value >>> 0]);
    this.cells.set(off, value >>> 0);
  }
  st16(off: number): void {
    throw new Error(`16-bit write at 0x${off.toString(16)}: several SoCs allow none`);
  }
  st8(off: number): void {
    throw new Error(`8-bit write at 0x${off.toString(16)}: several SoCs allow none`);
  }
}
