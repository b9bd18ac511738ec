/** The conventions every command keeps, through the real entry: streams, statuses, refusals, start-up. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { COMMANDS } from "../../src/main.ts";
import { cli, command, expectFailure, FIXTURES, golden, hasCommand, isRoot, REPO } from "./_cli.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(60_000);

const dir = mkdtempSync(join(tmpdir(), "epnic-cli-"));
chmodSync(dir, 0o755);
afterAll(() => rmSync(dir, { recursive: true }));
const NAMES = Object.keys(COMMANDS);
const NOBODY = 65534;
const canDrop = isRoot && hasCommand("setpriv");

describe("help", () => {
  test("epnic --help", async () => {
    const r = await cli(["--help"]);
    expect(r).toMatchObject({ status: 0, stderr: "" });
    golden("cli/help.txt", r.stdout);
  });
  test.each(NAMES)("%s --help", async (name) => {
    const r = await cli([name, "--help"]);
    expect(r).toMatchObject({ status: 0, stderr: "" });
    golden(`cli/help-${name}.txt`, r.stdout);
    expect(r.stdout).toMatch(/\nExamples:\n( {2}epnic .*\n {6}.*\n){2,4}$/);
    for (const line of r.stdout.split("\n")) expect(line.length, line).toBeLessThanOrEqual(80);
    // before the command and with anything else on the line, too
    expect((await cli(["-h", name])).stdout).toBe(r.stdout);
  });
  test.each(NAMES)("%s tells of itself what the root help says", async (name) => {
    const { about } = await COMMANDS[name].load();
    expect(about.name).toBe(name);
    expect(about.summary).toBe(COMMANDS[name].summary);
  });
});

describe("version", () => {
  const version = JSON.parse(readFileSync(join(REPO, "package.json"), "utf8")).version as string;
  test.each([[["-V"]], [["--version"]], [["stat", "-V"]], [["-V", "stat"]]])("%p", async (args) => {
    expect(await cli(args)).toEqual({ status: 0, stdout: `epnic ${version}\n`, stderr: "" });
  });
  test("as JSON", async () => {
    expect(JSON.parse((await cli(["-jV"])).stdout)).toMatchObject({ version: 1, epnic: version });
  });
});

describe("help and version as words", () => {
  test.each([
    [["help"], ["--help"]],
    [
      ["help", "run"],
      ["run", "--help"],
    ],
    [
      ["-j", "version"],
      ["-j", "--version"],
    ],
  ])("%p is %p", async (words, flags) => {
    const r = await cli(words);
    expect(r).toEqual(await cli(flags));
    expect(r.status).toBe(0);
  });
  test("help of what is not there", async () =>
    expectFailure(await cli(["help", "stta"]), 2, "unknown command 'stta'", "did you mean 'stat'?"));
});

describe("usage errors", () => {
  test("no command", async () => expectFailure(await cli([]), 2, "no command is given", "try 'epnic --help'"));
  test("unknown command", async () =>
    expectFailure(await cli(["sta"]), 2, "unknown command 'sta'", "did you mean 'stat'?"));
  test("a name of Object.prototype is no command", async () =>
    expectFailure(await cli(["constructor"]), 2, "unknown command 'constructor'"));
  test.each(NAMES)("%s --jsno", async (name) =>
    expectFailure(
      await cli([name, "--jsno"]),
      2,
      "unknown flag '--jsno'",
      "did you mean '--json'?",
      `try 'epnic ${name} --help'`,
    ),
  );
  test.each(NAMES)("%s with too many arguments", async (name) =>
    expectFailure(await cli([name, "a", "b", "c"]), 2, "unexpected argument"),
  );
  test("unknown flag before the command", async () =>
    expectFailure(await cli(["--frob", "stat"]), 2, "unknown flag '--frob'"));
  test("with --json one object on stdout, the same text on stderr", async () => {
    const r = await cli(["-j", "stat", "--intervall", "1"]);
    expect(r.status).toBe(2);
    expect(r.stdout.trimEnd().split("\n")).toHaveLength(1);
    expect(JSON.parse(r.stdout)).toEqual({
      error: { code: "E_USAGE", message: "unknown flag '--intervall'", hint: "did you mean '--interval'?" },
    });
    expect(r.stderr).toContain("unknown flag '--intervall'");
  });
  test("--pretty indents, also errors", async () => {
    expect((await cli(["-jp", "stat", "--zz"])).stdout).toContain('\n  "error": {\n');
  });
  test("--quiet keeps errors", async () => expectFailure(await cli(["-q", "stat", "--zz"]), 2, "unknown flag"));
  test("no stack trace unless -vv", async () => {
    expect((await cli(["stat", "--run-dir", dir])).stderr).not.toContain("    at ");
    expect((await cli(["stat", "--run-dir", dir, "-vv"])).stderr).toContain("    at ");
  });
});

describe("a reader that is not there", () => {
  const sh = (script: string) =>
    Bun.spawnSync(["sh", "-c", script, "sh", ...command([])], { stdin: "ignore", timeout: 20_000 });
  test("of the answer: quiet, and the status is that of the command", () => {
    for (const [line, status] of [
      ["probe model -vv", 0],
      ["bind -n model", 0],
      ["stat -j nosuch --run-dir /nonexistent", 3],
      ["-j --jsno", 2],
    ] as const) {
      // the pipe's other end is closed before anything can be written
      const r = sh(`{ sleep 0.2; "$@" ${line} 2>/dev/null; echo $? >&2; } | true`);
      expect([line, r.stderr.toString()]).toEqual([line, `${status}\n`]);
    }
  });
  test("of the messages: the status stays", () => {
    for (const to of ["/dev/full", "&-"]) expect(sh(`"$@" stta 2>${to}`).exitCode).toBe(2);
  });
  test("a full disk is a failure, in one line", () => {
    for (const line of ["--help", "-j probe model"]) {
      const r = sh(`"$@" ${line} >/dev/full`);
      expect(r.stderr.toString()).toBe("epnic: error: write failed: ENOSPC\n");
      expect(r.exitCode).toBe(1);
    }
  });
});

describe("colour", () => {
  const ESC = String.fromCharCode(27);
  const colours = new RegExp(`${ESC}\\[`);
  test("none into pipes", async () => {
    expect((await cli(["stat", "--zz"], { env: { FORCE_COLOR: "1" } })).stderr).not.toMatch(colours);
  });
  const onTerminal = (args: string[], env: Record<string, string>): string => {
    const line = command(args)
      .map((a) => `'${a}'`)
      .join(" ");
    const r = Bun.spawnSync(["script", "-qec", line, "/dev/null"], {
      env: { PATH: process.env.PATH ?? "", TERM: "xterm", ...env },
      stdin: "ignore",
    });
    return r.stdout.toString();
  };
  test.skipIf(!hasCommand("script"))("on a terminal, unless NO_COLOR or --no-color", () => {
    expect(onTerminal(["stat", "--zz"], {})).toMatch(colours);
    expect(onTerminal(["stat", "--zz"], { NO_COLOR: "1" })).not.toMatch(colours);
    expect(onTerminal(["stat", "--zz", "--no-color"], {})).not.toMatch(colours);
    expect(onTerminal(["stat", "--zz"], { TERM: "dumb" })).not.toMatch(colours);
    expect(onTerminal(["--help"], {})).not.toMatch(colours);
  });
});

describe("run --check", () => {
  const config = join(dir, "epnic.toml");
  const check = (...args: string[]) => cli(["run", "--check", "--config", config, ...args]);
  test("prints a configuration that gives itself again", async () => {
    writeFileSync(config, 'device = "model"\nmtu = 9000\n[port]\nname = "eth9"\n');
    const first = await check("--mtu", "1400");
    expect(first).toMatchObject({ status: 0, stderr: "" });
    golden("cli/run-check.txt", first.stdout);
    writeFileSync(config, first.stdout);
    expect(await check()).toEqual(first);
    expect(JSON.parse((await check("-j")).stdout)).toEqual({ version: 1, config: Bun.TOML.parse(first.stdout) });
  });
  test("wrong key, wrong value, wrong syntax", async () => {
    writeFileSync(config, 'device = "model"\nquue_size = 256\n');
    expectFailure(await check(), 2, `unknown key 'quue_size' in ${config}`, "did you mean 'queue_size'?");
    writeFileSync(config, 'device = "model"\nqueue_size = 300\n');
    expectFailure(await check(), 2, "key 'queue_size'", "is 300, expected a power of two from 16 to 32768");
    writeFileSync(config, 'device = "model"\nmtu = \n');
    expectFailure(await check(), 2, "is not TOML: line 2");
  });
  test("wrong flag value", async () => {
    writeFileSync(config, 'device = "model"\n');
    expectFailure(await check("--queue-size", "100"), 2, "--queue-size is 100, expected a power of two");
    expectFailure(await check("--personality", "modrn"), 2, "did you mean 'modern'?");
    expectFailure(await check("other", "--device", "model"), 2, "two devices are named");
  });
  test("flags of the model for a board", async () => {
    writeFileSync(config, "");
    const root = ["a40000000.pcie-ep", "--sysfs-root", join(FIXTURES, "boards/rk3588")];
    for (const flags of [["--strict"], ["--host-tap", "t0"], ["--model-core", "legacy-intx"], ["--host", "built-in"]]) {
      expectFailure(await check(...root, ...flags), 2, `${flags[0]} is for the device 'model', the device is 'a4`);
    }
    expect((await check(...root, "--irq", "intx")).stdout).toStartWith('device = "a40000000.pcie-ep"\n');
  });
  test("absent file, absent device, unknown device", async () => {
    expectFailure(await cli(["run", "--check", "--config", join(dir, "none")]), 2, "cannot be read: ENOENT");
    writeFileSync(config, "");
    expectFailure(await check(), 2, "no device is named");
    expectFailure(await check("modle"), 3, "there is no controller 'modle'", "did you mean 'model'?");
  });
  test.skipIf(!canDrop)("unreadable file", async () => {
    writeFileSync(config, 'device = "model"\n');
    chmodSync(config, 0o600);
    const r = await cli(["run", "--check", "--config", config], { uid: NOBODY });
    expectFailure(r, 77, `the config file ${config} cannot be read: EACCES`, "chmod a+r");
  });
});

describe("prerequisites of run", () => {
  test("the JIT", async () => {
    const r = await cli(["run", "model", "--run-dir", dir], { env: { BUN_JSC_useJIT: "0" } });
    expectFailure(r, 77, "the JIT compiler is off", "unset BUN_JSC_useJIT");
  });
  test.skipIf(!canDrop)("a run directory that may not be written", async () => {
    const r = await cli(["-j", "run", "model", "--run-dir", join(dir, "deep/er")], { uid: NOBODY });
    expect(r.status).toBe(77);
    expect(JSON.parse(r.stdout).error).toMatchObject({ code: "E_PERM", hint: expect.stringContaining("--run-dir") });
  });
  if (!canDrop) console.log("skipped: dropping privileges needs root and setpriv");
});

test("start-up is flat: main.ts loads no subcommand, schema or FFI before it knows what to do", () => {
  const seen = new Set<string>();
  const external = new Set<string>();
  const visit = (file: string): void => {
    if (seen.has(file)) return;
    seen.add(file);
    for (const [, what] of readFileSync(file, "utf8").matchAll(/^(?:import|export) (?!type)[^;]*?from "([^"]+)"/gm)) {
      if (what.startsWith(".")) {
        if (what.endsWith(".ts")) visit(join(dirname(file), what));
      } else external.add(what);
    }
  };
  visit(join(REPO, "src/main.ts"));
  expect([...external].sort()).toEqual(["cli-table3", "citty", "consola", "node:fs"].sort());
  expect(
    [...seen]
      .map((f) => f.slice(REPO.length + 1))
      .filter((f) => !f.startsWith("src/cmd/_"))
      .sort(),
  ).toEqual(["src/hw/fault.ts", "src/main.ts"]);
});
