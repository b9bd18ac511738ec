/**
 * Measures what the engine costs: the data path between two drivers that keep both pairs of rings filled, with the
 * model's DMA outside of the clock. Frames have the size and arrive in the batches asked for; nobody looks at them.
 */
import { DriverRing, ringLayout } from "../hw/driver-ring.ts";
import { Edma } from "../hw/edma.ts";
import { Fault } from "../hw/fault.ts";
import { openPassive } from "../hw/model/open-model.ts";
import type { LocalBuffers, NetPort } from "../hw/net-port.ts";
import { DataPath } from "./datapath.ts";
import { EdmaFetcher } from "./fetch.ts";
import type { RingAddresses } from "./host-ring.ts";
import { Interrupts } from "./interrupts.ts";

export interface BenchOptions {
  sizes: readonly number[];
  batches: readonly number[];
  /** time or number of frames of one measurement */
  seconds: number;
  frames: number | null;
  /** seconds before the first measurement of each size */
  warmup: number;
  runs: number;
  seed: number;
}

interface Spread {
  min: number;
  median: number;
  max: number;
}

/** One line of the report; src/cmd has its schema. */
export interface BenchResult {
  case: string;
  frame_bytes: number;
  batch: number;
  frames: number;
  runs: number;
  cpu_ns_per_frame: Spread;
  mpps: Spread;
  gbps: Spread;
  p50_ns: null;
  p99_ns: null;
  p999_ns: null;
  cpu_share: number;
}

export const CASES = ["to_host", "to_board", "both"] as const;
type Case = (typeof CASES)[number];

const QUEUE = 256;
const HDR = 12;
const RING_BYTES = 65536;
/** every buffer has a place of its own, as with real drivers, so that caches are not flattered */
const BUFFERS = 512;
const TWO32 = 4294967296;
const WARM_FRAMES = 200_000;

/** One end: two rings and the places of its buffers. */
class End {
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  private cursor = 0;
  private readonly buffersBus: number;

  constructor(
    ptr: number,
    bus: number,
    private readonly slot: number,
  ) {
    const ring = (i: number): DriverRing =>
      new DriverRing({
        size: QUEUE,
        mem: { ptr: ptr + i * RING_BYTES, busBase: bus + i * RING_BYTES },
        align: 4096,
        eventIdx: false,
      });
    this.rx = ring(0);
    this.tx = ring(1);
    this.buffersBus = bus + 2 * RING_BYTES;
  }

  private put(ring: DriverRing, len: number, write: boolean): void {
    const at = this.buffersBus + this.cursor * this.slot;
    this.cursor = (this.cursor + 1) % BUFFERS;
    ring.addOne(at | 0, Math.floor(at / TWO32), len, write);
  }

  fill(): void {
    while (this.rx.freeCount > 0) this.put(this.rx, this.slot, true);
    this.rx.publish();
  }

  /** At most `n` frames of `len` bytes with header. @returns how many there was room for */
  send(n: number, len: number): number {
    let sent = 0;
    while (sent < n && this.tx.freeCount > 0) {
      this.put(this.tx, len, false);
      sent++;
    }
    if (sent > 0) this.tx.publish();
    return sent;
  }

  /** @returns frames received */
  drain(): number {
    let n = 0;
    while (this.rx.take() >= 0) n++;
    while (this.tx.take() >= 0);
    if (this.rx.broken !== 0 || this.tx.broken !== 0) throw new Fault("E_RING", "the engine broke a ring of bench");
    return n;
  }
}

function addresses(r: DriverRing): RingAddresses {
  const hi = (n: number): number => Math.floor(n / TWO32);
  return {
    size: r.size,
    descLo: r.descBus | 0,
    descHi: hi(r.descBus),
    availLo: r.availBus | 0,
    availHi: hi(r.availBus),
    usedLo: r.usedBus | 0,
    usedHi: hi(r.usedBus),
  };
}

const roundUp = (n: number, step: number): number => Math.ceil(n / step) * step;

class Rig {
  readonly host: End;
  readonly board: End;
  private readonly dp: DataPath;
  private readonly model: ReturnType<typeof openPassive>;
  private readonly edma: Edma;
  /** ns inside the data path, and frames, since the last clear() */
  engineNs = 0;
  frames = 0;
  turns = 0;

  constructor(frameBytes: number, seed: number) {
    const slot = roundUp(HDR + frameBytes, 2048);
    const bytes = roundUp(2 * RING_BYTES + BUFFERS * slot, 4096);
    if (ringLayout(QUEUE, 4096).bytes > RING_BYTES) throw new Fault("E_SYS", "bench: ring block too small");
    this.model = openPassive(bytes + (8 << 20), Math.max(16 << 20, bytes + 4096), seed);
    const ctrl = this.model.controller;
    this.edma = new Edma(ctrl);
    const write = this.edma.open(true, 0, 2000);
    const read = this.edma.open(false, 0, 2000);
    const fetch = this.edma.open(false, 1, 2000);
    const area = ctrl.memory.alloc("bench", bytes, 4096);
    this.board = new End(area.ptr, area.bus, slot);
    this.host = new End(this.model.hostPtr, this.model.hostBus, slot);
    const buffers: LocalBuffers = {
      base: area.bus,
      busBase: area.bus,
      u8: area.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => -1,
    };
    const port: NetPort = {
      kind: "bench",
      netdev: "",
      ready: true,
      generation: 1,
      rx: this.board.rx,
      tx: this.board.tx,
      buffers,
      txHeaderWritable: true,
      rxMergeable: true,
      copiedBytes: 0,
      resumeIdx: () => 0,
      start: () => {},
      stop: () => {},
      turn: () => 0,
      notify: () => {},
      setLink: () => {},
      waitFds: [],
      close: () => {},
    };
    const irq = new Interrupts(ctrl.memory, null, null, 1);
    const limits = { burst: 64, inflightBytes: 512 * 1024 };
    this.dp = new DataPath(ctrl, port, { write, read, fetch }, new EdmaFetcher(fetch), irq, QUEUE, limits);
    this.dp.attach({
      rx: addresses(this.host.rx),
      tx: addresses(this.host.tx),
      rxVector: 0xffff,
      txVector: 0xffff,
      hdrLen: HDR,
      mergeable: true,
      eventIdx: false,
      indirect: false,
      boardMergeable: true,
      msix: true,
    });
  }

  /** One round: drivers give and take, the DMA moves, the engine has its turn under the clock. */
  round(which: Case, batch: number, len: number): void {
    const { host, board } = this;
    this.frames += host.drain() + board.drain();
    host.fill();
    board.fill();
    if (which !== "to_board") board.send(batch, len);
    if (which !== "to_host") host.send(batch, len);
    this.model.turn();
    const from = Bun.nanoseconds();
    const rc = this.dp.turn();
    this.engineNs += Bun.nanoseconds() - from;
    this.turns++;
    if (rc < 0)
      throw new Fault(
        "E_DMA",
        `bench: the data path stopped with ${rc} (${this.dp.culprit}, ${this.dp.a}, ${this.dp.b})`,
      );
  }

  clear(): void {
    this.engineNs = 0;
    this.frames = 0;
    this.turns = 0;
  }

  close(): void {
    this.edma.quiesce();
    this.model.close();
  }
}

/** ns that reading the clock twice adds to what is measured between */
function clockNs(): number {
  const all: number[] = [];
  for (let i = 0; i < 20_000; i++) {
    const from = Bun.nanoseconds();
    all.push(Bun.nanoseconds() - from);
  }
  all.sort((a, b) => a - b);
  return all[all.length >> 1];
}

function spread(values: number[]): Spread {
  const v = [...values].sort((a, b) => a - b);
  const mid = v.length >> 1;
  return { min: v[0], median: v.length % 2 ? v[mid] : (v[mid - 1] + v[mid]) / 2, max: v[v.length - 1] };
}

/**
 * Run everything asked for, a row after the other. Rates are what one CPU could do at that cost.
 * @throws Fault when the data path stops
 */
export function* measure(o: BenchOptions): Generator<BenchResult> {
  for (const bytes of o.sizes) {
    const rig = new Rig(bytes, o.seed);
    try {
      // the optimising compiler needs about 10^5 frames; afterwards time is enough
      if (bytes === o.sizes[0]) moveFor(rig, "both", 32, HDR + bytes, 0, WARM_FRAMES, 0);
      for (const which of CASES) {
        for (const batch of o.batches) yield one(rig, which, bytes, batch, o);
      }
    } finally {
      rig.close();
    }
  }
}

/** rounds between two looks at the clock on the wall; one chunk is well below a time slice of the scheduler */
const CHUNK = 64;

/**
 * Rounds for so long or so many frames.
 * @returns the median over chunks of ns a frame: chunks in which somebody else had the CPU do not count
 */
function moveFor(
  rig: Rig,
  which: Case,
  batch: number,
  len: number,
  seconds: number,
  frames: number | null,
  clock: number,
) {
  const costs: number[] = [];
  const end = Bun.nanoseconds() + seconds * 1e9;
  let moved = 0;
  do {
    rig.clear();
    for (let i = 0; i < CHUNK; i++) rig.round(which, batch, len);
    if (rig.frames > 0) costs.push((rig.engineNs - rig.turns * clock) / rig.frames);
    moved += rig.frames;
  } while (frames === null ? Bun.nanoseconds() < end : moved < frames);
  return { moved, cost: costs.length === 0 ? 0 : Math.max(0.1, spread(costs).median) };
}

function one(rig: Rig, which: Case, bytes: number, batch: number, o: BenchOptions): BenchResult {
  const len = HDR + bytes;
  moveFor(rig, which, batch, len, o.warmup, null, 0);
  const clock = clockNs();
  const costs: number[] = [];
  let frames = 0;
  const cpu = process.cpuUsage();
  const wall = Bun.nanoseconds();
  for (let run = 0; run < o.runs; run++) {
    const { moved, cost } = moveFor(rig, which, batch, len, o.seconds, o.frames, clock);
    if (cost === 0) throw new Fault("E_DMA", `bench: no frame of ${bytes} bytes arrived in ${o.seconds} s`);
    costs.push(cost);
    frames += moved;
  }
  const used = process.cpuUsage(cpu);
  const share = ((used.user + used.system) * 1000) / (Bun.nanoseconds() - wall);
  return {
    case: which,
    frame_bytes: bytes,
    batch,
    frames: Math.round(frames / o.runs),
    runs: o.runs,
    cpu_ns_per_frame: spread(costs),
    mpps: spread(costs.map((ns) => 1000 / ns)),
    gbps: spread(costs.map((ns) => (8 * bytes) / ns)),
    p50_ns: null,
    p99_ns: null,
    p999_ns: null,
    cpu_share: Math.min(1, share),
  };
}
