import { describe, expect, test } from "bun:test";
import {
  DriverRing,
  type DriverRingOptions,
  type Grants,
  RING_BAD_ID,
  RING_BAD_IDX,
  RING_BAD_LEN,
  RING_NONE,
  ringLayout,
} from "../../src/hw/driver-ring.ts";
import { st16 } from "../../src/hw/mem.ts";
import { RingDevice } from "../support/ring-device.ts";
import { testMemory } from "../support/ring-memory.ts";

const BUS = 0x12_8000_0000; // above 2^32, low word above 2^31
const mem = testMemory(4 << 20, BUS);

function make(size: number, over: Partial<DriverRingOptions> = {}) {
  const align = over.align ?? 64;
  const block = mem.alloc("ring", ringLayout(size, align).bytes, align);
  const ring = new DriverRing({ size, mem: { ptr: block.ptr, busBase: block.bus }, align, eventIdx: false, ...over });
  return { ring, dev: new RingDevice(ring, ring.eventIdx, mem.cpu), block };
}

const lo = new Int32Array(16);
const hi = new Int32Array(16);
const len = new Int32Array(16);
function buffers(...list: [addr: number, len: number][]): void {
  list.forEach(([a, l], i) => {
    lo[i] = a | 0;
    hi[i] = Math.floor(a / 2 ** 32);
    len[i] = l;
  });
}

describe("layout", () => {
  test("legacy blocks follow 2.7.2, modern blocks use the next 64 bytes", () => {
    expect(ringLayout(256, 4096)).toEqual({ availOff: 4096, usedOff: 8192, bytes: 12288 });
    expect(ringLayout(256, 64)).toEqual({ availOff: 4096, usedOff: 4672, bytes: 6784 });
    expect(ringLayout(2, 64).usedOff).toBe(64);
    const { ring, block } = make(256, { align: 4096 });
    expect(ring.descBus % 4096).toBe(0);
    expect([ring.availBus - block.bus, ring.usedBus - block.bus]).toEqual([4096, 8192]);
    expect(ring.usedPtr - ring.descPtr).toBe(8192);
  });

  test("bad sizes and alignments are refused with the value", () => {
    const block = mem.alloc("ring", 65536, 64);
    const at = (size: number, off: number) => () =>
      new DriverRing({ size, mem: { ptr: block.ptr + off, busBase: block.bus + off }, align: 64, eventIdx: false });
    expect(at(100, 0)).toThrow("queue size 100");
    expect(at(65536, 0)).toThrow("queue size 65536");
    expect(at(16, 4)).toThrow("not aligned to 64");
  });
});

test("a chain of readable and writable buffers is found by a device as it was put", () => {
  const { ring, dev } = make(8);
  buffers([0xffff_f000_1000, 12], [0x8000_0000, 1500], [BUS, 100]);
  const head = ring.add(lo, hi, len, 2, 1);
  expect(dev.pop()).toBe(-1); // not before publish
  expect(ring.publish()).toBe(true);
  expect(dev.pop()).toBe(head);
  expect(dev.chain(head)).toEqual([
    { addr: 0xffff_f000_1000, len: 12, write: false },
    { addr: 0x8000_0000, len: 1500, write: false },
    { addr: BUS, len: 100, write: true },
  ]);
  expect(ring.freeCount).toBe(5);
  dev.put(head, 100);
  expect(ring.take()).toBe(RING_NONE);
  dev.show();
  expect(ring.take()).toBe(head);
  expect(ring.usedLen).toBe(100);
  expect(ring.freeCount).toBe(8);
  expect(ring.take()).toBe(RING_NONE);
});

test("indirect: one descriptor a chain, tables apart, single buffers stay direct", () => {
  const tables = mem.alloc("tables", 8 * 4 * 16, 64);
  const { ring, dev } = make(8, { indirect: { mem: { ptr: tables.ptr, busBase: tables.bus }, entries: 4 } });
  buffers([0x1000, 10], [0x2000, 20], [0x3000, 30], [0x4000, 40], [0x5000, 50]);
  expect(ring.add(lo, hi, len, 4, 1)).toBe(RING_NONE); // five do not fit into a table of four
  const heads = Array.from({ length: 8 }, () => ring.add(lo, hi, len, 3, 1));
  expect(new Set(heads).size).toBe(8);
  expect(ring.add(lo, hi, len, 1, 0)).toBe(RING_NONE);
  ring.publish();
  for (const h of heads) {
    expect(dev.pop()).toBe(h);
    expect(ring.desc[4 * h + 3]).toBe(4);
    expect(dev.chain(h).map((p) => [p.addr, p.len, p.write])).toEqual([
      [0x1000, 10, false],
      [0x2000, 20, false],
      [0x3000, 30, false],
      [0x4000, 40, true],
    ]);
    dev.put(h, 40);
  }
  dev.show();
  for (const h of heads) expect(ring.take()).toBe(h);
  expect(ring.freeCount).toBe(8);
  const direct = ring.add(lo, hi, len, 1, 0);
  expect(ring.desc[4 * direct + 3]).toBe(0);
});

describe("notification of the device", () => {
  test("flags", () => {
    const { ring, dev } = make(8);
    buffers([0x1000, 10]);
    dev.wantNotify(false);
    ring.add(lo, hi, len, 1, 0);
    expect(ring.publish()).toBe(false);
    dev.wantNotify(true);
    expect(ring.publish()).toBe(false); // nothing new
    ring.add(lo, hi, len, 1, 0);
    expect(ring.publish()).toBe(true);
  });

  test("EVENT_IDX: exactly when avail.idx passes avail_event, also over the wrap of 2^16", () => {
    const { ring, dev } = make(8, { eventIdx: true });
    buffers([0x1000, 10]);
    let told = 0;
    for (let i = 0; i < 70_000; i++) {
      const want = i % 3 === 0;
      dev.wantNotify(want);
      ring.add(lo, hi, len, 1, 0);
      const tell = ring.publish();
      if (tell !== want) throw new Error(`chain ${i}: told ${tell}, wanted ${want}`);
      if (tell) told++;
      const h = dev.pop();
      dev.put(h, 0);
      dev.show();
      expect(ring.take()).toBe(h);
    }
    expect(told).toBe(Math.ceil(70_000 / 3));
  });

  test("EVENT_IDX: a batch that jumps over the event tells once", () => {
    const { ring, dev } = make(8, { eventIdx: true });
    buffers([0x1000, 10]);
    st16(ring.usedPtr + 4 + 64, 3);
    for (let i = 0; i < 3; i++) ring.add(lo, hi, len, 1, 0);
    expect(ring.publish()).toBe(false); // idx 3: entry 3 is not there yet
    for (let i = 0; i < 3; i++) ring.add(lo, hi, len, 1, 0);
    expect(ring.publish()).toBe(true);
    ring.add(lo, hi, len, 1, 0);
    expect(ring.publish()).toBe(false);
    expect(dev.pop()).toBe(0);
  });
});

describe("interrupts of the driver", () => {
  for (const eventIdx of [false, true])
    test(eventIdx ? "EVENT_IDX" : "flags", () => {
      const { ring, dev } = make(8, { eventIdx });
      buffers([0x1000, 10]);
      const one = () => {
        ring.add(lo, hi, len, 1, 0);
        ring.publish();
        dev.put(dev.pop(), 0);
        return dev.show();
      };
      expect(ring.enableInterrupts()).toBe(false);
      expect(one()).toBe(true);
      expect(ring.pending()).toBe(true);
      ring.take();
      expect(ring.pending()).toBe(false);
      ring.disableInterrupts();
      expect(one()).toBe(false);
      expect(one()).toBe(false);
      expect(ring.enableInterrupts()).toBe(true); // two wait already
      ring.take();
      ring.take();
      expect(ring.enableInterrupts()).toBe(false);
      if (eventIdx) {
        expect(ring.enableInterrupts(2)).toBe(false);
        expect([one(), one(), one()]).toEqual([false, false, true]);
      }
    });
});

describe("a device that breaks rules", () => {
  const cases: [string, number, (dev: RingDevice, head: number) => void][] = [
    ["id out of range", RING_BAD_ID, (d) => d.put(8, 0)],
    ["id with high bits", RING_BAD_ID, (d, h) => d.put(0x10000 + h, 0)],
    ["head it does not own", RING_BAD_ID, (d, h) => d.put((h + 2) & 7, 0)],
    ["middle of a chain", RING_BAD_ID, (d, h) => d.put((h + 1) & 7, 0)],
    ["length beyond the writable bytes", RING_BAD_LEN, (d, h) => d.put(h, 101)],
    ["length above 2^31", RING_BAD_LEN, (d, h) => d.put(h, 0xffffffff)],
    ["index too far", RING_BAD_IDX, (d, h) => [d.put(h, 0), d.put(h, 0)]],
    ["index backwards", RING_BAD_IDX, (d) => (d.usedIdx = 0xffff)],
  ];
  for (const [name, code, act] of cases)
    test(name, () => {
      const { ring, dev } = make(8);
      buffers([0x1000, 50], [0x2000, 100]);
      const head = ring.add(lo, hi, len, 1, 1);
      ring.publish();
      dev.pop();
      act(dev, head);
      dev.show();
      expect(ring.take()).toBe(code);
      expect(ring.take()).toBe(code); // stays broken
      ring.reset();
      expect(ring.take()).toBe(RING_NONE);
      expect(ring.freeCount).toBe(8);
      expect(new RingDevice(ring, false, mem.cpu).pop()).toBe(-1);
    });

  test("the same head twice", () => {
    const { ring, dev } = make(8);
    buffers([0x1000, 50]);
    const a = ring.add(lo, hi, len, 1, 0);
    ring.add(lo, hi, len, 1, 0);
    ring.publish();
    dev.put(a, 0);
    dev.put(a, 0);
    dev.show();
    expect(ring.take()).toBe(a);
    expect(ring.take()).toBe(RING_BAD_ID);
  });

  test("descriptors overwritten by the device do not confuse the free list", () => {
    const { ring, dev } = make(8);
    buffers([0x1000, 1], [0x2000, 2], [0x3000, 3]);
    const h = ring.add(lo, hi, len, 3, 0);
    ring.publish();
    dev.pop();
    ring.desc.fill(-1);
    dev.put(h, 0);
    dev.show();
    expect(ring.take()).toBe(h);
    const seen = new Set<number>();
    for (let i = 0; i < 8; i++) seen.add(ring.add(lo, hi, len, 1, 0));
    expect([...seen].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });
});

test("random chains, completed in any order over many wraps, lose and repeat nothing", () => {
  const tables = mem.alloc("tables", 64 * 5 * 16, 64);
  for (const indirect of [undefined, { mem: { ptr: tables.ptr, busBase: tables.bus }, entries: 5 }]) {
    const { ring, dev } = make(64, { eventIdx: true, indirect });
    let seed = 42;
    const rnd = (n: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % n;
    };
    const out = new Map<number, { tag: number; room: number }>();
    const held: number[] = [];
    let tag = 1;
    let taken = 0;
    while (taken < 150_000) {
      for (let k = rnd(20); k > 0; k--) {
        const nOut = rnd(3);
        const nIn = nOut === 0 ? 1 + rnd(2) : rnd(3);
        let room = 0;
        for (let i = 0; i < nOut + nIn; i++) {
          lo[i] = tag;
          hi[i] = i;
          len[i] = 1 + rnd(2000);
          if (i >= nOut) room += len[i]!;
        }
        const h = ring.add(lo, hi, len, nOut, nIn);
        if (h < 0) break;
        if (out.has(h)) throw new Error(`head ${h} given twice`);
        out.set(h, { tag: tag++, room });
      }
      ring.publish();
      for (let h = dev.pop(); h >= 0; h = dev.pop()) held.push(h);
      for (let k = rnd(held.length + 1); k > 0; k--) {
        const h = held.splice(rnd(held.length), 1)[0]!;
        const rec = out.get(h)!;
        if (dev.chain(h)[0]!.addr % 2 ** 32 !== rec.tag) throw new Error(`chain ${h} is not the one that was put`);
        dev.put(h, rec.room);
      }
      dev.show();
      for (let h = ring.take(); h !== RING_NONE; h = ring.take()) {
        if (h < 0) throw new Error(`ring broke: ${h}`);
        if (ring.usedLen !== out.get(h)!.room) throw new Error("wrong length");
        out.delete(h);
        taken++;
      }
    }
    expect(ring.inFlight).toBe(out.size);
    expect(held.length).toBe(out.size);
  }
});

test("strict mode: rights follow the buffers", () => {
  const rights = new Map<number, string>();
  const grants: Grants = {
    grant: (a, l, m) => void rights.set(a, `${l}:${m}`),
    revoke: (a) => void rights.delete(a),
  };
  const tables = mem.alloc("tables", 8 * 4 * 16, 64);
  const { ring, dev } = make(8, { grants, indirect: { mem: { ptr: tables.ptr, busBase: tables.bus }, entries: 4 } });
  const own = [
    [ring.descBus, "128:1"],
    [ring.availBus, "22:1"],
    [ring.usedBus, "70:3"],
  ] as const;
  expect([...rights]).toEqual(own as unknown as [number, string][]);
  buffers([0x8000_1000, 10], [0x2_8000_2000, 20]);
  const h = ring.add(lo, hi, len, 1, 1);
  expect(rights.get(0x8000_1000)).toBe("10:1");
  expect(rights.get(0x2_8000_2000)).toBe("20:2");
  expect(rights.get(tables.bus + h * 64)).toBe("32:1");
  ring.publish();
  dev.put(h, 20);
  dev.show();
  ring.take();
  expect([...rights]).toEqual(own as unknown as [number, string][]);
  ring.add(lo, hi, len, 1, 0);
  ring.release();
  expect(rights.size).toBe(0);
});
