/**
 * `bun run demo`: the main job with real frames. Two network namespaces, one standing for the PCIe host and one for the
 * board; between them the compiled binary with the built-in model. Pings both ways, moves TCP both ways with a
 * checksum at the far end, in both personalities, prints `stat`, and takes away everything it made, also when it is
 * interrupted. Ends with the line "demo: ok".
 */
import { accessSync, constants, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Subprocess } from "bun";

const MIB = Number(process.env.EPNIC_DEMO_MIB ?? 256);
const root = join(import.meta.dir, "../..");
const binary = join(root, "dist/epnic");
const bun = process.execPath;
const tag = `epd${process.pid}`;
const HOST = `${tag}h`;
const BOARD = `${tag}b`;
const runDir = mkdtempSync(join(tmpdir(), "epnic-demo-"));
const undo: (() => void)[] = [() => rmSync(runDir, { recursive: true, force: true })];
let engine: Subprocess<"ignore", "pipe", "pipe"> | null = null;
let engineLog = "";

class DemoError extends Error {}

function sh(...cmd: string[]): string {
  const r = Bun.spawnSync(cmd, { stdout: "pipe", stderr: "pipe" });
  if (r.exitCode !== 0) throw new DemoError(`${cmd.join(" ")}: exit ${r.exitCode}: ${r.stderr.toString().trim()}`);
  return r.stdout.toString();
}

function cleanup(): void {
  if (engine !== null && engine.exitCode === null) engine.kill("SIGKILL");
  for (const f of undo.splice(0).reverse()) {
    try {
      f();
    } catch {
      // Whatever is gone already needs no undoing.
    }
  }
}

/** As root of a user namespace of our own, the demo again. @returns its exit status */
async function inUserNamespace(): Promise<number> {
  const enter = ["unshare", "-Urnm"];
  const may =
    Bun.which("unshare") === null ? null : Bun.spawnSync([...enter, "true"], { stdio: ["ignore", "ignore", "pipe"] });
  if (may?.exitCode !== 0) {
    const why = may === null ? "there is no unshare(1)" : may.stderr.toString().trim();
    throw new DemoError(`needs root, or a user namespace, which cannot be had (${why}): run it as root`);
  }
  const again = Bun.spawn([...enter, "sh", "-c", 'mount -t tmpfs none /run && exec "$0" "$@"', bun, import.meta.path], {
    env: { ...process.env, EPNIC_DEMO_NS: "1" },
    stdio: ["inherit", "inherit", "inherit"],
  });
  undo.push(() => again.kill("SIGTERM"));
  return again.exited;
}

/** Root, or an own user namespace in which we are root; and the two tools, from Debian when they are absent. */
async function prerequisites(): Promise<void> {
  const tun = "/dev/net/tun";
  if (!existsSync(tun)) throw new DemoError(`needs ${tun}: modprobe tun`);
  try {
    // in a user namespace the file's own permissions count
    accessSync(tun, constants.R_OK | constants.W_OK);
  } catch {
    throw new DemoError(`needs root, or ${tun} that everybody may open: run it as root, or chmod a+rw ${tun}`);
  }
  if (process.getuid?.() !== 0) {
    const status = await inUserNamespace();
    cleanup();
    process.exit(status);
  }
  const missing: string[] = [];
  if (Bun.which("ip") === null) missing.push("iproute2");
  if (Bun.which("ping") === null) missing.push("iputils-ping");
  if (missing.length > 0) {
    console.log(`demo: installing ${missing.join(" ")}`);
    const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    const apt = (...a: string[]) => Bun.spawnSync(["apt-get", "-qq", ...a], { env, stdout: "ignore", stderr: "pipe" });
    apt("update");
    const r = apt("install", "-y", "--no-install-recommends", ...missing);
    if (r.exitCode !== 0) {
      throw new DemoError(
        `needs ${missing.join(" and ")}, and apt-get could not install: ${r.stderr.toString().trim()}`,
      );
    }
  }
}

async function pump(stream: ReadableStream<Uint8Array>): Promise<void> {
  const decoder = new TextDecoder();
  for await (const chunk of stream) engineLog += decoder.decode(chunk, { stream: true });
}

async function until(what: string, seconds: number, test: () => boolean): Promise<void> {
  const end = Date.now() + seconds * 1000;
  while (!test()) {
    if (engine !== null && engine.exitCode !== null) throw new DemoError(`epnic run ended with ${engine.exitCode}`);
    if (Date.now() > end) throw new DemoError(`${what}: not within ${seconds} s`);
    await Bun.sleep(50);
  }
}

interface Sum {
  bytes: number;
  ms: number;
  sha256: string;
}

async function transfer(label: string, from: string, to: string, address: string, port: number): Promise<number> {
  const script = join(root, "test/rig/transfer.ts");
  const recv = Bun.spawn(["ip", "netns", "exec", to, bun, script, "recv", String(port)], {
    stdout: "pipe",
    stderr: "pipe",
  });
  undo.push(() => recv.kill("SIGKILL"));
  const errors = recv.stderr.getReader();
  await errors.read();
  errors.releaseLock();
  const send = Bun.spawn(
    ["ip", "netns", "exec", from, bun, script, "send", address, String(port), String(MIB), String(port)],
    { stdout: "pipe", stderr: "pipe" },
  );
  undo.push(() => send.kill("SIGKILL"));
  if ((await send.exited) !== 0) throw new DemoError(`${label}: ${(await new Response(send.stderr).text()).trim()}`);
  if ((await recv.exited) !== 0) throw new DemoError(`${label}: the receiver failed`);
  const sent = (await new Response(send.stdout).json()) as Sum;
  const got = (await new Response(recv.stdout).json()) as Sum;
  if (got.bytes !== sent.bytes || got.sha256 !== sent.sha256) {
    throw new DemoError(`${label}: sent ${sent.bytes} bytes ${sent.sha256}, received ${got.bytes} bytes ${got.sha256}`);
  }
  const gbps = (got.bytes * 8) / (got.ms * 1e6);
  console.log(
    `  ${label.padEnd(14)} ${got.bytes} bytes in ${got.ms} ms = ${gbps.toFixed(2)} Gb/s, sha256 ${got.sha256.slice(0, 16)}… equal`,
  );
  return got.bytes;
}

async function ping(label: string, from: string, address: string): Promise<void> {
  const cmd = ["ip", "netns", "exec", from, "ping", "-c", "10", "-i", "0.05", "-W", "10", address];
  const p = Bun.spawn(cmd, { stdout: "pipe", stderr: "pipe" });
  undo.push(() => p.kill("SIGKILL"));
  const text = await new Response(p.stdout).text();
  if ((await p.exited) !== 0) {
    throw new DemoError(`${cmd.join(" ")}: exit ${p.exitCode}: ${text}${await new Response(p.stderr).text()}`.trim());
  }
  const loss = /(\d+)% packet loss/.exec(text)?.[1];
  const rtt = /= ([\d.]+)\/([\d.]+)\/([\d.]+)/.exec(text);
  if (loss !== "0") throw new DemoError(`${label}: ${loss}% packet loss`);
  console.log(`  ${label.padEnd(14)} 10 of 10 answered, rtt min/avg/max ${rtt?.slice(1, 4).join("/")} ms`);
}

async function round(personality: "modern" | "legacy", net: number): Promise<void> {
  const core = personality === "modern" ? "modern-msix" : "legacy-msix";
  console.log(`${personality} (model core ${core})`);
  const a = `10.77.${net}.1`;
  const b = `10.77.${net}.2`;
  engineLog = "";
  const args = ["run", "model", "--personality", personality, "--model-core", core, "--strict", "--run-dir", runDir];
  args.push("--port", "tap", "--port-name", "epb0", "--port-netns", BOARD, "--host-tap", "eph0", "--host-netns", HOST);
  engine = Bun.spawn([binary, ...args], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, NO_COLOR: "1" },
  });
  void pump(engine.stdout);
  void pump(engine.stderr);
  const carrier = (ns: string, dev: string): boolean => {
    const r = Bun.spawnSync(["ip", "netns", "exec", ns, "cat", `/sys/class/net/${dev}/operstate`], {
      stderr: "ignore",
    });
    const s = r.stdout.toString().trim();
    return r.exitCode === 0 && s === "up";
  };
  const exists = (ns: string, dev: string): boolean =>
    Bun.spawnSync(["ip", "-n", ns, "link", "show", dev], { stdout: "ignore", stderr: "ignore" }).exitCode === 0;
  await until("the interfaces appear", 15, () => exists(HOST, "eph0") && exists(BOARD, "epb0"));
  for (const [ns, dev, ip] of [
    [HOST, "eph0", a],
    [BOARD, "epb0", b],
  ] as const) {
    sh("ip", "-n", ns, "addr", "add", `${ip}/24`, "dev", dev);
    sh("ip", "-n", ns, "link", "set", dev, "up");
  }
  await until("the link comes up", 15, () => carrier(HOST, "eph0") && carrier(BOARD, "epb0"));
  // Linux starts a netdev's queue a moment after it shows the carrier; frames sent in between are dropped there.
  await Bun.sleep(300);
  await ping("host -> board", HOST, b);
  await ping("board -> host", BOARD, a);
  await transfer("host -> board", HOST, BOARD, b, 5001);
  await transfer("board -> host", BOARD, HOST, a, 5002);
  console.log(sh(binary, "stat", "model", "--run-dir", runDir).trimEnd().replace(/^/gm, "  "));
  const stat = JSON.parse(sh(binary, "stat", "model", "--json", "--run-dir", runDir)) as {
    counters: Record<string, number>;
  };
  for (const bad of ["strict_violations", "faults", "refusals"]) {
    if (stat.counters[bad] !== 0) throw new DemoError(`counter ${bad} is ${stat.counters[bad]}, it must be 0`);
  }
  const least = MIB * 2 ** 20;
  for (const c of ["to_host_bytes", "to_board_bytes"]) {
    if (!(stat.counters[c]! >= least))
      throw new DemoError(`counter ${c} is ${stat.counters[c]}, at least ${least} was moved`);
  }
  engine.kill("SIGTERM");
  const code = await engine.exited;
  if (code !== 0) throw new DemoError(`epnic run ended with ${code} after SIGTERM, it must be 0`);
  engine = null;
  frames += stat.counters.to_host_frames! + stat.counters.to_board_frames!;
  bytes += stat.counters.to_host_bytes! + stat.counters.to_board_bytes!;
}

let frames = 0;
let bytes = 0;

for (const [signal, status] of Object.entries({ SIGHUP: 129, SIGINT: 130, SIGTERM: 143 })) {
  process.on(signal, () => {
    cleanup();
    console.error(`demo: interrupted by ${signal}; everything was taken away`);
    process.exit(status);
  });
}

try {
  await prerequisites();
  if (!existsSync(binary)) throw new DemoError(`${binary} is missing: bun run build`);
  for (const ns of [HOST, BOARD]) {
    sh("ip", "netns", "add", ns);
    undo.push(() => sh("ip", "netns", "del", ns));
    sh("ip", "-n", ns, "link", "set", "lo", "up");
  }
  await round("modern", 1);
  await round("legacy", 2);
  cleanup();
  console.log(`moved ${frames} frames, ${bytes} bytes`);
  console.log("demo: ok");
} catch (e) {
  // ^C goes to all of us: a child that ended by it must not be taken for the reason
  await Bun.sleep(100);
  cleanup();
  if (engineLog !== "") console.error(`--- epnic run said:\n${engineLog.split("\n").slice(-30).join("\n")}`);
  console.error(`demo: failed: ${e instanceof DemoError ? e.message : (e as Error).stack}`);
  process.exit(1);
}
