import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { type LiveReport, LiveRowSchema, liveTable, liveWarnings } from "../../src/cmd/_bench_live.ts";
import { liveHtml } from "../../src/cmd/_live_html.ts";
import { lock } from "../../src/cmd/_lock.ts";
import { newReport } from "../../src/cmd/_report.ts";
import type { LiveRow } from "../../src/engine/bench/live.ts";
import { ip, needTap } from "../support/netns.ts";
import { cli, expectFailure } from "./_cli.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(60_000);

const dir = mkdtempSync(join(tmpdir(), "epnic-live-"));
afterAll(() => rmSync(dir, { recursive: true }));

const flat = (n: number) => ({ min: n, median: n, max: n });
const row = (name: LiveRow["case"], bytes: number, rate: number, more: Partial<LiveRow> = {}): LiveRow => ({
  case: name,
  frame_bytes: bytes,
  window: name === "to_host" ? null : name === "both" ? 64 : 1,
  runs: 3,
  seconds: 3,
  frames_to_host: 3e6 * rate,
  frames_from_host: name === "to_host" ? 0 : 3e6 * rate,
  lost: 0,
  wrong: 0,
  dropped: 0,
  mpps_to_host: flat(rate),
  gbps_to_host: flat((rate * 8 * bytes) / 1000),
  mpps_from_host: flat(name === "to_host" ? 0 : rate),
  gbps_from_host: flat(name === "to_host" ? 0 : (rate * 8 * bytes) / 1000),
  rtt_us: name === "to_host" ? null : { min: 9, p10: 10, p50: 12.5, p90: 20, p99: 40.25, p999: 200, max: 900 },
  cpu_ns_per_frame: flat(1000 / rate),
  cpu_share: flat(0.98),
  ...more,
});
const report = (rows: LiveRow[]): LiveReport => ({ ...newReport("live", null, {}), rows });

test("wrong command lines are usage errors that name the way out", async () => {
  expectFailure(await cli(["bench", "live"]), 2, "no device is named", "epnic probe");
  expectFailure(await cli(["bench", "live", "modle"]), 3, "did you mean 'model'?");
  expectFailure(await cli(["bench", "live", "model", "--seconds", "0"]), 2, "--seconds is '0'");
  expectFailure(await cli(["bench", "live", "model", "--window", "300"]), 2, "--window is '300'", "1 to 256");
  expectFailure(await cli(["bench", "live", "model", "--peer", "1.2.3", "--run-dir", dir]), 2, "--peer is '1.2.3'");
  const large = await cli(["bench", "live", "model", "--sizes", "9000", "--run-dir", dir]);
  expectFailure(large, 2, "do not fit the MTU 1500", "set --mtu");
});

test("a device that a run holds is left alone", async () => {
  const held = lock(dir, "model");
  try {
    expectFailure(await cli(["bench", "live", "model", "--run-dir", dir]), 4, `in use by process ${process.pid}`);
  } finally {
    held.release();
  }
});

test("table and warnings", () => {
  const r = report([row("round_trip", 60, 0.08), row("to_host", 60, 1.5), row("both", 1514, 0.25, { lost: 3 })]);
  const lines = liveTable(r).split("\n").slice(1);
  expect(lines.map((l) => l.trimEnd())).toEqual([
    "# out: to the host, in: from it, rtt in us, cpu: share of one CPU",
    "CASE        BYTES  WINDOW  MPPS OUT  GB/S OUT  MPPS IN  GB/S IN  RTT P50   P99  LOST  CPU %",
    "round_trip     60       1     0.080     0.038    0.080    0.038     12.5  40.3     0     98",
    "to_host        60       -     1.500     0.720        -        -        -     -     0     98",
    "both         1514      64     0.250     3.028    0.250    3.028     12.5  40.3     3     98",
  ]);
  expect(liveWarnings(r)).toEqual(["3 echoes got no answer within 250 ms"]);
  const mute = report([row("round_trip", 60, 0.08, { lost: 4, rtt_us: null })]);
  expect(liveWarnings(mute)[1]).toContain("no echo was answered: is --address in the network of --peer");
  const bad = report([row("to_host", 60, 1, { cpu_share: flat(0.4) }), row("both", 60, 1, { wrong: 2 })]);
  expect(liveWarnings(bad)).toHaveLength(2);
});

test("the page has a curve for every case and direction, the round trips, and the report itself", () => {
  const r = report([
    row("round_trip", 60, 0.08),
    row("to_host", 60, 1.5),
    row("to_host", 1514, 1.25),
    row("both", 60, 0.5, { rtt_us: null }),
    row("both", 1514, 0.25, { lost: 3 }),
  ]);
  r.options.device = "a<b>";
  const html = liveHtml(r);
  expect(html).toContain("<h1>epnic bench live: a&lt;b&gt;</h1>");
  expect(html.match(/<polyline/g)).toHaveLength(3 + 3 + 2);
  expect(html.match(/<circle/g)).toHaveLength(6 + 6 + 2 * 7);
  expect(html).toContain("to the host, nothing back, 1514: 15.1 Gb/s");
  expect(html).toContain("1514 B, 64 under way, 99: 40.3 us");
  expect(html).not.toMatch(/NaN|Infinity|undefined|src=|href=/);
  const json = html.match(/id="report">(.*)<\/script>/)![1] as string;
  expect(JSON.parse(json)).toEqual(r);
  expect(liveHtml(report([]))).toContain("<p>no rows</p>");
});

test("--compare prints what b has of a, and refuses what is no report", async () => {
  const [a, b] = [join(dir, "a.json"), join(dir, "b.json")];
  writeFileSync(a, JSON.stringify(report([row("to_host", 60, 1), row("both", 60, 0.5), row("both", 99, 1)])));
  writeFileSync(b, JSON.stringify(report([row("both", 60, 0.25), row("to_host", 60, 2)])));
  const r = await cli(["bench", "--compare", a, b, "--json"]);
  expect(r.status).toBe(0);
  const { rows } = JSON.parse(r.stdout);
  expect(
    rows.map((x: Record<string, unknown>) => [x.case, x.rate_out, x.rate_in, x.rtt_p50, x.cpu_ns_per_frame]),
  ).toEqual([
    ["to_host", 2, null, null, 0.5],
    ["both", 0.5, 0.5, 1, 2],
  ]);
  writeFileSync(b, JSON.stringify({ ...report([]), rows: [{ ...row("both", 60, 1), lost: "none" }] }));
  expectFailure(await cli(["bench", "--compare", a, b]), 2, "rows.0.lost");
});

const why = needTap();
if (why !== "") console.log(`bench live: ${why}`);

test.skipIf(why !== "")("a whole run: JSON by the schema, also in the file, and the lock is free again", async () => {
  const ns = `h12cmd${process.pid % 1000}`;
  ip("netns", "add", ns);
  try {
    const file = join(dir, "out.json");
    const flags = ["--host-netns", ns, "--host-tap", "h12cmd0", "--run-dir", dir, "--seconds", "0.1", "--runs", "1"];
    const r = await cli(["bench", "live", "model", ...flags, "--sizes", "60", "--json", "--output", file]);
    expect(r.stderr).toContain("host driver is up");
    expect(r.status).toBe(0);
    const got = JSON.parse(r.stdout) as LiveReport;
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual(got);
    expect(v.safeParse(v.array(LiveRowSchema), got.rows).success).toBe(true);
    expect(got.options).toMatchObject({ mtu: 1500, personality: "auto", irq: "auto", fetch: "edma", host: "built-in" });
    expect([got.mode, got.options.device, got.rows.length]).toEqual(["live", "model", 3]);
    expect(got.rows.map((x) => x.lost + x.wrong)).toEqual([0, 0, 0]);
    lock(dir, "model").release();
  } finally {
    ip("netns", "del", ns);
  }
});
