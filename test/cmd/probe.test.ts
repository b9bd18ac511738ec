/** `probe` through the real entry: the model, captured boards, and machines that lack things. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { judge } from "../../src/cmd/_judge.ts";
import { prerequisites } from "../../src/cmd/_prereq.ts";
import { planFunction } from "../../src/engine/function/setup.ts";
import type { CoreInfo } from "../../src/hw/controller.ts";
import { hugepages } from "../../src/hw/dma-hugepage.ts";
import { copyBoard } from "./_board.ts";
import { cli, expectFailure, FIXTURES, golden, hasCommand, isRoot } from "./_cli.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(60_000);

const cleanup: (() => void)[] = [];
afterAll(() => {
  for (const f of cleanup) f();
});
const board = (name: string, device: string, registers = true): string => {
  const b = copyBoard(name, device, registers);
  cleanup.push(b.remove);
  return b.root;
};
const NOBODY = 65534;
const HUGE = 2 << 20;
const whyNoRun = !isRoot ? "needs root" : hugepages(HUGE).free < 16 ? "needs 16 free hugepages of 2 MiB" : "";
if (whyNoRun !== "") console.log(`skipped: run on a captured board ${whyNoRun}`);

describe("the model", () => {
  test.each(["modern-msix", "modern-intx", "legacy-msix", "legacy-intx"])("as %s", async (core) => {
    const r = await cli(["probe", "model", "--model-core", core, "-q"]);
    expect(r).toMatchObject({ status: 0, stderr: "" });
    golden(`cli/probe-${core}.txt`, r.stdout.slice(0, r.stdout.indexOf("\n\n", r.stdout.indexOf("\n\n") + 2) + 1));
  });
  test("--device model is the same", async () => {
    expect(await cli(["probe", "--device", "model"])).toEqual(await cli(["probe", "model"]));
  });
  test("JSON", async () => {
    const r = await cli(["probe", "model", "-j"]);
    expect(r.status).toBe(0);
    const o = JSON.parse(r.stdout);
    golden("cli/probe-model.json", `${JSON.stringify(o.controllers, null, 2)}\n`);
    expect(o.version).toBe(1);
    for (const p of o.prerequisites) {
      expect(Object.keys(p)).toEqual(["name", "needed_for", "ok", "state", "fix"]);
    }
  });
  test("-vv shows registers", async () => {
    const r = await cli(["probe", "model", "-vv"]);
    expect(r.stdout).toMatch(/^[A-Z0-9_.]+\[[0-9a-f]{3,}\]:[0-9a-f]{8} /m);
    expect(JSON.parse((await cli(["probe", "model", "-vvj"])).stdout).controllers[0].registers.length).toBeGreaterThan(
      20,
    );
  });
  test("an unknown core", async () =>
    expectFailure(
      await cli(["probe", "model", "--model-core", "legacy-intxx"]),
      2,
      "--model-core is 'legacy-intxx', expected one of modern-msix, modern-intx, legacy-msix, legacy-intx",
      "did you mean 'legacy-intx'?",
    ));
  test("a core for what is not the model", async () =>
    expectFailure(
      await cli(["probe", "--model-core", "legacy-intx"]),
      2,
      "epnic probe model --model-core legacy-intx",
    ));
});

describe("boards", () => {
  test("rk3588 with registers", async () => {
    const root = board("rk3588", "a40000000.pcie-ep");
    const r = await cli(["probe", "--sysfs-root", root]);
    expect(r).toMatchObject({ status: 0, stderr: "" });
    for (const line of r.stdout.split("\n\n")[0].split("\n")) expect(line.length).toBeLessThanOrEqual(80);
    golden("cli/probe-rk3588.txt", r.stdout.slice(0, r.stdout.indexOf("\nmissing:")));
    const before = statSync(join(root, "dev/mem")).mtimeMs;
    const named = await cli(["probe", "--sysfs-root", root, "a40000000", "-j", "-vv"]);
    const [c] = JSON.parse(named.stdout).controllers;
    expect(c).toMatchObject({ name: "a40000000.pcie-ep", readable: true, obstacles: [] });
    expect(statSync(join(root, "dev/mem")).mtimeMs).toBe(before);
  });
  test.each([
    ["imx8mp", "33800000.pcie-ep"],
    ["rcar-s4", "e65d0000.pcie-ep"],
  ])("%s with registers", async (name, device) => {
    const r = await cli(["probe", "--sysfs-root", board(name, device)]);
    expect(r.status).toBe(0);
    golden(`cli/probe-${name}.txt`, r.stdout.slice(0, r.stdout.indexOf("\nmissing:")));
  });
  test("without /dev/mem: what sysfs tells, and why not more", async () => {
    const r = await cli(["probe", "-j", "--sysfs-root", join(FIXTURES, "boards/rk3588")]);
    expect(r.status).toBe(0);
    const o = JSON.parse(r.stdout);
    expect(o.controllers[0]).toMatchObject({ readable: false, driver: "rockchip-dw-pcie", functions: ["func1"] });
    expect(o.controllers[0].obstacles[0].fix).toContain("CONFIG_DEVMEM");
    expect(o.prerequisites.find((p: { name: string }) => p.name === "devmem").ok).toBe(false);
  });
  test("a controller that is not there", async () => {
    const root = join(FIXTURES, "boards/rk3588");
    expectFailure(
      await cli(["probe", "--sysfs-root", root, "a4000000.pcie-ep"]),
      3,
      "there is no controller 'a4000000.pcie-ep': here are a40000000.pcie-ep",
      "did you mean 'a40000000.pcie-ep'?",
    );
    const r = await cli(["-j", "run", "--sysfs-root", root, "b0.pcie-ep"]);
    expect(r.status).toBe(3);
    expect(JSON.parse(r.stdout).error.code).toBe("E_NODEV");
  });
  test.each([
    [0, "DMA_CTRL reads 0x00000000, that is 0 write and 0 read channels", "needed, it has 0 and 0"],
    [0xffffffff, "DMA_CTRL reads 0xffffffff, that is 15 write and 15 read channels", "no eDMA answers"],
    [0x00000002, "DMA_CTRL reads 0x00000002, that is 2 write and 0 read channels", "needed, it has 2 and 0"],
  ])("without an eDMA (%p): probe and run agree", async (control, refusal, why) => {
    const root = board("rk3588", "a40000000.pcie-ep");
    const fd = openSync(join(root, "dev/mem"), "r+");
    const word = Buffer.alloc(4);
    word.writeUInt32LE(control);
    writeSync(fd, word, 0, 4, 0xa_4000_0000 + 0x38_0008);
    closeSync(fd);
    const [c] = JSON.parse((await cli(["probe", "-j", "--sysfs-root", root])).stdout).controllers;
    expect(c.personalities.legacy).toEqual({ possible: false, why: expect.stringContaining(why) });
    expect(c.interrupts).toEqual([]);
    if (whyNoRun !== "") return;
    for (const line of [["run"], ["bench", "live"]]) {
      const r = await cli([...line, "a40000000.pcie-ep", "--sysfs-root", root, "--run-dir", root]);
      expectFailure(r, 77, refusal, "1 to 8 each are possible");
    }
  });
  test("a BAR that is not there: probe says what run refuses, and the way out", async () => {
    const root = board("rk3588", "a40000000.pcie-ep");
    const node = join(root, "sys/firmware/devicetree/base/soc/pcie-ep@fe150000/compatible");
    writeFileSync(node, "nvidia,tegra194-pcie-ep\0");
    const [c] = JSON.parse((await cli(["probe", "-j", "--sysfs-root", root])).stdout).controllers;
    expect(c.board).toBe("NVIDIA Tegra194");
    const rule = "BAR2 of a40000000.pcie-ep is off, the MSI-X table needs 65536";
    expect(c.personalities.legacy).toEqual({ possible: true, why: expect.stringContaining(`--irq intx: ${rule}`) });
    expect(c.interrupts).toEqual(["intx"]);
    if (whyNoRun !== "") return;
    const run = ["run", "a40000000.pcie-ep", "--port", "tap", "--sysfs-root", root, "--run-dir", root];
    expectFailure(await cli(run), 77, rule, "use irq intx");
  });
  test("run on a board without /dev/mem says what is missing", async () => {
    const dir = mkdtempSync(join(tmpdir(), "epnic-probe-"));
    cleanup.push(() => rmSync(dir, { recursive: true }));
    const root = join(FIXTURES, "boards/rk3588");
    const r = await cli(["run", "a40000000.pcie-ep", "--sysfs-root", root, "--run-dir", dir]);
    expectFailure(r, 77, "ENOENT", "CONFIG_DEVMEM");
  });
});

describe("this machine", () => {
  test("no controller is no failure", async () => {
    const dir = mkdtempSync(join(tmpdir(), "epnic-none-"));
    cleanup.push(() => rmSync(dir, { recursive: true }));
    const r = await cli(["probe", "--sysfs-root", dir]);
    expect(r).toMatchObject({ status: 0, stderr: "" });
    expect(r.stdout).toStartWith("no endpoint controller here");
    expect(JSON.parse((await cli(["probe", "-j", "--sysfs-root", dir])).stdout).controllers).toEqual([]);
  });
  test("works with the JIT off, and says so", async () => {
    const r = await cli(["probe", "model"], { env: { BUN_JSC_useJIT: "0" } });
    expect(r.status).toBe(0);
    expect(r.stdout).toContain("jit (for run): off");
    expect(r.stdout).toContain("unset BUN_JSC_useJIT");
  });
  test.skipIf(!isRoot || !hasCommand("setpriv"))("works unprivileged", async () => {
    const r = await cli(["probe", "-v"], { uid: NOBODY });
    expect(r).toMatchObject({ status: 0, stderr: "" });
    expect(r.stdout).toMatch(
      /capabilities \(for run\): CAP_NET_ADMIN, CAP_SYS_RAWIO, CAP_SYS_ADMIN missing\n {6}fix: run as root/,
    );
    const dir = board("rk3588", "a40000000.pcie-ep");
    chmodSync(dir, 0o755);
    chmodSync(join(dir, "dev/mem"), 0o600);
    const one = await cli(["probe", "--sysfs-root", dir], { uid: NOBODY });
    expect(one.status).toBe(0);
    expect(one.stdout).toContain("EACCES");
    expect(one.stdout).toContain("fix: run as root");
  });
  if (!isRoot) console.log("skipped: dropping privileges needs root");
});

test("every prerequisite tells its state, and a fix when it is missing", async () => {
  const root = mkdtempSync(join(tmpdir(), "epnic-prereq-"));
  cleanup.push(() => rmSync(root, { recursive: true }));
  const put = (path: string, text: string): void => {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  const find = async (name: string) => (await prerequisites(root)).find((p) => p.name === name)!;
  for (const p of await prerequisites(root)) {
    expect(p.state).not.toBe("");
    expect(p.ok).toBe(p.fix === "");
  }
  put("proc/meminfo", "HugePages_Total:       4\nHugePages_Free:        2\nHugepagesize:       2048 kB\n");
  expect(await find("hugepages")).toMatchObject({
    ok: false,
    state: "4 MiB free of 8 MiB, 32 MiB needed",
    fix: "echo 18 >/proc/sys/vm/nr_hugepages",
  });
  put("proc/meminfo", "HugePages_Total:       40\nHugePages_Free:        20\nHugepagesize:       2048 kB\n");
  expect((await find("hugepages")).ok).toBe(true);
  // arm64 with pages of 16 KiB: the default hugepage is not what run takes
  put("proc/meminfo", "HugePages_Total:       40\nHugePages_Free:        20\nHugepagesize:      32768 kB\n");
  put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "4\n");
  put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n");
  expect(await find("hugepages")).toMatchObject({
    ok: false,
    state: "6 MiB free of 8 MiB, 32 MiB needed",
    fix: "echo 17 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
  });
  expect((await find("iommu")).ok).toBe(true);
  put("sys/class/iommu/smmu3.0", "");
  expect(await find("iommu")).toMatchObject({ ok: false, fix: expect.stringContaining("iommu.passthrough=1") });
  put("proc/cmdline", "root=/dev/sda iommu.passthrough=1\n");
  expect((await find("iommu")).ok).toBe(true);
  put("proc/self/status", "CapEff:\t0000000000001000\n");
  expect((await find("capabilities")).state).toBe("CAP_SYS_RAWIO, CAP_SYS_ADMIN missing");
  put("dev/vduse/control", "");
  expect((await find("vdpa bus")).fix).toBe("modprobe -a virtio_vdpa");
});

const FREE = { least: 0, most: Number.POSITIVE_INFINITY };
const OFF = { least: 0, most: 0 };

describe("judge", () => {
  const core: CoreInfo = {
    version: "5.20a",
    atuUnrolled: true,
    inboundWindows: 8,
    outboundWindows: 8,
    windowAlign: 65536,
    dmaMap: "edma-unroll",
    writeChannels: 2,
    readChannels: 2,
    configLimit: true,
    msix: true,
    msi: true,
    linkGen: 3,
    linkWidth: 4,
  };
  test.each([
    [{}, true, true, ["msix", "intx"]],
    [{ configLimit: false }, false, true, ["msix", "intx"]],
    [{ msix: false }, true, true, ["intx"]],
    [{ dmaMap: "none" as const }, false, false, []],
    [{ dmaMap: "hdma-native" as const }, false, false, []],
    [{ readChannels: 0 }, false, false, []],
    [{ outboundWindows: 1 }, false, false, []],
    // DMA_CTRL reads as ones: nothing answers there
    [{ writeChannels: 15, readChannels: 15 }, false, false, []],
    // Tegra: BAR2 and up are not the endpoint's to give
    [{ bars: [FREE, OFF, OFF, OFF, OFF, OFF] }, true, true, ["intx"]],
    [{ bars: [OFF, OFF, OFF, OFF, OFF, OFF] }, false, false, []],
    [{ inboundWindows: 2 }, true, true, ["msix", "intx"]],
  ])("%p", (change, modern, legacy, interrupts) => {
    const v = judge("epc0", { ...core, ...change });
    expect([v.modern.possible, v.legacy.possible, v.interrupts.join()]).toEqual([modern, legacy, interrupts.join()]);
    expect(v.modern.why).not.toBe("");
    for (const personality of ["modern", "legacy"] as const) {
      const c = { ...core, ...change };
      const channels = (n: number) => n >= 1 && n <= 8;
      if (!c.dmaMap.startsWith("edma") || !channels(c.writeChannels) || !channels(c.readChannels)) continue;
      if (c.outboundWindows < 2) continue;
      // what run would do: the promise is kept by at least one way to interrupt
      const runs = (["msix", "intx"] as const).some((irq) => {
        try {
          return planFunction("epc0", c, { personality, irq }).personality === personality;
        } catch {
          return false;
        }
      });
      expect(v[personality].possible).toBe(runs);
    }
  });
  test("says what stands against MSI-X, with both numbers", () => {
    const small = { least: 0, most: 256 };
    expect(judge("epc0", { ...core, bars: [FREE, FREE, small, FREE, FREE, FREE] }).legacy.why).toEndWith(
      "; only with --irq intx: BAR2 of epc0 has 256 bytes, the MSI-X table needs 65536",
    );
    expect(judge("epc0", { ...core, bars: [small, FREE, FREE, FREE, FREE, FREE] }).legacy).toEqual({
      possible: false,
      why: "BAR0 of epc0 has 256 bytes, the registers need 65536",
    });
  });
});
