/** `bind` through the real entry, on a copy of a captured board. */
import { afterAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lock } from "../../src/cmd/_lock.ts";
import { type BoardCopy, copyBoard } from "./_board.ts";
import { cli, command, expectFailure, golden } from "./_cli.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(60_000);

const DEVICE = "a40000000.pcie-ep";
const runDir = mkdtempSync(join(tmpdir(), "epnic-bind-"));
let copy: BoardCopy;
let ep = "";
beforeEach(() => {
  copy?.remove();
  copy = copyBoard("rk3588", DEVICE, false);
  ep = join(copy.root, "sys/kernel/config/pci_ep");
});
afterAll(() => {
  copy.remove();
  rmSync(runDir, { recursive: true });
});
const bind = (...args: string[]) => cli(["bind", "--sysfs-root", copy.root, "--run-dir", runDir, ...args]);
const scrub = (s: string): string => s.replaceAll(copy.root, "ROOT").replace(/ +#/g, "  #");
/** a controller without a function on it */
const free = (): void => unlinkSync(join(ep, "controllers", DEVICE, "func1"));

test("the model needs none", async () => {
  expect(await bind("model")).toEqual({
    status: 0,
    stdout: "model: nothing to do, the software controller lives in the process of run\n",
    stderr: "",
  });
  expect(JSON.parse((await bind("model", "-j")).stdout)).toMatchObject({ version: 1, device: "model", steps: [] });
});

test("for the model --dry-run lists the register writes of run", async () => {
  const r = await bind("model", "-j", "--dry-run", "--model-core", "legacy-msix");
  const { registers } = JSON.parse(r.stdout) as { registers: { register: string; value: string }[] };
  const last = (name: string): string | undefined => registers.findLast((x) => x.register === name)?.value;
  expect([last("dbi+0x000"), last("dbi+0x02c"), last("dbi2+0x010")]).toEqual([
    "0x10001af4",
    "0x00011af4",
    "0x0000ffff",
  ]);
  expect((await bind("model", "--dry-run", "--personality", "modern", "--model-core", "legacy-intx")).status).toBe(77);
});

describe("--dry-run", () => {
  test("prints every write and does none", async () => {
    free();
    const r = await bind(DEVICE, "--dry-run", "--personality", "legacy");
    expect(r.status).toBe(0);
    golden("cli/bind-dry-run.txt", scrub(r.stdout));
    expect(existsSync(join(ep, "functions/pci_epf_test/epnic"))).toBe(false);
    expect(existsSync(join(runDir, `${DEVICE}.lock`))).toBe(false);
  });
  test("JSON has every step with its undo", async () => {
    free();
    const o = JSON.parse((await bind(DEVICE, "-nj")).stdout);
    expect(o).toMatchObject({ version: 1, device: DEVICE, action: "bind", dry_run: true });
    expect(o.undo).toBe(`epnic bind --unbind ${DEVICE}`);
    for (const s of o.steps) expect(Object.keys(s)).toEqual(["kind", "path", "value", "what", "undo"]);
  });
});

describe("binding", () => {
  test("writes, links, starts; twice is once; the undo is printed", async () => {
    free();
    const r = await bind(DEVICE, "--personality", "modern");
    expect(r.stderr).not.toContain("error");
    expect(r.status).toBe(0);
    expect(r.stdout).toEndWith(`undo: epnic bind --unbind ${DEVICE}\n`);
    const fn = join(ep, "functions/pci_epf_test/epnic");
    expect(readFileSync(join(fn, "vendorid"), "utf8")).toBe("0x1af4\n");
    expect(readFileSync(join(fn, "deviceid"), "utf8")).toBe("0x1041\n");
    expect(readlinkSync(join(ep, "controllers", DEVICE, "epnic"))).toBe(fn);
    const again = await bind(DEVICE, "--personality", "modern");
    expect(again.status).toBe(0);
    expect(again.stdout).toBe(`${DEVICE}: already bound, nothing to do\n`);
    const undo = await bind(DEVICE, "--unbind", "--dry-run");
    golden("cli/unbind-dry-run.txt", scrub(undo.stdout));
  });
  test("another function on it: refused, taken with --force", async () => {
    expectFailure(await bind(DEVICE), 4, `${DEVICE} already carries the function func1`, "--force");
    const r = await bind(DEVICE, "--force", "--dry-run");
    expect(r.status).toBe(0);
    expect(r.stdout).toContain(`rm ${join(ep, "controllers", DEVICE, "func1")}`);
  });
  /** What configfs does by itself: a group's attributes go with it. */
  const emptyGroup = (): void => {
    const group = join(ep, "functions/pci_epf_test/epnic");
    for (const f of readdirSync(group)) unlinkSync(join(group, f));
  };
  const tree = (): string[] =>
    readdirSync(ep, { recursive: true, withFileTypes: true })
      .map((f) => {
        const path = join(f.parentPath, f.name);
        if (f.isDirectory()) return path;
        return `${path} ${f.isSymbolicLink() ? realpathSync(path) : readFileSync(path, "utf8").trim()}`;
      })
      .sort();
  test("--unbind gives the tree back as it was, twice is once", async () => {
    free();
    writeFileSync(join(ep, "controllers", DEVICE, "start"), "0\n");
    const before = tree();
    expect((await bind(DEVICE)).status).toBe(0);
    emptyGroup();
    const r = await bind("-u", DEVICE);
    expect(r).toEqual({
      status: 0,
      stdout: `${DEVICE}: unbind done, 3 writes\nundo: epnic bind ${DEVICE}\n`,
      stderr: "",
    });
    expect(tree()).toEqual(before);
    expect((await bind("-u", DEVICE)).stdout).toBe(`${DEVICE}: already unbound, nothing to do\n`);
    expect(tree()).toEqual(before);
  });
  test("the undo of --force puts back what was taken away, and the link's state", async () => {
    writeFileSync(join(ep, "controllers", DEVICE, "start"), "1\n");
    const before = tree();
    const r = await bind("-f", DEVICE);
    const undo = /^undo: (.*)$/m.exec(r.stdout)?.[1] ?? "";
    expect(undo).toStartWith(`epnic bind --unbind ${DEVICE} && ln -s /`);
    expect(JSON.parse((await bind("-fnj", DEVICE)).stdout).undo).toBe("");
    emptyGroup();
    const epnic = `epnic() { ${command([]).join(" ")} "$@" --sysfs-root ${copy.root} --run-dir ${runDir}; }`;
    const sh = Bun.spawnSync(["sh", "-ec", `${epnic}; cd /; ${undo}`]);
    expect(sh.stderr.toString()).toBe("");
    expect(tree()).toEqual(before);
  });
  test("a signal in the middle waits for the last write", async () => {
    free();
    const start = join(ep, "controllers", DEVICE, "start");
    rmSync(start);
    // a FIFO holds the last write until somebody reads
    Bun.spawnSync(["mkfifo", start]);
    const child = Bun.spawn([...command(["bind", DEVICE, "--sysfs-root", copy.root, "--run-dir", runDir])], {
      stdout: "pipe",
      stderr: "pipe",
    });
    const link = join(ep, "controllers", DEVICE, "epnic");
    for (const end = Date.now() + 20_000; !existsSync(link) && Date.now() < end; await Bun.sleep(5)) {
      try {
        // while it plans, it reads; nobody there: ENXIO
        const fd = openSync(start, constants.O_WRONLY | constants.O_NONBLOCK);
        writeSync(fd, "0\n");
        closeSync(fd);
      } catch (e) {
        expect((e as NodeJS.ErrnoException).code).toBe("ENXIO");
      }
    }
    expect(existsSync(link)).toBe(true);
    child.kill("SIGINT");
    child.kill("SIGTERM");
    await Bun.sleep(100);
    expect(child.exitCode).toBeNull();
    expect(await Bun.file(start).text()).toBe("1\n");
    expect(await child.exited).toBe(0);
    expect(await new Response(child.stdout).text()).toContain("bind done");
  });
  test("a run has it: refused even with --force", async () => {
    free();
    const held = lock(runDir, DEVICE);
    const r = await bind(DEVICE, "--force");
    held.release();
    expectFailure(r, 4, `device '${DEVICE}' is in use by process ${process.pid}`);
  });
  test("a step that fails names itself, and what was done before is taken back", async () => {
    free();
    // a file where the function's directory is wanted: writing below it fails
    writeFileSync(join(ep, "functions/pci_epf_test/epnic"), "");
    const r = await bind(DEVICE);
    expect(r.status).toBe(1);
    expect(r.stdout).toBe("");
    expect(r.stderr).toContain("ENOTDIR");
    expect(r.stderr).toContain("taken back");
    expect(existsSync(join(ep, "controllers", DEVICE, "epnic"))).toBe(false);
  });
  test("--unbind of what is not bound is done already", async () => {
    expect((await bind(DEVICE, "-u")).stdout).toBe(`${DEVICE}: already unbound, nothing to do\n`);
  });
});

describe("refusals", () => {
  test("no device, unknown device, both verbs", async () => {
    expectFailure(await bind(), 2, "no device is named");
    expectFailure(await bind("a4.x"), 3, "there is no controller 'a4.x'");
    expectFailure(await bind("-b", "-u", DEVICE), 2, "--bind and --unbind are both given");
  });
  test("a kernel without the endpoint framework", async () => {
    rmSync(ep, { recursive: true });
    expectFailure(await bind(DEVICE), 77, "configfs", "modprobe");
  });
});
