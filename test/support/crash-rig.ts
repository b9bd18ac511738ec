/**
 * epnic as a succession of processes that are killed: the model's controller, a host's driver, the board's driver and memory
 * that outlives a process stay, everything else is dropped without a word and made anew. A process can be made to die at
 * its n-th register access, which is where a start changes anything that others see. Frames are checked byte by byte; what
 * was under way when a process died may come twice, and only then.
 */
import { isKept, LifeStore } from "../../src/engine/adopt.ts";
import { type Assembly, assemble } from "../../src/engine/assemble.ts";
import type { Controller } from "../../src/hw/controller.ts";
import { ChunkMemory } from "../../src/hw/dma-chunk.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import { Edma } from "../../src/hw/edma.ts";
import { fill, ld16 } from "../../src/hw/mem.ts";
import type { Mmio } from "../../src/hw/mmio.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import { BuiltInHost } from "../../src/hw/model/host.ts";
import { CallbackEnd } from "../../src/hw/model/host-end.ts";
import { FRAME_OK, FRAME_OUT_OF_ORDER, FrameChecker, writeFrame } from "../../src/hw/model/host-traffic.ts";
import { MODEL_CORES } from "../../src/hw/model/open-model.ts";
import { TestPort } from "./test-port.ts";

const DMA_BYTES = 12 << 20;
const FRAME = 700;

export class Killed extends Error {}

/** Registers that end the process at an access. */
class Mortal implements Mmio {
  constructor(
    private readonly io: Mmio,
    private readonly step: () => void,
  ) {}
  get size(): number {
    return this.io.size;
  }
  ld8(off: number): number {
    this.step();
    return this.io.ld8(off);
  }
  ld16(off: number): number {
    this.step();
    return this.io.ld16(off);
  }
  ld32(off: number): number {
    this.step();
    return this.io.ld32(off);
  }
  st8(off: number, v: number): void {
    this.step();
    this.io.st8(off, v);
  }
  st16(off: number, v: number): void {
    this.step();
    this.io.st16(off, v);
  }
  st32(off: number, v: number): void {
    this.step();
    this.io.st32(off, v);
  }
}

/** The same memory in each process. */
class Kept extends ChunkMemory {
  stays = false;
  constructor(
    private readonly at: DmaRegion,
    readonly kept: boolean,
  ) {
    super([{ ptr: at.ptr, bus: at.bus, size: at.size }], "");
  }
  clear(except: readonly { ptr: number; size: number }[]): void {
    const sorted = [...except].sort((a, b) => a.ptr - b.ptr);
    let from = this.at.ptr;
    for (const e of sorted) {
      fill(from, 0, e.ptr - from);
      from = e.ptr + e.size;
    }
    fill(from, 0, this.at.ptr + this.at.size - from);
  }
  keep(): void {
    this.stays = true;
  }
}

/** The board's kernel goes on with its rings when epnic is gone, as it does behind VDUSE. */
class LastingPort extends TestPort {
  override resumeIdx(queue = 0): number {
    return ld16((queue === 0 ? this.rx : this.tx).usedPtr + 2);
  }
}

class Book {
  sent = 0;
  /** frames by number: how often they came */
  readonly came = new Map<number, number>();
  constructor(
    readonly name: string,
    private readonly seed: number,
  ) {}
  make(): Uint8Array {
    const frame = new Uint8Array(FRAME);
    writeFrame(frame, 0, this.seed, this.sent++, FRAME);
    return frame;
  }
  take(frame: Uint8Array): void {
    const rc = new FrameChecker(this.seed).check(frame, 0, frame.length);
    const seq = frame[14]! | (frame[15]! << 8) | (frame[16]! << 16);
    if (rc !== FRAME_OK && rc !== FRAME_OUT_OF_ORDER)
      throw new Error(`${this.name}: frame ${seq} is wrong, code ${rc}`);
    this.came.set(seq, (this.came.get(seq) ?? 0) + 1);
  }
}

export class CrashRig {
  readonly endpoint = new EndpointModel({ ...MODEL_CORES["modern-msix"], strict: true, boardMemory: 40 << 20 });
  readonly host: BuiltInHost;
  readonly end: CallbackEnd;
  readonly port: LastingPort;
  readonly toHost = new Book("to the host", 0x11);
  readonly toBoard = new Book("to the board", 0x22);
  readonly log: string[] = [];
  engine: Assembly | null = null;
  store: LifeStore | null = null;
  memory!: Kept;
  /** register accesses of this process so far, and at which it dies */
  accesses = 0;
  private fatal = Number.POSITIVE_INFINITY;
  private readonly area: DmaRegion;
  private processes = 0;

  constructor() {
    this.end = new CallbackEnd((bytes) => this.toHost.take(bytes.subarray(this.end.features!.hdrLen)));
    this.host = new BuiltInHost({ strict: true, clock: this.endpoint.clock, end: this.end });
    this.host.attach(this.endpoint);
    this.endpoint.attach(this.host);
    this.endpoint.addStepper(this.host);
    this.area = this.endpoint.memory.alloc("dma", DMA_BYTES, 1 << 16);
    const onFrame = (frame: Uint8Array): void => this.toBoard.take(frame);
    this.port = new LastingPort(this.endpoint.memory, this.endpoint.board.shadow, onFrame, 64, false);
  }

  private controller(): Controller {
    const c = this.endpoint.controller();
    const step = (): void => {
      if (++this.accesses >= this.fatal) throw new Killed();
    };
    const mortal = (io: Mmio): Mmio => new Mortal(io, step);
    this.memory = new Kept(this.area, this.processes > 0);
    return {
      ...c,
      dbi: mortal(c.dbi),
      dbi2: mortal(c.dbi2),
      atu: c.atu === null ? null : mortal(c.atu),
      dma: mortal(c.dma),
      memory: this.memory,
    };
  }

  /**
   * A new process, in the order of engine.ts.
   * @param fatal it is killed at this register access
   * @returns whether it went on with a life; false too when it was killed
   */
  start(fatal = Number.POSITIVE_INFINITY): boolean {
    this.accesses = 0;
    this.fatal = fatal;
    this.engine = null;
    try {
      const ctrl = this.controller();
      this.processes++;
      const rested = new Edma(ctrl).settle(200);
      if (!isKept(ctrl.memory)) throw new Error("this memory should outlive a process");
      const store = new LifeStore(ctrl.memory, "test", rested);
      this.store = store;
      const say = (m: string): void => {
        this.log.push(m);
      };
      const engine = assemble(
        ctrl,
        this.port,
        { info: say, warn: say, error: say },
        {
          personality: "auto",
          mac: "02:00:00:00:00:01",
          mtu: 1500,
          queueSize: 256,
          features: "default",
          irq: "auto",
          fetch: "edma",
          life: store.life,
        },
      );
      const used = store.adopt(ctrl, engine);
      if (used !== null) engine.service.adopt(used[0], used[1]);
      this.engine = engine;
      this.follow();
      return used !== null;
    } catch (e) {
      this.engine = null;
      if (!(e instanceof Killed)) throw e;
      return false;
    }
  }

  /** What the engine does a few times a second. */
  follow(): void {
    const { fn, service } = this.engine!;
    this.store!.follow(service.link === "live", service.negotiations, fn, this.memory);
  }

  /** The process is gone; the hardware goes on for a while. */
  kill(turns = 0): void {
    this.engine = null;
    for (let i = 0; i < turns; i++) this.endpoint.turn();
  }

  /** Turns until the condition holds; a process that dies in them ends the wait. */
  until(what: string, done: () => boolean, turns = 1_000_000): void {
    for (let i = 0; i < turns && !done(); i += 64) {
      const engine = this.engine;
      if (engine === null) return;
      try {
        engine.service.attend(engine.service.slice(64));
        this.follow();
      } catch (e) {
        this.engine = null;
        if (!(e instanceof Killed)) throw e;
        return;
      }
    }
    if (!done())
      throw new Error(
        `${what}: not within ${turns} turns; ${this.engine?.service.link}; ${this.log.slice(-4).join(" | ")}`,
      );
  }

  up(): void {
    this.until("link up", () => this.engine!.service.link === "live" && this.host.state === "bound" && this.end.linkUp);
  }

  /** Queue frames both ways. */
  queue(frames: number): void {
    const hdr = this.end.features!.hdrLen;
    for (let i = 0; i < frames; i++) {
      this.port.send(this.toHost.make());
      const frame = this.toBoard.make();
      const whole = new Uint8Array(hdr + frame.length);
      whole.set(frame, hdr);
      this.end.send(whole);
    }
  }

  /** All that was ever sent is there. */
  complete(): void {
    this.until(
      "every frame",
      () => this.toHost.came.size === this.toHost.sent && this.toBoard.came.size === this.toBoard.sent,
    );
  }

  close(): void {
    if (this.endpoint.violationCount > 0) throw new Error(`strict mode: ${this.endpoint.violations[0]}`);
    this.engine?.service.shutdown(100);
    this.host.close();
    this.endpoint.close();
  }
}
