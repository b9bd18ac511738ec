/**
 * Register tables: one line a register, the only place where an offset is written down. A table feeds the
 * constants of the code, dumps (`NAME[offset]:value Long name`), the parser of dumped fixtures, the model and tests.
 * Not used per access: hot code takes the plain numbers of `offsets()` into module constants.
 */
import { Fault } from "./fault.ts";
import type { Mmio } from "./mmio.ts";

/** RO read only, RW, W1C write 1 to clear, WO write has an effect and reads mean nothing, RC cleared by reading */
export type RegMode = "RO" | "RW" | "W1C" | "WO" | "RC";

/** name, byte offset, mode, long name, fields as "NAME msb:lsb, NAME bit"; every register is 32 bits wide */
export type Reg = readonly [name: string, offset: number, mode: RegMode, long: string, fields?: string];

export type RegTable = readonly Reg[];

/** Names of a table declared `as const`. */
export type RegName<T extends RegTable> = T[number][0];

/** `{ NAME: offset }` of a table, for use as constants: `const { WR_DOORBELL } = offsets(EDMA_COMMON)`. */
export function offsets<const T extends RegTable>(table: T): Readonly<Record<RegName<T>, number>> {
  const map: Record<string, number> = {};
  for (const [name, off] of table) {
    if (name in map) throw new Fault("E_SYS", `register table names ${name} twice`);
    map[name] = off;
  }
  return map as Record<RegName<T>, number>;
}

/** The register of that name. @throws Fault E_SYS when the table has none */
export function reg(table: RegTable, name: string): Reg {
  for (const r of table) if (r[0] === name) return r;
  throw new Fault("E_SYS", `no register ${name} in this table of ${table.length}`);
}

/** Unsigned value of bits msb..lsb. */
export function field(value: number, msb: number, lsb: number): number {
  const width = msb - lsb + 1;
  const v = value >>> lsb;
  return width >= 32 ? v >>> 0 : (v & ((1 << width) - 1)) >>> 0;
}

export interface RegField {
  readonly name: string;
  readonly msb: number;
  readonly lsb: number;
}

/** Fields of a register in table order. @throws Fault E_SYS when the table's text has a wrong form */
export function fieldsOf(r: Reg): RegField[] {
  if (!r[4]) return [];
  return r[4].split(",").map((text) => {
    const m = /^\s*([A-Z][A-Z0-9_]*) (\d+)(?::(\d+))?\s*$/.exec(text);
    if (!m) throw new Fault("E_SYS", `field "${text}" of register ${r[0]} is not "NAME msb:lsb"`);
    return { name: m[1]!, msb: Number(m[2]), lsb: Number(m[3] ?? m[2]) };
  });
}

/** All fields of one register as `name=value` in table order; values in hex from 10 up. */
export function decode(r: Reg, value: number): string {
  return fieldsOf(r)
    .map(({ name, msb, lsb }) => {
      const v = field(value, msb, lsb);
      return `${name}=${v < 10 ? v : `0x${v.toString(16)}`}`;
    })
    .join(" ");
}

const hex = (v: number, digits: number): string => (v >>> 0).toString(16).padStart(digits, "0");

/** One dump line: `NAME[offset]:value Long name`, all numbers in hex without prefix, value in 8 digits. */
export function dumpLine(name: string, offset: number, value: number, long: string): string {
  return `${name}[${hex(offset, 3)}]:${hex(value, 8)} ${long}`;
}

/**
 * Dump a table as text, one register a line. Registers whose reading has a side effect (RC) or no meaning (WO) are
 * left out.
 * @param base byte offset added to every offset of the table (a channel context, an iATU region)
 * @param withFields append ` (field=value ...)` where the table has fields
 */
export function dump(io: Mmio, table: RegTable, base = 0, prefix = "", withFields = false): string {
  let text = "";
  for (const r of table) {
    const [name, off, mode, long] = r;
    if (mode === "WO" || mode === "RC" || base + off + 4 > io.size) continue;
    const value = io.ld32(base + off);
    const fields = withFields ? decode(r, value) : "";
    text += `${dumpLine(prefix + name, base + off, value, long)}${fields ? ` (${fields})` : ""}\n`;
  }
  return text;
}

/** One line of a parsed dump. */
export interface DumpEntry {
  readonly name: string;
  readonly offset: number;
  readonly value: number;
  readonly long: string;
}

/**
 * Parse dump text; blank lines and lines that begin with # are skipped.
 * @throws Fault E_CONFIG naming the line that does not follow the form
 */
export function parseDump(text: string): DumpEntry[] {
  const entries: DumpEntry[] = [];
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]!.trim();
    if (line === "" || line.startsWith("#")) continue;
    const m = /^([A-Z][A-Z0-9_.]*)\[([0-9a-f]+)\]:([0-9a-f]{1,8})(?:\s+(.*))?$/i.exec(line);
    if (!m) throw new Fault("E_CONFIG", `register dump line ${i + 1} is not NAME[offset]:value: "${line}"`);
    entries.push({
      name: m[1]!,
      offset: Number.parseInt(m[2]!, 16),
      value: Number.parseInt(m[3]!, 16),
      long: m[4] ?? "",
    });
  }
  return entries;
}
