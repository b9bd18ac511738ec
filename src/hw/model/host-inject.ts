/**
 * Breaks a running ring of the built-in host on purpose: a chain or index is put into shared memory that no correct
 * driver writes. The ring stays broken until the host resets the function; undo() puts the words back before.
 */
import type { DriverRing } from "../driver-ring.ts";
import { fence, ld16, st16 } from "../mem.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../virtio.layout.ts";
import type { RingFault } from "./host-faults.ts";
import type { HostBlock, HostMemory } from "./host-memory.ts";

/** An address in no memory at all. */
const NOWHERE_HI = 0x7f;
const FRAME = 64;

export class RingSaboteur {
  readonly #ring: DriverRing;
  readonly #block: HostBlock;
  readonly #memory: HostMemory;
  /** words before they were patched: index, value, index, value ... */
  readonly #before: number[] = [];

  /** @param block buffer memory that nobody else uses, one page at least */
  constructor(ring: DriverRing, block: HostBlock, memory: HostMemory) {
    this.#ring = ring;
    this.#block = block;
    this.#memory = memory;
  }

  /**
   * Put the fault into the ring and publish it. `write` says whether the queue's buffers are device-writable.
   * @returns the head of the broken chain, or -1 when the ring has no room for it (nothing was changed)
   */
  inject(fault: RingFault, write: boolean): number {
    const ring = this.#ring;
    const need = fault === "long-chain" ? ring.freeCount : 2;
    if (ring.freeCount < need || need < 2) return -1;
    const lo = new Int32Array(need);
    const hi = new Int32Array(need);
    const len = new Int32Array(need);
    for (let i = 0; i < need; i++) {
      lo[i] = this.#block.bus | 0;
      hi[i] = Math.floor(this.#block.bus / 2 ** 32);
      len[i] = FRAME;
    }
    const availAt = ring.availPtr + 2;
    const before = ld16(availAt);
    const head = ring.add(lo, hi, len, write ? 0 : need, write ? need : 0);
    if (head < 0) return -1;
    const desc = ring.desc;
    const w = head * 4;
    const flags = w + 3;
    this.#save(w);
    this.#save((desc[flags] >>> 16) * 4);
    // chains of two go to one indirect table when those are in use: then the head itself is patched into a direct one
    if ((desc[flags] & DESC_F_INDIRECT) !== 0 && !fault.startsWith("indirect")) {
      desc[w] = lo[0];
      desc[w + 1] = hi[0];
      desc[w + 2] = FRAME;
      desc[flags] = (write ? DESC_F_WRITE : 0) | DESC_F_NEXT | (((head + 1) % ring.size) << 16);
    }
    switch (fault) {
      case "desc-loop":
        desc[flags] = (desc[flags] & 0xffff) | DESC_F_NEXT | (head << 16);
        break;
      case "next-out-of-range":
        desc[flags] = (desc[flags] & 0xffff) | DESC_F_NEXT | (ring.size << 16);
        break;
      case "head-out-of-range":
        ring.avail[2 + (before & (ring.size - 1))] = ring.size;
        break;
      case "long-chain":
        break;
      case "bad-address":
        desc[w + 1] = NOWHERE_HI;
        break;
      case "zero-length":
        desc[w + 2] = 0;
        break;
      case "write-before-read": {
        const next = (desc[flags] >>> 16) * 4;
        desc[flags] |= DESC_F_WRITE;
        desc[next + 3] &= ~DESC_F_WRITE;
        break;
      }
      case "avail-jump":
        break;
      case "indirect-length":
        desc[w + 2] = 24;
        desc[flags] = DESC_F_INDIRECT;
        break;
      case "indirect-nested":
        this.#nest(w, flags);
        break;
    }
    ring.publish();
    if (fault === "avail-jump") {
      fence();
      st16(availAt, (before + ring.size + 1) & 0xffff);
    }
    return head;
  }

  /** A table whose only entry is an indirect descriptor again. */
  #nest(w: number, flags: number): void {
    const desc = this.#ring.desc;
    const at = new Int32Array(this.#memory.u8.buffer, this.#block.ptr - this.#memory.ptr, 8);
    const bus = this.#block.bus;
    at[0] = (bus + 16) | 0;
    at[1] = Math.floor((bus + 16) / 2 ** 32);
    at[2] = 16;
    at[3] = DESC_F_INDIRECT;
    at[4] = bus | 0;
    at[5] = Math.floor(bus / 2 ** 32);
    at[6] = FRAME;
    at[7] = 0;
    desc[w] = bus | 0;
    desc[w + 1] = Math.floor(bus / 2 ** 32);
    desc[w + 2] = 16;
    desc[flags] = DESC_F_INDIRECT;
  }

  #save(w: number): void {
    for (let i = w; i < w + 4; i++) this.#before.push(i, this.#ring.desc[i]);
  }

  /** Put the descriptors back as the ring's owner wrote them, so that its bookkeeping (grants) fits again. */
  undo(): void {
    for (let i = this.#before.length - 2; i >= 0; i -= 2) this.#ring.desc[this.#before[i]] = this.#before[i + 1];
    this.#before.length = 0;
  }
}
