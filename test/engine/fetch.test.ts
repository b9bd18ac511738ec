/** Where copies of ring words go: regions at any bus address, in any order. */
import { expect, test } from "bun:test";
import { EdmaFetcher } from "../../src/engine/fetch.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import { NoteChannel } from "../support/slow-fetcher.ts";

const at = (bus: number): DmaRegion => ({ bus }) as DmaRegion;

test("every copy goes to its region, across a boundary of 4 GiB too", () => {
  const ch = new NoteChannel();
  const via = new EdmaFetcher(ch);
  const regions = [at(0x4_ffff_ff00), at(0x1000), at(0x7fff_ff00), at(0x2f_8000_0000)];
  const wanted: number[] = [];
  for (let i = 0; i < 200; i++) {
    const to = regions[((i * i) >> 2) & 3]!;
    const off = (i % 9) * 64;
    via.put(16, 0, 0, to, off);
    wanted.push(to.bus + off);
  }
  expect(ch.puts.map((p) => p.dar)).toEqual(wanted);
});

test("a copy that is prepared goes there too", () => {
  const armed: number[][] = [];
  const ch = Object.assign(new NoteChannel(), { arm: (...words: number[]) => armed.push(words) > 0 });
  const via = new EdmaFetcher(ch);
  const wanted: number[][] = [];
  for (const bus of [0x4_ffff_ff00, 0x1000, 0x7fff_ff00, 0x2f_8000_0000])
    for (let off = 0; off < 512; off += 128) {
      expect(via.arm(16, 5, 6, at(bus), off)).toBe(true);
      wanted.push([16, 5, 6, (bus + off) | 0, Math.floor((bus + off) / 2 ** 32)]);
    }
  expect(armed).toEqual(wanted);
});
