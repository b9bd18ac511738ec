import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { mapAnonymousHuge, pageBytes } from "../../src/hw/anon-huge.ts";
import { ld8, mapAnonymous, st8, unmap } from "../../src/hw/mem.ts";

const MIB = 1 << 20;
const THP = "/sys/kernel/mm/transparent_hugepage/enabled";

test("memory begins at 2 MiB, is zeroed, all of it can be used and given back; the size of its pages is told", () => {
  const size = 9 * MIB + 4096;
  const ptr = mapAnonymousHuge(size);
  expect(ptr % (2 * MIB)).toBe(0);
  for (let at = 0; at < size; at += 4096) {
    expect(ld8(ptr + at)).toBe(0);
    st8(ptr + at, 1);
  }
  const never = !existsSync(THP) || readFileSync(THP, "utf8").includes("[never]");
  // A kernel that has them may be out of them.
  expect(never ? [4096] : [4096, 2 * MIB]).toContain(pageBytes(ptr));
  unmap(ptr, size);
  expect(readFileSync("/proc/self/maps", "utf8")).not.toMatch(
    new RegExp(`^${ptr.toString(16).padStart(8, "0")}-`, "m"),
  );
});

test("a mapping too small for a hugepage is in pages of 4 KiB", () => {
  const ptr = mapAnonymous(65536);
  st8(ptr, 1);
  expect(pageBytes(ptr)).toBe(4096);
  unmap(ptr, 65536);
});
