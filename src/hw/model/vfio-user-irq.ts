/**
 * Interrupts of a vfio-user function: what the endpoint sends becomes writes to the eventfds that QEMU gave us.
 *
 * MSI-X: QEMU keeps the guest's table to itself, so nobody writes the table in the BAR. We do it in the guest's
 * place: a live vector gets an entry with a doorbell address and a secret data word, a dead one is masked. The
 * endpoint has to read the table and send exactly that write, as on silicon; anything else is counted and reported.
 *
 * INTx: Assert and Deassert messages carry a level. QEMU raises its line on the eventfd and masks it; the guest's first access to
 * a BAR lowers the line and QEMU sends UNMASK, upon which it is raised again while the level is still asserted or
 * was asserted anew meanwhile.
 */

import { libc } from "../libc.ts";
import {
  MSIX_ENTRY_ADDR_HI,
  MSIX_ENTRY_ADDR_LO,
  MSIX_ENTRY_CTRL,
  MSIX_ENTRY_DATA,
  MSIX_ENTRY_MASKED,
  MSIX_ENTRY_SIZE,
} from "../pci.layout.ts";
import {
  IRQ_INTX,
  IRQ_MSIX,
  SET_ACTION_MASK,
  SET_ACTION_TRIGGER,
  SET_ACTION_UNMASK,
  SET_COUNT,
  SET_DATA_EVENTFD,
  SET_FLAGS,
  SET_INDEX,
  SET_START,
} from "./vfio-user.layout.ts";

const EINVAL = 22;

/** Doorbells are 4 KiB apart and above 4 GiB: no guest of the rig has RAM there, and the upper word is exercised. */
const DOORBELL_BASE = 0x12_fee0_0000;
const DOORBELL_STEP = 0x1000;

/**
 * turns in which a message with an entry's former contents still counts. Linux moves a vector in the handler of its first
 * interrupt (mask, write, unmask) and keeps the old destination until the new one was used, because a write may be
 * under way. A list that was begun has ended by then; an endpoint that remembers entries is found out.
 */
const FORMER_TURNS = 256;

/** Writes one 32-bit word of the MSI-X table as the host would; offset from the table's start. */
export type TableWrite = (offset: number, value: number) => void;

/** the range of message interrupts of a PC: what a guest puts into MSI-X tables that QEMU keeps to itself */
const MESSAGES_BASE = 0xfee0_0000;
const MESSAGES_END = 0xfef0_0000;

export class VfioUserIrq {
  /** vectors the function has, from its MSI-X capability; 0 without one */
  vectors = 0;
  readonly #write: TableWrite;
  readonly #fds: number[] = [];
  readonly #secret: number[] = [];
  readonly #former: number[] = [];
  readonly #formerUntil: number[] = [];
  #turns = 0;
  readonly #masked: boolean[] = [];
  readonly #one = new BigUint64Array([1n]);
  #intxFd = -1;
  #intxLevel = false;
  #intxMasked = false;
  #intxLatched = false;
  /** interrupts delivered to the guest: MSI-X per vector, INTx */
  readonly fired: number[] = [];
  intxFired = 0;
  intxUnmasked = 0;
  /** writes into the doorbells that no live entry asks for */
  stray = 0;
  strayText = "";
  /** messages with an entry's former contents that were under way while the guest changed it */
  late = 0;
  /** times that QEMU's guest turned MSI-X on */
  enables = 0;
  /**
   * A guest that drives the DMA itself puts its own message address into the DMA's registers, and QEMU does not tell
   * which vector it belongs to: take such a message for the only live vector. Off: messages there go nowhere.
   */
  takesGuestMessages = false;

  constructor(write: TableWrite) {
    this.#write = write;
  }

  /** One turn of the model. */
  turn(): void {
    this.#turns++;
  }

  /** SET_IRQS. Takes the descriptors it keeps out of `fds`. @returns 0 or a positive errno */
  set(body: DataView, fds: number[]): number {
    const flags = body.getUint32(SET_FLAGS, true);
    const index = body.getUint32(SET_INDEX, true);
    const start = body.getUint32(SET_START, true);
    const count = body.getUint32(SET_COUNT, true);
    if (index === IRQ_INTX) return this.#setIntx(flags, count, fds);
    if (index !== IRQ_MSIX) return count === 0 ? 0 : EINVAL;
    if (!(flags & SET_ACTION_TRIGGER)) return EINVAL;
    if (count === 0) {
      this.#disableAll();
      return 0;
    }
    if (!(flags & SET_DATA_EVENTFD) || start + count > this.vectors) return EINVAL;
    if (fds.length === 0 && start === 0 && this.#fds.every((fd) => fd === undefined || fd < 0)) this.enables++;
    for (let i = 0; i < count; i++) this.#setVector(start + i, fds.shift() ?? -1);
    return 0;
  }

  #setVector(v: number, fd: number): void {
    const live = (this.#fds[v] ?? -1) >= 0 && !this.#masked[v];
    this.#formerUntil[v] = live ? this.#turns + FORMER_TURNS : 0;
    this.#former[v] = this.#secret[v] ?? 0;
    this.#closeVector(v);
    this.#fds[v] = fd;
    if (fd < 0) {
      this.#maskEntry(v, true);
      return;
    }
    const entry = v * MSIX_ENTRY_SIZE;
    const addr = DOORBELL_BASE + v * DOORBELL_STEP;
    this.#secret[v] = (Math.random() * 2 ** 32) >>> 0;
    this.#write(entry + MSIX_ENTRY_ADDR_LO, addr % 2 ** 32);
    this.#write(entry + MSIX_ENTRY_ADDR_HI, Math.floor(addr / 2 ** 32));
    this.#write(entry + MSIX_ENTRY_DATA, this.#secret[v]);
    this.#maskEntry(v, false);
  }

  /** Set or clear the mask bit of an entry, as a guest that masks a live vector would (QEMU never shows us that). */
  maskVector(v: number, masked: boolean): void {
    this.#maskEntry(v, masked);
  }

  #maskEntry(v: number, masked: boolean): void {
    this.#masked[v] = masked;
    this.#write(v * MSIX_ENTRY_SIZE + MSIX_ENTRY_CTRL, masked ? MSIX_ENTRY_MASKED : 0);
  }

  #closeVector(v: number): void {
    const fd = this.#fds[v];
    if (fd !== undefined && fd >= 0) libc.close(fd);
    this.#fds[v] = -1;
  }

  #disableAll(): void {
    for (let v = 0; v < this.#fds.length; v++) {
      this.#closeVector(v);
      this.#maskEntry(v, true);
    }
  }

  #setIntx(flags: number, count: number, fds: number[]): number {
    if (flags & SET_ACTION_UNMASK) {
      this.intxUnmasked++;
      this.#intxMasked = false;
      if (this.#intxLevel || this.#intxLatched) this.#fireIntx();
      return 0;
    }
    if (flags & SET_ACTION_MASK) {
      this.#intxMasked = true;
      return 0;
    }
    if (this.#intxFd >= 0) libc.close(this.#intxFd);
    this.#intxFd = -1;
    this.#intxMasked = false;
    this.#intxLatched = false;
    if (count > 0 && flags & SET_DATA_EVENTFD) this.#intxFd = fds.shift() ?? -1;
    if (this.#intxFd >= 0 && this.#intxLevel) this.#fireIntx();
    return 0;
  }

  #fireIntx(): void {
    this.#intxLatched = false;
    if (this.#intxFd < 0) return;
    this.#intxMasked = true;
    this.intxFired++;
    libc.write(this.#intxFd, this.#one, 8);
  }

  /** Assert_INTA / Deassert_INTA from the endpoint. Allocates nothing. */
  intx(asserted: boolean): void {
    this.#intxLevel = asserted;
    if (!asserted) return;
    if (this.#intxMasked) this.#intxLatched = true;
    else this.#fireIntx();
  }

  /** A 4-byte write that hit no memory. @returns whether it went to a doorbell */
  message(addr: number, data: number): boolean {
    const v = (addr - DOORBELL_BASE) / DOORBELL_STEP;
    if (!(v >= 0 && v < this.vectors) || v !== Math.floor(v))
      return this.takesGuestMessages && this.#guestMessage(addr);
    const fd = this.#fds[v];
    const late = this.#former[v] === data >>> 0 && this.#turns < (this.#formerUntil[v] ?? 0);
    if (fd === undefined || fd < 0 || this.#masked[v] || (this.#secret[v] !== data >>> 0 && !late)) {
      this.stray++;
      this.strayText = this.#describe(v, data >>> 0);
      return true;
    }
    if (this.#secret[v] !== data >>> 0) this.late++;
    this.fired[v] = (this.fired[v] ?? 0) + 1;
    libc.write(fd, this.#one, 8);
    return true;
  }

  #guestMessage(addr: number): boolean {
    if (addr < MESSAGES_BASE || addr >= MESSAGES_END) return false;
    let only = -1;
    for (let v = 0; v < this.#fds.length; v++) {
      if ((this.#fds[v] ?? -1) < 0) continue;
      if (only >= 0) return false;
      only = v;
    }
    if (only < 0) return false;
    this.fired[only] = (this.fired[only] ?? 0) + 1;
    libc.write(this.#fds[only]!, this.#one, 8);
    return true;
  }

  #describe(v: number, data: number): string {
    if (this.#fds[v] === undefined || this.#fds[v] < 0)
      return `MSI-X message for vector ${v}, which the host does not use`;
    if (this.#masked[v]) return `MSI-X message for vector ${v}, which is masked`;
    return `MSI-X message for vector ${v} with data 0x${data.toString(16)}, its entry says 0x${this.#secret[v].toString(16)}`;
  }

  /** Forget everything QEMU gave us; counters stay. The table is written only when `table` is true. */
  clear(table: boolean): void {
    for (let v = 0; v < this.#fds.length; v++) this.#closeVector(v);
    if (table) this.#disableAll();
    if (this.#intxFd >= 0) libc.close(this.#intxFd);
    this.#intxFd = -1;
    this.#intxLatched = false;
    this.#intxMasked = false;
  }
}
