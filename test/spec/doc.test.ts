/** docs/spec.md and the tests of this folder name each other. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const HERE = import.meta.dir;
const doc = readFileSync(join(HERE, "../../docs/spec.md"), "utf8");
/** names in backticks that begin with a section number */
const named = [...doc.matchAll(/`(\d+(?:\.\d+)+ [^`]*)`/g)].map((m) => m[1]!);
/** test names; what is filled in stands as … */
const tests = readdirSync(HERE)
  .filter((f) => f.endsWith(".test.ts") && f !== "doc.test.ts")
  .flatMap((f) =>
    [...readFileSync(join(HERE, f), "utf8").matchAll(/\btest\(\s*(?:"((?:[^"\\]|\\.)*)"|`([^`]*)`)/g)].map(
      (m) => m[1] ?? m[2]!.replace(/\$\{[^}]*\}/g, "…"),
    ),
  );

test("docs/spec.md names only tests that are there", () => {
  expect(named.length).toBeGreaterThan(60);
  const missing = named.filter((n) => !tests.includes(n));
  expect(missing).toEqual([]);
});

test("every test of test/spec is in docs/spec.md and begins with its section", () => {
  expect(tests.length).toBeGreaterThan(80);
  expect(tests.filter((t) => !/^\d+(\.\d+)+ /.test(t))).toEqual([]);
  const missing = tests.filter((t) => !named.includes(t));
  expect(missing).toEqual([]);
});
