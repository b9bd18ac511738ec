/**
 * The one engine module behind the subcommands: opens the controller (sysfs or model), the board's port and the PCI
 * function, ties them to a data path and a service loop, and takes everything down in reverse. Set-up may throw Faults
 * and then leaves nothing behind; the loop itself does not throw.
 */
import { hostname } from "node:os";
import type { Controller } from "../hw/controller.ts";
import { linkUp } from "../hw/dbi.ts";
import { Edma } from "../hw/edma.ts";
import { Fault } from "../hw/fault.ts";
import type { ModelHandle, ModelHostOptions } from "../hw/model/open-model.ts";
import type { NetPort, PortFeatures } from "../hw/net-port.ts";
import { openController } from "../hw/open.ts";
import { TapPort } from "../hw/tap-port.ts";
import { vduseMissing } from "../hw/vduse.ts";
import { VdusePort } from "../hw/vduse-port.ts";
import { F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_HOST_TSO4, F_HOST_TSO6 } from "../hw/virtio.layout.ts";
import { isKept, LifeStore } from "./adopt.ts";
import { type Assembly, assemble } from "./assemble.ts";
import { COUNTER_INDEX as C, CounterPage, type CounterState } from "./counters.ts";
import type { Fetch } from "./fetch.ts";
import { featureWord } from "./function/features.ts";
import { featureText } from "./life.ts";
import type { EngineLog } from "./log.ts";
import { Pace } from "./pace.ts";
import { Sleeper } from "./sleeper.ts";

export type { EngineLog } from "./log.ts";

export interface EngineOptions {
  /** "model" or a sysfs name */
  device: string;
  sysfsRoot?: string;
  personality: "auto" | "modern" | "legacy";
  /** the host's MAC; null: one is made of the device name */
  mac: string | null;
  mtu: number;
  queueSize: number;
  /** "default", "safe", "wide" or a hex word */
  features: string;
  irq: "auto" | "msix" | "intx";
  fetch: Fetch;
  port: { kind: "auto" | "tap" | "vduse"; name: string; netns: string | null };
  /** who is at the other end of the simulated link; null on a board */
  host: ModelHostOptions | null;
  /** preset of the model core, for example "modern-msix" */
  modelCore: string;
  strict: boolean;
  cpu: number | null;
  idle: "spin" | "adaptive";
  /** path of the counter page */
  counters: string;
}

export interface Engine {
  /** Serve until the signal or requestStop(); resolves after a clean stop. */
  run(signal: { stop: boolean }): Promise<void>;
  requestStop(): void;
  close(): void;
  summary(): Record<string, number | string>;
}

const FLUSH_MS = 50;
const DRAIN_MS = 1000;
/** for the transfers of a process that was killed: far more than all its lists can take */
const SETTLE_MS = 500;
/** @throws Fault when a part cannot be had; what was opened before it is closed again */
export function openEngine(o: EngineOptions, log: EngineLog): Engine {
  const undo: (() => void)[] = [];
  try {
    return build(o, log, undo);
  } catch (e) {
    for (const f of undo.reverse()) f();
    throw e;
  }
}

function openModelNow(o: EngineOptions, log: EngineLog): ModelHandle {
  // Loaded only here: a real board never needs it, and a binary starts faster without.
  const { openModel } = require("../hw/model/open-model.ts") as typeof import("../hw/model/open-model.ts");
  if (o.host === null) throw new Fault("E_CONFIG", "the model needs a host: built-in or vfio-user");
  return openModel({ core: o.modelCore, strict: o.strict, host: o.host, log: (level, text) => log[level](text) });
}

/** A locally administered address that stays the same for a device on a machine. */
function madeMac(name: string): string {
  const sum = new Bun.CryptoHasher("sha1").update(`${name}@${hostname()}`).digest();
  return [0x02, ...sum.subarray(0, 5)].map((x) => x.toString(16).padStart(2, "0")).join(":");
}

function openPort(o: EngineOptions, ctrl: Controller, model: ModelHandle | null, log: EngineLog): NetPort {
  const missing = o.port.kind === "auto" ? vduseMissing() : "";
  if (o.port.kind !== "tap" && missing === "") {
    return new VdusePort({
      name: o.port.name,
      netns: o.port.netns ?? "",
      mac: madeMac(`${o.device} board`),
      mtu: o.mtu,
      queueSize: o.queueSize,
      bus: model === null ? null : model.buffers,
      log: (level, text) => log[level](text),
    });
  }
  if (missing !== "") log.info(`board side: TAP, because ${missing}`);
  return new TapPort({
    memory: ctrl.memory,
    name: o.port.name,
    mtu: o.mtu,
    ...(o.port.netns === null ? {} : { netns: o.port.netns }),
    strict: model === null ? null : model.grants,
  });
}

/** Memory that outlives us may hold a life of the host's driver; nothing else may have been allocated yet. */
function lifeStore(o: EngineOptions, ctrl: Controller): LifeStore | null {
  if (ctrl.isModel || !isKept(ctrl.memory)) return null;
  const rested = new Edma(ctrl).settle(SETTLE_MS);
  const { personality, mac, mtu, queueSize, features, irq, fetch } = o;
  return new LifeStore(ctrl.memory, JSON.stringify([personality, mac, mtu, queueSize, features, irq, fetch]), rested);
}

/** What the port is started with when the host accepts all of the word. */
function allAccepted(word: number, mtu: number): PortFeatures {
  const has = (bit: number): boolean => ((word >>> bit) & 1) === 1;
  return {
    hdrLen: 12,
    toHostCsum: has(F_GUEST_CSUM),
    toHostTso4: has(F_GUEST_TSO4),
    toHostTso6: has(F_GUEST_TSO6),
    toBoardCsum: has(F_CSUM),
    toBoardTso4: has(F_HOST_TSO4),
    toBoardTso6: has(F_HOST_TSO6),
    mtu,
  };
}

function build(o: EngineOptions, log: EngineLog, undo: (() => void)[]): Engine {
  const model = o.device === "model" ? openModelNow(o, log) : null;
  if (model !== null) undo.push(() => model.close());
  const ctrl =
    model?.controller ?? openController({ device: o.device, ...(o.sysfsRoot ? { sysfsRoot: o.sysfsRoot } : {}) });
  if (model === null) undo.push(() => ctrl.close());

  const life = lifeStore(o, ctrl);
  undo.push(() => life?.leave());
  const port = openPort(o, ctrl, model, log);
  undo.push(() => port.close());
  const parts = assemble(ctrl, port, log, { ...o, mac: o.mac ?? madeMac(o.device), life: life?.life ?? null });
  port.expect?.(allAccepted(featureWord(o.features, parts.fn.personality), o.mtu));
  undo.push(() => parts.edma.quiesce());
  // The memory behind the BARs goes away with this process: no write of the host may find it.
  undo.push(() => parts.fn.close());
  const page = new CounterPage(o.counters);
  undo.push(() => page.close());
  const used = life?.adopt(ctrl, parts) ?? null;
  if (used !== null) {
    log.info(`went on with the host's driver of an earlier process, used indices ${used[0]} and ${used[1]}`);
    parts.service.adopt(used[0], used[1]);
  }
  return new RunningEngine(o, log, { ...parts, ctrl, model, port, page, life }, undo);
}

interface Parts extends Assembly {
  readonly ctrl: Controller;
  readonly model: ModelHandle | null;
  readonly port: NetPort;
  readonly page: CounterPage;
  readonly life: LifeStore | null;
}

const immediate = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class RunningEngine implements Engine {
  private stop = false;
  private closed = false;
  private lastFlush = 0;
  private lastViolations = 0;
  private readonly sleeper: Sleeper;

  constructor(
    private readonly o: EngineOptions,
    private readonly log: EngineLog,
    private readonly p: Parts,
    private readonly undo: (() => void)[],
  ) {
    this.sleeper = new Sleeper(o.idle === "spin");
    this.flush();
  }

  async run(signal: { stop: boolean }): Promise<void> {
    const { service, port, model } = this.p;
    // The model's host moves in turns of the loop: it would sleep with us.
    const doze = model === null && this.o.idle !== "spin" ? this.p.doze : null;
    const pace = new Pace(service, this.sleeper, doze);
    this.sleeper.watch([...port.waitFds, ...(model?.waitFds ?? [])]);
    this.log.info(
      `${this.o.device}: ${this.p.fn.personality} virtio-net function is visible to the host, board side is ${port.kind} ${port.netdev}`,
    );
    while (!signal.stop && !this.stop) {
      pace.step();
      const now = Date.now();
      if (now - this.lastFlush >= FLUSH_MS) {
        service.followBoard();
        this.flush(now);
      }
      await immediate();
    }
    service.shutdown(DRAIN_MS);
    this.flush();
    if (this.o.strict && model !== null && model.violationCount() > 0) {
      throw new Fault(
        "E_DMA",
        `strict mode: ${model.violationCount()} DMA accesses outside memory that was handed over; the first: ${model.violations()[0]}`,
      );
    }
  }

  requestStop(): void {
    this.stop = true;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const f of this.undo.reverse()) f();
  }

  summary(): Record<string, number | string> {
    const { dp, service } = this.p;
    return {
      to_host_frames: dp.toHost.frames,
      to_host_bytes: dp.toHost.bytes,
      to_board_frames: dp.toBoard.frames,
      to_board_bytes: dp.toBoard.bytes,
      faults: service.faults,
      link: service.link,
      strict_violations: this.p.model?.violationCount() ?? 0,
    };
  }

  /** Copy the private counters to the shared page. A few times a second, so plain code will do. */
  private flush(now: number = Date.now()): void {
    this.lastFlush = now;
    const { page, dp, service, irq, channels, fetcher, model } = this.p;
    const v = page.values;
    const { toHost, toBoard, hqRx, hqTx } = dp;
    this.p.life?.follow(service.link === "live", service.negotiations, this.p.fn, this.p.ctrl.memory);
    v[C.to_host_frames] = toHost.frames;
    v[C.to_host_bytes] = toHost.bytes;
    v[C.to_host_dropped] = toHost.dropped;
    v[C.to_host_starved] = toHost.starved;
    v[C.to_host_bursts] = toHost.bursts;
    v[C.to_host_elements] = toHost.elements;
    v[C.to_board_frames] = toBoard.frames;
    v[C.to_board_bytes] = toBoard.bytes;
    v[C.to_board_dropped] = toBoard.dropped;
    v[C.to_board_starved] = toBoard.starved;
    v[C.to_board_bursts] = toBoard.bursts;
    v[C.to_board_elements] = toBoard.elements;
    v[C.host_interrupts] = irq.sent;
    v[C.host_interrupts_masked] = irq.masked;
    v[C.board_interrupts] = dp.boardInterrupts;
    v[C.fetches] = hqRx.fetches + hqTx.fetches;
    v[C.fetches_empty] = hqRx.emptyFetches + hqTx.emptyFetches;
    v[C.cpu_reads] = fetcher.cpuReads;
    v[C.port_copied_bytes] = this.p.port.copiedBytes;
    v[C.doorbell_rerings] =
      channels.write.rerings + channels.read.rerings + (channels.fetch === channels.read ? 0 : channels.fetch.rerings);
    v[C.negotiations] = service.negotiations;
    v[C.refusals] = service.refusals;
    v[C.host_resets] = service.resets;
    v[C.faults] = service.faults;
    v[C.abandoned] = dp.abandoned;
    v[C.turns] = service.turns;
    v[C.sleeps] = this.sleeper.sleeps;
    v[C.notices] = hqTx.notices;
    v[C.prepared] = hqTx.prepared;
    if (model !== null) {
      const n = model.violationCount();
      v[C.strict_violations] = n;
      if (n > this.lastViolations) {
        this.log.error(`strict mode: ${model.violations()[0]} (${n} so far)`);
        this.lastViolations = n;
      }
    }
    page.setState(this.state());
    page.stamp();
  }

  private state(): CounterState {
    const { fn, port, service, ctrl } = this.p;
    return {
      device: this.o.device,
      personality: fn.personality,
      link: service.link,
      pcie_link: linkUp(ctrl) ? `gen${ctrl.core.linkGen} x${ctrl.core.linkWidth}` : "down",
      interrupts: fn.msix ? "msix" : "intx",
      features: fn.live ? featureText(fn) : "",
      header_bytes: fn.hdrLen,
      queue_size: this.o.queueSize,
      mtu: this.o.mtu,
      port: port.kind,
      netdev: port.netdev,
      fetch: this.o.fetch,
      strict: this.o.strict,
      diagnosis: service.diagnosis,
    };
  }
}
