import { describe, expect, test } from "bun:test";
import { R_LOCAL_ADDRESS } from "../../src/engine/codes.ts";
import { cutOut, dropFront, emit, localOffset, Segments, translate } from "../../src/engine/segments.ts";
import type { DmaChannel } from "../../src/hw/dma-channel.ts";
import { Random } from "../../src/hw/model/random.ts";
import type { LocalBuffers } from "../../src/hw/net-port.ts";

interface Element {
  size: number;
  sar: number;
  dar: number;
}

/** Records what is put, nothing else of a channel is used by emit(). */
function recorder(): { ch: DmaChannel; elements: Element[] } {
  const elements: Element[] = [];
  const at = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);
  const ch = {
    put: (size: number, sl: number, sh: number, dl: number, dh: number) =>
      elements.push({ size, sar: at(sl, sh), dar: at(dl, dh) }),
  } as unknown as DmaChannel;
  return { ch, elements };
}

function list(parts: [number, number][]): Segments {
  const s = new Segments();
  for (const [addr, len] of parts) {
    s.lo[s.count] = addr | 0;
    s.hi[s.count] = Math.floor(addr / 2 ** 32);
    s.len[s.count] = len;
    s.count++;
    s.total += len;
  }
  return s;
}

/** The byte-by-byte pairing that emit() must equal. */
function naive(src: [number, number][], dst: [number, number][], bytes: number): [number, number][] {
  const flat = (parts: [number, number][]): number[] =>
    parts.flatMap(([a, n]) => Array.from({ length: n }, (_, i) => a + i));
  const s = flat(src);
  const d = flat(dst);
  return Array.from({ length: bytes }, (_, i) => [s[i]!, d[i]!]);
}

describe("emit", () => {
  test("one segment each: one element", () => {
    const { ch, elements } = recorder();
    expect(emit(ch, list([[0x1000, 100]]), list([[0x2000, 2048]]), 100)).toBe(1);
    expect(elements).toEqual([{ size: 100, sar: 0x1000, dar: 0x2000 }]);
  });

  test("addresses carry from the low into the high word on both sides", () => {
    const { ch, elements } = recorder();
    emit(
      ch,
      list([[0xffff_fff8, 32]]),
      list([
        [0x1_ffff_fffc, 8],
        [0x10, 4],
        [0x3_ffff_ffff, 99],
      ]),
      32,
    );
    expect(elements).toEqual([
      { size: 8, sar: 0xffff_fff8, dar: 0x1_ffff_fffc },
      { size: 4, sar: 0x1_0000_0000, dar: 0x10 },
      { size: 20, sar: 0x1_0000_0004, dar: 0x3_ffff_ffff },
    ]);
  });

  test("20 000 random pairs equal the byte-by-byte pairing, with the fewest elements", () => {
    const r = new Random(7);
    for (let n = 0; n < 20_000; n++) {
      const parts = (): [number, number][] => {
        const out: [number, number][] = [];
        const k = 1 + r.below(5);
        for (let i = 0; i < k; i++) out.push([r.below(4) * 2 ** 32 + 0xffff_ffc0 + r.below(128), 1 + r.below(40)]);
        return out;
      };
      const src = parts();
      const dst = parts();
      const total = (p: [number, number][]): number => p.reduce((a, [, l]) => a + l, 0);
      const bytes = 1 + r.below(Math.min(total(src), total(dst)));
      const { ch, elements } = recorder();
      const count = emit(ch, list(src), list(dst), bytes);
      expect(count).toBe(elements.length);
      const got: [number, number][] = elements.flatMap((e) =>
        Array.from({ length: e.size }, (_, i): [number, number] => [e.sar + i, e.dar + i]),
      );
      expect(got).toEqual(naive(src, dst, bytes));
      expect(count).toBeLessThanOrEqual(src.length + dst.length - 1);
    }
  });
});

const flat = (base: number, busBase: number, size: number): LocalBuffers => ({
  base,
  busBase,
  u8: new Uint8Array(size),
  pageBusLo: null,
  pageBusHi: null,
  learn: () => -1,
});

describe("translate", () => {
  test("one contiguous area: bus address and CPU offset", () => {
    const out = new Segments();
    expect(translate(list([[0x1_0000_0100, 64]]), 0, flat(0x1_0000_0000, 0x2_ffff_ff80, 4096), out)).toBe(0);
    expect([out.hi[0], out.lo[0]! >>> 0, out.len[0], out.off[0]]).toEqual([3, 0x80, 64, 0x100]);
  });

  test("before, behind and across the end are refused with the address", () => {
    for (const [addr, len] of [
      [0xfff, 1],
      [0x2000, 1],
      [0x1fff, 2],
    ] as [number, number][]) {
      const out = new Segments();
      expect(translate(list([[addr, len]]), 0, flat(0x1000, 0x1000, 0x1000), out)).toBe(R_LOCAL_ADDRESS);
      expect(out.a).toBe(addr);
    }
  });

  test("scattered pages: split at 4 KiB, pages learnt once", () => {
    const pageBusLo = new Int32Array(4);
    const pageBusHi = new Int32Array(4);
    const learnt: number[] = [];
    const buffers: LocalBuffers = {
      base: 0,
      busBase: 0,
      u8: new Uint8Array(4 * 4096),
      pageBusLo,
      pageBusHi,
      learn: (p) => {
        if (p === 3) return -1;
        learnt.push(p);
        pageBusLo[p] = 0x8000_0000 + p * 0x10000;
        pageBusHi[p] = p;
        return 0;
      },
    };
    const out = new Segments();
    expect(translate(list([[4000, 5000]]), 0, buffers, out)).toBe(0);
    const rows = Array.from({ length: out.count }, (_, i) => [out.hi[i], out.lo[i]! >>> 0, out.len[i], out.off[i]]);
    expect(rows).toEqual([
      [0, 0x8000_0fa0, 96, 4000],
      [1, 0x8001_0000, 4096, 4096],
      [2, 0x8002_0000, 808, 8192],
    ]);
    translate(list([[0, 100]]), 0, buffers, new Segments());
    expect(learnt).toEqual([0, 1, 2]);
    expect(translate(list([[3 * 4096, 8]]), 0, buffers, new Segments())).toBe(R_LOCAL_ADDRESS);
  });
});

test("localOffset finds a byte of a split header", () => {
  const s = list([
    [0, 10],
    [0, 1],
    [0, 50],
  ]);
  s.off.set([100, 300, 500]);
  expect([0, 9, 10, 11, 60, 61].map((i) => localOffset(s, i))).toEqual([100, 109, 300, 500, 549, -1]);
});

test("dropFront removes whole and partial segments", () => {
  const s = list([
    [0xffff_fffe, 4],
    [0x5000, 8],
    [0x6000, 100],
  ]);
  s.off.set([1, 2, 3]);
  dropFront(s, 3);
  expect([s.count, s.total, s.hi[0], s.lo[0], s.len[0], s.off[0]]).toEqual([3, 109, 1, 1, 1, 4]);
  dropFront(s, 9);
  expect([s.count, s.total, s.lo[0], s.len[0]]).toEqual([1, 100, 0x6000, 100]);
});

test("cutOut takes bytes out of the middle, over borders and at the ends", () => {
  const make = (): Segments => {
    const s = new Segments();
    for (const [lo, hi, len] of [
      [0x1000, 1, 10],
      [-4, 2, 20],
      [0x3000, 3, 5],
    ] as const) {
      s.lo[s.count] = lo;
      s.hi[s.count] = hi;
      s.len[s.count] = len;
      s.off[s.count] = 100 * s.count;
      s.count++;
      s.total += len;
    }
    return s;
  };
  const rows = (s: Segments): number[][] =>
    Array.from({ length: s.count }, (_, i) => [s.lo[i]!, s.hi[i]!, s.len[i]!, s.off[i]!]);
  const inside = make();
  cutOut(inside, 4, 3);
  expect(rows(inside)).toEqual([
    [0x1000, 1, 4, 0],
    [0x1007, 1, 3, 7],
    [-4, 2, 20, 100],
    [0x3000, 3, 5, 200],
  ]);
  expect(inside.total).toBe(32);
  const border = make();
  cutOut(border, 8, 10); // the second segment is entered by 8 bytes, its address wraps into the high word
  expect(rows(border)).toEqual([
    [0x1000, 1, 8, 0],
    [4, 3, 12, 108],
    [0x3000, 3, 5, 200],
  ]);
  const whole = make();
  cutOut(whole, 10, 20);
  expect(rows(whole)).toEqual([
    [0x1000, 1, 10, 0],
    [0x3000, 3, 5, 200],
  ]);
  const front = make();
  cutOut(front, 0, 12);
  expect(rows(front)).toEqual([
    [-2, 2, 18, 102],
    [0x3000, 3, 5, 200],
  ]);
  const end = make();
  cutOut(end, 30, 5);
  expect(rows(end)).toEqual([
    [0x1000, 1, 10, 0],
    [-4, 2, 20, 100],
  ]);
  expect(end.total).toBe(30);
});
