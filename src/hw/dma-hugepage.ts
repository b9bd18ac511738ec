/**
 * DMA memory from hugepages: locked, physically contiguous, bus addresses read from /proc/self/pagemap. For controllers
 * that see physical addresses (no IOMMU, or pass-through) and are coherent with the CPU's caches.
 *
 * Pages come from a hugetlb memfd; the kernel gives them in any order, so more are taken than needed if that must be,
 * a run of neighbours is picked, mapped in physical order, and the rest is given back.
 */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { ChunkMemory } from "./dma-chunk.ts";
import { Fault } from "./fault.ts";
import {
  check,
  cstring,
  errno,
  errnoName,
  libc,
  MAP_FIXED,
  MAP_POPULATE,
  MAP_SHARED,
  MFD_CLOEXEC,
  MFD_HUGETLB,
  mapFailed,
  mmap,
  PROT_READ,
  PROT_WRITE,
} from "./libc.ts";
import { unmap } from "./mem.ts";

export const HUGE_2M = 2 * 1024 * 1024;
export const HUGE_1G = 1024 * 1024 * 1024;
/** log2 of the page size goes into bits 26.. of the memfd flags (linux/memfd.h) */
const MFD_SIZE_SHIFT = 26;
const MADV_REMOVE = 9;
const SMALL_PAGE = 4096;

const sysfsPages = (pageSize: number): string => `/sys/kernel/mm/hugepages/hugepages-${pageSize / 1024}kB`;

/** Free hugepages of that size, and the pool's size; zeros when the kernel has no such pages. */
export function hugepages(pageSize: number): { free: number; total: number } {
  const read = (name: string): number => {
    try {
      return Number(readFileSync(`${sysfsPages(pageSize)}/${name}`, "utf8"));
    } catch {
      return 0;
    }
  };
  return { free: read("free_hugepages"), total: read("nr_hugepages") };
}

/** The command that makes `pages` more of them available. */
const reserve = (pageSize: number, pages: number): string =>
  `echo ${hugepages(pageSize).total + pages} >${sysfsPages(pageSize)}/nr_hugepages`;

/**
 * Physical addresses of `count` pages of `pageSize` bytes from `ptr` on (proc/pid/pagemap, Linux
 * admin-guide/mm/pagemap.rst: bit 63 present, bits 54:0 the frame number).
 * @throws Fault E_PERM without CAP_SYS_ADMIN (the kernel then shows frame 0), E_SYS a page is not present
 */
export function physicalPages(ptr: number, count: number, pageSize: number): number[] {
  const fd = openSync("/proc/self/pagemap", "r");
  try {
    const entry = Buffer.alloc(8);
    const out: number[] = [];
    for (let i = 0; i < count; i++) {
      const at = ((ptr + i * pageSize) / SMALL_PAGE) * 8;
      if (readSync(fd, entry, 0, 8, at) !== 8) throw new Fault("E_SYS", `pagemap entry at ${at} could not be read`);
      const hi = entry.readUInt32LE(4);
      if (hi >>> 31 === 0) throw new Fault("E_SYS", `page ${i} of ${count} is not in memory`);
      const frame = (hi & 0x7fffff) * 2 ** 32 + entry.readUInt32LE(0);
      if (frame === 0)
        throw new Fault(
          "E_PERM",
          "the kernel does not show physical addresses to this process",
          "run with CAP_SYS_ADMIN",
        );
      out.push(frame * SMALL_PAGE);
    }
    return out;
  } finally {
    closeSync(fd);
  }
}

/**
 * Indices of `want` pages that are neighbours in physical memory, in physical order; empty when there are none.
 * Exported for its test.
 */
export function contiguousRun(addresses: readonly number[], pageSize: number, want: number): number[] {
  const order = addresses.map((_, i) => i).sort((a, b) => addresses[a]! - addresses[b]!);
  let run: number[] = [];
  for (const i of order) {
    const last = run[run.length - 1];
    if (last !== undefined && addresses[i]! - addresses[last]! !== pageSize) run = [];
    run.push(i);
    if (run.length === want) return run;
  }
  return [];
}

export class HugepageMemory extends ChunkMemory {
  readonly pageSize: number;
  private readonly at: { ptr: number; size: number };
  private closed = false;

  private constructor(ptr: number, bus: number, size: number, pageSize: number) {
    super(ptr, bus, size, `${reserve(pageSize, Math.ceil(size / pageSize))}, and ask for more DMA memory`);
    this.at = { ptr, size };
    this.pageSize = pageSize;
  }

  /**
   * @param bytes rounded up to whole pages
   * @param pageSize HUGE_2M or HUGE_1G
   * @throws Fault E_MISSING too few hugepages or none that are neighbours, E_PERM, E_SYS
   */
  static open(bytes: number, pageSize: number = HUGE_2M): HugepageMemory {
    const need = Math.ceil(bytes / pageSize);
    const { free } = hugepages(pageSize);
    if (need < 1) throw new Fault("E_USAGE", `${bytes} bytes of DMA memory were asked`);
    if (free < need)
      throw new Fault(
        "E_MISSING",
        `${need} free hugepages of ${pageSize / 2 ** 20} MiB are needed for DMA memory, there are ${free}`,
        reserve(pageSize, need - free),
      );
    const fd = check(
      libc.memfd_create(cstring("epnic-dma"), MFD_CLOEXEC | MFD_HUGETLB | (Math.log2(pageSize) << MFD_SIZE_SHIFT)),
      "memfd_create of hugepages",
    );
    try {
      // twice the need is mostly enough for a run of neighbours; the last try takes every free page
      for (let take = need; ; take = Math.min(take * 2, free)) {
        const m = HugepageMemory.collect(fd, take, need, pageSize);
        if (m !== null) return m;
        if (take >= free) break;
      }
    } finally {
      libc.close(fd);
    }
    throw new Fault(
      "E_MISSING",
      `no ${need} neighbours among ${free} free hugepages of ${pageSize / 2 ** 20} MiB: memory is fragmented`,
      "reserve hugepages at boot (hugepages=N), or use one page of 1 GiB (hugepagesz=1G hugepages=1)",
    );
  }

  private static collect(fd: number, take: number, need: number, pageSize: number): HugepageMemory | null {
    check(libc.ftruncate(fd, take * pageSize), `ftruncate to ${take} hugepages`);
    const flags = MAP_SHARED | MAP_POPULATE;
    const all = mmap(`${take} hugepages`, take * pageSize, PROT_READ | PROT_WRITE, flags, fd);
    let kept = false;
    try {
      const run = contiguousRun(physicalPages(all, take, pageSize), pageSize, need);
      if (run.length === 0) return null;
      // a hugetlb mapping of that length reserves aligned addresses, its pages are then replaced one by one
      const ptr = mmap("DMA memory", need * pageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
      run.forEach((page, i) => {
        const at = libc.mmap(
          ptr + i * pageSize,
          pageSize,
          PROT_READ | PROT_WRITE,
          flags | MAP_FIXED,
          fd,
          page * pageSize,
        );
        if (mapFailed(at)) throw new Fault("E_SYS", `mmap of hugepage ${i} of ${need}: ${errnoName(errno())}`);
      });
      for (let i = 0; i < take; i++)
        if (!run.includes(i)) check(libc.madvise(all + i * pageSize, pageSize, MADV_REMOVE), "giving a hugepage back");
      const frames = physicalPages(ptr, need, pageSize);
      if (contiguousRun(frames, pageSize, need).some((page, i) => page !== i))
        throw new Fault("E_SYS", "hugepages moved while they were mapped");
      check(libc.mlock(ptr, need * pageSize), "mlock of DMA memory", "raise the limit: ulimit -l unlimited");
      kept = true;
      return new HugepageMemory(ptr, frames[0]!, need * pageSize, pageSize);
    } finally {
      unmap(all, take * pageSize);
      // pages of a failed try would be counted twice by the next one
      if (!kept) libc.ftruncate(fd, 0);
    }
  }

  /** Unmap. The regions handed out must not be touched any more, by nobody. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    unmap(this.at.ptr, this.at.size);
  }
}
