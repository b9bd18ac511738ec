import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { commonArgs } from "../../src/cmd/_args.ts";
import { FLAGS_OF } from "../../src/cmd/_bench_args.ts";
import { compareReports } from "../../src/cmd/_bench_compare.ts";
import type { LinkReport } from "../../src/cmd/_bench_link.ts";
import { jitIsOn } from "../../src/cmd/_jit.ts";
import {
  type BenchReport,
  type BenchRow,
  newReport,
  readReport,
  reportTable,
  reportWarnings,
} from "../../src/cmd/_report.ts";
import { reportHtml } from "../../src/cmd/_report_html.ts";
import { about } from "../../src/cmd/bench.ts";
import { cli, expectFailure, golden } from "./_cli.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(60_000);

const dir = mkdtempSync(join(tmpdir(), "epnic-report-"));
afterAll(() => rmSync(dir, { recursive: true }));

const row = (name: string, bytes: number, ns: number, more: Partial<BenchRow> = {}): BenchRow => ({
  design: "epnic",
  without: null,
  direction: name,
  frame_bytes: bytes,
  batch: 32,
  frames: 1_000_000,
  runs: 3,
  ns_per_frame: { min: ns * 0.95, median: ns, max: ns * 1.1 },
  mpps: { min: 900 / ns, median: 1000 / ns, max: 1050 / ns },
  gbps: { min: (7.2 * bytes) / ns, median: (8 * bytes) / ns, max: (8.4 * bytes) / ns },
  shape: "single",
  burst: 31.5,
  block_frames: null,
  block_p50_ns: null,
  block_p999_ns: null,
  block_max_ns: null,
  block_steps_ns: null,
  spin_p999_ns: null,
  core_ns: null,
  core_calm_ns: null,
  runs_repeated: null,
  elements_per_frame: null,
  bytes_allocated: 0,
  page_bytes: null,
  cpu_share: 0.99,
  ...more,
});

const report = (rows: BenchRow[]): BenchReport => ({
  version: 1,
  epnic: "0.1.0",
  commit: "0123abc",
  started: "2026-11-22T12:00:00.000Z",
  mode: "cpu",
  machine: { cpu: "Test CPU", cpus: 2, arch: "x64", kernel: "6.18.0", memory_bytes: 2 ** 30, load1: 0.5 },
  bun: "1.4.5",
  jit: true,
  seed: 1,
  options: { sizes: [60, 1514], frames: null },
  rows,
});
const SAMPLE = report([
  row("ep_to_host", 60, 101.5),
  row("ep_to_host", 1514, 103.25),
  row("host_to_ep", 60, 95, {
    block_p50_ns: 1500,
    block_p999_ns: 12345,
    spin_p999_ns: 9000,
    core_ns: { min: 400, median: 410, max: 420 },
    runs_repeated: 2,
    elements_per_frame: 2.06,
  }),
  row("host_to_ep", 1514, 96),
]);

test("a new report knows this machine and is valid", () => {
  const r = newReport("cpu", 7, { sizes: [60] });
  expect(r.machine.cpus).toBeGreaterThan(0);
  expect(r.jit).toBe(true);
  const path = join(dir, "new.json");
  writeFileSync(path, JSON.stringify(r));
  expect(readReport(path)).toEqual(r);
});

test("table", () => golden("cli/bench.txt", `${reportTable(SAMPLE)}\n`));

test("warnings: shared CPU, no JIT", () => {
  expect(reportWarnings(SAMPLE)).toEqual([]);
  const r = report([row("a", 60, 1, { cpu_share: 0.5 }), row("a", 61, 1)]);
  expect(reportWarnings(r)[0]).toContain("shared in 1 of 2 rows (as little as 50 %");
  const pages = {
    ...SAMPLE,
    rows: [row("both", 60, 1, { page_bytes: 4096 }), row("both", 60, 1, { page_bytes: 2 ** 21 })],
  };
  expect(reportWarnings(pages)).toEqual([expect.stringContaining("pages of 4 KiB in 1 of 2 rows")]);
  expect(reportWarnings({ ...SAMPLE, jit: false })[0]).toContain("JIT is off");
});

describe("the page", () => {
  test("is self-contained, well-formed and carries the report", () => {
    const html = reportHtml(report([...SAMPLE.rows, row('<script>"x"&', 60, 5)]));
    expect(html).not.toMatch(/(src|href)=/);
    expect(html).not.toContain("<script>");
    expect(html).not.toContain("NaN");
    expect(html.match(/<polyline /g)).toHaveLength(6);
    const embedded = /<script type="application\/json" id="report">(.*)<\/script>/.exec(html);
    expect(JSON.parse(embedded![1]).rows).toHaveLength(5);
    const open: string[] = [];
    for (const [, close, tag, self] of html.matchAll(/<(\/?)([a-z0-9]+)(?:\s[^>]*?)?(\/?)>/g)) {
      if (self || tag === "meta") continue;
      if (close) expect(open.pop()).toBe(tag);
      else open.push(tag);
    }
    expect(open).toEqual([]);
  });
  test("the distribution of block times, at the least and the greatest size, where a row has it", () => {
    const steps = { block_frames: 32, block_steps_ns: [800, 850, 900, 960, 1000, 1100, 2000, 5000, 90000] };
    const html = reportHtml(
      report([row("ep_to_host", 60, 30, steps), row("ep_to_host", 512, 30, steps), row("both", 1514, 30)]),
    );
    expect(html).toContain("Distribution of block times, 60 bytes a frame");
    expect(html).toContain("ep_to_host, 50: 30.0 ns/frame");
    expect(html).toContain("ep_to_host, greatest: 2.81e+3 ns/frame");
    expect(html).not.toContain("512 bytes a frame");
    expect(html).not.toContain("1514 bytes a frame");
  });
  test("one size, and none at all", () => {
    expect(reportHtml(report([row("a", 60, 1)]))).not.toContain("NaN");
    expect(reportHtml(report([]))).toContain("no rows");
  });
});

describe("--compare", () => {
  const a = join(dir, "a.json");
  const b = join(dir, "b.json");
  writeFileSync(a, JSON.stringify(SAMPLE));
  writeFileSync(
    b,
    JSON.stringify(report([row("ep_to_host", 60, 150), row("ep_to_host", 1514, 104), row("new", 60, 1)])),
  );
  test("rows of the same case and size, with what is beyond noise", () => {
    const rows = compareReports(readReport(a), readReport(b));
    expect(rows.map((r) => [r.direction, r.frame_bytes, r.significant])).toEqual([
      ["ep_to_host", 60, true],
      ["ep_to_host", 1514, false],
    ]);
    expect(rows[0].ratio).toBeCloseTo(1.478, 3);
  });
  test("as a command", async () => {
    const r = await cli(["bench", "--compare", a, b]);
    expect(r).toMatchObject({ status: 0, stderr: "" });
    golden("cli/bench-compare.txt", r.stdout);
    expect(JSON.parse((await cli(["-j", "bench", "--compare", a, b])).stdout).rows).toHaveLength(2);
  });
  test("what is no report", async () => {
    const bad = join(dir, "bad.json");
    expectFailure(await cli(["bench", "--compare", a]), 2, "--compare needs two reports, one is given");
    expectFailure(await cli(["bench", "--compare", a, join(dir, "none")]), 2, "none cannot be read: ENOENT");
    writeFileSync(bad, "{");
    expectFailure(await cli(["bench", "--compare", a, bad]), 2, "bad.json cannot be read");
    writeFileSync(bad, JSON.stringify({ ...SAMPLE, rows: [{ ...SAMPLE.rows[0], runs: "3" }] }));
    expectFailure(await cli(["bench", "--compare", a, bad]), 2, "key 'rows.0.runs' is \"3\", expected number");
    writeFileSync(bad, JSON.stringify(report([row("x", 1, 1)])));
    expectFailure(await cli(["bench", "--compare", a, bad]), 2, "no row of the same case and size");
    writeFileSync(bad, "null");
    expectFailure(await cli(["bench", "--compare", bad, a]), 2, "bad.json is no report of epnic bench");
  });
  test("the file that is wrong is named, also beside a report of another measurement", async () => {
    const [link, bad] = [join(dir, "link.json"), join(dir, "broken.json")];
    writeFileSync(link, JSON.stringify({ ...SAMPLE, mode: "link", rows: [] }));
    writeFileSync(bad, "{");
    expectFailure(await cli(["bench", "--compare", link, bad]), 2, "the report", "broken.json cannot be read");
    const mixed = await cli(["bench", "--compare", a, link]);
    expectFailure(mixed, 2, `${a} is a report of bench cpu, ${link} of bench link`, "of the same measurement");
  });
  test("says what else differs: two reports that were not measured alike", async () => {
    const other = join(dir, "other.json");
    const options = { sizes: [60], frames: 1000, warmup: 3 };
    writeFileSync(other, JSON.stringify({ ...SAMPLE, seed: 2, options }));
    const r = await cli(["bench", "--compare", a, other]);
    expect(r.status).toBe(0);
    expect(r.stderr).toBe("epnic: warning: not measured alike: seed 1 and 2; frames null and 1000\n");
  });
});

describe("bench arguments", () => {
  test.each([
    [["bench"], "nothing to measure is named"],
    [["bench", "cup"], "did you mean 'cpu'?"],
    [["bench", "cpu", "--cpu", "4000"], "--cpu is '4000', expected an integer from 0 to 1023"],
    [["bench", "cpu", "--cpu", "1000"], "may not use CPU 1000"],
    [["bench", "cpu", "x"], "unexpected argument 'x'"],
    [["bench", "cpu", "-s", "60,x"], "--sizes is 'x', expected an integer from 60 to 65535"],
    [["bench", "cpu", "-s", "60", "-a"], "--all and --sizes are both given"],
    [["bench", "cpu", "--repeats", "-1"], "--repeats is '-1', expected an integer from 0 to 1000"],
    [["bench", "cpu", "-n", "0"], "--frames is '0', expected an integer from 1"],
    [["bench", "cpu", "--shape", "frags"], "--shape is 'frags', expected one of single, frags4k, frags32k"],
    [["bench", "cpu", "-r", "0"], "--runs is '0', expected an integer from 1"],
    [["bench", "live", "model", "-s", "60", "-a"], "--all and --sizes are both given"],
    [["bench", "link", "-s", "60,1514,65000", "-a"], "--all and --sizes are both given"],
    [["bench", "cpu", "--preset", "rk3588"], "--preset is for bench link, this is bench cpu"],
    [["bench", "live", "model", "-b", "4"], "--batch is for bench cpu, this is bench live"],
    [["bench", "cpu", "--device", "a4"], "bench cpu runs on a model, --device is 'a4'"],
    [["bench", "live", "model", "-d", "a4"], "two devices are named: 'model' and --device 'a4'"],
    [["bench", "live", "model", "--ablation"], "--ablation is for bench cpu and link, this is bench live"],
    [["bench", "cpu", "-n", "4000001"], "--frames is '4000001', expected an integer from 1 to 4000000"],
    [["bench", "cpu", "-o", "-"], "--output is '-', expected a file"],
    [["bench", "cpu", "-o", "/tmp/x", "--html", "/tmp/../tmp/x"], "--output and --html are both '/tmp/x'"],
    [["bench", "link", "--preset", "rk3558"], "did you mean 'rk3588'?"],
    [["bench", "link", "--set", "mps"], "--set is 'mps', expected NAME=VALUE"],
    [["bench", "link", "--set", "mpss=128"], "a link has no parameter 'mpss'"],
    [["bench", "link", "--set", "round_trip_ns=-1"], "--set round_trip_ns is '-1', expected an integer from 0"],
    [["bench", "link", "--set", "mps=100"], 'link timing "rk3588": mps is 100, it must be a power of two 128 to 4096'],
    [["bench", "link", "--set", "ll_fetch_ns=0"], "ll_fetch_ns is 0, it must be at least 1"],
    [["bench", "link", "--design", "epnic,"], "--design is '', expected one of epnic, epnic-vduse"],
    [["bench", "link", "--runs", "4"], "--runs is for bench cpu and live, this is bench link"],
    [
      ["bench", "--compare", "-o", "x", "a", "b"],
      "--output is for bench cpu and link and live, this is bench --compare",
    ],
    [["bench", "live", "model", "--vfio-user", "/a", "--host-tap", "t"], "--host-tap is for the built-in host"],
  ])("%p", async (args, message) => expectFailure(await cli(args), 2, message));
});

test("bench live takes its device from the flag as well", async () => {
  expectFailure(await cli(["bench", "live", "--device", "a4"]), 3, "there is no controller 'a4'");
});

test("every flag of bench is for a measurement", () => {
  const all = Object.values(FLAGS_OF).flat() as string[];
  for (const [name, def] of Object.entries(about.args)) {
    if (def.type !== "positional" && !(name in commonArgs)) expect(all, name).toContain(name);
  }
  for (const flag of all) expect(Object.keys(about.args)).toContain(flag);
});

test("a report that cannot be written is said before the measurement", async () => {
  const began = performance.now();
  // the frames of an hour
  const cpu = ["bench", "cpu", "-n", "4000000", "-w", "100000000"];
  expectFailure(await cli([...cpu, "-o", join(dir, "no/o.json")]), 1, "--output", "cannot be written: ENOENT");
  expectFailure(await cli([...cpu, "--html", dir]), 1, `--html ${dir} cannot be written: EISDIR`);
  expectFailure(await cli([...cpu, "-o", join(dir, "a.json", "o.json")]), 1, "cannot be written: ENOTDIR");
  expect(performance.now() - began).toBeLessThan(15_000);
  expect(existsSync(join(dir, "no"))).toBe(false);
});

test("what was measured is printed although the file took no more", async () => {
  const r = await cli([
    "bench",
    "cpu",
    "-s",
    "60",
    "-n",
    "1000",
    "-w",
    "0",
    "-r",
    "1",
    "--repeats",
    "0",
    "-q",
    "-o",
    "/dev/full",
  ]);
  expect(r.stderr).toContain("--output /dev/full cannot be written: ENOSPC");
  expect(r.stdout).toContain("host_to_ep");
  expect(r.status).toBe(1);
});

test.each(["cpu", "link", "live"])("bench %s says what is missing where nothing may be compiled", async (mode) => {
  const r = await cli(["bench", mode, ...(mode === "live" ? ["model"] : [])], { env: { BUN_JSC_useJIT: "0" } });
  expectFailure(r, 77, "the JIT compiler is off", "unset BUN_JSC_useJIT");
});

test("bench link measures the sizes that are named, whatever they are, and each link and design once", async () => {
  const flags = ["-s", "60,1514,65000", "--preset", "imx8mp,imx8mp", "--design", "epnic,epnic", "--json"];
  const { rows } = JSON.parse((await cli(["bench", "link", ...flags])).stdout) as LinkReport;
  expect(rows.map((x) => x.frame_bytes)).toEqual([60, 1514, 65000, 60, 1514, 65000, 60, 1514, 65000]);
});

test("bench link: parameters of the link can be set, and the report says all of them", async () => {
  const flags = ["bench", "link", "-s", "64", "--preset", "imx8mp", "--design", "epnic"];
  const [first, second] = [join(dir, "l1.json"), join(dir, "l2.json")];
  const plain = await cli([...flags, "-o", first]);
  expect(plain.stdout).toMatch(
    /^# link imx8mp: gen=3 width=1 mps=128 mrrs=512 rcb=64 completion=128 tags=16 .*round_trip_ns=900/m,
  );
  const set = await cli([...flags, "--set", "mps=256, round_trip_ns=600", "--json", "-o", second]);
  const report = JSON.parse(set.stdout) as LinkReport;
  expect(report.links).toEqual([expect.objectContaining({ name: "imx8mp", mps: 256, round_trip_ns: 600, tags: 16 })]);
  const before = JSON.parse(await Bun.file(first).text()) as LinkReport;
  const [x, y] = [before, report].map((r) => r.rows.find((row) => row.direction === "host_to_ep")!);
  // two and a half round trips of a lone frame from the host
  expect(x!.latency_us!.p50 - y!.latency_us!.p50).toBeGreaterThan(2.4 * 0.3);
  expect(report.rows[0]!.limit_gbps).toBeGreaterThan(before.rows[0]!.limit_gbps * 1.05);
  const both = await cli(["bench", "--compare", first, second]);
  expect(both.stderr).toContain("not measured alike: imx8mp mps 128 and 256; imx8mp round_trip_ns 900 and 600");
});

test("bench link: the page has a curve for every design, the lone frames and the report, and loads nothing", async () => {
  const [json, page] = [join(dir, "p.json"), join(dir, "p.html")];
  const flags = ["-s", "64,256", "--preset", "imx8mp", "--design", "epnic,memcpy-window", "-o", json, "--html", page];
  const r = await cli(["bench", "link", ...flags]);
  expect(r.status).toBe(0);
  const html = await Bun.file(page).text();
  expect(html).not.toMatch(/NaN|Infinity|undefined|src=|href=|url\(|@import|https?:/);
  const figures = [...html.matchAll(/<figcaption>(.*?)<\/figcaption>(.*?)<\/figure>/gs)];
  const kinds = ["board to host", "host to board", "both directions"].flatMap((way) => [
    `imx8mp, ${way}: share of what the link can carry`,
    `imx8mp, ${way}: frames`,
    ...(way === "both directions" ? [] : [`imx8mp, ${way}: a lone frame of 64 bytes`]),
  ]);
  expect(figures.map((f) => f[1]!)).toEqual(kinds);
  for (const [, title, body] of figures) {
    expect(body!.match(/<polyline /g)).toHaveLength(2);
    expect(body!.match(/<circle /g)).toHaveLength(title!.includes("lone") ? 2 * 21 : 2 * 2);
  }
  const embedded = JSON.parse(html.match(/id="report">(.*)<\/script>/)![1]!) as LinkReport;
  expect(embedded).toEqual(JSON.parse(await Bun.file(json).text()));
  const share = embedded.rows.find((x) => x.design === "epnic" && x.direction === "both" && x.frame_bytes === 256)!;
  expect(html).toContain(`<title>epnic, 256: ${share.share_of_limit.toPrecision(3)} share</title>`);
  for (const x of embedded.rows) expect(x.share_of_limit).toBeCloseTo(x.gbps / x.limit_gbps, 9);
  const same = JSON.parse((await cli(["bench", "--compare", json, json, "--json"])).stdout);
  expect(same.rows).toHaveLength(2 * 3 * 2);
  for (const x of same.rows) expect([x.rate, x.latency_p50 ?? 1]).toEqual([1, 1]);
});

test("bench link: what left out belongs to which design", async () => {
  const flags = ["bench", "link", "-s", "64", "--preset", "imx8mp", "--ablation", "--design"];
  const vduse = await cli([...flags, "epnic-vduse"]);
  expect(vduse.stdout.match(/^imx8mp +epnic-vduse - second-channel +(ep_to_host|host_to_ep) /gm)).toHaveLength(2);
  expect(vduse.stdout.match(/^imx8mp /gm)).toHaveLength(3 + 2 + 2);
  expectFailure(await cli([...flags, "memcpy-window"]), 2, "--ablation is of epnic and epnic-vduse");
});

test("bench cpu measures, prints and writes", async () => {
  const [json, html] = [join(dir, "o.json"), join(dir, "o.html")];
  const r = await cli([
    "bench",
    "cpu",
    "-s",
    "60",
    "-b",
    "8",
    "-n",
    "20000",
    "-w",
    "20000",
    "-r",
    "2",
    "--repeats",
    "1",
    "-o",
    json,
    "--html",
    html,
  ]);
  expect(r.status).toBe(0);
  expect(r.stdout.split("\n")[1]).toBe(
    "# options: sizes=60 batches=8 shape=single frames=20000 warmup=20000 repeats=1 runs=2 ablation=false",
  );
  expect(r.stdout.split("\n")[2]).toMatch(/^DESIGN +DIRECTION +BYTES +BATCH +NS\/FRAME/);
  const report = readReport(json);
  expect(report.rows.map((x) => x.direction)).toEqual(["ep_to_host", "host_to_ep", "both"]);
  for (const x of report.rows) {
    // of both runs; some blocks wait for the stand-in
    expect(x.frames).toBeGreaterThan(1.5 * 20000);
    expect(x.ns_per_frame.median).toBeGreaterThan(10);
    expect(x.ns_per_frame.min).toBeLessThanOrEqual(x.ns_per_frame.median);
  }
  expect(await Bun.file(html).text()).toContain("<svg");
  const j = await cli(["bench", "cpu", "-s", "60", "-n", "1000", "-w", "0", "-r", "1", "--repeats", "0", "-j", "-q"]);
  expect(j.stderr).toBe("");
  expect(JSON.parse(j.stdout)).toMatchObject({ version: 1, mode: "cpu" });
});

test("the JIT's state is read from the mappings", () => {
  expect(jitIsOn()).toBe(true);
  expect(jitIsOn("7fe33da7c000-7fe37da7c000 rwxp 00000000 00:00 0\n")).toBe(true);
  expect(jitIsOn("00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/rwxp\n7ff-800 rw-p 0 0\n")).toBe(false);
});

test("bench cpu says so when somebody ends the process that measures", async () => {
  const command = [process.execPath, join(import.meta.dir, "../../src/main.ts"), "bench", "cpu", "-q"];
  const child = Bun.spawn([...command, "-s", "60", "-w", "100000000"], { stdout: "pipe", stderr: "pipe" });
  const measuring = (): string | undefined => {
    const pids = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").split(" ").filter(Boolean);
    return pids.find((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("__bench_row");
      } catch {
        return false; // git, which tells the commit, has ended meanwhile
      }
    });
  };
  while (measuring() === undefined) await Bun.sleep(20);
  process.kill(Number(measuring()), "SIGKILL");
  expect(await new Response(child.stderr).text()).toContain("measured ep_to_host, 60 bytes, was ended by SIGKILL");
  expect(await child.exited).toBe(1);
});

test("bench cpu that is interrupted reports the rows that are finished", async () => {
  const command = [process.execPath, join(import.meta.dir, "../../src/main.ts"), "bench", "cpu", "-v", "--json"];
  const child = Bun.spawn(
    [...command, "-s", "60,512,1514", "-n", "1000", "-w", "300000", "-r", "1", "--repeats", "0"],
    {
      stdout: "pipe",
      stderr: "pipe",
    },
  );
  const reader = child.stderr.getReader();
  let said = "";
  while (!said.includes("host_to_ep 60 B")) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`ended early: ${said}`);
    said += new TextDecoder().decode(value);
  }
  child.kill("SIGTERM");
  const { rows } = JSON.parse(await new Response(child.stdout).text()) as BenchReport;
  expect(await child.exited).toBe(143);
  expect(rows.length).toBeGreaterThanOrEqual(2);
  expect(rows.length).toBeLessThan(9);
  expect(rows.map((r) => r.direction).slice(0, 2)).toEqual(["ep_to_host", "host_to_ep"]);
});
