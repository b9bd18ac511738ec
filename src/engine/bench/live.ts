/**
 * `bench live`: the real engine on an attached device (the model with a TAP or a virtual machine behind it, or a
 * board), with a station of our own where the board's netdev would be. Three cases a frame size: a lone echo (round
 * trip), frames that the host throws away (to the host), a window of echoes that a stock kernel answers (both ways).
 * Every measurement has an end by the clock. Method and limits: docs/bench-live.md.
 */
import type { Controller } from "../../hw/controller.ts";
import type { DmaMemory } from "../../hw/dma-memory.ts";
import { Fault } from "../../hw/fault.ts";
import type { ModelHandle, ModelHostOptions } from "../../hw/model/open-model.ts";
import { openController } from "../../hw/open.ts";
import { type Assembly, type AssemblyOptions, assemble } from "../assemble.ts";
import type { EngineLog } from "../log.ts";
import { SLICE_IDLE } from "../service.ts";
import { Sleeper } from "../sleeper.ts";
import type { Spread } from "./cpu.ts";
import { GeneratorPort, SEND_ECHO, SEND_FILLER, SEND_NOTHING } from "./generator-port.ts";
import { parseIp, Station } from "./station.ts";

/** addresses of RFC 2544's benchmark network, used when none are given */
export const STATION_IP = "198.18.0.1";
export const PEER_IP = "198.18.0.2";
const HOST_MAC = "02:65:70:be:0c:02";
const STATION_MAC = new Uint8Array([0x02, 0x65, 0x70, 0xbe, 0x0c, 0x01]);

export interface LiveOptions extends Omit<AssemblyOptions, "mac"> {
  /** the host's MAC; null: one of our own */
  mac: string | null;
  device: string;
  sysfsRoot: string;
  modelCore: string;
  /** who is at the other end of the simulated link; null on a board */
  host: ModelHostOptions | null;
  idle: "spin" | "adaptive";
  /** our address, and the host's */
  address: string;
  peer: string;
  sizes: readonly number[];
  /** length of one measurement, how many of each, echoes under way in the case "both" */
  seconds: number;
  runs: number;
  window: number;
  /** how long the host may take to bind its driver and to answer, seconds */
  wait: number;
}

export type LiveCase = "round_trip" | "to_host" | "both";

/** Of single round trips, us. */
export interface Percentiles {
  min: number;
  p10: number;
  p50: number;
  p90: number;
  p99: number;
  p999: number;
  max: number;
}

export interface LiveRow {
  case: LiveCase;
  frame_bytes: number;
  /** echoes under way; null where the ring sets the pace */
  window: number | null;
  runs: number;
  seconds: number;
  /** frames of all runs that reached the host, and that came from it */
  frames_to_host: number;
  frames_from_host: number;
  /** echoes without an answer, answers with another payload, frames the engine had to drop */
  lost: number;
  wrong: number;
  dropped: number;
  mpps_to_host: Spread;
  gbps_to_host: Spread;
  mpps_from_host: Spread;
  gbps_from_host: Spread;
  /** over all runs; null without echoes */
  rtt_us: Percentiles | null;
  /** CPU time of this process a frame, the model's and the kernel's part for us included, and its share of the time */
  cpu_ns_per_frame: Spread;
  cpu_share: Spread;
}

/** One measurement. */
interface Sample {
  seconds: number;
  toHost: number;
  fromHost: number;
  toHostBytes: number;
  fromHostBytes: number;
  cpuNs: number;
}

const ASK_EVERY_NS = 200_000_000;
const WARMUP_NS = 200_000_000;
const DRAIN_MS = 1000;
/** Linux: no netdev of a TAP takes more */
const MOST_TAP_MTU = 65521;

const spread = (values: readonly number[]): Spread => {
  const v = [...values].sort((a, b) => a - b);
  return { min: v[0]!, median: v[v.length >> 1]!, max: v[v.length - 1]! };
};
const immediate = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function address(flag: string, text: string): Uint8Array {
  const ip = parseIp(text);
  if (ip === null) throw new Fault("E_USAGE", `--${flag} is '${text}', expected an IPv4 address`, STATION_IP);
  return ip;
}

/** The built-in host gets its address from us; a real one from its administrator. */
function hostOf(o: LiveOptions): ModelHostOptions {
  if (o.host === null) throw new Fault("E_CONFIG", "the model needs a host: built-in or vfio-user");
  if (o.host.kind === "vfio-user") return o.host;
  const tap = { name: o.host.tap, netns: o.host.netns ?? "", ip: `${o.peer}/24`, mtu: Math.min(o.mtu, MOST_TAP_MTU) };
  return { ...o.host, options: { ...o.host.options, tap } };
}

/** As many buffers as the memory has room for, at most `most` each way. @throws Fault E_MISSING for fewer than 16 */
function generator(memory: DmaMemory, station: Station, mtu: number, most: number): GeneratorPort {
  for (let queueSize = most; ; queueSize >>= 1) {
    try {
      return new GeneratorPort({ memory, station, mtu, queueSize });
    } catch (e) {
      if (!(e instanceof Fault) || e.code !== "E_MISSING" || queueSize <= 16) throw e;
    }
  }
}

class LiveBench {
  readonly #o: LiveOptions;
  readonly #log: EngineLog;
  readonly #model: ModelHandle | null;
  readonly #ctrl: Controller;
  readonly #port: GeneratorPort;
  readonly #parts: Assembly;
  readonly #sleeper: Sleeper;
  readonly #stop: { stop: boolean };

  constructor(o: LiveOptions, log: EngineLog, stop: { stop: boolean }) {
    this.#o = o;
    this.#log = log;
    this.#stop = stop;
    const station = new Station(STATION_MAC, address("address", o.address), address("peer", o.peer));
    if (station.ip.every((b, i) => b === station.peerIp[i]))
      throw new Fault("E_USAGE", `--address and --peer are both ${o.peer}`, "the station and the host need one each");
    const longest = o.mtu + 14;
    const large = o.sizes.find((s) => s > longest);
    if (large !== undefined)
      throw new Fault(
        "E_USAGE",
        `frames of ${large} bytes do not fit the MTU ${o.mtu}: at most ${longest}`,
        "set --mtu",
      );
    // loaded only here, as in engine.ts
    const { openModel } = require("../../hw/model/open-model.ts") as typeof import("../../hw/model/open-model.ts");
    this.#model =
      o.device === "model"
        ? openModel({ core: o.modelCore, strict: false, host: hostOf(o), log: (level, text) => log[level](text) })
        : null;
    try {
      this.#ctrl = this.#model?.controller ?? openController({ device: o.device, sysfsRoot: o.sysfsRoot });
    } catch (e) {
      this.#model?.close();
      throw e;
    }
    try {
      this.#port = generator(this.#ctrl.memory, station, o.mtu, o.queueSize);
      this.#parts = assemble(this.#ctrl, this.#port, log, { ...o, mac: o.mac ?? HOST_MAC });
    } catch (e) {
      this.#closeDevice();
      throw e;
    }
    this.#sleeper = new Sleeper(o.idle === "spin");
    this.#sleeper.watch(this.#model?.waitFds ?? []);
  }

  /** Serve until `until` (Bun.nanoseconds), the stop flag, or `enough`. */
  async #serve(until: number, enough: () => boolean = () => false): Promise<void> {
    const { service } = this.#parts;
    while (!this.#stop.stop && !enough() && Bun.nanoseconds() < until) {
      const why = service.slice();
      service.attend(why);
      if (why === SLICE_IDLE) this.#sleeper.sleep();
      else this.#sleeper.busy();
      await immediate();
    }
  }

  /** Until the host's driver runs and its stack answers ARP. @throws Fault E_HOST when that does not happen in time */
  async #meet(): Promise<void> {
    const { service } = this.#parts;
    const { station } = this.#port;
    const end = Bun.nanoseconds() + this.#o.wait * 1e9;
    await this.#serve(end, () => service.link === "live");
    if (this.#stop.stop) return;
    if (service.link !== "live")
      throw new Fault(
        "E_HOST",
        `no driver of the host took the function within ${this.#o.wait} s (${service.diagnosis || service.link})`,
        "is the host on, and is virtio_net loaded there? On a running host: echo 1 >/sys/bus/pci/rescan",
      );
    if (this.#model?.host === null || this.#model === null)
      this.#log.info(`on the host: ip addr add ${this.#o.peer}/24 dev IFNAME; ip link set IFNAME up`);
    while (!station.known && !this.#stop.stop && Bun.nanoseconds() < end) {
      this.#port.ask();
      await this.#serve(Math.min(end, Bun.nanoseconds() + ASK_EVERY_NS), () => station.known);
    }
    if (!station.known && !this.#stop.stop)
      throw new Fault(
        "E_HOST",
        `the host does not answer ARP for ${this.#o.peer} within ${this.#o.wait} s`,
        `on the host: ip addr add ${this.#o.peer}/24 dev IFNAME; ip link set IFNAME up (or name its address with --peer, and --address in the same network)`,
      );
  }

  /** One measurement, warmed up, then let what is under way come back. */
  async #sample(kind: LiveCase, bytes: number): Promise<Sample> {
    const port = this.#port;
    const { dp, service } = this.#parts;
    if (kind === "to_host") port.send(SEND_FILLER, bytes);
    else port.send(SEND_ECHO, bytes, kind === "both" ? this.#o.window : 1);
    const rtts = port.samples;
    const { lost, wrong } = port;
    await this.#serve(Bun.nanoseconds() + WARMUP_NS);
    port.samples = rtts;
    port.lost = lost;
    port.wrong = wrong;
    const { frames, bytes: sent } = dp.toHost;
    const { frames: came, bytes: cameBytes } = dp.toBoard;
    const cpu = process.cpuUsage();
    const wall = Bun.nanoseconds();
    await this.#serve(wall + this.#o.seconds * 1e9);
    const used = process.cpuUsage(cpu);
    const result = {
      seconds: (Bun.nanoseconds() - wall) / 1e9,
      toHost: dp.toHost.frames - frames,
      fromHost: dp.toBoard.frames - came,
      toHostBytes: dp.toHost.bytes - sent,
      fromHostBytes: dp.toBoard.bytes - cameBytes,
      cpuNs: (used.user + used.system) * 1000,
    };
    port.send(SEND_NOTHING);
    await this.#serve(Bun.nanoseconds() + WARMUP_NS / 4);
    if (service.link !== "live" && !this.#stop.stop)
      throw new Fault(
        "E_HOST",
        `the host went away during a measurement: ${service.diagnosis || `the link is ${service.link}`}`,
      );
    return result;
  }

  async #row(kind: LiveCase, bytes: number): Promise<LiveRow | null> {
    const port = this.#port;
    const { dp } = this.#parts;
    port.samples = 0;
    port.lost = port.wrong = port.fragments = 0;
    const { dropped } = dp.toHost;
    const all: Sample[] = [];
    for (let i = 0; i < this.#o.runs && !this.#stop.stop; i++) all.push(await this.#sample(kind, bytes));
    if (this.#stop.stop) return null;
    if (port.fragments > 0)
      throw new Fault(
        "E_HOST",
        `the host answers echoes of ${bytes} bytes in fragments: its interface has a smaller MTU than ${this.#o.mtu}`,
        `on the host: ip link set IFNAME mtu ${this.#o.mtu}`,
      );
    const of = (f: (s: Sample) => number): Spread => spread(all.map(f));
    const sum = (f: (s: Sample) => number): number => all.reduce((n, s) => n + f(s), 0);
    if (kind === "to_host" && sum((s) => s.toHost) === 0)
      throw new Fault("E_HOST", `not one frame of ${bytes} bytes reached the host in ${sum((s) => s.seconds)} s`);
    const rtt = port.rttNs.subarray(0, port.samples).sort();
    const at = (p: number): number => rtt[Math.min(rtt.length - 1, Math.floor(rtt.length * p))]! / 1000;
    return {
      case: kind,
      frame_bytes: bytes,
      window: kind === "to_host" ? null : kind === "both" ? this.#o.window : 1,
      runs: all.length,
      seconds: sum((s) => s.seconds),
      frames_to_host: sum((s) => s.toHost),
      frames_from_host: sum((s) => s.fromHost),
      lost: port.lost,
      wrong: port.wrong,
      dropped: dp.toHost.dropped - dropped,
      mpps_to_host: of((s) => s.toHost / s.seconds / 1e6),
      gbps_to_host: of((s) => (s.toHostBytes * 8) / s.seconds / 1e9),
      mpps_from_host: of((s) => s.fromHost / s.seconds / 1e6),
      gbps_from_host: of((s) => (s.fromHostBytes * 8) / s.seconds / 1e9),
      rtt_us:
        rtt.length === 0
          ? null
          : { min: at(0), p10: at(0.1), p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1) },
      cpu_ns_per_frame: of((s) => s.cpuNs / Math.max(1, s.toHost + s.fromHost)),
      cpu_share: of((s) => s.cpuNs / 1e9 / s.seconds),
    };
  }

  async *rows(): AsyncGenerator<LiveRow> {
    await this.#meet();
    for (const bytes of this.#o.sizes)
      for (const kind of ["round_trip", "to_host", "both"] as const) {
        if (this.#stop.stop) return;
        const row = await this.#row(kind, bytes);
        if (row !== null) yield row;
      }
  }

  close(): void {
    this.#parts.service.shutdown(DRAIN_MS);
    this.#parts.edma.quiesce();
    this.#port.close();
    this.#closeDevice();
  }

  #closeDevice(): void {
    if (this.#model !== null) this.#model.close();
    else this.#ctrl.close();
  }
}

/**
 * Rows in the order of sizes, each case of a size after the other. The caller holds the device's lock.
 * @param stop set `stop` to end early; the function is taken away from the host in any case
 * @throws Fault what opening the device throws, E_USAGE, E_HOST when the host does not answer or goes away
 */
export async function* measureLive(o: LiveOptions, log: EngineLog, stop: { stop: boolean }): AsyncGenerator<LiveRow> {
  const bench = new LiveBench(o, log, stop);
  try {
    yield* bench.rows();
  } finally {
    bench.close();
  }
}
