import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cstring, libc, MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from "../../../src/hw/libc.ts";
import { unmap, view } from "../../../src/hw/mem.ts";
import { openEdda } from "../../../src/hw/model/edda.ts";
import { VfioUserClient } from "../../support/vfio-user-client.ts";

// Offsets and bits are written down a second time, from Linux's dw-edma-v0-regs.h and dw-edma-pcie.c.
const BAR2_AT = 0xf100_0000;
const MSI_CAP = 0x50;
const MSIX_CAP = 0xb0;
const MSI_ADDR = 0xfee0_1004;
const CB = 1;
const TCB = 2;
const LLP = 4;
const LIE = 8;
const RIE = 16;
const CCS_LLE = 0x300;
/** 2 KiB of list: 85 slots, one for the link */
const LL_MAX = 84;
const LIST = { wr: [0, 0x200000], rd: [0x400000, 0x600000] };
const DATA = 0x800000;

const undo: (() => void)[] = [];
afterEach(() => {
  for (const f of undo.splice(0).reverse()) f();
});

type Dir = "wr" | "rd";
const BLOCK = { wr: 0, rd: 0x54 };
interface Piece {
  sar: number;
  dar: number;
  size: number;
}

/** A guest with 1 MiB of memory that has enumerated the function and loaded the driver. */
function setUp(irq: "msi" | "msix" | "both" = "msi", mode: "held" | "plain" = "held") {
  const dir = mkdtempSync(join(tmpdir(), "epnic-edda-"));
  const log: string[] = [];
  const server = openEdda({ path: `${mode}:${join(dir, "s")}`, irq, channels: 2, log: (_, t) => log.push(t) });
  const client = new VfioUserClient(join(dir, "s"), () => server.turn());
  const fd = libc.memfd_create(cstring("guest"), 1);
  libc.ftruncate(fd, 1 << 20);
  const ptr = mmap("guest", 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  const event = libc.eventfd(0, 0o4000);
  undo.push(() => {
    client.close();
    server.close();
    unmap(ptr, 1 << 20);
    libc.close(fd);
    libc.close(event);
    rmSync(dir, { recursive: true });
  });
  client.version();
  client.map(0x10_0000, 1 << 20, fd);
  client.write(7, 0x10, 4, 0xf000_0000);
  client.write(7, 0x18, 4, BAR2_AT);
  client.write(7, 0x20, 4, 0xf200_0000);
  client.write(7, 0x04, 2, 6);
  const reg = {
    get: (off: number) => client.read(0, off, 4),
    set: (off: number, v: number) => client.write(0, off, 4, v >>> 0),
  };
  /** interrupts since the last look */
  const fired = (): number => {
    for (let i = 0; i < 50; i++) server.turn();
    const count = new BigUint64Array(1);
    return libc.read(event, count, 8) === 8 ? Number(count[0]) : 0;
  };
  /** program MSI with one message, give its eventfd, and tell the engine (request_irq, then device_config) */
  const useMsi = (data: number): void => {
    client.write(7, MSI_CAP + 4, 4, MSI_ADDR);
    client.write(7, MSI_CAP + 8, 4, 0);
    client.write(7, MSI_CAP + 12, 2, data);
    expect(client.setIrqs(1, 0x24, 0, 1, event).error).toBe(0);
    client.write(7, MSI_CAP + 2, 2, client.read(7, MSI_CAP + 2, 2) | 1);
    messages(data);
  };
  const messages = (data: number): void => {
    for (const [done, abort, d] of [
      [0x60, 0x68, 0x70],
      [0xcc, 0xd4, 0xdc],
    ] as const) {
      reg.set(done, MSI_ADDR);
      reg.set(done + 4, 0);
      reg.set(abort, MSI_ADDR);
      reg.set(abort + 4, 0);
      reg.set(d, data | (data << 16));
    }
  };
  /** one chunk, as dw_edma_v0_core_write_chunk() and _start() do it */
  const chunk = (d: Dir, ch: number, pieces: Piece[], cb: number, first: boolean): void => {
    const at = LIST[d][ch]!;
    pieces.forEach((p, i) => {
      const slot = at + 24 * i;
      client.write(2, slot, 4, (cb ? CB : 0) | (i === pieces.length - 1 ? LIE | RIE : 0));
      client.write(2, slot + 4, 4, p.size);
      client.write(2, slot + 8, 8, p.sar);
      client.write(2, slot + 16, 8, p.dar);
    });
    const link = at + 24 * pieces.length;
    client.write(2, link, 4, LLP | TCB | (cb ? 0 : CB));
    client.write(2, link + 8, 8, BAR2_AT + at);
    const base = BLOCK[d];
    if (first) {
      const on = 1 << ch;
      reg.set(d === "wr" ? 0x0c : 0x2c, 1);
      reg.set(0x54 + base, reg.get(0x54 + base) & ~(on | (on << 16)));
      const err = d === "wr" ? 0x90 : 0xc4;
      reg.set(err, reg.get(err) | on);
      const ctx = (d === "wr" ? 0x200 : 0x300) + 0x200 * ch;
      reg.set(ctx, CCS_LLE);
      client.write(0, ctx + 0x1c, 8, BAR2_AT + at);
    }
    reg.set(d === "wr" ? 0x10 : 0x30, ch);
  };
  /** a descriptor: chunks of LL_MAX, each started from the interrupt of the one before; returns interrupts */
  const transfer = (d: Dir, ch: number, pieces: Piece[]): number => {
    let irqs = 0;
    for (let at = 0, cb = 1; at < pieces.length; at += LL_MAX, cb ^= 1) {
      chunk(d, ch, pieces.slice(at, at + LL_MAX), cb, at === 0);
      const n = fired();
      expect(n).toBe(1);
      expect(reg.get(0x4c + BLOCK[d])).toBe(1 << ch);
      reg.set(0x58 + BLOCK[d], 1 << ch);
      expect(reg.get(0x4c + BLOCK[d])).toBe(0);
      irqs += n;
    }
    return irqs;
  };
  const ctx = (d: Dir, ch: number): number => (d === "wr" ? 0x200 : 0x300) + 0x200 * ch;
  return {
    server,
    client,
    ram: new Uint8Array(view(ptr, 1 << 20)),
    reg,
    fired,
    useMsi,
    messages,
    chunk,
    transfer,
    ctx,
    log,
    event,
  };
}

/** `n` pieces of odd lengths at odd guest addresses, and device memory in one stretch */
function scattered(n: number, guest: number, device: number, toDevice: boolean): Piece[] {
  const out: Piece[] = [];
  let dev = device;
  for (let i = 0; i < n; i++) {
    const size = 1 + ((i * 1009) % 1777);
    const ram = guest + i * 2048 + ((i * 37) % 61);
    out.push(toDevice ? { sar: ram, dar: dev, size } : { sar: dev, dar: ram, size });
    dev += size;
  }
  return out;
}

test("identity, BARs and the vendor-specific capability are those of the Synopsys test function", () => {
  const { client } = setUp("both");
  expect(client.read(7, 0, 4)).toBe(0xedda16c3);
  const at: number[] = [];
  for (let cap = 0x100; cap !== 0; cap = client.read(7, cap, 4) >>> 20) at.push(cap);
  const vsec = at.at(-1)!;
  expect(client.read(7, vsec, 2)).toBe(0x000b);
  expect(client.read(7, vsec + 4, 4)).toBe(0x01800006);
  expect(client.read(7, vsec + 8, 4)).toBe(0x001);
  expect(client.read(7, vsec + 12, 4)).toBe(0x00020002);
  expect([client.read(7, vsec + 16, 4), client.read(7, vsec + 20, 4)]).toEqual([0x1000, 0]);
  expect(
    [0, 1, 2, 3, 4, 5].map((b) =>
      client.ask(5, new Uint8Array(new Uint32Array([32, 0, b, 0, 0, 0, 0, 0]).buffer)).body.getUint32(16, true),
    ),
  ).toEqual([0x4000, 0, 0x100_0000, 0, 0x1000, 0]);
  expect(client.read(7, MSIX_CAP + 4, 4) & 7).toBe(4);
});

test("registers are at 0 and at 0x1000, two channels each way", () => {
  const { reg } = setUp();
  expect(reg.get(0x08)).toBe(0x00020002);
  expect(reg.get(0x1008)).toBe(0x00020002);
  reg.set(0x1060, 0xfee01234);
  expect(reg.get(0x60)).toBe(0xfee01234);
  reg.set(0x1400 + 0x0c, 0x5555);
  expect(reg.get(0x400 + 0x0c)).toBe(0x5555);
  // channel 2 does not exist, behind the alias is nothing
  reg.set(0x600, 0x300);
  expect(reg.get(0x600)).toBe(0);
  expect(reg.get(0x3008)).toBe(0);
});

for (const mode of ["held", "plain"] as const)
  test(`lists of three chunks in both directions, one MSI a chunk (${mode})`, () => {
    const { ram, transfer, useMsi, server, reg, ctx } = setUp("msi", mode);
    useMsi(0x4021);
    const n = 200;
    for (let i = 0; i < n * 2048; i++) ram[i] = (i * 7 + (i >> 8)) & 0xff;
    for (const ch of [0, 1]) {
      const device = BAR2_AT + DATA + ch * 0x100000;
      expect(transfer("rd", ch, scattered(n, 0x10_0000, device, true))).toBe(3);
      expect(transfer("wr", ch, scattered(n, 0x10_0000 + 0x70000 + 3, device, false))).toBe(3);
      for (const p of scattered(n, 0, 0, true)) {
        const got = ram.subarray(0x70000 + 3 + p.sar, 0x70000 + 3 + p.sar + p.size);
        expect(Buffer.compare(got, ram.subarray(p.sar, p.sar + p.size))).toBe(0);
      }
      // at rest at the list's start: the link was followed although its CB is the other one
      expect(reg.get(ctx("rd", ch) + 0x1c)).toBe(BAR2_AT + LIST.rd[ch]!);
      expect((reg.get(ctx("rd", ch)) >> 5) & 3).toBe(3);
      ram.fill(0, 0x70000);
    }
    expect(server.summary()).toMatchObject({
      elements: 4 * n,
      links: 12,
      done_messages: 12,
      msi_delivered: 12,
      aborts: 0,
    });
  });

test("a new descriptor starts with CB = 1 again after one that ended with the other", () => {
  const { ram, transfer, useMsi } = setUp();
  useMsi(0x30);
  ram.set([1, 2, 3, 4, 5, 6, 7, 8]);
  const one = (n: number): Piece[] => scattered(n, 0x10_0000, BAR2_AT + DATA, true);
  expect(transfer("rd", 0, one(LL_MAX + 1))).toBe(2);
  expect(transfer("rd", 0, one(1))).toBe(1);
  expect(transfer("rd", 0, one(2 * LL_MAX + 1))).toBe(3);
  expect(transfer("rd", 0, one(LL_MAX))).toBe(1);
});

test("local addresses follow BAR2", () => {
  const { client, transfer, useMsi, ram, server } = setUp();
  useMsi(0x30);
  ram.fill(0x77, 0, 64);
  transfer("rd", 0, [{ sar: 0x10_0000, dar: BAR2_AT + DATA, size: 64 }]);
  expect(client.read(2, DATA + 60, 4)).toBe(0x77777777);
  client.write(7, 0x18, 4, 0xe000_0000);
  expect([server.fn.board.holds(BAR2_AT), server.fn.board.holds(0xe000_0000)]).toEqual([false, true]);
  // the old address is nobody's now: the list cannot be fetched
  server.fn.edma.writeReg(0x30, 0, -1);
  for (let i = 0; i < 20; i++) server.turn();
  expect(server.fn.stats.llErrors).toBe(1);
});

test("reading where the guest has no memory aborts with a message; the channel runs again after a new start", () => {
  const { transfer, chunk, useMsi, fired, reg, server, ram } = setUp();
  useMsi(0x4022);
  chunk("rd", 1, [{ sar: 0x70_0000_0000, dar: BAR2_AT + DATA, size: 64 }], 1, true);
  expect(fired()).toBe(1);
  expect(reg.get(0xa0)).toBe(1 << 17);
  expect(reg.get(0xb8) & 0xff).toBe(1 << 1);
  reg.set(0xac, 1 << 17);
  ram.fill(0x33, 0, 100);
  expect(transfer("rd", 1, [{ sar: 0x10_0000, dar: BAR2_AT + DATA, size: 100 }])).toBe(1);
  expect(server.summary()).toMatchObject({ aborts: 1, done_messages: 2, msi_delivered: 2 });
});

test("a message that is not the guest's MSI goes nowhere", () => {
  const { client, chunk, useMsi, messages, fired, reg, server } = setUp();
  useMsi(0x4021);
  const piece = [{ sar: 0x10_0000, dar: BAR2_AT + DATA, size: 8 }];
  messages(0x4022); // one message is enabled, this would be the second
  chunk("rd", 0, piece, 1, true);
  expect(fired()).toBe(0);
  expect(reg.get(0xa0)).toBe(1);
  reg.set(0xac, 1);
  messages(0x4021);
  client.write(7, MSI_CAP + 2, 2, client.read(7, MSI_CAP + 2, 2) & ~1);
  chunk("rd", 0, piece, 1, true);
  expect(fired()).toBe(0);
  expect(server.fn.stats.postedDropped).toBe(2);
  // and with bus mastering off the DMA reads nothing
  reg.set(0xac, 1);
  client.write(7, 4, 2, 2);
  chunk("rd", 0, piece, 1, true);
  expect(fired()).toBe(0);
  expect(reg.get(0xa0)).toBe(1 << 16);
});

test("MSI-X: the guest's own message address reaches the only live vector, and none when two are live", () => {
  const { client, chunk, messages, fired, event, server } = setUp("both");
  messages(0x25);
  client.setIrqs(2, 0x24, 0, 1);
  expect(client.setIrqs(2, 0x24, 0, 1, event).error).toBe(0);
  const piece = [{ sar: 0x10_0000, dar: BAR2_AT + DATA, size: 8 }];
  chunk("rd", 0, piece, 1, true);
  expect(fired()).toBe(1);
  const other = libc.eventfd(0, 0o4000);
  client.setIrqs(2, 0x24, 1, 1, other);
  chunk("rd", 0, piece, 1, true);
  expect(fired()).toBe(0);
  expect(server.fn.stats.postedDropped).toBe(1);
  libc.close(other);
});
