/**
 * The driver's side of a split virtqueue (VIRTIO 1.2 2.7) in one block of local memory: adding chains of buffers,
 * publishing them, reaping used elements. Used by the TAP port, by the built-in host driver of the model and by tests.
 * It knows nothing of transports: notifying and interrupts are the caller's.
 *
 * The device's words (used ring, avail_event) are read through mem.ts and never trusted: a bad id, length or index
 * makes the ring broken, and every later take() repeats the code until reset(). Nothing here allocates after the
 * constructor, except with strict-mode grants.
 */
import { Fault } from "./fault.ts";
import { fence, fill, ld16, st16, view, wmb } from "./mem.ts";
import type { LocalRing } from "./net-port.ts";
import {
  AVAIL_F_NO_INTERRUPT,
  availBytes,
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_WRITE,
  DESC_SIZE,
  USED_F_NO_NOTIFY,
  usedBytes,
} from "./virtio.layout.ts";

/** add(): not enough free descriptors, or more buffers than an indirect table holds. take(): nothing new. */
export const RING_NONE = -1;
/** the device returned an id that is no head, or a head that it does not own */
export const RING_BAD_ID = -2;
/** the device claims to have written more bytes than the chain has device-writable bytes */
export const RING_BAD_LEN = -3;
/** the device's used index ran ahead of what was made available */
export const RING_BAD_IDX = -4;

/** Strict mode: which bytes the device may touch, by bus address. Mode bits: 1 device may read, 2 device may write. */
export interface Grants {
  grant(addr: number, len: number, mode: number): void;
  revoke(addr: number, len: number): void;
}

/** Memory by its two names. */
export interface MemPlace {
  /** CPU address of the first byte */
  readonly ptr: number;
  /** address the device uses for the same byte */
  readonly busBase: number;
}

export interface DriverRingOptions {
  /** descriptors, a power of two, 2..32768 */
  readonly size: number;
  /** where the ring block goes: ringLayout(size, align).bytes bytes, aligned to `align` on the bus */
  readonly mem: MemPlace;
  /** alignment of block and used ring: 64 modern (Linux), 4096 legacy (2.7.2) */
  readonly align: number;
  /** VIRTIO_F_EVENT_IDX was accepted */
  readonly eventIdx: boolean;
  /** put chains of two or more buffers into own tables, `entries` descriptors each: size * entries * 16 bytes at mem */
  readonly indirect?: { readonly mem: MemPlace; readonly entries: number } | undefined;
  readonly grants?: Grants | null | undefined;
}

/** Offsets in the ring block and its length: descriptors, avail ring, used ring at the next multiple of `align`. */
export function ringLayout(size: number, align: number): { availOff: number; usedOff: number; bytes: number } {
  const availOff = size * DESC_SIZE;
  const usedOff = Math.ceil((availOff + availBytes(size)) / align) * align;
  return { availOff, usedOff, bytes: Math.ceil((usedOff + usedBytes(size)) / align) * align };
}

const TWO32 = 4294967296;

export class DriverRing implements LocalRing {
  readonly size: number;
  /** bytes of the ring block */
  readonly bytes: number;
  readonly eventIdx: boolean;
  readonly descBus: number;
  readonly availBus: number;
  readonly usedBus: number;
  readonly descPtr: number;
  readonly availPtr: number;
  readonly usedPtr: number;
  readonly desc: Int32Array;
  readonly avail: Uint16Array;
  readonly usedElem: Uint32Array;
  readonly used16: Uint16Array;

  /** bytes the device wrote into the chain returned by the last take() */
  usedLen = 0;
  /** 0, or the negative code that broke the ring */
  broken = 0;
  /** descriptors that add() may still use */
  freeCount = 0;
  /** chains added and not yet taken back */
  inFlight = 0;

  readonly #mask: number;
  readonly #availEventPtr: number;
  readonly #usedEventPtr: number;
  readonly #table: Int32Array | null;
  readonly #tableBus: number;
  readonly #entries: number;
  readonly #grants: Grants | null;
  /** per descriptor: the next free one, or the next one of its chain; never read back from shared memory */
  readonly #next: Int32Array;
  /** per head: descriptors in its chain, 0 while the device does not own it */
  readonly #count: Int32Array;
  /** per head: device-writable bytes */
  readonly #room: Int32Array;
  #free = 0;
  #availIdx = 0;
  #published = 0;
  #lastUsed = 0;
  #usedIdx = 0;

  /** @throws Fault E_RING for a bad size or alignment */
  constructor(o: DriverRingOptions) {
    const n = o.size;
    if (n < 2 || n > 32768 || (n & (n - 1)) !== 0)
      throw new Fault("E_RING", `queue size ${n} is not a power of two in 2..32768`, "use 256");
    if (o.mem.busBase % o.align !== 0 || o.mem.ptr % 4 !== 0)
      throw new Fault("E_RING", `ring at bus 0x${o.mem.busBase.toString(16)} is not aligned to ${o.align}`);
    const lay = ringLayout(n, o.align);
    this.size = n;
    this.bytes = lay.bytes;
    this.eventIdx = o.eventIdx;
    this.descBus = o.mem.busBase;
    this.availBus = o.mem.busBase + lay.availOff;
    this.usedBus = o.mem.busBase + lay.usedOff;
    this.descPtr = o.mem.ptr;
    this.availPtr = o.mem.ptr + lay.availOff;
    this.usedPtr = o.mem.ptr + lay.usedOff;
    const block = view(o.mem.ptr, lay.bytes);
    this.desc = new Int32Array(block, 0, 4 * n);
    this.avail = new Uint16Array(block, lay.availOff, n + 3);
    this.usedElem = new Uint32Array(block, lay.usedOff + 4, 2 * n);
    this.used16 = new Uint16Array(block, lay.usedOff, 4 * n + 3);
    this.#mask = n - 1;
    this.#usedEventPtr = this.availPtr + 4 + 2 * n;
    this.#availEventPtr = this.usedPtr + 4 + 8 * n;
    this.#entries = o.indirect ? o.indirect.entries : 0;
    this.#table = o.indirect ? new Int32Array(view(o.indirect.mem.ptr, n * this.#entries * DESC_SIZE)) : null;
    this.#tableBus = o.indirect ? o.indirect.mem.busBase : 0;
    this.#grants = o.grants ?? null;
    this.#next = new Int32Array(n);
    this.#count = new Int32Array(n);
    this.#room = new Int32Array(n);
    this.reset();
  }

  /** Back to the state of a new queue: memory zeroed, indexes 0, outstanding chains forgotten (and revoked). */
  reset(): void {
    this.#revokeAll();
    fill(this.descPtr, 0, this.bytes);
    for (let i = 0; i < this.size; i++) this.#next[i] = i + 1;
    this.#count.fill(0);
    this.#free = 0;
    this.freeCount = this.size;
    this.inFlight = 0;
    this.usedLen = 0;
    this.broken = 0;
    this.#availIdx = 0;
    this.#published = 0;
    this.#lastUsed = 0;
    this.#usedIdx = 0;
    fence();
    if (this.#grants !== null) {
      this.#grants.grant(this.descBus, this.size * DESC_SIZE, 1);
      this.#grants.grant(this.availBus, availBytes(this.size), 1);
      // the device reads its own used ring when it goes on after a crash
      this.#grants.grant(this.usedBus, usedBytes(this.size), 3);
    }
  }

  /** Strict mode: take every right back before the memory is used for something else. */
  release(): void {
    this.#revokeAll();
  }

  /**
   * Put one chain: nOut device-readable buffers, then nIn device-writable ones, from the arrays' first nOut + nIn
   * entries (addresses as int32 words, lengths in bytes). Not seen by the device before publish().
   * @returns the head (the id take() will give back), or RING_NONE when it does not fit
   */
  add(addrLo: Int32Array, addrHi: Int32Array, len: Int32Array, nOut: number, nIn: number): number {
    const n = nOut + nIn;
    if (this.#table !== null && n > 1) return this.#addIndirect(this.#table, addrLo, addrHi, len, nOut, nIn);
    if (n === 0 || n > this.freeCount) return RING_NONE;
    const desc = this.desc;
    const next = this.#next;
    const head = this.#free;
    let at = head;
    let room = 0;
    for (let i = 0; i < n; i++) {
      let flags = i < nOut ? 0 : DESC_F_WRITE;
      if (i + 1 < n) flags |= DESC_F_NEXT | (next[at]! << 16);
      if (i >= nOut) room += len[i]!;
      const w = at << 2;
      desc[w] = addrLo[i]!;
      desc[w + 1] = addrHi[i]!;
      desc[w + 2] = len[i]!;
      desc[w + 3] = flags;
      at = next[at]!;
    }
    this.#free = at;
    this.#push(head, n, room);
    if (this.#grants !== null) this.#grantChain(head, true);
    return head;
  }

  /** add() for one buffer without arrays: `write` for a device-writable one. */
  addOne(addrLo: number, addrHi: number, len: number, write: boolean): number {
    if (this.freeCount === 0) return RING_NONE;
    const head = this.#free;
    const w = head << 2;
    this.#free = this.#next[head]!;
    this.desc[w] = addrLo;
    this.desc[w + 1] = addrHi;
    this.desc[w + 2] = len;
    this.desc[w + 3] = write ? DESC_F_WRITE : 0;
    this.#push(head, 1, write ? len : 0);
    if (this.#grants !== null) this.#grantChain(head, true);
    return head;
  }

  #addIndirect(
    table: Int32Array,
    addrLo: Int32Array,
    addrHi: Int32Array,
    len: Int32Array,
    nOut: number,
    nIn: number,
  ): number {
    const n = nOut + nIn;
    if (n > this.#entries || this.freeCount === 0) return RING_NONE;
    const head = this.#free;
    const first = head * this.#entries;
    let room = 0;
    for (let i = 0; i < n; i++) {
      const w = (first + i) << 2;
      table[w] = addrLo[i]!;
      table[w + 1] = addrHi[i]!;
      table[w + 2] = len[i]!;
      table[w + 3] = (i < nOut ? 0 : DESC_F_WRITE) | (i + 1 < n ? DESC_F_NEXT | ((i + 1) << 16) : 0);
      if (i >= nOut) room += len[i]!;
    }
    const bus = this.#tableBus + first * DESC_SIZE;
    const w = head << 2;
    this.#free = this.#next[head]!;
    this.desc[w] = bus | 0;
    this.desc[w + 1] = (bus / TWO32) | 0;
    this.desc[w + 2] = n * DESC_SIZE;
    this.desc[w + 3] = DESC_F_INDIRECT;
    this.#push(head, 1, room);
    if (this.#grants !== null) this.#grantChain(head, true);
    return head;
  }

  #push(head: number, descriptors: number, room: number): void {
    this.#count[head] = descriptors;
    this.#room[head] = room;
    this.freeCount -= descriptors;
    this.inFlight++;
    this.avail[2 + (this.#availIdx & this.#mask)] = head;
    this.#availIdx = (this.#availIdx + 1) & 0xffff;
  }

  /**
   * Make everything added visible (2.7.13).
   * @returns true when the device wants a notification (2.7.10)
   */
  publish(): boolean {
    const old = this.#published;
    const now = this.#availIdx;
    if (old === now) return false;
    this.#published = now;
    wmb(); // descriptors and ring entries before the index
    st16(this.availPtr + 2, now);
    fence(); // the index before the device's suppression word: else both sides may go to sleep
    if (!this.eventIdx) return (ld16(this.usedPtr) & USED_F_NO_NOTIFY) === 0;
    return ((now - ld16(this.#availEventPtr) - 1) & 0xffff) < ((now - old) & 0xffff);
  }

  /**
   * Take the next used chain back and free its descriptors; usedLen is what the device wrote.
   * @returns the head, RING_NONE when there is none, or the negative code that broke the ring
   */
  take(): number {
    if (this.broken !== 0) return this.broken;
    if (this.#lastUsed === this.#usedIdx) {
      this.#usedIdx = ld16(this.usedPtr + 2);
      if (this.#lastUsed === this.#usedIdx) return RING_NONE;
      if (((this.#usedIdx - this.#lastUsed) & 0xffff) > this.inFlight) return this.#break(RING_BAD_IDX);
    }
    const e = (this.#lastUsed & this.#mask) << 1;
    const head = this.usedElem[e]!;
    const len = this.usedElem[e + 1]!;
    if (head >= this.size || this.#count[head] === 0) return this.#break(RING_BAD_ID);
    if (len > this.#room[head]!) return this.#break(RING_BAD_LEN);
    if (this.#grants !== null) this.#grantChain(head, false);
    const n = this.#count[head]!;
    let tail = head;
    for (let i = 1; i < n; i++) tail = this.#next[tail]!;
    this.#next[tail] = this.#free;
    this.#free = head;
    this.#count[head] = 0;
    this.freeCount += n;
    this.inFlight--;
    this.#lastUsed = (this.#lastUsed + 1) & 0xffff;
    this.usedLen = len;
    return head;
  }

  #break(code: number): number {
    this.broken = code;
    return code;
  }

  /** True when take() would find something; one load. */
  pending(): boolean {
    return this.#lastUsed !== this.#usedIdx || ld16(this.usedPtr + 2) !== this.#lastUsed;
  }

  /** Ask for no interrupts (2.7.7). A hint: the device may send some. */
  disableInterrupts(): void {
    if (this.eventIdx) st16(this.#usedEventPtr, (this.#lastUsed - 1) & 0xffff);
    else st16(this.availPtr, AVAIL_F_NO_INTERRUPT);
  }

  /**
   * Ask for an interrupt when `after` + 1 more chains are used (`after` counts only with EVENT_IDX).
   * @returns true when chains are waiting already: reap them now, no interrupt may come for them
   */
  enableInterrupts(after = 0): boolean {
    if (this.eventIdx) st16(this.#usedEventPtr, (this.#lastUsed + after) & 0xffff);
    else st16(this.availPtr, 0);
    fence(); // the wish before the look at the index
    return ((ld16(this.usedPtr + 2) - this.#lastUsed) & 0xffff) > (this.eventIdx ? after : 0);
  }

  #revokeAll(): void {
    if (this.#grants === null) return;
    for (let h = 0; h < this.size; h++) if (this.#count[h] !== 0) this.#grantChain(h, false);
    this.#grants.revoke(this.descBus, this.size * DESC_SIZE);
    this.#grants.revoke(this.availBus, availBytes(this.size));
    this.#grants.revoke(this.usedBus, usedBytes(this.size));
  }

  /** Grant or revoke every buffer of a chain, as it stands in the (driver-written) descriptors. */
  #grantChain(head: number, give: boolean): void {
    const w = head << 2;
    if (this.#table !== null && (this.desc[w + 3]! & DESC_F_INDIRECT) !== 0) {
      const n = this.desc[w + 2]! / DESC_SIZE;
      this.#grantOne(this.desc, w, give);
      for (let i = 0; i < n; i++) this.#grantOne(this.#table, (head * this.#entries + i) << 2, give);
      return;
    }
    let at = head;
    for (let i = this.#count[head]!; i > 0; i--) {
      this.#grantOne(this.desc, at << 2, give);
      at = this.#next[at]!;
    }
  }

  #grantOne(words: Int32Array, w: number, give: boolean): void {
    const addr = (words[w + 1]! >>> 0) * TWO32 + (words[w]! >>> 0);
    if (give) this.#grants?.grant(addr, words[w + 2]!, (words[w + 3]! & DESC_F_WRITE) !== 0 ? 2 : 1);
    else this.#grants?.revoke(addr, words[w + 2]!);
  }
}
