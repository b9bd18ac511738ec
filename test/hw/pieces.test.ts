/** Pairing two lists of pieces into elements: by put() alone, and as the list of an eDMA channel does it. */
import { describe, expect, test } from "bun:test";
import { ChunkMemory } from "../../src/hw/dma-chunk.ts";
import { CTL_CB, CTL_LIE, CTL_LLP, LL_BYTES, LL_WORDS } from "../../src/hw/edma.regs.ts";
import { EdmaList } from "../../src/hw/edma-list.ts";
import { mapAnonymous } from "../../src/hw/mem.ts";
import { Random } from "../../src/hw/model/random.ts";
import { PIECE_WORDS, putEach } from "../../src/hw/pieces.ts";

interface Element {
  size: number;
  sar: number;
  dar: number;
}
type Parts = [addr: number, len: number][];

const word = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);

function rows(parts: Parts): Int32Array {
  const out = new Int32Array((parts.length + 1) * PIECE_WORDS);
  for (const [i, [addr, len]] of parts.entries())
    out.set([addr | 0, Math.floor(addr / 2 ** 32), len, 77], i * PIECE_WORDS);
  return out;
}

/** Something that pairs; tells what came out. */
type Pairer = (src: Parts, dst: Parts, bytes: number) => { count: number; elements: Element[] };

function byPut(): Pairer {
  return (src, dst, bytes) => {
    const elements: Element[] = [];
    const put = (size: number, sl: number, sh: number, dl: number, dh: number): void => {
      elements.push({ size, sar: word(sl, sh), dar: word(dl, dh) });
    };
    return { count: putEach({ put }, rows(src), rows(dst), bytes), elements };
  };
}

/** A list read back as the engine would, cycle bit and link included. */
class ReadBack extends EdmaList {
  private at = 0;
  private ccs = 1;
  /** of the elements taken last, whether they raise the done status */
  raised: boolean[] = [];
  constructor(slots: number) {
    const bytes = slots * LL_BYTES;
    const memory = new ChunkMemory([{ ptr: mapAnonymous(8192), bus: 0x7_ffff_f000, size: 8192 }], "");
    super(memory.alloc("ll", bytes, 64));
    this.clear();
  }
  taken(): Element[] {
    const out: Element[] = [];
    const { i32 } = this.ll;
    this.raised = [];
    for (;;) {
      const ctl = i32[this.at]!;
      if ((ctl & CTL_LLP) !== 0) {
        if ((ctl & CTL_CB) === this.ccs) return out;
        this.ccs ^= 1;
        this.at = 0;
        continue;
      }
      if ((ctl & CTL_CB) !== this.ccs) return out;
      const w = this.at;
      this.raised.push((ctl & CTL_LIE) !== 0);
      out.push({
        size: i32[w + 1]!,
        sar: word(i32[w + 2]!, i32[w + 3]!),
        dar: word(i32[w + 4]!, i32[w + 5]!),
      });
      this.at += LL_WORDS;
    }
  }
  show(lie = false): boolean {
    return this.publish(lie);
  }
}

function byList(slots: number): Pairer {
  const list = new ReadBack(slots);
  return (src, dst, bytes) => {
    const before = list.putCount;
    const count = list.putPieces(rows(src), rows(dst), bytes);
    expect(list.putCount - before).toBe(count);
    expect(list.taken()).toEqual([]);
    expect(list.show()).toBe(true);
    return { count, elements: list.taken() };
  };
}

/** The byte-by-byte pairing that every pairer must equal. */
function naive(src: Parts, dst: Parts, bytes: number): [number, number][] {
  const flat = (parts: Parts): number[] => parts.flatMap(([a, n]) => Array.from({ length: n }, (_, i) => a + i));
  const s = flat(src);
  const d = flat(dst);
  return Array.from({ length: bytes }, (_, i) => [s[i]!, d[i]!]);
}

describe.each([
  ["put() alone", byPut],
  ["a list that never wraps here", () => byList(300)],
  ["a list of 13 slots", () => byList(13)],
] as const)("%s", (name, make) => {
  test("one piece each: one element", () => {
    expect(make()([[0x1000, 100]], [[0x2000, 2048]], 100)).toEqual({
      count: 1,
      elements: [{ size: 100, sar: 0x1000, dar: 0x2000 }],
    });
  });

  test("addresses carry from the low into the high word on both sides", () => {
    const dst: Parts = [
      [0x1_ffff_fffc, 8],
      [0x10, 4],
      [0x3_ffff_ffff, 99],
    ];
    expect(make()([[0xffff_fff8, 32]], dst, 32).elements).toEqual([
      { size: 8, sar: 0xffff_fff8, dar: 0x1_ffff_fffc },
      { size: 4, sar: 0x1_0000_0000, dar: 0x10 },
      { size: 20, sar: 0x1_0000_0004, dar: 0x3_ffff_ffff },
    ]);
  });

  test("random pairs equal the byte-by-byte pairing, with the fewest elements", () => {
    const r = new Random(7);
    let pair = make();
    for (let n = 0; n < 10_000; n++) {
      if (name.includes("never") && n % 30 === 0) pair = make();
      const parts = (): Parts =>
        Array.from({ length: 1 + r.below(5) }, () => [
          r.below(4) * 2 ** 32 + 0xffff_ffc0 + r.below(128),
          1 + r.below(40),
        ]);
      const src = parts();
      const dst = parts();
      const total = (p: Parts): number => p.reduce((a, [, l]) => a + l, 0);
      const bytes = 1 + r.below(Math.min(total(src), total(dst)));
      const { count, elements } = pair(src, dst, bytes);
      expect(count).toBe(elements.length);
      const got = elements.flatMap((e) => Array.from({ length: e.size }, (_, i) => [e.sar + i, e.dar + i]));
      expect(got as [number, number][]).toEqual(naive(src, dst, bytes));
      expect(count).toBeLessThanOrEqual(src.length + dst.length - 1);
    }
  });
});

test("put() and putPieces() of one commit follow each other, and only the last element raises the done status", () => {
  const list = new ReadBack(20);
  list.put(7, 1, 2, 3, 4);
  list.putPieces(
    rows([[0x100, 30]]),
    rows([
      [0x200, 10],
      [0x300, 20],
    ]),
    30,
  );
  list.put(9, 5, 6, 7, 8);
  expect(list.show(true)).toBe(true);
  expect(list.taken().map((e) => e.size)).toEqual([7, 10, 20, 9]);
  expect(list.raised).toEqual([false, false, false, true]);
  expect(list.show()).toBe(false);
});

test("around a small list: whatever ends a commit raises the done status, in the last slot too, and nothing else does", () => {
  for (const slots of [4, 5, 8]) {
    const list = new ReadBack(slots);
    const r = new Random(slots);
    for (let i = 0; i < 500; i++) {
      const most = 1 + r.below(list.capacity);
      const lie = r.chance(0.8);
      let n = 0;
      while (n < most) {
        const k = 1 + r.below(most - n);
        const parts: Parts = Array.from({ length: k }, (_, j) => [0x1000 * j, 10]);
        if (r.chance(0.5)) n += list.putPieces(rows([[0x9000, 10 * k]]), rows(parts), 10 * k);
        else {
          list.put(10, 0x9000, 0, 0x1000, 0);
          n++;
        }
      }
      expect(list.taken()).toEqual([]);
      expect(list.show(lie)).toBe(true);
      expect(list.taken().length).toBe(n);
      expect(list.raised).toEqual(Array.from({ length: n }, (_, j) => lie && j === n - 1));
    }
  }
});

test("the count of a list goes on through the largest int32", () => {
  const list = new ReadBack(20);
  list.putCount = 0x7fff_fffe;
  const three: Parts = [1, 2, 3].map((i) => [0x1000 * i, 10]);
  expect(list.putPieces(rows(three), rows([[0x9000, 30]]), 30)).toBe(3);
  expect(list.putCount).toBe(-0x7fff_ffff);
});
