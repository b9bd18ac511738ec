/** Interrupts towards the host, against the model and its host side. */
import { afterEach, describe, expect, test } from "bun:test";
import type { Controller } from "../../src/hw/controller.ts";
import { findCap, setMsix } from "../../src/hw/dbi.ts";
import { Iatu } from "../../src/hw/iatu.ts";
import { Intx, IRQ_MASKED, IRQ_OFF, IRQ_READY, MessageWindow, Msi, MsixTable } from "../../src/hw/irq.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { CAP_ID_MSI, CAP_ID_MSIX, PCI_COMMAND } from "../../src/hw/pci.layout.ts";
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
  });
});

describe("MessageWindow and Msi", () => {
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
    model.setLink(false);
    expect(w.write(0xfee10000 | 0, 0, 0x34)).toBe(-1);
    expect(host.messages.length).toBe(3);
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
