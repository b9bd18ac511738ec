import { afterAll, describe, expect, test } from "bun:test";
import { Fault } from "../../../src/hw/fault.ts";
import { ld32, mapAnonymous, st32, unmap } from "../../../src/hw/mem.ts";
import { AddressSpace, REGION_READ, REGION_WRITE } from "../../../src/hw/model/address-space.ts";
import { GRANT_READ, GRANT_WRITE } from "../../../src/hw/model/shadow.ts";

const RW = REGION_READ | REGION_WRITE;
const PAGE = 4096;
const ptr = mapAnonymous(64 * PAGE);
afterAll(() => unmap(ptr, 64 * PAGE));

describe("address space", () => {
  test("resolves an address to the pointer behind it, and says how many bytes follow", () => {
    const s = new AddressSpace("t");
    s.add(0x1000, 2 * PAGE, ptr, RW);
    expect(s.resolve(0x1000, 16, false)).toBe(ptr);
    expect(s.run).toBe(16);
    expect(s.resolve(0x2ff0, 64, true)).toBe(ptr + 0x1ff0);
    expect(s.run).toBe(16);
    expect(s.resolve(0x3000, 1, false)).toBe(0);
    expect(s.run).toBe(0);
    expect(s.resolve(0xfff, 1, false)).toBe(0);
  });
  test("permissions of a region", () => {
    const s = new AddressSpace("t");
    s.add(0, PAGE, ptr, REGION_READ);
    s.add(PAGE, PAGE, ptr + PAGE, REGION_WRITE);
    expect(s.resolve(0, 4, true)).toBe(0);
    expect(s.resolve(0, 4, false)).toBe(ptr);
    expect(s.resolve(PAGE, 4, false)).toBe(0);
    expect(s.holds(PAGE)).toBe(true);
    expect(s.holds(2 * PAGE)).toBe(false);
  });
  test("thousands of scattered pages", () => {
    const s = new AddressSpace("t");
    const order = Array.from({ length: 64 }, (_, i) => (i * 37) % 64);
    for (const p of order) s.add(0x8000_0000 + p * 3 * PAGE, PAGE, ptr + p * PAGE, RW);
    for (let i = 0; i < 200_000; i++) {
      const p = (i * 29) % 64;
      const off = i % PAGE;
      const got = s.resolve(0x8000_0000 + p * 3 * PAGE + off, 8192, true);
      if (got !== ptr + p * PAGE + off || s.run !== PAGE - off) throw new Error(`page ${p} offset ${off}: ${got}`);
    }
    expect(s.count).toBe(64);
    expect(s.resolve(0x8000_0000 + PAGE, 1, false)).toBe(0);
  });
  test("a region larger than 4 GiB above 4 GiB", () => {
    const s = new AddressSpace("t");
    const base = 0x1_0000_0000;
    // nothing is touched far from the start, so only the arithmetic matters
    s.add(base, 8 * 2 ** 30, ptr, RW);
    expect(s.resolve(base + 5 * 2 ** 30 + 3, 2 ** 31, true)).toBe(ptr + 5 * 2 ** 30 + 3);
    expect(s.run).toBe(2 ** 31);
    expect(s.resolve(base + 8 * 2 ** 30 - 1, 9, true)).toBe(ptr + 8 * 2 ** 30 - 1);
    expect(s.run).toBe(1);
  });
  test("removing a range cuts regions, as QEMU does with PAM pieces, and voids the cache", () => {
    const s = new AddressSpace("t");
    s.add(0, 8 * PAGE, ptr, RW);
    expect(s.resolve(2 * PAGE, 4, false)).toBe(ptr + 2 * PAGE);
    const g = s.generation;
    s.remove(2 * PAGE, PAGE);
    expect(s.generation).not.toBe(g);
    expect(s.resolve(2 * PAGE, 4, false)).toBe(0);
    expect(s.resolve(PAGE, 8 * PAGE, false)).toBe(ptr + PAGE);
    expect(s.run).toBe(PAGE);
    expect(s.resolve(3 * PAGE + 5, 1, false)).toBe(ptr + 3 * PAGE + 5);
    s.add(2 * PAGE, PAGE, ptr + 40 * PAGE, REGION_READ);
    expect(s.resolve(2 * PAGE, 4, false)).toBe(ptr + 40 * PAGE);
    s.remove(0, 100 * PAGE);
    expect(s.count).toBe(0);
  });
  test("an overlap is refused with both ranges", () => {
    const s = new AddressSpace("t");
    s.add(0x1000, PAGE, ptr, RW);
    expect(() => s.add(0x1fff, 1, ptr, RW)).toThrow(Fault);
    expect(() => s.add(0x800, 0x801, ptr, RW)).toThrow(/0x800-0x1001 overlaps 0x1000-0x2000/);
    s.add(0x2000, PAGE, ptr, RW);
    s.add(0x0, 0x1000, ptr, RW);
    expect(s.count).toBe(3);
  });
});

describe("strict mode", () => {
  test("byte-exact: one byte too many on either end is found", () => {
    const s = new AddressSpace("t", { strict: true });
    s.add(0x1000, 16 * PAGE, ptr, RW);
    const m = s.shadow!;
    expect(m.check(0x1000, 1, false)).toBe(false);
    m.grant(0x1803, 1501, GRANT_READ);
    expect(m.check(0x1803, 1501, false)).toBe(true);
    expect(m.check(0x1803, 1502, false)).toBe(false);
    expect(m.badAddr).toBe(0x1803 + 1501);
    expect(m.check(0x1802, 10, false)).toBe(false);
    expect(m.badAddr).toBe(0x1802);
    expect(m.check(0x1803, 1, true)).toBe(false);
    m.grant(0x1900, 4, GRANT_WRITE);
    expect(m.check(0x1803, 1501, false)).toBe(false);
    expect(m.badAddr).toBe(0x1900);
    m.revoke(0x1000, PAGE);
    expect(m.check(0x1900, 1, true)).toBe(false);
  });
  test("ranges over several regions and over the compare area", () => {
    const s = new AddressSpace("t", { strict: true });
    s.add(0, 32 * PAGE, ptr, RW);
    s.add(32 * PAGE, 8 * PAGE, ptr + 32 * PAGE, RW);
    s.shadow!.grant(0, 40 * PAGE, GRANT_READ | GRANT_WRITE);
    expect(s.shadow!.check(0, 40 * PAGE, true)).toBe(true);
    expect(s.shadow!.check(0, 40 * PAGE + 1, true)).toBe(false);
    expect(s.shadow!.badAddr).toBe(40 * PAGE);
    s.shadow!.revoke(20 * PAGE + 7, 1);
    expect(s.shadow!.check(0, 40 * PAGE, true)).toBe(false);
    expect(s.shadow!.badAddr).toBe(20 * PAGE + 7);
    expect(() => s.shadow!.grant(39 * PAGE, 2 * PAGE, GRANT_READ)).toThrow(/leaves the memory/);
  });
  test("what is left of a cut region keeps its grants, a new region has none", () => {
    const s = new AddressSpace("t", { strict: true });
    s.add(0, 8 * PAGE, ptr, RW);
    s.shadow!.grant(0, 8 * PAGE, GRANT_READ);
    s.shadow!.grant(5 * PAGE, PAGE, GRANT_READ | GRANT_WRITE);
    s.remove(2 * PAGE, PAGE);
    s.add(2 * PAGE, PAGE, ptr, RW);
    expect(s.shadow!.check(0, 2 * PAGE, false)).toBe(true);
    expect(s.shadow!.check(3 * PAGE, 5 * PAGE, false)).toBe(true);
    expect([4, 5, 6].map((p) => s.shadow!.check(p * PAGE, PAGE, true))).toEqual([false, true, false]);
    expect(s.shadow!.check(2 * PAGE, 1, false)).toBe(false);
    st32(ptr, 0x1234);
    expect(ld32(ptr)).toBe(0x1234);
  });
});
