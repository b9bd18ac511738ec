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

const edges = files.flatMap((file) => {
  const text = readFileSync(join(src, file), "utf8");
  const found = text.matchAll(/(?:from|import|import\(|require\()\s*\(?["'](\.[^"']+)["']/g);
  return [...found].map((m) => ({ file, target: relative(src, resolve(src, dirname(file), m[1]!)) }));
});

test("the scan sees the tree", () => {
  expect(files.length).toBeGreaterThan(20);
  expect(edges.length).toBeGreaterThan(50);
});

test("imports go down only", () => {
  const up = edges
    .filter(
      (e) =>
        e.target !== DOOR &&
        !e.target.startsWith("../package.json") &&
        !allowed[room(e.file)]!.includes(room(e.target)),
    )
    .map((e) => `${e.file} -> ${e.target}`);
  expect(up).toEqual([]);
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
