/**
 * The whole engine in one process without a TAP: model, built-in host with callbacks, test port, real function and
 * service loop, strict mode. Frames carry a seed and a sequence number and are checked byte by byte at both ends;
 * frames may be missing after a reset, never wrong, repeated or out of order.
 */
import { type Assembly, type AssemblyOptions, assemble } from "../../src/engine/assemble.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import { BuiltInHost } from "../../src/hw/model/host.ts";
import { CallbackEnd } from "../../src/hw/model/host-end.ts";
import type { HostOptions } from "../../src/hw/model/host-options.ts";
import {
  FRAME_FOREIGN,
  FRAME_OK,
  FRAME_OUT_OF_ORDER,
  FrameChecker,
  writeFrame,
} from "../../src/hw/model/host-traffic.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { MODEL_CORES } from "../../src/hw/model/open-model.ts";
import { Random } from "../../src/hw/model/random.ts";
import { TestPort } from "./test-port.ts";

export interface EngineRigOptions {
  core: keyof typeof MODEL_CORES;
  model: Partial<ModelOptions>;
  host: Partial<HostOptions>;
  engine: Partial<AssemblyOptions>;
  patch: boolean;
  /** descriptors of each of the board's queues */
  portSize: number;
  seed: number;
}

const TO_HOST = 0x5151;
const TO_BOARD = 0x7272;

/** One direction's book: what was sent, what arrived, that nothing was wrong. */
class Flow {
  sent = 0;
  received = 0;
  /** frames that nobody made are let pass: a driver was made to hand over rubbish */
  lenient = false;
  private last = -1;
  private readonly checker: FrameChecker;
  constructor(
    readonly name: string,
    private readonly seed: number,
  ) {
    this.checker = new FrameChecker(seed);
  }

  make(bytes: number): Uint8Array {
    const frame = new Uint8Array(bytes);
    writeFrame(frame, 0, this.seed, this.sent++, bytes);
    return frame;
  }

  take(frame: Uint8Array): void {
    const rc = this.checker.check(frame, 0, frame.length);
    if (this.lenient && rc === FRAME_FOREIGN) return;
    const seq = frame[14]! | (frame[15]! << 8) | (frame[16]! << 16) | (frame[17]! << 24);
    if (rc !== FRAME_OK && rc !== FRAME_OUT_OF_ORDER)
      throw new Error(`${this.name}: frame ${seq} is wrong, code ${rc}`);
    if (seq <= this.last) throw new Error(`${this.name}: frame ${seq} came after ${this.last}`);
    this.last = seq;
    this.received++;
  }
}

export class EngineRig {
  readonly endpoint: EndpointModel;
  readonly host: BuiltInHost;
  readonly end: CallbackEnd;
  readonly port: TestPort;
  readonly random: Random;
  readonly toHost = new Flow("to host", TO_HOST);
  readonly toBoard = new Flow("to board", TO_BOARD);
  readonly log: string[] = [];
  readonly engine: Assembly;

  constructor(o: Partial<EngineRigOptions> = {}) {
    const seed = o.seed ?? 1;
    this.random = new Random(seed);
    this.endpoint = new EndpointModel({ ...MODEL_CORES[o.core ?? "modern-msix"], strict: true, seed, ...o.model });
    this.end = new CallbackEnd((bytes) => this.toHost.take(bytes.subarray(this.end.features!.hdrLen)));
    this.host = new BuiltInHost({ strict: true, clock: this.endpoint.clock, end: this.end, seed, ...o.host });
    this.host.attach(this.endpoint);
    this.endpoint.attach(this.host);
    this.endpoint.addStepper(this.host);
    const ctrl = this.endpoint.controller();
    const onFrame = (frame: Uint8Array): void => this.toBoard.take(frame);
    this.port = new TestPort(ctrl.memory, this.endpoint.board.shadow, onFrame, o.portSize ?? 64, o.patch ?? true);
    const say = (m: string): void => {
      this.log.push(m);
    };
    this.engine = assemble(
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
        ...o.engine,
      },
    );
  }

  /** Slices until `done()` or too many turns. */
  until(what: string, done: () => boolean, turns = 2_000_000): void {
    const end = this.engine.service.turns + turns;
    while (!done()) {
      this.slice();
      if (this.engine.service.turns > end) {
        throw new Error(
          `${what}: not within ${turns} turns; link ${this.engine.service.link}, host ${this.host.state} ${this.host.error}; ${this.log.slice(-4).join(" | ")}`,
        );
      }
    }
  }

  slice(): void {
    const { service } = this.engine;
    service.attend(service.slice(64));
  }

  up(): void {
    this.until("link up", () => this.engine.service.link === "live" && this.host.state === "bound" && this.end.linkUp);
  }

  /** Queue frames both ways. */
  queue(frames: number, most = 1514): void {
    const hdr = this.end.features!.hdrLen;
    for (let i = 0; i < frames; i++) {
      this.port.send(this.toHost.make(22 + this.random.below(most - 22)));
      const frame = this.toBoard.make(22 + this.random.below(most - 22));
      const whole = new Uint8Array(hdr + frame.length);
      whole.set(frame, hdr);
      this.end.send(whole);
    }
  }

  /** Send frames both ways and wait until all are there. */
  exchange(frames: number, most = 1514): void {
    const wantHost = this.toHost.received + frames;
    const wantBoard = this.toBoard.received + frames;
    this.queue(frames, most);
    this.until(
      `${frames} frames each way`,
      () => this.toHost.received >= wantHost && this.toBoard.received >= wantBoard,
    );
  }

  /** chains of the host's transmit queue that a lazy driver has not taken back yet, although they are used */
  engineHolds(): number {
    const { rx, tx } = this.host.net!;
    return rx.ring.pending() ? -1 : tx.ring.used16[1]! === tx.ring.avail[1]! ? tx.ring.inFlight : -1;
  }

  check(): void {
    if (this.endpoint.violationCount > 0) throw new Error(`strict mode: ${this.endpoint.violations[0]}`);
  }

  close(): void {
    this.engine.service.shutdown(100);
    this.check();
    this.engine.edma.quiesce();
    this.host.close();
    this.endpoint.close();
  }
}
