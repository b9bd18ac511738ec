/**
 * Adding and deleting a vdpa device through generic netlink, in the manner of `vdpa dev add name N mgmtdev vduse`. The
 * kernel holds the caller until the driver's probe is over, and the probe asks the VDUSE process: so the caller must
 * be another process. vdpaChild() starts this very program again with a hidden argument; vdpaMain() is what it runs.
 */
import { existsSync, readFileSync } from "node:fs";
import { errnoName } from "./errno.ts";
import { Fault } from "./fault.ts";
import { AF_NETLINK, check, errnoText, libc, retry, SOCK_CLOEXEC, SOCK_RAW } from "./libc.ts";
import { selfCommand } from "./self.ts";
import {
  CTRL_ATTR_FAMILY_ID,
  CTRL_ATTR_FAMILY_NAME,
  CTRL_CMD_GETFAMILY,
  GENL_ID_CTRL,
  NETLINK_GENERIC,
  NLM_F_ACK,
  NLM_F_REQUEST,
  NLMSG_ERROR,
  VDPA_ATTR_DEV_NAME,
  VDPA_ATTR_MGMTDEV_DEV_NAME,
  VDPA_CMD_DEV_DEL,
  VDPA_CMD_DEV_NEW,
} from "./vduse.layout.ts";

/** the hidden argument: `epnic __vdpa add|del NAME` */
export const VDPA_ARGUMENT = "__vdpa";

const NLMSG_HDR = 16;
const GENL_HDR = 4;

/** One netlink attribute with a NUL-terminated string. */
function attribute(type: number, text: string): Buffer {
  const value = Buffer.from(`${text}\0`);
  const b = Buffer.alloc((4 + value.length + 3) & ~3);
  b.writeUInt16LE(4 + value.length, 0);
  b.writeUInt16LE(type, 2);
  value.copy(b, 4);
  return b;
}

/** A generic netlink request. Exported for its test. */
export function genlMessage(family: number, flags: number, seq: number, cmd: number, attrs: readonly Buffer[]): Buffer {
  const body = Buffer.concat(attrs);
  const b = Buffer.alloc(NLMSG_HDR + GENL_HDR);
  b.writeUInt32LE(NLMSG_HDR + GENL_HDR + body.length, 0);
  b.writeUInt16LE(family, 4);
  b.writeUInt16LE(flags, 6);
  b.writeUInt32LE(seq, 8);
  b.writeUInt8(cmd, NLMSG_HDR);
  b.writeUInt8(1, NLMSG_HDR + 1);
  return Buffer.concat([b, body]);
}

/** The value of a 16-bit attribute in the reply to GETFAMILY, -1 when it is not there. Exported for its test. */
export function attributeU16(reply: Buffer, type: number): number {
  for (let at = NLMSG_HDR + GENL_HDR; at + 4 <= reply.length; ) {
    const len = reply.readUInt16LE(at);
    if (len < 4) break;
    if (reply.readUInt16LE(at + 2) === type && at + 6 <= reply.length) return reply.readUInt16LE(at + 4);
    at += (len + 3) & ~3;
  }
  return -1;
}

/** @returns 0 or errno of the netlink answer */
function transact(fd: number, message: Buffer, reply: Buffer): { error: number; bytes: number } {
  check(
    retry(() => libc.send(fd, message, message.length, 0)),
    "netlink send",
  );
  const n = check(
    retry(() => libc.recv(fd, reply, reply.length, 0)),
    "netlink receive",
  );
  if (reply.readUInt16LE(4) === NLMSG_ERROR) return { error: -reply.readInt32LE(NLMSG_HDR), bytes: n };
  return { error: 0, bytes: n };
}

/**
 * Add or delete the vdpa device of a VDUSE device. Blocks until the driver's probe or removal is over.
 * @throws Fault E_MISSING without the vdpa bus, E_SYS with the kernel's errno
 */
export function vdpaCommand(action: "add" | "del", name: string): void {
  const fd = check(libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC), "netlink socket");
  try {
    const reply = Buffer.alloc(8192);
    const ask = genlMessage(GENL_ID_CTRL, NLM_F_REQUEST, 1, CTRL_CMD_GETFAMILY, [
      attribute(CTRL_ATTR_FAMILY_NAME, "vdpa"),
    ]);
    const found = transact(fd, ask, reply);
    const family = found.error === 0 ? attributeU16(reply.subarray(0, found.bytes), CTRL_ATTR_FAMILY_ID) : -1;
    if (family < 0)
      throw new Fault("E_MISSING", "the kernel has no generic netlink family vdpa", "modprobe -a vduse virtio_vdpa");
    const attrs = [attribute(VDPA_ATTR_DEV_NAME, name)];
    if (action === "add") attrs.push(attribute(VDPA_ATTR_MGMTDEV_DEV_NAME, "vduse"));
    const cmd = action === "add" ? VDPA_CMD_DEV_NEW : VDPA_CMD_DEV_DEL;
    const { error } = transact(fd, genlMessage(family, NLM_F_REQUEST | NLM_F_ACK, 2, cmd, attrs), reply);
    if (error !== 0) throw new Fault("E_SYS", `vdpa dev ${action} ${name}: ${errnoName(error)} (${errnoText(error)})`);
  } finally {
    libc.close(fd);
  }
}

/** The hidden subcommand. @returns exit status */
export function vdpaMain(args: readonly string[]): number {
  const [action, name] = args;
  if ((action !== "add" && action !== "del") || name === undefined) return 2;
  try {
    vdpaCommand(action, name);
    return 0;
  } catch (e) {
    console.error(`epnic: ${(e as Error).message}`);
    return 1;
  }
}

/** A child that runs vdpaMain(); its status is asked with `done`. */
export class VdpaChild {
  /** null while it runs, then its exit status (128 for a signal) */
  status: number | null = null;
  private readonly pid: number;

  constructor(action: "add" | "del", name: string) {
    const child = Bun.spawn([...selfCommand(), VDPA_ARGUMENT, action, name], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "inherit",
      onExit: (_p, code) => {
        this.status = code ?? 128;
      },
    });
    child.unref();
    this.pid = child.pid;
  }

  /** For a caller that does not return to the event loop, where `status` stays null: the child has not ended. */
  get running(): boolean {
    if (this.status !== null) return false;
    try {
      const stat = readFileSync(`/proc/${this.pid}/stat`, "latin1");
      return stat[stat.lastIndexOf(")") + 2] !== "Z";
    } catch {
      return false;
    }
  }
}

/** Whether the vdpa bus has a device of that name. */
export const vdpaExists = (name: string): boolean => existsSync(`/sys/bus/vdpa/devices/${name}`);
