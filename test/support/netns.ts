/** Namespaces and TAPs in tests: why they cannot be used here, and the ip command. */
import { accessSync, constants } from "node:fs";
import { AF_INET, check, libc, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET } from "../../src/hw/libc.ts";
import { inNetns } from "../../src/hw/netns.ts";

/** "" when TAPs and namespaces can be made, else the reason in words. */
export function needTap(): string {
  if (process.geteuid?.() !== 0) return "skipped: needs root";
  try {
    accessSync("/dev/net/tun", constants.R_OK | constants.W_OK);
  } catch {
    return "skipped: needs /dev/net/tun (modprobe tun)";
  }
  return Bun.which("ip") === null ? "skipped: needs the ip command (apt-get install iproute2)" : "";
}

/** Run ip(8). @returns its stdout. @throws with its stderr */
export function ip(...args: string[]): string {
  const run = Bun.spawnSync(["ip", ...args]);
  if (run.exitCode !== 0) throw new Error(`ip ${args.join(" ")}: ${run.stderr}`);
  return run.stdout.toString();
}

const SO_BROADCAST = 6;

function sockaddr(address: string, port: number): Uint8Array {
  const b = new Uint8Array(16);
  b.set([AF_INET, 0, port >> 8, port & 255, ...address.split(".").map(Number)]);
  return b;
}

/** A non-blocking UDP socket of a namespace, steered from this process. */
export class UdpIn {
  readonly #fd: number;
  readonly #buf = new Uint8Array(65536);

  constructor(netns: string, port = 0) {
    this.#fd = inNetns(netns, () => check(libc.socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), "socket"));
    check(libc.setsockopt(this.#fd, SOL_SOCKET, SO_BROADCAST, new Int32Array([1]), 4), "SO_BROADCAST");
    if (port !== 0) check(libc.bind(this.#fd, sockaddr("0.0.0.0", port), 16), `bind port ${port}`);
  }

  /** @returns bytes, or -1 */
  send(data: Uint8Array, address: string, port: number): number {
    return libc.sendto(this.#fd, data, data.length, 0, sockaddr(address, port), 16);
  }

  /** A datagram, null when there is none. */
  recv(): Uint8Array | null {
    const n = libc.recv(this.#fd, this.#buf, this.#buf.length, 0);
    return n < 0 ? null : this.#buf.slice(0, n);
  }

  close(): void {
    libc.close(this.#fd);
  }
}
