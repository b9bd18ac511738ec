/**
 * `bun test/rig/live.ts [--kernel K] [--personality P] [--irq I] [--mode held|plain] [--seconds S] [--sizes LIST] [--json]`:
 * `epnic bench live` with an unmodified Linux guest in QEMU as the host (docs/bench-live.md).
 */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { runAlone } from "./alone.ts";
import { RigError } from "./apt.ts";
import { epnic } from "./board.ts";
import { logDir } from "./cache.ts";
import { emptyFindings } from "./checks.ts";
import { Guest } from "./guest.ts";
import { fetchAll, KERNELS, type KernelName } from "./packages.ts";
import type { Scenario } from "./scenario.ts";
import { dieWithRig, stop, undoLater } from "./undo.ts";

interface Options {
  kernel: string;
  personality: string;
  irq: string;
  mode: string;
  seconds: string;
  sizes: string;
  json: boolean;
}

/** @returns what `epnic bench live` printed */
async function live(o: Options): Promise<string> {
  const kernel = KERNELS.find((k) => k === o.kernel) as KernelName | undefined;
  if (kernel === undefined) throw new RigError(`--kernel is '${o.kernel}', expected one of ${KERNELS.join(", ")}`);
  await fetchAll([kernel], { say: (t) => console.error(`rig: ${t}`) });
  const dir = join(logDir(), `live-${kernel}-${o.personality}-${o.irq}-${process.pid}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const socket = join(dir, "vfu.sock");
  const logPath = join(dir, "epnic.log");
  const log = openSync(logPath, "w");
  const flags = [
    ...["--vfio-user", `${o.mode}:${socket}`, "--personality", o.personality, "--irq", o.irq],
    ...["--model-core", `${o.personality}-${o.irq}`, "--run-dir", join(dir, "run"), "--wait", "300"],
    ...["--seconds", o.seconds, "--sizes", o.sizes, "--runs", "1", ...(o.json ? ["--json"] : [])],
  ];
  const bench = Bun.spawn([...dieWithRig, ...epnic(), "bench", "live", "model", ...flags], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: log,
    env: { ...process.env, NO_COLOR: "1" },
  });
  closeSync(log);
  undoLater("epnic bench", () => stop(bench, 3000));
  const tail = (): string => readFileSync(logPath, "utf8").trimEnd().split("\n").slice(-15).join("\n");
  for (let i = 0; !existsSync(socket); i++) {
    if (i > 500 || bench.exitCode !== null) throw new RigError(`epnic bench live does not listen:\n${tail()}`);
    await Bun.sleep(20);
  }
  const guest = new Guest({ kernel, dir, socket });
  await guest.start();
  await guest.must(
    "cd /sys/class/net; for i in *; do [ -e $i/device ] && break; done; ip addr add 198.18.0.2/24 dev $i; ip link set $i up",
  );
  const [text, status] = await Promise.all([new Response(bench.stdout).text(), bench.exited]);
  if (status !== 0) throw new RigError(`epnic bench live ended with ${status}:\n${tail()}`);
  // the function is gone now, and QEMU 11.1 does not always survive a guest that looks at it
  await guest.kill();
  console.error(tail());
  await guest.close();
  rmSync(dir, { recursive: true, force: true });
  return text;
}

/** what is used of a row of the report */
interface Row {
  case: string;
  frame_bytes: number;
  lost: number;
  wrong: number;
  mpps_to_host?: { median: number };
  mpps_from_host?: { median: number };
  rtt_us?: { p50: number } | null;
}

const kpps = (rate?: { median: number }): string => (rate ? `${(rate.median * 1000).toFixed(1)} kpps` : "-");

const scenario: Scenario = {
  name: "live",
  about: "epnic bench live: frames of two sizes each way, the guest's own netdev as the other station",
  fits: (c) => c.mode === "held" && c.irq === "msix",
  run: async (c) => {
    const text = await live({ ...c, seconds: "1", sizes: "60,1514", json: true });
    const found = emptyFindings();
    const report = JSON.parse(text) as { rows: Row[] };
    for (const r of report.rows) {
      if (r.wrong > 0) throw new RigError(`live ${r.case} ${r.frame_bytes}: ${JSON.stringify(r)}`);
      found.notes.push(
        `${r.case} ${r.frame_bytes}: ${kpps(r.mpps_to_host)} to host, ${kpps(r.mpps_from_host)} from host${r.rtt_us ? `, ${r.rtt_us.p50.toFixed(0)} us` : ""}${r.lost ? `, ${r.lost} not back within 250 ms` : ""}`,
      );
    }
    return found;
  },
};
export const LIVE_SCENARIOS: readonly Scenario[] = [scenario];

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      kernel: { type: "string", default: "6.12" },
      personality: { type: "string", default: "modern" },
      irq: { type: "string", default: "msix" },
      mode: { type: "string", default: "held" },
      seconds: { type: "string", default: "2" },
      sizes: { type: "string", default: "60,1514" },
      json: { type: "boolean", default: false },
    },
  });
  process.stdout.write(await live(values));
}

if (import.meta.main) await runAlone(main);
