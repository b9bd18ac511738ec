/**
 * `bun test/rig/peer.ts [--rounds N] [--sizes LIST] [--seconds S] [--peers DIR] [--work DIR] [-o FILE] [--table FILE]`:
 * `epnic bench cpu` and DPDK's testpmd as a vhost switch, in alternation on the same CPU (docs/bench.md "Beside
 * others"). Needs root, Debian's mirror the first time, and the peers' scripts.
 *
 * Both get the CPU in the same way: a session (scheduler autogroup) of their own with the same nice value, pinned to
 * CPU 1. What was mounted and the huge pages that were taken are given back.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { type BenchReport, newReport } from "../../src/cmd/_report.ts";
import { RigError } from "./apt.ts";
import { epnic } from "./board.ts";
import { handleSignals, undoAll, undoLater } from "./undo.ts";

const { values: o } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    sizes: { type: "string", default: "64,256,1518,9018,65000" },
    seconds: { type: "string", default: "4" },
    peers: { type: "string", default: resolve(import.meta.dir, "../../../shared/peers") },
    work: { type: "string", default: join(tmpdir(), "epnic-peers") },
    output: { type: "string", short: "o" },
    table: { type: "string" },
  },
});

const HUGE = "/proc/sys/vm/nr_hugepages";
/** nice value of the scheduler autogroup of what is measured */
const NICE = -12;
/** a forwarder that had less of its CPU measured the others too */
const SHARE = 0.85;

/** One row of testpmd-vhost.py, as far as it is used here. */
interface PeerRow {
  pps: number;
  fwd_cpu_share: number;
  ns_per_packet_cpu: number | null;
  fwd_ns_per_packet?: number;
}
interface Round {
  frame_bytes: number;
  round: number;
  load1: number;
  testpmd_ns: number;
  testpmd_cpu_share: number;
  testpmd_busy_ns: number | null;
  epnic_ns: number;
  epnic_cpu_share: number | null;
  /** the same frames as Linux's TCP lays large ones out; null for sizes that are one piece anyway */
  epnic_tso_ns: number | null;
}

/** Run in a session of its own. @returns what it printed @throws RigError with the end of what it said */
async function run(cmd: readonly string[], env: Record<string, string>, limitMs: number): Promise<string> {
  const wrapped = `echo ${NICE} > /proc/self/autogroup; exec "$@"`;
  const child = Bun.spawn(["setsid", "sh", "-c", wrapped, "sh", ...cmd], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...env },
  });
  const end = (): void => {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // nobody of the session is left
    }
  };
  const done = undoLater(cmd[0]!, end);
  const timer = setTimeout(end, limitMs);
  const [out, err, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  clearTimeout(timer);
  await done();
  if (status !== 0) throw new RigError(`${cmd.join(" ")} ended with ${status}:\n${`${out}${err}`.slice(-2000)}`);
  return out;
}

async function testpmd(bytes: number): Promise<PeerRow> {
  // A super-frame in one descriptor needs a ring without mergeable buffers there.
  const flags = ["--sizes", String(bytes), "--secs", o.seconds, ...(bytes > 9728 ? ["--mrg", "0"] : [])];
  const text = await run(["python3", join(o.peers, "testpmd-vhost.py"), ...flags], { WORK: o.work }, 120_000);
  const line = text.trim().split("\n").at(-1) ?? "";
  const row = JSON.parse(line) as PeerRow;
  if (row.ns_per_packet_cpu === null || row.pps === 0) throw new RigError(`testpmd moved nothing: ${line}`);
  return row;
}

/** Both directions loaded, as testpmd has them; frames in turns of 32, its burst. */
async function bench(bytes: number, shape: string): Promise<{ ns: number; share: number | null }> {
  const many = bytes > 9100 ? ["-n", "20000", "-w", "300000"] : ["-n", "200000", "-w", "3000000"];
  // testpmd takes the core as it is, so must we.
  const flags = ["-j", "bench", "cpu", "-s", String(bytes), "-b", "32", "--cpu", "1", "--repeats", "0"];
  flags.push("--shape", shape, ...many);
  const report = JSON.parse(await run([...epnic(), ...flags], { NO_COLOR: "1" }, 120_000)) as BenchReport;
  const row = report.rows.find((r) => r.direction === "both");
  if (row === undefined) throw new RigError("epnic bench cpu gave no row for both directions");
  return { ns: row.ns_per_frame.median, share: row.cpu_share };
}

/** Root of the peers' chroot; made by their script when it is not there. */
async function prepare(): Promise<string> {
  if (!existsSync(join(o.peers, "testpmd-vhost.py")))
    throw new RigError(`no testpmd-vhost.py in ${o.peers}, see --peers`);
  if (process.getuid?.() !== 0) throw new RigError("testpmd needs root: huge pages and a chroot");
  const root = join(o.work, "trixie");
  if (!existsSync(join(root, "usr/bin/dpdk-testpmd"))) {
    if (Bun.which("debootstrap") === null) throw new RigError("no debootstrap: apt-get install debootstrap");
    console.error(`peer: installing DPDK below ${o.work}`);
    mkdirSync(o.work, { recursive: true });
    await run(["bash", join(o.peers, "setup.sh")], { WORK: o.work }, 1_800_000);
  }
  const pages = readFileSync(HUGE, "utf8");
  undoLater("huge pages", () => writeFileSync(HUGE, pages));
  for (const at of ["proc", "sys", "mnt/huge", "dev"]) {
    const point = join(root, at);
    const mounted = (): boolean => readFileSync("/proc/mounts", "utf8").includes(` ${point} `);
    if (mounted()) continue;
    undoLater(point, () => {
      if (mounted() && Bun.spawnSync(["umount", point]).exitCode !== 0) throw new Error("umount failed");
    });
  }
  return root;
}

const spread = (values: readonly number[]): string => {
  const s = [...values].sort((a, b) => a - b).map((v) => (v >= 100 ? v.toFixed(0) : v.toFixed(1)));
  return s.length === 1 || s[0] === s.at(-1) ? s[0]! : `${s[0]} - ${s.at(-1)}`;
};

/** One line a size: the least and the greatest of the rounds, and ratios of neighbours in time. */
function table(rounds: readonly Round[]): string {
  const lines = [
    "| bytes | testpmd ns | epnic ns | ratio | epnic, TSO layout ns | ratio |",
    "|---|---|---|---|---|---|",
  ];
  for (const bytes of new Set(rounds.map((r) => r.frame_bytes))) {
    const mine = rounds.filter((r) => r.frame_bytes === bytes);
    const tso = mine.flatMap((r) => (r.epnic_tso_ns === null ? [] : [{ ns: r.epnic_tso_ns, peer: r.testpmd_ns }]));
    const cells = [
      String(bytes),
      spread(mine.map((r) => r.testpmd_ns)),
      spread(mine.map((r) => r.epnic_ns)),
      spread(mine.map((r) => r.testpmd_ns / r.epnic_ns)),
      tso.length === 0 ? "" : spread(tso.map((t) => t.ns)),
      tso.length === 0 ? "" : spread(tso.map((t) => t.peer / t.ns)),
    ];
    lines.push(`| ${cells.join(" | ")} |`);
  }
  const poor = rounds.filter((r) => r.testpmd_cpu_share < SHARE || (r.epnic_cpu_share ?? 1) < SHARE).length;
  if (poor > 0)
    lines.push("", `${poor} of ${rounds.length} pairs had less than ${SHARE} of their CPU: others were running.`);
  return `${lines.join("\n")}\n`;
}

async function main(): Promise<void> {
  const count = Number(o.rounds);
  const sizes = o.sizes.split(",").map(Number);
  if (!(count >= 1 && count <= 20)) throw new RigError(`--rounds is '${o.rounds}', it must be 1 to 20`);
  if (sizes.some((s) => !(s >= 60 && s <= 65000)))
    throw new RigError(`--sizes is '${o.sizes}', each must be 60 to 65000`);
  await prepare();
  const rounds: Round[] = [];
  for (let round = 1; round <= count; round++)
    for (const bytes of sizes) {
      const load1 = loadavg()[0]!;
      const peer = await testpmd(bytes);
      const own = await bench(bytes, "single");
      const tso = bytes > 9100 ? await bench(bytes, "tso") : null;
      rounds.push({
        frame_bytes: bytes,
        round,
        load1,
        testpmd_ns: peer.ns_per_packet_cpu as number,
        testpmd_cpu_share: peer.fwd_cpu_share,
        testpmd_busy_ns: peer.fwd_ns_per_packet ?? null,
        epnic_ns: own.ns,
        epnic_cpu_share: own.share,
        epnic_tso_ns: tso?.ns ?? null,
      });
      console.error(
        `peer: round ${round}, ${bytes} bytes: testpmd ${peer.ns_per_packet_cpu} ns, epnic ${own.ns.toFixed(1)} ns`,
      );
    }
  const { version, epnic: release, commit, started, machine, bun, jit } = newReport("cpu", null, {});
  const report = { version, epnic: release, commit, started, machine, bun, jit, mode: "peer", rows: rounds };
  if (o.output !== undefined) writeFileSync(o.output, `${JSON.stringify(report, null, 2)}\n`);
  const text = table(rounds);
  if (o.table !== undefined) writeFileSync(o.table, text);
  process.stdout.write(text);
}

handleSignals();
let status = 0;
try {
  await main();
} catch (e) {
  console.error(`peer: ${(e as Error).message}`);
  status = 1;
}
await undoAll();
process.exit(status);
