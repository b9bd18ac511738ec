/** Config space and DBI of the model against dw-hardware.md 8, 11 (and 14). */
import { describe, expect, test } from "bun:test";
import { DBI } from "../../../src/hw/dbi.regs.ts";
import { CTL_CB } from "../../../src/hw/edma.regs.ts";
import { REGION_WRITE } from "../../../src/hw/model/address-space.ts";
import * as pci from "../../../src/hw/pci.layout.ts";
import { bench } from "./bench-board.ts";

/** BAR n of `size` bytes with flags, as Linux's endpoint driver sets it: mask through DBI2, flags through DBI. */
function setBar(b: ReturnType<typeof bench>, bar: number, size: number, flags: number): void {
  const c = b.model.controller();
  c.dbi.st32(DBI.MISC_CONTROL_1, c.dbi.ld32(DBI.MISC_CONTROL_1) | 1);
  c.dbi2.st32(0x10 + 4 * bar, (size - 1) | 0);
  if (flags & 4) c.dbi2.st32(0x14 + 4 * bar, Math.floor((size - 1) / 2 ** 32));
  c.dbi.st32(0x10 + 4 * bar, flags);
  c.dbi.st32(DBI.MISC_CONTROL_1, c.dbi.ld32(DBI.MISC_CONTROL_1) & ~1);
}

describe("read-only fields", () => {
  test("ids, class, pin and capability pointer open for DBI with 0x8BC bit 0 only", () => {
    const b = bench();
    const { dbi } = b.model.controller();
    const writes = () => {
      dbi.st16(pci.PCI_VENDOR_ID, 0x1af4);
      dbi.st16(pci.PCI_DEVICE_ID, 0x1041);
      dbi.st8(pci.PCI_REVISION, 5);
      dbi.st8(pci.PCI_INTERRUPT_PIN, 2);
      dbi.st8(pci.PCI_CAP_POINTER, 0x70);
    };
    writes();
    expect(b.model.cfgRead(0, 4)).toBe(0xabcd16c3);
    expect(b.model.cfgRead(pci.PCI_INTERRUPT_PIN, 1)).toBe(1);
    dbi.st32(DBI.MISC_CONTROL_1, dbi.ld32(DBI.MISC_CONTROL_1) | 1);
    writes();
    dbi.st32(DBI.MISC_CONTROL_1, dbi.ld32(DBI.MISC_CONTROL_1) & ~1);
    expect(b.model.cfgRead(0, 4)).toBe(0x10411af4);
    expect(b.model.cfgRead(pci.PCI_REVISION, 1)).toBe(5);
    expect(b.model.cfgRead(pci.PCI_INTERRUPT_PIN, 1)).toBe(2);
    expect(b.model.cfgRead(pci.PCI_CAP_POINTER, 1)).toBe(0x70);
  });
  test("the host cannot write ids, the board's port logic or RO capability fields", () => {
    const b = bench();
    b.model.cfgWrite(0, 4, 0xffffffff);
    b.model.cfgWrite(DBI.MISC_CONTROL_1, 4, 1);
    b.model.cfgWrite(0xb0, 4, 0xffffffff);
    expect(b.model.cfgRead(0, 4)).toBe(0xabcd16c3);
    expect(b.model.controller().dbi.ld32(DBI.MISC_CONTROL_1) & 1).toBe(0);
    expect(b.model.cfgRead(0xb2, 2)).toBe(0xc007);
  });
  test("capability ids stay, Next pointers move", () => {
    const b = bench();
    const { dbi } = b.model.controller();
    dbi.st32(DBI.MISC_CONTROL_1, dbi.ld32(DBI.MISC_CONTROL_1) | 1);
    dbi.st16(0x70, 0xc809);
    expect(b.model.cfgRead(0x70, 2)).toBe(0xc810);
  });
});

describe("capability chain", () => {
  const walk = (b: ReturnType<typeof bench>): [number, number][] => {
    const list: [number, number][] = [];
    for (let p = b.model.cfgRead(0x34, 1); p !== 0; p = b.model.cfgRead(p + 1, 1))
      list.push([p, b.model.cfgRead(p, 1)]);
    return list;
  };
  test("PM 0x40, MSI 0x50, PCIe 0x70, MSI-X 0xb0", () => {
    expect(walk(bench())).toEqual([
      [0x40, 1],
      [0x50, 5],
      [0x70, 0x10],
      [0xb0, 0x11],
    ]);
  });
  test("a core without MSI-X or MSI has no such capability", () => {
    expect(walk(bench({ msix: false }))).toEqual([
      [0x40, 1],
      [0x50, 5],
      [0x70, 0x10],
    ]);
    expect(walk(bench({ msix: false, msi: false }))).toEqual([
      [0x40, 1],
      [0x70, 0x10],
    ]);
  });
});

describe("BARs", () => {
  test("BAR mask through DBI2: the host reads the size back after writing all ones", () => {
    const b = bench();
    expect(b.model.cfgRead(0x10, 4)).toBe(0);
    setBar(b, 0, 65536, 0);
    b.model.cfgWrite(0x10, 4, 0xffffffff);
    expect(b.model.cfgRead(0x10, 4)).toBe(0xffff0000);
    b.model.cfgWrite(0x10, 4, 0xe0012345);
    expect(b.model.cfgRead(0x10, 4)).toBe(0xe0010000);
    expect(b.model.barSize(0)).toBe(65536);
  });
  test("64-bit prefetchable BAR takes two registers", () => {
    const b = bench();
    setBar(b, 2, 2 ** 20, 0xc);
    b.model.cfgWrite(0x18, 4, 0xffffffff);
    b.model.cfgWrite(0x1c, 4, 0xffffffff);
    expect(b.model.cfgRead(0x18, 4)).toBe(0xfff0000c);
    expect(b.model.cfgRead(0x1c, 4)).toBe(0xffffffff);
    b.model.cfgWrite(0x1c, 4, 0x12);
    b.model.cfgWrite(0x18, 4, 0x34500000);
    expect(b.model.config.barAddress(2)).toBe(0x12_3450_0000);
    expect(b.model.barSize(2)).toBe(2 ** 20);
    expect(b.model.barSize(3)).toBe(0);
  });
  test("a BAR larger than 4 GiB has a mask in its upper half too", () => {
    const b = bench();
    setBar(b, 4, 2 ** 35, 0xc);
    b.model.cfgWrite(0x20, 4, 0xffffffff);
    b.model.cfgWrite(0x24, 4, 0xffffffff);
    expect([b.model.cfgRead(0x20, 4), b.model.cfgRead(0x24, 4)]).toEqual([0xc, 0xfffffff8]);
    expect(b.model.barSize(4)).toBe(2 ** 35);
  });
  test("only even BARs can be 64 bits wide: the flag on an odd one changes nothing", () => {
    const b = bench();
    setBar(b, 2, 65536, 0);
    const { dbi, dbi2 } = b.model.controller();
    dbi.st32(DBI.MISC_CONTROL_1, dbi.ld32(DBI.MISC_CONTROL_1) | 1);
    dbi2.st32(0x14, 0xffff);
    dbi.st32(0x14, 4);
    b.model.cfgWrite(0x18, 4, 0xffffffff);
    expect(b.model.cfgRead(0x18, 4)).toBe(0xffff0000);
    expect([b.model.barSize(1), b.model.barSize(2)]).toEqual([65536, 65536]);
  });
  test("a mask that grows takes address bits away", () => {
    const b = bench();
    setBar(b, 0, 65536, 0);
    b.model.cfgWrite(0x10, 4, 0xe0010000);
    b.model.controller().dbi2.st32(0x10, 0x1ffff);
    expect(b.model.cfgRead(0x10, 4)).toBe(0xe0000000);
  });
  test("mask 0 disables a BAR", () => {
    const b = bench();
    setBar(b, 0, 65536, 0);
    b.model.cfgWrite(0x10, 4, 0xe0000000);
    b.model.controller().dbi2.st32(0x10, 0);
    expect(b.model.cfgRead(0x10, 4)).toBe(0);
    expect(b.model.barSize(0)).toBe(0);
  });
  test("writing a BAR from DBI erases the host's assignment", () => {
    const b = bench();
    setBar(b, 0, 65536, 0);
    b.model.cfgWrite(0x10, 4, 0xe0000000);
    b.model.controller().dbi.st32(0x10, 0);
    expect(b.model.cfgRead(0x10, 4)).toBe(0);
  });
  test("DBI2 is no way to write anything else", () => {
    const b = bench();
    b.model.controller().dbi2.st32(0, 0x11112222);
    expect(b.model.cfgRead(0, 4)).toBe(0xabcd16c3);
  });
});

describe("config limit", () => {
  test("fields stick on a modern-capable core only, and then the probe can read them back", () => {
    for (const modernCapable of [true, false]) {
      const { dbi } = bench({ modernCapable }).model.controller();
      const want = (0x31 << 8) | (2 << 18);
      dbi.st32(DBI.MISC_CONTROL_1, want);
      expect(dbi.ld32(DBI.MISC_CONTROL_1) & 0xfff00).toBe(modernCapable ? want : 0);
    }
  });
  test("requests above the limit go to a CFG0 region in memory, offset = register number", () => {
    const b = bench();
    const c = b.model.controller();
    const page = c.memory.alloc("config page", 65536, 65536);
    c.dbi.st32(DBI.MISC_CONTROL_1, (0x31 << 8) | (2 << 18));
    // nothing there yet: all ones and counted; at the limit the core still answers
    expect(b.model.cfgRead(0xc8, 4)).toBe(0xffffffff);
    expect(b.model.stats.configMisses).toBe(1);
    expect(b.model.cfgRead(0xc4, 4)).toBe(0);
    const r = 0x100 + (3 << 9);
    const atu = c.atu!;
    atu.st32(r + 0x14, page.bus);
    atu.st32(r + 0x00, 4);
    atu.st32(r + 0x04, 0x80000000 | 0);
    page.u32[0xc8 / 4] = 0x12345678;
    expect(b.model.cfgRead(0xc8, 4)).toBe(0x12345678);
    expect(b.model.cfgRead(0xc9, 1)).toBe(0x56);
    expect(b.model.cfgRead(0xca, 2)).toBe(0x1234);
    b.model.cfgWrite(0xd0, 2, 0xbeef);
    expect(page.u16[0xd0 / 2]).toBe(0xbeef);
    // all extended capabilities vanish too
    expect(b.model.cfgRead(0x100, 4)).toBe(0);
  });
  test("target ELBI answers nothing, TRGT1 with the same region does", () => {
    const b = bench();
    const { dbi, atu, memory } = b.model.controller();
    const page = memory.alloc("config page", 65536, 65536);
    atu!.st32(0x100 + 0x14, page.bus);
    atu!.st32(0x100, 4);
    atu!.st32(0x100 + 0x04, 0x80000000 | 0);
    dbi.st32(DBI.MISC_CONTROL_1, (0x31 << 8) | (1 << 18));
    expect(b.model.cfgRead(0x100, 4)).toBe(0xffffffff);
    dbi.st32(DBI.MISC_CONTROL_1, (0x31 << 8) | (2 << 18));
    expect(b.model.cfgRead(0x100, 4)).toBe(0);
  });
});

describe("command, link, resets", () => {
  test("version and link state registers", () => {
    const b = bench();
    const { dbi } = b.model.controller();
    expect(dbi.ld32(0x8f8)).toBe(0x3532302a);
    expect(dbi.ld32(0x728) & 0x3f).toBe(0x11);
    expect(dbi.ld32(0x72c) & 0x10).toBe(0x10);
    expect(dbi.ld16(0x82)).toBe(0x1043);
    b.model.setLink(false);
    expect(dbi.ld32(0x72c) & 0x10).toBe(0);
    expect(dbi.ld16(0x82)).toBe(0);
    // what the core tells about itself takes no write
    for (const off of [0x8f8, 0x728, 0x72c]) dbi.st32(off, -1);
    b.model.setLink(true);
    expect([dbi.ld32(0x8f8), dbi.ld32(0x728) & 0x3f, dbi.ld32(0x72c) >>> 0]).toEqual([0x3532302a, 0x11, 0x10]);
    b.model.setLink(false);
    expect(b.model.cfgRead(0, 4)).toBe(0xffffffff);
  });
  test("status and device status bits are write 1 to clear, command bits are plain", () => {
    const b = bench();
    expect(b.model.cfgRead(4, 2)).toBe(6);
    b.model.cfgWrite(4, 2, 0x406);
    expect(b.model.config.intxDisabled).toBe(true);
    b.model.cfgWrite(4, 4, 0xffff0006);
    expect(b.model.cfgRead(4, 4)).toBe(0x00100006);
    // reads that came back without data: nobody there, and memory that may not be read
    const { dbi } = b.model.controller();
    b.host.memory.add(0x5000_0000, 4096, b.data.ptr, REGION_WRITE);
    const fail = (sar: number) => {
      b.list.data(0, CTL_CB, 4, sar, b.data.bus);
      b.rd.start(b.list.slot(0));
      b.turns(1);
    };
    fail(0x10);
    expect(b.model.cfgRead(6, 2)).toBe(0x2010);
    fail(0x5000_0000);
    expect(b.model.cfgRead(6, 2)).toBe(0x3010);
    // a write of the command alone leaves them; a one clears its own bit, from either side
    b.model.cfgWrite(4, 2, 6);
    b.model.cfgWrite(6, 2, 0x1000);
    expect(b.model.cfgRead(6, 2)).toBe(0x2010);
    dbi.st32(4, 0x2000_0006);
    expect(dbi.ld32(4)).toBe(0x00100006);
  });
  test("the host sets the read request size, the board can read and cap it", () => {
    const b = bench();
    expect(b.model.config.mrrsShift).toBe(9);
    b.model.cfgWrite(0x78, 2, 0x5810);
    expect(b.model.config.mrrsShift).toBe(12);
    const { dbi } = b.model.controller();
    dbi.st16(0x78, dbi.ld16(0x78) & 0x0fff);
    expect(b.model.config.mrrsShift).toBe(7);
  });
  test("hot reset loses ids, command and BAR addresses, keeps BAR masks", () => {
    const b = bench();
    const { dbi } = b.model.controller();
    setBar(b, 0, 65536, 0);
    dbi.st32(DBI.MISC_CONTROL_1, dbi.ld32(DBI.MISC_CONTROL_1) | 1);
    dbi.st32(0, 0x10411af4);
    b.model.cfgWrite(0x10, 4, 0xe0000000);
    b.model.hotReset();
    expect(b.model.cfgRead(0, 4)).toBe(0xabcd16c3);
    expect(b.model.cfgRead(4, 2)).toBe(0);
    expect(b.model.config.master).toBe(false);
    expect(b.model.cfgRead(0x10, 4)).toBe(0);
    expect(b.model.barSize(0)).toBe(65536);
    expect(dbi.ld32(DBI.MISC_CONTROL_1) & 1).toBe(0);
  });
  test("PERST# takes everything: ids, masks, config limit, link settings", () => {
    const b = bench();
    const { dbi } = b.model.controller();
    setBar(b, 0, 65536, 0);
    dbi.st32(DBI.MISC_CONTROL_1, 1 | (0x31 << 8) | (2 << 18));
    dbi.st32(0, 0x10411af4);
    b.model.cfgWrite(0x78, 2, 0x5830);
    b.model.powerOnReset();
    expect([b.model.cfgRead(0, 4), b.model.barSize(0), b.model.cfgRead(0x78, 2)]).toEqual([0xabcd16c3, 0, 0x2810]);
    expect(dbi.ld32(DBI.MISC_CONTROL_1)).toBe((0x3ff << 8) | (1 << 18));
    expect([b.model.config.master, b.model.config.mpsShift]).toEqual([false, 7]);
  });
  test("function level reset by the host keeps what the board has set", () => {
    const b = bench();
    const { dbi } = b.model.controller();
    dbi.st32(DBI.MISC_CONTROL_1, dbi.ld32(DBI.MISC_CONTROL_1) | 1);
    dbi.st32(0, 0x10411af4);
    b.model.cfgWrite(0xb2, 2, 0x8000);
    b.model.cfgWrite(0x78, 2, 0x8000);
    b.turns(1);
    expect(b.model.stats.functionResets).toBe(1);
    expect(b.model.cfgRead(0, 4)).toBe(0x10411af4);
    expect(b.model.cfgRead(4, 2)).toBe(0);
    expect(b.model.cfgRead(0xb2, 2)).toBe(7);
  });
});
