import { expect, test } from "bun:test";
import { join } from "node:path";
import { pinTo } from "../../src/hw/affinity.ts";

test("the calling thread stays on the CPU", () => {
  const module = join(import.meta.dir, "../../src/hw/affinity.ts");
  const code = `import { pinTo } from ${JSON.stringify(module)}; pinTo(0);
    console.log(require("node:fs").readFileSync("/proc/thread-self/status", "utf8").match(/Cpus_allowed_list:\\s*(.*)/)[1]);`;
  const r = Bun.spawnSync([process.execPath, "-e", code]);
  expect(r.stderr.toString()).toBe("");
  expect(r.stdout.toString()).toBe("0\n");
});

test("a CPU that is not there", () => {
  expect(() => pinTo(1023)).toThrow("may not use CPU 1023");
  expect(() => pinTo(1024)).toThrow("cpu is 1024, it must be 0 to 1023");
  expect(() => pinTo(-1)).toThrow("cpu is -1");
});
