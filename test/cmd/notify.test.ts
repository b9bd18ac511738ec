import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Notifier } from "../../src/cmd/_notify.ts";
import { AF_UNIX, check, libc, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_DGRAM } from "../../src/hw/libc.ts";

const dir = mkdtempSync(join(tmpdir(), "epnic-notify-"));
afterAll(() => rmSync(dir, { recursive: true }));

/** What systemd does: a datagram socket at a path or an abstract name. */
class Receiver {
  readonly #fd: number;
  constructor(name: string) {
    const raw = new TextEncoder().encode(name);
    const address = new Uint8Array(2 + raw.length);
    address[0] = AF_UNIX;
    address.set(raw, 2);
    if (name[0] === "@") address[2] = 0;
    this.#fd = check(libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    check(libc.bind(this.#fd, address, address.length), `bind ${name}`);
  }
  take(): string | null {
    const buffer = new Uint8Array(4096);
    const n = libc.recv(this.#fd, buffer, buffer.length, MSG_DONTWAIT);
    return n < 0 ? null : new TextDecoder().decode(buffer.subarray(0, n));
  }
  close(): void {
    libc.close(this.#fd);
  }
}

describe.each([join(dir, "notify"), `@epnic-h6-${process.pid}`])("socket %s", (name) => {
  test("READY, WATCHDOG, STOPPING", async () => {
    const r = new Receiver(name);
    const n = new Notifier({ NOTIFY_SOCKET: name, WATCHDOG_USEC: "40000", WATCHDOG_PID: String(process.pid) });
    expect(n.active).toBe(true);
    n.ready("model: running");
    expect(r.take()).toBe(`READY=1\nSTATUS=model: running\nMAINPID=${process.pid}`);
    expect(r.take()).toBeNull();
    await Bun.sleep(60);
    expect(r.take()).toBe("WATCHDOG=1");
    while (r.take() !== null);
    n.stopping();
    expect(r.take()).toBe("STOPPING=1\nSTATUS=draining");
    await Bun.sleep(60);
    expect(r.take()).toBeNull();
    n.close();
    expect(n.send(["X=1"])).toBe(false);
    r.close();
  });
});

test("no socket, no noise", () => {
  for (const env of [
    {},
    { NOTIFY_SOCKET: "" },
    { NOTIFY_SOCKET: "vsock:2:1" },
    { NOTIFY_SOCKET: `/${"x".repeat(200)}` },
  ]) {
    const n = new Notifier(env);
    expect(n.active).toBe(false);
    n.ready("x");
    n.stopping();
    n.close();
  }
});

test("a socket that is gone is no failure", () => {
  const n = new Notifier({ NOTIFY_SOCKET: join(dir, "gone") });
  expect(n.send(["READY=1"])).toBe(false);
  n.close();
});

test("a manager that is slow to read gets it in the end, one that never reads does not hold us up", async () => {
  const name = `@epnic-h6-slow-${process.pid}`;
  const r = new Receiver(name);
  const n = new Notifier({ NOTIFY_SOCKET: name });
  let sent = 0;
  while (n.send(["STATUS=fill"])) sent++;
  expect(sent).toBeGreaterThan(0);
  const from = performance.now();
  expect(n.send(["READY=1"], 50)).toBe(false);
  expect(performance.now() - from).toBeLessThan(2000);
  r.take();
  expect(n.send(["READY=1"], 50)).toBe(true);
  n.close();
  r.close();
});

test("a watchdog meant for another process is not ours", () => {
  expect(new Notifier({ WATCHDOG_USEC: "1000000", WATCHDOG_PID: "1" }).watchdogMs).toBe(0);
  expect(new Notifier({ WATCHDOG_USEC: "1000000" }).watchdogMs).toBe(1000);
});
