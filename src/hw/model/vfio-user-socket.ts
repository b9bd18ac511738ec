/**
 * One vfio-user connection on a unix stream socket: whole messages in and out with their file descriptors. It knows
 * framing, not the meaning of messages; it never blocks.
 *
 * The file descriptors of a message come with its first byte. A large read could swallow several messages and give a
 * later one's descriptor to an earlier one, so a message is always read as 16 header bytes and then its body.
 */
import { existsSync, lstatSync, unlinkSync } from "node:fs";
import { EAGAIN, ECONNREFUSED, EINTR } from "../errno.ts";
import { Fault } from "../fault.ts";
import {
  AF_UNIX,
  check,
  cstring,
  errno,
  errnoName,
  libc,
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  O_CLOEXEC,
  POLLIN,
  ptrOf,
  SCM_RIGHTS,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
} from "../libc.ts";
import {
  FLAG_ERROR,
  FLAG_NO_REPLY,
  FLAG_REPLY,
  HDR_BYTES,
  HDR_COMMAND,
  HDR_ERROR,
  HDR_FLAGS,
  HDR_ID,
  HDR_SIZE,
  MAX_FDS,
  MAX_TRANSFER,
} from "./vfio-user.layout.ts";

/** receive(): nothing complete yet */
export const RX_NONE = 0;
/** receive(): `header`, `body` and `fds` hold a message */
export const RX_MESSAGE = 1;
/** receive(): the peer closed the connection */
export const RX_CLOSED = -1;
/** receive(): the stream is broken; `reason` says how */
export const RX_BROKEN = -2;

/** A message whose rest does not come within this time is hung, ms. */
const HUNG_MS = 2000;
const EPOLL_CTL_ADD = 1;
/** struct msghdr, 64-bit Linux */
const MSGHDR_BYTES = 56;
const CMSG_BYTES = 16 + 4 * MAX_FDS;

function unixAddress(path: string): Uint8Array {
  const name = cstring(path);
  if (name.length > 108)
    throw new Fault(
      "E_USAGE",
      `socket path has ${name.length - 1} bytes, a unix socket takes at most 107`,
      "use a shorter path",
    );
  const addr = new Uint8Array(2 + name.length);
  addr[0] = AF_UNIX;
  addr.set(name, 2);
  return addr;
}

/** iovec, control buffer and msghdr for one direction; the arrays live as long as the object. */
class Message {
  readonly control = new Uint8Array(CMSG_BYTES);
  readonly #controlView = new DataView(this.control.buffer);
  readonly #iov = new BigUint64Array(2);
  readonly #iovView = new DataView(this.#iov.buffer);
  readonly hdr = new Uint8Array(MSGHDR_BYTES);
  readonly #hdrView = new DataView(this.hdr.buffer);

  constructor() {
    this.#set(this.#hdrView, 16, ptrOf(this.#iov));
    this.#set(this.#hdrView, 24, 1);
    this.#set(this.#hdrView, 32, ptrOf(this.control));
  }

  #set(view: DataView, off: number, value: number): void {
    view.setUint32(off, value >>> 0, true);
    view.setUint32(off + 4, Math.floor(value / 2 ** 32), true);
  }

  prepare(ptr: number, len: number, controlLen: number): void {
    this.#set(this.#iovView, 0, ptr);
    this.#set(this.#iovView, 8, len);
    this.#set(this.#hdrView, 40, controlLen);
    this.#hdrView.setInt32(48, 0, true);
  }

  putFd(fd: number): number {
    this.#set(this.#controlView, 0, 20);
    this.#controlView.setInt32(8, SOL_SOCKET, true);
    this.#controlView.setInt32(12, SCM_RIGHTS, true);
    this.#controlView.setInt32(16, fd, true);
    return 24;
  }

  /** Descriptors of the last recvmsg appended to `fds`. @returns false when the kernel had to drop some */
  takeFds(fds: number[]): boolean {
    const len = this.#hdrView.getUint32(40, true);
    if (
      len >= 20 &&
      this.#controlView.getInt32(8, true) === SOL_SOCKET &&
      this.#controlView.getInt32(12, true) === SCM_RIGHTS
    ) {
      const n = (this.#controlView.getUint32(0, true) - 16) >> 2;
      for (let i = 0; i < n; i++) fds.push(this.#controlView.getInt32(16 + 4 * i, true));
    }
    return (this.#hdrView.getInt32(48, true) & MSG_CTRUNC) === 0;
  }
}

export class VfioUserSocket {
  readonly path: string;
  /** header of the message being received, 16 bytes */
  readonly header = new DataView(new ArrayBuffer(HDR_BYTES));
  /** body of the message; valid up to `bodyLen` */
  readonly bodyBytes = new Uint8Array(MAX_TRANSFER + 64);
  readonly body = new DataView(this.bodyBytes.buffer);
  bodyLen = 0;
  /** descriptors that came with the message; the receiver owns them: take what it keeps, closeFds() the rest */
  fds: number[] = [];
  /** what broke, after RX_BROKEN */
  reason = "";

  #listener = -1;
  #peer = -1;
  #epoll = -1;
  readonly #in = new Message();
  readonly #out = new Message();
  readonly #headerBytes = new Uint8Array(this.header.buffer);
  #got = 0;
  #startedMs = 0;
  readonly #outBytes = new Uint8Array(MAX_TRANSFER + 64);
  readonly out = new DataView(this.#outBytes.buffer);
  #outLen = 0;
  #outDone = 0;
  #outFd = -1;

  /** Listen on `path`. A socket file that nobody serves any more is replaced. @throws Fault */
  constructor(path: string) {
    this.path = path;
    const addr = unixAddress(path);
    if (existsSync(path)) this.#replaceStale(addr);
    const fd = check(libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket(AF_UNIX)");
    this.#listener = fd;
    if (libc.bind(fd, addr, addr.length) === -1 || libc.listen(fd, 1) === -1) {
      const e = errno();
      libc.close(fd);
      throw new Fault(
        "E_SYS",
        `cannot listen on ${path}: ${errnoName(e)}`,
        "choose a path in an existing, writable folder",
      );
    }
    this.#epoll = check(libc.epoll_create1(O_CLOEXEC), "epoll_create1");
    this.#watch(fd);
  }

  #replaceStale(addr: Uint8Array): void {
    if (!lstatSync(this.path).isSocket())
      throw new Fault("E_BUSY", `${this.path} exists and is no socket`, "remove it or choose another path");
    const fd = check(libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket(AF_UNIX)");
    const rc = libc.connect(fd, addr, addr.length);
    const e = rc === -1 ? errno() : 0;
    libc.close(fd);
    if (rc === 0 || e === EAGAIN)
      throw new Fault("E_BUSY", `${this.path} is served by another process`, "stop it or choose another path");
    if (e !== ECONNREFUSED)
      throw new Fault(
        "E_BUSY",
        `${this.path} exists and is not a stale socket (${errnoName(e)})`,
        "remove it or choose another path",
      );
    unlinkSync(this.path);
  }

  get connected(): boolean {
    return this.#peer >= 0;
  }

  /** One descriptor for as long as the object lives: readable when a QEMU wants in or the connected one says something. */
  get waitFd(): number {
    return this.#epoll;
  }

  #watch(fd: number): void {
    // struct epoll_event: 12 bytes packed on x86-64, 16 elsewhere; the data is not used
    const event = new Uint32Array(4);
    event[0] = POLLIN;
    check(libc.epoll_ctl(this.#epoll, EPOLL_CTL_ADD, fd, event), "epoll_ctl");
  }

  /** Take a waiting connection. @returns true when there was one */
  accept(): boolean {
    if (this.#peer >= 0 || this.#listener < 0) return false;
    const fd = libc.accept4(this.#listener, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return false;
    this.#peer = fd;
    this.#watch(fd);
    this.#got = 0;
    this.#outLen = 0;
    return true;
  }

  /** Read what is there, up to the end of one message. Allocates nothing when nothing is there. */
  receive(): number {
    if (this.#peer < 0) return RX_CLOSED;
    if (this.#got < HDR_BYTES) {
      const n = this.#read(ptrOf(this.#headerBytes) + this.#got, HDR_BYTES - this.#got, true);
      if (n <= 0) return n === 0 ? this.#waiting() : n;
      this.#got += n;
      if (this.#got < HDR_BYTES) return this.#waiting();
      const size = this.header.getUint32(HDR_SIZE, true);
      if (size < HDR_BYTES || size > HDR_BYTES + this.bodyBytes.length)
        return this.#broken(
          `a message header with size ${size}, allowed is ${HDR_BYTES} to ${HDR_BYTES + this.bodyBytes.length}`,
        );
      this.bodyLen = size - HDR_BYTES;
    }
    const total = HDR_BYTES + this.bodyLen;
    while (this.#got < total) {
      const n = this.#read(ptrOf(this.bodyBytes) + this.#got - HDR_BYTES, total - this.#got, true);
      if (n <= 0) return n === 0 ? this.#waiting() : n;
      this.#got += n;
    }
    this.#got = 0;
    return RX_MESSAGE;
  }

  /** @returns bytes read, 0 when none are there, RX_CLOSED or RX_BROKEN */
  #read(ptr: number, len: number, takeFds: boolean): number {
    this.#in.prepare(ptr, len, takeFds ? CMSG_BYTES : 0);
    const n = libc.recvmsg(this.#peer, ptrOf(this.#in.hdr) as never, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n > 0) {
      if (this.#got === 0) this.#startedMs = 0;
      if (!this.#in.takeFds(this.fds)) return this.#broken(`more than ${MAX_FDS} file descriptors in a message`);
      return n;
    }
    if (n === 0) return this.#got > 0 ? this.#broken("the connection ended inside a message") : RX_CLOSED;
    const e = errno();
    if (e === EAGAIN || e === EINTR) return 0;
    return this.#broken(`recvmsg: ${errnoName(e)}`);
  }

  /** Nothing more to read now: fine between messages, and for a while inside one. */
  #waiting(): number {
    if (this.#got === 0) return RX_NONE;
    const now = performance.now();
    if (this.#startedMs === 0) this.#startedMs = now;
    if (now - this.#startedMs > HUNG_MS)
      return this.#broken(`only ${this.#got} bytes of a message came within ${HUNG_MS} ms`);
    return RX_NONE;
  }

  #broken(reason: string): number {
    this.reason = reason;
    return RX_BROKEN;
  }

  /** A reply still has bytes to go; nothing may be received before flush() has sent it. */
  get sending(): boolean {
    return this.#outDone < this.#outLen;
  }

  /** Send `len` bytes of `out`, with a descriptor when `fd >= 0` (which stays the caller's). @returns as flush() */
  send(len: number, fd = -1): number {
    this.#outLen = len;
    this.#outDone = 0;
    this.#outFd = fd;
    return this.flush();
  }

  /** Go on sending. @returns 0 (sent or to be continued) or RX_BROKEN / RX_CLOSED */
  flush(): number {
    while (this.#outDone < this.#outLen) {
      const control = this.#outFd >= 0 && this.#outDone === 0 ? this.#out.putFd(this.#outFd) : 0;
      this.#out.prepare(ptrOf(this.#outBytes) + this.#outDone, this.#outLen - this.#outDone, control);
      const n = libc.sendmsg(this.#peer, ptrOf(this.#out.hdr) as never, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0) {
        const e = errno();
        if (e === EAGAIN) return 0;
        if (e === EINTR) continue;
        return this.#broken(`sendmsg: ${errnoName(e)}`);
      }
      this.#outDone += n;
    }
    return 0;
  }

  /**
   * Answer the message in `header` with `len` bytes that are in `out` behind the header's place. Descriptors of the message that nobody
   * took are closed.
   * @returns 1 sent (or no reply was wanted), 0 to be continued with flush(), RX_BROKEN
   */
  reply(len: number, fd = -1): number {
    return this.#answer(HDR_BYTES + len, FLAG_REPLY, 0, fd);
  }

  /** The same with a positive errno and nothing else. */
  replyError(code: number): number {
    return this.#answer(HDR_BYTES, FLAG_REPLY | FLAG_ERROR, code, -1);
  }

  #answer(size: number, flags: number, error: number, fd: number): number {
    const { header, out } = this;
    if (this.fds.length > 0) this.closeFds();
    if (header.getUint32(HDR_FLAGS, true) & FLAG_NO_REPLY) return 1;
    out.setUint16(HDR_ID, header.getUint16(HDR_ID, true), true);
    out.setUint16(HDR_COMMAND, header.getUint16(HDR_COMMAND, true), true);
    out.setUint32(HDR_SIZE, size, true);
    out.setUint32(HDR_FLAGS, flags, true);
    out.setUint32(HDR_ERROR, error, true);
    const rc = this.send(size, fd);
    return rc < 0 ? rc : this.sending ? 0 : 1;
  }

  /** Close the descriptors of the message that nobody took. */
  closeFds(): void {
    for (const fd of this.fds) libc.close(fd);
    this.fds.length = 0;
  }

  /** End the connection; the listener stays. */
  drop(): void {
    this.closeFds();
    if (this.#peer >= 0) libc.close(this.#peer);
    this.#peer = -1;
    this.#got = 0;
    this.#outLen = 0;
    this.#outDone = 0;
  }

  close(): void {
    this.drop();
    if (this.#listener >= 0) {
      libc.close(this.#listener);
      this.#listener = -1;
      libc.close(this.#epoll);
      this.#epoll = -1;
      if (existsSync(this.path)) unlinkSync(this.path);
    }
  }
}
