/** The board's side of the model between two machines: its QEMU gets the DMA engine's interrupt as INTA, level and all. */
import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PCI_CONTROLLERS } from "../../../src/hw/boards.ts";
import type { Controller } from "../../../src/hw/controller.ts";
import { setBar } from "../../../src/hw/dbi.ts";
import { ChunkMemory } from "../../../src/hw/dma-chunk.ts";
import { EDMA } from "../../../src/hw/edma.regs.ts";
import { Edma } from "../../../src/hw/edma.ts";
import {
  cstring,
  EFD_CLOEXEC,
  EFD_NONBLOCK,
  libc,
  MAP_SHARED,
  mmap,
  PROT_READ,
  PROT_WRITE,
} from "../../../src/hw/libc.ts";
import { ld32, st32, unmap } from "../../../src/hw/mem.ts";
import type { Mmio } from "../../../src/hw/mmio.ts";
import { BoardModel } from "../../../src/hw/model/board-model.ts";
import { COMMAND_INTX_DISABLE } from "../../../src/hw/pci.layout.ts";
import { VfioUserClient } from "../../support/vfio-user-client.ts";

const CONFIG = 7;
const RESET = 13;
const MIB = 1 << 20;
const BOARD_AT = 0x10_0000;
const HOST_AT = 0x20_0000;
const { ranges } = PCI_CONTROLLERS[0]!;

/** Machine memory that its QEMU hands over. */
class Ram {
  readonly fd = libc.memfd_create(cstring("ram"), 1);
  readonly ptr: number;
  constructor() {
    libc.ftruncate(this.fd, MIB);
    this.ptr = mmap("ram", MIB, PROT_READ | PROT_WRITE, MAP_SHARED, this.fd);
  }
  close(): void {
    unmap(this.ptr, MIB);
    libc.close(this.fd);
  }
}

let undo: (() => void)[] = [];
afterEach(() => {
  for (const f of undo.reverse()) f();
  undo = [];
});

function setUp() {
  const dir = mkdtempSync(join(tmpdir(), "epnic-board-"));
  const model = new BoardModel({
    core: "modern-msix",
    boardSocket: join(dir, "b.sock"),
    hostSocket: join(dir, "h.sock"),
    holdMs: 0,
    strict: false,
    log: () => {},
  });
  const pump = (): void => model.slice();
  const board = new VfioUserClient(join(dir, "b.sock"), pump);
  board.version();
  const ram = new Ram();
  expect(board.map(BOARD_AT, MIB, ram.fd).error).toBe(0);
  const irq = libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  expect(board.setIrqs(0, 0x24, 0, 1, irq).error).toBe(0);
  undo.push(
    () => rmSync(dir, { recursive: true }),
    () => model.close(),
    () => board.close(),
    () => ram.close(),
    () => libc.close(irq),
  );
  const fired = (): number => {
    for (let i = 0; i < 20; i++) pump();
    const n = new Uint32Array(2);
    return libc.read(irq, n, 8) === 8 ? n[0]! : 0;
  };
  /** the guest touches a BAR, upon which QEMU lowers its line and unmasks */
  const unmask = (): void => {
    board.setIrqs(0, 0x11, 0, 1);
  };
  return { dir, model, pump, board, ram, fired, unmask };
}

/** A range of the board's BARs as registers. */
function registers(board: VfioUserClient, name: "dbi" | "dma"): Mmio {
  const { bar, offset, size } = ranges[name]!;
  const ld = (n: number) => (off: number) => board.read(bar, offset + off, n);
  const st = (n: number) => (off: number, v: number) => {
    board.write(bar, offset + off, n, v >>> 0);
  };
  return { size, ld8: ld(1), ld16: ld(2), ld32: ld(4), st8: st(1), st16: st(2), st32: st(4) };
}

test("the end of a DMA transfer raises INTA until it is acknowledged", () => {
  const { dir, board, ram, fired, unmask, pump, model } = setUp();
  const host = new VfioUserClient(join(dir, "h.sock"), pump);
  const hostRam = new Ram();
  undo.push(
    () => host.close(),
    () => hostRam.close(),
  );
  // a host finds only what has a BAR
  setBar(model.endpoint.controller(), 0, 0x10000);
  board.write(CONFIG, 4, 2, 6);
  host.version();
  host.map(HOST_AT, MIB, hostRam.fd);
  host.write(CONFIG, 4, 2, 6);

  expect(board.read(CONFIG, 0x3d, 1)).toBe(1);
  const memory = new ChunkMemory([{ ptr: ram.ptr, bus: BOARD_AT, size: MIB }], "");
  const dma = registers(board, "dma");
  const ctrl = { name: "board", core: { dmaMap: "edma-unroll" }, dma, memory, turn: () => {} } as unknown as Controller;
  const channel = new Edma(ctrl).open(true, 0, 16, { lie: true, interrupts: true });
  const data = memory.alloc("data", 64, 64);
  st32(data.ptr, 0x600dcafe);
  expect(fired()).toBe(0);
  channel.put(64, data.bus, 0, HOST_AT + 0x1000, 0);
  channel.commit();
  expect(fired()).toBe(1);
  expect(ld32(hostRam.ptr + 0x1000)).toBe(0x600dcafe);
  expect(board.read(CONFIG, 6, 2) & 8).toBe(8);
  // what a handler that masks in config space does: uio_pci_generic
  const command = board.read(CONFIG, 4, 2);
  board.write(CONFIG, 4, 2, command | COMMAND_INTX_DISABLE);
  unmask();
  expect(fired()).toBe(0);
  expect(board.read(CONFIG, 6, 2) & 8).toBe(8);
  // unmasked with the cause still there: again
  board.write(CONFIG, 4, 2, command);
  expect(fired()).toBe(1);
  dma.st32(EDMA.WR_INT_CLEAR, 1);
  unmask();
  expect(fired()).toBe(0);
  expect(board.read(CONFIG, 6, 2) & 8).toBe(0);
});

test("the emulated interrupt is a doorbell; a masked one is silent", () => {
  const { board, fired, unmask } = setUp();
  const dma = registers(board, "dma");
  dma.st32(EDMA.RD_INT_STATUS, 1);
  expect(fired()).toBe(1);
  unmask();
  expect(fired()).toBe(1);
  dma.st32(EDMA.WR_INT_CLEAR, 0);
  dma.st32(EDMA.RD_INT_CLEAR, 0);
  unmask();
  expect(fired()).toBe(0);
});

test("the host sees no link while the board's software has not switched the controller on, and after the board's reset", () => {
  const { dir, board, pump, model } = setUp();
  const host = new VfioUserClient(join(dir, "h.sock"), pump);
  undo.push(() => host.close());
  setBar(model.endpoint.controller(), 0, 0x10000);
  host.version();
  expect(host.read(CONFIG, 0, 4)).toBe(0xffffffff);
  board.write(CONFIG, 4, 2, 6);
  const id = host.read(CONFIG, 0, 4);
  expect(id).not.toBe(0xffffffff);
  host.write(CONFIG, 4, 2, 6);
  expect(host.read(CONFIG, 4, 2)).toBe(6);
  board.ask(RESET, new Uint8Array(0));
  for (let i = 0; i < 5; i++) pump();
  expect(host.read(CONFIG, 0, 4)).toBe(0xffffffff);
  board.write(CONFIG, 4, 2, 6);
  // as after power-on: the host's settings are gone
  expect(host.read(CONFIG, 0, 4)).toBe(id);
  expect(host.read(CONFIG, 4, 2)).toBe(0);
});
