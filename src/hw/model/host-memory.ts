/**
 * Memory of the simulated host: one anonymous mapping behind one range of bus addresses. Rings are allocated from a
 * small arena that moves on with every bind, so that a device with stale addresses is caught; buffers are allocated
 * once for the life of the host.
 */
import type { Grants } from "../driver-ring.ts";
import { Fault } from "../fault.ts";
import { fill, mapAnonymous, unmap, view } from "../mem.ts";
import { AddressSpace, REGION_READ, REGION_WRITE } from "./address-space.ts";

const PAGE = 4096;
const LEAST = 16 << 20;

/** A piece of host memory by its two names. */
export interface HostBlock {
  readonly ptr: number;
  readonly bus: number;
  readonly bytes: number;
}

export interface HostMemoryOptions {
  /** bytes, at least 16 MiB; one eighth is for rings */
  bytes: number;
  /** bus address of the first byte, a multiple of 4096 */
  base: number;
  strict: boolean;
}

export class HostMemory {
  readonly space: AddressSpace;
  readonly ptr: number;
  readonly base: number;
  readonly bytes: number;
  /** live view over everything (offset = bus address - base) */
  readonly u8: Uint8Array;
  /** strict mode: the space's shadow, deaf to addresses outside of the memory (an injected fault names some) */
  readonly grants: Grants | null;
  #rings: HostBlock[] = [];
  #ringNext = 0;
  readonly #arena: number;
  #next: number;

  /** @throws Fault E_CONFIG for a size or base that cannot be used */
  constructor(o: HostMemoryOptions) {
    if (o.bytes < LEAST || o.bytes % PAGE !== 0 || o.base % PAGE !== 0 || o.base < PAGE)
      throw new Fault(
        "E_CONFIG",
        `host memory of ${o.bytes} bytes at 0x${o.base.toString(16)}: at least ${LEAST} bytes are needed, both multiples of ${PAGE}`,
      );
    this.bytes = o.bytes;
    this.#arena = Math.floor(o.bytes / 8 / PAGE) * PAGE;
    this.#next = this.#arena;
    this.base = o.base;
    this.ptr = mapAnonymous(o.bytes);
    this.u8 = new Uint8Array(view(this.ptr, o.bytes));
    this.space = new AddressSpace("host", { strict: o.strict });
    const shadow = this.space.shadow;
    const inside = (addr: number, len: number) => addr >= o.base && addr + len <= o.base + o.bytes;
    this.grants =
      shadow === null
        ? null
        : {
            grant: (addr, len, mode) => (inside(addr, len) ? shadow.grant(addr, len, mode) : undefined),
            revoke: (addr, len) => (inside(addr, len) ? shadow.revoke(addr, len) : undefined),
          };
    this.space.add(o.base, o.bytes, this.ptr, REGION_READ | REGION_WRITE);
  }

  /** Buffers that live as long as the host. @throws Fault E_CONFIG when the memory is too small */
  alloc(name: string, bytes: number): HostBlock {
    const at = this.#next;
    const size = Math.ceil(bytes / PAGE) * PAGE;
    if (at + size > this.bytes)
      throw new Fault(
        "E_CONFIG",
        `host memory is too small: ${name} needs ${size} bytes, ${this.bytes - at} are left`,
        "give the built-in host more memory or smaller queues",
      );
    this.#next = at + size;
    return { ptr: this.ptr + at, bus: this.base + at, bytes: size };
  }

  /** A zeroed, page-aligned ring block from the moving arena; null when it does not fit. */
  allocRing(bytes: number): HostBlock | null {
    const size = Math.ceil(bytes / PAGE) * PAGE;
    for (let start = this.#ringNext, pass = 0; pass < 2; start = 0, pass++) {
      for (let at = start; at + size <= this.#arena; at += PAGE) {
        const clash = this.#rings.find((r) => r.ptr - this.ptr < at + size && at < r.ptr - this.ptr + r.bytes);
        if (clash !== undefined) {
          at = clash.ptr - this.ptr + clash.bytes - PAGE;
          continue;
        }
        const block = { ptr: this.ptr + at, bus: this.base + at, bytes: size };
        fill(block.ptr, 0, size);
        this.#rings.push(block);
        // leave a gap, so that an address that is one page off hits nothing of ours
        this.#ringNext = (at + size + PAGE) % this.#arena;
        return block;
      }
    }
    return null;
  }

  freeRing(block: HostBlock): void {
    this.#rings = this.#rings.filter((r) => r !== block);
  }

  /** Take the memory off the bus and give it back. */
  close(): void {
    this.space.remove(this.base, this.bytes);
    unmap(this.ptr, this.bytes);
  }
}
