/** What a channel's upper address halves hold between single transfers: learnt by reading, never assumed. */
import { expect, test } from "bun:test";
import { UpperHalf } from "../../src/hw/edma-upper.ts";
import type { Mmio } from "../../src/hw/mmio.ts";

const OFF = 0x310;

/** One register. */
class Register implements Mmio {
  readonly size = 0x1200;
  value = 0;
  stores = 0;
  loads = 0;
  ld32(off: number): number {
    expect(off).toBe(OFF);
    this.loads++;
    return this.value >>> 0;
  }
  st32(off: number, value: number): void {
    expect(off).toBe(OFF);
    this.stores++;
    this.value = value | 0;
  }
  ld8 = this.ld32;
  ld16 = this.ld32;
  st8 = this.st32;
  st16 = this.st32;
}

/** `n` transfers of 16 bytes at `half`. @returns stores and loads that they took */
function transfers(
  io: Register,
  u: UpperHalf,
  n: number,
  half: number,
  end: (v: number) => number = (v) => v,
): number[] {
  const before = [io.stores, io.loads];
  for (let i = 0; i < n; i++) {
    u.set(half);
    expect(io.value).toBe(half);
    io.value = end(io.value);
    u.moved(0x1000, 16);
  }
  return [io.stores - before[0]!, io.loads - before[1]!];
}

test("a half that four readings found unchanged is not written again; another one is, and has to be seen to stay, too", () => {
  const io = new Register();
  const u = new UpperHalf(io, OFF);
  expect(transfers(io, u, 4, -5)).toEqual([4, 4]);
  expect(transfers(io, u, 10, -5)).toEqual([0, 0]);
  expect(transfers(io, u, 4, 7)).toEqual([4, 4]);
  expect(transfers(io, u, 10, 7)).toEqual([0, 0]);
});

test("a core that loses it: written every time, and not asked again", () => {
  const io = new Register();
  const u = new UpperHalf(io, OFF);
  expect(transfers(io, u, 20, 3, () => 0)).toEqual([20, 1]);
  // 0 looks as if it stayed, and is right where 0 is wanted; it says nothing of another value
  const zero = new Register();
  const z = new UpperHalf(zero, OFF);
  transfers(zero, z, 10, 0, () => 0);
  expect(transfers(zero, z, 20, 3, () => 0)).toEqual([20, 1]);
  // nor is it believed any more once another one was lost
  expect(transfers(zero, z, 5, 0, () => 0)).toEqual([5, 0]);
});

test("a transfer across 4 GiB, or anything else in the registers: written", () => {
  const io = new Register();
  const u = new UpperHalf(io, OFF);
  transfers(io, u, 6, 9);
  u.set(9);
  io.value = 10;
  u.moved(0xffff_fff0 | 0, 16);
  expect(transfers(io, u, 1, 9)).toEqual([1, 0]);
  expect(transfers(io, u, 1, 9)).toEqual([0, 0]);
  // up to the last byte below the border it stays
  u.set(9);
  u.moved(0xffff_ff00 | 0, 0xff);
  expect(transfers(io, u, 1, 9)).toEqual([0, 0]);
  u.forget();
  io.value = 77;
  expect(transfers(io, u, 1, 9)).toEqual([1, 0]);
});

test("halves in turn: readings come to an end", () => {
  const io = new Register();
  const u = new UpperHalf(io, OFF);
  for (let i = 0; i < 200; i++) transfers(io, u, 1, i & 1);
  expect(io.loads).toBe(64);
  expect(transfers(io, u, 10, 1)).toEqual([10, 0]);
});
