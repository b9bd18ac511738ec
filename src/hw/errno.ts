/**
 * Errno numbers, names and texts, and how a failed system call becomes a Fault. The numbers are those of
 * asm-generic (x86-64 and arm64 agree); names come from node:os so that none has to be typed here.
 */
import { constants } from "node:os";
import { Fault, type FaultCode } from "./fault.ts";

export const EPERM = 1;
export const ENOENT = 2;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const ENOTTY = 25;
export const ENOSPC = 28;
export const EPIPE = 32;
export const ENOSYS = 38;
export const EBADFD = 77;
export const EOPNOTSUPP = 95;
export const EADDRINUSE = 98;
export const ENETDOWN = 100;
export const ENOBUFS = 105;
export const ECONNREFUSED = 111;

const names = new Map<number, string>();
for (const [name, value] of Object.entries(constants.errno)) if (!names.has(value)) names.set(value, name);
// aliases of the same number: keep the name people search for
names.set(EAGAIN, "EAGAIN");
names.set(EOPNOTSUPP, "EOPNOTSUPP");
names.set(EBADFD, "EBADFD");

/** Symbolic name of an errno number, "errno 4242" when it has none. */
export function errnoName(e: number): string {
  return names.get(e) ?? `errno ${e}`;
}

/** The Fault code that tells the exit status: permission, busy, no device, or a plain system error. */
export function faultCodeOf(e: number): FaultCode {
  switch (e) {
    case EPERM:
    case EACCES:
      return "E_PERM";
    case EBUSY:
    case EADDRINUSE:
      return "E_BUSY";
    case ENXIO:
    case ENODEV:
      return "E_NODEV";
    default:
      return "E_SYS";
  }
}

/** The Fault of system call `operation` (say what and on what: `open /dev/net/tun`) that failed with `e`. */
export function sysFault(operation: string, e: number, text: string, hint?: string): Fault {
  const code = faultCodeOf(e);
  const advice = hint ?? (code === "E_PERM" ? "run as root, or grant the capability this operation needs" : undefined);
  return new Fault(code, `${operation}: ${errnoName(e)} (${text})`, advice);
}
