/**
 * MSI of a vfio-user function (index 1): the guest writes address and data into the function's own config space, QEMU
 * gives one eventfd a message. A message is matched against the capability as the guest left it, as an interrupt
 * controller of a host would. virtio functions never use MSI; the DMA test function does (edda-function.ts).
 */
import { libc } from "../libc.ts";
import { SET_COUNT, SET_DATA_EVENTFD, SET_FLAGS, SET_START } from "./vfio-user.layout.ts";

const EINVAL = 22;
/** message control, capability + 2 (PCIe 7.7.1) */
const ENABLE = 1;
const WIDE = 0x80;
const CAPABLE_SHIFT = 1;
const MULTIPLE_SHIFT = 4;

/** Reads the function's config space. */
export type ConfigRead = (off: number, size: number) => number;

export class VfioUserMsi {
  /** offset of the capability, 0 without one; the server sets it when a QEMU connects */
  cap = 0;
  /** messages delivered to the guest */
  fired = 0;
  readonly #read: ConfigRead;
  readonly #fds: number[] = [];
  readonly #one = new BigUint64Array([1n]);

  constructor(read: ConfigRead) {
    this.#read = read;
  }

  /** Messages the function can send. */
  get vectors(): number {
    return this.cap === 0 ? 0 : 1 << ((this.#read(this.cap + 2, 2) >> CAPABLE_SHIFT) & 7);
  }

  /** SET_IRQS for index 1. Takes the descriptors it keeps out of `fds`. @returns 0 or a positive errno */
  set(body: DataView, fds: number[]): number {
    const start = body.getUint32(SET_START, true);
    const count = body.getUint32(SET_COUNT, true);
    if (count === 0) {
      this.clear();
      return 0;
    }
    if (!(body.getUint32(SET_FLAGS, true) & SET_DATA_EVENTFD) || start + count > this.vectors) return EINVAL;
    for (let i = 0; i < count; i++) {
      this.#close(start + i);
      this.#fds[start + i] = fds.shift() ?? -1;
    }
    return 0;
  }

  /** A 4-byte write that hit no memory. @returns whether it is one of the function's enabled messages */
  message(addr: number, data: number): boolean {
    if (this.cap === 0) return false;
    const control = this.#read(this.cap + 2, 2);
    if ((control & ENABLE) === 0) return false;
    const wide = (control & WIDE) !== 0;
    const high = wide ? this.#read(this.cap + 8, 4) : 0;
    if (addr !== high * 4294967296 + this.#read(this.cap + 4, 4)) return false;
    const many = 1 << ((control >> MULTIPLE_SHIFT) & 7);
    const first = this.#read(this.cap + (wide ? 12 : 8), 2);
    const v = (data - first) & 0xffff;
    const fd = v < many ? (this.#fds[v] ?? -1) : -1;
    if (fd < 0) return false;
    this.fired++;
    libc.write(fd, this.#one, 8);
    return true;
  }

  #close(v: number): void {
    const fd = this.#fds[v];
    if (fd !== undefined && fd >= 0) libc.close(fd);
    this.#fds[v] = -1;
  }

  /** Forget what QEMU gave us. */
  clear(): void {
    for (let v = 0; v < this.#fds.length; v++) this.#close(v);
  }
}
