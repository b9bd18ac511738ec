/** What a process leaves on record for the next one, and when the next one must not believe it. */
import { afterAll, expect, test } from "bun:test";
import { LifeStore } from "../../src/engine/adopt.ts";
import type { AdoptedLife, HostFunction } from "../../src/engine/function/host-function.ts";
import type { Controller } from "../../src/hw/controller.ts";
import { ChunkMemory } from "../../src/hw/dma-chunk.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import { fill, ld8, mapAnonymous, st8, st16, unmap } from "../../src/hw/mem.ts";

const BYTES = 1 << 20;
const STATUS = 0x14;
const ptr = mapAnonymous(BYTES);
afterAll(() => unmap(ptr, BYTES));

/** The same memory in each process, with the same allocations. */
class Kept extends ChunkMemory {
  constructor(
    readonly kept: boolean,
    readonly bus = 0x1_0000_0000,
  ) {
    super([{ ptr, bus, size: BYTES }], "");
  }
  clear(): void {
    fill(ptr, 0, BYTES);
  }
}

const queue = (n: number) => ({
  size: 256,
  descLo: n,
  descHi: 1,
  availLo: n + 1,
  availHi: 1,
  usedLo: n + 2,
  usedHi: 1,
  vector: n & 3,
});

interface Process {
  store: LifeStore;
  memory: Kept;
  bar: DmaRegion;
  table: DmaRegion;
  fn: HostFunction;
  adopted: AdoptedLife | null;
}

function start(kept: boolean, key = "a", bus?: number): Process {
  const memory = new Kept(kept, bus);
  const store = new LifeStore(memory, key);
  const bar = memory.alloc("bar0", 4096, 4096);
  const table = memory.alloc("msix-table", 4096, 4096);
  const p = { store, memory, bar, table, adopted: null } as unknown as Process;
  p.fn = {
    featuresLo: 0x1823,
    featuresHi: 3,
    hdrLen: 24,
    inOrder: true,
    msix: true,
    configVector: 0,
    queues: [queue(0x1000), queue(0x2001)],
    adopt: (life: AdoptedLife) => {
      p.adopted = life;
    },
  } as unknown as HostFunction;
  return p;
}

/** The host's used indices are 0x1234 and 0x4321. */
function adopt(p: Process): readonly [number, number] | null {
  const fetcher = {
    put: (_n: number, lo: number, _hi: number, to: DmaRegion, off: number) =>
      st16(to.ptr + off + 2, lo === 0x1002 ? 0x1234 : 0x4321),
    commit: () => 1,
    landed: () => true,
  };
  const ctrl = { memory: p.memory, turn: () => {} } as unknown as Controller;
  return p.store.adopt(ctrl, {
    fn: p.fn,
    fetcher: fetcher as never,
    channels: { fetch: { progress: () => 0 } } as never,
  });
}

/** A process that was killed while it served a life. */
function leave(): void {
  fill(ptr, 0, BYTES);
  const p = start(false);
  st8(p.bar.ptr + STATUS, 15);
  st8(p.bar.ptr + 0x100, 0x5a);
  st8(p.table.ptr + 7, 0x77);
  p.store.follow(true, 1, p.fn, p.memory);
}

test("registers and captured state come back, everything else is zero", () => {
  leave();
  st8(ptr + BYTES - 1, 1);
  const p = start(true);
  expect(ld8(p.bar.ptr + STATUS)).toBe(0);
  expect(ld8(ptr + BYTES - 1)).toBe(0);
  expect(adopt(p)).toEqual([0x1234, 0x4321]);
  expect([ld8(p.bar.ptr + STATUS), ld8(p.bar.ptr + 0x100), ld8(p.table.ptr + 7)]).toEqual([15, 0x5a, 0x77]);
  expect(p.adopted).toMatchObject({ featuresLo: 0x1823, hdrLen: 24, inOrder: true, msix: true, status: 15 });
  expect(p.adopted!.queues).toEqual([queue(0x1000), queue(0x2001)]);
});

test("nothing is adopted from fresh memory", () => {
  fill(ptr, 0, BYTES);
  expect(adopt(start(false))).toBeNull();
  expect(adopt(start(true))).toBeNull();
});

test("another configuration, another place, a reset by the host: the life is over", () => {
  leave();
  expect(adopt(start(true, "b"))).toBeNull();
  leave();
  expect(adopt(start(true, "a", 0x2_0000_0000))).toBeNull();
  leave();
  const status = ptr + 4096 + STATUS;
  expect(ld8(status)).toBe(15);
  st8(status, 0);
  const p = start(true);
  expect(adopt(p)).toBeNull();
  expect(p.adopted).toBeNull();
});

test("a life that ended is not on record", () => {
  leave();
  const p = start(false);
  p.store.follow(true, 2, p.fn, p.memory);
  p.store.follow(false, 2, p.fn, p.memory);
  expect(adopt(start(true))).toBeNull();
});

test("a torn record is no record", () => {
  leave();
  st8(ptr + 8, 0);
  expect(adopt(start(true))).toBeNull();
});
