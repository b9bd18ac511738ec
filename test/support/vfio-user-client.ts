/**
 * The client's end of vfio-user for tests: sends requests as QEMU does, byte layouts written down a second time so
 * that a slip in the server's constants is noticed. The server runs in the same thread: `pump` gives it turns.
 */
import { cstring, errno, libc, ptrOf } from "../../src/hw/libc.ts";

export interface Reply {
  id: number;
  command: number;
  flags: number;
  error: number;
  body: DataView;
  fds: number[];
}

export class VfioUserClient {
  readonly #fd: number;
  #id = 100;
  readonly #pump: () => void;

  constructor(path: string, pump: () => void) {
    this.#pump = pump;
    this.#fd = libc.socket(1, 1, 0);
    const name = cstring(path);
    const addr = new Uint8Array(2 + name.length);
    addr[0] = 1;
    addr.set(name, 2);
    if (libc.connect(this.#fd, addr, addr.length) !== 0) throw new Error(`connect ${path}: errno ${errno()}`);
  }

  /** Send one message; `flags` 0x10 asks for no reply. @returns its id */
  send(command: number, body: Uint8Array, fd = -1, flags = 0): number {
    const message = new Uint8Array(16 + body.length);
    const view = new DataView(message.buffer);
    const id = this.#id++;
    view.setUint16(0, id, true);
    view.setUint16(2, command, true);
    view.setUint32(4, message.length, true);
    view.setUint32(8, flags, true);
    message.set(body, 16);
    this.raw(message, fd);
    return id;
  }

  /** Bytes as they are, with a descriptor in front of the first. */
  raw(bytes: Uint8Array, fd = -1): void {
    const iov = new BigUint64Array([BigInt(ptrOf(bytes)), BigInt(bytes.length)]);
    const control = new Uint8Array(24);
    const c = new DataView(control.buffer);
    c.setUint32(0, 20, true);
    c.setInt32(8, 1, true);
    c.setInt32(12, 1, true);
    c.setInt32(16, fd, true);
    const hdr = new BigUint64Array(7);
    hdr[2] = BigInt(ptrOf(iov));
    hdr[3] = 1n;
    if (fd >= 0) {
      hdr[4] = BigInt(ptrOf(control));
      hdr[5] = 24n;
    }
    const n = libc.sendmsg(this.#fd, ptrOf(hdr), 0x4000);
    if (n !== bytes.length) throw new Error(`sendmsg: ${n}, errno ${errno()}`);
  }

  /** The next reply, or null when the server has sent none within `turns` turns. */
  receive(turns = 2000): Reply | null {
    const head = new Uint8Array(16);
    const control = new Uint8Array(64);
    const iov = new BigUint64Array([BigInt(ptrOf(head)), 16n]);
    const hdr = new BigUint64Array(7);
    hdr[2] = BigInt(ptrOf(iov));
    hdr[3] = 1n;
    hdr[4] = BigInt(ptrOf(control));
    for (let i = 0; i < turns; i++) {
      this.#pump();
      hdr[5] = 64n;
      const n = libc.recvmsg(this.#fd, ptrOf(hdr), 0x40);
      if (n < 0) continue;
      if (n === 0) throw new Error("the server closed the connection");
      const view = new DataView(head.buffer);
      const size = view.getUint32(4, true);
      const body = new Uint8Array(size - 16);
      if (body.length > 0 && libc.recv(this.#fd, body, body.length, 0x100) !== body.length)
        throw new Error("short reply");
      const fds = Number(hdr[5]) >= 20 ? [new DataView(control.buffer).getInt32(16, true)] : [];
      return {
        id: view.getUint16(0, true),
        command: view.getUint16(2, true),
        flags: view.getUint32(8, true),
        error: view.getUint32(12, true),
        body: new DataView(body.buffer),
        fds,
      };
    }
    return null;
  }

  /** Request and reply. */
  ask(command: number, body: Uint8Array, fd = -1): Reply {
    const id = this.send(command, body, fd);
    const r = this.receive();
    if (r === null) throw new Error(`no reply to command ${command}`);
    if (r.id !== id || r.command !== command || (r.flags & 0xf) !== 1)
      throw new Error(`reply ${r.id}/${r.command} flags ${r.flags} to request ${id}/${command}`);
    return r;
  }

  version(): Reply {
    const json =
      '{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}\0';
    return this.ask(1, new Uint8Array([0, 0, 0, 0, ...new TextEncoder().encode(json)]));
  }

  map(iova: number, size: number, fd: number, offset = 0, flags = 3): Reply {
    return this.ask(2, words([32, flags], [offset, iova, size]), fd);
  }

  unmap(iova: number, size: number, flags = 0): Reply {
    return this.ask(3, words([24, flags], [iova, size]));
  }

  read(region: number, offset: number, count: number): number {
    const r = this.ask(9, words([], [offset], [region, count]));
    if (r.error !== 0) throw new Error(`read: error ${r.error}`);
    return count === 4 ? r.body.getUint32(16, true) : count === 2 ? r.body.getUint16(16, true) : r.body.getUint8(16);
  }

  write(region: number, offset: number, count: number, value: number, posted = false): Reply | null {
    const data = new Uint8Array(count);
    for (let i = 0; i < count; i++) data[i] = Math.floor(value / 2 ** (8 * i)) & 0xff;
    const body = new Uint8Array([...words([], [offset], [region, count]), ...data]);
    if (!posted) return this.ask(10, body);
    this.send(10, body, -1, 0x10);
    return null;
  }

  setIrqs(index: number, flags: number, start: number, count: number, fd = -1): Reply {
    return this.ask(8, words([20, flags, index, start, count], []), fd);
  }

  close(): void {
    libc.close(this.#fd);
  }
}

/** 32-bit words, then 64-bit words, then 32-bit words, little endian. */
export function words(w32: number[], w64: number[], tail: number[] = []): Uint8Array {
  const view = new DataView(new ArrayBuffer(4 * w32.length + 8 * w64.length + 4 * tail.length));
  w32.forEach((w, i) => {
    view.setUint32(4 * i, w, true);
  });
  w64.forEach((w, i) => {
    view.setBigUint64(4 * w32.length + 8 * i, BigInt(w), true);
  });
  tail.forEach((w, i) => {
    view.setUint32(4 * w32.length + 8 * w64.length + 4 * i, w, true);
  });
  return new Uint8Array(view.buffer);
}
