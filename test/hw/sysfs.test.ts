import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { BOARDS, boardByCompatible } from "../../src/hw/boards.ts";
import { findController, hasDmaVsec, listControllers, obstacles, rangeOf } from "../../src/hw/sysfs.ts";

const BOARD_DIR = join(import.meta.dir, "../../fixtures/boards");
const work = mkdtempSync(join(tmpdir(), "epnic-sysfs-"));
afterAll(() => rmSync(work, { recursive: true }));

/** A copy of a fixture that a test may break. */
function copy(board: string, name: string): string {
  const to = join(work, name);
  cpSync(join(BOARD_DIR, board), to, { recursive: true, verbatimSymlinks: true });
  return to;
}

const expected = [
  {
    board: "rk3588",
    name: "a40000000.pcie-ep",
    table: "rk3588",
    driver: "rockchip-dw-pcie",
    started: true,
    functions: ["func1"],
    irqs: ["dma0: SPI 271", "dma1: SPI 272", "dma2: SPI 269", "dma3: SPI 270"],
    ranges: 5,
    dbi: { name: "dbi", base: 0xa_4000_0000, size: 0x100000 },
    window: { name: "addr_space", base: 0x9_0000_0000, size: 0x4000_0000 },
  },
  {
    board: "rcar-s4",
    name: "e65d0000.pcie-ep",
    table: "rcar-gen4",
    driver: "pcie-rcar-gen4",
    started: false,
    functions: [],
    irqs: ["dma: SPI 417"],
    ranges: 7,
    dbi: { name: "dbi", base: 0xe65d_0000, size: 0x2000 },
    window: { name: "addr_space", base: 0xfe00_0000, size: 0x400000 },
  },
  {
    board: "imx8mp",
    name: "33800000.pcie-ep",
    table: "imx8mp",
    driver: "imx6q-pcie",
    started: true,
    functions: ["func1"],
    irqs: ["dma: SPI 127"],
    ranges: 4,
    dbi: { name: "dbi", base: 0x3380_0000, size: 0x100000 },
    window: { name: "addr_space", base: 0x1800_0000, size: 0x800_0000 },
  },
];

describe.each(expected)("$board", (e) => {
  const root = join(BOARD_DIR, e.board);
  test("is found with driver, ranges, interrupts and state", () => {
    const found = listControllers(root);
    expect(found.map((c) => c.name)).toEqual([e.name]);
    const c = found[0]!;
    expect(c).toMatchObject({
      kind: "platform",
      driver: e.driver,
      epc: true,
      started: e.started,
      functions: e.functions,
      irqs: e.irqs,
      remote: false,
      pciId: null,
    });
    expect(c.board?.name).toBe(e.table);
    expect(c.ranges.length).toBe(e.ranges);
    expect(rangeOf(c, "dbi")).toEqual(e.dbi);
    expect(rangeOf(c, "addr_space")).toEqual(e.window);
    expect(obstacles(c)).toEqual([]);
  });

  test("the device tree agrees with the board table", () => {
    const c = findController(e.name, root)!;
    const known = c.board!.controllers[e.name]!;
    for (const [name, range] of Object.entries(known)) {
      const r = rangeOf(c, name)!;
      expect([name, r.base, r.size]).toEqual([name, range[0], range[1]]);
    }
  });
});

describe("what is in the way", () => {
  test("no driver", () => {
    const root = copy("rk3588", "nodriver");
    unlinkSync(join(root, "sys/devices/platform/a40000000.pcie-ep/driver"));
    const o = obstacles(findController("a40000000.pcie-ep", root)!);
    expect(o.map((x) => x.kind)).toEqual(["driver"]);
    expect(o[0]!.fix).toContain("echo a40000000.pcie-ep >/sys/bus/platform/drivers/");
  });
  test("driver, but no endpoint controller", () => {
    const root = copy("imx8mp", "noepc");
    rmSync(join(root, "sys/class"), { recursive: true });
    const o = obstacles(findController("33800000.pcie-ep", root)!);
    expect(o.map((x) => x.kind)).toEqual(["endpoint"]);
  });
  test("configfs: what is no function is not counted, and none at all is not known", () => {
    const root = copy("rk3588", "configfs");
    const dir = join(root, "sys/kernel/config/pci_ep/controllers/a40000000.pcie-ep");
    mkdirSync(join(dir, "group"));
    writeFileSync(join(dir, "start"), "0\n");
    expect(findController("a40000000.pcie-ep", root)).toMatchObject({ started: false, functions: ["func1"] });
    rmSync(dir, { recursive: true });
    expect(findController("a40000000.pcie-ep", root)).toMatchObject({ started: null, functions: [] });
  });
  test("a SoC that is not in the table, and a tree without names", () => {
    const root = copy("imx8mp", "unknown");
    const node = join(root, "sys/firmware/devicetree/base/soc/pcie-ep@33800000");
    writeFileSync(join(node, "compatible"), "acme,soc-pcie-ep\0");
    unlinkSync(join(node, "reg-names"));
    const c = findController("33800000.pcie-ep", root)!;
    expect(c.ranges[0]).toEqual({ name: "reg0", base: 0x3380_0000, size: 0x100000 });
    expect(obstacles(c).map((x) => x.kind)).toEqual(["range", "range", "board"]);
  });
  test("nothing at all", () => {
    expect(listControllers(join(work, "absent"))).toEqual([]);
    expect(findController("x.pcie-ep", join(work, "absent"))).toBeNull();
  });
});

test("coherent is what the node or a bus above it says", () => {
  const root = copy("rk3588", "coherent");
  const name = "a40000000.pcie-ep";
  expect(findController(name, root)!.coherent).toBe(false);
  const node = realpathSync(join(root, "sys/bus/platform/devices", name, "of_node"));
  writeFileSync(join(node, "dma-coherent"), "");
  expect(findController(name, root)!.coherent).toBe(true);
  unlinkSync(join(node, "dma-coherent"));
  writeFileSync(join(dirname(node), "name"), "soc\0");
  writeFileSync(join(dirname(node), "dma-coherent"), "");
  expect(findController(name, root)!.coherent).toBe(true);
});

describe("PCI functions", () => {
  const root = join(work, "pci");
  const add = (name: string, vendor: string, device: string, config?: Buffer) => {
    const d = join(root, "sys/bus/pci/devices", name);
    mkdirSync(d, { recursive: true });
    writeFileSync(join(d, "vendor"), `0x${vendor}\n`);
    writeFileSync(join(d, "device"), `0x${device}\n`);
    writeFileSync(join(d, "irq"), "35\n");
    writeFileSync(
      join(d, "resource"),
      "0x00000000fe800000 0x00000000fe80ffff 0x0000000000040200\n0x0 0x0 0x0\n0x0000004000000000 0x0000004000ffffff 0x000000000014220c\n",
    );
    if (config) writeFileSync(join(d, "config"), config);
    return d;
  };
  test("a capability list that runs in a circle ends, and an empty or absent config space is no DMA block", () => {
    const circle = Buffer.alloc(4096);
    circle.writeUInt32LE(0x14810001, 0x100);
    circle.writeUInt32LE(0x1001000b, 0x148);
    circle.writeUInt32LE(0x01800007, 0x14c);
    expect(hasDmaVsec(circle)).toBe(false);
    expect(hasDmaVsec(Buffer.alloc(4096))).toBe(false);
    expect(hasDmaVsec(Buffer.alloc(4096, 0xff))).toBe(false);
    expect(hasDmaVsec(Buffer.alloc(64))).toBe(false);
  });
  test("EDDA, MDB and the Synopsys VSEC are recognised as the host's end; others are not listed", () => {
    const d = add("0000:01:00.0", "16c3", "edda");
    mkdirSync(join(root, "sys/bus/pci/drivers/dw-edma-pcie"), { recursive: true });
    symlinkSync(join(root, "sys/bus/pci/drivers/dw-edma-pcie"), join(d, "driver"));
    add("0000:02:00.0", "10ee", "b054");
    add("0000:03:00.0", "8086", "1533");
    const config = Buffer.alloc(4096);
    config.writeUInt32LE(0x14810001, 0x100);
    config.writeUInt32LE(0x0001000b, 0x148);
    config.writeUInt32LE(0x01800006, 0x14c);
    add("0000:04:00.0", "16c3", "1234", config);
    const plain = Buffer.from(config);
    plain.writeUInt32LE(0x01800007, 0x14c);
    add("0000:05:00.0", "16c3", "1234", plain);
    const found = listControllers(root);
    expect(found.map((c) => c.name)).toEqual(["0000:01:00.0", "0000:02:00.0", "0000:04:00.0"]);
    expect(found[0]).toMatchObject({
      kind: "pci",
      remote: true,
      pciId: "16c3:edda",
      driver: "dw-edma-pcie",
      irqs: ["irq: 35"],
    });
    expect(found[0]!.ranges).toEqual([
      { name: "BAR0", base: 0xfe80_0000, size: 0x10000 },
      { name: "BAR2", base: 0x40_0000_0000, size: 0x100_0000 },
    ]);
    expect(findController("01:00.0", root)?.name).toBe("0000:01:00.0");
    expect(obstacles(found[0]!).map((o) => o.kind)).toEqual(["remote"]);
  });
});

test("the board table is consistent", () => {
  const names = new Set<string>();
  for (const b of BOARDS) {
    expect(names.has(b.name)).toBe(false);
    names.add(b.name);
    for (const c of b.compatible) expect(boardByCompatible([c])?.name).toBe(b.name);
    expect(Math.log2(b.windowAlign) % 1).toBe(0);
    for (const ranges of Object.values(b.controllers))
      for (const [base, size] of Object.values(ranges)) {
        expect(base % 0x100).toBe(0);
        expect(size).toBeGreaterThan(0);
      }
  }
  expect(boardByCompatible(["nobody,knows"])).toBeNull();
});
