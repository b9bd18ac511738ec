/**
 * A Controller whose register writes are written down: `bind --dry-run` lists them without one being made, `bind -v`
 * lists them as they happen. Only for set-up; the service loop runs on the real controller.
 */
import type { Controller } from "../../hw/controller.ts";
import type { DmaMemory, DmaRegion } from "../../hw/dma-memory.ts";
import type { Mmio } from "../../hw/mmio.ts";

/** One write. `value` is unsigned; `space` is the register block. */
export interface RecordedWrite {
  readonly space: "dbi" | "dbi2" | "atu" | "dma";
  readonly offset: number;
  readonly bits: 8 | 16 | 32;
  readonly value: number;
}

/** viewport form of the iATU: what is at 0x904.. depends on the index written here */
const VIEWPORT = 0x900;
const VIEWPORT_END = 0x930;

class RecordingMmio implements Mmio {
  readonly size: number;
  /** dry run: what a read must give after a write that was not made */
  private readonly shadow = new Map<number, number>();
  private viewport = 0;

  constructor(
    private readonly io: Mmio,
    private readonly space: RecordedWrite["space"],
    private readonly log: RecordedWrite[],
    private readonly dry: boolean,
    private readonly hasViewport: boolean,
  ) {
    this.size = io.size;
  }

  private key(off: number): number {
    const word = off & ~3;
    return this.hasViewport && word > VIEWPORT && word < VIEWPORT_END ? word + (this.viewport + 1) * 2 ** 20 : word;
  }

  private word(off: number): number {
    const known = this.dry ? this.shadow.get(this.key(off)) : undefined;
    return known ?? this.io.ld32(off & ~3);
  }

  private store(off: number, bits: 8 | 16 | 32, value: number): void {
    const v = bits === 32 ? value >>> 0 : value & (2 ** bits - 1);
    this.log.push({ space: this.space, offset: off, bits, value: v });
    if (this.hasViewport && off === VIEWPORT) this.viewport = v;
    if (!this.dry) {
      if (bits === 32) this.io.st32(off, v);
      else if (bits === 16) this.io.st16(off, v);
      else this.io.st8(off, v);
      return;
    }
    const shift = (off & 3) * 8;
    const mask = bits === 32 ? -1 : ((2 ** bits - 1) << shift) | 0;
    this.shadow.set(this.key(off), ((this.word(off) & ~mask) | ((v << shift) & mask)) >>> 0);
  }

  ld32(off: number): number {
    return this.dry ? this.word(off) >>> 0 : this.io.ld32(off);
  }
  ld16(off: number): number {
    return this.dry ? (this.word(off) >>> ((off & 2) * 8)) & 0xffff : this.io.ld16(off);
  }
  ld8(off: number): number {
    return this.dry ? (this.word(off) >>> ((off & 3) * 8)) & 0xff : this.io.ld8(off);
  }
  st32(off: number, value: number): void {
    this.store(off, 32, value);
  }
  st16(off: number, value: number): void {
    this.store(off, 16, value);
  }
  st8(off: number, value: number): void {
    this.store(off, 8, value);
  }
}

/** Regions of a dry run: ordinary memory, with a bus address that only shows where a real one would stand. */
class PlannedMemory implements DmaMemory {
  readonly regions: DmaRegion[] = [];
  readonly free = Number.MAX_SAFE_INTEGER;
  private next = 0;
  constructor(private readonly make: (size: number) => { ptr: number; buffer: ArrayBuffer }) {}

  alloc(name: string, size: number, align: number): DmaRegion {
    const bus = Math.ceil(this.next / align) * align;
    this.next = bus + size;
    const { ptr, buffer } = this.make(size);
    const region: DmaRegion = {
      name,
      ptr,
      bus,
      size,
      u8: new Uint8Array(buffer),
      u16: new Uint16Array(buffer),
      u32: new Uint32Array(buffer),
      i32: new Int32Array(buffer),
    };
    this.regions.push(region);
    return region;
  }
}

export interface Recording {
  readonly controller: Controller;
  readonly writes: readonly RecordedWrite[];
}

/**
 * @param dry true: nothing is written, reads see what would have been written; board memory comes from `scratch`
 *   (for example mem.ts mapAnonymous and view), so bus addresses in the list count from 0
 */
export function recordWrites(
  ctrl: Controller,
  dry: boolean,
  scratch: (size: number) => { ptr: number; buffer: ArrayBuffer },
): Recording {
  const writes: RecordedWrite[] = [];
  const wrap = (io: Mmio, space: RecordedWrite["space"]): Mmio =>
    new RecordingMmio(io, space, writes, dry, space === "dbi" && ctrl.atu === null);
  const controller: Controller = {
    name: ctrl.name,
    isModel: ctrl.isModel,
    dbi: wrap(ctrl.dbi, "dbi"),
    dbi2: wrap(ctrl.dbi2, "dbi2"),
    atu: ctrl.atu === null ? null : wrap(ctrl.atu, "atu"),
    dma: wrap(ctrl.dma, "dma"),
    window: ctrl.window,
    windowBus: ctrl.windowBus,
    memory: dry ? new PlannedMemory(scratch) : ctrl.memory,
    core: ctrl.core,
    turn: () => ctrl.turn(),
    close: () => {},
  };
  return { controller, writes };
}
