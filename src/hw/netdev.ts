/**
 * What a person would do to a netdev with `ip link set`: name, namespace, MTU, up. By interface ioctls (netdevice(7))
 * and, for the namespace, one rtnetlink message (rtnetlink(7), IFLA_NET_NS_FD). Set-up only.
 */
import { existsSync, readdirSync } from "node:fs";
import { errnoName } from "./errno.ts";
import { Fault } from "./fault.ts";
import {
  AF_INET,
  AF_NETLINK,
  check,
  cstring,
  libc,
  O_CLOEXEC,
  O_RDONLY,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_RAW,
} from "./libc.ts";
import { inNetns } from "./netns.ts";

const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCSIFMTU = 0x8922;
const SIOCSIFNAME = 0x8923;
const SIOCGIFINDEX = 0x8933;
const IFF_UP = 1;
/** struct ifreq: name[16] and a union */
const IFREQ = 40;
const VALUE = 16;

const RTM_NEWLINK = 16;
const NLM_F_REQUEST_ACK = 5;
const IFLA_NET_NS_FD = 28;
const NETLINK_ROUTE = 0;

/** The netdev below a device directory of sysfs ("" when there is none yet), for example of /sys/bus/vdpa/devices/NAME. */
export function netdevBelow(device: string): string {
  if (!existsSync(device)) return "";
  for (const child of readdirSync(device)) {
    if (!child.startsWith("virtio")) continue;
    const net = `${device}/${child}/net`;
    const found = existsSync(net) ? readdirSync(net)[0] : undefined;
    if (found !== undefined) return found;
  }
  return "";
}

/** Interface index of `name` in a namespace of /run/netns ("" the own one), 0 when it is not there. */
export function netdevIndex(name: string, netns = ""): number {
  return inNetns(netns, () =>
    withSocket((s) => {
      const req = ifreq(name);
      return libc.ioctl(s, SIOCGIFINDEX, req) < 0 ? 0 : new DataView(req.buffer).getInt32(VALUE, true);
    }),
  );
}

/** @throws Fault E_BUSY when the name is taken, E_SYS */
export function renameNetdev(from: string, to: string): void {
  withSocket((s) => {
    const req = ifreq(from);
    req.set(cstring(to), VALUE);
    check(libc.ioctl(s, SIOCSIFNAME, req), `rename of ${from} to ${to}`);
  });
}

/** @throws Fault E_SYS */
export function setNetdev(name: string, o: { up?: boolean; mtu?: number; netns?: string }): void {
  inNetns(o.netns ?? "", () =>
    withSocket((s) => {
      const req = ifreq(name);
      const v = new DataView(req.buffer);
      if (o.mtu !== undefined) {
        v.setInt32(VALUE, o.mtu, true);
        check(libc.ioctl(s, SIOCSIFMTU, req), `set mtu ${o.mtu} on ${name}`);
      }
      if (o.up !== undefined) {
        check(libc.ioctl(s, SIOCGIFFLAGS, req), `get the flags of ${name}`);
        const flags = v.getUint16(VALUE, true) & ~IFF_UP;
        v.setUint16(VALUE, flags | (o.up ? IFF_UP : 0), true);
        check(libc.ioctl(s, SIOCSIFFLAGS, req), `set ${name} ${o.up ? "up" : "down"}`);
      }
    }),
  );
}

/** Move a netdev from the own namespace into one of /run/netns. @throws Fault E_MISSING, E_SYS */
export function moveNetdev(name: string, netns: string): void {
  const path = `/run/netns/${netns}`;
  const ns = libc.open(cstring(path), O_RDONLY | O_CLOEXEC, 0);
  if (ns < 0)
    throw new Fault("E_MISSING", `network namespace ${netns} does not exist (${path})`, `ip netns add ${netns}`);
  const fd = check(libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "rtnetlink socket");
  try {
    const b = Buffer.alloc(40);
    b.writeUInt32LE(40, 0);
    b.writeUInt16LE(RTM_NEWLINK, 4);
    b.writeUInt16LE(NLM_F_REQUEST_ACK, 6);
    b.writeUInt32LE(1, 8);
    b.writeInt32LE(netdevIndex(name), 20);
    b.writeUInt16LE(8, 32);
    b.writeUInt16LE(IFLA_NET_NS_FD, 34);
    b.writeInt32LE(ns, 36);
    check(libc.send(fd, b, b.length, 0), "rtnetlink send");
    const reply = Buffer.alloc(1024);
    check(libc.recv(fd, reply, reply.length, 0), "rtnetlink receive");
    const error = -reply.readInt32LE(16);
    if (error !== 0) throw new Fault("E_SYS", `moving ${name} to namespace ${netns}: ${errnoName(error)}`);
  } finally {
    libc.close(fd);
    libc.close(ns);
  }
}

function ifreq(name: string): Uint8Array {
  const req = new Uint8Array(IFREQ);
  req.set(cstring(name));
  return req;
}

function withSocket<T>(fn: (socket: number) => T): T {
  const s = check(libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket for interface ioctls");
  try {
    return fn(s);
  } finally {
    libc.close(s);
  }
}
