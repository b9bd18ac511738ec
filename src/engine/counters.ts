/**
 * The counter page: one small shared file that `run` writes every few milliseconds and `stat` maps read-only, so that
 * looking never disturbs the service loop. Numbers are float64 words (exact below 2^53, one aligned store each); the
 * state block is JSON under a sequence word (odd while it is being written).
 */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  unlinkSync,
} from "node:fs";
import { dirname } from "node:path";
import { Fault } from "../hw/fault.ts";
import { MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from "../hw/libc.ts";
import { st32, unmap, view } from "../hw/mem.ts";

export interface CounterDef {
  readonly name: string;
  readonly unit: string;
  readonly help: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const dir = (direction: string) => ({ direction });

/** Every counter, in page order. docs/counters.md says which line raises it. */
export const COUNTERS = [
  { name: "to_host_frames", unit: "frames", help: "Frames delivered to the host", labels: dir("to_host") },
  { name: "to_host_bytes", unit: "bytes", help: "Frame bytes delivered to the host", labels: dir("to_host") },
  {
    name: "to_host_dropped",
    unit: "frames",
    help: "Frames no receive buffer of the host could take",
    labels: dir("to_host"),
  },
  {
    name: "to_host_starved",
    unit: "turns",
    help: "Turns in which frames waited for receive buffers of the host",
    labels: dir("to_host"),
  },
  { name: "to_host_bursts", unit: "bursts", help: "Bursts begun towards the host", labels: dir("to_host") },
  {
    name: "to_host_elements",
    unit: "elements",
    help: "Linked-list elements of bursts towards the host",
    labels: dir("to_host"),
  },
  { name: "to_board_frames", unit: "frames", help: "Frames taken from the host", labels: dir("to_board") },
  { name: "to_board_bytes", unit: "bytes", help: "Frame bytes taken from the host", labels: dir("to_board") },
  {
    name: "to_board_dropped",
    unit: "frames",
    help: "Frames no receive buffer of the board could take",
    labels: dir("to_board"),
  },
  {
    name: "to_board_starved",
    unit: "turns",
    help: "Turns in which frames waited for receive buffers of the board",
    labels: dir("to_board"),
  },
  { name: "to_board_bursts", unit: "bursts", help: "Bursts begun towards the board", labels: dir("to_board") },
  {
    name: "to_board_elements",
    unit: "elements",
    help: "Linked-list elements of bursts towards the board",
    labels: dir("to_board"),
  },
  { name: "host_interrupts", unit: "interrupts", help: "Interrupts sent to the host" },
  { name: "host_interrupts_masked", unit: "interrupts", help: "Interrupts held back by a mask of the host" },
  { name: "board_interrupts", unit: "interrupts", help: "Interrupts given to the board's driver" },
  { name: "fetches", unit: "fetches", help: "Looks at the host's avail rings" },
  { name: "fetches_empty", unit: "fetches", help: "Looks that found nothing new" },
  { name: "cpu_reads", unit: "reads", help: "CPU loads across the link (non-posted reads)" },
  {
    name: "port_copied_bytes",
    unit: "bytes",
    help: "Bytes the CPU copied in the board's port: TAP read and write calls; 0 with VDUSE",
  },
  { name: "doorbell_rerings", unit: "doorbells", help: "Lost doorbells rung again" },
  { name: "negotiations", unit: "negotiations", help: "Times the host reached DRIVER_OK" },
  { name: "refusals", unit: "negotiations", help: "Negotiations that could not be used" },
  { name: "host_resets", unit: "resets", help: "Times the host reset the function" },
  { name: "faults", unit: "faults", help: "Queue pairs stopped because a rule was broken or DMA failed" },
  {
    name: "abandoned",
    unit: "frames",
    help: "Frames lost because the host or the board's driver went away under them",
  },
  { name: "strict_violations", unit: "accesses", help: "DMA outside memory that was handed over (strict model only)" },
  { name: "turns", unit: "turns", help: "Turns of the service loop" },
  { name: "sleeps", unit: "sleeps", help: "Times the idle loop went to sleep" },
  { name: "notices", unit: "notices", help: "Avail indices of the host that came with a notification" },
  {
    name: "prepared",
    unit: "rounds",
    help: "Rounds of lone frames that were prepared in registers and went without a list",
  },
] as const satisfies readonly CounterDef[];

export type CounterName = (typeof COUNTERS)[number]["name"];
/** Index of each counter in the page. */
export const COUNTER_INDEX = Object.fromEntries(COUNTERS.map((c, i) => [c.name, i])) as Record<CounterName, number>;

export type CounterState = Record<string, string | number | boolean>;

export interface CounterSnapshot {
  version: number;
  pid: number;
  startedMs: number;
  updatedMs: number;
  /** the process that wrote the page is gone */
  stale: boolean;
  state: CounterState;
  counters: Record<string, number>;
}

const MAGIC = 0x43_4e_50_45; // "EPNC"
export const COUNTER_VERSION = 1;
const SIZE = 8192;
// Word offsets of the header (uint32), float64 offsets of the times, byte offsets of the blocks.
const W_MAGIC = 0;
const W_VERSION = 1;
const W_PID = 2;
const W_COUNT = 3;
const W_SEQ = 4;
const W_STATE_LEN = 5;
const F_STARTED = 4;
const F_UPDATED = 5;
const COUNTERS_OFF = 64;
const STATE_OFF = 1024;

/** The writer's end. `values` may be stored to at any time by index COUNTER_INDEX; `stamp()` marks the page as fresh. */
export class CounterPage {
  readonly path: string;
  readonly values: Float64Array;
  private readonly ptr: number;
  private readonly u32: Uint32Array;
  private readonly f64: Float64Array;
  private readonly bytes: Uint8Array;
  private lastState = "";

  /** Make the file under its final name in one step, so that a reader never sees half a page. */
  constructor(path: string) {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    const tmp = `${path}.${process.pid}`;
    const fd = openSync(tmp, "w+", 0o644);
    try {
      ftruncateSync(fd, SIZE);
      this.ptr = mmap(`counter page ${tmp}`, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    } finally {
      closeSync(fd);
    }
    const buffer = view(this.ptr, SIZE);
    this.u32 = new Uint32Array(buffer, 0, 16);
    this.f64 = new Float64Array(buffer, 0, 8);
    this.values = new Float64Array(buffer, COUNTERS_OFF, COUNTERS.length);
    this.bytes = new Uint8Array(buffer, STATE_OFF, SIZE - STATE_OFF);
    this.u32[W_VERSION] = COUNTER_VERSION;
    this.u32[W_PID] = process.pid;
    this.u32[W_COUNT] = COUNTERS.length;
    this.f64[F_STARTED] = Date.now();
    this.f64[F_UPDATED] = Date.now();
    this.setState({});
    st32(this.ptr + W_MAGIC * 4, MAGIC);
    renameSync(tmp, path);
  }

  /** Replace the state block when it changed. Not for the hot path. */
  setState(state: CounterState): void {
    const text = JSON.stringify(state);
    if (text === this.lastState) return;
    const raw = new TextEncoder().encode(text);
    if (raw.length > this.bytes.length) {
      throw new Fault("E_SYS", `counter page: state of ${raw.length} bytes, room for ${this.bytes.length}`);
    }
    const seq = this.u32[W_SEQ]! | 1;
    st32(this.ptr + W_SEQ * 4, seq);
    this.bytes.set(raw);
    st32(this.ptr + W_STATE_LEN * 4, raw.length);
    st32(this.ptr + W_SEQ * 4, (seq + 1) >>> 0);
    this.lastState = text;
  }

  stamp(): void {
    this.f64[F_UPDATED] = Date.now();
  }

  /** Unmap and remove the file. */
  close(): void {
    unmap(this.ptr, SIZE);
    try {
      unlinkSync(this.path);
    } catch {
      // Somebody else removed it: the wanted state.
    }
  }
}

/**
 * Read a page as it is now.
 * @throws Fault E_NODEV when there is none, E_CONFIG when the file is not a counter page of this version
 */
export function readCounterPage(path: string): CounterSnapshot {
  if (!existsSync(path)) {
    throw new Fault(
      "E_NODEV",
      `no counter page ${path}: nothing is running for this device`,
      "start it with: epnic run",
    );
  }
  for (let attempt = 0; ; attempt++) {
    const file = readFileSync(path);
    if (file.length < SIZE) throw new Fault("E_CONFIG", `${path} has ${file.length} bytes, a counter page has ${SIZE}`);
    const data = new DataView(file.buffer, file.byteOffset, file.length);
    const word = (i: number) => data.getUint32(i * 4, true);
    if (word(W_MAGIC) !== MAGIC || word(W_VERSION) !== COUNTER_VERSION) {
      throw new Fault(
        "E_CONFIG",
        `${path} is not a counter page of version ${COUNTER_VERSION} (magic 0x${word(W_MAGIC).toString(16)}, version ${word(W_VERSION)})`,
        "use the same epnic for run and stat",
      );
    }
    const seq = word(W_SEQ);
    const text = new TextDecoder().decode(file.subarray(STATE_OFF, STATE_OFF + word(W_STATE_LEN)));
    let state: CounterState;
    try {
      if (seq & 1) throw new SyntaxError("being written");
      state = JSON.parse(text) as CounterState;
    } catch (e) {
      if (attempt < 100) continue;
      throw new Fault("E_SYS", `${path}: the state block stays unreadable (${(e as Error).message})`);
    }
    const counters: Record<string, number> = {};
    const n = Math.min(word(W_COUNT), COUNTERS.length);
    for (let i = 0; i < n; i++) counters[COUNTERS[i]!.name] = data.getFloat64(COUNTERS_OFF + 8 * i, true);
    const pid = word(W_PID);
    return {
      version: word(W_VERSION),
      pid,
      startedMs: data.getFloat64(F_STARTED * 8, true),
      updatedMs: data.getFloat64(F_UPDATED * 8, true),
      stale: !alive(pid),
      state,
      counters,
    };
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (e) {
    return (e as NodeJS.ErrnoException).code === "EPERM";
  }
}
