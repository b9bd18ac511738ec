/** What a process leaves on record for the next one, when the next one must not believe it, and that no moment to be killed loses it. */
import { afterAll, describe, expect, test } from "bun:test";
import { LifeStore } from "../../src/engine/adopt.ts";
import type { HostFunction } from "../../src/engine/function/host-function.ts";
import { ChunkMemory } from "../../src/hw/dma-chunk.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import { fill, ld8, mapAnonymous, st8, unmap } from "../../src/hw/mem.ts";
import { CrashRig } from "../support/crash-rig.ts";

const BYTES = 1 << 20;
const STATUS = 0x14;
const ptr = mapAnonymous(BYTES);
afterAll(() => unmap(ptr, BYTES));

class Kept extends ChunkMemory {
  stays = false;
  constructor(
    readonly kept: boolean,
    bus = 0x1_0000_0000,
  ) {
    super([{ ptr, bus, size: BYTES }], "");
  }
  clear(except: readonly { ptr: number; size: number }[]): void {
    const keep = except.map((e) => [e.ptr, new Uint8Array(e.size).map((_, i) => ld8(e.ptr + i))] as const);
    fill(ptr, 0, BYTES);
    for (const [at, bytes] of keep) for (let i = 0; i < bytes.length; i++) st8(at + i, bytes[i]!);
  }
  keep(): void {
    this.stays = true;
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
}

function start(kept: boolean, o: { key?: string; bus?: number; rested?: boolean } = {}): Process {
  const memory = new Kept(kept, o.bus);
  const store = new LifeStore(memory, o.key ?? "a", o.rested ?? true);
  const bar = memory.alloc("bar0", 4096, 4096);
  const table = memory.alloc("msix-table", 4096, 4096);
  const fn = {
    resumable: true,
    featuresLo: 0x1823,
    featuresHi: 3,
    hdrLen: 24,
    inOrder: true,
    msix: true,
    configVector: 0,
    queues: [queue(0x1000), queue(0x2001)],
  } as unknown as HostFunction;
  return { store, memory, bar, table, fn };
}

/** A process that was killed while it served a life. */
function leave(): Process {
  fill(ptr, 0, BYTES);
  const p = start(false);
  st8(p.bar.ptr + STATUS, 15);
  st8(p.bar.ptr + 0x100, 0x5a);
  st8(p.table.ptr + 7, 0x77);
  p.store.follow(true, 1, p.fn, p.memory);
  return p;
}

describe("the record", () => {
  test("brings back what was captured; registers stay as they are, everything else is zero", () => {
    leave();
    st8(ptr + BYTES - 1, 1);
    const p = start(true);
    expect(ld8(ptr + BYTES - 1)).toBe(0);
    expect(p.store.life).toMatchObject({ featuresLo: 0x1823, hdrLen: 24, inOrder: true, msix: true, status: 15 });
    expect(p.store.life!.queues).toEqual([queue(0x1000), queue(0x2001)]);
    expect([ld8(p.bar.ptr + STATUS), ld8(p.bar.ptr + 0x100), ld8(p.table.ptr + 7)]).toEqual([15, 0x5a, 0x77]);
  });

  test("is not found in fresh memory, after another configuration, elsewhere, or while DMA still runs", () => {
    fill(ptr, 0, BYTES);
    expect(start(false).store.life).toBeNull();
    expect(start(true).store.life).toBeNull();
    leave();
    expect(start(true, { key: "b" }).store.life).toBeNull();
    leave();
    expect(start(true, { bus: 0x2_0000_0000 }).store.life).toBeNull();
    leave();
    const p = start(true, { rested: false });
    expect(p.store.life).toBeNull();
    expect(ld8(p.bar.ptr + STATUS)).toBe(0);
  });

  test("ends with the life", () => {
    leave();
    const p = start(false);
    p.store.follow(true, 2, p.fn, p.memory);
    p.store.follow(false, 2, p.fn, p.memory);
    expect(start(true).store.life).toBeNull();
  });

  test("torn: no record", () => {
    leave();
    for (const at of [4096, 4100, 4104, 4200]) {
      const was = ld8(ptr + at);
      st8(ptr + at, was ^ 1);
      expect(start(true).store.life).toBeNull();
      leave();
    }
  });

  test("a new one is written beside the old one", () => {
    leave();
    const before = new Uint8Array(4096).map((_, i) => ld8(ptr + 4096 + i));
    const p = start(true);
    p.store.follow(true, 1, p.fn, p.memory);
    expect(new Uint8Array(4096).map((_, i) => ld8(ptr + 4096 + i))).toEqual(before);
    expect(start(true).store.life).not.toBeNull();
  });

  test("memory stays for the next process when this one ends before it served", () => {
    leave();
    const p = start(true);
    p.store.leave();
    expect(p.memory.stays).toBe(true);
    const q = start(true);
    q.store.follow(false, 0, q.fn, q.memory);
    q.store.leave();
    expect(q.memory.stays).toBe(false);
  });
});

describe("killed", () => {
  test("under traffic, 30 times: every frame arrives, none is wrong", () => {
    const rig = new CrashRig();
    rig.start();
    rig.up();
    for (let i = 0; i < 30; i++) {
      rig.queue(60);
      const half = rig.toHost.came.size + 7 + i;
      rig.until("some frames", () => rig.toHost.came.size >= half);
      rig.kill(i * 5);
      expect(rig.start()).toBe(true);
    }
    rig.complete();
    rig.close();
  });

  test("again, at every register access of the start: the life is never lost", () => {
    const rig = new CrashRig();
    rig.start();
    rig.up();
    rig.queue(40);
    let all = 0;
    for (let n = 1; all === 0 || n <= all; n++) {
      rig.queue(2);
      rig.until("a few turns", () => rig.toHost.came.size + 30 >= rig.toHost.sent);
      rig.kill(3);
      if (rig.start(n)) all = rig.accesses;
      else expect(rig.start()).toBe(true);
    }
    expect(all).toBeGreaterThan(50);
    rig.complete();
    rig.close();
  }, 60_000);

  test("and the driver was set up anew meanwhile: its old rings are left alone", () => {
    const rig = new CrashRig();
    rig.start();
    rig.up();
    rig.queue(20);
    rig.complete();
    rig.kill();
    rig.host.unbind();
    for (let i = 0; i < 200_000 && rig.host.state !== "idle"; i++) rig.endpoint.turn();
    rig.host.bind();
    for (let i = 0; i < 200_000 && rig.host.state === "idle"; i++) rig.endpoint.turn();
    expect(rig.start()).toBe(false);
    rig.close();
  });
});
