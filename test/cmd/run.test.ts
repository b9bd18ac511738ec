/** `run` as a process: ready, counters, lock, signals, summary. What the frames do is tested elsewhere. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AF_UNIX, check, libc, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_DGRAM } from "../../src/hw/libc.ts";
import { ip, needTap } from "../support/netns.ts";
import { cli, expectFailure, start } from "./_cli.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(60_000);

const why = needTap();
if (why) console.log(`test/cmd/run.test.ts ${why}`);
const HOST = `epc-h-${process.pid}`;
const BOARD = `epc-b-${process.pid}`;
const dir = mkdtempSync(join(tmpdir(), "epnic-run-"));

/** systemd's end of NOTIFY_SOCKET */
class Systemd {
  readonly name = `@epnic-run-${process.pid}-${Math.random().toString(36).slice(2)}`;
  readonly #fd: number;
  readonly got: string[] = [];
  readonly #timer: ReturnType<typeof setInterval>;
  constructor() {
    const raw = new TextEncoder().encode(this.name);
    const address = new Uint8Array(2 + raw.length);
    address[0] = AF_UNIX;
    address.set(raw, 2);
    address[2] = 0;
    this.#fd = check(libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    check(libc.bind(this.#fd, address, address.length), "bind");
    // the queue of a datagram socket holds ten messages
    this.#timer = setInterval(() => this.poll(), 20);
  }
  poll(): void {
    const buffer = new Uint8Array(4096);
    for (;;) {
      const n = libc.recv(this.#fd, buffer, buffer.length, MSG_DONTWAIT);
      if (n < 0) return;
      this.got.push(new TextDecoder().decode(buffer.subarray(0, n)));
    }
  }
  async wait(text: string): Promise<void> {
    for (const end = Date.now() + 15_000; Date.now() < end; await Bun.sleep(10)) {
      this.poll();
      if (this.got.some((m) => m.includes(text))) return;
    }
    throw new Error(`no ${text} within 15 s; got ${JSON.stringify(this.got)}`);
  }
  close(): void {
    clearInterval(this.#timer);
    libc.close(this.#fd);
  }
}

const FLAGS = ["--run-dir", dir, "--port", "tap", "--port-name", "epcb", "--port-netns", BOARD];
const HOST_FLAGS = ["--host-tap", "epch", "--host-netns", HOST];

async function running<T>(extra: string[], use: (run: ReturnType<typeof start>, systemd: Systemd) => Promise<T>) {
  const systemd = new Systemd();
  const run = start(["run", "model", ...FLAGS, ...HOST_FLAGS, ...extra], {
    NOTIFY_SOCKET: systemd.name,
    WATCHDOG_USEC: "200000",
  });
  try {
    await systemd.wait("READY=1");
    return await use(run, systemd);
  } finally {
    run.kill("SIGKILL");
    await run.exited;
    systemd.close();
  }
}

describe.skipIf(why !== "")("run model", () => {
  beforeAll(() => {
    ip("netns", "add", HOST);
    ip("netns", "add", BOARD);
  });
  afterAll(() => {
    ip("netns", "del", HOST);
    ip("netns", "del", BOARD);
    rmSync(dir, { recursive: true });
  });

  test("ready, watchdog, counters, lock; SIGTERM stops it cleanly with a summary", async () => {
    await running(["-j"], async (run, systemd) => {
      expect(systemd.got[0]).toBe(`READY=1\nSTATUS=model: running\nMAINPID=${run.pid}`);
      await systemd.wait("WATCHDOG=1");
      const stat = await cli(["stat", "-j", "--run-dir", dir]);
      expect(JSON.parse(stat.stdout)).toMatchObject({ version: 1, device: "model", pid: run.pid, stale: false });
      const second = await cli(["run", "model", ...FLAGS, ...HOST_FLAGS]);
      expectFailure(second, 4, `device 'model' is in use by process ${run.pid}`);
      run.kill("SIGHUP");
      await Bun.sleep(300);
      expect(run.exitCode).toBeNull();
      run.kill("SIGTERM");
      expect(await run.exited).toBe(0);
      await systemd.wait("STOPPING=1");
      const out = await new Response(run.stdout).text();
      expect(JSON.parse(out)).toMatchObject({ version: 1, device: "model", summary: { strict_violations: 0 } });
      const err = await new Response(run.stderr).text();
      expect(err).toContain("SIGHUP is ignored");
      expect(err).toContain("SIGTERM: stopping");
    });
    expect(existsSync(join(dir, "model.counters"))).toBe(false);
    expectFailure(await cli(["stat", "--run-dir", dir]), 3, "there is no run");
    // TAPs are gone with it
    expect(ip("-n", HOST, "-br", "link")).not.toContain("epch");
    expect(ip("-n", BOARD, "-br", "link")).not.toContain("epcb");
  });

  test("a log that nobody reads any more changes nothing: no line, no end, a clean stop", async () => {
    await running(["-j"], async (run) => {
      await run.stdout.cancel();
      await run.stderr.cancel();
      for (let i = 0; i < 3; i++) {
        run.kill("SIGHUP");
        await Bun.sleep(50);
      }
      const stat = await cli(["stat", "-j", "--run-dir", dir]);
      expect(JSON.parse(stat.stdout)).toMatchObject({ pid: run.pid, stale: false });
      run.kill("SIGTERM");
      expect(await run.exited).toBe(0);
    });
    expect(existsSync(join(dir, "model.counters"))).toBe(false);
    expect(readFileSync(join(dir, "model.lock"), "utf8")).toBe("");
  });

  test("SIGINT is 0 too, nothing on stdout without --json", async () => {
    await running([], async (run) => {
      run.kill("SIGINT");
      expect(await run.exited).toBe(0);
      expect(await new Response(run.stdout).text()).toBe("");
    });
  });

  test("killed: the next run takes over, stat names the dead one before", async () => {
    await running([], async (run) => {
      run.kill("SIGKILL");
      await run.exited;
      expectFailure(await cli(["stat", "--run-dir", dir]), 3, `process ${run.pid} is gone`);
    });
    await running([], async (run) => {
      const stat = await cli(["stat", "-j", "--run-dir", dir]);
      expect(JSON.parse(stat.stdout).pid).toBe(run.pid);
    });
  });

  test("a signal while it is opening stops it as cleanly", async () => {
    const run = start(["run", "model", ...FLAGS, ...HOST_FLAGS]);
    const lockFile = join(dir, "model.lock");
    for (let i = 0; i < 2000 && !(existsSync(lockFile) && readFileSync(lockFile, "utf8").startsWith(`${run.pid}`)); i++)
      await Bun.sleep(1);
    run.kill("SIGTERM");
    expect(await run.exited).toBe(0);
    expect(existsSync(join(dir, "model.counters"))).toBe(false);
  });

  test("from a configuration file", async () => {
    const config = join(dir, "epnic.toml");
    writeFileSync(
      config,
      `device = "model"\npersonality = "legacy"\nqueue_size = 64\n[port]\nkind = "tap"\nname = "epcb"\nnetns = "${BOARD}"\n[host]\ntap = "epch"\nnetns = "${HOST}"\n`,
    );
    const run = start(["run", "--config", config, "--run-dir", dir]);
    try {
      let o = { pid: 0, state: {} };
      for (const end = Date.now() + 10_000; o.pid !== run.pid && Date.now() < end; ) {
        const r = await cli(["stat", "-j", "--run-dir", dir]);
        if (r.status === 0) o = JSON.parse(r.stdout);
      }
      expect(o.pid).toBe(run.pid);
      expect(o.state).toMatchObject({ personality: "legacy", queue_size: 64 });
    } finally {
      run.kill("SIGTERM");
      expect(await run.exited).toBe(0);
    }
  });

  test("a namespace that is not there fails whole and leaves nothing", async () => {
    const r = await cli(["run", "model", ...FLAGS, "--host-tap", "epch", "--host-netns", "epc-none"]);
    expect(r.stdout).toBe("");
    expect(r.status).not.toBe(0);
    expect(r.stderr).toContain("epc-none");
    expect(r.stderr).not.toContain("    at ");
    expect(existsSync(join(dir, "model.counters"))).toBe(false);
    expect(ip("-n", BOARD, "-br", "link")).not.toContain("epcb");
  });

  test("a CPU that is not there", async () =>
    expectFailure(await cli(["run", "model", ...FLAGS, ...HOST_FLAGS, "--cpu", "1000"]), 2, "may not use CPU 1000"));
});
