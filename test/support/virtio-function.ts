/**
 * A trapping virtio-net PCI function for tests of the built-in host, written from VIRTIO 1.2 and independent of the
 * engine: every register access is seen, so it is right where a poll-only device can only be careful. Its data side
 * sends every transmitted frame back into the receive queue.
 */
import { ld16, ld32, ptrOf, st16, st32, view } from "../../src/hw/mem.ts";
import type { HostBus, HostSide } from "../../src/hw/model/host-side.ts";

export interface FunctionOptions {
  modern: boolean;
  /** MSI-X table entries, 0 = no capability */
  msix: number;
  pin: number;
  /** feature words by select; legacy uses word 0 */
  features: number[];
  queueSize: number;
  queues: number;
  mac: number[];
  mtu: number;
  link: boolean;
  /** vector registers read back no-vector for this entry (-1 none) */
  refuseVector: number;
  /** reads of status 0 after a reset need this many tries */
  slowReset: number;
  bar64: boolean;
  /** vendor capabilities are left out although modern registers exist */
  hideCaps: boolean;
  /** the capability list points at itself */
  capLoop: boolean;
  /** PFN of a queue reads non-zero this many times although it was cleared (a device that is late) */
  latePfn: number;
}

export const FUNCTION: FunctionOptions = {
  modern: true,
  msix: 3,
  pin: 1,
  features: [0x21 | (1 << 15) | (1 << 16), 1, 0, 0],
  queueSize: 256,
  queues: 2,
  mac: [2, 0, 0, 0, 0, 0x77],
  mtu: 1500,
  link: true,
  refuseVector: -1,
  slowReset: 0,
  bar64: false,
  hideCaps: false,
  capLoop: false,
  latePfn: 0,
};

interface Queue {
  size: number;
  desc: number;
  avail: number;
  used: number;
  enable: number;
  vector: number;
  lastAvail: number;
  usedIdx: number;
  signalled: number;
}

const BAR0_SIZE = 0x10000;
const BAR2_SIZE = 0x1000;

export class TestFunction implements HostBus {
  readonly o: FunctionOptions;
  readonly host: HostSide;
  readonly cfg = new Uint8Array(4096);
  readonly #cfgView = new DataView(this.cfg.buffer);
  readonly table = new Uint32Array(BAR2_SIZE / 4);
  status = 0;
  isr = 0;
  dfSelect = 0;
  gfSelect = 0;
  readonly accepted = [0, 0, 0, 0];
  configVector = 0xffff;
  queueSelect = 0;
  queues: Queue[] = [];
  generation = 0;
  intxOn = false;
  notifies: number[] = [];
  /** rules a driver broke, in words */
  broken: string[] = [];
  /** accesses to memory that was not handed over */
  violations = 0;
  /** bus addresses that are not memory */
  faults = 0;
  echoed = 0;
  /** stop serving the queues */
  paused = false;
  /** frames go back with the offload fields they came with */
  keepHeader = false;
  #slow = 0;
  #late: number;
  #held: { frame: Uint8Array }[] = [];

  constructor(host: HostSide, o: Partial<FunctionOptions> = {}) {
    this.o = { ...FUNCTION, ...o };
    this.host = host;
    this.#late = this.o.latePfn;
    this.#reset();
    this.#makeConfig();
  }

  #reset(): void {
    this.accepted.fill(0);
    this.configVector = 0xffff;
    this.isr = 0;
    this.queueSelect = 0;
    this.#held = [];
    this.queues = Array.from({ length: this.o.queues }, () => ({
      size: this.o.queueSize,
      desc: 0,
      avail: 0,
      used: 0,
      enable: 0,
      vector: 0xffff,
      lastAvail: 0,
      usedIdx: 0,
      signalled: 0,
    }));
    this.#line(false);
  }

  #makeConfig(): void {
    const v = this.#cfgView;
    v.setUint16(0, 0x1af4, true);
    v.setUint16(2, this.o.modern && !this.o.hideCaps ? 0x1041 : 0x1000, true);
    v.setUint8(8, this.o.modern && !this.o.hideCaps ? 1 : 0);
    v.setUint8(11, 2);
    v.setUint16(0x2c, 0x1af4, true);
    v.setUint16(0x2e, 1, true);
    v.setUint8(0x3d, this.o.pin);
    v.setUint16(6, 0x10, true);
    const caps: number[][] = [[0x01, 0, 3, 0, 0, 0, 0, 0]];
    if (this.o.msix > 0) caps.push([0x11, 0, this.o.msix - 1, 0, 2, 0, 0, 0, 2, 8, 0, 0]);
    if (this.o.modern && !this.o.hideCaps) {
      const cap = (type: number, off: number, len: number, extra: number[] = []) =>
        caps.push([0x09, 0, 16 + extra.length, type, 0, 0, 0, 0, ...le32(off), ...le32(len), ...extra]);
      cap(1, 0, 0x40);
      cap(3, 0x1000, 4);
      cap(4, 0x2000, 0x40);
      cap(2, 0x3000, 0x1000, le32(4));
    }
    let at = 0x40;
    v.setUint8(0x34, at);
    caps.forEach((bytes, i) => {
      this.cfg.set(bytes, at);
      const next = at + Math.ceil(bytes.length / 4) * 4;
      this.cfg[at + 1] = i + 1 < caps.length ? next : this.o.capLoop ? 0x40 : 0;
      at = next;
    });
  }

  // --- config space ---

  cfgRead(off: number, size: number): number {
    return size === 4
      ? this.#cfgView.getUint32(off, true)
      : size === 2
        ? this.#cfgView.getUint16(off, true)
        : this.cfg[off]!;
  }

  cfgWrite(off: number, size: number, value: number): void {
    const v = this.#cfgView;
    if (off >= 0x10 && off < 0x28) {
      const bar = (off - 0x10) / 4;
      const bytes = this.barSize(bar);
      let word = 0;
      if (bytes !== 0) word = ((value & ~(bytes - 1)) | (bar === 0 && this.o.bar64 ? 0xc : 0)) >>> 0;
      if (bar === 1 && this.o.bar64) word = value >>> 0;
      v.setUint32(off, word, true);
    } else if (off === 4 && size === 2) v.setUint16(4, value & 0x407, true);
    else if (this.o.msix > 0 && off === 0x4a && size === 2) {
      v.setUint16(off, (value & 0xc000) | (this.o.msix - 1), true);
    } else this.broken.push(`config write ${off.toString(16)}/${size}`);
  }

  get command(): number {
    return this.#cfgView.getUint16(4, true);
  }

  get msixControl(): number {
    return this.o.msix > 0 ? this.#cfgView.getUint16(0x4a, true) : 0;
  }

  get msixOn(): boolean {
    return (this.msixControl & 0x8000) !== 0;
  }

  barSize(bar: number): number {
    return bar === 0 ? BAR0_SIZE : bar === 2 && this.o.msix > 0 ? BAR2_SIZE : 0;
  }

  barPointer(): number {
    return 0;
  }

  barRead(bar: number, off: number, size: number): number {
    if ((this.command & 2) === 0) return size === 4 ? 0xffffffff : (1 << (8 * size)) - 1;
    if (bar === 2) return this.table[off >> 2]!;
    return this.o.modern ? this.#modernRead(off, size) : this.#legacyRead(off, size);
  }

  barWrite(bar: number, off: number, size: number, value: number): void {
    if ((this.command & 2) === 0) {
      this.broken.push(`BAR write ${off.toString(16)} without memory decoding`);
      return;
    }
    if (bar === 2) this.table[off >> 2] = value;
    else if (this.o.modern) this.#modernWrite(off, size, value);
    else this.#legacyWrite(off, size, value);
  }

  #netConfig(off: number, size: number): number {
    const v = new DataView(new ArrayBuffer(64));
    this.o.mac.forEach((b, i) => {
      v.setUint8(i, b);
    });
    v.setUint16(6, this.o.link ? 1 : 0, true);
    v.setUint16(8, 1, true);
    v.setUint16(10, this.o.mtu, true);
    return size === 1 ? v.getUint8(off) : size === 2 ? v.getUint16(off, true) : v.getUint32(off, true);
  }

  #readIsr(): number {
    const isr = this.isr;
    this.isr = 0;
    this.#line(false);
    return isr;
  }

  #setStatus(value: number): void {
    if (value === 0) {
      this.#reset();
      this.#slow = this.o.slowReset;
    } else if ((value & ~0x80 & this.status) !== (this.status & ~0x80)) {
      this.broken.push(`status bits taken back: ${this.status} -> ${value}`);
    }
    this.status = value;
  }

  #readStatus(): number {
    if (this.status === 0 && this.#slow > 0) return this.#slow-- > 0 ? 0xf : 0;
    return this.status;
  }

  #vector(entry: number): number {
    return entry === 0xffff || entry >= this.o.msix || entry === this.o.refuseVector ? 0xffff : entry;
  }

  #q(): Queue | undefined {
    return this.queues[this.queueSelect];
  }

  // --- modern ---

  #modernRead(off: number, size: number): number {
    if (off === 0x1000) return this.#readIsr();
    if (off >= 0x2000 && off < 0x2040) return this.#netConfig(off - 0x2000, size);
    const q = this.#q();
    switch (off) {
      case 0x04:
        return this.o.features[this.dfSelect]! >>> 0;
      case 0x10:
        return this.configVector;
      case 0x12:
        return this.o.queues;
      case 0x14:
        return this.#readStatus();
      case 0x15:
        return this.generation;
      case 0x18:
        return q ? q.size : 0;
      case 0x1a:
        return q ? q.vector : 0xffff;
      case 0x1c:
        return q ? q.enable : 0;
      case 0x1e:
        return this.queueSelect;
      case 0x3a:
        return 0;
      case 0x3c:
      case 0x3e:
        return 0;
    }
    this.broken.push(`modern read ${off.toString(16)}/${size}`);
    return 0;
  }

  #modernWrite(off: number, size: number, value: number): void {
    if (off >= 0x3000) {
      this.notifies.push(value);
      return;
    }
    const q = this.#q();
    const low = (v: number) => Math.floor(v / 2 ** 32) * 2 ** 32 + value;
    const high = (v: number) => value * 2 ** 32 + (v % 2 ** 32);
    switch (off) {
      case 0x00:
        this.dfSelect = value;
        return;
      case 0x08:
        this.gfSelect = value;
        return;
      case 0x0c:
        this.accepted[this.gfSelect] = value;
        return;
      case 0x10:
        this.configVector = this.#vector(value);
        return;
      case 0x14:
        this.#setStatus(value);
        return;
      case 0x16:
        this.queueSelect = value;
        return;
    }
    if (q === undefined) {
      this.broken.push(`queue register ${off.toString(16)} of queue ${this.queueSelect}`);
      return;
    }
    if (q.enable === 1 && off !== 0x1a && off !== 0x3a)
      this.broken.push(`register ${off.toString(16)} of a live queue`);
    if (off === 0x18) q.size = value;
    else if (off === 0x1a) q.vector = this.#vector(value);
    else if (off === 0x1c) q.enable = value;
    else if (off === 0x20) q.desc = low(q.desc);
    else if (off === 0x24) q.desc = high(q.desc);
    else if (off === 0x28) q.avail = low(q.avail);
    else if (off === 0x2c) q.avail = high(q.avail);
    else if (off === 0x30) q.used = low(q.used);
    else if (off === 0x34) q.used = high(q.used);
    else if (off === 0x3a) Object.assign(q, { enable: 0, lastAvail: 0, usedIdx: 0, signalled: 0 });
    else this.broken.push(`modern write ${off.toString(16)}/${size}`);
  }

  // --- legacy ---

  #legacyRead(off: number, size: number): number {
    const q = this.#q();
    const config = this.msixOn ? 0x18 : 0x14;
    if (off === 0x00) return this.o.features[0]! >>> 0;
    if (off === 0x04) return this.accepted[0]!;
    if (off === 0x08) {
      if (this.queueSelect === 1 && this.#late > 0) {
        this.#late--;
        return 0x1234;
      }
      return q ? q.desc / 4096 : 0;
    }
    if (off === 0x0c) return q ? q.size : 0;
    if (off === 0x12) return this.status;
    if (off === 0x13) return this.#readIsr();
    if (this.msixOn && off === 0x14) return this.configVector;
    if (this.msixOn && off === 0x16) return q ? q.vector : 0xffff;
    if (off >= config) return this.#netConfig(off - config, size);
    this.broken.push(`legacy read ${off.toString(16)}/${size}`);
    return 0;
  }

  #legacyWrite(off: number, size: number, value: number): void {
    const q = this.#q();
    if (off === 0x04) this.accepted[0] = value;
    else if (off === 0x08 && q) {
      q.desc = value * 4096;
      q.avail = q.desc + 16 * q.size;
      q.used = Math.ceil((q.avail + 6 + 2 * q.size) / 4096) * 4096;
      q.enable = value === 0 ? 0 : 1;
      if (value === 0) Object.assign(q, { lastAvail: 0, usedIdx: 0, signalled: 0 });
    } else if (off === 0x0e) this.queueSelect = value;
    else if (off === 0x10) this.notifies.push(value);
    else if (off === 0x12) this.#setStatus(value);
    else if (this.msixOn && off === 0x14) this.configVector = this.#vector(value);
    else if (this.msixOn && off === 0x16 && q) q.vector = this.#vector(value);
    else this.broken.push(`legacy write ${off.toString(16)}/${size}`);
  }

  // --- interrupts ---

  #line(on: boolean): void {
    if (on !== this.intxOn) this.host.intx(on);
    this.intxOn = on;
  }

  #interrupt(entry: number, isr: number): void {
    if (!this.msixOn) {
      this.isr |= isr;
      this.#line(true);
    } else if (entry !== 0xffff) {
      const e = entry * 4;
      if ((this.msixControl & 0x4000) !== 0 || (this.table[e + 3]! & 1) !== 0) this.pendingBits |= 1 << entry;
      else if ((this.command & 4) !== 0)
        this.host.message(this.table[e + 1]! * 2 ** 32 + this.table[e]!, this.table[e + 2]!);
    }
  }

  pendingBits = 0;

  /** Send what was masked and is not any more. */
  flushPending(): void {
    for (let e = 0; e < this.o.msix; e++) {
      if ((this.pendingBits & (1 << e)) === 0 || (this.table[e * 4 + 3]! & 1) !== 0) continue;
      this.pendingBits &= ~(1 << e);
      this.#interrupt(e, 0);
    }
  }

  setLink(up: boolean): void {
    this.o.link = up;
    this.generation = (this.generation + 1) & 0xff;
    this.#interrupt(this.configVector, 2);
  }

  // --- data ---

  has(bit: number): boolean {
    return ((this.accepted[bit >> 5]! >>> (bit & 31)) & 1) === 1;
  }

  get hdrLen(): number {
    if (this.has(65) || this.has(67)) return 24;
    return this.has(32) || this.has(15) ? 12 : 10;
  }

  #at(addr: number, len: number, write: boolean): number {
    const shadow = this.host.memory.shadow;
    if (shadow !== null && !shadow.check(addr, len, write)) this.violations++;
    const ptr = this.host.memory.resolve(addr, len, write);
    if (ptr === 0 || this.host.memory.run < len) {
      this.faults++;
      return 0;
    }
    return ptr;
  }

  bytes(addr: number, len: number, write: boolean): Uint8Array {
    const ptr = this.#at(addr, len, write);
    return ptr === 0 ? new Uint8Array(len) : new Uint8Array(view(ptr, len));
  }

  /** Serve the queues once. */
  turn(): void {
    this.flushPending();
    if ((this.status & 4) === 0 || this.paused || (this.command & 4) === 0) return;
    const [rx, tx] = this.queues as [Queue, Queue];
    if (rx.enable !== 1 || tx.enable !== 1) return;
    for (let chain = this.pop(tx); chain !== null; chain = this.pop(tx)) {
      const frame = new Uint8Array(chain.reduce((n, p) => n + p.len, 0));
      let to = 0;
      for (const p of chain) {
        if (p.write) this.broken.push("device-writable descriptor in a transmit chain");
        frame.set(this.bytes(p.addr, p.len, false), to);
        to += p.len;
      }
      this.#held.push({ frame });
      this.#use(tx, chain.head, 0);
    }
    while (this.#held.length > 0 && this.receive(this.#held[0]!.frame)) {
      this.#held.shift();
      this.echoed++;
    }
    this.#signal(rx);
    this.#signal(tx);
  }

  /** Put a frame (net header first) into the receive queue. @returns false when it does not fit now */
  receive(frame: Uint8Array): boolean {
    const rx = this.queues[0]!;
    const start = rx.lastAvail;
    const chains: Chain[] = [];
    let room = 0;
    while (room < frame.length) {
      const chain = this.pop(rx);
      if (chain === null || (!this.has(15) && chains.length === 1)) {
        rx.lastAvail = start;
        if (chain !== null) throw new Error(`a frame of ${frame.length} bytes does not fit a buffer of ${room}`);
        return false;
      }
      chains.push(chain);
      room += chain.reduce((n, p) => n + p.len, 0);
    }
    const out = frame.slice();
    // the header towards the host: nothing offloaded, as many buffers as were taken
    if (!this.keepHeader) out.fill(0, 0, this.hdrLen);
    if (this.hdrLen >= 12) out[10] = chains.length;
    let from = 0;
    for (const chain of chains) {
      let used = 0;
      for (const p of chain) {
        if (!p.write) this.broken.push("device-readable descriptor in a receive chain");
        const n = Math.min(p.len, out.length - from);
        if (n > 0) this.bytes(p.addr, n, true).set(out.subarray(from, from + n));
        from += n;
        used += n;
      }
      this.#use(rx, chain.head, used);
    }
    return true;
  }

  /** Next available chain with indirect tables resolved. */
  pop(q: Queue): Chain | null {
    const idx = ld16(this.#at(q.avail + 2, 2, false) || this.#scrap());
    if (((idx - q.lastAvail) & 0xffff) > q.size) {
      this.broken.push(`available index jumped from ${q.lastAvail} to ${idx}`);
      return null;
    }
    if (idx === q.lastAvail) return null;
    const head = ld16(this.#at(q.avail + 4 + 2 * (q.lastAvail % q.size), 2, false) || this.#scrap());
    q.lastAvail = (q.lastAvail + 1) & 0xffff;
    const chain = new Chain();
    chain.head = head;
    let table = q.desc;
    let count = q.size;
    let at = head;
    let indirect = false;
    let steps = 0;
    for (;;) {
      if (at >= count) {
        this.broken.push(`descriptor ${at} of ${count}`);
        return chain;
      }
      if (++steps > count) {
        this.broken.push("descriptor loop");
        return chain;
      }
      const p = this.#at(table + 16 * at, 16, false) || this.#scrap();
      const addr = ld32(p + 4) * 2 ** 32 + ld32(p);
      const len = ld32(p + 8);
      const flags = ld16(p + 12);
      if (flags & 4) {
        if (indirect || (flags & 1) !== 0) this.broken.push("indirect descriptor in the wrong place");
        if (len % 16 !== 0 || len === 0) this.broken.push(`indirect table of ${len} bytes`);
        if (indirect || len % 16 !== 0) return chain;
        if (!this.has(28)) this.broken.push("indirect was not negotiated");
        indirect = true;
        table = addr;
        count = len / 16;
        at = 0;
        steps = 0;
        continue;
      }
      if (len === 0) this.broken.push("descriptor of length 0");
      if ((flags & 2) === 0 && chain.some((x) => x.write)) this.broken.push("readable after writable descriptor");
      chain.push({ addr, len, write: (flags & 2) !== 0 });
      if ((flags & 1) === 0) return chain;
      at = ld16(p + 14);
    }
  }

  readonly #scrapMemory = new Uint8Array(64);
  #scrap(): number {
    return ptrOf(this.#scrapMemory);
  }

  #use(q: Queue, head: number, len: number): void {
    const e = this.#at(q.used + 4 + 8 * (q.usedIdx % q.size), 8, true);
    if (e === 0) return;
    st32(e, head);
    st32(e + 4, len);
    q.usedIdx = (q.usedIdx + 1) & 0xffff;
    st16(this.#at(q.used + 2, 2, true), q.usedIdx);
  }

  #signal(q: Queue): void {
    if (q.usedIdx === q.signalled) return;
    let want: boolean;
    if (this.has(29)) {
      const event = ld16(this.#at(q.avail + 4 + 2 * q.size, 2, false));
      want = ((q.usedIdx - event - 1) & 0xffff) < ((q.usedIdx - q.signalled) & 0xffff);
      // ask for a doorbell at the next available entry
      st16(this.#at(q.used + 4 + 8 * q.size, 2, true), q.lastAvail);
    } else {
      want = (ld16(this.#at(q.avail, 2, false)) & 1) === 0;
    }
    q.signalled = q.usedIdx;
    if (want) this.#interrupt(q.vector, 1);
  }
}

interface Piece {
  addr: number;
  len: number;
  write: boolean;
}

class Chain extends Array<Piece> {
  head = 0;
}

function le32(v: number): number[] {
  return [v & 255, (v >> 8) & 255, (v >> 16) & 255, v >>> 24];
}
