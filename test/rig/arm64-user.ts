/**
 * Scenario `arm64-user`: epnic-arm64 under qemu-aarch64, the user emulator, on this machine's kernel. Every call of the C
 * library, every structure and every access of the data path is arm64's; no machine is booted.
 * Two network namespaces, the built-in model between them, both personalities, both back ends of mem.ts.
 */
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { RigError } from "./apt.ts";
import { ARM64 } from "./arch.ts";
import { arm64Root, emulator, fetchArm64User } from "./arm64-packages.ts";
import { boardBinary } from "./board-image.ts";
import { busybox, fromRoot, logDir } from "./cache.ts";
import { emptyFindings, type Findings } from "./checks.ts";
import { dieWithRig, stop, undoLater } from "./undo.ts";

const BOARD = "10.95.0.1";
const HOST = "10.95.0.2";
const LIMIT_MS = 240_000;

const quoted = (words: readonly string[]): string => words.map((w) => `'${w}'`).join(" ");

/** Runs in namespaces of its own (network, mounts), which end with it, however it ends. */
const script = (epnic: readonly string[], personality: "modern" | "legacy", log: string): string => `
  mount -t tmpfs none /run && mkdir -p /run/netns
  IP netns add host && IP -n host link set lo up && IP link set lo up || exit 1
  ${quoted(epnic)} run model --strict --personality ${personality} --model-core ${personality}-msix --port tap --port-name b0 \
    --host-tap h0 --host-netns host --run-dir /run/epnic > '${log}' 2>&1 & pid=$!
  within() { n=0; until eval "$2" > /dev/null 2>&1; do n=$((n+1)); [ $n -gt $1 ] && { echo "not: $2"; exit 1; }; kill -0 $pid || exit 1; sleep 0.2; done; }
  within 200 'IP link show b0 && IP -n host link show h0'
  IP addr add ${BOARD}/24 dev b0 && IP link set b0 up && IP -n host addr add ${HOST}/24 dev h0 && IP -n host link set h0 up
  HOSTSIDE="nsenter --net=/run/netns/host"
  within 50 "BB ping -q -c 1 -W 1 ${HOST}"
  BB ping -q -c 5 -W 5 ${HOST} || exit 1
  $HOSTSIDE $BB ping -q -c 5 -W 5 ${BOARD} || exit 1
  head -c 300000 /dev/urandom > /run/data
  check() { [ "$(sha256sum < /run/data)" = "$(sha256sum < /run/got)" ] || { echo "TCP $1: the data differ"; exit 1; }; }
  (sleep 60 | $HOSTSIDE timeout 60 $BB nc -l -p 5000 > /run/got) & sleep 1
  timeout 60 $BB nc -w 20 ${HOST} 5000 < /run/data
  within 100 '[ $(stat -c %s /run/got) = 300000 ]'; check "to the host"
  (sleep 60 | timeout 60 $BB nc -l -p 5001 > /run/got) & sleep 1
  $HOSTSIDE timeout 60 $BB nc -w 20 ${BOARD} 5001 < /run/data
  within 100 '[ $(stat -c %s /run/got) = 300000 ]'; check "to the board"
  echo "@@STAT"; ${quoted(epnic)} stat model --json --run-dir /run/epnic || exit 1
  kill -TERM $pid; wait $pid; echo "@@STATUS $?"`;

interface Stat {
  counters: Record<string, number>;
  state: { features: string; header_bytes: number };
}

async function round(
  epnic: readonly string[],
  personality: "modern" | "legacy",
  memory: string,
  dir: string,
): Promise<Stat> {
  const log = join(dir, `${personality}.log`);
  const prelude = `BB='${busybox()}'; BB() { "$BB" "$@"; }; IP() { ${quoted(fromRoot("usr/bin/ip"))} "$@"; };\n`;
  const child = Bun.spawn([...dieWithRig, "unshare", "-nm", "sh", "-c", prelude + script(epnic, personality, log)], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, NO_COLOR: "1", EPNIC_MEM: memory },
  });
  const forget = undoLater("epnic-arm64", () => stop(child, 2000));
  const timer = setTimeout(() => child.kill("SIGKILL"), LIMIT_MS);
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  await child.exited;
  clearTimeout(timer);
  await forget();
  const stat = out.match(/@@STAT\n(\{.*\})/s)?.[1];
  if (stat === undefined || !/@@STATUS 0\n/.test(out)) {
    const said = existsSync(log) ? readFileSync(log, "utf8") : "";
    throw new RigError(`arm64-user ${personality} over ${memory}:\n${out}${err}\n--- epnic-arm64\n${said}`);
  }
  return JSON.parse(stat) as Stat;
}

/** One command that must succeed. @returns its output */
function once(command: readonly string[], expected: RegExp): string {
  const r = Bun.spawnSync([...dieWithRig, ...command], { stdin: "ignore", timeout: LIMIT_MS });
  const text = r.stdout.toString() + r.stderr.toString();
  if (r.exitCode !== 0 || !expected.test(text))
    throw new RigError(`${command.slice(-2).join(" ")} ended with ${r.exitCode}:\n${text}`);
  return text;
}

/** @throws RigError with what epnic-arm64 said */
export async function arm64User(): Promise<Findings> {
  const say = (text: string): void => console.error(`rig: ${text}`);
  const found = emptyFindings();
  await fetchArm64User(say);
  const dir = join(logDir(), `arm64-user-${process.pid}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const epnic = [...emulator("usr/bin/qemu-aarch64"), "-L", arm64Root(), await boardBinary(ARM64)];
  found.notes.push(once([...epnic, "--version"], /^epnic \d/).trim());
  once([...epnic, "probe", "model"], /modern: yes/);
  for (const [personality, memory] of [
    ["modern", "code-page"],
    ["legacy", "libatomic"],
  ] as const) {
    const { counters, state } = await round(epnic, personality, memory, dir);
    for (const bad of ["strict_violations", "faults", "refusals"])
      if (counters[bad] !== 0) throw new RigError(`arm64-user ${personality}: ${bad} is ${counters[bad]}`);
    found.features = state.features.split(",").map(Number);
    found.header = state.header_bytes;
    found.negotiations += counters.negotiations!;
    found.negotiationsRight += counters.negotiations!;
    found.notes.push(
      `${personality} over ${memory}: pings and 300 kB of checked TCP both ways, ${counters.to_host_frames} frames to the host, ${counters.to_board_frames} to the board`,
    );
  }
  rmSync(dir, { recursive: true, force: true });
  return found;
}
