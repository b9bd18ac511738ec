/**
 * sd_notify(3) without libsystemd: one datagram to the unix socket in NOTIFY_SOCKET. Without that variable it does
 * nothing.
 */
import { EAGAIN } from "../hw/errno.ts";
import { AF_UNIX, cstring, errno, libc, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_DGRAM } from "../hw/libc.ts";

/** offset of sun_path in struct sockaddr_un */
const SUN_PATH = 2;
const SUN_PATH_MAX = 108;
const RETRY_MS = 10;
const PATIENCE_MS = 500;

export class Notifier {
  #fd = -1;
  #address: Uint8Array | null = null;
  #timer: ReturnType<typeof setInterval> | undefined;
  /** the watchdog period asked for, in ms; 0 when none */
  readonly watchdogMs: number;

  constructor(env: NodeJS.ProcessEnv = process.env) {
    const path = env.NOTIFY_SOCKET ?? "";
    const usec = Number(env.WATCHDOG_USEC ?? 0);
    const forUs = env.WATCHDOG_PID === undefined || Number(env.WATCHDOG_PID) === process.pid;
    this.watchdogMs = forUs && usec > 0 ? usec / 1000 : 0;
    // "/path" or "@abstract"; vsock and anything longer than sun_path are not for us
    if (!/^[/@]/.test(path)) return;
    const name = new TextEncoder().encode(path);
    if (name.length >= SUN_PATH_MAX) return;
    const address = new Uint8Array(SUN_PATH + name.length);
    address[0] = AF_UNIX;
    address.set(name, SUN_PATH);
    if (path[0] === "@") address[SUN_PATH] = 0;
    const fd = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    this.#fd = fd;
    this.#address = address;
  }

  get active(): boolean {
    return this.#fd >= 0;
  }

  /**
   * Send lines such as `READY=1`. A vanished socket is not worth a failure of the run; a full one is tried again for
   * `patienceMs`.
   * @returns whether it was sent
   */
  send(lines: readonly string[], patienceMs = 0): boolean {
    if (this.#address === null) return false;
    const text = cstring(lines.join("\n"));
    const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    for (let waited = 0; ; waited += RETRY_MS) {
      const n = libc.sendto(this.#fd, text, text.length - 1, flags, this.#address, this.#address.length);
      if (n >= 0) return true;
      if (errno() !== EAGAIN || waited >= patienceMs) return false;
      Bun.sleepSync(RETRY_MS);
    }
  }

  /** READY=1, then WATCHDOG=1 at half the period for as long as the event loop of this thread, and so the service loop, turns. */
  ready(status: string): void {
    this.send(["READY=1", `STATUS=${status}`, `MAINPID=${process.pid}`], PATIENCE_MS);
    if (this.active && this.watchdogMs > 0) {
      this.#timer = setInterval(() => this.send(["WATCHDOG=1"]), this.watchdogMs / 2);
    }
  }

  stopping(): void {
    clearInterval(this.#timer);
    this.send(["STOPPING=1", "STATUS=draining"], PATIENCE_MS);
  }

  close(): void {
    clearInterval(this.#timer);
    if (this.#fd >= 0) libc.close(this.#fd);
    this.#fd = -1;
    this.#address = null;
  }
}
