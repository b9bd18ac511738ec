/**
 * The built-in host's interrupt controller: message interrupts in 0xfee00000..0xfeefffff and one INTx line.
 * It decodes what arrives and counts; who reacts, and when, is up to the driver (host-net.ts).
 */

import { Random } from "./random.ts";

export const MSI_BASE = 0xfee00000;
export const MSI_END = 0xfef00000;
const VECTORS = 256;
/** external vectors begin here on x86; below are exceptions */
const FIRST_VECTOR = 0x20;

export class HostIrq {
  /** messages received per vector since they were taken */
  readonly pending = new Int32Array(VECTORS);
  /** messages received per vector, ever */
  readonly total = new Int32Array(VECTORS);
  readonly #addr = new Float64Array(VECTORS);
  readonly #data = new Float64Array(VECTORS);
  readonly #used = new Uint8Array(VECTORS);
  #next = FIRST_VECTOR;
  readonly #random: Random;
  /** messages that no allocated vector stands for: wrong address, wrong data, or a vector freed meanwhile */
  spurious = 0;
  lastSpuriousAddr = 0;
  lastSpuriousData = 0;
  /** state of the INTx line and its edges */
  line = false;
  asserts = 0;
  deasserts = 0;
  /** Assert while asserted or Deassert while deasserted: allowed on the wire, but a sign of lost bookkeeping */
  redundant = 0;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  /**
   * Reserve a vector. Address and data are what the driver writes into an MSI-X entry: the address carries a
   * CPU number, the data random upper bits, so that a device that sends anything else is noticed.
   */
  allocate(): number {
    for (let tries = 0; tries < VECTORS; tries++) {
      const vector = this.#next;
      this.#next = vector + 1 < VECTORS ? vector + 1 : FIRST_VECTOR;
      if (this.#used[vector] === 0) {
        this.#used[vector] = 1;
        this.retarget(vector);
        return vector;
      }
    }
    return -1;
  }

  /** Move a vector to another CPU: a new address and new data, pending messages stay. */
  retarget(vector: number): void {
    this.#addr[vector] = MSI_BASE + this.#random.below(256) * 4096;
    this.#data[vector] = ((this.#random.below(65536) << 8) | vector) >>> 0;
  }

  free(vector: number): void {
    this.#used[vector] = 0;
    this.pending[vector] = 0;
  }

  address(vector: number): number {
    return this.#addr[vector];
  }

  data(vector: number): number {
    return this.#data[vector];
  }

  /** A posted write of 4 bytes. @returns false outside the message range */
  message(addr: number, data: number): boolean {
    if (addr < MSI_BASE || addr >= MSI_END) return false;
    const vector = data & 0xff;
    if (this.#used[vector] === 1 && this.#addr[vector] === addr && this.#data[vector] === data >>> 0) {
      this.pending[vector]++;
      this.total[vector]++;
    } else {
      this.spurious++;
      this.lastSpuriousAddr = addr;
      this.lastSpuriousData = data >>> 0;
    }
    return true;
  }

  /** @returns messages since the last take */
  take(vector: number): number {
    const n = this.pending[vector];
    if (n !== 0) this.pending[vector] = 0;
    return n;
  }

  intx(asserted: boolean): void {
    if (asserted === this.line) this.redundant++;
    else if (asserted) this.asserts++;
    else this.deasserts++;
    this.line = asserted;
  }
}
