/** Imports go cmd -> engine -> hw only, and nothing outside src/hw/model imports the model but its one door. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const src = resolve(import.meta.dir, "../src");
const files = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((f) => f.endsWith(".ts"));

const room = (file: string): "main" | "cmd" | "engine" | "hw" | "model" => {
  if (file.startsWith("hw/model/")) return "model";
  const top = file.split("/")[0];
  return top === "cmd" || top === "engine" || top === "hw" ? top : "main";
};

/** room -> rooms it may import from */
const allowed: Record<string, string[]> = {
  main: ["main", "cmd", "engine", "hw"],
  cmd: ["cmd", "engine", "hw"],
  engine: ["engine", "hw"],
  hw: ["hw"],
  model: ["model", "hw"],
};
/** the door to the model */
const DOOR = "hw/model/open-model.ts";

interface Edge {
  file: string;
  target: string;
}

/** Every relative module that a file names, in whatever way: import, export from, import(), a Worker's URL. */
function edgesOf(file: string, text: string): Edge[] {
  const found = text.matchAll(/\b(?:from|import|require|URL|Worker|resolve)\s*\(?\s*["'`](\.{1,2}\/[^"'`\s]+)["'`]/g);
  return [...found].map((m) => ({ file, target: relative(src, resolve(src, dirname(file), m[1]!)) }));
}

/** Edges that go up, or past the model's door. */
const upward = (edges: readonly Edge[]): string[] =>
  edges
    .filter((e) => !e.target.startsWith("../package.json"))
    .filter((e) => !(e.target === DOOR && room(e.file) !== "hw"))
    .filter((e) => !allowed[room(e.file)]!.includes(room(e.target)))
    .map((e) => `${e.file} -> ${e.target}`);

const edges = files.flatMap((file) => edgesOf(file, readFileSync(join(src, file), "utf8")));

test("the scan sees the tree", () => {
  expect(files.length).toBeGreaterThan(20);
  expect(edges.length).toBeGreaterThan(50);
});

test("imports go down only", () => {
  expect(upward(edges)).toEqual([]);
});

test("an upward import would be found, however it is written", () => {
  const found = (file: string, text: string) => upward(edgesOf(file, text)).length;
  for (const text of [
    'import { x } from "../engine/pairing.ts";',
    'import type { x } from "../engine/pairing.ts";',
    "import '../cmd/run.ts';",
    'export * from "../engine/pairing.ts";',
    'const m = await import("../engine/pairing.ts");',
    'new Worker(new URL("../engine/pairing.ts", import.meta.url));',
    "import.meta.resolve(`../engine/pairing.ts`);",
    'import { openModel } from "./model/open-model.ts";',
  ])
    expect([text, found("hw/x.ts", text)]).toEqual([text, 1]);
  expect(found("engine/x.ts", 'import { openModel } from "../hw/model/open-model.ts";')).toBe(0);
  expect(found("engine/x.ts", 'import { Link } from "../hw/model/link.ts";')).toBe(1);
  expect(found("engine/x.ts", 'import { run } from "../cmd/run.ts";')).toBe(1);
  expect(found("hw/model/x.ts", 'import { run } from "../../engine/run.ts";')).toBe(1);
  expect(found("cmd/x.ts", 'import { libc } from "../hw/libc.ts"; import p from "../../package.json";')).toBe(0);
});

test("commands do not import each other", () => {
  const sideways = edges
    .filter((e) => room(e.file) === "cmd" && room(e.target) === "cmd")
    .filter((e) => !e.target.split("/").pop()!.startsWith("_"))
    .map((e) => `${e.file} -> ${e.target}`);
  expect(sideways).toEqual([]);
});

test("bun:ffi stays in hw", () => {
  const outside = files.filter(
    (f) => room(f) !== "hw" && room(f) !== "model" && /["']bun:ffi["']/.test(readFileSync(join(src, f), "utf8")),
  );
  expect(outside).toEqual([]);
});
