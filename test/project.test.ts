/** The project itself: exact versions, a lock file that agrees, and what the README names exists. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const root = resolve(import.meta.dir, "..");
const read = (file: string): string => readFileSync(join(root, file), "utf8");
const pack = JSON.parse(read("package.json")) as {
  scripts: Record<string, string>;
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
};

test("every dependency is an exact version, and the lock file and the installed package have it", () => {
  const lock = read("bun.lock");
  const pins = Object.entries({ ...pack.dependencies, ...pack.devDependencies });
  expect(pins.length).toBeGreaterThan(5);
  for (const [name, version] of pins) {
    expect([name, version]).toEqual([name, expect.stringMatching(/^\d+\.\d+\.\d+$/)]);
    expect([name, lock.includes(`"${name}": ["${name}@${version}"`)]).toEqual([name, true]);
    const installed = JSON.parse(read(`node_modules/${name}/package.json`)) as { version: string };
    expect([name, installed.version]).toEqual([name, version]);
  }
  expect(pack.devDependencies.bun).toBe(Bun.version);
});

test("the README's two commands use the pinned bun, and its files and scripts exist", () => {
  const readme = read("README.md");
  for (const script of ["demo", "test"]) {
    expect(readme).toContain(`npx -y bun@${pack.devDependencies.bun} run ${script}`);
    expect(pack.scripts[script]).toContain("--frozen-lockfile");
  }
  expect(read(".ci/run")).toContain(`npx -y bun@${pack.devDependencies.bun} run test`);
  const links = [...readme.matchAll(/\]\(([\w./-]+)\)/g)].map((m) => m[1]!);
  expect(links.length).toBeGreaterThan(5);
  const named = [...readme.matchAll(/`((?:src|fixtures|test|docs)\/[\w./-]*)`/g)].map((m) => m[1]!);
  for (const file of [...links, ...named]) expect([file, existsSync(join(root, file))]).toEqual([file, true]);
});
