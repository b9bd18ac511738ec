import { describe, expect, test } from "bun:test";
import { ChunkMemory } from "../../src/hw/dma-chunk.ts";
import {
  contiguousRuns,
  HUGE_2M,
  HugepageMemory,
  hugepages,
  hugetlbfs,
  physicalPages,
} from "../../src/hw/dma-hugepage.ts";
import { Fault } from "../../src/hw/fault.ts";
import { ld32, mapAnonymous, unmap } from "../../src/hw/mem.ts";

const faultOf = (f: () => unknown): Fault => {
  try {
    f();
  } catch (e) {
    if (e instanceof Fault) return e;
    throw e;
  }
  throw new Error("no Fault was thrown");
};

describe("ChunkMemory", () => {
  const size = 1 << 20;
  // the bus address is deliberately less aligned than what is asked of it
  const bus = 0x12_3450_1000;

  test("regions are aligned on the bus, disjoint, and their views are the memory", () => {
    const ptr = mapAnonymous(size);
    const m = new ChunkMemory([{ ptr, bus, size }], "more");
    const a = m.alloc("a", 10, 1);
    const b = m.alloc("b", 100, 65536);
    const c = m.alloc("c", 64, 64);
    expect(a.bus).toBe(0x12_3450_1000);
    expect(b.bus % 65536).toBe(0);
    expect(b.bus - b.ptr).toBe(a.bus - a.ptr);
    expect(c.bus).toBe(b.bus + 128);
    expect([a.u8.length, a.u16.length, a.u32.length]).toEqual([10, 5, 2]);
    b.i32[3] = -2;
    expect(ld32(b.ptr + 12)).toBe(0xfffffffe);
    expect(m.regions.map((r) => r.name)).toEqual(["a", "b", "c"]);
    expect(m.free).toBe(size - (c.bus + 64 - bus));
    unmap(ptr, size);
  });

  test("too much is refused with both numbers and the hint", () => {
    const ptr = mapAnonymous(size);
    const m = new ChunkMemory([{ ptr, bus, size }], "echo 9 >nr_hugepages");
    m.alloc("first", size - 4096, 64);
    const f = faultOf(() => m.alloc("second", 8192, 64));
    expect(f.code).toBe("E_MISSING");
    expect(f.message).toBe("DMA memory for second: 8192 bytes aligned to 64 were asked, 4096 of 1048576 are left");
    expect(f.hint).toBe("echo 9 >nr_hugepages");
    expect(faultOf(() => m.alloc("odd", 64, 96)).code).toBe("E_USAGE");
    expect(faultOf(() => m.alloc("none", 0, 64)).code).toBe("E_USAGE");
    unmap(ptr, size);
  });
});

test("several chunks: the best fit is taken, and none is crossed", () => {
  const ptr = mapAnonymous(1 << 20);
  const chunks = [
    { ptr, bus: 0x10_0000, size: 0x8000 },
    { ptr: ptr + 0x8000, bus: 0x90_0000, size: 0x2000 },
  ];
  const m = new ChunkMemory(chunks, "more");
  expect(m.free).toBe(0x8000);
  expect(m.alloc("small", 0x1000, 64).bus).toBe(0x90_0000);
  expect(m.alloc("large", 0x7000, 64).bus).toBe(0x10_0000);
  expect(m.alloc("rest", 0x1000, 64)).toMatchObject({ bus: 0x10_7000, ptr: ptr + 0x7000 });
  expect(faultOf(() => m.alloc("none", 0x1040, 64)).message).toContain("4096 of 40960 in 2 pieces are left");
  unmap(ptr, 1 << 20);
});

describe("contiguousRuns", () => {
  const P = HUGE_2M;
  test("finds neighbours in any order, in physical order, the longest first", () => {
    expect(contiguousRuns([9 * P, 2 * P, 4 * P, 3 * P, 8 * P], P)).toEqual([
      [1, 3, 2],
      [4, 0],
    ]);
    expect(contiguousRuns([0, 2 * P, 4 * P], P).map((r) => r.length)).toEqual([1, 1, 1]);
    expect(contiguousRuns([], P)).toEqual([]);
  });
});

describe("HugepageMemory", () => {
  test("without pages it says how many, and the command", () => {
    const { free, total } = hugepages(HUGE_2M);
    const f = faultOf(() => HugepageMemory.open((free + 3) * HUGE_2M));
    expect(f.code).toBe("E_MISSING");
    expect(f.message).toContain(`${free + 3} free hugepages of 2 MiB are needed for DMA memory, there are ${free}`);
    expect(f.hint).toBe(`echo ${total + 3} >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`);
  });

  const { free } = hugepages(HUGE_2M);
  if (free < 4)
    console.log(`dma-hugepage: ${free} free hugepages of 2 MiB, 4 are needed: mapping real pages is not tested`);
  test.skipIf(free < 4)(
    "locked, zeroed pieces whose bus addresses are the physical ones; the rest is given back",
    () => {
      const m = HugepageMemory.open(3 * HUGE_2M - 100);
      expect(hugepages(HUGE_2M).free).toBe(free - 3);
      expect(m.pieces).toBeLessThanOrEqual(3);
      for (let i = 0; i < 3; i++) {
        const r = m.alloc(`page ${i}`, HUGE_2M, HUGE_2M);
        expect(physicalPages(r.ptr, 1, HUGE_2M)).toEqual([r.bus]);
        expect(r.u32.every((w) => w === 0)).toBe(true);
        r.u32[r.u32.length - 1] = 7 + i;
        expect(ld32(r.ptr + r.size - 4)).toBe(7 + i);
      }
      expect(m.free).toBe(0);
      m.close();
      expect(hugepages(HUGE_2M).free).toBe(free);
    },
  );
});

const mounted = hugetlbfs(HUGE_2M) !== "" && hugepages(HUGE_2M).free >= 4;
if (!mounted)
  console.log("dma-hugepage: no hugetlbfs of 2 MiB pages with 4 free: memory that outlives a process is not tested");
test.skipIf(!mounted)("memory in a file: left behind when asked, found again, thrown away when of another size", () => {
  const name = `test-${process.pid}`;
  const open = (pages: number): HugepageMemory => HugepageMemory.open(pages * HUGE_2M, HUGE_2M, name);
  const first = open(2);
  expect(first.kept).toBe(false);
  const a = first.alloc("a", 4096, 4096);
  const b = first.alloc("b", 4096, 4096);
  a.u32[0] = 0x11;
  b.u32[0] = 0x22;
  first.keep();
  first.close();
  const second = open(2);
  expect(second.kept).toBe(true);
  expect(second.layout).toBe(first.layout);
  const [c, d] = [second.alloc("a", 4096, 4096), second.alloc("b", 4096, 4096)];
  expect([c.u32[0], d.u32[0]]).toEqual([0x11, 0x22]);
  second.clear([{ ptr: d.ptr, size: d.size }]);
  expect([c.u32[0], d.u32[0]]).toEqual([0, 0x22]);
  second.keep();
  second.close();
  const third = open(3);
  expect(third.kept).toBe(false);
  for (let i = 0; i < 3; i++) expect(third.alloc(`page ${i}`, HUGE_2M, 64).u32.every((w) => w === 0)).toBe(true);
  third.close();
  const last = open(1);
  expect(last.kept).toBe(false);
  last.close();
});
