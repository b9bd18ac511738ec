import { describe, expect, test } from "bun:test";
import { DBI_HEADER, DBI_PORT } from "../../src/hw/dbi.regs.ts";
import { contextOffset, EDMA_CHANNEL, EDMA_COMMON, EDMA_UNROLL, EDMA_VIEWPORT } from "../../src/hw/edma.regs.ts";
import { HDMA_CHANNEL } from "../../src/hw/hdma.regs.ts";
import { IATU_INBOUND, IATU_OUTBOUND, regionOffset } from "../../src/hw/iatu.regs.ts";
import { decode, dump, field, fieldsOf, offsets, parseDump, type RegTable, reg } from "../../src/hw/reg-table.ts";
import { DumpMmio } from "../support/dump-mmio.ts";

const TABLES: Record<string, RegTable> = {
  EDMA_COMMON,
  EDMA_VIEWPORT,
  EDMA_UNROLL,
  EDMA_CHANNEL,
  HDMA_CHANNEL,
  IATU_INBOUND,
  IATU_OUTBOUND,
  DBI_HEADER,
  DBI_PORT,
};

describe.each(Object.entries(TABLES))("%s", (_, table) => {
  test("offsets are words, ascending, unique; fields fit and do not overlap", () => {
    let last = -1;
    for (const r of table) {
      const [name, off, mode, long] = r;
      expect(name).toMatch(/^[A-Z][A-Z0-9_]*$/);
      expect(off % 4).toBe(0);
      expect(off).toBeGreaterThan(last);
      last = off;
      expect(["RO", "RW", "W1C", "WO", "RC"]).toContain(mode);
      expect(long.length).toBeGreaterThan(2);
      let below = 32;
      for (const f of fieldsOf(r)) {
        expect(f.msb).toBeLessThan(below);
        expect(f.lsb).toBeLessThanOrEqual(f.msb);
        expect(f.lsb).toBeGreaterThanOrEqual(0);
        below = f.lsb;
      }
    }
    expect(Object.keys(offsets(table)).length).toBe(table.length);
  });
});

test("blocks as dw-hardware.md 1 and 10 place them", () => {
  expect(contextOffset(true, 0)).toBe(0x200);
  expect(contextOffset(false, 7)).toBe(0x1100);
  expect(regionOffset(true, 3)).toBe(0x700);
  // the legacy block at DBI 0x970: DMA_CTRL 0x978, viewport 0xa6c
  expect(0x970 + reg(EDMA_COMMON, "DMA_CTRL")[1]).toBe(0x978);
  expect(0x970 + reg(EDMA_VIEWPORT, "VIEWPORT_SEL")[1]).toBe(0xa6c);
});

test("fields", () => {
  expect(field(0xffffffff, 31, 0)).toBe(0xffffffff);
  expect(field(0x80000000 | 0, 31, 31)).toBe(1);
  expect(field(0x00090002, 19, 16)).toBe(9);
  expect(decode(reg(EDMA_COMMON, "DMA_CTRL"), 0x000a0002)).toBe("RD_CHANNELS=0xa WR_CHANNELS=2");
  expect(decode(reg(EDMA_COMMON, "ARB_PRIORITY"), 5)).toBe("");
});

test("a dump is what parseDump reads; write-only registers are not read", () => {
  const io = new DumpMmio([], 0x5000);
  for (const [i, r] of EDMA_COMMON.entries()) io.cells.set(0x1000 + r[1], 0x80000000 + i);
  const text = dump(io, EDMA_COMMON, 0x1000, "A.");
  expect(text.split("\n")[0]).toBe("A.ARB_PRIORITY[1000]:80000000 DMA data arbitration priority");
  const entries = parseDump(`# comment\n\n${text}`);
  expect(entries.length).toBe(EDMA_COMMON.filter((r) => (r[2] as string) !== "WO").length);
  for (const e of entries) expect(e.value).toBe(io.cells.get(e.offset)!);
  expect(dump(io, [["X", 0, "RC", "cleared by reading"]])).toBe("");
  expect(dump(io, [["X", 0x4ffe, "RO", "ends behind the block"]])).toBe("");
  expect(dump(io, [["Y", 0x1008, "RO", "y", "HIGH 31, LOW 3:0"]], 0, "", true)).toBe(
    "Y[1008]:80000001 y (HIGH=1 LOW=1)\n",
  );
});

test("bad tables and bad dumps name the culprit", () => {
  expect(() => parseDump("OK[0]:1\nbroken")).toThrow('line 2 is not NAME[offset]:value: "broken"');
  expect(() =>
    offsets([
      ["A", 0, "RO", "a"],
      ["A", 4, "RO", "b"],
    ]),
  ).toThrow("names A twice");
  expect(() => reg(EDMA_COMMON, "NOPE")).toThrow("no register NOPE");
  expect(() => fieldsOf(["A", 0, "RO", "a", "b 3-0"])).toThrow('field "b 3-0" of register A');
});
