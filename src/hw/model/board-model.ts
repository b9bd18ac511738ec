#!/usr/bin/env bun
/**
 * The endpoint controller as a process of its own, between two virtual machines (development program, not a command of
 * epnic): towards the board's QEMU a PCI device whose BARs are DBI, DBI2, iATU and eDMA registers and the outbound
 * window, towards the host's QEMU the plugged-in function. Every register access traps and has the model's semantics;
 * DMA goes between the two guests' memories by physical address, and the host's accesses to BARs land in the board's
 * memory through the inbound iATU.
 *
 *   bun src/hw/model/board-model.ts --board B.sock --host H.sock [--core NAME] [--hold-ms N] [--strict]
 *
 * Ends on SIGTERM or SIGINT with one JSON line of figures. PCI id and BAR layout: PCI_CONTROLLERS in boards.ts.
 */
import { parseArgs } from "node:util";
import { PCI_CONTROLLERS } from "../boards.ts";
import type { Controller } from "../controller.ts";
import { Fault } from "../fault.ts";
import { libc, POLLIN, ptrOf } from "../libc.ts";
import type { Mmio } from "../mmio.ts";
import { COMMAND_INTX_DISABLE, COMMAND_MEMORY, PCI_COMMAND, PCI_INTERRUPT_PIN, PCI_STATUS } from "../pci.layout.ts";
import { EndpointModel } from "./endpoint.ts";
import type { HostBus } from "./host-side.ts";
import { MODEL_CORES } from "./open-model.ts";
import { VfioUserHost } from "./vfio-user-host.ts";

const CONFIG_BYTES = 256;
const COMMAND_WRITABLE = 0x0406;
/** Interrupt Status of the status register: the function's level, whatever the command says (PCI 3.0 6.2.3) */
const STATUS_INTERRUPT = 1 << 3;
const BAR0_BYTES = 0x10000;
const BAR2_BYTES = 0x100000;
const ALL_ONES = [0, 0xff, 0xffff, 0, 0xffffffff];

/** Turns between two looks at whether there is anything to do. */
const SLICE_TURNS = 128;
const IDLE_MS = 1;

/** above the memory, windows and registers of every QEMU machine: PCs begin at 0, arm64's `virt` at 1 GiB */
const OWN_MEMORY_BASE = 2 ** 46;

interface Block {
  readonly bar: number;
  readonly offset: number;
  readonly size: number;
  readonly io: Mmio;
}

/** The PCI device that the board's CPU sees: a plain config space and the controller's blocks behind two BARs. */
export class BoardSide implements HostBus {
  readonly #config = new DataView(new ArrayBuffer(CONFIG_BYTES));
  readonly #blocks: readonly Block[];
  /** accesses to offsets where nothing is */
  misses = 0;
  /** memory decoding was switched on: the board's software has the controller, and the link trains */
  onEnable: () => void = () => {};
  /** the DMA engine asks for an interrupt; INTA shows it unless the command register disables it */
  #pending = false;

  constructor(ctrl: Controller) {
    const { id, ranges } = PCI_CONTROLLERS[0]!;
    const [vendor, device] = id.split(":").map((x) => Number.parseInt(x, 16));
    const c = this.#config;
    c.setUint16(0, vendor!, true);
    c.setUint16(2, device!, true);
    c.setUint32(8, 0xff000000, true); // class: unassigned
    c.setUint16(0x2c, vendor!, true);
    c.setUint16(0x2e, device!, true);
    c.setUint8(PCI_INTERRUPT_PIN, 1);
    const io = { dbi: ctrl.dbi, dbi2: ctrl.dbi2, dma: ctrl.dma, atu: ctrl.atu, addr_space: ctrl.window };
    this.#blocks = (Object.keys(io) as (keyof typeof io)[]).flatMap((name) => {
      const space = io[name];
      const range = ranges[name];
      return space === null || range === undefined ? [] : [{ ...range, io: space }];
    });
  }

  cfgRead(off: number, size: number): number {
    if (off < 0 || off + size > CONFIG_BYTES) return ALL_ONES[size]!;
    const c = this.#config;
    c.setUint16(PCI_STATUS, this.#pending ? STATUS_INTERRUPT : 0, true);
    return size === 4 ? c.getUint32(off, true) : size === 2 ? c.getUint16(off, true) : c.getUint8(off);
  }

  cfgWrite(off: number, size: number, value: number): void {
    // Command and interrupt line as they come, BARs with their size bits at zero; the rest is read only.
    if (off === PCI_COMMAND && size >= 2) {
      this.#config.setUint16(off, value & COMMAND_WRITABLE, true);
      if ((value & COMMAND_MEMORY) !== 0) this.onEnable();
    }
    if (off >= PCI_COMMAND && off < PCI_STATUS && size === 1)
      this.#config.setUint8(off, value & (COMMAND_WRITABLE >> (8 * (off - PCI_COMMAND))));
    else if (off === 0x3c && size === 1) this.#config.setUint8(off, value);
    else if (off >= 0x10 && off < 0x28 && size === 4) {
      const bytes = this.barSize((off - 0x10) >> 2);
      this.#config.setUint32(off, bytes === 0 ? 0 : (value & ~(bytes - 1)) >>> 0, true);
    }
  }

  /** @returns the level of INTA */
  line(pending: boolean): boolean {
    this.#pending = pending;
    return pending && (this.#config.getUint16(PCI_COMMAND, true) & COMMAND_INTX_DISABLE) === 0;
  }

  barSize(bar: number): number {
    return bar === 0 ? BAR0_BYTES : bar === 2 ? BAR2_BYTES : 0;
  }

  barRead(bar: number, off: number, size: number): number {
    const b = this.#block(bar, off, size);
    if (b === null) return ALL_ONES[size]!;
    const at = off - b.offset;
    return size === 4 ? b.io.ld32(at) : size === 2 ? b.io.ld16(at) : b.io.ld8(at);
  }

  barWrite(bar: number, off: number, size: number, value: number): void {
    const b = this.#block(bar, off, size);
    if (b === null) return;
    const at = off - b.offset;
    if (size === 4) b.io.st32(at, value);
    else if (size === 2) b.io.st16(at, value);
    else b.io.st8(at, value);
  }

  barPointer(): number {
    return 0;
  }

  #block(bar: number, off: number, size: number): Block | null {
    for (const b of this.#blocks) {
      if (b.bar === bar && off >= b.offset && off + size <= b.offset + b.size)
        return off - b.offset + size <= b.io.size ? b : this.#miss();
    }
    return this.#miss();
  }

  #miss(): null {
    this.misses++;
    return null;
  }
}

export interface BoardModelOptions {
  readonly core: string;
  readonly boardSocket: string;
  readonly hostSocket: string;
  /** how long an access of a negotiating host lasts at least, ms */
  readonly holdMs: number;
  /** let DMA touch only what the host's rings hand over */
  readonly strict: boolean;
  readonly log: (level: "info" | "warn" | "error", text: string) => void;
}

export class BoardModel {
  readonly endpoint: EndpointModel;
  readonly board: VfioUserHost;
  readonly host: VfioUserHost;
  readonly side: BoardSide;
  #boardResets = 0;
  #boardWasThere = false;
  #traffic = 0;
  #inta = false;
  readonly #fds = new Int32Array(4);
  readonly #fdsPtr = ptrOf(this.#fds);

  constructor(o: BoardModelOptions) {
    const core = MODEL_CORES[o.core as keyof typeof MODEL_CORES];
    if (core === undefined) throw new Fault("E_NODEV", `there is no model core "${o.core}"`);
    // Board memory is the board's guest's; the model's own, unused, lies where no machine has any.
    const endpoint = new EndpointModel({ ...core, boardMemory: 65536, boardBase: OWN_MEMORY_BASE });
    this.endpoint = endpoint;
    this.side = new BoardSide(endpoint.controller());
    const named = (who: string) => (level: "info" | "warn" | "error", text: string) => o.log(level, `${who}: ${text}`);
    this.board = new VfioUserHost({
      path: o.boardSocket,
      mode: "held",
      virtio: false,
      space: endpoint.board,
      holdMs: 0,
      log: named("board"),
    });
    this.board.attach(this.side);
    this.host = new VfioUserHost({
      path: o.hostSocket,
      mode: "held",
      strict: o.strict,
      holdMs: o.holdMs,
      log: named("host"),
    });
    this.host.attach(endpoint);
    endpoint.attach(this.host);
    endpoint.setLink(false);
    this.side.onEnable = () => endpoint.setLink(true);
    endpoint.addStepper(this.board);
    endpoint.addStepper(this.host);
    this.#fds.set([this.board.waitFd, POLLIN, this.host.waitFd, POLLIN]);
  }

  /** Some turns, then a sleep of at most a millisecond when nothing happened in them. */
  slice(): void {
    const { endpoint, board, host } = this;
    for (let t = 0; t < SLICE_TURNS; t++) {
      endpoint.turn();
      const inta = this.side.line(endpoint.edma.irq);
      if (inta === this.#inta) continue;
      this.#inta = inta;
      board.irq.intx(inta);
    }
    const there = board.connected;
    if (board.resets !== this.#boardResets || (this.#boardWasThere && !there)) {
      // The SoC was reset or is off: no link, the controller begins anew, and DMA finds no memory to go to.
      this.#boardResets = board.resets;
      endpoint.setLink(false);
      endpoint.powerOnReset();
    }
    this.#boardWasThere = there;
    const traffic = board.reads + board.writes + host.reads + host.writes;
    if (endpoint.edma.running === 0 && traffic === this.#traffic) libc.poll(this.#fdsPtr, 2, IDLE_MS);
    this.#traffic = traffic;
  }

  /** DMA that hit nothing, and in strict mode what was not handed over. */
  figures(): Record<string, number | string> {
    const { stats } = this.endpoint;
    return {
      violations: this.endpoint.violationCount,
      first_violation: this.endpoint.violations[0] ?? "",
      local_errors: stats.localErrors,
      posted_dropped: stats.postedDropped,
      unsupported_requests: stats.unsupportedRequests,
      inbound_misses: stats.inboundMisses,
      register_misses: this.side.misses,
      messages: stats.messages,
      board_accesses: this.board.reads + this.board.writes,
      host_accesses: this.host.reads + this.host.writes,
      host_attaches: this.host.attaches,
      board_attaches: this.board.attaches,
      board_interrupts: this.board.irq.intxFired,
    };
  }

  close(): void {
    this.host.close();
    this.board.close();
    this.endpoint.close();
  }
}

if (import.meta.main) {
  const { values: v } = parseArgs({
    options: {
      board: { type: "string" },
      host: { type: "string" },
      core: { type: "string", default: "modern-msix" },
      "hold-ms": { type: "string", default: "20" },
      strict: { type: "boolean", default: false },
    },
    strict: true,
  });
  if (v.board === undefined || v.host === undefined) {
    console.error("usage: board-model --board SOCKET --host SOCKET [--core NAME] [--hold-ms N] [--strict]");
    process.exit(2);
  }
  const model = new BoardModel({
    core: v.core,
    boardSocket: v.board,
    hostSocket: v.host,
    holdMs: Number(v["hold-ms"]),
    strict: v.strict,
    log: (level, text) => console.error(`model ${level}: ${text}`),
  });
  let stop = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => (stop = true));
  process.on("SIGUSR1", () => console.error(`model figures: ${JSON.stringify(model.figures())}`));
  while (!stop) {
    model.slice();
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  console.log(JSON.stringify(model.figures()));
  model.close();
  process.exit(0);
}
