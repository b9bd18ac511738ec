/**
 * `bun run test`: everything. Installs the Debian packages that the tests need, then linter, types, build, unit and spec
 * tests, the demo and the QEMU rig's subset, each with its own counts, and at the end one line over all suites:
 *   N passed, N failed, N skipped
 * `--fast` leaves out the demo and the rig (and says so).
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({ options: { fast: { type: "boolean", default: false } }, strict: true });
const root = join(import.meta.dir, "..");
const bun = process.execPath;
const bin = join(root, "node_modules/.bin");
const tmp = mkdtempSync(join(tmpdir(), "epnic-test-"));

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}
const results: { suite: string; counts: Counts; seconds: number; note: string }[] = [];
let child: ReturnType<typeof Bun.spawn> | null = null;

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    child?.kill(signal);
    rmSync(tmp, { recursive: true, force: true });
    process.exit(1);
  });
}

/** Run with the output passed through. @returns exit status */
async function run(cmd: string[], env: Record<string, string> = {}): Promise<number> {
  child = Bun.spawn(cmd, { cwd: root, env: { ...process.env, ...env }, stdio: ["ignore", "inherit", "inherit"] });
  const code = await child.exited;
  child = null;
  return code;
}

async function suite(name: string, work: () => Promise<Counts & { note?: string }>): Promise<void> {
  console.log(`\n=== ${name}`);
  const since = Date.now();
  const { note = "", ...counts } = await work();
  results.push({ suite: name, counts, seconds: (Date.now() - since) / 1000, note });
}

const one = (ok: boolean): Counts => ({ passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 });

/** What a fresh Debian with Node may lack: [command or file to look for, package] */
const TOOLS: [string, string][] = [
  ["ip", "iproute2"],
  ["ping", "iputils-ping"],
  ["busybox", "busybox-static"],
  ["xz", "xz-utils"],
];

async function packages(): Promise<Counts & { note?: string }> {
  const missing = TOOLS.filter(([tool]) => Bun.which(tool) === null && !existsSync(tool)).map(([, p]) => p);
  if (missing.length === 0) return { passed: 0, failed: 0, skipped: 0, note: "all there" };
  if (process.getuid?.() !== 0) {
    console.log(
      `missing: ${missing.join(" ")}; not root, so nothing is installed. Do: sudo apt-get install ${missing.join(" ")}`,
    );
    return { ...one(false), note: `missing ${missing.join(" ")}` };
  }
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  await run(["apt-get", "-qq", "update"], env);
  const code = await run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", ...missing], env);
  return { ...one(code === 0), note: `installed ${missing.join(" ")}` };
}

async function units(): Promise<Counts & { note?: string }> {
  const file = join(tmp, "junit.xml");
  const code = await run([bun, "test", "--reporter=junit", `--reporter-outfile=${file}`]);
  if (!existsSync(file)) return { passed: 0, failed: 1, skipped: 0, note: `bun test ended with ${code}, no report` };
  const head = /<testsuites[^>]*>/.exec(readFileSync(file, "utf8"))?.[0] ?? "";
  const count = (key: string): number => Number(new RegExp(`${key}="(\\d+)"`).exec(head)?.[1] ?? Number.NaN);
  const [tests, failed, skipped] = [count("tests"), count("failures"), count("skipped")];
  const counts = { passed: tests - failed - skipped, failed, skipped };
  // A crash or an error outside a test does not count as a failure in the report.
  if (code !== 0 && failed === 0) return { ...counts, failed: 1, note: `bun test ended with ${code}` };
  return counts;
}

async function rig(): Promise<Counts & { note?: string }> {
  const cmd = [bun, "test/rig/rig.ts", "fast", "--json", "--strict"];
  // The compiled binary is what users run, so it is what the guests meet.
  const env = { ...process.env, EPNIC_BIN: join(root, "dist/epnic") };
  const rigProcess = Bun.spawn(cmd, { cwd: root, env, stdio: ["ignore", "pipe", "inherit"] });
  child = rigProcess;
  const text = await new Response(rigProcess.stdout).text();
  const code = await rigProcess.exited;
  child = null;
  process.stdout.write(text);
  const rows = text
    .split("\n")
    .filter((l) => l.startsWith("{"))
    .map((l) => JSON.parse(l) as { ok: boolean });
  const failed = rows.filter((r) => !r.ok).length;
  const counts = { passed: rows.length - failed, failed, skipped: 0 };
  if (rows.length === 0 || (code !== 0 && failed === 0)) {
    return { ...counts, failed: 1, note: `the rig ended with ${code} after ${rows.length} scenarios` };
  }
  return counts;
}

const since = Date.now();
await suite("packages", packages);
await suite("lint", async () => one((await run([join(bin, "biome"), "check", "."])) === 0));
await suite("types", async () => one((await run([join(bin, "tsc"), "--noEmit"])) === 0));
await suite("build", async () => one((await run([bun, ".ci/build.ts", "--musl"])) === 0));
await suite("bun test", units);
if (flags.fast) console.log("\n--fast: demo and rig were not run");
else {
  await suite("demo", async () => one((await run([bun, "test/rig/demo.ts"])) === 0));
  await suite("rig", rig);
}
rmSync(tmp, { recursive: true, force: true });

console.log("\nsuite       passed  failed skipped  seconds");
const total: Counts = { passed: 0, failed: 0, skipped: 0 };
for (const r of results) {
  const c = r.counts;
  total.passed += c.passed;
  total.failed += c.failed;
  total.skipped += c.skipped;
  const cells = [String(c.passed).padStart(7), String(c.failed).padStart(8), String(c.skipped).padStart(8)];
  console.log(`${r.suite.padEnd(10)} ${cells.join("")} ${r.seconds.toFixed(1).padStart(8)}  ${r.note}`);
}
console.log(`all suites in ${((Date.now() - since) / 1000).toFixed(0)} s`);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(total.failed === 0 ? 0 : 1);
