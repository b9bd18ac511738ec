/** Interrupts towards the host, against the model and its host side. */
import { afterEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { Controller } from "../../src/hw/controller.ts";
import { findCap, setMsix } from "../../src/hw/dbi.ts";
import { Iatu } from "../../src/hw/iatu.ts";
import { Intx, IRQ_MASKED, IRQ_OFF, IRQ_READY, MessageWindow, Msi, MsixTable } from "../../src/hw/irq.ts";
import { cstring, libc, MAP_SHARED, MFD_CLOEXEC, mmap, PROT_READ, PROT_WRITE } from "../../src/hw/libc.ts";
import { ld32, st32, unmap } from "../../src/hw/mem.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { CAP_ID_MSI, CAP_ID_MSIX, PCI_COMMAND } from "../../src/hw/pci.layout.ts";
import { DumpMmio } from "../support/dump-mmio.ts";
import { TestHost } from "./model/bench-board.ts";

const open: (() => void)[] = [];
afterEach(() => {
  for (const f of open.splice(0)) f();
});

function plug(options: Partial<ModelOptions> = {}): {
  model: EndpointModel;
  ctrl: Controller;
  host: TestHost;
  iatu: Iatu;
} {
  const model = new EndpointModel({ boardMemory: 1 << 20, ...options });
  const host = new TestHost(false);
  model.attach(host);
  model.cfgWrite(PCI_COMMAND, 2, 0x6);
  open.push(() => {
    host.close();
    model.memory.close();
  });
  const ctrl = model.controller();
  return { model, ctrl, host, iatu: new Iatu(ctrl) };
}

describe("MsixTable", () => {
  const VECTORS = 40;
  function table(): { model: EndpointModel; t: MsixTable; u32: Uint32Array; control: (v: number) => void } {
    const { model, ctrl } = plug({ msix: true });
    setMsix(ctrl, { vectors: VECTORS, tableBar: 2, tableOff: 0, pbaBar: 2, pbaOff: 0x800 });
    const r = ctrl.memory.alloc("bar2", 0x1000, 4096);
    const t = new MsixTable(ctrl, r.ptr, r.ptr + 0x800, VECTORS);
    const cap = findCap(ctrl, CAP_ID_MSIX);
    return { model, t, u32: r.u32, control: (v) => model.cfgWrite(cap + 2, 2, v) };
  }

  test("off, on, function mask, vector out of range", () => {
    const { t, u32, control } = table();
    u32.set([0xfee01000, 2, 0x4041, 0], 33 * 4);
    expect(t.enabled()).toBe(false);
    expect(t.load(33)).toBe(IRQ_OFF);
    control(0x8000);
    expect(t.enabled()).toBe(true);
    expect(t.load(33)).toBe(IRQ_READY);
    expect([t.addrLo, t.addrHi, t.data]).toEqual([0xfee01000 | 0, 2, 0x4041]);
    expect(t.pending(33)).toBe(false);
    expect(t.load(VECTORS)).toBe(IRQ_OFF);
    expect(t.load(-1)).toBe(IRQ_OFF);
    control(0xc000);
    expect(t.enabled()).toBe(false);
    expect(t.load(33)).toBe(IRQ_MASKED);
    expect(t.pending(33)).toBe(true);
    expect(u32[0x800 / 4 + 1]).toBe(1 << 1);
    t.clearPending(33);
    expect(u32[0x800 / 4 + 1]).toBe(0);
  });

  test("a masked entry leaves its pending bit and no other", () => {
    const { t, u32, control } = table();
    control(0x8000);
    u32.set([0xfee01000, 0, 7, 1], 3 * 4);
    u32[0x800 / 4] = 0x100;
    expect(t.load(3)).toBe(IRQ_MASKED);
    expect(u32[0x800 / 4]).toBe(0x108);
    u32[3 * 4 + 3] = 0;
    expect(t.load(3)).toBe(IRQ_READY);
    t.clearPending(3);
    expect(u32[0x800 / 4]).toBe(0x100);
  });

  test("an entry that the host rewrites under its mask is never taken half old and half new", async () => {
    const { ctrl, model } = plug({ msix: true });
    model.cfgWrite(findCap(ctrl, CAP_ID_MSIX) + 2, 2, 0x8000);
    const fd = libc.memfd_create(cstring("epnic-msix"), MFD_CLOEXEC);
    libc.ftruncate(fd, 4096);
    const page = mmap("MSI-X table", 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    const writer = join(import.meta.dir, "../support/msix-writer.ts");
    const child = Bun.spawn([process.execPath, writer], {
      env: { ...process.env, EPNIC_FD: `/proc/${process.pid}/fd/${fd}` },
      stderr: "inherit",
    });
    const t = new MsixTable(ctrl, page, page + 2048, 1);
    const seen = new Set<number>();
    let masked = 0;
    const end = Date.now() + 15_000;
    while (ld32(page + 8) === 0 && Date.now() < end) await Bun.sleep(5);
    for (let round = 0; (round < 200 || seen.size < 20 || masked < 20) && Date.now() < end; round++)
      for (let i = 0; i < 1000; i++) {
        if (t.load(0) === IRQ_MASKED) {
          masked++;
          continue;
        }
        const n = t.data;
        seen.add(n & 0xff);
        if (t.addrLo !== n << 8 || t.addrHi !== (n ^ 0x55)) throw new Error(`mixed: ${t.addrLo} ${t.addrHi} ${n}`);
      }
    st32(page + 4088, 1);
    expect(await child.exited).toBe(0);
    expect(seen.size).toBeGreaterThanOrEqual(20);
    expect(masked).toBeGreaterThanOrEqual(20);
    expect(t.pending(0)).toBe(true);
    unmap(page, 4096);
    libc.close(fd);
  }, 30_000);

  test("stays right when optimised", () => {
    const { t, u32, control } = table();
    control(0x8000);
    for (let i = 0; i < 100_000; i++) {
      u32[4] = i;
      u32[6] = i ^ 0x55;
      u32[7] = i & 1;
      const rc = t.load(1);
      if (rc !== (i & 1 ? IRQ_MASKED : IRQ_READY)) throw new Error(`round ${i}: ${rc}`);
      if (rc === IRQ_READY && (t.addrLo !== i || t.data !== (i ^ 0x55))) throw new Error(`round ${i}: stale entry`);
    }
  });

  test("a core without MSI-X is refused", () => {
    const { ctrl } = plug({ msix: false });
    expect(() => new MsixTable(ctrl, 0, 0, 1)).toThrow("no MSI-X capability");
  });
});

describe.each(["unroll", "viewport"] as const)("Intx, %s iATU", (atu) => {
  test("edges are told once, Interrupt Disable holds the level back, a link reset forgets it", () => {
    const { model, ctrl, host, iatu } = plug({ atu });
    const intx = new Intx(ctrl, iatu, 0, 1, 0);
    expect(intx.assert()).toBe(IRQ_READY);
    intx.assert();
    expect(host.intxEdges).toEqual([true]);
    intx.deassert();
    intx.deassert();
    expect(host.intxEdges).toEqual([true, false]);
    model.cfgWrite(PCI_COMMAND, 2, 0x406);
    expect(intx.assert()).toBe(IRQ_OFF);
    expect(host.intxEdges).toEqual([true, false]);
    model.cfgWrite(PCI_COMMAND, 2, 0x6);
    expect(intx.refresh()).toBe(IRQ_READY);
    expect(host.intxEdges).toEqual([true, false, true]);
    // disabling while asserted takes the level back
    model.cfgWrite(PCI_COMMAND, 2, 0x406);
    intx.refresh();
    expect(host.intxEdges).toEqual([true, false, true, false]);
    model.cfgWrite(PCI_COMMAND, 2, 0x6);
    model.setLink(false);
    expect(intx.refresh()).toBe(IRQ_OFF);
    expect(host.intxEdges.length).toBe(4);
    intx.forget();
    model.setLink(true);
    expect(intx.refresh()).toBe(IRQ_READY);
    expect(host.intxEdges.length).toBe(4);
    // a link that was down took the level with it: it is told anew
    expect(intx.assert()).toBe(IRQ_READY);
    model.setLink(false);
    intx.refresh();
    model.setLink(true);
    intx.refresh();
    expect(host.intxEdges.slice(4)).toEqual([true, true]);
    // the iATU was reset too: the level is forgotten, the regions are there again
    model.iatu.reset();
    intx.program();
    expect(intx.refresh()).toBe(IRQ_READY);
    intx.assert();
    expect(host.intxEdges.slice(6)).toEqual([true]);
  });
});

/** A controller whose MSI capability is these words, everything else as in `ctrl`. */
function withMsi(ctrl: Controller, words: readonly number[]): Controller {
  const at = (off: number, value: number) => ({ name: "X", offset: off, value, long: "" });
  const dbi = new DumpMmio([
    at(0x34, 0x50),
    at(0x04, 0x6),
    at(0x72c, 0x10),
    ...words.map((value, i) => at(0x50 + 4 * i, value)),
  ]);
  return { ...ctrl, dbi } as Controller;
}

describe("MessageWindow and Msi", () => {
  test("MSI in its four layouts: 32 and 64 bits, with and without a mask per vector", () => {
    const { ctrl, host, iatu } = plug();
    const control = (flags: number) => 0x5 | ((0x21 | flags) << 16);
    const raise = (words: readonly number[], vector: number) => {
      const c = withMsi(ctrl, words);
      return new Msi(c, new MessageWindow(c, iatu, 0, 0)).raise(vector);
    };
    expect(raise([control(0), 0xfee00000, 0x4020, 0xffffffff, 0xffffffff], 1)).toBe(IRQ_READY);
    expect(raise([control(0x80), 0xfee00004, 0, 0x4030, 0xffffffff], 2)).toBe(IRQ_READY);
    expect(raise([control(0x100), 0xfee00008, 0x4040, 0b1101, 0xffffffff], 1)).toBe(IRQ_READY);
    expect(raise([control(0x100), 0xfee00008, 0x4040, 0b1101, 0], 2)).toBe(IRQ_MASKED);
    expect(raise([control(0x180), 0xfee0000c, 0, 0x4050, 0b0111], 3)).toBe(IRQ_READY);
    expect(raise([control(0x180), 0xfee0000c, 0, 0x4050, 0b0111], 0)).toBe(IRQ_MASKED);
    expect(host.messages).toEqual([
      [0xfee00000, 0x4021],
      [0xfee00004, 0x4032],
      [0xfee00008, 0x4041],
      [0xfee0000c, 0x4053],
    ]);
  });

  test("the window moves only when the address leaves it", () => {
    const { ctrl, host, iatu, model } = plug();
    const w = new MessageWindow(ctrl, iatu, 3, 3 * 65536);
    expect(w.write(0xfee00010 | 0, 0, 0x31)).toBe(0);
    expect(w.write(0xfee0f014 | 0, 0, 0x32)).toBe(0);
    expect(w.moves).toBe(1);
    expect(w.write(0xfee10000 | 0, 0, 0x33)).toBe(0);
    expect(w.moves).toBe(2);
    expect(host.messages).toEqual([
      [0xfee00010, 0x31],
      [0xfee0f014, 0x32],
      [0xfee10000, 0x33],
    ]);
    // the region moved once with a message in front, and never under one that could still be on its way
    expect([model.stats.nonPostedReads, model.stats.changedUnderWrite]).toEqual([1, 0]);
    model.setLink(false);
    expect(w.write(0xfee10000 | 0, 0, 0x34)).toBe(-1);
    expect(host.messages.length).toBe(3);
    model.setLink(true);
    model.iatu.reset();
    w.forget();
    expect(w.write(0xfee10000 | 0, 0, 0x35)).toBe(0);
    expect([host.messages[3], w.moves, model.stats.nonPostedReads]).toEqual([[0xfee10000, 0x35], 3, 1]);
    // a region that does not enable: no message is sent somewhere else, and the next write tries again
    const stuck = Object.assign(Object.create(iatu) as Iatu, { aim: () => -1 });
    const s = new MessageWindow(ctrl, stuck, 4, 4 * 65536);
    for (let i = 0; i < 2; i++) expect(s.write(0xfee20000 | 0, 0, 1)).toBe(-1);
    expect(host.messages.length).toBe(4);
    // the region that failed to move is off: the address from before needs it aimed as well
    let broken = false;
    const real = (...a: Parameters<Iatu["aim"]>): number => (broken ? -1 : iatu.aim(...a));
    const f = new MessageWindow(ctrl, Object.assign(Object.create(iatu) as Iatu, { aim: real }), 5, 5 * 65536);
    expect(f.write(0xfee30000 | 0, 0, 1)).toBe(0);
    broken = true;
    expect(f.write(0xfee40000 | 0, 0, 2)).toBe(-1);
    broken = false;
    iatu.disableOutbound(5);
    expect(f.write(0xfee30000 | 0, 0, 3)).toBe(0);
    expect(host.messages.slice(4)).toEqual([
      [0xfee30000, 1],
      [0xfee30000, 3],
    ]);
    expect(() => new MessageWindow(ctrl, iatu, 8, 0)).toThrow("outbound region 8");
    expect(() => new MessageWindow(ctrl, iatu, 0, 4096)).toThrow("message window at 4096");
  });

  test("MSI follows the capability: off, number of vectors, address, bus master", () => {
    const { ctrl, host, iatu, model } = plug({ msi: true, windowAlign: 4096 });
    const msi = new Msi(ctrl, new MessageWindow(ctrl, iatu, 0, 0));
    const cap = findCap(ctrl, CAP_ID_MSI);
    expect(msi.raise(0)).toBe(IRQ_OFF);
    expect(msi.enabledVectors()).toBe(0);
    model.cfgWrite(cap + 4, 4, 0xfee02004);
    model.cfgWrite(cap + 8, 4, 0);
    model.cfgWrite(cap + 12, 2, 0x4020);
    model.cfgWrite(cap + 2, 2, 0x21);
    expect(msi.enabledVectors()).toBe(4);
    expect(msi.raise(3)).toBe(IRQ_READY);
    expect(msi.raise(4)).toBe(IRQ_OFF);
    expect(host.messages).toEqual([[0xfee02004, 0x4023]]);
    model.cfgWrite(PCI_COMMAND, 2, 0x2);
    expect(msi.raise(0)).toBe(IRQ_OFF);
    expect(() => new Msi(plug({ msi: false }).ctrl, new MessageWindow(ctrl, iatu, 0, 0))).toThrow("no MSI capability");
  });
});
