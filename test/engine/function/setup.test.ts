/** Feature words, plan, config space writes and their dry run, on the model core and on hand-made cores. */
import { describe, expect, test } from "bun:test";
import { macBytes } from "../../../src/engine/function/config.ts";
import { acceptedModern, featureWord } from "../../../src/engine/function/features.ts";
import { createFunction, listSetup } from "../../../src/engine/function/function.ts";
import { recordWrites } from "../../../src/engine/function/recorder.ts";
import { planFunction } from "../../../src/engine/function/setup.ts";
import type { CoreInfo } from "../../../src/hw/controller.ts";
import { DBI } from "../../../src/hw/dbi.regs.ts";
import { Fault } from "../../../src/hw/fault.ts";
import { Iatu } from "../../../src/hw/iatu.ts";
import { mapAnonymous, view } from "../../../src/hw/mem.ts";
import { EndpointModel } from "../../../src/hw/model/endpoint.ts";
import { MODEL_CORES } from "../../../src/hw/model/open-model.ts";

const bits = (word: number): number[] => Array.from({ length: 32 }, (_, b) => b).filter((b) => (word >>> b) & 1);

function fault(f: () => unknown): Fault {
  try {
    f();
  } catch (e) {
    if (e instanceof Fault) return e;
    throw e;
  }
  throw new Error("no Fault");
}

describe("feature words", () => {
  test("sets as measured (facts/vfio-user-2.md 7)", () => {
    expect(bits(featureWord("safe", "modern"))).toEqual([0, 5, 11, 12, 15, 16]);
    expect(bits(featureWord("default", "modern"))).toEqual([0, 1, 4, 5, 6, 7, 11, 12, 15, 16]);
    expect(bits(featureWord("wide", "modern"))).toEqual([0, 1, 3, 4, 5, 6, 7, 11, 12, 15, 16, 29]);
    // legacy has no select, so nothing coincides; 27 is ANY_LAYOUT
    expect(bits(featureWord("safe", "legacy"))).toEqual([0, 5, 11, 12, 15, 16, 27]);
    expect(bits(featureWord("default", "legacy"))).toEqual([0, 1, 5, 7, 8, 11, 12, 15, 16, 27]);
    expect(bits(featureWord("wide", "legacy"))).toEqual([0, 1, 3, 5, 7, 8, 11, 12, 15, 16, 27, 28, 29]);
    for (const name of ["safe", "default", "wide"])
      for (const p of ["modern", "legacy"] as const)
        expect(featureWord(`0x${(featureWord(name, p) >>> 0).toString(16)}`, p)).toBe(featureWord(name, p));
  });

  test("both halves of a hex number fold into the modern word; legacy has the lower", () => {
    expect(featureWord("0x100018020", "modern")).toBe(0x18021);
    expect(featureWord("0x100018020", "legacy")).toBe(0x18020);
  });

  test("a word that no stock driver binds to is refused with the bit", () => {
    expect(fault(() => featureWord("0x10018021", "modern")).message).toMatch(/bit 28.*RSS \(60\)/);
    expect(featureWord("0x10018021", "legacy")).toBe(0x10018021);
    expect(fault(() => featureWord("0x18020", "modern")).message).toMatch(/lacks bit 0.*VERSION_1/);
    expect(fault(() => featureWord("0x38021", "legacy")).message).toMatch(/bit 17: epnic has no control queue/);
    expect(fault(() => featureWord("0x180a1", "modern")).message).toMatch(/bit 7 without bit 1/);
    expect(fault(() => featureWord("fast", "modern")).hint).toMatch(/safe, default, wide/);
  });

  test("what rests in the feature registers decides what is believed", () => {
    const w = featureWord("0x200199fb", "modern");
    expect(acceptedModern(w, 3, 0).hdrLen).toBe(24);
    expect(acceptedModern(w, 1, 1).hdrLen).toBe(12);
    expect(bits(acceptedModern(w, 3, 0).hi)).toEqual([0, 1, 4, 6, 8]);
    expect(bits(acceptedModern(w, 1, 0x13).hi)).toEqual([0, 1, 4]);
    expect(bits(acceptedModern(w, 0, 0x8021).lo)).toEqual([0, 5, 15]);
    expect(acceptedModern(w, 1, 0x12).refusal).toMatch(/VERSION_1/);
  });
});

test("MAC addresses", () => {
  expect([...macBytes("02:aB:00:00:00:ff")]).toEqual([2, 0xab, 0, 0, 0, 0xff]);
  const made = macBytes(null);
  expect(made[0]! & 3).toBe(2);
  for (const bad of ["01:00:00:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00", "x"])
    expect(fault(() => macBytes(bad)).code).toBe("E_CONFIG");
});

const core = (c: Partial<CoreInfo>): CoreInfo => ({
  version: "5.20a",
  atuUnrolled: true,
  inboundWindows: 8,
  outboundWindows: 8,
  windowAlign: 65536,
  dmaMap: "edma-unroll",
  writeChannels: 1,
  readChannels: 1,
  configLimit: true,
  msix: true,
  msi: true,
  linkGen: 3,
  linkWidth: 4,
  ...c,
});

describe("plan", () => {
  const auto = { personality: "auto", irq: "auto" } as const;

  test("auto takes modern with a config limit, legacy without", () => {
    expect(planFunction("x", core({}), auto)).toMatchObject({ personality: "modern", device: 0x1041, revision: 1 });
    expect(planFunction("x", core({ configLimit: false }), auto)).toMatchObject({
      personality: "legacy",
      device: 0x1000,
      revision: 0,
      subDevice: 1,
    });
    expect(planFunction("x", core({ windowAlign: 1 << 20 }), auto).barBytes).toBe(1 << 20);
    expect(planFunction("x", core({ windowAlign: 4096 }), auto).barBytes).toBe(65536);
    const resizable = { least: 2 ** 20, most: Number.POSITIVE_INFINITY };
    const bars = [resizable, resizable, resizable, resizable, resizable, resizable];
    expect(planFunction("x", core({ bars }), auto).barBytes).toBe(2 ** 20);
    const small = bars.map((b, i) => (i === 0 ? b : { least: 0, most: 256 }));
    expect(() => planFunction("epc0", core({ bars: small }), auto)).toThrow(
      "BAR2 of epc0 has 256 bytes, the MSI-X table needs 1048576",
    );
    expect(planFunction("x", core({ bars: small }), { ...auto, irq: "intx" }).barBytes).toBe(2 ** 20);
    const off = bars.map(() => ({ least: 0, most: 0 }));
    expect(() => planFunction("epc0", core({ bars: off }), auto)).toThrow(
      "BAR0 of epc0 is off, the registers need 65536",
    );
  });

  test("what a core cannot do is said with both sides", () => {
    const no = (c: Partial<CoreInfo>, asked: Parameters<typeof planFunction>[2]): Fault =>
      fault(() => planFunction("epc0", core(c), asked));
    expect(no({ configLimit: false }, { personality: "modern", irq: "auto" }).message).toMatch(/no config limit/);
    expect(no({ msix: false }, { personality: "auto", irq: "msix" }).message).toMatch(/epc0 has no MSI-X capability/);
    const few = no({ inboundWindows: 2 }, auto);
    expect(few.message).toMatch(/3 inbound windows are needed.*epc0 has 2/);
    expect(few.hint).toBe("use irq intx");
  });
});

const MAC = "02:00:00:00:00:09";
const scratch = (size: number) => {
  const ptr = mapAnonymous(size);
  return { ptr, buffer: view(ptr, size) };
};

for (const [name, options] of Object.entries(MODEL_CORES)) {
  test(`${name}: a dry run lists the very writes of the real one and makes none`, () => {
    const model = new EndpointModel({ ...options, boardMemory: 1 << 20 });
    const ctrl = model.controller();
    const snapshot = (): number[] => Array.from({ length: 64 }, (_, i) => ctrl.dbi.ld32(4 * i));
    const before = snapshot();
    const planned = listSetup(ctrl, { personality: "auto", irq: "auto" });
    expect(snapshot()).toEqual(before);
    expect(ctrl.memory.regions.length).toBe(0);

    const real = recordWrites(ctrl, false, scratch);
    createFunction({
      controller: real.controller,
      iatu: new Iatu(real.controller),
      personality: "auto",
      mac: MAC,
      mtu: 1500,
      queueSize: 256,
    });
    // only bus addresses of board memory differ
    const base = ctrl.memory.regions[0]!.bus;
    const shape = (w: (typeof planned)[number], shift: number) =>
      `${w.space}+${w.offset.toString(16)}/${w.bits}=${w.value - shift}`;
    expect(planned.length).toBe(real.writes.length);
    planned.forEach((w, i) => {
      const r = real.writes[i]!;
      const moved = r.value !== w.value && r.value - base === w.value;
      expect(shape(r, moved ? base : 0)).toBe(shape(w, 0));
    });
    expect(planned.every((w) => w.bits === 32)).toBe(true);
    expect(planned.length).toBeGreaterThan(20);
  });
}

test("a second start with the link up leaves ids and BARs as the host has them", () => {
  const model = new EndpointModel({ ...MODEL_CORES["modern-msix"], boardMemory: 1 << 20 });
  const ctrl = model.controller();
  const make = () => {
    const rec = recordWrites(ctrl, false, scratch);
    createFunction({
      controller: rec.controller,
      iatu: new Iatu(rec.controller),
      personality: "auto",
      mac: MAC,
      mtu: 1500,
      queueSize: 256,
    });
    return rec.writes;
  };
  make();
  model.cfgWrite(DBI.BAR0, 4, 0xc0000000);
  const writes = make();
  expect(writes.some((w) => w.space === "dbi2" || (w.space === "dbi" && w.offset < 0x34))).toBe(false);
  expect(model.cfgRead(DBI.BAR0, 4)).toBe(0xc0000000);
  // and the list of capabilities is still the one with four vendor capabilities behind the core's
  let at = model.cfgRead(0x34, 1);
  const ids: number[] = [];
  while (at !== 0 && ids.length < 20) {
    ids.push(model.cfgRead(at, 1));
    at = model.cfgRead(at + 1, 1);
  }
  expect(ids.slice(-4)).toEqual([9, 9, 9, 9]);
  expect(ids.filter((id) => id === 9).length).toBe(4);
});

test("options out of range", () => {
  const ctrl = new EndpointModel({ ...MODEL_CORES["modern-msix"], boardMemory: 1 << 20 }).controller();
  const make = (o: object) => () =>
    createFunction({
      controller: ctrl,
      iatu: new Iatu(ctrl),
      personality: "auto",
      mac: MAC,
      mtu: 1500,
      queueSize: 256,
      ...o,
    });
  expect(fault(make({ queueSize: 100 })).message).toMatch(/queue size is 100.*power of two/);
  expect(fault(make({ mtu: 67 })).message).toMatch(/mtu is 67, it must be 68 to 65535/);
  expect(ctrl.memory.regions.length).toBe(0);
});
