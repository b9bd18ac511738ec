/**
 * DMA memory from hugepages: locked, bus addresses read from /proc/self/pagemap. For controllers that see physical
 * addresses (no IOMMU, or pass-through) and are coherent with the CPU's caches.
 *
 * Pages come from a hugetlb memfd; the kernel gives them in any order, so more are taken than needed, the longest runs
 * of physical neighbours are kept and mapped in physical order, and the rest is given back.
 */
import { closeSync, existsSync, openSync, readFileSync, readSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { type Chunk, ChunkMemory } from "./dma-chunk.ts";
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
  O_CLOEXEC,
  O_CREAT,
  O_RDWR,
  PAGE_SIZE,
  PROT_READ,
  PROT_WRITE,
} from "./libc.ts";
import { fill, unmap } from "./mem.ts";

export const HUGE_2M = 2 * 1024 * 1024;
export const HUGE_1G = 1024 * 1024 * 1024;
/** log2 of the page size goes into bits 26.. of the memfd flags (linux/memfd.h) */
const MFD_SIZE_SHIFT = 26;
const MADV_REMOVE = 9;

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

/** Where a hugetlbfs with pages of that size is mounted, "" for nowhere. */
export function hugetlbfs(pageSize: number): string {
  for (const line of readFileSync("/proc/mounts", "utf8").split("\n")) {
    const [, dir, type, options] = line.split(" ");
    const size = /pagesize=(\d+)([KMG])/.exec(options ?? "");
    const bytes = size === null ? HUGE_2M : Number(size[1]) * { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[size[2] as "K"]!;
    if (type === "hugetlbfs" && dir !== undefined && bytes === pageSize) return dir;
  }
  return "";
}

/** The command that makes `pages` more of them available. */
const reserve = (pageSize: number, pages: number): string =>
  `echo ${hugepages(pageSize).total + pages} >${sysfsPages(pageSize)}/nr_hugepages`;

/**
 * Physical addresses of `count` pages of `pageSize` bytes from `ptr` on (proc/pid/pagemap, Linux
 * admin-guide/mm/pagemap.rst: an entry a page of the kernel's size, bit 63 present, bits 54:0 the frame number).
 * @throws Fault E_PERM without CAP_SYS_ADMIN (the kernel then shows frame 0), E_SYS a page is not present
 */
export function physicalPages(ptr: number, count: number, pageSize: number): number[] {
  const fd = openSync("/proc/self/pagemap", "r");
  try {
    const entry = Buffer.alloc(8);
    const out: number[] = [];
    for (let i = 0; i < count; i++) {
      const at = ((ptr + i * pageSize) / PAGE_SIZE) * 8;
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
      out.push(frame * PAGE_SIZE);
    }
    return out;
  } finally {
    closeSync(fd);
  }
}

/**
 * Runs of physical neighbours among pages, each as page indices in physical order, the longest first.
 * Exported for its test.
 */
export function contiguousRuns(addresses: readonly number[], pageSize: number): number[][] {
  const order = addresses.map((_, i) => i).sort((a, b) => addresses[a]! - addresses[b]!);
  const runs: number[][] = [];
  let last = Number.NaN;
  for (const i of order) {
    if (addresses[i]! - last !== pageSize) runs.push([]);
    runs[runs.length - 1]!.push(i);
    last = addresses[i]!;
  }
  return runs.sort((a, b) => b.length - a.length);
}

/** The longest runs, cut so that they have `want` pages together. */
function pick(runs: readonly number[][], want: number): number[][] {
  const out: number[][] = [];
  let left = want;
  for (const run of runs) {
    if (left === 0) break;
    out.push(run.slice(0, left));
    left -= out[out.length - 1]!.length;
  }
  return out;
}

export class HugepageMemory extends ChunkMemory {
  /** contiguous pieces, 1 when the kernel had enough neighbours */
  readonly pieces: number;
  /** what an earlier process wrote is still there: alloc() gives zeroed memory only after clear() */
  readonly kept: boolean;
  private readonly at: { ptr: number; size: number };
  private readonly path: string;
  private closed = false;
  private stays = false;

  private constructor(
    chunks: readonly Chunk[],
    ptr: number,
    size: number,
    pageSize: number,
    file: { path: string; kept: boolean },
  ) {
    super(chunks, `${reserve(pageSize, Math.ceil(size / pageSize))}, at boot (hugepages=N) for larger pieces`);
    this.at = { ptr, size };
    this.path = file.path;
    this.kept = file.kept;
    this.pieces = chunks.length;
  }

  /**
   * One piece if there are enough neighbours, else the fewest pieces; a region never crosses a piece.
   * @param bytes rounded up to whole pages
   * @param pageSize HUGE_2M or HUGE_1G
   * @param name memory that outlives a process that was killed: a file of this name, where a hugetlbfs is mounted
   * @throws Fault E_MISSING too few hugepages, E_PERM, E_SYS
   */
  static open(bytes: number, pageSize: number = HUGE_2M, name = ""): HugepageMemory {
    const need = Math.ceil(bytes / pageSize);
    if (!(need >= 1)) throw new Fault("E_USAGE", `${bytes} bytes of DMA memory were asked`);
    const mount = name === "" ? "" : hugetlbfs(pageSize);
    const path = mount === "" ? "" : join(mount, `epnic-${name.replaceAll("/", "_")}`);
    const kept = path !== "" && existsSync(path) && statSync(path).size === need * pageSize;
    // of another size: of another version or configuration, and not zero
    if (path !== "" && !kept) rmSync(path, { force: true });
    const { free } = hugepages(pageSize);
    if (free < need && !kept)
      throw new Fault(
        "E_MISSING",
        `${need} free hugepages of ${pageSize / 2 ** 20} MiB are needed for DMA memory, there are ${free}`,
        reserve(pageSize, need - free),
      );
    if (path !== "") {
      const fd = check(libc.open(cstring(path), O_RDWR | O_CREAT | O_CLOEXEC, 0o600), `open ${path}`);
      try {
        return HugepageMemory.collect(fd, need, need, pageSize, { path, kept });
      } finally {
        libc.close(fd);
      }
    }
    const fd = check(
      libc.memfd_create(cstring("epnic-dma"), MFD_CLOEXEC | MFD_HUGETLB | (Math.log2(pageSize) << MFD_SIZE_SHIFT)),
      "memfd_create of hugepages",
    );
    try {
      return HugepageMemory.collect(fd, Math.min(free, need * 4), need, pageSize, { path: "", kept: false });
    } finally {
      libc.close(fd);
    }
  }

  /** Take `take` pages, keep the `need` that make the fewest pieces, give the rest back. */
  private static collect(
    fd: number,
    take: number,
    need: number,
    pageSize: number,
    file: { path: string; kept: boolean },
  ): HugepageMemory {
    check(libc.ftruncate(fd, take * pageSize), `ftruncate to ${take} hugepages`);
    const flags = MAP_SHARED | MAP_POPULATE;
    const all = mmap(`${take} hugepages`, take * pageSize, PROT_READ | PROT_WRITE, flags, fd);
    const size = need * pageSize;
    let ptr = 0;
    try {
      const addresses = physicalPages(all, take, pageSize);
      const runs = pick(contiguousRuns(addresses, pageSize), need);
      const pages = runs.flat();
      // finds a place of that length; its pages are then replaced one by one, in physical order
      ptr = mmap("DMA memory", size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
      pages.forEach((page, i) => {
        const at = ptr + i * pageSize;
        const rc = libc.mmap(at, pageSize, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, page * pageSize);
        if (mapFailed(rc)) throw new Fault("E_SYS", `mmap of hugepage ${i} of ${need}: ${errnoName(errno())}`);
      });
      const keep = new Set(pages);
      for (let i = 0; i < take; i++)
        if (!keep.has(i)) check(libc.madvise(all + i * pageSize, pageSize, MADV_REMOVE), "giving a hugepage back");
      check(libc.mlock(ptr, size), "mlock of DMA memory", "raise the limit: ulimit -l unlimited");
      const now = physicalPages(ptr, need, pageSize);
      if (now.some((a, i) => a !== addresses[pages[i]!]))
        throw new Fault("E_SYS", "hugepages moved while being mapped");
      let first = 0;
      const chunks = runs.map((run) => {
        const chunk = { ptr: ptr + first * pageSize, bus: now[first]!, size: run.length * pageSize };
        first += run.length;
        return chunk;
      });
      const memory = new HugepageMemory(chunks, ptr, size, pageSize, file);
      ptr = 0;
      return memory;
    } finally {
      unmap(all, take * pageSize);
      if (ptr !== 0) unmap(ptr, size);
    }
  }

  /** All bytes to zero, but for these stretches of CPU addresses. */
  clear(except: readonly { readonly ptr: number; readonly size: number }[] = []): void {
    let from = this.at.ptr;
    for (const e of [...except].sort((a, b) => a.ptr - b.ptr)) {
      if (e.ptr > from) fill(from, 0, e.ptr - from);
      from = Math.max(from, e.ptr + e.size);
    }
    fill(from, 0, this.at.ptr + this.at.size - from);
  }

  /** close() leaves the file for the next process. */
  keep(): void {
    this.stays = true;
  }

  /** Unmap. The regions handed out must not be touched any more, by nobody. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    unmap(this.at.ptr, this.at.size);
    if (this.path !== "" && !this.stays) rmSync(this.path, { force: true });
  }
}
