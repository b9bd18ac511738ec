/**
 * The C library by bun:ffi: the only dlopen of libc, for glibc and musl on x86-64 and arm64. Raw calls with C
 * semantics (-1 and errno), plus `check` and `retry` for set-up code. Variadic calls (open, ioctl, fcntl, prctl) have
 * fixed signatures here, which the Linux ABI of both machines allows.
 *
 * Hazards: ptr(array) does not keep the array alive, so pass the array itself or hold it in a live object. errno is
 * per thread and only meaningful right after a call that failed. A blocking call stops the JS thread.
 */
import { dlopen, type FFIFunction, ptr, read } from "bun:ffi";
import { EINTR, errnoName, sysFault } from "./errno.ts";
import { Fault } from "./fault.ts";

export { errnoName };

/** A pointer argument: an address below 2^53, the memory of an array, or NULL. */
export type PtrArg = number | NodeJS.TypedArray | DataView | null;

type Name = keyof typeof signatures;
type ArgOf<T> = T extends "ptr" ? PtrArg : T extends "u64" | "i64" ? number | bigint : number;
type ArgsOf<T extends readonly unknown[]> = { -readonly [K in keyof T]: ArgOf<T[K]> };
type Libc = {
  readonly [N in Name]: (
    ...args: ArgsOf<(typeof signatures)[N]["args"]>
  ) => (typeof signatures)[N]["returns"] extends "void" ? void : number;
};

// sizes and offsets are u64/i64: plain numbers are accepted; results that can pass 2^31 are i64_fast (a number)
const signatures = {
  // files
  open: { args: ["ptr", "i32", "u32"], returns: "i32" },
  close: { args: ["i32"], returns: "i32" },
  read: { args: ["i32", "ptr", "u64"], returns: "i64_fast" },
  write: { args: ["i32", "ptr", "u64"], returns: "i64_fast" },
  pread: { args: ["i32", "ptr", "u64", "i64"], returns: "i64_fast" },
  pwrite: { args: ["i32", "ptr", "u64", "i64"], returns: "i64_fast" },
  readv: { args: ["i32", "ptr", "i32"], returns: "i64_fast" },
  writev: { args: ["i32", "ptr", "i32"], returns: "i64_fast" },
  ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
  fcntl: { args: ["i32", "i32", "u64"], returns: "i32" },
  ftruncate: { args: ["i32", "i64"], returns: "i32" },
  flock: { args: ["i32", "i32"], returns: "i32" },
  memfd_create: { args: ["ptr", "u32"], returns: "i32" },
  eventfd: { args: ["u32", "i32"], returns: "i32" },
  // memory
  mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "ptr" },
  munmap: { args: ["ptr", "u64"], returns: "i32" },
  mprotect: { args: ["ptr", "u64", "i32"], returns: "i32" },
  madvise: { args: ["ptr", "u64", "i32"], returns: "i32" },
  mlock: { args: ["ptr", "u64"], returns: "i32" },
  mlockall: { args: ["i32"], returns: "i32" },
  memcpy: { args: ["ptr", "ptr", "u64"], returns: "void" },
  memset: { args: ["ptr", "i32", "u64"], returns: "void" },
  memcmp: { args: ["ptr", "ptr", "u64"], returns: "i32" },
  // waiting
  poll: { args: ["ptr", "u64", "i32"], returns: "i32" },
  ppoll: { args: ["ptr", "u64", "ptr", "ptr"], returns: "i32" },
  epoll_create1: { args: ["i32"], returns: "i32" },
  epoll_ctl: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
  epoll_wait: { args: ["i32", "ptr", "i32", "i32"], returns: "i32" },
  nanosleep: { args: ["ptr", "ptr"], returns: "i32" },
  usleep: { args: ["u32"], returns: "i32" },
  // sockets
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  socketpair: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
  connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
  listen: { args: ["i32", "i32"], returns: "i32" },
  accept4: { args: ["i32", "ptr", "ptr", "i32"], returns: "i32" },
  recvmsg: { args: ["i32", "ptr", "i32"], returns: "i64_fast" },
  sendmsg: { args: ["i32", "ptr", "i32"], returns: "i64_fast" },
  recv: { args: ["i32", "ptr", "u64", "i32"], returns: "i64_fast" },
  send: { args: ["i32", "ptr", "u64", "i32"], returns: "i64_fast" },
  sendto: { args: ["i32", "ptr", "u64", "i32", "ptr", "u32"], returns: "i64_fast" },
  shutdown: { args: ["i32", "i32"], returns: "i32" },
  getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
  setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
  getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
  // process
  getpid: { args: [], returns: "i32" },
  getpagesize: { args: [], returns: "i32" },
  geteuid: { args: [], returns: "i32" },
  setns: { args: ["i32", "i32"], returns: "i32" },
  unshare: { args: ["i32"], returns: "i32" },
  prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" },
  sched_setscheduler: { args: ["i32", "i32", "ptr"], returns: "i32" },
  sched_setaffinity: { args: ["i32", "u64", "ptr"], returns: "i32" },
  setpriority: { args: ["i32", "u32", "i32"], returns: "i32" },
  strerror: { args: ["i32"], returns: "cstring" },
  __errno_location: { args: [], returns: "ptr" },
} as const;

function openLibc(): Libc {
  const arch = process.arch === "arm64" ? "aarch64" : "x86_64";
  let last: unknown;
  for (const name of ["libc.so.6", `libc.musl-${arch}.so.1`, `ld-musl-${arch}.so.1`]) {
    try {
      return dlopen(name, signatures as unknown as Record<string, FFIFunction>).symbols as unknown as Libc;
    } catch (e) {
      last = e;
    }
  }
  throw new Fault("E_MISSING", `no C library could be opened (libc.so.6 or musl): ${last}`);
}

export const libc: Libc = openLibc();

/** bytes of a page of this kernel: 4096, on arm64 also 16384 or 65536 */
export const PAGE_SIZE = libc.getpagesize();

// one JS thread is one system thread, and every Worker has its own instance of this module
const errnoPtr = libc.__errno_location();

/** errno of this thread's last failed call. */
export function errno(): number {
  return read.i32(errnoPtr as never, 0);
}

/** The C library's text for an errno number. */
export function errnoText(e: number): string {
  return String(libc.strerror(e));
}

/**
 * Turn -1 into a Fault that names the operation, errno's name and its text; return `rc` otherwise.
 * @throws Fault E_PERM, E_BUSY, E_NODEV or E_SYS
 */
export function check(rc: number, operation: string, hint?: string): number {
  if (rc !== -1) return rc;
  const e = errno();
  throw sysFault(operation, e, errnoText(e), hint);
}

/** Repeat `call` while it fails with EINTR. For set-up code and blocking calls, not for the service loop. */
export function retry(call: () => number): number {
  for (;;) {
    const rc = call();
    if (rc !== -1 || errno() !== EINTR) return rc;
  }
}

/** `text` as a NUL-terminated C string. */
export function cstring(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

/** Address of an array's bytes. The caller keeps the array alive for as long as the address is used. */
export function ptrOf(array: NodeJS.TypedArray | DataView): number {
  return ptr(array as NodeJS.TypedArray) as number;
}

// --- flags, the same on x86-64 and arm64 unless said otherwise ---
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_NONBLOCK = 0o4000;
export const O_SYNC = 0o4010000;
export const O_CLOEXEC = 0o2000000;
export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_EXEC = 4;
export const MAP_SHARED = 1;
export const MAP_PRIVATE = 2;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MAP_POPULATE = 0x8000;
export const MAP_HUGETLB = 0x40000;
export const MFD_CLOEXEC = 1;
export const MFD_HUGETLB = 4;
export const EFD_CLOEXEC = O_CLOEXEC;
export const EFD_NONBLOCK = O_NONBLOCK;
export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_NETLINK = 16;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = O_NONBLOCK;
export const SOCK_CLOEXEC = O_CLOEXEC;
export const SOL_SOCKET = 1;
export const SCM_RIGHTS = 1;
export const MSG_CTRUNC = 8;
export const MSG_DONTWAIT = 0x40;
export const MSG_WAITALL = 0x100;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_CMSG_CLOEXEC = 0x40000000;
export const SHUT_RDWR = 2;
export const LOCK_EX = 2;
export const LOCK_NB = 4;
export const LOCK_UN = 8;
export const CLONE_NEWNET = 0x40000000;
export const SCHED_OTHER = 0;
export const SCHED_FIFO = 1;
export const MCL_CURRENT = 1;
export const MCL_FUTURE = 2;

/** mmap's MAP_FAILED arrives as 2^64 - 1 (arm64 user addresses reach 2^48 - 1, so compare with 2^53). */
export const mapFailed = (p: number | bigint): boolean => p >= 2 ** 53;

/**
 * mmap with errors as Faults.
 * @param what names the mapping in the error text
 * @returns the CPU address, a Number below 2^53
 */
export function mmap(what: string, size: number, prot: number, flags: number, fd: number, offset = 0): number {
  const p = libc.mmap(null, size, prot, flags, fd, offset);
  if (mapFailed(p)) check(-1, `mmap of ${size} bytes of ${what}`);
  return Number(p);
}
