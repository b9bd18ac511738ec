/**
 * Anonymous memory as the DMA memory of a board is (dma-hugepage.ts): in pages of 2 MiB, but of those that the kernel makes up when
 * it is asked (transparent hugepages), so that nothing has to be reserved. For measurements.
 */
import { readFileSync } from "node:fs";
import { HUGE_2M } from "./dma-hugepage.ts";
import { libc } from "./libc.ts";
import { mapAnonymous, unmap } from "./mem.ts";

const MADV_HUGEPAGE = 14;
const PAGE = 4096;

/** Zeroed private memory that begins at 2 MiB; a kernel without transparent hugepages gives pages of 4 KiB. @param size in whole pages */
export function mapAnonymousHuge(size: number): number {
  const all = mapAnonymous(size + HUGE_2M);
  const ptr = Math.ceil(all / HUGE_2M) * HUGE_2M;
  if (ptr > all) unmap(all, ptr - all);
  unmap(ptr + size, all + HUGE_2M - ptr);
  libc.madvise(ptr, size, MADV_HUGEPAGE);
  return ptr;
}

/** Size of the pages that most of the mapping around `ptr` is in, bytes. Touch it first. */
export function pageBytes(ptr: number): number {
  let inside = false;
  let resident = 0;
  let huge = 0;
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range !== null) inside = Number.parseInt(range[1]!, 16) <= ptr && ptr < Number.parseInt(range[2]!, 16);
    else if (inside && line.startsWith("Rss:")) resident = Number.parseInt(line.slice(4), 10);
    else if (inside && line.startsWith("AnonHugePages:")) huge = Number.parseInt(line.slice(14), 10);
  }
  return huge > resident / 2 ? HUGE_2M : PAGE;
}
