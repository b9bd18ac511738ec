/** The model's iATU against dw-hardware.md 10 (and 14): registers in both forms, matching, alignment, messages. */
import { describe, expect, test } from "bun:test";
import { DBI } from "../../../src/hw/dbi.regs.ts";
import { CTL_CB, CTL_LIE } from "../../../src/hw/edma.regs.ts";
import { WINDOW_BUS } from "../../../src/hw/model/window-mmio.ts";
import { type Bench, bench, HOST_BASE } from "./bench-board.ts";

const ENABLE = 0x80000000 | 0;
const BAR_MATCH = 1 << 30;

type Regs = { ctrl1?: number; ctrl2: number; base?: number; limit?: number; target?: number; limitHi?: number };

/** Program a region in Linux's order through whichever form the core has. */
function region(b: Bench, inbound: boolean, index: number, r: Regs): void {
  const c = b.model.controller();
  const hi = (v: number) => Math.floor(v / 2 ** 32);
  const put = (off: number, v: number) => {
    if (c.atu) c.atu.st32((index << 9) + (inbound ? 0x100 : 0) + off, v | 0);
    else {
      c.dbi.st32(0x900, (inbound ? ENABLE : 0) | index);
      c.dbi.st32(0x904 + off, v | 0);
    }
  };
  const base = r.base ?? 0;
  put(0x08, base);
  put(0x0c, hi(base));
  put(0x10, r.limit ?? 0);
  if (r.limitHi !== undefined) put(0x20, r.limitHi);
  put(0x14, r.target ?? 0);
  put(0x18, hi(r.target ?? 0));
  put(0x00, r.ctrl1 ?? 0);
  put(0x04, r.ctrl2);
}

/** BAR0 of 64 KiB at 0xe0000000 */
function bar0(b: Bench): void {
  const c = b.model.controller();
  c.dbi2.st32(0x10, 0xffff);
  b.model.cfgWrite(0x10, 4, 0xe0000000);
}

for (const atu of ["viewport", "unroll"] as const) {
  describe(`${atu} form`, () => {
    test("detection: DBI 0x900 reads all ones on an unrolled core", () => {
      const { dbi } = bench({ atu }).model.controller();
      expect(dbi.ld32(0x900)).toBe(atu === "unroll" ? 0xffffffff : 0);
    });
    test("window count: LOWER_TARGET sticks on as many regions as there are", () => {
      const b = bench({ atu, inboundWindows: 4, outboundWindows: 2 });
      const c = b.model.controller();
      const stick = (inbound: boolean, i: number): boolean => {
        if (c.atu) {
          c.atu.st32((i << 9) + (inbound ? 0x100 : 0) + 0x14, 0x11110000);
          return c.atu.ld32((i << 9) + (inbound ? 0x100 : 0) + 0x14) === 0x11110000;
        }
        c.dbi.st32(0x900, (inbound ? ENABLE : 0) | i);
        c.dbi.st32(0x918, 0x11110000);
        return c.dbi.ld32(0x918) === 0x11110000;
      };
      expect([0, 1, 2, 3].map((i) => stick(true, i))).toEqual([true, true, true, true]);
      expect([0, 1, 2, 3].map((i) => stick(false, i))).toEqual([true, true, false, false]);
    });
    test("alignment shows in LIMIT after writing 0, and low bits of base and target do not stick", () => {
      for (const windowAlign of [4096, 65536]) {
        const b = bench({ atu, windowAlign });
        region(b, false, 0, { ctrl2: 0, base: 0x12345678, limit: 0, target: 0x9abcdef0 });
        const c = b.model.controller();
        const get = (off: number) => (c.atu ? c.atu.ld32(off) : c.dbi.ld32(0x904 + off));
        expect(get(0x10)).toBe(windowAlign - 1);
        expect(get(0x08)).toBe((0x12345678 & -windowAlign) >>> 0);
        expect(get(0x14)).toBe((0x9abcdef0 & -windowAlign) >>> 0);
      }
    });
    test("inbound BAR match", () => {
      const b = bench({ atu });
      bar0(b);
      const page = b.model.controller().memory.alloc("bar", 65536, 65536);
      expect(b.model.barRead(0, 0, 4)).toBe(0xffffffff);
      expect(b.model.stats.inboundMisses).toBe(1);
      region(b, true, 1, { ctrl2: ENABLE | BAR_MATCH | (0 << 8), target: page.bus });
      page.u32[0x40 / 4] = 0xcafe1234;
      expect(b.model.barRead(0, 0x40, 4)).toBe(0xcafe1234);
      expect(b.model.barRead(0, 0x41, 1)).toBe(0x12);
      b.model.barWrite(0, 0xfffe, 2, 0x5aa5);
      expect(page.u16[0x7fff]).toBe(0x5aa5);
      expect(b.model.barPointer(0)).toBe(page.ptr);
      // the wrong BAR number does not match
      region(b, true, 1, { ctrl2: ENABLE | BAR_MATCH | (2 << 8), target: page.bus });
      expect(b.model.barRead(0, 0x40, 4)).toBe(0xffffffff);
      expect(b.model.barPointer(0)).toBe(0);
    });
    test("inbound address match follows the address the host gave", () => {
      const b = bench({ atu, windowAlign: 4096 });
      bar0(b);
      const page = b.model.controller().memory.alloc("part", 4096, 4096);
      region(b, true, 0, { ctrl2: ENABLE, base: 0xe0002000, limit: 0xe0002fff, target: page.bus });
      page.u32[1] = 77;
      expect(b.model.barRead(0, 0x2004, 4)).toBe(77);
      expect(b.model.barRead(0, 0x1004, 4)).toBe(0xffffffff);
      expect(b.model.barRead(0, 0x3000, 4)).toBe(0xffffffff);
      expect(b.model.barPointer(0)).toBe(0);
      // the host moves the BAR: the region no longer matches, as after a rescan
      b.model.cfgWrite(0x10, 4, 0xd0000000);
      expect(b.model.barRead(0, 0x2004, 4)).toBe(0xffffffff);
    });
    test("a region that is not enabled matches nothing, whatever else it says", () => {
      const b = bench({ atu });
      bar0(b);
      const { window, memory } = b.model.controller();
      const page = memory.alloc("bar", 65536, 65536);
      region(b, true, 0, { ctrl2: BAR_MATCH, target: page.bus });
      region(b, false, 0, { ctrl2: 0, base: WINDOW_BUS, limit: 0xffff, target: HOST_BASE });
      expect(b.model.barRead(0, 0, 4)).toBe(0xffffffff);
      expect(window.ld32(0)).toBe(0xffffffff);
      region(b, true, 0, { ctrl2: BAR_MATCH | ENABLE, target: page.bus });
      region(b, false, 0, { ctrl2: ENABLE, base: WINDOW_BUS, limit: 0xffff, target: HOST_BASE });
      expect(b.model.barRead(0, 0, 4)).toBe(0);
      expect(window.ld32(0)).toBe(0);
    });
    test("the lowest matching region wins, and only a memory region takes a memory request", () => {
      const b = bench({ atu });
      bar0(b);
      const { memory } = b.model.controller();
      const pages = [0, 1].map((n) => memory.alloc(`bar${n}`, 65536, 65536));
      pages.forEach((p, n) => {
        p.u32[0] = n + 1;
        region(b, true, 1 + n, { ctrl2: ENABLE | BAR_MATCH, target: p.bus });
      });
      expect(b.model.barRead(0, 0, 4)).toBe(1);
      region(b, true, 1, { ctrl1: 4, ctrl2: ENABLE | BAR_MATCH, target: pages[0]!.bus });
      expect(b.model.barRead(0, 0, 4)).toBe(2);
    });
    test("power-on reset disables every region and forgets the selection", () => {
      const b = bench({ atu });
      bar0(b);
      const c = b.model.controller();
      const page = c.memory.alloc("bar", 65536, 65536);
      region(b, true, 1, { ctrl2: ENABLE | BAR_MATCH, target: page.bus });
      expect(b.model.barRead(0, 0, 4)).toBe(0);
      region(b, false, 1, { ctrl2: ENABLE, base: WINDOW_BUS, limit: 0xffff, target: HOST_BASE });
      expect(c.window.ld32(0)).toBe(0);
      b.model.powerOnReset();
      // PERST# takes the BAR with it
      expect(b.model.barSize(0)).toBe(0);
      bar0(b);
      b.model.cfgWrite(4, 2, 6);
      expect(b.model.barRead(0, 0, 4)).toBe(0xffffffff);
      expect(c.window.ld32(0)).toBe(0xffffffff);
      expect(c.dbi.ld32(0x900)).toBe(atu === "unroll" ? 0xffffffff : 0);
    });
    test("a BAR ends where its size ends, and nothing answers while the link is down", () => {
      const b = bench({ atu });
      bar0(b);
      const page = b.model.controller().memory.alloc("bar", 131072, 65536);
      region(b, true, 0, { ctrl2: ENABLE | BAR_MATCH, target: page.bus });
      expect(b.model.barRead(0, 0xfffc, 4)).toBe(0);
      expect(b.model.barRead(0, 0x10000, 4)).toBe(0xffffffff);
      expect(b.model.barRead(0, 0xfffe, 4)).toBe(0xffffffff);
      b.model.setLink(false);
      expect(b.model.barRead(0, 0, 4)).toBe(0xffffffff);
    });
    test("a window access that runs over the region's end is no access", () => {
      const b = bench({ atu, windowAlign: 4096 });
      const { window } = b.model.controller();
      region(b, false, 0, { ctrl2: ENABLE, base: WINDOW_BUS, limit: 0xfff, target: HOST_BASE });
      expect(window.ld16(0xffe)).toBe(0);
      expect(window.ld32(0xffe)).toBe(0xffffffff);
      expect(b.model.stats.outboundMisses).toBe(1);
    });
    test("a region that is changed under a posted write: counted and a violation, unless a read or a turn came between", () => {
      const b = bench({ atu });
      const { window } = b.model.controller();
      const aim = (n: number, target: number) =>
        region(b, false, n, { ctrl2: ENABLE, base: WINDOW_BUS + n * 65536, limit: n * 65536 + 0xffff, target });
      aim(0, HOST_BASE);
      aim(1, HOST_BASE);
      window.st32(0, 1);
      aim(1, HOST_BASE + 65536);
      expect(b.model.stats.changedUnderWrite).toBe(0);
      window.ld32(65536);
      aim(0, HOST_BASE);
      window.st32(0, 1);
      b.turns(1);
      aim(0, HOST_BASE);
      expect(b.model.stats.changedUnderWrite).toBe(0);
      window.st32(0, 1);
      aim(0, HOST_BASE + 65536);
      expect(b.model.stats.changedUnderWrite).toBe(1);
      expect(b.model.violations).toEqual([
        "outbound region 0 was changed while a write of the CPU was on its way through it",
      ]);
    });
    test("memory decoding off: reads are all ones, writes vanish", () => {
      const b = bench({ atu });
      bar0(b);
      const page = b.model.controller().memory.alloc("bar", 65536, 65536);
      region(b, true, 0, { ctrl2: ENABLE | BAR_MATCH, target: page.bus });
      b.model.barWrite(0, 0, 4, 5);
      b.model.cfgWrite(4, 2, 4);
      b.model.barWrite(0, 0, 4, 9);
      expect(b.model.barRead(0, 0, 4)).toBe(0xffffffff);
      b.model.cfgWrite(4, 2, 6);
      expect(b.model.barRead(0, 0, 4)).toBe(5);
    });
    test("outbound memory region: the CPU's window reaches host memory", () => {
      const b = bench({ atu });
      const { window } = b.model.controller();
      region(b, false, 1, {
        ctrl2: ENABLE,
        base: WINDOW_BUS + 65536,
        limit: 65536 + 0xffff,
        target: HOST_BASE + 0x10000,
      });
      b.host.u8.set([1, 2, 3, 4], 0x10020);
      expect(window.ld32(65536 + 0x20)).toBe(0x04030201);
      expect(window.ld8(65536 + 0x22)).toBe(3);
      window.st16(65536 + 0x30, 0xbbaa);
      expect([...b.host.u8.slice(0x10030, 0x10033)]).toEqual([0xaa, 0xbb, 0]);
      expect(window.ld32(0)).toBe(0xffffffff);
      expect(b.model.stats.outboundMisses).toBe(1);
      expect(b.model.stats.nonPostedReads).toBe(3);
      expect(b.model.stats.postedWrites).toBe(1);
    });
    test("a region that crosses 4 GiB needs INCREASE_REGION_SIZE", () => {
      const b = bench({ atu });
      const { window } = b.model.controller();
      const base = WINDOW_BUS;
      const r = { ctrl2: ENABLE, base, limit: 0x1ffff, limitHi: 0x11, target: HOST_BASE - 2 ** 32 };
      region(b, false, 0, r);
      // without the bit the limit ends in the base's own 4 GiB
      expect(b.model.iatu.outbound[0]!.limit).toBe(base + 0x1ffff);
      region(b, false, 0, { ...r, ctrl1: 1 << 13 });
      expect(b.model.iatu.outbound[0]!.limit).toBe(base + 2 ** 32 + 0x1ffff);
      expect(window.ld32(0)).toBe(0xffffffff);
    });
    test("message region: INTx assert and deassert", () => {
      const b = bench({ atu });
      const { window } = b.model.controller();
      const msg = (code: number) => ({
        ctrl1: 0x14,
        ctrl2: ENABLE | (1 << 22) | code,
        base: WINDOW_BUS,
        limit: 0xffff,
      });
      region(b, false, 0, msg(0x20));
      window.st32(0, 0);
      region(b, false, 0, msg(0x24));
      window.st32(0, 0);
      expect(b.host.intxEdges).toEqual([true, false]);
      expect(b.model.stats.intxWhileDisabled).toBe(0);
      b.model.cfgWrite(4, 2, 0x406);
      region(b, false, 0, msg(0x20));
      window.st32(0, 0);
      expect(b.model.stats.intxWhileDisabled).toBe(1);
      // wrong routing is no interrupt
      region(b, false, 0, { ...msg(0x20), ctrl1: 0x10 });
      window.st32(0, 0);
      expect(b.host.intxEdges.length).toBe(3);
      expect(b.model.stats.outboundMisses).toBe(1);
    });
    test("message write through the window reaches the interrupt range", () => {
      const b = bench({ atu });
      const { window } = b.model.controller();
      region(b, false, 2, { ctrl2: ENABLE, base: WINDOW_BUS, limit: 0xffff, target: 0xfee00000 });
      window.st32(0x100c, 0x4021);
      expect(b.host.messages).toEqual([[0xfee0100c, 0x4021]]);
      b.model.cfgWrite(4, 2, 2);
      window.st32(0x100c, 0x4021);
      expect(b.host.messages.length).toBe(1);
      expect(b.model.stats.busMasterBlocked).toBe(1);
    });
  });
}

describe("DMA and outbound regions", () => {
  const run = (bypass: boolean): Bench => {
    const b = bench();
    // a region whose bus range covers the host address that the list names
    region(b, false, 0, {
      ctrl2: ENABLE | (bypass ? 1 << 27 : 0),
      base: HOST_BASE + 0x20000,
      limit: 0x2002ffff,
      target: HOST_BASE + 0x80000,
    });
    b.data.u8.fill(0x5a, 0, 128);
    // begins 64 bytes before the region
    b.list.data(0, CTL_CB | CTL_LIE, 128, b.data.bus, HOST_BASE + 0x20000 - 64);
    b.wr.start(b.list.slot(0));
    b.turns(2);
    return b;
  };
  test("a host address inside an enabled region is translated when the bypass bit is off", () => {
    const b = run(false);
    expect(b.host.u8[0x20000 - 1]).toBe(0x5a);
    expect(b.host.u8[0x20000]).toBe(0);
    expect(b.host.u8[0x80000]).toBe(0x5a);
    expect(b.host.u8[0x80000 + 63]).toBe(0x5a);
    expect(b.host.u8[0x80000 + 64]).toBe(0);
    expect(b.model.stats.dmaTranslated).toBe(1);
  });
  test("DMA_BYPASS is about DMA: the CPU's requests go through the region all the same", () => {
    const b = bench();
    region(b, false, 0, { ctrl2: ENABLE | (1 << 27), base: WINDOW_BUS, limit: 0xffff, target: HOST_BASE });
    b.model.controller().window.st32(0, 0x77);
    expect(b.host.u8[0]).toBe(0x77);
  });
  test("with DMA_BYPASS it passes untouched", () => {
    const b = run(true);
    expect(b.host.u8[0x20000]).toBe(0x5a);
    expect(b.host.u8[0x80000]).toBe(0);
    expect(b.model.stats.dmaTranslated).toBe(0);
  });
});

test("a BAR target that is not aligned to the BAR's size loses its low bits", () => {
  const b = bench();
  const c = b.model.controller();
  c.dbi2.st32(DBI.BAR0, 0x1ffff);
  b.model.cfgWrite(0x10, 4, 0xe0000000);
  const page = c.memory.alloc("bar", 0x40000, 0x20000);
  region(b, true, 0, { ctrl2: ENABLE | BAR_MATCH, target: page.bus + 0x10000 });
  page.u32[0] = 42;
  expect(b.model.barRead(0, 0, 4)).toBe(42);
});
