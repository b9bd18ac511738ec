/** Registers, interrupts, errors and faults of the model's eDMA against dw-hardware.md 1, 3, 4, 6 (and 14). */
import { describe, expect, test } from "bun:test";
import {
  CAUSE_POISONED,
  CAUSE_TIMEOUT,
  CS_HALTED,
  CS_RUNNING,
  CS_STOPPED,
  CTL_CB,
  CTL_LIE,
  contextOffset,
  DOORBELL_STOP,
  EDMA,
  EDMA_CH,
  EDMA_COMMON,
  EDMA_UN,
  EDMA_UNROLL,
  EDMA_VP,
  VIEWPORT_CONTEXT,
  VIEWPORT_READ,
} from "../../../src/hw/edma.regs.ts";
import { mapAnonymous } from "../../../src/hw/mem.ts";
import { REGION_READ, REGION_WRITE } from "../../../src/hw/model/address-space.ts";
import { GRANT_READ, GRANT_WRITE } from "../../../src/hw/model/shadow.ts";
import { bench, HOST_BASE, HOST_SIZE } from "./bench-board.ts";

describe("registers", () => {
  test("channel counts in DMA_CTRL", () => {
    const { dma } = bench({ writeChannels: 4, readChannels: 3 }).model.controller();
    expect(dma.ld32(EDMA.DMA_CTRL)).toBe(0x00030004);
  });
  test("legacy: the block is at DBI 0x970, and 0x978 tells the map (all ones when unrolled)", () => {
    const legacy = bench({ dmaMap: "legacy", writeChannels: 2, readChannels: 1 }).model.controller();
    expect(legacy.dbi.ld32(0x978)).toBe(0x00010002);
    legacy.dma.st32(EDMA.WR_ENGINE_EN, 1);
    expect(legacy.dbi.ld32(0x97c)).toBe(1);
    expect(bench().model.controller().dbi.ld32(0x978)).toBe(0xffffffff);
  });
  test("viewport hazard: an access without selecting hits the channel selected before", () => {
    const { dma } = bench({ dmaMap: "legacy" }).model.controller();
    dma.st32(EDMA_VP.VIEWPORT_SEL, 1);
    dma.st32(VIEWPORT_CONTEXT + EDMA_CH.CH_SIZE, 111);
    dma.st32(EDMA_VP.VIEWPORT_SEL, VIEWPORT_READ | 0);
    dma.st32(VIEWPORT_CONTEXT + EDMA_CH.CH_SIZE, 222);
    expect(dma.ld32(VIEWPORT_CONTEXT + EDMA_CH.CH_SIZE)).toBe(222);
    dma.st32(EDMA_VP.VIEWPORT_SEL, 1);
    expect(dma.ld32(VIEWPORT_CONTEXT + EDMA_CH.CH_SIZE)).toBe(111);
    dma.st32(EDMA_VP.VIEWPORT_SEL, 0);
    expect(dma.ld32(VIEWPORT_CONTEXT + EDMA_CH.CH_SIZE)).toBe(0);
    // a channel the core lacks
    dma.st32(EDMA_VP.VIEWPORT_SEL, 5);
    dma.st32(VIEWPORT_CONTEXT + EDMA_CH.CH_SIZE, 9);
    expect(dma.ld32(VIEWPORT_CONTEXT + EDMA_CH.CH_SIZE)).toBe(0);
  });
  test("unrolled: every channel has its own context", () => {
    const { dma } = bench({ writeChannels: 8, readChannels: 8 }).model.controller();
    for (let n = 0; n < 8; n++)
      for (const w of [true, false]) dma.st32(contextOffset(w, n) + EDMA_CH.CH_DAR_HI, n * 2 + (w ? 1 : 0));
    for (let n = 0; n < 8; n++)
      for (const w of [true, false])
        expect(dma.ld32(contextOffset(w, n) + EDMA_CH.CH_DAR_HI)).toBe(n * 2 + (w ? 1 : 0));
  });
  test("RW registers of the table keep what is written, RO ones do not", () => {
    for (const dmaMap of ["legacy", "unroll", "compat"] as const) {
      const { dma } = bench({ dmaMap }).model.controller();
      const written = (name: string): number =>
        name.endsWith("ENGINE_EN") ? 1 : /INT_MASK|ERR_EN/.test(name) ? 0x00ff00ff : -1 >>> 0;
      for (const [name, off, mode] of EDMA_COMMON) {
        if (mode === "WO" || name.endsWith("INT_STATUS")) continue;
        const before = dma.ld32(off);
        dma.st32(off, -1);
        expect([name, dma.ld32(off)]).toEqual([name, mode === "RW" ? written(name) : before]);
      }
      if (dmaMap === "legacy") continue;
      for (const [name, off, mode] of EDMA_UNROLL) {
        const power = name.endsWith("CH_POWER");
        // the switches are in the HDMA-compatible core only, one word a channel
        const kept = mode !== "RW" || (power && dmaMap !== "compat") ? 0 : power ? 1 : -1 >>> 0;
        for (const at of power ? [off, off + 4 * 7] : [off]) {
          dma.st32(at, -1);
          expect([name, dmaMap, dma.ld32(at)]).toEqual([name, dmaMap, kept]);
        }
      }
    }
  });
  test("HDMA-compatible map: a channel without power takes no doorbell", () => {
    const b = bench({ dmaMap: "compat" });
    const { dma } = b.model.controller();
    b.list.data(0, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(2);
    expect([b.model.stats.elements, b.model.stats.deadDoorbells]).toEqual([0, 1]);
    // the other direction's switch, and another channel's
    dma.st32(EDMA_UN.RD_CH_POWER, 1);
    dma.st32(EDMA_UN.WR_CH_POWER + 4, 1);
    b.wr.doorbell();
    expect(b.model.stats.deadDoorbells).toBe(2);
    dma.st32(EDMA_UN.WR_CH_POWER, 1);
    b.wr.doorbell();
    b.turns(2);
    expect(b.model.stats.elements).toBe(1);
  });
  test("after power-on everything is masked, off, and at rest", () => {
    const b = bench({ dmaMap: "compat" });
    const { dma } = b.model.controller();
    for (const reg of [EDMA.WR_INT_MASK, EDMA.RD_INT_MASK]) {
      expect(dma.ld32(reg)).toBe(0x00ff00ff);
      dma.st32(reg, 0);
    }
    dma.st32(EDMA_UN.WR_CH_POWER, 1);
    dma.st32(EDMA_UN.RD_CH_POWER, 1);
    b.rd.start(0x10);
    b.turns(2);
    dma.st32(EDMA.WR_INT_STATUS, 0);
    expect([b.rd.cs, b.model.edma.irq]).toEqual([CS_HALTED, true]);
    b.model.powerOnReset();
    expect([b.rd.cs, b.rd.llp, b.rd.status, b.model.edma.irq]).toEqual([0, 0, 0, false]);
    for (const off of [EDMA.RD_ERR_STATUS_LO, EDMA.RD_ENGINE_EN, EDMA_UN.WR_CH_POWER]) expect(dma.ld32(off)).toBe(0);
    expect([dma.ld32(EDMA.WR_INT_MASK), dma.ld32(EDMA.RD_INT_MASK)]).toEqual([0x00ff00ff, 0x00ff00ff]);
  });
  test("context writes to a running channel do nothing", () => {
    const b = bench({ faults: { holdFetched: 1 } });
    b.list.data(0, CTL_CB, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    b.wr.set(EDMA_CH.CH_LLP_LO, 0x1234);
    expect(b.wr.llp).toBe(b.list.slot(1));
    expect(b.model.edma.contextWritesWhileBusy).toBe(1);
  });
});

describe("interrupts", () => {
  test("status sets even if masked; the line follows the mask; write 1 to clear", () => {
    const b = bench();
    const { dma } = b.model.controller();
    b.list.data(0, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    dma.st32(EDMA.WR_INT_MASK, 0x00ff00ff);
    b.turns(1);
    expect(b.wr.status).toBe(1);
    expect(b.model.edma.irq).toBe(false);
    dma.st32(EDMA.WR_INT_MASK, 0);
    expect(b.model.edma.irq).toBe(true);
    b.wr.clear(2);
    expect(b.wr.status).toBe(1);
    b.wr.clear(1);
    expect(b.wr.status).toBe(0);
    expect(b.model.edma.irq).toBe(false);
  });
  test("each direction's line follows its own mask", () => {
    const b = bench();
    const { dma } = b.model.controller();
    b.list.data(0, CTL_CB | CTL_LIE, 4, HOST_BASE, b.data.bus);
    b.rd.start(b.list.slot(0));
    dma.st32(EDMA.WR_INT_MASK, 0);
    dma.st32(EDMA.RD_INT_MASK, 1);
    b.turns(1);
    expect([b.rd.status, b.model.edma.irq]).toEqual([1, false]);
    dma.st32(EDMA.RD_INT_MASK, 0);
    expect(b.model.edma.irq).toBe(true);
  });
  test("an emulated interrupt that comes between the two zeroes needs both again", () => {
    const b = bench();
    const { dma } = b.model.controller();
    dma.st32(EDMA.RD_INT_STATUS, 0);
    dma.st32(EDMA.WR_INT_CLEAR, 0);
    dma.st32(EDMA.RD_INT_STATUS, 0);
    dma.st32(EDMA.RD_INT_CLEAR, 0);
    expect(b.model.edma.irq).toBe(true);
    dma.st32(EDMA.WR_INT_CLEAR, 0);
    expect(b.model.edma.irq).toBe(false);
  });
  test("emulation: a write to INT_STATUS raises the line, status stays 0, 0 to both INT_CLEAR ends it", () => {
    for (const reg of [EDMA.RD_INT_STATUS, EDMA.WR_INT_STATUS]) {
      const b = bench();
      const { dma } = b.model.controller();
      dma.st32(reg, 0xffffffff);
      expect(b.model.edma.irq).toBe(true);
      expect(dma.ld32(EDMA.RD_INT_STATUS) | dma.ld32(EDMA.WR_INT_STATUS)).toBe(0);
      dma.st32(EDMA.WR_INT_CLEAR, 0);
      expect(b.model.edma.irq).toBe(true);
      dma.st32(EDMA.RD_INT_CLEAR, 0);
      expect(b.model.edma.irq).toBe(false);
      expect(b.model.edma.emulations).toBe(1);
    }
  });
});

describe("errors", () => {
  const abort = (b: ReturnType<typeof bench>, isWrite: boolean) => {
    const { dma } = b.model.controller();
    const ch = isWrite ? b.wr : b.rd;
    expect(ch.cs).toBe(CS_HALTED);
    expect(ch.status).toBe(1 << 16);
    return isWrite
      ? [dma.ld32(EDMA.WR_ERR_STATUS)]
      : [dma.ld32(EDMA.RD_ERR_STATUS_LO), dma.ld32(EDMA.RD_ERR_STATUS_HI)];
  };
  const run = (b: ReturnType<typeof bench>, isWrite: boolean, sar: number, dar: number) => {
    const ch = isWrite ? b.wr : b.rd;
    b.list.data(0, CTL_CB | CTL_LIE, 64, sar, dar);
    b.list.data(1, CTL_CB | CTL_LIE, 64, b.data.bus, HOST_BASE);
    ch.start(b.list.slot(0));
    b.turns(2);
  };
  test("read of a host address that nobody has: unsupported request", () => {
    const b = bench();
    run(b, false, HOST_BASE + HOST_SIZE, b.data.bus);
    expect(abort(b, false)).toEqual([0, 1]);
    expect(b.model.stats.unsupportedRequests).toBe(1);
  });
  test("read that runs over the end of host memory aborts after what was there", () => {
    const b = bench();
    b.host.u8[HOST_SIZE - 1] = 0x99;
    run(b, false, HOST_BASE + HOST_SIZE - 10, b.data.bus);
    expect(abort(b, false)).toEqual([0, 1]);
  });
  test("read of host memory that may not be read: completer abort", () => {
    const b = bench();
    b.host.memory.add(0x5000_0000, 4096, mapAnonymous(4096), REGION_WRITE);
    run(b, false, 0x5000_0000, b.data.bus);
    expect(abort(b, false)).toEqual([0, 1 << 8]);
  });
  test("completion timeout and poisoned data, injected", () => {
    for (const [cause, bit] of [
      [CAUSE_TIMEOUT, 1 << 16],
      [CAUSE_POISONED, 1 << 24],
    ] as const) {
      const b = bench();
      b.model.edma.injectCause = cause;
      run(b, false, HOST_BASE, b.data.bus);
      expect(abort(b, false)).toEqual([0, bit]);
    }
  });
  test("local address that does not exist: local error on either side", () => {
    let b = bench();
    run(b, true, 0x10, HOST_BASE);
    expect(abort(b, true)).toEqual([1]);
    b = bench();
    run(b, false, HOST_BASE, 0x10);
    expect(abort(b, false)).toEqual([1, 0]);
  });
  test("a list that cannot be read: LL fetch error", () => {
    let b = bench();
    b.wr.start(0x10);
    b.turns(1);
    expect(abort(b, true)).toEqual([1 << 16]);
    b = bench();
    b.rd.start(0x7fff_0000);
    b.turns(1);
    expect(abort(b, false)).toEqual([1 << 16, 0]);
  });
  test("no local to local copy: the remote end is always the host", () => {
    const b = bench();
    run(b, true, b.data.bus, b.data.bus + 4096);
    // a posted write to an address the host has not: it vanishes
    expect(b.wr.cs).toBe(CS_STOPPED);
    expect(b.model.stats.postedDropped).toBe(1);
  });
  test("clearing the abort bit clears the causes; a halted channel needs CONTROL1 and LLP again", () => {
    const b = bench();
    const { dma } = b.model.controller();
    run(b, false, 0, b.data.bus);
    b.rd.doorbell();
    expect(b.model.stats.deadDoorbells).toBe(1);
    expect(b.rd.cs).toBe(CS_HALTED);
    b.rd.clear(1 << 16);
    expect(dma.ld32(EDMA.RD_ERR_STATUS_HI)).toBe(0);
    b.list.data(4, CTL_CB | CTL_LIE, 4, HOST_BASE, b.data.bus);
    b.rd.start(b.list.slot(4));
    b.turns(1);
    expect(b.rd.cs).toBe(CS_STOPPED);
    expect(b.rd.status).toBe(1);
  });
  test("causes are one channel's own: clearing its abort bit leaves the other's", () => {
    for (const isWrite of [true, false]) {
      const b = bench();
      const { dma } = b.model.controller();
      const err = isWrite ? EDMA.WR_ERR_STATUS : EDMA.RD_ERR_STATUS_LO;
      b.channel(isWrite, 0).start(0x10);
      b.channel(isWrite, 1).start(0x10);
      b.turns(2);
      expect(dma.ld32(err)).toBe(0x00030000);
      (isWrite ? b.wr : b.rd).clear(0x10000);
      expect(dma.ld32(err)).toBe(0x00020000);
      (isWrite ? b.wr : b.rd).clear(0x20000);
      expect(dma.ld32(err)).toBe(0);
    }
  });
  test("remote abort message: sent where LL_ERR_EN has the channel's bit, to the abort address", () => {
    for (const isWrite of [true, false]) {
      const b = bench();
      const { dma } = b.model.controller();
      const [lo, en, data] = isWrite
        ? [EDMA.WR_ABORT_IMWR_LO, EDMA.WR_LL_ERR_EN, EDMA.WR_IMWR_DATA_01]
        : [EDMA.RD_ABORT_IMWR_LO, EDMA.RD_LL_ERR_EN, EDMA.RD_IMWR_DATA_01];
      dma.st32(lo, 0xfee00040);
      dma.st32(data, (0x51 << 16) | 0x50);
      dma.st32(en, 2);
      for (const n of [0, 1]) {
        b.channel(isWrite, n).start(0x10);
        b.turns(1);
      }
      expect(b.host.messages).toEqual([[0xfee00040, 0x51]]);
    }
  });
  test("a halted channel takes doorbells again when its engine was disabled and enabled", () => {
    const b = bench();
    const { dma } = b.model.controller();
    run(b, false, 0, b.data.bus);
    b.list.data(1, CTL_CB | CTL_LIE, 4, HOST_BASE, b.data.bus);
    dma.st32(EDMA.RD_ENGINE_EN, 0);
    dma.st32(EDMA.RD_ENGINE_EN, 1);
    b.rd.doorbell();
    b.turns(2);
    expect([b.rd.cs, b.model.stats.elements]).toEqual([CS_STOPPED, 1]);
  });
  test("bus mastering off: reads abort with UR, writes and interrupts do not arrive", () => {
    let b = bench();
    b.model.cfgWrite(4, 2, 2);
    run(b, false, HOST_BASE, b.data.bus);
    expect(abort(b, false)).toEqual([0, 1]);
    b = bench();
    b.model.cfgWrite(4, 2, 2);
    b.data.u8.fill(1, 0, 64);
    run(b, true, b.data.bus, 0xfee00000);
    expect(b.host.messages).toEqual([]);
    expect(b.host.u8[0]).toBe(0);
    expect(b.model.stats.busMasterBlocked).toBe(2);
    expect(b.model.stats.postedDropped).toBe(2);
    // nobody had told the board
    expect(b.model.violationCount).toBe(0);
  });
  test("bus mastering off: what a board begins that could have seen it for long is a violation", () => {
    const b = bench();
    b.model.cfgWrite(4, 2, 2);
    // an INTx reads the command register for its own bit: what the data path does in this slice is no violation yet
    expect(b.model.controller().dbi.ld32(4) & 4).toBe(0);
    run(b, true, b.data.bus, 0xfee00000);
    expect(b.model.violationCount).toBe(0);
    b.turns(1 << 16);
    run(b, true, b.data.bus, 0xfee00000);
    expect(b.model.violationCount).toBe(2);
    // on again, and off anew: the time begins anew
    b.model.cfgWrite(4, 2, 6);
    b.turns(1);
    b.model.cfgWrite(4, 2, 2);
    run(b, true, b.data.bus, 0xfee00000);
    expect(b.model.violationCount).toBe(2);
  });
});

describe("stop and disable", () => {
  test("a doorbell while the engine is disabled does nothing", () => {
    const b = bench();
    b.wr.doorbell();
    expect(b.wr.cs).toBe(0);
    expect(b.model.stats.deadDoorbells).toBe(1);
  });
  test("engine disable stops running channels of that direction", () => {
    const b = bench({ faults: { holdFetched: 1 } });
    const { dma } = b.model.controller();
    for (const ch of [b.wr, b.rd]) {
      b.list.data(0, CTL_CB, 4, ch.isWrite ? b.data.bus : HOST_BASE, ch.isWrite ? HOST_BASE : b.data.bus);
      ch.start(b.list.slot(0));
    }
    b.turns(1);
    dma.st32(EDMA.WR_ENGINE_EN, 0);
    expect(b.wr.cs).toBe(CS_STOPPED);
    expect(b.rd.cs).toBe(CS_RUNNING);
    dma.st32(EDMA.RD_ENGINE_EN, 0);
    expect(b.rd.cs).toBe(CS_STOPPED);
    const moved = b.model.stats.elements;
    b.turns(5);
    expect(b.model.stats.elements).toBe(moved);
  });
  test("STOP bit of the doorbell register", () => {
    const b = bench({ faults: { holdFetched: 1 } });
    const { dma } = b.model.controller();
    for (let i = 0; i < 9; i++) b.list.data(i, CTL_CB, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(2);
    dma.st32(EDMA.WR_DOORBELL, DOORBELL_STOP | 0);
    const n = b.model.stats.elements;
    b.turns(10);
    expect(b.wr.cs).toBe(CS_STOPPED);
    expect(b.model.stats.elements).toBe(n);
  });
});

describe("faults of silicon", () => {
  test("lost doorbell: what is appended between the fetch and the stop is not seen, nor a doorbell in between", () => {
    const b = bench({ faults: { lostDoorbell: 1 } });
    b.list.data(0, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.wr.cs).toBe(CS_RUNNING);
    b.list.data(1, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE + 4);
    b.wr.doorbell();
    b.turns(5);
    expect(b.wr.cs).toBe(CS_STOPPED);
    expect(b.wr.llp).toBe(b.list.slot(1));
    expect(b.model.stats.elements).toBe(1);
    expect(b.model.stats.lostDoorbells).toBe(1);
    b.wr.doorbell();
    b.turns(2);
    expect(b.model.stats.elements).toBe(2);
  });
  test("lost doorbell: the delay between fetch and stop is random, one to four turns", () => {
    const delays = new Set<number>();
    for (let seed = 1; seed < 30; seed++) {
      const b = bench({ seed, faults: { lostDoorbell: 1 } });
      b.wr.start(b.list.slot(0));
      b.turns(1);
      let n = 0;
      for (; b.wr.cs === CS_RUNNING; n++) b.turns(1);
      delays.add(n);
    }
    expect([...delays].sort()).toEqual([1, 2, 3, 4]);
  });
  test("LLP runs ahead of the data: it is past an element whose bytes are not there yet", () => {
    const b = bench({ faults: { holdFetched: 1 } });
    b.data.u8[0] = 5;
    b.list.data(0, CTL_CB, 1, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.wr.llp).toBe(b.list.slot(1));
    expect(b.host.u8[0]).toBe(0);
    b.turns(1);
    expect(b.host.u8[0]).toBe(5);
  });
  test("doorbell while not idle wedges a channel; stopped and done seen is safe", () => {
    const b = bench({ dmaMap: "legacy", faults: { notIdleDoorbell: true } });
    const { dma } = b.model.controller();
    b.list.data(0, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    // CS says stopped, done is not there: not wholly idle
    expect([b.wr.cs, b.wr.status]).toEqual([CS_STOPPED, 0]);
    b.turns(1);
    expect([b.wr.cs, b.wr.status]).toEqual([CS_STOPPED, 1]);
    b.wr.clear(1);
    b.list.data(1, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.wr.doorbell();
    b.turns(1);
    expect(b.model.stats.elements).toBe(2);
    b.list.data(2, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.wr.doorbell();
    b.turns(20);
    expect(b.wr.cs).toBe(CS_RUNNING);
    expect(b.model.stats.elements).toBe(2);
    b.wr.doorbell();
    b.turns(20);
    expect(b.model.stats.elements).toBe(2);
    // only the engine's enable bit frees it
    dma.st32(EDMA.WR_ENGINE_EN, 0);
    b.wr.start(b.list.slot(2));
    b.turns(3);
    expect(b.model.stats.elements).toBe(3);
  });
  test("R-Car: reads of 256 bytes and more are spoiled unless the read request size is 128", () => {
    const b = bench({ faults: { rcarReadRequest: true } });
    b.host.u8.fill(0x11, 0, 1024);
    const read = (slot: number, size: number): Uint8Array => {
      b.list.data(slot, CTL_CB, size, HOST_BASE, b.data.bus);
      if (slot === 0) b.rd.start(b.list.slot(0));
      else b.rd.doorbell();
      b.turns(1);
      return b.data.u8.slice(0, size);
    };
    expect(read(0, 255).every((v) => v === 0x11)).toBe(true);
    const bad = read(1, 600);
    expect([bad[223], bad[224], bad[255], bad[256], bad[479], bad[480], bad[511], bad[512], bad[599]]).toEqual([
      0x11, 0xee, 0xee, 0x11, 0x11, 0xee, 0xee, 0x11, 0x11,
    ]);
    expect(b.model.stats.readsSpoiled).toBe(1);
    // data that comes in pieces is spoiled once, when the last is there
    b.model.faults.splitData = 1;
    b.list.data(2, CTL_CB, 600, HOST_BASE, b.data.bus);
    b.rd.doorbell();
    b.turns(20);
    expect([b.data.u8[223], b.data.u8[224], b.data.u8[480], b.data.u8[599]]).toEqual([0x11, 0xee, 0xee, 0x11]);
    expect(b.model.stats.readsSpoiled).toBe(2);
    b.model.faults.splitData = 0;
    b.model.cfgWrite(0x78, 2, b.model.cfgRead(0x78, 2) & 0x0fff);
    expect(read(3, 1000).every((v) => v === 0x11)).toBe(true);
  });
});

describe("strict mode", () => {
  test("memory of the host that is not handed over: recorded with address, length, direction and who", () => {
    const b = bench({}, false);
    const m = b.host.memory.shadow!;
    m.grant(HOST_BASE, 100, GRANT_WRITE);
    b.list.data(0, CTL_CB, 100, b.data.bus, HOST_BASE);
    b.list.data(1, CTL_CB, 101, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.model.violationCount).toBe(1);
    expect(b.model.violations[0]).toBe(
      `dma write channel 0 element 1 (before LLP 0x${b.list.slot(2).toString(16)}): writes host memory 0x120000000 +101, byte 0x120000064 is not granted for it`,
    );
    b.list.data(0, CTL_CB, 1, HOST_BASE, b.data.bus);
    b.rd.start(b.list.slot(0));
    b.turns(1);
    expect(b.model.violations[1]).toContain("reads host memory 0x120000000 +1");
  });
  test("board memory: an engine's regions are granted, a port's are not, until its driver grants them", () => {
    const b = bench();
    const port = b.model.controller().memory.alloc("eq.buffers", 8192, 4096);
    b.list.data(0, CTL_CB, 8, HOST_BASE, port.bus + 16);
    b.rd.start(b.list.slot(0));
    b.turns(1);
    expect(b.model.violations.length).toBe(1);
    expect(b.model.violations[0]).toContain("writes board memory");
    b.model.board.shadow!.grant(port.bus, 4096, GRANT_READ | GRANT_WRITE);
    b.list.data(1, CTL_CB, 8, HOST_BASE, port.bus + 16);
    b.rd.doorbell();
    b.turns(1);
    expect(b.model.violationCount).toBe(1);
  });
  test("a channel's list is for fetching: data that lands in it is a violation", () => {
    const b = bench();
    const ll = b.model.controller().memory.alloc("ll-wr7", 240, 64);
    b.list.data(0, CTL_CB, 4, HOST_BASE, ll.bus);
    b.rd.start(b.list.slot(0));
    b.turns(1);
    expect(b.model.violations.length).toBe(1);
    expect(b.model.violations[0]).toContain("writes board memory");
    b.list.data(4, CTL_CB, 4, ll.bus, HOST_BASE);
    b.wr.start(b.list.slot(4));
    b.turns(1);
    expect(b.model.violationCount).toBe(1);
  });
  test("memory behind the last allocation is nobody's", () => {
    const b = bench();
    const c = b.model.controller();
    const r = c.memory.alloc("odd", 100, 64);
    b.list.data(0, CTL_CB, 4, r.bus + 98, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.model.violations[0]).toContain("reads board memory");
  });
  test("the list itself: slots that were not handed over", () => {
    const b = bench();
    const eq = b.model.controller().memory.alloc("eq.list", 4096, 4096);
    b.wr.start(eq.bus);
    b.turns(1);
    expect(b.model.violationCount).toBe(1);
    expect(b.model.violations[0]).toContain("reads board memory");
  });
  test("elements over region borders are copied piece by piece", () => {
    const b = bench({}, false);
    const extra = mapAnonymous(8192);
    b.host.memory.add(HOST_BASE + HOST_SIZE, 8192, extra, REGION_READ | REGION_WRITE);
    b.host.memory.shadow!.grant(HOST_BASE + HOST_SIZE - 4096, 8192, GRANT_READ | GRANT_WRITE);
    for (let i = 0; i < 5000; i++) b.data.u8[i] = i * 3;
    b.list.data(0, CTL_CB, 5000, b.data.bus, HOST_BASE + HOST_SIZE - 2500);
    b.list.data(1, CTL_CB | CTL_LIE, 0, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    b.list.data(10, CTL_CB, 5000, HOST_BASE + HOST_SIZE - 2500, b.data.bus + 8192);
    b.rd.start(b.list.slot(10));
    b.turns(1);
    expect(b.data.u8.slice(8192, 13192)).toEqual(b.data.u8.slice(0, 5000));
    expect(b.model.violations).toEqual([]);
  });
});

test("TLP counts follow maximum payload and read request size", () => {
  const b = bench();
  b.model.cfgWrite(0x78, 2, 0x2830);
  b.list.data(0, CTL_CB, 1500, b.data.bus, HOST_BASE);
  b.wr.start(b.list.slot(0));
  b.list.data(20, CTL_CB, 1500, HOST_BASE + 500, b.data.bus);
  b.rd.start(b.list.slot(20));
  b.turns(2);
  expect(b.model.stats.tlpWrites).toBe(6);
  expect(b.model.stats.tlpReads).toBe(4);
});
