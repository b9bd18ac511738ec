/** The eDMA block and its channels against the register-accurate model: bytes compared, faults of silicon on. */
import { describe, expect, test } from "bun:test";
import type { Controller, CoreInfo } from "../../src/hw/controller.ts";
import { CH_ABORT } from "../../src/hw/dma-channel.ts";
import { dumpController } from "../../src/hw/dumps.ts";
import { CAUSE_LL_FETCH, CAUSE_UR, causeText, EDMA, INT_ALL } from "../../src/hw/edma.regs.ts";
import { channelCounts, detectDmaMap, Edma, versionText } from "../../src/hw/edma.ts";
import { EdmaChannel } from "../../src/hw/edma-channel.ts";
import { Fault } from "../../src/hw/fault.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { parseDump } from "../../src/hw/reg-table.ts";
import { DumpMmio } from "../support/dump-mmio.ts";
import { Mover, plug, rng } from "../support/mover.ts";
import { HOST_BASE, HOST_SIZE } from "./model/bench-board.ts";

const TOTAL = 100_000;
const cases: { name: string; options: Partial<ModelOptions> }[] = [
  { name: "unrolled map", options: { dmaMap: "unroll" } },
  { name: "legacy map", options: { dmaMap: "legacy", atu: "viewport" } },
  { name: "HDMA-compatible map, memory above 4 GiB", options: { dmaMap: "compat", boardBase: 0x8_ffff_f000 } },
  { name: "unrolled map, data packet by packet", options: { faults: { splitData: 0.5, lostDoorbell: 0.1 } } },
  {
    name: "unrolled map, doorbells lost",
    options: { dmaMap: "unroll", faults: { lostDoorbell: 0.5, holdFetched: 0.5 } },
  },
  {
    name: "legacy map, doorbells lost, a doorbell to a channel that is not idle wedges it",
    options: { dmaMap: "legacy", faults: { lostDoorbell: 0.5, holdFetched: 0.3, notIdleDoorbell: true } },
  },
  {
    name: "unrolled map, a doorbell to a channel that is not idle wedges it, strict",
    options: { dmaMap: "unroll", faults: { lostDoorbell: 0.2, holdFetched: 0.2, notIdleDoorbell: true }, strict: true },
  },
];

describe("two channels at once against the model, every byte compared", () => {
  for (const { name, options } of cases)
    test(name, () => {
      const { model, ctrl, host } = plug({ ...options, seed: 11 });
      const edma = new Edma(ctrl);
      const r = rng(5);
      const movers = [
        new Mover(edma.open(true, 0, 61), ctrl, host, 0, r),
        new Mover(edma.open(false, 1, 17), ctrl, host, HOST_SIZE / 2, r),
      ];
      const channels = edma.channels as EdmaChannel[];
      for (let turn = 0; movers[0]!.checked + movers[1]!.checked < TOTAL; turn++) {
        if (turn > 20 * TOTAL)
          throw new Error(`stalled at ${movers.map((m) => m.checked)}\n${dumpController(ctrl, true)}`);
        ctrl.turn();
        for (let i = 0; i < 2; i++) {
          const ch = channels[i]!;
          if (ch.progress() !== 0) throw new Error(`abort: ${causeText(ch.lastError)}`);
          movers[i]!.check();
          // bursts, single elements and pauses long enough to come to rest
          const p = r();
          if (p < 0.3) movers[i]!.append(1 + Math.floor(r() * 40));
          else if (p < 0.6) movers[i]!.append(1);
        }
      }
      for (const m of movers) expect(m.checked).toBeGreaterThan(TOTAL / 10);
      expect(model.stats.busyDoorbells).toBe(0);
      expect(model.stats.deadDoorbells).toBe(0);
      expect(model.edma.contextWritesWhileBusy).toBe(0);
      expect(model.violations).toEqual([]);
      if (options.faults) {
        expect(model.stats.lostDoorbells).toBeGreaterThan(20);
        expect(channels[0]!.rerings + channels[1]!.rerings).toBeGreaterThanOrEqual(model.stats.lostDoorbells);
      }
    });
});

describe("abort and recovery against the model", () => {
  for (const dmaMap of ["unroll", "legacy"] as const)
    test(`an address that nobody answers, ${dmaMap}; the other direction and the next list go on`, () => {
      const { ctrl, host } = plug({ dmaMap, strict: false });
      const edma = new Edma(ctrl);
      const read = edma.open(false, 0, 29);
      const region = ctrl.memory.alloc("to", 4096, 64);
      host.u8.fill(0x5a, 0, 64);
      const hi = Math.floor(HOST_BASE / 2 ** 32);
      read.put(64, HOST_BASE | 0, hi, region.bus, 0);
      read.put(64, 0x7000_0000, 0x55, region.bus + 64, 0);
      read.put(64, HOST_BASE | 0, hi, region.bus + 128, 0);
      read.commit();
      let rc = 0;
      for (let i = 0; i < 50 && rc === 0; i++) {
        ctrl.turn();
        rc = read.progress();
      }
      expect(rc).toBe(CH_ABORT);
      expect(read.lastError).toBe(CAUSE_UR);
      expect(region.u8[127]).toBe(0);
      expect(read.recover()).toBe(0);
      expect(read.room()).toBe(29);
      for (let k = 0; k < 100; k++) {
        region.u8.fill(0, 0, 64);
        read.put(64, HOST_BASE | 0, hi, region.bus, 0);
        read.commit();
        for (let i = 0; i < 6; i++) {
          ctrl.turn();
          expect(read.progress()).toBe(0);
        }
        expect(read.doneCount).toBe(read.putCount);
        expect(region.u8[63]).toBe(0x5a);
      }
    });

  test("a list that is not in memory is a linked-list fetch error", () => {
    const { ctrl } = plug({});
    const ll = ctrl.memory.alloc("ll", 240, 64);
    const lost = { ...ll, bus: 0x77_0000_0000 };
    const ch = new EdmaChannel(ctrl.dma, { map: "edma-unroll", isWrite: true, index: 0 }, lost);
    ch.start();
    ch.put(4, ll.bus, 0, HOST_BASE | 0, 1);
    ch.commit();
    let rc = 0;
    for (let i = 0; i < 50 && rc === 0; i++) {
      ctrl.turn();
      rc = ch.progress();
    }
    expect(rc).toBe(CH_ABORT);
    expect(ch.lastError & CAUSE_LL_FETCH).toBe(CAUSE_LL_FETCH);
  });
});

describe("Edma", () => {
  const faultOf = (f: () => unknown): Fault => {
    try {
      f();
    } catch (e) {
      if (e instanceof Fault) return e;
      throw e;
    }
    throw new Error("no Fault was thrown");
  };

  test("counts channels and refuses those that are not there, or twice", () => {
    const { ctrl } = plug({ writeChannels: 4, readChannels: 2 });
    const edma = new Edma(ctrl);
    expect([edma.writeChannels, edma.readChannels]).toEqual([4, 2]);
    expect(faultOf(() => edma.open(false, 2, 16)).message).toContain("read channel 2 does not exist: model has 2");
    edma.open(false, 1, 16);
    expect(faultOf(() => edma.open(false, 1, 16)).code).toBe("E_BUSY");
    expect(faultOf(() => edma.open(true, 0, 0)).message).toContain("0 elements");
  });

  test("channel counts outside 1..8 name the word that was read", () => {
    const { ctrl } = plug({});
    const fake = (word: number) =>
      ({
        ...ctrl,
        name: "x",
        dma: new DumpMmio([{ name: "DMA_CTRL", offset: 8, value: word, long: "" }]),
      }) as Controller;
    const f = faultOf(() => new Edma(fake(0x0009_0002)));
    expect(f.code).toBe("E_MISSING");
    expect(f.message).toContain("DMA_CTRL reads 0x00090002, that is 2 write and 9 read channels");
    expect(faultOf(() => new Edma(fake(0xffffffff))).message).toContain("0xffffffff");
    const none = { ...ctrl, core: { ...ctrl.core, dmaMap: "none" } as CoreInfo } as Controller;
    expect(faultOf(() => new Edma(none)).message).toContain("no DMA engine");
  });

  for (const dmaMap of ["unroll", "legacy"] as const)
    test(`settle lets a list of an earlier process end, and gives up on one that does not, ${dmaMap}`, () => {
      const { ctrl, model } = plug({ dmaMap, faults: { holdFetched: 1 } });
      const data = ctrl.memory.alloc("data", 4096, 64);
      for (const isWrite of [true, false]) {
        const ch = new Edma(ctrl).open(isWrite, 1, 16);
        const [sar, dar] = isWrite ? [data.bus, HOST_BASE] : [HOST_BASE, data.bus];
        for (let i = 0; i < 10; i++) ch.put(4, sar | 0, Math.floor(sar / 2 ** 32), dar | 0, Math.floor(dar / 2 ** 32));
        ch.commit();
        ctrl.turn();
        expect(new Edma(ctrl).settle(1000)).toBe(true);
        expect(model.stats.elements).toBe(isWrite ? 10 : 20);
        expect([ctrl.dma.ld32(EDMA.WR_ENGINE_EN), ctrl.dma.ld32(EDMA.RD_ENGINE_EN)]).toEqual([0, 0]);
      }
      const ch = new Edma(ctrl).open(true, 0, 16);
      ch.put(4, data.bus | 0, Math.floor(data.bus / 2 ** 32), HOST_BASE | 0, 1);
      ch.commit();
      expect(new Edma({ ...ctrl, memory: ctrl.memory, turn: () => {} } as Controller).settle(5)).toBe(false);
      expect(ctrl.dma.ld32(EDMA.WR_ENGINE_EN)).toBe(0);
    });

  test("quiesce masks, clears and disables both directions", () => {
    const { ctrl } = plug({});
    const edma = new Edma(ctrl);
    for (const isWrite of [true, false]) {
      // a list that is not in memory leaves an abort status
      const ll = ctrl.memory.alloc("ll", 240, 64);
      const ch = new EdmaChannel(ctrl.dma, { map: "edma-unroll", isWrite, index: 1 }, { ...ll, bus: 16 });
      ch.start();
      ch.put(4, 0, 0, 0, 0);
      ch.commit();
      ctrl.turn();
      expect(ctrl.dma.ld32(isWrite ? EDMA.WR_INT_STATUS : EDMA.RD_INT_STATUS)).toBe(2 << 16);
    }
    edma.open(true, 0, 16, { interrupts: true });
    expect(ctrl.dma.ld32(EDMA.WR_ENGINE_EN)).toBe(1);
    expect(ctrl.dma.ld32(EDMA.WR_INT_MASK) & 0x00010001).toBe(0);
    edma.quiesce();
    for (const off of [EDMA.WR_ENGINE_EN, EDMA.RD_ENGINE_EN, EDMA.WR_INT_STATUS, EDMA.RD_INT_STATUS])
      expect(ctrl.dma.ld32(off)).toBe(0);
    expect(ctrl.dma.ld32(EDMA.WR_INT_MASK)).toBe(INT_ALL);
    expect(ctrl.dma.ld32(EDMA.RD_INT_MASK)).toBe(INT_ALL);
  });

  test("dump names every register once and puts the viewport back", () => {
    const { ctrl } = plug({
      dmaMap: "legacy",
      atu: "viewport",
      writeChannels: 2,
      readChannels: 1,
      inboundWindows: 2,
      outboundWindows: 3,
    });
    ctrl.dma.st32(0xfc, 1);
    ctrl.dbi.st32(0x900, 1);
    const entries = parseDump(dumpController(ctrl));
    const names = entries.map((e) => e.name);
    expect(new Set(names).size).toBe(names.length);
    for (const n of ["DMA_CTRL", "WR1.CH_LLP_LO", "RD0.CH_CONTROL1", "IB1.ATU_TARGET_LO", "OB2.ATU_LIMIT", "VERSION"])
      expect(names).toContain(n);
    expect(entries.find((e) => e.name === "DMA_CTRL")!.value).toBe(0x0001_0002);
    expect(ctrl.dma.ld32(0xfc)).toBe(1);
    expect(ctrl.dbi.ld32(0x900)).toBe(1);
  });
});

describe("detection (dw-hardware.md 8)", () => {
  const dbi = (version: number, ctrl: number) =>
    new DumpMmio([
      { name: "VERSION", offset: 0x8f8, value: version, long: "" },
      { name: "DMA_CTRL", offset: 0x978, value: ctrl, long: "" },
    ]);
  const block = new DumpMmio([]);
  test("glue wins, then the version, then DBI 0x978", () => {
    expect(detectDmaMap(dbi(0, 0x10001), block, "hdma-native")).toBe("hdma-native");
    expect(detectDmaMap(dbi(0x3534302a, 0x10001), block)).toBe("edma-unroll");
    expect(detectDmaMap(dbi(0x3532302a, 0xffffffff), block)).toBe("edma-unroll");
    expect(detectDmaMap(dbi(0x3532302a, 0x10001), block)).toBe("edma-legacy");
    expect(detectDmaMap(dbi(0x3438302a, 0x10001), null)).toBe("edma-legacy");
    expect(detectDmaMap(dbi(0x3534302a, 0xffffffff), null)).toBe("none");
    expect(detectDmaMap(dbi(0, 0), null)).toBe("none");
  });
  test("all ones is no version", () => {
    expect(detectDmaMap(dbi(0xffffffff, 0xffffffff), null)).toBe("none");
    expect(versionText(0xffffffff)).toBe("");
    expect(versionText(0x3532302a)).toBe("5.20a");
    expect(versionText(0x34383061)).toBe("4.80a");
  });
  test("channel counts", () => {
    const io = new DumpMmio([{ name: "DMA_CTRL", offset: 8, value: 0x0004_0002, long: "" }]);
    expect(channelCounts(io)).toEqual({ word: 0x0004_0002, write: 2, read: 4 });
  });
});
