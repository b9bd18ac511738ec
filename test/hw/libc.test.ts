import { expect, test } from "bun:test";
import { EAGAIN, errnoName, faultCodeOf, sysFault } from "../../src/hw/errno.ts";
import { Fault } from "../../src/hw/fault.ts";
import * as c from "../../src/hw/libc.ts";
import { MappedMmio } from "../../src/hw/mapped-mmio.ts";
import { mapAnonymous, unmap, view } from "../../src/hw/mem.ts";

const { libc } = c;

test("check names operation, errno and its text, and keeps the hint", () => {
  try {
    c.check(libc.open(c.cstring("/nonexistent/h1"), c.O_RDONLY, 0), "open /nonexistent/h1", "make it");
    throw new Error("no Fault");
  } catch (e) {
    expect(e).toBeInstanceOf(Fault);
    const f = e as Fault;
    expect([f.code, f.hint]).toEqual(["E_SYS", "make it"]);
    expect(f.message).toBe("open /nonexistent/h1: ENOENT (No such file or directory)");
  }
  expect(c.check(5, "x")).toBe(5);
});

test("a permission that is missing says what to do, unless the caller knows better", () => {
  expect(sysFault("open x", 13, "Permission denied").hint).toContain("run as root");
  expect(sysFault("open x", 13, "Permission denied", "chmod it").hint).toBe("chmod it");
  expect(sysFault("open x", 22, "Invalid argument").hint).toBeUndefined();
});

test("errno decides the kind of Fault", () => {
  expect([1, 13, 16, 98, 19, 6, 22].map(faultCodeOf)).toEqual([
    "E_PERM",
    "E_PERM",
    "E_BUSY",
    "E_BUSY",
    "E_NODEV",
    "E_NODEV",
    "E_SYS",
  ]);
  expect([EAGAIN, 95, 77, 4242].map(errnoName)).toEqual(["EAGAIN", "EOPNOTSUPP", "EBADFD", "errno 4242"]);
});

test("retry repeats EINTR only, and a blocking poll survives signals", async () => {
  let calls = 0;
  const rc = c.retry(() => {
    calls++;
    return libc.read(-1, new Uint8Array(1), 1); // EBADF
  });
  expect([rc, calls, errnoName(c.errno())]).toEqual([-1, 1, "EBADF"]);

  let seen = 0;
  const onSignal = () => {
    seen++;
  };
  process.on("SIGUSR2", onSignal);
  const fds = new Int32Array([libc.eventfd(0, c.EFD_CLOEXEC), c.POLLIN]);
  const child = Bun.spawn(["sh", "-c", `sleep 0.05; kill -USR2 ${process.pid}`]);
  const until = Date.now() + 300;
  calls = 0;
  const n = c.retry(() => {
    calls++;
    return libc.poll(fds, 1, Math.max(0, until - Date.now()));
  });
  expect(n).toBe(0); // the timeout, not the signal, ended it
  expect(calls).toBeGreaterThanOrEqual(2);
  expect(Date.now()).toBeGreaterThanOrEqual(until - 1);
  await child.exited;
  await Bun.sleep(10);
  expect(seen).toBe(1);
  process.off("SIGUSR2", onSignal);
  libc.close(fds[0]!);
});

test("a descriptor travels over a unix socket (SCM_RIGHTS)", () => {
  const pair = new Int32Array(2);
  c.check(libc.socketpair(c.AF_UNIX, c.SOCK_STREAM | c.SOCK_CLOEXEC, 0, pair), "socketpair");
  const memfd = libc.memfd_create(c.cstring("h1"), c.MFD_CLOEXEC);
  libc.write(memfd, c.cstring("hello"), 5);
  const data = new Uint8Array([42]);
  const control = new Uint8Array(24);
  const msg = (payload: Uint8Array): { hdr: Uint8Array; keep: unknown[] } => {
    const iov = new BigUint64Array([BigInt(c.ptrOf(payload)), BigInt(payload.length)]);
    const hdr = new Uint8Array(56);
    const v = new DataView(hdr.buffer);
    v.setBigUint64(16, BigInt(c.ptrOf(iov)), true);
    v.setBigUint64(24, 1n, true);
    v.setBigUint64(32, BigInt(c.ptrOf(control)), true);
    v.setBigUint64(40, 24n, true);
    return { hdr, keep: [iov, payload] };
  };
  new Uint32Array(control.buffer).set([20, 0, c.SOL_SOCKET, c.SCM_RIGHTS, memfd]);
  const out = msg(data);
  expect(libc.sendmsg(pair[0]!, out.hdr, c.MSG_NOSIGNAL)).toBe(1);
  control.fill(0);
  const got = new Uint8Array(1);
  const into = msg(got);
  expect(libc.recvmsg(pair[1]!, into.hdr, c.MSG_CMSG_CLOEXEC)).toBe(1);
  expect(got[0]).toBe(42);
  const fd = new Uint32Array(control.buffer)[4]!;
  expect(fd).not.toBe(memfd);
  const text = new Uint8Array(5);
  expect(libc.pread(fd, text, 5, 0)).toBe(5);
  expect(new TextDecoder().decode(text)).toBe("hello");
  expect([out.keep.length, into.keep.length]).toEqual([2, 2]);
  for (const f of [fd, memfd, ...pair]) libc.close(f);
});

test("mmap failures are Faults, also where the address type is 64 bits", () => {
  expect(() => c.mmap("nothing", 4096, c.PROT_READ, c.MAP_SHARED, -1)).toThrow("mmap of 4096 bytes of nothing: EBADF");
  expect(c.mapFailed(18446744073709551615n)).toBe(true);
  expect(c.mapFailed(2 ** 48 - 4096)).toBe(false);
});

test("MappedMmio: widths and offsets", () => {
  const p = mapAnonymous(4096);
  const bytes = new Uint8Array(view(p, 4096));
  const io = new MappedMmio(p + 256, 1024);
  io.st32(4, 0x89abcdef);
  io.st16(8, 0x1234);
  io.st8(10, 0x56);
  expect(Buffer.from(bytes.subarray(256 + 3, 256 + 12)).toString("hex")).toBe("00efcdab8934125600");
  expect([io.ld32(4), io.ld16(6), io.ld8(7), io.size]).toEqual([0x89abcdef, 0x89ab, 0x89, 1024]);
  expect(() => new MappedMmio(p + 2, 4)).toThrow("multiple of 4");
  unmap(p, 4096);
});
