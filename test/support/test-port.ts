/**
 * An in-process NetPort: the driver's side of both board queues in the model's memory, frames sent by the test and
 * received ones handed to it. One descriptor a frame by default; rx buffers may be small and mergeable.
 */
import type { DmaMemory, DmaRegion } from "../../src/hw/dma-memory.ts";
import { DriverRing, type Grants, ringLayout } from "../../src/hw/driver-ring.ts";
import type { LocalBuffers, NetPort, PortFeatures } from "../../src/hw/net-port.ts";

const SLOT = 68 * 1024;

export class TestPort implements NetPort {
  readonly kind = "test";
  readonly netdev = "";
  readonly txHeaderWritable: boolean;
  readonly rxMergeable = false;
  readonly copiedBytes = 0;
  readonly waitFds = [];
  ready = false;
  generation = 0;
  linkUp = false;
  features: PortFeatures | null = null;
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  readonly buffers: LocalBuffers;
  /** interrupts raised per queue */
  readonly notified = [0, 0];
  starts = 0;
  /** give receive buffers back to the ring */
  refilling = true;
  /** administratively up */
  up = true;
  private readonly area: DmaRegion;
  private readonly queue: Uint8Array[] = [];
  private readonly txSlots: number[] = [];
  private readonly rxSlots: number[] = [];
  private readonly slotOf = [new Int32Array(1024), new Int32Array(1024)];

  constructor(
    memory: DmaMemory,
    private readonly grants: Grants | null,
    private readonly onFrame: (frame: Uint8Array, hdr: Uint8Array) => void,
    size = 64,
    patch = true,
  ) {
    this.txHeaderWritable = patch;
    const lay = ringLayout(size, 64);
    this.area = memory.alloc("eq.test", 2 * lay.bytes + 2 * size * SLOT, 4096);
    const ring = (i: number): DriverRing =>
      new DriverRing({
        size,
        mem: { ptr: this.area.ptr + i * lay.bytes, busBase: this.area.bus + i * lay.bytes },
        align: 64,
        eventIdx: false,
        grants,
      });
    this.rx = ring(0);
    this.tx = ring(1);
    const first = 2 * lay.bytes;
    for (let i = 0; i < size; i++) {
      this.txSlots.push(first + i * SLOT);
      this.rxSlots.push(first + (size + i) * SLOT);
    }
    this.buffers = {
      base: this.area.bus,
      busBase: this.area.bus,
      u8: this.area.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => -1,
    };
  }

  /** frames not yet given to the engine */
  get backlog(): number {
    return this.queue.length;
  }

  /** frames that the engine has not given back */
  get sending(): number {
    return this.tx.inFlight;
  }

  isUp(): boolean {
    return this.up;
  }

  /**
   * The board's driver starts over while the engine is live. What the engine was still sending stays readable, as the
   * bounce pages of a kernel do, and is used again only when it has been sent.
   * @param turn lets one turn of the engine pass @returns from it true when nothing of before is under way
   */
  restart(turn: () => boolean): void {
    if (!this.ready || this.features === null) return;
    const held = this.txSlots.splice(0);
    const grants = this.grants;
    const inUse = [...this.slotOf[1]!].filter((at) => at !== 0);
    this.stop();
    this.txSlots.splice(0);
    this.txSlots.push(...held);
    for (const at of inUse) grants?.grant(this.area.bus + at, SLOT, 1);
    this.start(this.features);
    for (let i = 0; i < 50_000 && !turn(); i++);
    for (const at of inUse) {
      grants?.revoke(this.area.bus + at, SLOT);
      if (!this.txSlots.includes(at)) this.txSlots.push(at);
    }
  }

  /** Queue a frame (without header). */
  send(frame: Uint8Array): void {
    this.queue.push(frame);
  }

  resumeIdx(): number {
    return 0;
  }

  start(f: PortFeatures): void {
    this.features = f;
    this.starts++;
    this.generation++;
    this.ready = true;
    this.fill();
  }

  stop(): void {
    this.ready = false;
    for (const [ring, slots, i] of [
      [this.rx, this.rxSlots, 0],
      [this.tx, this.txSlots, 1],
    ] as const) {
      const held = new Set(slots);
      ring.reset();
      for (let k = 0; k < ring.size; k++) {
        const at = this.slotOf[i]![k]!;
        if (at !== 0 && !held.has(at)) slots.push(at);
        this.slotOf[i]![k] = 0;
      }
    }
  }

  private fill(): void {
    if (!this.refilling) return;
    while (this.rx.freeCount > 0 && this.rxSlots.length > 0) {
      const at = this.rxSlots.pop()!;
      const head = this.rx.addOne((this.area.bus + at) | 0, 0, SLOT, true);
      this.slotOf[0]![head] = at;
    }
    this.rx.publish();
  }

  turn(): number {
    if (!this.ready) return 0;
    const hdr = this.features!.hdrLen;
    let work = 0;
    for (let head = this.rx.take(); head >= 0; head = this.rx.take()) {
      const at = this.slotOf[0]![head]!;
      const bytes = this.area.u8.slice(at, at + this.rx.usedLen);
      this.onFrame(bytes.subarray(hdr), bytes.subarray(0, hdr));
      this.rxSlots.push(at);
      this.slotOf[0]![head] = 0;
      work++;
    }
    if (work > 0 || this.rx.freeCount > 0) this.fill();
    for (let head = this.tx.take(); head >= 0; head = this.tx.take()) {
      this.txSlots.push(this.slotOf[1]![head]!);
      this.slotOf[1]![head] = 0;
      work++;
    }
    if (this.rx.broken !== 0 || this.tx.broken !== 0)
      throw new Error(`ring broken: rx ${this.rx.broken} tx ${this.tx.broken}`);
    while (this.queue.length > 0 && this.txSlots.length > 0 && this.tx.freeCount > 0) {
      const frame = this.queue.shift()!;
      const at = this.txSlots.pop()!;
      this.area.u8.fill(0, at, at + hdr);
      this.area.u8.set(frame, at + hdr);
      const head = this.tx.addOne((this.area.bus + at) | 0, 0, hdr + frame.length, false);
      this.slotOf[1]![head] = at;
      work++;
    }
    this.tx.publish();
    return work;
  }

  notify(queue: number): void {
    this.notified[queue]!++;
  }

  setLink(up: boolean): void {
    this.linkUp = up;
  }

  close(): void {}
}
