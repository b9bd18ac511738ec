/**
 * Guest memory as vfio-user announces it: DMA_MAP and DMA_UNMAP become regions of the host's AddressSpace.
 *
 * A guest's RAM is one file (or a few); it arrives again and again in pieces with new descriptors: about 20 pieces a
 * boot, and behind a virtual IOMMU one message a page, thousands a second. So each file is mapped once, recognised by
 * device and inode, and pieces are windows of that mapping. Ranges without a descriptor (ROM, and the function's own
 * BARs) cannot be reached by DMA and are only remembered.
 */
import { fstatSync } from "node:fs";
import { errno, errnoName, libc, MAP_NORESERVE, MAP_SHARED, mapFailed, PROT_READ, PROT_WRITE } from "../libc.ts";
import type { AddressSpace } from "./address-space.ts";
import {
  MAP_FD_OFFSET,
  MAP_FLAGS,
  MAP_IOVA,
  MAP_SIZE,
  UNMAP_FLAG_ALL,
  UNMAP_FLAGS,
  UNMAP_IOVA,
  UNMAP_SIZE,
} from "./vfio-user.layout.ts";

const EINVAL = 22;
const ENOMEM = 12;
const EFBIG = 27;

interface RamFile {
  readonly key: string;
  readonly ptr: number;
  readonly size: number;
}

/** A 64-bit field as a Number, or -1 when it is 2^53 or more. */
export function u64At(view: DataView, off: number): number {
  const hi = view.getUint32(off + 4, true);
  return hi >= 0x20_0000 ? -1 : hi * 2 ** 32 + view.getUint32(off, true);
}

/** A field of 1, 2 or 4 bytes. */
export function valueAt(view: DataView, off: number, bytes: number): number {
  return bytes === 4 ? view.getUint32(off, true) : bytes === 2 ? view.getUint16(off, true) : view.getUint8(off);
}

export class GuestMemory {
  readonly #space: AddressSpace;
  readonly #files: RamFile[] = [];
  /** ranges that are announced, by first address: their size, whether memory is behind them or not */
  readonly #ranges = new Map<number, { size: number; reachable: boolean }>();
  /** messages so far and what they did, for the log and the tests */
  maps = 0;
  unmaps = 0;
  /** why the last map() or unmap() was refused */
  reason = "";

  constructor(space: AddressSpace) {
    this.#space = space;
  }

  /** bytes that DMA can reach now */
  get reachable(): number {
    let sum = 0;
    for (const r of this.#ranges.values()) if (r.reachable) sum += r.size;
    return sum;
  }

  /** highest address that DMA can reach now, exclusive */
  get end(): number {
    let end = 0;
    for (const [base, r] of this.#ranges) if (r.reachable) end = Math.max(end, base + r.size);
    return end;
  }

  /**
   * DMA_MAP.
   * @param fd descriptor of the file, -1 when the message had none; stays the caller's
   * @returns 0 or a positive errno for the reply
   */
  map(body: DataView, fd: number): number {
    const base = u64At(body, MAP_IOVA);
    const size = u64At(body, MAP_SIZE);
    const offset = u64At(body, MAP_FD_OFFSET);
    const flags = body.getUint32(MAP_FLAGS, true) & 3;
    this.maps++;
    if (base < 0 || size <= 0 || offset < 0) return this.#refuse(EINVAL, `DMA_MAP of ${size} bytes at ${base}`);
    if (fd < 0) {
      this.#ranges.set(base, { size, reachable: false });
      return 0;
    }
    const file = this.#file(fd);
    if (file === null) return ENOMEM;
    if (offset + size > file.size)
      return this.#refuse(EFBIG, `DMA_MAP reaches byte ${offset + size} of a file with ${file.size} bytes`);
    try {
      this.#space.add(base, size, file.ptr + offset, flags);
    } catch (e) {
      return this.#refuse(EINVAL, (e as Error).message);
    }
    this.#ranges.set(base, { size, reachable: true });
    return 0;
  }

  /** DMA_UNMAP. @returns 0 or a positive errno for the reply */
  unmap(body: DataView): number {
    this.unmaps++;
    if (body.getUint32(UNMAP_FLAGS, true) & UNMAP_FLAG_ALL) {
      this.#removeAll();
      return 0;
    }
    const base = u64At(body, UNMAP_IOVA);
    const size = u64At(body, UNMAP_SIZE);
    if (base < 0 || size <= 0) return this.#refuse(EINVAL, `DMA_UNMAP of ${size} bytes at ${base}`);
    const exact = this.#ranges.get(base);
    if (exact !== undefined && exact.size === size) {
      this.#ranges.delete(base);
      if (exact.reachable) this.#space.remove(base, size);
      return 0;
    }
    // a range that covers several maps (virtual IOMMU): take out all that lie inside, never part of one
    let found = 0;
    for (const [b, r] of this.#ranges) {
      if (b < base || b + r.size > base + size) continue;
      this.#ranges.delete(b);
      if (r.reachable) this.#space.remove(b, r.size);
      found++;
    }
    return found > 0
      ? 0
      : this.#refuse(EINVAL, `DMA_UNMAP of ${size} bytes at 0x${base.toString(16)}: nothing is mapped like that`);
  }

  /** The guest is gone: nothing can be reached any more, the files are unmapped. */
  clear(): void {
    this.#removeAll();
    for (const f of this.#files) libc.munmap(f.ptr, f.size);
    this.#files.length = 0;
  }

  #removeAll(): void {
    for (const [base, r] of this.#ranges) if (r.reachable) this.#space.remove(base, r.size);
    this.#ranges.clear();
  }

  #refuse(code: number, reason: string): number {
    this.reason = reason;
    return code;
  }

  #file(fd: number): RamFile | null {
    const st = fstatSync(fd);
    const key = `${st.dev}:${st.ino}`;
    const known = this.#files.find((f) => f.key === key && f.size === st.size);
    if (known) return known;
    const ptr = libc.mmap(null, st.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (mapFailed(ptr)) {
      this.#refuse(ENOMEM, `mmap of ${st.size} bytes of guest memory: ${errnoName(errno())}`);
      return null;
    }
    const file = { key, ptr, size: st.size };
    this.#files.push(file);
    return file;
  }
}
