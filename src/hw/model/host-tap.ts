/**
 * The built-in host's frames through a TAP with virtio-net header, usually in the network namespace that stands for
 * the host. The TAP plays the netdev of the host's virtio_net: its stack transmits what we fetch.
 */
import { Fault } from "../fault.ts";
import { AF_INET, check, cstring, libc, SOCK_CLOEXEC, SOCK_DGRAM } from "../libc.ts";
import { ptrOf } from "../mem.ts";
import { inNetns } from "../netns.ts";
import { Tap, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 } from "../tap.ts";
import type { EndFeatures, HostEnd } from "./host-end.ts";

const SIOCSIFADDR = 0x8916;
const SIOCSIFNETMASK = 0x891c;
const IFREQ = 40;
const MAX_PIECES = 1024;
/** empty reads before the next look waits this many calls at most */
const MOST_SKIP = 8;

export interface HostTapOptions {
  name: string;
  /** namespace of /run/netns, "" for the own one */
  netns: string;
  /** "10.0.0.1/24", or "" for none */
  ip?: string;
  /** of the netdev where none was negotiated, as an administrator sets it */
  mtu?: number;
}

export class HostTap implements HostEnd {
  readonly kind = "tap";
  readonly tap: Tap;
  readonly waitFds: readonly number[];
  readonly #o: HostTapOptions;
  /** frames the TAP refused, and errno of the last */
  refused = 0;
  lastErrno = 0;
  readonly #iov = new Uint32Array(MAX_PIECES * 4);
  readonly #iovPtr = ptrOf(this.#iov);
  #running = false;
  #empty = 0;
  #skip = 0;

  /** The TAP is made with carrier off. @throws Fault as Tap, E_CONFIG for a bad address */
  constructor(o: HostTapOptions) {
    this.#o = o;
    this.tap = new Tap(o.name, o.netns);
    this.waitFds = [this.tap.fd];
    this.tap.setCarrier(false);
  }

  /** Header length, offloads, MAC and MTU as negotiated; the netdev comes up, and gets its address the first time. */
  start(f: EndFeatures): void {
    this.tap.setHeader(f.hdrLen);
    let offload = f.txCsum ? TUN_F_CSUM : 0;
    if (f.txCsum && f.txTso4) offload |= TUN_F_TSO4;
    if (f.txCsum && f.txTso6) offload |= TUN_F_TSO6;
    this.tap.setOffload(offload);
    if (f.mac.some((b) => b !== 0)) {
      const mac = [...f.mac].map((b) => b.toString(16).padStart(2, "0")).join(":");
      if (this.tap.mac() !== mac) {
        this.tap.setUp(false);
        this.tap.setMac(mac);
      }
    }
    const mtu = f.mtu > 0 ? f.mtu : (this.#o.mtu ?? 0);
    if (mtu > 0) this.tap.setMtu(mtu);
    this.tap.setUp(true);
    if (this.#o.ip) setAddress(this.tap.name, this.#o.netns, this.#o.ip);
    this.#running = true;
  }

  stop(): void {
    this.#running = false;
    this.tap.setCarrier(false);
  }

  setLink(up: boolean): void {
    this.tap.setCarrier(up);
  }

  fetch(ptr: number, max: number): number {
    if (!this.#running) return 0;
    if (this.#skip > 0) {
      this.#skip--;
      return 0;
    }
    const n = this.tap.read(ptr, max);
    if (n > 0 && n <= max) {
      this.#empty = 0;
      return n;
    }
    // a read of an empty TAP is a system call for nothing: look less often while it stays empty
    if (this.#empty < MOST_SKIP) this.#empty++;
    this.#skip = this.#empty;
    return 0;
  }

  deliver(ptrs: Float64Array, lens: Int32Array, n: number, total: number): number {
    let rc: number;
    if (n === 1) {
      rc = this.tap.write(ptrs[0], total);
    } else {
      const iov = this.#iov;
      for (let i = 0; i < n; i++) {
        const p = ptrs[i];
        iov[4 * i] = p;
        iov[4 * i + 1] = p / 4294967296;
        iov[4 * i + 2] = lens[i];
        iov[4 * i + 3] = 0;
      }
      rc = libc.writev(this.tap.fd, this.#iovPtr, n);
    }
    if (rc >= 0) return 0;
    this.refused++;
    this.lastErrno = rc;
    return -1;
  }

  close(): void {
    this.tap.close();
  }
}

/** Give a netdev an IPv4 address, as `ip addr add` without the tool. @throws Fault E_CONFIG, E_SYS */
function setAddress(name: string, netns: string, cidr: string): void {
  const m = /^(\d+)\.(\d+)\.(\d+)\.(\d+)\/(\d+)$/.exec(cidr);
  const numbers = m === null ? [] : m.slice(1).map(Number);
  if (m === null || numbers.slice(0, 4).some((x) => x > 255) || numbers[4] > 32)
    throw new Fault("E_CONFIG", `"${cidr}" is no IPv4 address with prefix length`, "write it as 10.0.0.1/24");
  inNetns(netns, () => {
    const socket = check(libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket for interface ioctls");
    try {
      const set = (request: number, a: readonly number[], what: string) => {
        const ifreq = new Uint8Array(IFREQ);
        ifreq.set(cstring(name));
        ifreq[16] = AF_INET;
        ifreq.set(a, 20);
        check(libc.ioctl(socket, request, ifreq), `${what} of ${name}`);
      };
      set(SIOCSIFADDR, numbers.slice(0, 4), "set the address");
      const mask = numbers[4] === 0 ? 0 : (-1 << (32 - numbers[4])) >>> 0;
      set(SIOCSIFNETMASK, [mask >>> 24, (mask >>> 16) & 255, (mask >>> 8) & 255, mask & 255], "set the netmask");
    } finally {
      libc.close(socket);
    }
  });
}
