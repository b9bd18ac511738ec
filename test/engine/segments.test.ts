import { describe, expect, test } from "bun:test";
import { R_LOCAL_ADDRESS } from "../../src/engine/codes.ts";
import { cutOut, localOffset, PIECE_OFF, Segments, translate } from "../../src/engine/segments.ts";
import type { LocalBuffers } from "../../src/hw/net-port.ts";
import { PIECE_WORDS } from "../../src/hw/pieces.ts";

function list(parts: [number, number][]): Segments {
  const s = new Segments();
  for (const [addr, len] of parts) {
    s.append(addr | 0, Math.floor(addr / 2 ** 32), len);
  }
  return s;
}

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
    expect([out.hi(0), out.lo(0) >>> 0, out.len(0), out.off(0)]).toEqual([3, 0x80, 64, 0x100]);
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
    const rows = Array.from({ length: out.count }, (_, i) => [out.hi(i), out.lo(i) >>> 0, out.len(i), out.off(i)]);
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
  for (const [i, off] of [100, 300, 500].entries()) s.rows[i * PIECE_WORDS + PIECE_OFF] = off;
  expect([0, 9, 10, 11, 60, 61].map((i) => localOffset(s, i))).toEqual([100, 109, 300, 500, 549, -1]);
});

test("cutOut at the front removes whole and partial segments", () => {
  const s = list([
    [0xffff_fffe, 4],
    [0x5000, 8],
    [0x6000, 100],
  ]);
  for (const i of [0, 1, 2]) s.rows[i * PIECE_WORDS + PIECE_OFF] = i + 1;
  cutOut(s, 0, 3);
  expect([s.count, s.total, s.hi(0), s.lo(0), s.len(0), s.off(0)]).toEqual([3, 109, 1, 1, 1, 4]);
  cutOut(s, 0, 9);
  expect([s.count, s.total, s.lo(0), s.len(0)]).toEqual([1, 100, 0x6000, 100]);
});

test("cutOut takes bytes out of the middle, over borders and at the ends", () => {
  const make = (): Segments => {
    const s = new Segments();
    for (const [lo, hi, len] of [
      [0x1000, 1, 10],
      [-4, 2, 20],
      [0x3000, 3, 5],
    ] as const) {
      s.rows[s.count * PIECE_WORDS + PIECE_OFF] = 100 * s.count;
      s.append(lo, hi, len);
    }
    return s;
  };
  const rows = (s: Segments): number[][] =>
    Array.from({ length: s.count }, (_, i) => [s.lo(i), s.hi(i), s.len(i), s.off(i)]);
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
