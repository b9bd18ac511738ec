/** Single behaviours of the legacy function over plain memory: page numbers, layouts, refusals, hints. */
import { afterEach, describe, expect, test } from "bun:test";
import { FN_DOWN, FN_REFUSED, FN_UP } from "../../../src/engine/function/host-function.ts";
import { ld8, ld16, ld32, st16, st32 } from "../../../src/hw/mem.ts";
import { MAC, make, type FunctionRig as Rig, releaseFunctions, rings } from "./function-rig.ts";

afterEach(releaseFunctions);

describe("legacy", () => {
  const MAC_AT = (bar: number, off: number): number[] => Array.from({ length: 6 }, (_, i) => ld8(bar + off + i));

  function bind(r: Rig, a: number, b: number, accepted = 0x9821): void {
    r.w(0x12, 1, 0);
    r.w(0x12, 1, 1);
    r.w(0x12, 1, 3);
    r.w(0x04, 4, accepted);
    for (const [k, pfn] of [a, b].entries()) {
      r.w(0x0e, 2, k);
      expect(ld32(r.bar + 8)).toBe(0);
      r.w(0x08, 4, pfn);
    }
    r.w(0x12, 1, 7);
  }

  test("rings of a page number; header by the accepted word", () => {
    for (const [accepted, hdr] of [
      [0x9821, 12],
      [0x1821, 10],
    ] as const) {
      const r = make("legacy", 0x19821);
      bind(r, 0x100, 0xfffff000, accepted);
      expect(r.seen).toEqual([FN_UP]);
      expect(rings(r.fn)).toEqual([
        [0x100000, 0x101000, 0x102000],
        [0xfffff000 * 4096, 0xfffff000 * 4096 + 0x1000, 0xfffff000 * 4096 + 0x2000],
      ]);
      expect([r.fn.hdrLen, r.fn.featuresLo]).toEqual([hdr, accepted]);
    }
  });

  test("the MAC moves with MSI-X Enable and the vector cells keep what the host wrote", () => {
    const r = make("legacy", 0x19821, true);
    expect(MAC_AT(r.bar, 0x14)).toEqual([...MAC]);
    r.config.msixOn = true;
    r.poll();
    expect(MAC_AT(r.bar, 0x18)).toEqual([...MAC]);
    r.w(0x14, 2, 0);
    r.w(0x16, 2, 0xffff);
    expect([ld16(r.bar + 0x14), ld16(r.bar + 0x16)]).toEqual([0, 0xffff]);
    r.config.msixOn = false;
    r.poll();
    expect(MAC_AT(r.bar, 0x14)).toEqual([...MAC]);
    r.fn.setLink(true);
    expect(ld16(r.bar + 0x1a)).toBe(1);
  });

  test("refused: same page, overlap, one queue, a bit that was not offered, queue_select elsewhere; then served", () => {
    const r = make("legacy", 0x19821);
    bind(r, 0x100, 0x100);
    expect(r.fn.lastRefusal).toMatch(/queue 0 \(page 0x100\) and queue 1 \(page 0x100\) overlap at queue size 256/);
    bind(r, 0x100, 0x102);
    expect(r.fn.lastRefusal).toMatch(/overlap/);
    bind(r, 0x100, 0);
    expect(r.fn.lastRefusal).toMatch(/only one queue address was seen \(page 0x100\)/);
    bind(r, 0, 0);
    expect(r.fn.lastRefusal).toMatch(/no queue address was seen/);
    bind(r, 0x100, 0x200, 0x80009821 | 0);
    expect(r.fn.lastRefusal).toMatch(/accepted features 0x80009821, 0x19821 were offered/);
    r.w(0x12, 1, 0);
    for (const [
      off,
      size,
      v,
    ] of [[0x12, 1, 3], [0x0e, 2, 1], [8, 4, 0x200], [0x0e, 2, 0], [8, 4, 0x100], [0x12, 1, 7]] as const) // biome-ignore format: a script
      r.w(off, size, v);
    expect(r.fn.lastRefusal).toMatch(/queue_select rests at 0/);
    expect(r.seen.filter((e) => e === FN_REFUSED).length).toBe(6);
    bind(r, 0x100, 0x200);
    expect(r.fn.live).toBe(true);
    expect(r.fn.lastRefusal).toBe("");
  });

  test("a page number while live is a new life", () => {
    const r = make("legacy", 0x19821);
    bind(r, 0x100, 0x200);
    st32(r.bar + 8, 0x300);
    r.poll();
    expect(r.seen.slice(0, 2)).toEqual([FN_UP, FN_DOWN]);
    // the status never moved, so this is not a life that can be served
    expect(r.fn.live).toBe(false);
  });

  test("ISR rests at 1; the config bit is taken back after a while", () => {
    const r = make("legacy", 0x19821);
    bind(r, 0x100, 0x200, 0x19821);
    expect(ld8(r.bar + 0x13)).toBe(1);
    expect(r.fn.setLink(true)).toBe(1);
    expect(ld8(r.bar + 0x13)).toBe(3);
    for (let i = 0; i < 20000; i++) r.fn.poll();
    expect(ld8(r.bar + 0x13)).toBe(1);
  });

  test("notify hints", () => {
    const r = make("legacy", 0x19821);
    expect(r.fn.notifyHint(0)).toBe(-1);
    st16(r.bar + 0x10, 0);
    expect([r.fn.notifyHint(0), r.fn.notifyHint(1), r.fn.notifyHint(0)]).toEqual([0, 1, -1]);
  });
});
