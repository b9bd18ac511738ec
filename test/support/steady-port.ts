/** A board's side for heap measurements: two bare rings whose driver is the test; nothing in it allocates. */
import type { DmaMemory, DmaRegion } from "../../src/hw/dma-memory.ts";
import { DriverRing, type Grants } from "../../src/hw/driver-ring.ts";
import type { LocalBuffers, NetPort } from "../../src/hw/net-port.ts";

/** bytes between the rings, and in front of the buffers */
const RING_SPAN = 65536;

export class SteadyPort implements NetPort {
  readonly kind = "test";
  readonly netdev = "";
  readonly rxMergeable = true;
  readonly copiedBytes = 0;
  readonly waitFds = [];
  ready = false;
  generation = 0;
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  readonly buffers: LocalBuffers;
  /** bus address of the first byte of buffers */
  readonly base: number;

  constructor(
    memory: DmaMemory,
    grants: Grants | null,
    readonly txHeaderWritable: boolean,
    bytes: number,
  ) {
    const area: DmaRegion = memory.alloc("eq.steady", 2 * RING_SPAN + bytes, 4096);
    const ring = (i: number): DriverRing =>
      new DriverRing({
        size: 256,
        mem: { ptr: area.ptr + i * RING_SPAN, busBase: area.bus + i * RING_SPAN },
        align: 64,
        eventIdx: false,
        grants,
      });
    this.rx = ring(0);
    this.tx = ring(1);
    this.base = area.bus + 2 * RING_SPAN;
    this.buffers = {
      base: area.bus,
      busBase: area.bus,
      u8: area.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => -1,
    };
  }

  resumeIdx(): number {
    return 0;
  }
  start(): void {
    this.generation++;
    this.ready = true;
  }
  stop(): void {
    this.ready = false;
  }
  turn(): number {
    return 0;
  }
  notify(): void {}
  setLink(): void {}
  close(): void {}
}
