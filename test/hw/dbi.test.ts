/** Config space from the board's side: what the host reads afterwards, against the model. */
import { describe, expect, test } from "bun:test";
import type { Controller } from "../../src/hw/controller.ts";
import { DBI } from "../../src/hw/dbi.regs.ts";
import {
  capReadRequest,
  command,
  findCap,
  findExtCapIn,
  linkOf,
  linkUp,
  readRequestSize,
  rebarOffset,
  setBar,
  setCapNext,
  setIds,
  setMsix,
  tryConfigLimit,
  withRoWrite,
} from "../../src/hw/dbi.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import {
  CAP_ID_EXP,
  CAP_ID_MSI,
  CAP_ID_MSIX,
  CAP_ID_PM,
  CAP_ID_VENDOR,
  PCI_CAP_POINTER,
} from "../../src/hw/pci.layout.ts";
import { DumpMmio } from "../support/dump-mmio.ts";

const plug = (options: ConstructorParameters<typeof EndpointModel>[0] = {}) => {
  const model = new EndpointModel({ boardMemory: 65536, ...options });
  return { model, ctrl: model.controller() };
};

/** Size a BAR as a host does: all ones, read, invert. */
function hostSize(model: EndpointModel, bar: number): number {
  const off = 0x10 + 4 * bar;
  model.cfgWrite(off, 4, 0xffffffff);
  const mask = model.cfgRead(off, 4) & ~0xf;
  return mask === 0 ? 0 : (~mask >>> 0) + 1;
}

describe("identity and write protection", () => {
  test("ids, class, subsystem, pin reach the host; RO write is closed again", () => {
    const { model, ctrl } = plug();
    setIds(ctrl, {
      vendor: 0x1af4,
      device: 0x1041,
      revision: 1,
      classCode: 0x020000,
      subVendor: 0x1af4,
      subDevice: 0x1100,
      interruptPin: 1,
    });
    expect(model.cfgRead(0, 4)).toBe(0x10411af4);
    expect(model.cfgRead(8, 4)).toBe(0x02000001);
    expect(model.cfgRead(0x2c, 4)).toBe(0x11001af4);
    expect(model.cfgRead(0x3d, 1)).toBe(1);
    ctrl.dbi.st32(DBI.ID, 0);
    expect(model.cfgRead(0, 4)).toBe(0x10411af4);
  });

  test("an exception inside withRoWrite closes it too, an open state is kept", () => {
    const { ctrl } = plug();
    expect(() =>
      withRoWrite(ctrl, () => {
        expect(ctrl.dbi.ld32(DBI.MISC_CONTROL_1) & 1).toBe(1);
        throw new Error("x");
      }),
    ).toThrow("x");
    expect(ctrl.dbi.ld32(DBI.MISC_CONTROL_1) & 1).toBe(0);
    // what else changed in the register meanwhile stays
    withRoWrite(ctrl, () => tryConfigLimit(ctrl, 0x31));
    expect(ctrl.dbi.ld32(DBI.MISC_CONTROL_1)).toBe((0x31 << 8) | (2 << 18));
    withRoWrite(ctrl, () => {
      withRoWrite(ctrl, () => 0);
      expect(ctrl.dbi.ld32(DBI.MISC_CONTROL_1) & 1).toBe(1);
    });
  });
});

describe("capabilities", () => {
  test("walk, unlink, and a list that loops ends", () => {
    const { model, ctrl } = plug({ msix: true });
    const [pm, msi, exp, msix] = [CAP_ID_PM, CAP_ID_MSI, CAP_ID_EXP, CAP_ID_MSIX].map((id) => findCap(ctrl, id));
    expect(pm && msi && exp && msix).toBeGreaterThan(0x3f);
    expect(findCap(ctrl, CAP_ID_VENDOR)).toBe(0);
    setCapNext(ctrl, PCI_CAP_POINTER, exp!);
    expect(model.cfgRead(PCI_CAP_POINTER, 1)).toBe(exp!);
    expect(findCap(ctrl, CAP_ID_MSI)).toBe(0);
    setCapNext(ctrl, msix!, exp!);
    expect(model.cfgRead(msix! + 1, 1)).toBe(exp!);
    expect(findCap(ctrl, CAP_ID_VENDOR)).toBe(0);
    expect(model.cfgRead(msix!, 1)).toBe(CAP_ID_MSIX);
  });

  test("extended capabilities", () => {
    const { ctrl } = plug();
    expect(findExtCapIn(ctrl.dbi, 1)).toBe(0x100);
    expect(findExtCapIn(ctrl.dbi, 0x19)).toBe(0x148);
    expect(findExtCapIn(ctrl.dbi, 0x15)).toBe(0);
  });

  test("MSI-X geometry as the host reads it", () => {
    const { model, ctrl } = plug({ msix: true });
    setMsix(ctrl, { vectors: 3, tableBar: 2, tableOff: 0, pbaBar: 2, pbaOff: 0x800 });
    const cap = findCap(ctrl, CAP_ID_MSIX);
    expect(model.cfgRead(cap + 2, 2) & 0x7ff).toBe(2);
    expect(model.cfgRead(cap + 4, 4)).toBe(2);
    expect(model.cfgRead(cap + 8, 4)).toBe(0x802);
    const m = { vectors: 3, tableBar: 2, tableOff: 4, pbaBar: 2, pbaOff: 0x800 };
    expect(() => setMsix(ctrl, m)).toThrow("table at 0x4");
    expect(() => setMsix(ctrl, { ...m, tableOff: 0, vectors: 2049 })).toThrow("2049 MSI-X vectors");
    expect(() => setMsix(plug({ msix: false }).ctrl, { ...m, tableOff: 0 })).toThrow("no MSI-X capability");
  });

  test("config limit: true and in force where the option exists, untouched where not", () => {
    const with_ = plug({ modernCapable: true }).ctrl;
    expect(tryConfigLimit(with_, 0x31)).toBe(true);
    expect((with_.dbi.ld32(DBI.MISC_CONTROL_1) >>> 8) & 0x3ff).toBe(0x31);
    const without = plug({ modernCapable: false }).ctrl;
    const before = without.dbi.ld32(DBI.MISC_CONTROL_1);
    expect(tryConfigLimit(without, 0x31)).toBe(false);
    expect(without.dbi.ld32(DBI.MISC_CONTROL_1)).toBe(before);
    // a core that keeps one of the two fields only: what it kept is taken back
    const half = new DumpMmio([]);
    const st32 = half.st32.bind(half);
    half.st32 = (off, value) => st32(off, value & ~(3 << 18));
    expect(tryConfigLimit({ ...with_, dbi: half } as Controller, 0x31)).toBe(false);
    expect(half.ld32(DBI.MISC_CONTROL_1)).toBe(0);
  });
});

describe("BARs", () => {
  test("the host sizes what was set; 0 disables", () => {
    const { model, ctrl } = plug();
    setBar(ctrl, 0, 0x10000);
    setBar(ctrl, 2, 0x100000, { is64: true, prefetch: true });
    expect(hostSize(model, 0)).toBe(0x10000);
    expect(hostSize(model, 2)).toBe(0x100000);
    expect(model.cfgRead(0x18, 4) & 0xf).toBe(0xc);
    model.cfgWrite(0x1c, 4, 0xffffffff);
    expect(model.cfgRead(0x1c, 4)).toBe(0xffffffff);
    setBar(ctrl, 2, 0, { is64: true });
    expect(hostSize(model, 2)).toBe(0);
    expect(hostSize(model, 1)).toBe(0);
    setBar(ctrl, 4, 2 ** 34, { is64: true, prefetch: true });
    expect(model.barSize(4)).toBe(2 ** 34);
    // the host's assignment goes with the next size, both halves of it
    model.cfgWrite(0x20, 4, 0);
    model.cfgWrite(0x24, 4, 0x40);
    expect(model.config.barAddress(4)).toBe(2 ** 38);
    setBar(ctrl, 4, 0x100000, { is64: true });
    expect([model.barSize(4), model.config.barAddress(4)]).toEqual([0x100000, 0]);
    expect(model.cfgRead(0x20, 4)).toBe(4);
  });

  test("what cannot be is refused", () => {
    const { ctrl } = plug();
    expect(() => setBar(ctrl, 1, 0x10000, { is64: true })).toThrow("BAR1 cannot be 64 bits wide");
    expect(() => setBar(ctrl, 0, 0x18000)).toThrow("98304 bytes is not a power of two");
    expect(() => setBar(ctrl, 0, 64)).toThrow("64 bytes");
    expect(() => setBar(ctrl, 6, 4096)).toThrow("BAR6");
    expect(() => setBar(ctrl, 0, 2 ** 32)).toThrow("need a 64-bit BAR");
  });

  test("a resizable BAR gets its size through the capability, not through the mask", () => {
    const e = (offset: number, value: number) => ({ name: "X", offset, value, long: "" });
    // two resizable BARs: 0 and 2
    const dbi = new DumpMmio([e(0x100, 0x00010015), e(0x104, 0), e(0x108, 0x40), e(0x10c, 0), e(0x110, 0x42)]);
    const dbi2 = new DumpMmio([]);
    const ctrl = { ...plug().ctrl, dbi, dbi2 } as Controller;
    expect(rebarOffset(dbi, 2)).toBe(0x10c);
    expect(rebarOffset(dbi, 4)).toBe(0);
    setBar(ctrl, 2, 0x400000);
    expect(dbi2.writes).toEqual([[0x18, 1]]);
    expect(dbi.ld32(0x10c)).toBe(1 << 6);
    setBar(ctrl, 2, 0x400000, { is64: true, prefetch: true });
    expect(dbi.ld32(0x18)).toBe(0xc);
    expect(() => setBar(ctrl, 0, 0x10000)).toThrow("65536 bytes asked, at least 1048576");
  });
});

describe("link, command, read request", () => {
  test("follow the core", () => {
    const { model, ctrl } = plug({ linkGen: 4, linkWidth: 2 });
    expect(linkUp(ctrl)).toBe(true);
    expect(linkOf(ctrl.dbi)).toEqual({ gen: 4, width: 2 });
    model.setLink(false);
    expect(linkUp(ctrl)).toBe(false);
    expect(linkOf(ctrl.dbi)).toEqual({ gen: 0, width: 0 });
    model.setLink(true);
    model.cfgWrite(4, 2, 0x0406);
    expect(command(ctrl)).toBe(0x0406);
  });

  test("a link in training is not up", () => {
    const dbi = new DumpMmio([{ name: "PORT_DEBUG1", offset: 0x72c, value: 0x2000_0010, long: "" }]);
    expect(linkUp({ ...plug().ctrl, dbi } as Controller)).toBe(false);
  });

  test("the read request is lowered, never raised, and the other fields stay", () => {
    const { model, ctrl } = plug();
    const exp = findCap(ctrl, CAP_ID_EXP);
    expect(readRequestSize(ctrl)).toBe(512);
    const before = model.cfgRead(exp + 8, 2);
    // error bits of Device Status, in the same word, are for the host to clear
    const dbi = new DumpMmio([
      { name: "CAP", offset: 0x34, value: 0x70, long: "" },
      { name: "EXP", offset: 0x70, value: 0x10, long: "" },
      { name: "DEVCTL", offset: 0x78, value: 0x000f2810, long: "" },
    ]);
    capReadRequest({ ...ctrl, dbi } as Controller, 128);
    expect(dbi.writes).toEqual([[0x78, 0x00000810]]);
    expect(capReadRequest(ctrl, 128)).toBe(128);
    expect(model.cfgRead(exp + 8, 2)).toBe(before & ~0x7000);
    expect(capReadRequest(ctrl, 512)).toBe(128);
    expect(() => capReadRequest(ctrl, 100)).toThrow("read request size 100");
  });
});
