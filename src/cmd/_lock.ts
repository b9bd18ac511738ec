/**
 * One run a device: an flock on <run-dir>/<device>.lock. The kernel drops it with the process, so a crash leaves no
 * stale lock; the pid inside is for people only.
 */
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Fault } from "../hw/fault.ts";
import { check, LOCK_EX, LOCK_NB, LOCK_UN, libc } from "../hw/libc.ts";
import { fileOf } from "./_engine.ts";

export interface Lock {
  readonly path: string;
  release(): void;
}

/** Make the run directory when it is missing. @throws Fault E_PERM with the way out */
export function makeRunDir(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o755 });
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
    throw new Fault(
      denied ? "E_PERM" : "E_SYS",
      `the run directory ${dir} cannot be made: ${code}`,
      denied ? "run as root, or choose another directory with --run-dir" : undefined,
    );
  }
}

/**
 * Take the lock of `device` or fail at once.
 * @throws Fault E_BUSY naming the process that holds it, E_PERM when the directory is not writable
 */
export function lock(dir: string, device: string): Lock {
  makeRunDir(dir);
  const path = join(dir, `${fileOf(device)}.lock`);
  let fd: number;
  try {
    fd = openSync(path, "a+", 0o644);
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
    throw new Fault(
      denied ? "E_PERM" : "E_SYS",
      `the lock ${path} cannot be opened: ${code}`,
      denied ? "run as root, or choose another directory with --run-dir" : undefined,
    );
  }
  if (libc.flock(fd, LOCK_EX | LOCK_NB) !== 0) {
    const holder = readFileSync(path, "utf8").trim() || "unknown";
    closeSync(fd);
    throw new Fault(
      "E_BUSY",
      `device '${device}' is in use by process ${holder} (${path})`,
      "stop it first, or choose another device",
    );
  }
  ftruncateSync(fd, 0);
  writeSync(fd, `${process.pid}\n`);
  let held = true;
  return {
    path,
    release() {
      if (!held) return;
      held = false;
      // the file stays: removing it would let a third process lock a new file while a second one waits on this
      ftruncateSync(fd, 0);
      check(libc.flock(fd, LOCK_UN), `flock(${path}, LOCK_UN)`);
      closeSync(fd);
    },
  };
}
