/**
 * The board's side of a scenario: `epnic run` as a child in a network namespace of its own (unshare), with a TAP, and
 * programs of the unpacked root run beside it. Namespace and TAP live as long as these processes and not longer.
 */
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { RigError } from "./apt.ts";
import { busybox, fromRoot, repoDir } from "./cache.ts";
import { dieWithRig, stop, undoLater } from "./undo.ts";

export const BOARD_IP = "10.99.0.1";
export const GUEST_IP = "10.99.0.2";
export const NETDEV = "rigb0";

/** what a start and a clean stop may take on a machine that does other work too, ms */
const START_MS = 60_000;
const STOP_MS = 30_000;

export interface BoardOptions {
  dir: string;
  personality: "modern" | "legacy";
  irq: "msix" | "intx";
  mode: "held" | "plain";
  strict: boolean;
  /** further arguments of `epnic run` */
  args?: readonly string[];
  /** real-time priority of the service loop, 0 for none */
  realtime?: number;
  /** module that changes the engine before it starts */
  preload?: string;
}

export interface Run {
  status: number;
  out: string;
}

/** The program under test: $EPNIC_BIN (a compiled binary), else the sources; those behind `preload` when there is one. */
export function epnic(preload?: string): string[] {
  if (preload !== undefined) return [process.execPath, "--preload", preload, join(repoDir, "src/main.ts")];
  const bin = process.env.EPNIC_BIN;
  return bin ? [bin] : [process.execPath, join(repoDir, "src/main.ts")];
}

export class Board {
  readonly #options: BoardOptions;
  readonly socket: string;
  readonly logPath: string;
  #child: Subprocess | null = null;
  #forget: (() => Promise<void>) | null = null;

  constructor(options: BoardOptions) {
    this.#options = options;
    this.socket = join(options.dir, "vfu.sock");
    this.logPath = join(options.dir, "epnic.log");
  }

  async start(): Promise<void> {
    const o = this.#options;
    const rt = o.realtime ? ["chrt", "-f", String(o.realtime)] : [];
    const core = `${o.personality}-${o.irq}`;
    const args = [
      ...dieWithRig,
      "unshare",
      "-n",
      ...rt,
      ...epnic(o.preload),
      "run",
      "model",
      "--personality",
      o.personality,
      "--irq",
      o.irq,
      "--model-core",
      core,
      "--vfio-user",
      `${o.mode}:${this.socket}`,
      "--port",
      "tap",
      "--port-name",
      NETDEV,
      "--run-dir",
      join(o.dir, "run"),
      ...(o.strict ? ["--strict"] : []),
      ...(o.args ?? []),
    ];
    const log = openSync(this.logPath, "w");
    const child = Bun.spawn(args, {
      stdin: "ignore",
      stdout: log,
      stderr: log,
      env: { ...process.env, NO_COLOR: "1" },
    });
    closeSync(log);
    this.#child = child;
    this.#forget = undoLater("epnic run", () => stop(child, STOP_MS));
    await this.until(
      () => existsSync(this.socket) && this.log().includes("function is visible"),
      START_MS,
      "the vfio-user socket",
    );
    this.ip(`addr add ${BOARD_IP}/24 dev ${NETDEV}`);
    this.ip(`link set lo up`);
    this.ip(`link set ${NETDEV} up`);
  }

  /** Poll a condition every so many ms. @throws RigError with the tail of epnic's log */
  async until(cond: () => boolean, ms: number, what: string, every = 20): Promise<void> {
    const end = Date.now() + ms;
    while (!cond()) {
      this.mustRun();
      if (Date.now() > end) throw this.error(`${what}: not within ${ms / 1000} s`);
      await Bun.sleep(every);
    }
  }

  get running(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  mustRun(): void {
    if (!this.running) throw this.error(`epnic run ended with ${this.#child?.exitCode ?? this.#child?.signalCode}`);
  }

  error(text: string): RigError {
    return new RigError(
      `${text}\n--- tail of ${this.logPath}\n${this.log().trimEnd().split("\n").slice(-25).join("\n")}`,
    );
  }

  log(): string {
    return existsSync(this.logPath) ? readFileSync(this.logPath, "utf8") : "";
  }

  #nsenter(cmd: readonly string[]): string[] {
    if (!this.#child) throw new RigError("epnic is not running");
    return [...dieWithRig, "nsenter", "-t", String(this.#child.pid), "-n", ...cmd];
  }

  /** A short command in the board's namespace. */
  inside(cmd: readonly string[]): Run {
    const r = Bun.spawnSync(this.#nsenter(cmd), { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    return { status: r.exitCode, out: r.stdout.toString() + r.stderr.toString() };
  }

  /** A longer one. @throws RigError when it fails or takes too long */
  async run(cmd: readonly string[], ms = 60_000): Promise<string> {
    const child = Bun.spawn(this.#nsenter(cmd), { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const forget = undoLater(cmd[0], () => stop(child, 200));
    const timer = setTimeout(() => child.kill("SIGKILL"), ms);
    const [out, err, status] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    clearTimeout(timer);
    await forget();
    if (status !== 0) throw this.error(`on the board: ${cmd.slice(-4).join(" ")}: status ${status}\n${out}${err}`);
    return out;
  }

  /** A process in the board's namespace that runs until the returned function is called. */
  background(
    cmd: readonly string[],
    stdout: "ignore" | "pipe" = "ignore",
  ): { child: Subprocess; end: () => Promise<void> } {
    const child = Bun.spawn(this.#nsenter(cmd), { stdin: "ignore", stdout, stderr: "ignore" });
    return { child, end: undoLater(cmd[0], () => stop(child, 200)) };
  }

  ip(args: string): string {
    const r = this.inside([
      ...fromRoot(existsSync(fromRoot("usr/bin/ip").at(-1)!) ? "usr/bin/ip" : "usr/sbin/ip"),
      ...args.split(" "),
    ]);
    if (r.status !== 0) throw this.error(`ip ${args}: ${r.out}`);
    return r.out;
  }

  busybox(...args: string[]): string[] {
    return [busybox(), ...args];
  }

  iperf3(...args: string[]): string[] {
    return [...fromRoot("usr/bin/iperf3"), ...args];
  }

  /** `epnic stat --json`. */
  stat(): { counters: Record<string, number>; state: Record<string, unknown> } {
    const r = Bun.spawnSync([...epnic(), "stat", "model", "--json", "--run-dir", join(this.#options.dir, "run")], {
      stdin: "ignore",
    });
    if (r.exitCode !== 0) throw this.error(`epnic stat: ${r.stderr.toString()}`);
    return JSON.parse(r.stdout.toString());
  }

  /** SIGTERM. @returns the exit status */
  async stop(): Promise<number | null> {
    const child = this.#child;
    await this.#forget?.();
    return child?.exitCode ?? null;
  }

  signal(name: NodeJS.Signals): void {
    this.#child?.kill(name);
  }
}
