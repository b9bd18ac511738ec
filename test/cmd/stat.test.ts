/** `stat` through the real entry, against counter pages that this process writes. */
import { afterAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promText, rateLine, snapshotJson } from "../../src/cmd/_counters.ts";
import { COUNTER_INDEX, COUNTERS, CounterPage, type CounterSnapshot } from "../../src/engine/counters.ts";
import { cli, expectFailure, golden, start } from "./_cli.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(60_000);

const dir = mkdtempSync(join(tmpdir(), "epnic-stat-"));
let open: CounterPage[] = [];
const page = (device: string): CounterPage => {
  const p = new CounterPage(join(dir, `${device}.counters`));
  p.setState({ device, personality: "modern", link: true, queue_size: 256 });
  COUNTERS.forEach((_, i) => {
    p.values[i] = 1000 + i;
  });
  p.stamp();
  open.push(p);
  return p;
};
beforeEach(() => {
  for (const p of open) p.close();
  open = [];
});
afterAll(() => {
  for (const p of open) p.close();
  rmSync(dir, { recursive: true });
});
const stat = (...args: string[]) => cli(["stat", "--run-dir", dir, ...args]);
const scrub = (s: string): string =>
  s
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
    .replace(/"pid": ?\d+/, '"pid":0')
    .replace(/(epnic_(?:start|update)_time_seconds\{.*\}) .*/g, "$1 0");

describe("which run", () => {
  test("none", async () => expectFailure(await stat(), 3, `there is no run (no counter page in ${dir})`, "epnic run"));
  test("none of that name", async () => {
    page("model");
    expectFailure(await stat("modle"), 3, "there is no run of device 'modle'", "did you mean 'model'?");
  });
  test("several", async () => {
    page("a.pcie-ep");
    page("model");
    expectFailure(await stat(), 2, "there are 2 runs: a.pcie-ep, model", "name the device");
    expect((await stat("a.pcie-ep")).stdout).toStartWith("device: a.pcie-ep\n");
    expect((await stat("-d", "model")).stdout).toStartWith("device: model\n");
  });
  test("the beginning of a name, as for run", async () => {
    page("a40000000.pcie-ep");
    page("model");
    expect((await stat("a4")).stdout).toStartWith("device: a40000000.pcie-ep\n");
    page("a50000000.pcie-ep");
    expectFailure(await stat("a"), 2, "'a' is the beginning of 2 runs: a40000000.pcie-ep, a50000000.pcie-ep");
  });
  test("no counter page at all", async () => {
    writeFileSync(join(dir, "x.counters"), "short");
    const r = await stat("x");
    rmSync(join(dir, "x.counters"));
    expectFailure(r, 2, "x.counters has 5 bytes, a counter page has 8192");
  });
  test("a run that died", async () => {
    const p = page("model");
    const gone = Bun.spawnSync(["true"]).pid;
    const file = join(dir, "model.counters");
    const bytes = readFileSync(file);
    bytes.writeUInt32LE(gone, 8);
    p.close();
    open = [];
    writeFileSync(file, bytes);
    expectFailure(await stat(), 3, `process ${gone} is gone`, "--stale prints them");
    const r = await stat("--stale", "-j");
    rmSync(file);
    expect(JSON.parse(r.stdout)).toMatchObject({ pid: gone, stale: true });
  });
});

describe("one shot", () => {
  test("name: value", async () => {
    page("model");
    const r = await stat();
    expect(r).toMatchObject({ status: 0, stderr: "" });
    golden("cli/stat.txt", r.stdout);
  });
  test("JSON", async () => {
    page("model");
    const r = await stat("-jp");
    golden("cli/stat.json", scrub(r.stdout));
    expect(JSON.parse(r.stdout).pid).toBe(process.pid);
    expect((await stat("-j")).stdout.trimEnd()).not.toContain("\n");
  });
  test("Prometheus text", async () => {
    page("model");
    const r = await stat("--prom");
    golden("cli/stat.prom", scrub(r.stdout));
    checkExposition(r.stdout);
  });
  test("into a file for the collector, whole, nothing on stdout, nothing left behind", async () => {
    page("model");
    const file = join(dir, "epnic.prom");
    expect(await stat("--prom-file", file)).toEqual({ status: 0, stdout: "", stderr: "" });
    checkExposition(readFileSync(file, "utf8"));
    expect(readdirSync(dir).filter((f) => f.includes("tmp"))).toEqual([]);
    rmSync(file);
    const nowhere = join(dir, "no/where.prom");
    expectFailure(await stat("--prom-file", nowhere), 1, `${nowhere} cannot be written: ENOENT`);
  });
  test("the file says when the run is down, once and with --interval, and up again", async () => {
    const file = join(dir, "epnic.prom");
    const up = () => /^epnic_up(\S*) (\d)$/m.exec(readFileSync(file, "utf8"))?.slice(1, 3);
    expectFailure(await stat("--prom-file", file), 3, "there is no run");
    expect(up()).toEqual(["", "0"]);
    expectFailure(await stat("--prom-file", file, "model"), 3, "there is no run of device 'model'");
    expect(up()).toEqual(['{device="model"}', "0"]);
    checkExposition(readFileSync(file, "utf8"));
    const child = start(["stat", "--run-dir", dir, "-i", "0.05", "--prom-file", file]);
    const until = async (value: string) => {
      for (const end = Date.now() + 15_000; up()?.[1] !== value && Date.now() < end; ) await Bun.sleep(10);
      expect(up()?.[1]).toBe(value);
    };
    const first = page("model");
    await until("1");
    checkExposition(readFileSync(file, "utf8"));
    first.close();
    open = [];
    await until("0");
    expect(up()?.[0]).toBe('{device="model"}');
    page("model");
    await until("1");
    child.kill();
    await child.exited;
    rmSync(file);
  });
});

/** The rules of the text format: HELP and TYPE before the samples, samples of a family together, no sample twice. */
function checkExposition(text: string): void {
  expect(text).toEndWith("\n");
  let family = "";
  const families = new Set<string>();
  const samples = new Set<string>();
  for (const line of text.trimEnd().split("\n")) {
    const help = /^# HELP ([a-z_]+) \S/.exec(line);
    if (help) {
      expect(families.has(help[1])).toBe(false);
      families.add(help[1]);
      family = help[1];
      continue;
    }
    const type = /^# TYPE ([a-z_]+) (counter|gauge)$/.exec(line);
    if (type) {
      expect(type[1]).toBe(family);
      expect(family.endsWith("_total")).toBe(type[2] === "counter");
      continue;
    }
    const sample = /^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)+\}) (\S+)$/.exec(line);
    expect(sample, line).not.toBeNull();
    expect(sample![1]).toBe(family);
    expect(Number.isFinite(Number(sample![3]))).toBe(true);
    expect(samples.has(sample![1] + sample![2])).toBe(false);
    samples.add(sample![1] + sample![2]);
  }
}

describe("rates", () => {
  test("lines like vmstat, and it goes on until COUNT", async () => {
    const p = page("model");
    const child = start(["stat", "--run-dir", dir, "-i", "0.2", "-c", "2"]);
    const frames = p.values[COUNTER_INDEX.to_host_frames];
    const t = setInterval(() => {
      p.values[COUNTER_INDEX.to_host_frames] += 100;
      p.stamp();
    }, 20);
    const text = await new Response(child.stdout).text();
    clearInterval(t);
    expect(await child.exited).toBe(0);
    const lines = text.trimEnd().split("\n");
    expect(lines).toHaveLength(3);
    expect(lines[0]).toMatch(/^ *TO-HOST\/S +MBIT\/S/);
    expect(p.values[COUNTER_INDEX.to_host_frames]).toBeGreaterThan(frames);
    expect(Number(lines[2].trim().split(/ +/)[0])).toBeGreaterThan(500);
    for (const l of lines) expect(l.length).toBeLessThanOrEqual(80);
  });
  test("one JSON object a line", async () => {
    page("model");
    const lines = (await stat("-j", "-i", "0.05", "-c", "3")).stdout.trimEnd().split("\n");
    expect(lines).toHaveLength(3);
    for (const l of lines)
      expect(JSON.parse(l)).toMatchObject({ version: 1, device: "model", per_second: { turns: 0 } });
  });
  test("ends with 3 when the run ends", async () => {
    const p = page("model");
    const child = start(["stat", "--run-dir", dir, "-i", "0.1"]);
    await Bun.sleep(250);
    p.close();
    open = [];
    expect(await child.exited).toBe(3);
    expect(await new Response(child.stderr).text()).toContain("no counter page");
  });
  test("a reader that goes away ends it quietly", async () => {
    page("model");
    const r = Bun.spawnSync(["sh", "-c", `${process.execPath} src/main.ts stat --run-dir ${dir} -i 0.05 | head -n 2`], {
      cwd: join(import.meta.dir, "../.."),
      timeout: 10_000,
    });
    expect(r.stderr.toString()).toBe("");
    expect(r.exitCode).toBe(0);
  });
  test.each([
    [["-c", "3"], "--count is given without --interval"],
    [["-i", "0"], "--interval is '0', expected seconds"],
    [["-i", "1", "-c", "0"], "--count is '0', expected an integer from 1"],
    [["--prom", "-j"], "--prom does not go with --json"],
    [["--prom", "-i", "1"], "--prom does not go with --interval"],
    [["--prom", "--prom-file", "x"], "--prom and --prom-file are both given"],
  ])("refuses %p", async (args, message) => {
    const r = await stat(...args);
    expect(r.status).toBe(2);
    expect(r.stderr).toContain(message);
    expect(existsSync("x")).toBe(false);
  });
});

describe("rendering", () => {
  const snapshot = (n: number, ms: number): CounterSnapshot => ({
    version: 1,
    pid: 1,
    startedMs: 0,
    updatedMs: ms,
    stale: false,
    state: { device: "model", note: 'a "quoted"\nback\\slash' },
    counters: Object.fromEntries(COUNTERS.map((c) => [c.name, n])),
  });
  test("rates are per second of the writer's clock", () => {
    const json = snapshotJson(snapshot(3000, 3000), snapshot(1000, 1000), "model") as Record<string, unknown>;
    expect(json.interval_s).toBe(2);
    expect((json.per_second as Record<string, number>).to_host_frames).toBe(1000);
  });
  test("the header comes every 20 lines", () => {
    const [a, b] = [snapshot(1, 1), snapshot(0, 0)];
    expect(rateLine(a, b, 0).split("\n")).toHaveLength(2);
    expect(rateLine(a, b, 19).split("\n")).toHaveLength(1);
    expect(rateLine(a, b, 20).split("\n")).toHaveLength(2);
  });
  test("label values are escaped", () => {
    const text = promText(snapshot(1, 1), "model");
    expect(text).toContain('note="a \\"quoted\\"\\nback\\\\slash"');
    checkExposition(text);
  });
  test("both directions are one family", () => {
    const text = promText(snapshot(1, 1), "model");
    expect(text).toContain('epnic_frames_total{device="model",direction="to_host"} 1\n');
    expect(text).toContain('epnic_frames_total{device="model",direction="to_board"} 1\n');
  });
});
