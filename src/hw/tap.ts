/**
 * A TAP device with virtio-net headers (linux/if_tun.h, drivers/net/tun.c): opening, offloads, link and non-blocking
 * read and write of one frame a call. Frames begin with the virtio-net header of the length set by setHeader().
 */
import { EACCES, EAGAIN, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ENXIO, EPERM, sysFault } from "./errno.ts";
import { Fault } from "./fault.ts";
import {
  AF_INET,
  check,
  cstring,
  errno,
  errnoText,
  libc,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDWR,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
} from "./libc.ts";
import { inNetns } from "./netns.ts";

const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;
const TUNSETVNETLE = 0x400454dc;
const TUNSETCARRIER = 0x400454e2;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCSIFMTU = 0x8922;
const SIOCSIFHWADDR = 0x8924;
const SIOCGIFHWADDR = 0x8927;

const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFF_UP = 1;
const ARPHRD_ETHER = 1;

/** what the kernel may hand to us (TUNSETOFFLOAD) */
export const TUN_F_CSUM = 1;
export const TUN_F_TSO4 = 2;
export const TUN_F_TSO6 = 4;

/** bytes of struct ifreq on 64-bit Linux: name[16] and a union of 24 */
const IFREQ = 40;

/** Longest name of a netdev (IFNAMSIZ without the NUL). */
const NAME_MAX = 15;

/** nothing to read, or no room to write */
export const TAP_AGAIN = -EAGAIN;

export class Tap {
  /** name that the kernel gave, with %d filled in */
  readonly name: string;
  readonly fd: number;
  /** a socket of the TAP's network namespace, for the interface ioctls */
  readonly #socket: number;
  readonly #ifreq = new Uint8Array(IFREQ);
  readonly #int = new Int32Array(1);
  /** an own struct ifreq for isUp(): the name stays in it, flags come back at byte 16 */
  readonly #query = new Uint8Array(40);
  readonly #queryFlags = new Uint16Array(this.#query.buffer);

  /**
   * Make a TAP (or take an idle persistent one). It disappears with close() unless it was persistent.
   * @param name 1..15 bytes, "%d" becomes the first free number
   * @param netns a namespace of /run/netns, "" for the own one
   * @throws Fault E_MISSING (no tun driver, no namespace), E_PERM, E_BUSY (name taken), E_CONFIG (bad name)
   */
  constructor(name: string, netns = "") {
    if (new TextEncoder().encode(name).length > NAME_MAX || !/^[^/\s:]+$/.test(name) || name === "." || name === "..")
      throw new Fault("E_CONFIG", `"${name}" cannot name a netdev: 1 to ${NAME_MAX} bytes without "/", ":" and blanks`);
    let fd = -1;
    let socket = -1;
    try {
      inNetns(netns, () => {
        fd = openTun();
        this.#ifreq.set(cstring(name));
        new DataView(this.#ifreq.buffer).setUint16(16, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, true);
        if (libc.ioctl(fd, TUNSETIFF, this.#ifreq) < 0) throw attachFault(name, errno());
        socket = check(libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket for interface ioctls");
      });
    } catch (e) {
      if (fd >= 0) libc.close(fd);
      throw e;
    }
    this.fd = fd;
    this.#socket = socket;
    this.name = new TextDecoder().decode(this.#ifreq.subarray(0, this.#ifreq.indexOf(0)));
    this.#query.set(cstring(this.name));
    this.#setInt(TUNSETVNETLE, 1, "TUNSETVNETLE"); // virtio 1.x headers are little endian
  }

  /** Length of the header before every frame, bytes: 10, 12 or 24. Bytes after the tenth are skipped, not written, by read(). */
  setHeader(bytes: number): void {
    this.#setInt(TUNSETVNETHDRSZ, bytes, `TUNSETVNETHDRSZ ${bytes}`);
  }

  /** Which frames read() may return unfinished: TUN_F_CSUM (checksum partial), TUN_F_TSO4, TUN_F_TSO6 (both need CSUM). */
  setOffload(flags: number): void {
    check(libc.ioctl(this.fd, TUNSETOFFLOAD, flags), `TUNSETOFFLOAD ${flags} on ${this.name}`);
  }

  /** @param mtu 68..65521 bytes without the Ethernet header */
  setMtu(mtu: number): void {
    this.#request((v) => v.setInt32(16, mtu, true));
    check(libc.ioctl(this.#socket, SIOCSIFMTU, this.#ifreq), `set mtu ${mtu} on ${this.name}`);
  }

  /** @param mac "02:00:00:00:00:01" */
  setMac(mac: string): void {
    const bytes = mac.split(":").map((x) => Number.parseInt(x, 16));
    if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(mac) || (bytes[0]! & 1) !== 0)
      throw new Fault("E_CONFIG", `"${mac}" is no unicast MAC address`, "write it as 02:00:00:00:00:01");
    this.#request((v) => {
      v.setUint16(16, ARPHRD_ETHER, true);
      for (let i = 0; i < 6; i++) v.setUint8(18 + i, bytes[i]!);
    });
    check(libc.ioctl(this.#socket, SIOCSIFHWADDR, this.#ifreq), `set MAC ${mac} on ${this.name}`);
  }

  mac(): string {
    this.#request(() => {});
    check(libc.ioctl(this.#socket, SIOCGIFHWADDR, this.#ifreq), `get the MAC of ${this.name}`);
    return [...this.#ifreq.subarray(18, 24)].map((b) => b.toString(16).padStart(2, "0")).join(":");
  }

  /** Administrative state, as `ip link set up`. */
  setUp(up: boolean): void {
    this.#request(() => {});
    check(libc.ioctl(this.#socket, SIOCGIFFLAGS, this.#ifreq), `get the flags of ${this.name}`);
    const v = new DataView(this.#ifreq.buffer);
    v.setUint16(16, (v.getUint16(16, true) & ~IFF_UP) | (up ? IFF_UP : 0), true);
    check(libc.ioctl(this.#socket, SIOCSIFFLAGS, this.#ifreq), `set ${this.name} ${up ? "up" : "down"}`);
  }

  /** Administrative state now; false also when the netdev was deleted. One system call, does not throw. */
  isUp(): boolean {
    return libc.ioctl(this.#socket, SIOCGIFFLAGS, this.#query) === 0 && (this.#queryFlags[8]! & IFF_UP) !== 0;
  }

  /** Carrier, as a pulled or plugged cable. Does not throw. @returns 0 or -errno (the netdev was deleted: -EBADFD) */
  setCarrier(on: boolean): number {
    this.#int[0] = on ? 1 : 0;
    return libc.ioctl(this.fd, TUNSETCARRIER, this.#int) < 0 ? -errno() : 0;
  }

  /**
   * One frame with its header into [ptr, ptr + max).
   * @returns bytes (a frame longer than max is cut and the full length returned), TAP_AGAIN, or -errno
   */
  read(ptr: number, max: number): number {
    const n = libc.read(this.fd, ptr, max);
    return n >= 0 ? n : -errno();
  }

  /** Hand one frame with its header to the kernel. @returns bytes, TAP_AGAIN, or -errno (-EINVAL: header refused, -EIO: not up) */
  write(ptr: number, len: number): number {
    const n = libc.write(this.fd, ptr, len);
    return n >= 0 ? n : -errno();
  }

  close(): void {
    libc.close(this.fd);
    libc.close(this.#socket);
  }

  #setInt(request: number, value: number, what: string): void {
    this.#int[0] = value;
    check(libc.ioctl(this.fd, request, this.#int), `${what} on ${this.name}`);
  }

  #request(put: (v: DataView) => void): void {
    this.#ifreq.fill(0);
    this.#ifreq.set(cstring(this.name));
    put(new DataView(this.#ifreq.buffer));
  }
}

function openTun(): number {
  const path = "/dev/net/tun";
  const fd = libc.open(cstring(path), O_RDWR | O_NONBLOCK | O_CLOEXEC, 0);
  if (fd >= 0) return fd;
  const e = errno();
  if (e === ENOENT || e === ENODEV || e === ENXIO)
    throw new Fault("E_MISSING", `${path} is missing: the kernel has no TUN/TAP driver`, "modprobe tun (CONFIG_TUN)");
  if (e === EACCES || e === EPERM) throw new Fault("E_PERM", `no permission to open ${path}`, "run as root");
  return check(fd, `open ${path}`);
}

function attachFault(name: string, e: number): Fault {
  if (e === EPERM || e === EACCES)
    return new Fault("E_PERM", `making the TAP ${name} needs CAP_NET_ADMIN`, "run as root");
  if (e === EBUSY || e === EEXIST || e === EINVAL)
    return new Fault("E_BUSY", `the name ${name} is taken by another netdev`, "choose another name");
  return sysFault(`TUNSETIFF ${name}`, e, errnoText(e));
}
