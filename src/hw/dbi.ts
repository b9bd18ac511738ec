/**
 * The function's own config space, written from the board's side: identity, BARs, capabilities, link state. Plain
 * functions on a Controller; every access is 32 bits wide (several SoCs allow no other on DBI).
 * Follows dw-hardware.md 11, 12 and Linux pcie-designware-ep.c. Most of it must happen before the link comes up, and
 * the non-sticky part is lost by a reset from the host.
 */
import type { Controller } from "./controller.ts";
import {
  BAR_MEM_64,
  BAR_PREFETCH,
  CONFIG_LIMIT_MASK,
  CONFIG_LIMIT_SHIFT,
  DBI,
  DEBUG1_LINK_UP,
  DEBUG1_TRAINING,
  EXP_DEVCTL,
  EXP_DEVCTL_MRRS_MASK,
  EXP_DEVCTL_MRRS_SHIFT,
  EXT_CAP_FIRST,
  EXT_CAP_REBAR,
  RO_WR_EN,
  TARGET_ABOVE_MASK,
  TARGET_ABOVE_SHIFT,
  TARGET_ABOVE_TRGT1,
} from "./dbi.regs.ts";
import { Fault } from "./fault.ts";
import type { Mmio } from "./mmio.ts";
import { CAP_ID_EXP, CAP_ID_MSIX, PCI_CAP_POINTER } from "./pci.layout.ts";

/** a list of capabilities in 256 bytes cannot be longer */
const MAX_CAPS = 48;
const MAX_EXT_CAPS = 960;

const hex = (v: number): string => `0x${(v >>> 0).toString(16)}`;

/** Replace the bits of `mask` in one word; `value` is already shifted. */
function update(io: Mmio, off: number, mask: number, value: number): void {
  io.st32(off, (io.ld32(off) & ~mask) | value);
}

/** Run `fn` with RO fields writable (MISC_CONTROL_1 bit 0), closed again afterwards whatever happens. */
export function withRoWrite<T>(ctrl: Controller, fn: () => T): T {
  const before = ctrl.dbi.ld32(DBI.MISC_CONTROL_1);
  ctrl.dbi.st32(DBI.MISC_CONTROL_1, before | RO_WR_EN);
  try {
    return fn();
  } finally {
    update(ctrl.dbi, DBI.MISC_CONTROL_1, RO_WR_EN, before & RO_WR_EN);
  }
}

export interface FunctionIds {
  readonly vendor: number;
  readonly device: number;
  readonly revision: number;
  /** 24 bits: class, subclass, interface */
  readonly classCode: number;
  readonly subVendor: number;
  readonly subDevice: number;
  /** 0 none, 1 INTA */
  readonly interruptPin: number;
}

/** Identity of the function as the host will read it. */
export function setIds(ctrl: Controller, ids: FunctionIds): void {
  const { dbi } = ctrl;
  withRoWrite(ctrl, () => {
    dbi.st32(DBI.ID, (ids.device << 16) | ids.vendor);
    dbi.st32(DBI.CLASS_REV, (ids.classCode << 8) | ids.revision);
    dbi.st32(DBI.SUBSYSTEM, (ids.subDevice << 16) | ids.subVendor);
    update(dbi, DBI.INTERRUPT, 0xff00, ids.interruptPin << 8);
  });
}

/** Offset of the first capability with that id, 0 when there is none (or the list is broken). */
export function findCapIn(dbi: Mmio, id: number): number {
  let off = dbi.ld32(PCI_CAP_POINTER) & 0xfc;
  for (let i = 0; i < MAX_CAPS && off >= 0x40; i++) {
    const head = dbi.ld32(off);
    if ((head & 0xff) === id) return off;
    off = (head >>> 8) & 0xfc;
  }
  return 0;
}

export const findCap = (ctrl: Controller, id: number): number => findCapIn(ctrl.dbi, id);

/** Offset of the first extended capability with that id, 0 when there is none. */
export function findExtCapIn(dbi: Mmio, id: number): number {
  let off = EXT_CAP_FIRST;
  for (let i = 0; i < MAX_EXT_CAPS && off >= EXT_CAP_FIRST; i++) {
    const head = dbi.ld32(off);
    if (head === 0 || head === 0xffffffff) return 0;
    if ((head & 0xffff) === id) return off;
    off = (head >>> 20) & 0xffc;
  }
  return 0;
}

/** Change the Next pointer of the capability at `capOff`; 0x34 means the list's head. Ids cannot be written. */
export function setCapNext(ctrl: Controller, capOff: number, next: number): void {
  withRoWrite(ctrl, () => {
    if (capOff === PCI_CAP_POINTER) update(ctrl.dbi, PCI_CAP_POINTER, 0xff, next & 0xfc);
    else update(ctrl.dbi, capOff, 0xff00, (next & 0xfc) << 8);
  });
}

/** Offset of the resizable-BAR control pair (CAP, CTRL) of that BAR, 0 when the BAR is not resizable. */
export function rebarOffset(dbi: Mmio, bar: number): number {
  const cap = findExtCapIn(dbi, EXT_CAP_REBAR);
  if (cap === 0) return 0;
  const count = (dbi.ld32(cap + 8) >>> 5) & 7;
  for (let i = 0; i < count; i++) if ((dbi.ld32(cap + 8 + 8 * i) & 7) === bar) return cap + 4 + 8 * i;
  return 0;
}

/**
 * Size and flags of a memory BAR. It erases an address that the host has assigned, so only before enumeration.
 * @param size bytes, a power of two from 128 up; 0 disables the BAR
 * @throws Fault E_USAGE for a BAR or size that cannot be
 */
export function setBar(
  ctrl: Controller,
  bar: number,
  size: number,
  { is64 = false, prefetch = false }: { is64?: boolean; prefetch?: boolean } = {},
): void {
  const { dbi, dbi2 } = ctrl;
  if (!Number.isInteger(bar) || bar < 0 || bar > 5) throw new Fault("E_USAGE", `BAR${bar} does not exist, 0 to 5 do`);
  if (is64 && bar % 2 !== 0) throw new Fault("E_USAGE", `BAR${bar} cannot be 64 bits wide, only BAR0, 2 and 4 can`);
  if (size !== 0 && (size < 128 || 2 ** Math.round(Math.log2(size)) !== size))
    throw new Fault("E_USAGE", `BAR${bar}: ${size} bytes is not a power of two from 128 up`);
  if (!is64 && size > 2 ** 31) throw new Fault("E_USAGE", `BAR${bar}: ${size} bytes need a 64-bit BAR`);
  const off = DBI.BAR0 + 4 * bar;
  const flags = (is64 ? BAR_MEM_64 : 0) | (prefetch ? BAR_PREFETCH : 0);
  withRoWrite(ctrl, () => {
    const rebar = size === 0 ? 0 : rebarOffset(dbi, bar);
    if (rebar !== 0) {
      if (size < 2 ** 20)
        throw new Fault("E_USAGE", `BAR${bar} is resizable: ${size} bytes asked, at least 1048576 are possible`);
      // the mask follows the sizes announced here; bit 4 of CAP is 1 MiB
      dbi2.st32(off, 1);
      dbi.st32(off, flags);
      dbi.st32(rebar, 1 << Math.min(31, 4 + Math.log2(size) - 20));
    } else {
      dbi2.st32(off, size === 0 ? 0 : (size - 1) | 0);
      if (is64) dbi2.st32(off + 4, size === 0 ? 0 : Math.floor((size - 1) / 2 ** 32));
      dbi.st32(off, size === 0 ? 0 : flags);
    }
    if (is64) dbi.st32(off + 4, 0);
  });
}

/**
 * Describe the MSI-X table in the core's capability.
 * @param vectors 1..2048 @param tableOff,pbaOff multiples of 8 inside their BARs
 * @throws Fault E_MISSING when the core has no MSI-X capability
 */
export function setMsix(
  ctrl: Controller,
  m: { vectors: number; tableBar: number; tableOff: number; pbaBar: number; pbaOff: number },
): void {
  const cap = findCap(ctrl, CAP_ID_MSIX);
  if (cap === 0) throw new Fault("E_MISSING", `${ctrl.name} has no MSI-X capability`, "use INTx on this controller");
  if (m.vectors < 1 || m.vectors > 2048)
    throw new Fault("E_USAGE", `${m.vectors} MSI-X vectors, 1 to 2048 are possible`);
  if (m.tableOff % 8 || m.pbaOff % 8)
    throw new Fault("E_USAGE", `MSI-X table at ${hex(m.tableOff)} and PBA at ${hex(m.pbaOff)} must be multiples of 8`);
  withRoWrite(ctrl, () => {
    update(ctrl.dbi, cap, 0x07ff0000, (m.vectors - 1) << 16);
    ctrl.dbi.st32(cap + 4, m.tableOff | m.tableBar);
    ctrl.dbi.st32(cap + 8, m.pbaOff | m.pbaBar);
  });
}

/**
 * Let config requests above register `dwordLimit` leave the core towards memory (an inbound region of type CFG0).
 * A synthesis option; a core without it does not keep the field.
 * @param dwordLimit last 32-bit register that the core itself answers, 0..0x3ff
 * @returns true when both fields read back as written; else the register is as before
 */
export function tryConfigLimit(ctrl: Controller, dwordLimit: number): boolean {
  const { dbi } = ctrl;
  const mask = CONFIG_LIMIT_MASK | TARGET_ABOVE_MASK;
  const value = ((dwordLimit << CONFIG_LIMIT_SHIFT) & CONFIG_LIMIT_MASK) | (TARGET_ABOVE_TRGT1 << TARGET_ABOVE_SHIFT);
  const before = dbi.ld32(DBI.MISC_CONTROL_1);
  dbi.st32(DBI.MISC_CONTROL_1, (before & ~mask) | value);
  if ((dbi.ld32(DBI.MISC_CONTROL_1) & mask) === value) return true;
  dbi.st32(DBI.MISC_CONTROL_1, before);
  return false;
}

/** Link up and not in training (port debug 1, as Linux dw_pcie_link_up). */
export function linkUp(ctrl: Controller): boolean {
  return (ctrl.dbi.ld32(DBI.PORT_DEBUG1) & (DEBUG1_LINK_UP | DEBUG1_TRAINING)) === DEBUG1_LINK_UP;
}

/** Generation (1..6) and width from the PCI Express capability's link status; zeros when the link is down. */
export function linkOf(dbi: Mmio): { gen: number; width: number } {
  const up = (dbi.ld32(DBI.PORT_DEBUG1) & (DEBUG1_LINK_UP | DEBUG1_TRAINING)) === DEBUG1_LINK_UP;
  const cap = up ? findCapIn(dbi, CAP_ID_EXP) : 0;
  if (cap === 0) return { gen: 0, width: 0 };
  const status = dbi.ld32(cap + 0x10) >>> 16;
  return { gen: status & 0xf, width: (status >>> 4) & 0x3f };
}

/** The host's command register (memory decode, bus master, INTx disable). */
export function command(ctrl: Controller): number {
  return ctrl.dbi.ld32(DBI.COMMAND_STATUS) & 0xffff;
}

/** Max_Read_Request_Size in bytes, 0 without a PCI Express capability. */
export function readRequestSize(ctrl: Controller): number {
  const cap = findCap(ctrl, CAP_ID_EXP);
  if (cap === 0) return 0;
  return 128 << ((ctrl.dbi.ld32(cap + EXP_DEVCTL) & EXP_DEVCTL_MRRS_MASK) >>> EXP_DEVCTL_MRRS_SHIFT);
}

/**
 * Bring Max_Read_Request_Size down to at most `bytes` (R-Car Gen4 corrupts eDMA reads above 128). The host sets
 * the field again when it enumerates, so call it after every link-up and before the first read.
 * @returns the size in force afterwards
 */
export function capReadRequest(ctrl: Controller, bytes: number): number {
  const code = Math.log2(bytes / 128);
  if (!Number.isInteger(code) || code < 0 || code > 5)
    throw new Fault("E_USAGE", `read request size ${bytes}: 128, 256, 512, 1024, 2048 and 4096 are possible`);
  const now = readRequestSize(ctrl);
  if (now <= bytes) return now;
  const cap = findCap(ctrl, CAP_ID_EXP);
  update(ctrl.dbi, cap + EXP_DEVCTL, EXP_DEVCTL_MRRS_MASK | 0xffff0000, code << EXP_DEVCTL_MRRS_SHIFT);
  return readRequestSize(ctrl);
}
