/**
 * Strict mode of an address space, in the manner of a memory sanitizer: for every byte, whether DMA may read it and
 * whether DMA may write it at this moment. Drivers grant what they hand to a device and revoke what they take back;
 * the model checks every access. Two byte maps per region in lazily touched anonymous memory, so only used pages cost.
 */
import { Fault } from "../fault.ts";
import { MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, mmap, PROT_READ, PROT_WRITE } from "../libc.ts";
import { compare, fill, ld8, unmap } from "../mem.ts";

/** DMA may read (a device-readable buffer) */
export const GRANT_READ = 1;
/** DMA may write (a device-writable buffer) */
export const GRANT_WRITE = 2;

const ONES_BYTES = 65536;
let onesPtr = 0;

/** A constant area of bytes 1, what a fully granted stretch of a map is compared with. */
function ones(): number {
  if (onesPtr === 0) {
    onesPtr = mapLazy(ONES_BYTES);
    fill(onesPtr, 1, ONES_BYTES);
  }
  return onesPtr;
}

function mapLazy(size: number): number {
  return mmap("a shadow map", size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

/** One mapping pair; pieces of a region that was cut share it. */
interface Maps {
  readonly read: number;
  readonly write: number;
  readonly size: number;
  pieces: number;
}

interface Piece {
  base: number;
  size: number;
  /** offset of base in the maps */
  offset: number;
  readonly maps: Maps;
}

export class Shadow {
  readonly #pieces: Piece[] = [];
  #last: Piece | null = null;
  /** first address that the last failed check() found wrong */
  badAddr = 0;

  /** A region begins; nothing of it is granted. Called by AddressSpace.add. */
  add(base: number, size: number): void {
    const maps: Maps = { read: mapLazy(size), write: mapLazy(size), size, pieces: 1 };
    const at = this.#pieces.findIndex((p) => p.base > base);
    this.#pieces.splice(at < 0 ? this.#pieces.length : at, 0, { base, size, offset: 0, maps });
    ones();
  }

  /** A range of addresses ends; what is left of a cut region keeps its grants. Called by AddressSpace.remove. */
  remove(base: number, size: number): void {
    const end = base + size;
    this.#last = null;
    for (let i = this.#pieces.length - 1; i >= 0; i--) {
      const p = this.#pieces[i]!;
      const pEnd = p.base + p.size;
      if (pEnd <= base || p.base >= end) continue;
      const left: Piece[] = [];
      if (p.base < base) left.push({ ...p, size: base - p.base });
      if (pEnd > end) left.push({ ...p, base: end, size: pEnd - end, offset: p.offset + (end - p.base) });
      p.maps.pieces += left.length - 1;
      if (p.maps.pieces === 0) {
        unmap(p.maps.read, p.maps.size);
        unmap(p.maps.write, p.maps.size);
      }
      this.#pieces.splice(i, 1, ...left);
    }
  }

  /**
   * Set the permissions of exactly these bytes.
   * @param mode GRANT_READ | GRANT_WRITE, or 0 to revoke
   * @throws Fault E_SYS when a byte is outside every region (a fault of the caller, not of the device)
   */
  grant(addr: number, len: number, mode: number): void {
    for (let a = addr, left = len; left > 0; ) {
      const p = this.#find(a);
      if (p === null)
        throw new Fault("E_SYS", `strict mode: grant of ${len} bytes at 0x${addr.toString(16)} leaves the memory`);
      const off = a - p.base;
      const n = Math.min(left, p.size - off);
      fill(p.maps.read + p.offset + off, mode & GRANT_READ, n);
      fill(p.maps.write + p.offset + off, (mode & GRANT_WRITE) >> 1, n);
      a += n;
      left -= n;
    }
  }

  /** Take bytes back from DMA; the same as grant(addr, len, 0). */
  revoke(addr: number, len: number): void {
    this.grant(addr, len, 0);
  }

  /** Whether DMA may touch all these bytes now; else `badAddr` is the first that it may not. */
  check(addr: number, len: number, write: boolean): boolean {
    let a = addr;
    let left = len;
    while (left > 0) {
      const p = this.#find(a);
      if (p === null) {
        this.badAddr = a;
        return false;
      }
      const off = a - p.base;
      let n = p.size - off;
      if (n > left) n = left;
      if (n > ONES_BYTES) n = ONES_BYTES;
      const map = (write ? p.maps.write : p.maps.read) + p.offset + off;
      if (compare(map, onesPtr, n) !== 0) {
        let i = 0;
        while (ld8(map + i) === 1) i++;
        this.badAddr = a + i;
        return false;
      }
      a += n;
      left -= n;
    }
    return true;
  }

  #find(addr: number): Piece | null {
    const last = this.#last;
    if (last !== null && addr >= last.base && addr < last.base + last.size) return last;
    let lo = 0;
    let hi = this.#pieces.length - 1;
    while (lo <= hi) {
      const mid = (lo + hi) >> 1;
      const p = this.#pieces[mid]!;
      if (addr < p.base) hi = mid - 1;
      else if (addr >= p.base + p.size) lo = mid + 1;
      else {
        this.#last = p;
        return p;
      }
    }
    return null;
  }
}
