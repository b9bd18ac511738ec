/**
 * DmaMemory over plain anonymous memory for tests: the CPU view is real, the bus address is any number the test
 * likes, so that a mix-up of the two shows.
 */
import type { DmaMemory, DmaRegion } from "../../src/hw/dma-memory.ts";
import { Fault } from "../../src/hw/fault.ts";
import { mapAnonymous, unmap, view } from "../../src/hw/mem.ts";

export interface TestMemory extends DmaMemory {
  /** CPU address of the whole block */
  readonly ptr: number;
  readonly busBase: number;
  readonly size: number;
  /** CPU address of a bus address */
  cpu(bus: number): number;
  /** Unmap; the regions must not be used afterwards. */
  release(): void;
}

/** `bytes` of memory that appear at bus address `busBase`, handed out from the bottom up. */
export function testMemory(bytes: number, busBase: number): TestMemory {
  const size = Math.ceil(bytes / 4096) * 4096;
  const base = mapAnonymous(size);
  const regions: DmaRegion[] = [];
  let next = 0;
  return {
    ptr: base,
    busBase,
    size,
    regions,
    get free() {
      return size - next;
    },
    alloc(name, want, align) {
      const a = Math.max(64, align);
      const off = Math.ceil((busBase + next) / a) * a - busBase;
      if (off + want > size)
        throw new Fault(
          "E_MISSING",
          `${name} needs ${want} bytes, ${size - off} of ${size} bytes of test memory are left`,
        );
      next = off + want;
      const buffer = view(base + off, want);
      const region: DmaRegion = {
        name,
        ptr: base + off,
        bus: busBase + off,
        size: want,
        u8: new Uint8Array(buffer),
        u16: new Uint16Array(buffer, 0, want >> 1),
        u32: new Uint32Array(buffer, 0, want >> 2),
        i32: new Int32Array(buffer, 0, want >> 2),
      };
      regions.push(region);
      return region;
    },
    cpu: (bus) => base + (bus - busBase),
    release() {
      unmap(base, size);
    },
  };
}
