/** The iATU driver against the model, in both register forms: what the regions do, not which words were written. */
import { afterEach, describe, expect, test } from "bun:test";
import type { Controller } from "../../src/hw/controller.ts";
import { setBar, tryConfigLimit } from "../../src/hw/dbi.ts";
import { Fault } from "../../src/hw/fault.ts";
import { ATU, MSG_ASSERT_INTA, MSG_DEASSERT_INTA } from "../../src/hw/iatu.regs.ts";
import { Iatu, IatuRegs } from "../../src/hw/iatu.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { COMMAND_MASTER, COMMAND_MEMORY, PCI_COMMAND } from "../../src/hw/pci.layout.ts";
import { DumpMmio } from "../support/dump-mmio.ts";
import { HOST_BASE, TestHost } from "./model/bench-board.ts";

const open: (() => void)[] = [];
afterEach(() => {
  for (const f of open.splice(0)) f();
});

function plug(options: Partial<ModelOptions>): { model: EndpointModel; ctrl: Controller; host: TestHost; iatu: Iatu } {
  const model = new EndpointModel({ boardMemory: 4 << 20, ...options });
  const host = new TestHost(false);
  model.attach(host);
  open.push(() => {
    host.close();
    model.memory.close();
  });
  const ctrl = model.controller();
  return { model, ctrl, host, iatu: new Iatu(ctrl) };
}

function faultOf(f: () => unknown): Fault {
  try {
    f();
  } catch (e) {
    if (e instanceof Fault) return e;
    throw e;
  }
  throw new Error("no Fault was thrown");
}

const FORMS: Partial<ModelOptions>[] = [
  { atu: "unroll", windowAlign: 65536 },
  { atu: "viewport", windowAlign: 4096, dmaMap: "legacy" },
];

describe.each(FORMS)("Iatu %o", (form) => {
  const align = form.windowAlign!;

  test("a BAR lands in board memory, and not after the region is off", () => {
    const { model, ctrl, iatu } = plug(form);
    const size = 0x20000;
    const region = ctrl.memory.alloc("bar", size, size);
    setBar(ctrl, 2, size, { is64: true });
    iatu.inboundBar(1, 2, region.bus, size);
    model.cfgWrite(0x18, 4, 0x8000_0000);
    model.cfgWrite(0x1c, 4, 0x23);
    model.cfgWrite(PCI_COMMAND, 2, COMMAND_MEMORY | COMMAND_MASTER);
    model.barWrite(2, size - 4, 4, 0x12345678);
    expect(region.u32[size / 4 - 1]).toBe(0x12345678);
    region.u8[5] = 0x77;
    expect(model.barRead(2, 5, 1)).toBe(0x77);
    expect(iatu.enabled(true, 1)).toBe(true);
    iatu.disableInbound(1);
    expect(iatu.enabled(true, 1)).toBe(false);
    expect(model.barRead(2, 5, 1)).toBe(0xff);
  });

  test("config requests above the limit read board memory", () => {
    const { model, ctrl, iatu } = plug({ ...form, modernCapable: true });
    const region = ctrl.memory.alloc("cfg", align, align);
    iatu.inboundCfg(0, region.bus);
    region.u32[0xc8 / 4] = 0xfeed0009;
    expect(model.cfgRead(0xc8, 4)).not.toBe(0xfeed0009);
    expect(tryConfigLimit(ctrl, 0xc4 / 4)).toBe(true);
    expect(model.cfgRead(0xc8, 4)).toBe(0xfeed0009);
    expect(model.cfgRead(0, 2)).toBe(0x16c3);
  });

  test("window accesses reach the host, also when the region is aimed anew in the loop", () => {
    const { model, ctrl, host, iatu } = plug(form);
    model.cfgWrite(PCI_COMMAND, 2, COMMAND_MASTER);
    iatu.outboundMem(2, ctrl.windowBus + 2 * align, HOST_BASE + align, 2 * align);
    ctrl.window.st32(2 * align + 0x10, 0xcafe);
    ctrl.window.st32(4 * align - 4, 0xbeef);
    host.u8[align + 0x20] = 0x99;
    expect(ctrl.window.ld8(2 * align + 0x20)).toBe(0x99);
    const words = new Uint32Array(host.u8.buffer, host.u8.byteOffset);
    expect(words[(align + 0x10) / 4]).toBe(0xcafe);
    expect(words[(3 * align - 4) / 4]).toBe(0xbeef);
    expect(iatu.aim(2, ctrl.windowBus + 2 * align, align, HOST_BASE | 0, Math.floor(HOST_BASE / 2 ** 32))).toBe(0);
    ctrl.window.st32(2 * align, 0x1234);
    expect(words[0]).toBe(0x1234);
  });

  test("a region may cross 4 GiB on the board's side", () => {
    const { model, ctrl, host } = plug(form);
    model.cfgWrite(PCI_COMMAND, 2, COMMAND_MASTER);
    const low = 2 ** 32 - align;
    const moved = { ...ctrl, windowBus: low } as Controller;
    new Iatu(moved).outboundMem(0, low, HOST_BASE, 2 * align);
    expect(model.iatu.matchOutbound(low + align + 8)).not.toBe(0);
    expect(model.iatu.address).toBe(HOST_BASE + align + 8);
    expect(host.messages).toEqual([]);
  });

  test("a region is off while it is aimed anew, and one that does not enable is reported", () => {
    const { ctrl } = plug({ ...form, atu: "unroll" });
    const atu = new DumpMmio([]);
    const iatu = new Iatu({ ...ctrl, atu } as Controller);
    expect(iatu.aim(0, ctrl.windowBus, align, 0x10000, 1)).toBe(0);
    expect(atu.writes.map(([off]) => off)).toEqual([4, 8, 0xc, 0x10, 0x20, 0x14, 0x18, 0, 4]);
    expect([atu.writes[0]![1], atu.writes[8]![1]]).toEqual([0, 0x80000000]);
    const dead = Object.assign(new DumpMmio([]), { ld32: () => 0 });
    expect(new Iatu({ ...ctrl, atu: dead } as Controller).aim(0, ctrl.windowBus, align, 0, 0)).toBe(-1);
  });

  test("messages without payload", () => {
    const { model, ctrl, host, iatu } = plug(form);
    model.cfgWrite(PCI_COMMAND, 2, COMMAND_MASTER);
    iatu.outboundMsg(0, ctrl.windowBus, MSG_ASSERT_INTA);
    iatu.outboundMsg(1, ctrl.windowBus + align, MSG_DEASSERT_INTA);
    ctrl.window.st32(0, 0);
    ctrl.window.st32(align + 4, 0);
    expect(host.intxEdges).toEqual([true, false]);
    expect(model.iatu.inhibitPayload).toBe(true);
    iatu.disableOutbound(0);
    expect(iatu.enabled(false, 0)).toBe(false);
  });

  test("windows and alignment as Linux finds them", () => {
    // a power of two as well: then the next index of a viewport core is the first region again
    for (const [inbound, outbound] of [
      [3, 6],
      [4, 8],
      [32, 1],
    ] as const) {
      const { ctrl } = plug({ ...form, inboundWindows: inbound, outboundWindows: outbound });
      expect(new IatuRegs(ctrl.dbi, ctrl.atu).discover()).toEqual({ inbound, outbound, align });
    }
  });

  test("what the hardware cannot do is refused with both values", () => {
    const { ctrl, iatu } = plug({ ...form, inboundWindows: 2, outboundWindows: 2 });
    const w = ctrl.windowBus;
    const size = 4 * align;
    const hex = (v: number) => `0x${v.toString(16)}`;
    expect(faultOf(() => iatu.inboundBar(2, 0, 0x4000_0000, size)).message).toBe("inbound region 2 of model: it has 2");
    expect(faultOf(() => iatu.outboundMem(5, w, 0, align)).code).toBe("E_MISSING");
    expect(faultOf(() => iatu.inboundBar(0, 0, 0x4000_0000 + align, size)).message).toBe(
      `target of BAR0 ${hex(0x4000_0000 + align)} is not a multiple of ${hex(size)}`,
    );
    expect(faultOf(() => iatu.inboundBar(0, 0, 0x4000_0000, align / 2)).message).toContain(
      `BAR0 has ${hex(align / 2)} bytes, an inbound region covers at least ${hex(align)}`,
    );
    expect(faultOf(() => iatu.inboundBar(0, 6, 0x4000_0000, size)).message).toContain("BAR6");
    expect(faultOf(() => iatu.inboundBar(0, 0, 0x4000_0000, 3 * align)).message).toContain("not a power of two");
    expect(faultOf(() => iatu.outboundMem(0, w + 64, 0, align)).message).toContain("outbound base");
    expect(faultOf(() => iatu.outboundMem(0, w, 64, align)).message).toContain("outbound target 0x40");
    expect(faultOf(() => iatu.outboundMem(0, w, 0, align + 1)).message).toContain("outbound size");
    expect(faultOf(() => iatu.outboundMem(0, w + ctrl.window.size, 0, align)).message).toContain(
      "not inside the window",
    );
    expect(faultOf(() => iatu.outboundMsg(0, w, 256)).message).toContain("message code 256");
  });
});

test("order of the writes: base, limit, target, CTRL1, CTRL2 last; ENABLE that never comes is a Fault", () => {
  const { ctrl } = plug({ atu: "unroll" });
  const atu = new DumpMmio([]);
  const fake = { ...ctrl, atu } as Controller;
  new Iatu(fake).outboundMem(1, ctrl.windowBus, 0x1_2345_0000, 0x10000);
  const at = 1 << 9;
  expect(atu.writes.map(([off]) => off - at)).toEqual([
    ATU.ATU_CTRL2,
    ATU.ATU_BASE_LO,
    ATU.ATU_BASE_HI,
    ATU.ATU_LIMIT,
    ATU.ATU_LIMIT_HI,
    ATU.ATU_TARGET_LO,
    ATU.ATU_TARGET_HI,
    ATU.ATU_CTRL1,
    ATU.ATU_CTRL2,
  ]);
  const dead = Object.assign(new DumpMmio([]), { ld32: () => 0 });
  // 9 ms between two looks, as Linux waits
  const f = faultOf(() => new Iatu({ ...ctrl, atu: dead } as Controller).outboundMem(0, ctrl.windowBus, 0, 0x10000));
  expect(f.message).toContain("did not enable in 45 ms: CTRL2 reads 0x0, 0x80000000 was written");
});
