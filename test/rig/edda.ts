/**
 * `bun test/rig/edda.ts [--irq msi|msix|both] [--mode held|plain] [--channels N] [--entries N] [--rounds N] [--json]`:
 * Linux's own dw-edma-pcie driver, unchanged, in a QEMU guest against the eDMA model behind 16c3:edda (docs/edda.md).
 * The guest's test client moves scattered lists both ways on all channels and compares every byte.
 */
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { runAlone } from "./alone.ts";
import { RigError } from "./apt.ts";
import { logDir, repoDir } from "./cache.ts";
import { emptyFindings } from "./checks.ts";
import { eddaImage } from "./edda-module.ts";
import { Guest } from "./guest.ts";
import { fetchAll } from "./packages.ts";
import type { Scenario } from "./scenario.ts";
import { dieWithRig, stop, undoLater } from "./undo.ts";

interface Options {
  irq: string;
  mode: string;
  channels: number;
  entries: number;
  rounds: number;
}

interface Result extends Options {
  kernel: string;
  ok: boolean;
  interrupts: number;
  lines: string[];
  model: Record<string, number>;
}

async function edda(o: Options, say: (text: string) => void): Promise<Result> {
  const releases = await fetchAll(["6.1"], { say });
  const kernel = releases["6.1"] as string;
  const initrd = await eddaImage(kernel, say);
  const dir = join(logDir(), `edda-${o.irq}-${o.mode}-${process.pid}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const socket = join(dir, "edda.sock");
  const logPath = join(dir, "edda.log");
  const log = openSync(logPath, "w");
  const program = join(repoDir, "src/hw/model/edda.ts");
  const flags = ["--irq", o.irq, "--channels", String(o.channels), "--json"];
  const server = Bun.spawn([...dieWithRig, process.execPath, program, `${o.mode}:${socket}`, ...flags], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: log,
  });
  closeSync(log);
  const forget = undoLater("edda.ts", () => stop(server, 2000));
  const text = (): string => readFileSync(logPath, "utf8");
  for (let i = 0; !text().includes("is served"); i++) {
    if (i > 500 || server.exitCode !== null) throw new RigError(`edda.ts does not serve:\n${text()}`);
    await Bun.sleep(20);
  }
  const guest = new Guest({ kernel: "6.1", dir, socket, initrd, load: [] });
  try {
    await guest.start();
    await guest.must("insmod /modules/dw-edma.ko && insmod /modules/dw-edma-pcie.ko", 60_000);
    const client = await guest.sh(
      `insmod /modules/edda_client.ko entries=${o.entries} rounds=${o.rounds} 2>&1; dmesg | grep -E 'edda-client|dw-edma'`,
      180_000,
    );
    const lines = client.text.split("\n").map((l) => l.replace(/^\[[^\]]*\] /, ""));
    const irqs = await guest.sh("grep -i edma /proc/interrupts");
    const unload = await guest.sh("rmmod edda_client && rmmod dw_edma_pcie && rmmod dw_edma");
    const ok = lines.some((l) => l.includes("edda-client: PASS")) && unload.status === 0;
    if (!ok) throw new RigError(`the guest says:\n${client.text}\n${unload.text}\n--- edda.ts\n${text()}`);
    const interrupts = [...irqs.text.matchAll(/^\s*\d+:\s+(\d+)/gm)].reduce((sum, m) => sum + Number(m[1]), 0);
    await guest.close();
    await forget();
    const model = JSON.parse(await new Response(server.stdout).text()) as Record<string, number>;
    rmSync(dir, { recursive: true, force: true });
    return { ...o, kernel, ok, interrupts, lines, model };
  } catch (e) {
    await guest.close();
    throw e;
  }
}

/** Both message kinds at once, in the mode of the combination. */
const scenario: Scenario = {
  name: "edda",
  about: "Linux's own dw-edma-pcie driver, unchanged, on the eDMA model (docs/edda.md)",
  fits: (c) => c.kernel === "6.1" && c.personality === "modern" && c.irq === "msix",
  run: async (c) => {
    const r = await edda({ irq: "both", mode: c.mode, channels: 2, entries: 200, rounds: 5 }, (t) =>
      console.error(`rig: ${t}`),
    );
    const found = emptyFindings();
    found.notes.push(`${r.interrupts} interrupts`, JSON.stringify(r.model));
    return found;
  },
};
export const EDDA_SCENARIOS: readonly Scenario[] = [scenario];

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      irq: { type: "string", default: "both" },
      mode: { type: "string", default: "held" },
      channels: { type: "string", default: "2" },
      entries: { type: "string", default: "200" },
      rounds: { type: "string", default: "5" },
      json: { type: "boolean", default: false },
    },
  });
  const result = await edda(
    {
      irq: values.irq,
      mode: values.mode,
      channels: Number(values.channels),
      entries: Number(values.entries),
      rounds: Number(values.rounds),
    },
    (t) => console.error(`rig: ${t}`),
  );
  if (values.json) {
    console.log(JSON.stringify(result));
    return;
  }
  for (const l of result.lines) console.log(l);
  console.log(
    `ok   edda ${result.kernel} ${result.irq} ${result.mode}: ${result.interrupts} interrupts,`,
    result.model,
  );
}

if (import.meta.main) await runAlone(main);
