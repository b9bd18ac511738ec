/** Man pages, completion, unit and init script agree with the commands as they are. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXIT_STATUS, EXIT_STATUS_TEXT } from "../../src/cmd/_fault.ts";
import { COMMANDS } from "../../src/main.ts";
import { FIXTURES, golden, hasCommand } from "./_cli.ts";
import { abouts, bashCompletion, manPages } from "./_docs.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(60_000);

const pages = await manPages();

describe.each(Object.keys(pages))("%s", (name) => {
  test("is as the definitions say", () => golden(`man/${name}`, pages[name]));
  test("has the sections a man page has", () => {
    const sections = [...pages[name].matchAll(/^\.SH (.*)$/gm)].map((m) => m[1]);
    for (const s of ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"]) {
      expect(sections).toContain(s);
    }
  });
  test.skipIf(!hasCommand("groff"))("formats without a warning, and shows every flag", async () => {
    const r = Bun.spawnSync(["groff", "-man", "-Tascii", "-ww", "-P-cbou"], { stdin: Buffer.from(pages[name]) });
    expect(r.stderr.toString()).toBe("");
    const text = r.stdout.toString();
    const about = (await abouts()).find((a) => `epnic-${a.name}.8` === name);
    for (const [flag, def] of Object.entries(about?.args ?? {})) {
      if (def.type === "positional") continue;
      expect(text).toContain(def.type === "boolean" && def.default === true ? `--no-${flag}` : `--${flag}`);
    }
  });
});
test.skipIf(!hasCommand("mandoc"))("mandoc finds nothing to complain about", () => {
  const files = Object.keys(pages).map((f) => join(FIXTURES, "man", f));
  const r = Bun.spawnSync(["mandoc", "-T", "lint", "-W", "warning", ...files]);
  expect(r.stdout.toString()).toBe("");
});
if (!hasCommand("mandoc")) console.log("skipped: linting man pages needs mandoc");
if (!hasCommand("groff")) console.log("skipped: formatting man pages needs groff");

test("every exit status is documented", () => {
  const documented = EXIT_STATUS_TEXT.map(([n]) => n);
  for (const n of Object.values(EXIT_STATUS)) expect(documented).toContain(n);
});

describe("bash completion", async () => {
  const text = await bashCompletion();
  test("is as the definitions say", () => golden("completion/epnic.bash", text));
  const complete = (...words: string[]): string[] => {
    const script = `source ${join(FIXTURES, "completion/epnic.bash")}
      COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _epnic; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const r = Bun.spawnSync(["bash", "-c", script, "bash", ...words]);
    expect(r.stderr.toString()).toBe("");
    return r.stdout.toString().trim().split("\n");
  };
  test.skipIf(!hasCommand("bash"))("completes commands, flags, values and devices", () => {
    expect(complete("epnic", "")).toEqual(expect.arrayContaining(Object.keys(COMMANDS)));
    expect(complete("epnic", "st")).toEqual(["stat"]);
    expect(complete("epnic", "stat", "--int")).toEqual(["--interval"]);
    expect(complete("epnic", "-j", "stat", "--prom-")).toEqual(["--prom-file"]);
    expect(complete("epnic", "run", "--irq", "")).toEqual(["auto", "msix", "intx"]);
    expect(complete("epnic", "run", "mo")).toEqual(["model"]);
    expect(complete("epnic", "stat", "-d", "mo")).toEqual(["model"]);
    expect(complete("epnic", "bench", "c")).toEqual(["cpu"]);
    expect(complete("epnic", "bench", "live", "mo")).toEqual(["model"]);
    expect(complete("epnic", "bench", "--compare", "/etc/host")).toContain("/etc/hosts");
    expect(complete("epnic", "probe", "model", "--model-core", "legacy-i")).toEqual(["legacy-intx"]);
    expect(complete("epnic", "run", "--mtu", "")).toEqual([""]);
  });
});

describe("service files", () => {
  const unit = readFileSync(join(FIXTURES, "init/epnic.service"), "utf8");
  const commands = (text: string): string[] =>
    [...text.matchAll(/(?:^Exec\w+=|\s)\/usr\/bin\/epnic ([a-z]+.*)$/gm)].map((m) => m[1]);
  test("the unit keeps the JIT alive", () => {
    expect(unit).toMatch(/^Type=notify$/m);
    expect(unit).not.toMatch(/^\s*MemoryDenyWriteExecute/m);
    expect(unit).not.toMatch(/^\s*SystemCallFilter/m);
  });
  test.skipIf(!hasCommand("systemd-analyze"))("systemd accepts the unit", () => {
    const r = Bun.spawnSync(["systemd-analyze", "verify", "--man=no", join(FIXTURES, "init/epnic.service")]);
    const complaints = r.stderr
      .toString()
      .split("\n")
      .filter((l) => /epnic/.test(l) && !/is not executable/.test(l));
    expect(complaints).toEqual([]);
  });
  test("the init script is a sound POSIX shell script", () => {
    const r = Bun.spawnSync(["sh", "-n", join(FIXTURES, "init/epnic.busybox")]);
    expect(r.stderr.toString()).toBe("");
    expect(r.exitCode).toBe(0);
  });
  test.skipIf(!hasCommand("start-stop-daemon"))(
    "the init script starts, tells and stops",
    () => {
      const dir = mkdtempSync(join(tmpdir(), "epnic-init-"));
      const fake = join(dir, "epnic");
      writeFileSync(
        fake,
        '#!/bin/sh\n[ "$1" = bind ] && exit 0\n[ "$2" = --check ] && exit $((CHECK))\ntrap "echo drained; exit 0" TERM\nwhile :; do sleep 0.05; done\n',
        { mode: 0o755 },
      );
      const script = readFileSync(join(FIXTURES, "init/epnic.busybox"), "utf8")
        .replaceAll("/usr/bin/epnic", fake)
        .replaceAll("/run/epnic.pid", join(dir, "pid"))
        .replaceAll("/run/epnic-keeper.pid", join(dir, "keeper"))
        .replaceAll("/var/log/epnic.log", join(dir, "log"))
        // what it does to the machine is seen in the rig
        .replace(/^prepare\(\) \{$[\s\S]*?^\}$/m, "prepare() { true; }");
      const file = join(dir, "S45epnic");
      writeFileSync(file, script);
      const call = (verb: string, check = "0") => {
        const r = Bun.spawnSync(["sh", file, verb], { env: { ...process.env, CHECK: check } });
        return [r.exitCode, r.stdout.toString()];
      };
      const pid = () => Number(readFileSync(join(dir, "pid"), "utf8"));
      const until = (done: () => boolean) => {
        for (let i = 0; i < 400 && !done(); i++) Bun.sleepSync(50);
        expect(done()).toBe(true);
      };
      try {
        expect(call("start", "2")[0]).toBe(1);
        expect(existsSync(join(dir, "pid"))).toBe(false);
        expect(call("start")).toEqual([0, "epnic: starting\n"]);
        until(() => call("status")[0] === 0);
        expect(call("start")).toEqual([0, "epnic: already running\n"]);
        expect(call("status")[1]).toMatch(/^epnic: running, process \d+\n$/);
        const first = pid();
        process.kill(first, "SIGKILL");
        until(() => existsSync(join(dir, "pid")) && pid() !== first && call("status")[0] === 0);
        expect(call("stop")).toEqual([0, "epnic: stopping\n"]);
        expect(call("status")).toEqual([3, "epnic: stopped\n"]);
        expect(readFileSync(join(dir, "log"), "utf8")).toContain("ended with status 137, starting it again");
        expect(readFileSync(join(dir, "log"), "utf8")).toEndWith("drained\n");
        expect(readdirSync(dir).sort()).toEqual(["S45epnic", "epnic", "log"]);
        expect(call("frob")[0]).toBe(2);
      } finally {
        // also where an expectation failed: the keeper would start epnic again for ever
        call("stop");
        rmSync(dir, { recursive: true });
      }
    },
    60_000,
  );
  if (!hasCommand("start-stop-daemon")) console.log("skipped: the init script needs start-stop-daemon");
  test.each(["epnic.service", "epnic.busybox"])("%s calls commands and flags that exist", async (file) => {
    const all = await abouts();
    const calls = commands(readFileSync(join(FIXTURES, "init", file), "utf8"));
    expect(calls.length).toBeGreaterThan(0);
    for (const call of calls) {
      const [name, ...words] = call.split(/\s+/);
      const about = all.find((a) => a.name === name);
      expect(about, call).toBeDefined();
      for (const w of words.filter((x) => x.startsWith("--"))) {
        expect(Object.keys(about!.args)).toContain(w.slice(2).split("=")[0]);
      }
    }
  });
});
