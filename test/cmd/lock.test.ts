import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lock } from "../../src/cmd/_lock.ts";
import type { Fault } from "../../src/hw/fault.ts";
import { isRoot, REPO } from "./_cli.ts";

const dir = mkdtempSync(join(tmpdir(), "epnic-lock-"));
afterAll(() => rmSync(dir, { recursive: true }));

/** A process that holds the lock until it is killed. */
async function holder(device: string) {
  const code = `import { lock } from ${JSON.stringify(join(REPO, "src/cmd/_lock.ts"))};
    lock(${JSON.stringify(dir)}, ${JSON.stringify(device)}); console.log("held"); setInterval(() => {}, 1000);`;
  const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", stderr: "inherit" });
  const { value } = await child.stdout.getReader().read();
  expect(new TextDecoder().decode(value)).toBe("held\n");
  return child;
}

test("the second process is told who has it; a killed holder leaves nothing behind", async () => {
  const child = await holder("model");
  try {
    expect(() => lock(dir, "model")).toThrow(`device 'model' is in use by process ${child.pid}`);
    try {
      lock(dir, "model");
    } catch (e) {
      expect((e as Fault).code).toBe("E_BUSY");
    }
    lock(dir, "other").release();
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
  const mine = lock(dir, "model");
  expect(readFileSync(mine.path, "utf8")).toBe(`${process.pid}\n`);
  mine.release();
  mine.release();
  lock(dir, "model").release();
});

test("a child process does not inherit the lock", async () => {
  const mine = lock(dir, "inherit");
  const sleeper = Bun.spawn(["sleep", "5"]);
  mine.release();
  lock(dir, "inherit").release();
  sleeper.kill();
  await sleeper.exited;
});

test("a name with slashes stays in the directory", () => {
  const l = lock(dir, "../x");
  expect(l.path).toBe(join(dir, ".._x.lock"));
  l.release();
});

test("a directory that cannot be made names it", () => {
  const file = join(dir, "file");
  lock(dir, "file").release();
  expect(() => lock(`${file}.lock/sub`, "model")).toThrow(`the run directory ${file}.lock/sub cannot be made: ENOTDIR`);
  if (isRoot) console.log("skipped: root may write into every directory (cli.test.ts tries it as nobody)");
  else {
    chmodSync(dir, 0o500);
    expect(() => lock(dir, "fresh")).toThrow("EACCES");
    chmodSync(dir, 0o700);
  }
});
