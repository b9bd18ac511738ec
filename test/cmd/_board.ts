/** A captured board as a directory that may be written to, with an image as /dev/mem that holds its registers. */
import {
  closeSync,
  cpSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findController, rangeOf } from "../../src/hw/sysfs.ts";
import { FIXTURES } from "./_cli.ts";

export interface BoardCopy {
  root: string;
  remove(): void;
}

/** @param registers also make dev/mem, with what registers.dump says at the controller's DBI */
export function copyBoard(board: string, device: string, registers: boolean): BoardCopy {
  const root = mkdtempSync(join(tmpdir(), `epnic-${board}-`));
  const from = join(FIXTURES, "boards", board);
  cpSync(join(from, "sys"), join(root, "sys"), { recursive: true, verbatimSymlinks: true });
  if (registers) {
    const c = findController(device, root);
    if (c === null) throw new Error(`${board} has no ${device}`);
    const dbi = rangeOf(c, "dbi");
    if (dbi === null) throw new Error(`${device} has no dbi`);
    mkdirSync(join(root, "dev"));
    const fd = openSync(join(root, "dev/mem"), "w");
    ftruncateSync(fd, Math.max(...c.ranges.map((r) => r.base + r.size)));
    for (const line of readFileSync(join(from, "registers.dump"), "utf8").split("\n")) {
      const m = /^\S+\[([0-9a-f]+)\]:([0-9a-f]+)/.exec(line);
      if (!m) continue;
      const word = Buffer.alloc(4);
      word.writeUInt32LE(Number.parseInt(m[2], 16));
      writeSync(fd, word, 0, 4, dbi.base + Number.parseInt(m[1], 16));
    }
    closeSync(fd);
  }
  return { root, remove: () => rmSync(root, { recursive: true }) };
}
