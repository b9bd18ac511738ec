/**
 * The file behind an address of this process: what another process must map to share it. Found in /proc/self, so
 * the owner of the memory needs no interface for it; private anonymous memory has no such file.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { cstring, libc, O_CLOEXEC, O_RDWR } from "../libc.ts";

export interface Backing {
  /** own descriptor of the caller, to be closed by it */
  readonly fd: number;
  /** byte of the file that is at the address asked for */
  readonly offset: number;
}

/** @returns descriptor and offset of the shared mapping that holds all of [ptr, ptr + size), or null */
export function backingOf(ptr: number, size: number): Backing | null {
  for (const line of readFileSync("/proc/self/maps", "latin1").split("\n")) {
    const m = line.match(/^([0-9a-f]+)-([0-9a-f]+) rw.(.) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+)/);
    if (!m) continue;
    const start = Number.parseInt(m[1], 16);
    if (ptr < start || ptr + size > Number.parseInt(m[2], 16)) continue;
    if (m[3] !== "s") return null;
    const fd = open(`/proc/self/map_files/${m[1]}-${m[2]}`) ?? ownFd(Number(m[6]));
    return fd === null ? null : { fd, offset: Number.parseInt(m[4], 16) + (ptr - start) };
  }
  return null;
}

/** Without the privilege for map_files: the memory's owner usually still holds the descriptor of its file. */
function ownFd(inode: number): number | null {
  for (const name of readdirSync("/proc/self/fd")) {
    const path = `/proc/self/fd/${name}`;
    try {
      if (statSync(path).ino === inode) return open(path);
    } catch {
      // a descriptor that was closed while we looked
    }
  }
  return null;
}

function open(path: string): number | null {
  const fd = libc.open(cstring(path), O_RDWR | O_CLOEXEC, 0);
  return fd < 0 ? null : fd;
}
