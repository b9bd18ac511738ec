/**
 * Opening a controller from a sysfs tree: registers really mapped, from an image that stands for /dev/mem (a sparse
 * file with the fixture's register dump at the board's physical addresses) or from a PCI resource file.
 */
import { afterAll, describe, expect, spyOn, test } from "bun:test";
import * as fs from "node:fs";
import {
  closeSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChunkMemory } from "../../src/hw/dma-chunk.ts";
import { dumpController } from "../../src/hw/dumps.ts";
import { Edma } from "../../src/hw/edma.ts";
import { Fault } from "../../src/hw/fault.ts";
import { Iatu } from "../../src/hw/iatu.ts";
import { O_SYNC } from "../../src/hw/libc.ts";
import { mapAnonymous } from "../../src/hw/mem.ts";
import { openController } from "../../src/hw/open.ts";
import { parseDump } from "../../src/hw/reg-table.ts";
import { mapPhysical, mapResource } from "../../src/hw/resource.ts";

const BOARD_DIR = join(import.meta.dir, "../../fixtures/boards");
const work = mkdtempSync(join(tmpdir(), "epnic-open-"));
afterAll(() => rmSync(work, { recursive: true }));

const le = (value: number): Buffer => {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(value >>> 0);
  return b;
};

/** A copy of the fixture with dev/mem: `size` bytes, mostly holes, the dump's values from `dbi` on. */
function board(name: string, dbi: number, size: number, to = name): string {
  const root = join(work, to);
  cpSync(join(BOARD_DIR, name), root, { recursive: true, verbatimSymlinks: true });
  mkdirSync(join(root, "dev"));
  const mem = join(root, "dev/mem");
  const fd = openSync(mem, "w");
  for (const e of parseDump(readFileSync(join(root, "registers.dump"), "utf8")))
    writeSync(fd, le(e.value), 0, 4, dbi + e.offset);
  closeSync(fd);
  truncateSync(mem, size);
  return root;
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

const wordAt = (path: string, at: number): number => {
  const b = Buffer.alloc(4);
  const fd = openSync(path, "r");
  readSync(fd, b, 0, 4, at);
  closeSync(fd);
  return b.readUInt32LE(0);
};

const GIB = 2 ** 30;
const boards = [
  {
    name: "rk3588",
    device: "a40000000.pcie-ep",
    dbi: 0xa_4000_0000,
    size: 42 * GIB,
    core: {
      version: "5.20a",
      dmaMap: "edma-unroll",
      writeChannels: 2,
      readChannels: 2,
      msix: true,
      linkGen: 3,
      linkWidth: 4,
    },
    window: [0x9_0000_0000, GIB],
    atu: 0xa_4030_0000,
    dma: 0xa_4038_0000,
    align: 0x10000,
  },
  {
    name: "rcar-s4",
    device: "e65d0000.pcie-ep",
    dbi: 0xe65d_0000,
    size: 4 * GIB,
    core: {
      version: "5.20a",
      dmaMap: "edma-unroll",
      writeChannels: 2,
      readChannels: 2,
      msix: false,
      linkGen: 0,
      linkWidth: 0,
    },
    window: [0xfe00_0000, 0x400000],
    atu: 0xe65d_3000,
    dma: 0xe65d_5000,
    align: 0x1000,
  },
  {
    name: "imx8mp",
    device: "33800000.pcie-ep",
    dbi: 0x3380_0000,
    size: GIB,
    core: {
      version: "4.80a",
      dmaMap: "edma-unroll",
      writeChannels: 1,
      readChannels: 1,
      msix: false,
      linkGen: 3,
      linkWidth: 1,
    },
    window: [0x1800_0000, 0x800_0000],
    atu: 0x33b0_0000,
    dma: 0x33b8_0000,
    align: 0x10000,
  },
] as const;

describe.each(boards)("$name", (b) => {
  const root = board(b.name, b.dbi, b.size);
  const mem = join(root, "dev/mem");

  test("the core is recognised without a single write", () => {
    const before = statSync(mem).blocks;
    const ctrl = openController({ device: b.device, sysfsRoot: root });
    expect(ctrl.core).toMatchObject({
      ...b.core,
      atuUnrolled: true,
      configLimit: false,
      msi: true,
      windowAlign: b.align,
    });
    expect(ctrl.core.maxReadRequest).toBe(b.name === "rcar-s4" ? 128 : undefined);
    expect([ctrl.windowBus, ctrl.window.size]).toEqual([...b.window]);
    expect([ctrl.name, ctrl.isModel]).toEqual([b.device, false]);
    const dump = parseDump(dumpController(ctrl));
    const value = (n: string): number => dump.find((e) => e.name === n)!.value;
    for (const e of parseDump(readFileSync(join(root, "registers.dump"), "utf8")))
      if (["ID", "VERSION", "ATU_VIEWPORT", "DMA_CTRL"].includes(e.name)) expect(value(e.name)).toBe(e.value);
    ctrl.close();
    expect(statSync(mem).blocks).toBe(before);
  });

  test("iATU and eDMA registers are where the SoC has them", () => {
    const ptr = mapAnonymous(1 << 16);
    const memory = new ChunkMemory([{ ptr, bus: 0x8_1234_0000, size: 1 << 16 }], "");
    const ctrl = openController({ device: b.device, sysfsRoot: root, memory });
    new Iatu(ctrl).outboundMem(1, b.window[0] + b.align, 0x77_0000_0000, b.align);
    expect(wordAt(mem, b.atu + 0x200 + 0x18)).toBe(0x77);
    expect(wordAt(mem, b.atu + 0x200 + 0x04)).toBe(0x80000000);
    const channel = new Edma(ctrl).open(false, 0, 13);
    channel.put(16, 1, 2, 3, 4);
    channel.commit();
    expect(wordAt(mem, b.dma + 0x300 + 0x1c)).toBe(0x1234_0000);
    expect(wordAt(mem, b.dma + 0x300 + 0x20)).toBe(8);
    expect(wordAt(mem, b.dma + 0x02c)).toBe(1);
    ctrl.window.st32(8, 0xabcd);
    expect(wordAt(mem, b.window[0] + 8)).toBe(0xabcd);
    ctrl.close();
  });
});

const pci = join(work, "pci");
const pciDir = join(pci, "sys/bus/pci/devices/0000:01:00.0");
const ranges = {
  dbi: { bar: 0, offset: 0, size: 0x1000 },
  dbi2: { bar: 0, offset: 0x1000, size: 0x1000 },
  addr_space: { bar: 0, offset: 0x2000, size: 0x2000 },
  busWindow: 0x12_0000_0000,
};

describe("a PCI function whose BARs hold the blocks", () => {
  const root = pci;
  const dir = pciDir;
  mkdirSync(dir, { recursive: true });
  for (const [f, text] of [
    ["vendor", "0x16c3\n"],
    ["device", "0xedda\n"],
    ["irq", "0\n"],
    ["resource", "0x1000 0x4fff 0x200\n"],
  ] as const)
    writeFileSync(join(dir, f), text);
  const image = Buffer.alloc(0x4000);
  // a legacy core: iATU viewport, eDMA in DBI, no separate blocks
  image.writeUInt32LE(0x0abcd16c3 >>> 0, 0);
  image.writeUInt32LE(0x3437302a, 0x8f8);
  image.writeUInt32LE(0x00020001, 0x978);
  image.writeUInt32LE(0x00000100, 0x8bc);
  writeFileSync(join(dir, "resource0"), image);
  writeFileSync(join(dir, "resource2_wc"), Buffer.alloc(0x10000));

  test("opens with ranges given, as the legacy map that it is", () => {
    const ctrl = openController({ device: "01:00.0", sysfsRoot: root, ranges, board: "imx8mp" });
    expect(ctrl.core).toMatchObject({
      version: "4.70a",
      atuUnrolled: false,
      dmaMap: "edma-legacy",
      writeChannels: 1,
      readChannels: 2,
      configLimit: true,
      inboundWindows: 4,
    });
    expect(ctrl.atu).toBeNull();
    expect(ctrl.windowBus).toBe(0x12_0000_0000);
    ctrl.dma.st32(0xfc, 0x80000001);
    expect(ctrl.dbi.ld32(0xa6c)).toBe(0x80000001);
    ctrl.window.st32(4, 0x55aa);
    expect(readFileSync(join(dir, "resource0")).readUInt32LE(0x2004)).toBe(0x55aa);
    ctrl.close();
  });

  test("without ranges it is the host's end of a board", () => {
    const f = faultOf(() => openController({ device: "0000:01:00.0", sysfsRoot: root }));
    expect([f.code, f.message.includes("host's end")]).toEqual(["E_MISSING", true]);
  });

  test("resource files: the write-combining one, absent ones, and too short ones", () => {
    const m = mapResource(dir, 2, 0x1008, 8, true);
    expect(m.ptr % 4096).toBe(8);
    m.close();
    expect(faultOf(() => mapResource(dir, 2, 0, 8)).message).toContain("resource2 does not exist");
    expect(faultOf(() => mapResource(dir, 0, 0, 16, true)).hint).toContain("without write combining");
    const f = faultOf(() => mapResource(dir, 0, 0x3000, 0x2000));
    expect([f.code, f.message.includes("needs 0x5000 bytes")]).toEqual(["E_CONFIG", true]);
  });
});

describe("refusals", () => {
  const root = board("imx8mp", 0x3380_0000, GIB, "refused");
  const mem = join(root, "dev/mem");
  const dir = (name: string): string => {
    const to = join(work, name);
    cpSync(root, to, { recursive: true, verbatimSymlinks: true, filter: (p) => !p.endsWith("dev/mem") });
    symlinkSync(mem, join(to, "dev/mem"));
    return to;
  };

  test("unknown name: what is here is named", () => {
    const f = faultOf(() => openController({ device: "nothing", sysfsRoot: root }));
    expect([f.code, f.message]).toEqual(["E_NODEV", 'there is no controller "nothing": here are 33800000.pcie-ep']);
  });
  test("no driver, unknown board", () => {
    const a = dir("a");
    rmSync(join(a, "sys/devices/platform/33800000.pcie-ep/driver"));
    expect(faultOf(() => openController({ device: "33800000.pcie-ep", sysfsRoot: a })).message).toContain(
      "no kernel driver",
    );
    const f = faultOf(() => openController({ device: "33800000.pcie-ep", sysfsRoot: root, board: "zx81" }));
    expect([f.code, f.message]).toEqual(["E_USAGE", 'the board table has no "zx81"']);
  });
  test("no /dev/mem, an image that is too short, a dead core", () => {
    const b = dir("b");
    rmSync(join(b, "dev/mem"));
    const f = faultOf(() => openController({ device: "33800000.pcie-ep", sysfsRoot: b }));
    expect([f.code, f.hint]).toEqual(["E_MISSING", "use a kernel with CONFIG_DEVMEM"]);
    writeFileSync(join(b, "dev/mem"), "short");
    expect(faultOf(() => openController({ device: "33800000.pcie-ep", sysfsRoot: b })).code).toBe("E_CONFIG");
    const c = dir("c");
    rmSync(join(c, "dev/mem"));
    const fd = openSync(join(c, "dev/mem"), "w");
    writeSync(fd, Buffer.alloc(4096, 0xff), 0, 4096, 0x3380_0000);
    closeSync(fd);
    truncateSync(join(c, "dev/mem"), GIB);
    const dead = faultOf(() => openController({ device: "33800000.pcie-ep", sysfsRoot: c }));
    expect(dead.message).toContain("DBI reads all ones");
    expect(dead.hint).toContain("echo 1 >/sys/kernel/config/pci_ep/controllers/33800000.pcie-ep/start");
  });
  test("a dbi that is too short, and an unrolled iATU without a range, close what was mapped before", () => {
    const short = { ...ranges, dbi: { bar: 0, offset: 0, size: 0x800 } };
    const mapped = (): number => readFileSync("/proc/self/maps", "utf8").split("resource0").length;
    const before = mapped();
    const f = faultOf(() => openController({ device: "01:00.0", sysfsRoot: pci, ranges: short }));
    expect([f.code, f.message]).toEqual(["E_CONFIG", "dbi has 0x800 bytes, 0x1000 are needed"]);
    const image = readFileSync(join(pciDir, "resource0"));
    const unrolled = Buffer.from(image);
    unrolled.writeUInt32LE(0xffffffff, 0x900);
    writeFileSync(join(pciDir, "resource0"), unrolled);
    const g = faultOf(() => openController({ device: "01:00.0", sysfsRoot: pci, ranges }));
    writeFileSync(join(pciDir, "resource0"), image);
    expect([g.code, g.message]).toEqual(["E_MISSING", '0000:01:00.0 has an unrolled iATU but no range "atu"']);
    expect(mapped()).toBe(before);
  });
  test("registers are mapped uncached: /dev/mem and resource files are opened with O_SYNC", () => {
    const opened: number[] = [];
    const spy = spyOn(fs, "openSync");
    try {
      mapPhysical(0x3380_0000, 4096, "x", mem).close();
      mapResource(pciDir, 0, 0, 16).close();
      for (const [, flags] of spy.mock.calls) opened.push(Number(flags));
    } finally {
      spy.mockRestore();
    }
    expect(opened.map((f) => f & O_SYNC)).toEqual([O_SYNC, O_SYNC]);
  });
  test("a range that is none", () => {
    expect(faultOf(() => mapPhysical(-1, 4096, "x", mem)).code).toBe("E_CONFIG");
    expect(faultOf(() => mapPhysical(0, 0, "x", mem)).code).toBe("E_CONFIG");
  });
  test("memory is asked for at its first use only, and its Fault names the command", () => {
    const ctrl = openController({ device: "33800000.pcie-ep", sysfsRoot: root, memoryBytes: 2 ** 45 });
    const f = faultOf(() => ctrl.memory);
    expect([f.code, f.hint?.startsWith("echo ")]).toEqual(["E_MISSING", true]);
    ctrl.close();
  });
});
