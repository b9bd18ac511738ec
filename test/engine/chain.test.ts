import { describe, expect, test } from "bun:test";
import { INDIRECT, walk, walkIndirect, walkPlain } from "../../src/engine/chain.ts";
import {
  R_CHAIN_TOO_LONG,
  R_DESC_DIRECTION,
  R_DESC_INDEX,
  R_DESC_LENGTH,
  R_DESC_LOOP,
  R_INDIRECT,
} from "../../src/engine/codes.ts";
import { MAX_SEGMENTS, Segments } from "../../src/engine/segments.ts";
import { Random } from "../../src/hw/model/random.ts";

const NEXT = 1;
const WRITE = 2;
const IND = 4;

/** A table of `size` descriptors from [addr, len, flags, next] rows by index. */
function table(size: number, rows: Record<number, [number, number, number, number]>): Int32Array {
  const t = new Int32Array(size * 4);
  for (const [i, [addr, len, flags, next]] of Object.entries(rows)) {
    const w = Number(i) * 4;
    t[w] = addr | 0;
    t[w + 1] = Math.floor(addr / 2 ** 32);
    t[w + 2] = len;
    t[w + 3] = flags | (next << 16);
  }
  return t;
}

describe("walk", () => {
  test("collects a chain in order, with 64-bit addresses", () => {
    const t = table(8, { 3: [0x1_8000_0010, 12, NEXT, 7], 7: [0xffff_f000, 100, NEXT, 0], 0: [0x20, 1, 0, 5] });
    const out = new Segments();
    expect(walk(t, 0, 8, 3, 0, out)).toBe(0);
    expect(out.count).toBe(3);
    expect(out.total).toBe(113);
    expect([0, 1, 2].map((i) => [out.hi(i), out.lo(i) >>> 0, out.len(i)])).toEqual([
      [1, 0x8000_0010, 12],
      [0, 0xffff_f000, 100],
      [0, 0x20, 1],
    ]);
  });

  test("a chain may use every descriptor of the table, one more link is a loop", () => {
    const rows: Record<number, [number, number, number, number]> = {};
    for (let i = 0; i < 8; i++) rows[i] = [i * 64, 8, i < 7 ? NEXT : 0, i + 1];
    const out = new Segments();
    expect(walk(table(8, rows), 0, 8, 0, 0, out)).toBe(0);
    expect(out.count).toBe(8);
    rows[7] = [0, 8, NEXT, 0];
    out.clear();
    expect(walk(table(8, rows), 0, 8, 0, 0, out)).toBe(R_DESC_LOOP);
    expect([out.a, out.b]).toEqual([0, 8]);
  });

  test("a descriptor that points at itself is a loop", () => {
    const out = new Segments();
    expect(walk(table(4, { 2: [0, 4, NEXT, 2] }), 0, 4, 2, 0, out)).toBe(R_DESC_LOOP);
  });

  test("head or next outside the table", () => {
    const out = new Segments();
    expect(walk(table(4, {}), 0, 4, 4, 0, out)).toBe(R_DESC_INDEX);
    expect([out.a, out.b]).toEqual([4, 4]);
    expect(walk(table(4, { 0: [0, 4, NEXT, 60000] }), 0, 4, 0, 0, out)).toBe(R_DESC_INDEX);
    expect([out.a, out.b]).toEqual([60000, 4]);
  });

  test("wrong direction either way", () => {
    const out = new Segments();
    expect(walk(table(4, { 0: [0, 4, WRITE, 0] }), 0, 4, 0, 0, out)).toBe(R_DESC_DIRECTION);
    expect(walk(table(4, { 1: [0, 4, 0, 0] }), 0, 4, 1, WRITE, out)).toBe(R_DESC_DIRECTION);
  });

  test("length 0 and lengths of 2 GiB and more", () => {
    const out = new Segments();
    expect(walk(table(4, { 0: [0, 0, 0, 0] }), 0, 4, 0, 0, out)).toBe(R_DESC_LENGTH);
    expect(walk(table(4, { 0: [0, 0x8000_0000 | 0, 0, 0] }), 0, 4, 0, 0, out)).toBe(R_DESC_LENGTH);
    expect(out.b >>> 0).toBe(0x8000_0000);
  });

  test("more segments than a frame may have", () => {
    const n = MAX_SEGMENTS * 2;
    const rows: Record<number, [number, number, number, number]> = {};
    for (let i = 0; i < n; i++) rows[i] = [i, 1, i < n - 1 ? NEXT : 0, i + 1];
    const out = new Segments();
    expect(walk(table(n, rows), 0, n, 0, 0, out)).toBe(R_CHAIN_TOO_LONG);
    expect(out.count).toBe(0);
  });

  test("appends behind what is there, and leaves count alone on an error", () => {
    const t = table(4, { 0: [0x100, 10, 0, 0], 1: [0x200, 20, NEXT, 9] });
    const out = new Segments();
    walk(t, 0, 4, 0, 0, out);
    expect(walk(t, 0, 4, 1, 0, out)).toBe(R_DESC_INDEX);
    expect([out.count, out.total]).toEqual([1, 10]);
  });
});

describe("walkPlain", () => {
  /** Both from behind one segment. @returns whether walkPlain() took it */
  const agree = (t: Int32Array, size: number, head: number, write: number): boolean => {
    const [long, short] = [new Segments(), new Segments()];
    for (const out of [long, short]) out.append(1, 2, 3);
    const rc = walk(t, 0, size, head, write, long);
    const took = walkPlain(t, size - 1, head, write, short);
    expect(took).toBe(rc === 0);
    expect([short.count, short.total]).toEqual(took ? [long.count, long.total] : [1, 3]);
    if (took) expect(short.rows.subarray(0, short.count * 4)).toEqual(long.rows.subarray(0, long.count * 4));
    return took;
  };

  test("takes what walk() finds right, with the same segments, and nothing else", () => {
    const r = new Random(7);
    let took = 0;
    for (let n = 0; n < 20_000; n++) {
      const write = r.chance(0.5) ? WRITE : 0;
      const t = new Int32Array(8 * 4);
      for (let i = 0; i < 8; i++) {
        const odd = r.chance(0.05) ? [WRITE, IND, WRITE | IND, 8][r.below(4)]! : 0;
        const len = r.chance(0.05) ? [0, -1, -2147483648][r.below(3)]! : 1 + r.below(0x7fffffff);
        const next = r.chance(0.05) ? [8, 0xffff, i][r.below(3)]! : r.below(8);
        t.set(
          [r.below(2 ** 32) | 0, r.below(2 ** 32) | 0, len, (write ^ odd) | (r.chance(0.6) ? NEXT : 0) | (next << 16)],
          4 * i,
        );
      }
      if (agree(t, 8, r.chance(0.02) ? 8 : r.below(8), write)) took++;
    }
    expect(took).toBeGreaterThan(5000);
    expect(took).toBeLessThan(15_000);
  });

  test("as many segments as fit behind what is there, and not one more", () => {
    for (const [links, taken] of [
      [MAX_SEGMENTS - 1, true],
      [MAX_SEGMENTS, false],
    ] as const) {
      const rows: Record<number, [number, number, number, number]> = {};
      for (let i = 0; i < links; i++) rows[i] = [i, 1, i < links - 1 ? NEXT : 0, i + 1];
      expect(agree(table(1024, rows), 1024, 0, 0)).toBe(taken);
    }
  });
});

describe("indirect tables (2.7.5.3)", () => {
  test("the main table hands over to the indirect one", () => {
    const main = table(4, { 1: [0x5000, 32, IND, 0] });
    const out = new Segments();
    expect(walk(main, 0, 4, 1, 0, out)).toBe(INDIRECT);
    expect([out.lo(0), out.len(0), out.count]).toEqual([0x5000, 32, 0]);
    const t = table(2, { 0: [0x9000, 12, NEXT, 1], 1: [0xa000, 64, 0, 0] });
    expect(walkIndirect(t, 0, 32, 64, 1, 0, out)).toBe(0);
    expect([out.count, out.total]).toEqual([2, 76]);
  });

  test("length not a multiple of 16, empty, or more than is present", () => {
    const t = table(2, { 0: [0, 1, 0, 0] });
    for (const bytes of [0, 8, 24, 48]) {
      const out = new Segments();
      expect(walkIndirect(t, 0, bytes, 32, 5, 0, out)).toBe(R_INDIRECT);
      expect([out.a, out.b]).toEqual([5, bytes]);
    }
  });

  test("nested tables, and INDIRECT together with NEXT", () => {
    const out = new Segments();
    expect(walkIndirect(table(1, { 0: [0, 16, IND, 0] }), 0, 16, 16, 0, 0, out)).toBe(R_INDIRECT);
    expect(walk(table(2, { 0: [0, 16, IND | NEXT, 1], 1: [0, 16, 0, 0] }), 0, 2, 0, 0, out)).toBe(R_INDIRECT);
  });

  test("normal descriptors in front of the indirect one (2.7.5.3.2), whose WRITE flag says nothing", () => {
    const out = new Segments();
    const main = table(2, { 0: [0x100, 12, NEXT, 1], 1: [0x5000, 32, IND | WRITE, 0] });
    expect(walk(main, 0, 2, 0, 0, out)).toBe(INDIRECT);
    expect([out.count, out.total, out.lo(1), out.len(1)]).toEqual([1, 12, 0x5000, 32]);
    expect(walkIndirect(table(2, { 0: [0x9000, 64, NEXT, 1], 1: [0xa000, 8, 0, 0] }), 0, 32, 32, 0, 0, out)).toBe(0);
    expect([out.count, out.total]).toEqual([3, 84]);
  });

  test("indices inside an indirect table count in that table", () => {
    const out = new Segments();
    expect(walkIndirect(table(2, { 0: [0, 1, NEXT, 2] }), 0, 32, 32, 0, 0, out)).toBe(R_DESC_INDEX);
    expect([out.a, out.b]).toEqual([2, 2]);
  });
});
