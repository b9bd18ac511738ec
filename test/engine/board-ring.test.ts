/** One of the board's rings as its device: hostile values, wraps, indirect tables, publish and suppression. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { BoardRing } from "../../src/engine/board-ring.ts";
import {
  R_AVAIL_JUMP,
  R_CHAIN_TOO_LONG,
  R_DESC_DIRECTION,
  R_DESC_INDEX,
  R_DESC_LENGTH,
  R_DESC_LOOP,
  R_INDIRECT,
  R_LOCAL_ADDRESS,
} from "../../src/engine/codes.ts";
import { MAX_SEGMENTS, Segments } from "../../src/engine/segments.ts";
import { DriverRing, RING_NONE, ringLayout } from "../../src/hw/driver-ring.ts";
import { ld16, st16, view } from "../../src/hw/mem.ts";
import { Random } from "../../src/hw/model/random.ts";
import type { LocalBuffers } from "../../src/hw/net-port.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../../src/hw/virtio.layout.ts";
import { type TestMemory, testMemory } from "../support/ring-memory.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const memories: TestMemory[] = [];
afterEach(() => {
  for (const m of memories.splice(0)) m.release();
});

const BASE = 0x7_fff0_0000;
const BUS = 0x12_3456_0000;
const BYTES = 1 << 20;

function rig(write = 0, size = 16) {
  const mem = testMemory(BYTES + 65536, 0x4000_0000);
  memories.push(mem);
  const r = new DriverRing({
    size,
    mem: { ptr: mem.ptr, busBase: mem.busBase },
    align: 64,
    eventIdx: false,
  });
  if (ringLayout(size, 64).bytes > 65536) throw new Error("ring");
  const buffers: LocalBuffers = {
    base: BASE,
    busBase: BUS,
    // as a part of something larger
    u8: new Uint8Array(view(mem.ptr + 61440, BYTES + 4096), 4096, BYTES),
    pageBusLo: null,
    pageBusHi: null,
    learn: () => -1,
  };
  const eq = new BoardRing("eq.test", write, r, buffers, new Segments());
  const out = new Segments();
  const desc = (i: number, addr: number, len: number, flags: number, next = 0): void => {
    r.desc.set([addr | 0, Math.floor(addr / 2 ** 32), len, flags | (next << 16)], i * 4);
  };
  let avail = 0;
  const offer = (...heads: number[]): void => {
    for (const h of heads) {
      r.avail[2 + (avail & (size - 1))] = h;
      avail = (avail + 1) & 0xffff;
    }
    st16(r.availPtr + 2, avail);
  };
  return { r, eq, out, desc, offer, buffers };
}

describe("taking", () => {
  test("addresses become bus addresses and offsets", () => {
    const x = rig();
    x.desc(3, BASE + 0x100, 12, DESC_F_NEXT, 7);
    x.desc(7, BASE + BYTES - 64, 64, 0);
    x.offer(3);
    expect([x.eq.available(), x.eq.peek(0), x.eq.segments(3, x.out)]).toEqual([1, 3, 0]);
    const bus = (i: number): number => (x.out.hi(i) >>> 0) * 2 ** 32 + (x.out.lo(i) >>> 0);
    expect([bus(0), x.out.off(0), bus(1), x.out.off(1), x.out.total]).toEqual([
      BUS + 0x100,
      0x100,
      BUS + BYTES - 64,
      BYTES - 64,
      76,
    ]);
  });

  test("links to neighbours and to others are followed, among descriptors that would do as well", () => {
    const r = new Random(5);
    const x = rig();
    for (let n = 0; n < 2000; n++) {
      const order = Array.from({ length: 16 }, (_, i) => i);
      for (let i = 15; i > 0; i--) {
        const k = r.chance(0.5) ? i : r.below(i + 1);
        [order[i], order[k]] = [order[k]!, order[i]!];
      }
      const links = 1 + r.below(16);
      order.forEach((d, k) => {
        x.desc(d, BASE + 64 * d, 1 + d, k >= links - 1 ? 0 : DESC_F_NEXT, order[(k + 1) & 15]!);
      });
      x.out.clear();
      expect([x.eq.segments(order[0]!, x.out), x.out.count]).toEqual([0, links]);
      expect(order.slice(0, links).map((_, k) => x.out.off(k))).toEqual(order.slice(0, links).map((d) => 64 * d));
      const wrong = [16, 17, 0x7fff, 0x8000, 0xffff][n % 5]!;
      const last = order[links - 1]!;
      x.desc(last, BASE, 1, DESC_F_NEXT, wrong);
      x.out.clear();
      expect([x.eq.segments(order[0]!, x.out), x.out.count, x.out.a]).toEqual([R_DESC_INDEX, 0, wrong]);
    }
  });

  test("gather() takes buffers of one piece and of several in turn, each translated once", () => {
    const x = rig(DESC_F_WRITE);
    const w = DESC_F_WRITE;
    x.desc(0, BASE + 0x100, 10, w);
    x.desc(1, BASE + 0x200, 20, w | DESC_F_NEXT, 2);
    x.desc(2, BASE + 0x300, 30, w);
    x.desc(3, BASE + 0x400, 40, w);
    x.desc(4, BASE + 0x500, 50, w | DESC_F_NEXT, 5);
    x.desc(5, BASE + 0x600, 60, w);
    x.offer(0, 1, 3, 4);
    expect(x.eq.available()).toBe(4);
    for (const [bytes, most, buffers] of [
      [1000, 4, 4],
      [1000, 3, 3],
      [61, 4, 3],
      [60, 4, 2],
    ] as const) {
      x.out.clear();
      expect([x.eq.gather(bytes, most, x.out), x.eq.gathered]).toEqual([0, buffers]);
      const pieces = [1, 3, 4, 6][buffers - 1]!;
      const want = [1, 2, 3, 4, 5, 6].slice(0, pieces).map((n) => [BUS + 0x100 * n, 0x100 * n, 10 * n]);
      const got = want.map((_, i) => [(x.out.hi(i) >>> 0) * 2 ** 32 + (x.out.lo(i) >>> 0), x.out.off(i), x.out.len(i)]);
      expect([x.out.count, got]).toEqual([pieces, want]);
      const lens = [10, 50, 40, 110].slice(0, buffers);
      expect([x.eq.firstLen, x.eq.lastLen]).toEqual([10, lens.at(-1)!]);
      const elems = [0, 1, 3, 4].slice(0, buffers).flatMap((head, i) => [head, lens[i]!]);
      expect([...x.r.usedElem.subarray(0, 2 * buffers)]).toEqual(elems);
      expect([x.eq.next, x.eq.used]).toEqual([0, 0]);
    }
  });

  test("gather() stops at a buffer outside of the memory, and keeps what was in front of it", () => {
    for (const bad of [BASE - 1, BASE + BYTES - 19, BASE + 2 ** 32]) {
      const x = rig(DESC_F_WRITE);
      x.desc(0, BASE + 0x100, 10, DESC_F_WRITE);
      x.desc(1, bad, 20, DESC_F_WRITE);
      x.desc(2, BASE + 0x200, 30, DESC_F_WRITE);
      x.offer(0, 1, 2);
      x.eq.available();
      expect(x.eq.gather(60, 3, x.out)).toBe(R_LOCAL_ADDRESS);
      expect([x.eq.gathered, x.out.count, x.out.total, x.out.a]).toEqual([1, 1, 10, bad | 0]);
    }
  });

  test("gather() of any mix of buffers, at the borders of the memory, of the ring and of the low word", () => {
    const r = new Random(11);
    const W = DESC_F_WRITE;
    const seen = new Map<string, number>();
    const x = rig(W, 32);
    const table = new Int32Array(x.buffers.u8.buffer, x.buffers.u8.byteOffset, BYTES >> 2);
    for (let n = 0; n < 6000; n++) {
      // The memory lies below, across or above a border, on either side.
      const [base, busBase] = [0, 1].map(() => 0x2_0000_0000 + r.below(3) * 2 ** 31 - [0, 4096, BYTES][r.below(3)]!);
      const start = [0, 5, 29, 0xfffb][r.below(4)]!;
      x.eq.attach(x.r, { ...x.buffers, base: base!, busBase: busBase! }, start);
      const entries = 1 + r.below(12);
      const want: { head: number; pieces: [number, number][]; code: number; at: number }[] = [];
      for (let k = 0; k < entries; k++) {
        const head = 2 * k;
        const len = 1 + r.below(100);
        let off = [0, BYTES - len, 2 * r.below(10_000)][r.below(3)]!;
        let pieces: [number, number][] = [[off, len]];
        let code = 0;
        let kind = ["chain", "table", "outside", "high", "empty", "read", "head"][r.below(7)]!;
        if (r.chance(0.8)) kind = "one";
        if (kind === "chain" || kind === "table")
          pieces = [
            [off, len],
            [r.below(BYTES - 64), 64],
          ];
        if (kind === "outside") off = r.chance(0.5) ? -1 : BYTES - len + 1;
        const at = base! + off + (kind === "high" ? (r.chance(0.5) ? 2 ** 32 : -(2 ** 32)) : 0);
        if (kind === "outside" || kind === "high") code = R_LOCAL_ADDRESS;
        if (kind === "empty") code = R_DESC_LENGTH;
        if (kind === "read") code = R_DESC_DIRECTION;
        if (kind === "head") code = R_DESC_INDEX;
        const rows = pieces.map(([o, l], i) => [o + base!, l, i, pieces.length - 1] as const);
        const put = (to: Int32Array, i: number, addr: number, l: number, flags: number, next: number): void =>
          to.set([addr | 0, Math.floor(addr / 2 ** 32), l, flags | (next << 16)], 4 * i);
        if (kind === "table") {
          const word = 8192 * (k + 1);
          for (const [addr, l, i, last] of rows)
            put(table, word / 4 + i, addr, l, W | (i < last ? DESC_F_NEXT : 0), i + 1);
          put(x.r.desc, head, base! + 4 * word, 32, DESC_F_INDIRECT | (r.chance(0.5) ? W : 0), 0);
        } else if (kind === "chain") {
          for (const [addr, l, i, last] of rows)
            put(x.r.desc, head + i, addr, l, W | (i < last ? DESC_F_NEXT : 0), head + 1);
        } else put(x.r.desc, head, at, kind === "empty" ? 0 : len, kind === "read" ? 0 : W, 0);
        const named = kind === "head" ? head + 32 : head;
        x.r.avail[2 + ((start + k) & 31)] = named;
        want.push({ head: named, pieces, code, at });
        seen.set(kind, (seen.get(kind) ?? 0) + 1);
      }
      st16(x.r.availPtr + 2, (start + entries) & 0xffff);
      x.r.usedElem.fill(0x5a5a5a5a);
      const bytes = 1 + r.below(700);
      const most = 1 + r.below(entries);
      x.out.clear();
      const rc = x.eq.gather(bytes, most, x.out);

      const elems = new Map<number, number>();
      const pieces: [number, number][] = [];
      let total = 0;
      let k = 0;
      let code = 0;
      const lens: number[] = [];
      for (; k < most && total < bytes; k++) {
        const e = want[k]!;
        code = e.code;
        if (code !== 0) break;
        const len = e.pieces.reduce((sum, p) => sum + p[1], 0);
        pieces.push(...e.pieces);
        total += len;
        lens.push(len);
        elems.set(((start + k) & 31) * 2, e.head).set(((start + k) & 31) * 2 + 1, len);
      }
      expect([rc, x.eq.gathered, x.out.count, x.out.total]).toEqual([code, k, pieces.length, total]);
      if (k > 0) expect([x.eq.firstLen, x.eq.lastLen]).toEqual([lens[0]!, lens[k - 1]!]);
      if (code === R_LOCAL_ADDRESS) expect(x.out.a).toBe(want[k]!.at | 0);
      const rows = pieces.flatMap(([o, l]) => {
        const bus = busBase! + o;
        return [bus | 0, Math.floor(bus / 2 ** 32), l, o];
      });
      expect(x.out.rows.subarray(0, rows.length)).toEqual(new Int32Array(rows));
      // Nothing else is written: those are the elements of buffers that are not taken.
      const ring = new Uint32Array(64).map((_, i) => elems.get(i) ?? 0x5a5a5a5a);
      expect(x.r.usedElem.subarray(0, 64)).toEqual(ring);
      expect([x.eq.next, x.eq.used]).toEqual([start, start]);
    }
    for (const kind of ["one", "chain", "table", "outside", "high", "empty", "read", "head"])
      expect([kind, (seen.get(kind) ?? 0) > 500]).toEqual([kind, true]);
  });

  test("gather() takes as many pieces as there is room for, and says when a frame needs more", () => {
    for (const chained of [0, 1])
      for (const [buffers, code] of [
        [MAX_SEGMENTS - chained, 0],
        [MAX_SEGMENTS - chained + 1, R_CHAIN_TOO_LONG],
      ] as const) {
        const x = rig(DESC_F_WRITE, 1024);
        for (let i = 0; i < 1024; i++) x.desc(i, BASE + 4 * i, 2, DESC_F_WRITE);
        if (chained) x.desc(0, BASE, 2, DESC_F_WRITE | DESC_F_NEXT, 1000);
        x.offer(...Array.from({ length: 600 }, (_, i) => i));
        expect(x.eq.gather(4000, buffers, x.out)).toBe(code);
        const taken = MAX_SEGMENTS - chained;
        expect([x.eq.gathered, x.out.count, x.out.total]).toEqual([taken, MAX_SEGMENTS, 2 * MAX_SEGMENTS]);
        expect([x.eq.firstLen, x.eq.lastLen]).toEqual([chained ? 4 : 2, 2]);
      }
  });

  test("gather() for what no frame is as long as: beyond 2 and 4 GiB", () => {
    for (const bytes of [2 ** 31 - 1, 2 ** 31, 2 ** 31 + 100, 2 ** 32, 2 ** 32 + 100, 2 ** 40]) {
      const x = rig(DESC_F_WRITE);
      for (let i = 0; i < 12; i++) x.desc(i, BASE + 64 * i, 60, DESC_F_WRITE);
      x.offer(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
      expect([x.eq.gather(bytes, 12, x.out), x.eq.gathered, x.out.count, x.out.total]).toEqual([0, 12, 12, 720]);
    }
  });

  test("addresses around every border of the low word, one by one and gathered", () => {
    const r = new Random(3);
    const borders = [0x1000, 0x7fff_f000, 0x8000_0000, 0xffff_f000, 0x1_0000_0000, 0x2_ffff_f000];
    const word = (hi: number, lo: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);
    const x = rig(DESC_F_WRITE);
    x.offer(0);
    for (const base of borders)
      for (const busBase of [base, ...borders]) {
        x.eq.attach(x.r, { ...x.buffers, base, busBase }, 0);
        x.eq.available();
        for (let i = 0; i < 300; i++) {
          const off = [r.below(300) - 150, BYTES - 150 + r.below(300), r.below(BYTES)][r.below(3)]!;
          const len = 1 + r.below(100);
          const at = base + off + (r.chance(0.1) ? 2 ** 32 : 0);
          const inside = at === base + off && off >= 0 && off + len <= BYTES;
          expect(x.eq.locate(at | 0, Math.floor(at / 2 ** 32), len)).toBe(inside ? off : -1);
          if (inside) expect(word(x.eq.busHigh(off), x.eq.busLow(off))).toBe(busBase + off);
          x.desc(0, at, len, DESC_F_WRITE);
          x.out.clear();
          expect(x.eq.gather(len, 1, x.out)).toBe(inside ? 0 : R_LOCAL_ADDRESS);
          if (inside) expect([word(x.out.hi(0), x.out.lo(0)), x.out.off(0)]).toEqual([busBase + off, off]);
        }
      }
  });

  test("stageFilled(): elements of buffers that are consumed, the last one not full, seen by nobody before `used` moves", () => {
    const x = rig(DESC_F_WRITE);
    const heads = [5, 3, 7];
    for (const h of heads) x.desc(h, BASE, 100, DESC_F_WRITE);
    x.offer(...heads);
    x.eq.available();
    expect(x.eq.gather(230, 3, x.out)).toBe(0);
    // What a driver writes over them does not change the last one's length.
    x.r.usedElem[5] = 7;
    x.eq.stageFilled(70);
    expect([x.eq.next, x.eq.used, x.eq.taken, x.r.used16[1]]).toEqual([3, 0, 3, 0]);
    expect([...x.r.usedElem.subarray(0, 6)]).toEqual([5, 100, 3, 100, 7, 30]);
    x.eq.used = 3;
    x.eq.publish();
    expect(x.r.used16[1]).toBe(3);
  });

  test("the buffers as 16-bit words are the same bytes, of this life and the next", () => {
    const x = rig();
    for (const eq of [x.eq, new BoardRing("eq.other", 0, x.r, x.buffers, new Segments())]) {
      eq.u16[5] = 1;
      expect([...eq.bytes.subarray(9, 13)]).toEqual([0, 1, 0, 0]);
      eq.bytes[BYTES - 1] = 2;
      expect([eq.u16.length, eq.u16.at(-1)]).toEqual([BYTES / 2, 512]);
      eq.bytes.fill(0);
    }
    const other = { ...x.buffers, u8: new Uint8Array(101) };
    x.eq.attach(x.r, other, 0);
    x.eq.u16[49] = 0x0201;
    expect([x.eq.u16.length, ...other.u8.subarray(97)]).toEqual([50, 0, 1, 2, 0]);
  });

  test("available() looks again only when nothing is left, look() always", () => {
    const x = rig();
    for (let i = 0; i < 4; i++) x.desc(i, BASE, 64, 0);
    x.offer(0, 1);
    expect(x.eq.available()).toBe(2);
    x.offer(2);
    expect(x.eq.available()).toBe(2);
    expect(x.eq.look()).toBe(3);
    x.eq.consume(3);
    expect(x.eq.available()).toBe(0);
    x.offer(3);
    expect(x.eq.available()).toBe(1);
  });

  test("rewind() finds the same entries again", () => {
    const x = rig(DESC_F_WRITE);
    for (let i = 0; i < 4; i++) x.desc(i, BASE, 64, DESC_F_WRITE);
    x.offer(2, 3, 1);
    x.eq.look();
    x.eq.consume(3);
    x.eq.rewind(2);
    expect([x.eq.available(), x.eq.peek(0), x.eq.peek(1)]).toEqual([2, 3, 1]);
  });

  test("a ring that another device process served: goes on where its used index stands", () => {
    const x = rig();
    for (const idx of [0, 5, 0xfffe]) {
      x.eq.attach(x.r, x.buffers, idx);
      x.desc(1, BASE, 64, 0);
      x.r.avail[2 + (idx & 15)] = 1;
      st16(x.r.availPtr + 2, (idx + 1) & 0xffff);
      expect([x.eq.available(), x.eq.peek(0)]).toEqual([1, 1]);
      x.eq.consume(1);
      x.eq.pushUsed(1, 0);
      x.eq.publish();
      expect(ld16(x.r.usedPtr + 2)).toBe((idx + 1) & 0xffff);
      expect(x.r.usedElem[(idx & 15) * 2]).toBe(1);
    }
  });

  test("locate() and the long way agree on chains of one", () => {
    const x = rig();
    const cases: [number, number, number][] = [
      [BASE, 64, 0],
      [BASE + BYTES - 1, 1, 0],
      [BASE + BYTES - 63, 64, 0],
      [BASE - 1, 64, 0],
      [BASE + BYTES, 1, 0],
      [BASE, 0, 0],
      [BASE, -1, 0],
      [BASE, 0x7fffffff, 0],
      [BASE + 2 ** 32, 64, 0],
      [0, 64, 0],
      [BASE, 64, DESC_F_WRITE],
      [BASE, 64, DESC_F_NEXT],
      [BASE, 64, DESC_F_INDIRECT],
    ];
    for (const [addr, len, flags] of cases) {
      x.desc(0, addr, len, flags, 1);
      x.desc(1, BASE, 8, 0);
      x.out.clear();
      const rc = x.eq.segments(0, x.out);
      const off = x.eq.locate(addr | 0, Math.floor(addr / 2 ** 32), len);
      if (off >= 0 && flags === 0) {
        expect([rc, x.out.count]).toEqual([0, 1]);
        expect([x.eq.busLow(off), x.eq.busHigh(off), len, off]).toEqual([
          x.out.lo(0),
          x.out.hi(0),
          x.out.len(0),
          x.out.off(0),
        ]);
      } else expect(rc < 0 || x.out.count > 1).toBe(true);
    }
  });
});

describe("what the board's driver must not do", () => {
  test("avail index further ahead than the queue is long", () => {
    for (const jump of [17, 1000, 0x8000]) {
      const x = rig();
      st16(x.r.availPtr + 2, jump);
      expect(x.eq.available()).toBe(R_AVAIL_JUMP);
      expect([x.eq.a, x.eq.b]).toEqual([jump, 16]);
    }
  });

  test("an avail index that goes back", () => {
    const x = rig();
    for (let i = 0; i < 4; i++) x.desc(i, BASE, 64, 0);
    x.offer(0, 1, 2);
    x.eq.look();
    x.eq.consume(3);
    for (let i = 0; i < 3; i++) x.eq.pushUsed(i, 0);
    st16(x.r.availPtr + 2, 2);
    expect(x.eq.look()).toBe(R_AVAIL_JUMP);
  });

  test("an avail index that goes back behind entries that were taken and not yet given back", () => {
    for (const [used, back] of [
      [0, 2],
      [1, 2],
      [3, 4],
    ] as const) {
      const x = rig();
      for (let i = 0; i < 6; i++) x.desc(i, BASE, 64, 0);
      x.offer(0, 1, 2, 3, 4, 5);
      expect(x.eq.look()).toBe(6);
      x.eq.consume(6);
      for (let i = 0; i < used; i++) x.eq.pushUsed(i, 0);
      st16(x.r.availPtr + 2, back);
      expect(x.eq.look()).toBeLessThan(0);
      expect(x.eq.available()).toBeLessThan(0);
    }
  });

  /** descriptor 0 of these, head 0 offered */
  const bad: [string, number, [addr: number, len: number, flags: number, next: number], number][] = [
    ["link outside the table", 0, [BASE, 8, DESC_F_NEXT, 99], R_DESC_INDEX],
    ["loop", 0, [BASE, 8, DESC_F_NEXT, 0], R_DESC_LOOP],
    ["writable in a transmit queue", 0, [BASE, 8, DESC_F_WRITE, 0], R_DESC_DIRECTION],
    ["readable in a receive queue", DESC_F_WRITE, [BASE, 8, 0, 0], R_DESC_DIRECTION],
    ["length 0", 0, [BASE, 0, 0, 0], R_DESC_LENGTH],
    ["2 GiB", 0, [BASE, -2147483648, 0, 0], R_DESC_LENGTH],
    ["below its memory", 0, [BASE - 8, 8, 0, 0], R_LOCAL_ADDRESS],
    ["across the end of its memory", 0, [BASE + BYTES - 4, 8, 0, 0], R_LOCAL_ADDRESS],
    ["far away", 0, [2 ** 52, 8, 0, 0], R_LOCAL_ADDRESS],
    ["indirect table outside its memory", 0, [BASE + BYTES - 8, 16, DESC_F_INDIRECT, 0], R_LOCAL_ADDRESS],
    ["indirect table at an odd place", 0, [BASE + 2, 16, DESC_F_INDIRECT, 0], R_LOCAL_ADDRESS],
    ["indirect table of 24 bytes", 0, [BASE, 24, DESC_F_INDIRECT, 0], R_INDIRECT],
  ];
  for (const [name, write, row, code] of bad) {
    test(name, () => {
      const x = rig(write);
      x.desc(0, ...row);
      x.offer(0);
      expect(x.eq.available()).toBe(1);
      expect(x.eq.segments(0, x.out)).toBe(code);
    });
  }

  test("head outside the table", () => {
    for (const head of [16, 17, 0xffff]) {
      const x = rig();
      x.offer(head);
      expect([x.eq.peek(0), x.eq.segments(head, x.out)]).toEqual([head, R_DESC_INDEX]);
    }
  });
});

describe("giving back", () => {
  test("elements, then the index; the flag is read behind the index", () => {
    const x = rig();
    x.eq.pushUsed(9, 77);
    expect(ld16(x.r.usedPtr + 2)).toBe(0);
    expect(x.eq.publish()).toBe(true);
    expect([ld16(x.r.usedPtr + 2), x.r.usedElem[0], x.r.usedElem[1]]).toEqual([1, 9, 77]);
    expect(x.eq.publish()).toBe(false);
    st16(x.r.availPtr, 1);
    x.eq.pushUsed(3, 0);
    expect(x.eq.publish()).toBe(false);
    expect(ld16(x.r.usedPtr + 2)).toBe(2);
  });

  test("suppressNotify writes the flag and nothing else", () => {
    const x = rig();
    x.eq.suppressNotify(true);
    expect(x.r.publish()).toBe(false);
    expect(ld16(x.r.usedPtr)).toBe(1);
    x.eq.suppressNotify(false);
    expect([ld16(x.r.usedPtr), ld16(x.r.usedPtr + 2)]).toEqual([0, 0]);
  });

  for (const size of [2, 16, 256]) {
    test(`200 000 chains through a ring of ${size}, with the driver that reaps them`, () => {
      const x = rig(0, size);
      let sent = 0;
      let taken = 0;
      let back = 0;
      while (back < 200_000) {
        while (
          sent < 200_000 &&
          x.r.addOne((BASE + (sent & 0xff) * 64) | 0, Math.floor(BASE / 2 ** 32), 1 + (sent & 63), false) !== RING_NONE
        )
          sent++;
        x.r.publish();
        const n = x.eq.look();
        if (n < 0) throw new Error(`code ${n}`);
        for (let k = 0; k < n; k++) {
          const head = x.eq.peek(0);
          x.out.clear();
          const rc = x.eq.segments(head, x.out);
          if (rc !== 0 || x.out.total !== 1 + (taken & 63)) throw new Error(`chain ${taken}: ${rc}, ${x.out.total}`);
          x.eq.consume(1);
          x.eq.pushUsed(head, 0);
          taken++;
        }
        x.eq.publish();
        while (x.r.take() >= 0) back++;
        if (x.r.broken !== 0) throw new Error(`ring broken ${x.r.broken}`);
      }
      expect([taken, ld16(x.r.usedPtr + 2)]).toEqual([200_000, 200_000 & 0xffff]);
    });
  }
});

test("locate() follows buffers across a boundary of 4 GiB, on either side, and finds nothing beyond their ends", () => {
  const { r, buffers } = rig();
  const base = 0x7_fffc_0000;
  const busBase = 0x12_fffe_0000;
  const eq = new BoardRing("eq.x", 0, r, { ...buffers, base, busBase }, new Segments());
  const where = (addr: number, len: number): number => eq.locate(addr | 0, Math.floor(addr / 2 ** 32) | 0, len);
  for (const off of [0, 2, 0x1_fffe, 0x2_0000, 0x3_fffe, 0x4_0000, 0x4_0002, BYTES - 2]) {
    expect([off, where(base + off, 2)]).toEqual([off, off]);
    const bus = (eq.busHigh(off) >>> 0) * 2 ** 32 + (eq.busLow(off) >>> 0);
    expect([off, bus]).toEqual([off, busBase + off]);
  }
  for (const addr of [base - 2, base + BYTES, base + BYTES - 1, 0, base - 2 ** 32, base + 2 ** 32, 0x7_0000_0000])
    expect([addr, where(addr, 2)]).toEqual([addr, -1]);
  for (const len of [0, -1, BYTES + 1, 0x7fff_ffff]) expect(where(base, len)).toBe(-1);
});
