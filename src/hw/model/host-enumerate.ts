/**
 * PCI enumeration by the built-in host, as a PCI core does at boot: ids, BAR sizing and assignment, the capability
 * list. Memory decoding stays off here; the driver's probe enables it, and bus mastering comes after that probe.
 */
import {
  CAP_ID_MSIX,
  CAP_ID_VENDOR,
  COMMAND_INTX_DISABLE,
  COMMAND_MASTER,
  COMMAND_MEMORY,
  MSIX_CTL_ENABLE,
  PCI_BAR0,
  PCI_CAP_POINTER,
  PCI_COMMAND,
  PCI_INTERRUPT_PIN,
  PCI_REVISION,
  PCI_STATUS,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR,
  PCI_VENDOR_ID,
} from "../pci.layout.ts";
import type { HostAccess, Steps } from "./host-access.ts";

const STATUS_CAP_LIST = 0x10;
const MAX_CAPS = 48;

export interface HostBar {
  readonly index: number;
  readonly size: number;
  readonly is64: boolean;
  readonly prefetchable: boolean;
  readonly address: number;
}

/** A virtio vendor capability (VIRTIO 1.2 4.1.4). */
export interface VirtioCap {
  readonly type: number;
  readonly bar: number;
  readonly offset: number;
  readonly length: number;
  /** only in the notify capability, else 0 */
  readonly multiplier: number;
}

export interface MsixCap {
  readonly cap: number;
  readonly vectors: number;
  readonly tableBar: number;
  readonly tableOff: number;
  readonly pbaBar: number;
  readonly pbaOff: number;
}

export interface HostFunction {
  readonly vendor: number;
  readonly device: number;
  readonly revision: number;
  readonly classCode: number;
  readonly subVendor: number;
  readonly subDevice: number;
  readonly interruptPin: number;
  readonly bars: readonly HostBar[];
  caps: HostCaps;
}

export interface HostCaps {
  /** capability ids in list order */
  readonly ids: readonly number[];
  readonly virtio: readonly VirtioCap[];
  readonly msix: MsixCap | null;
  /** the list was cut: a loop or a pointer outside of config space */
  readonly broken: boolean;
}

/**
 * Enumerate the function. BARs get bus addresses upwards of `window`.
 * @returns null when no function answers (vendor id reads all ones)
 */
export function* enumerate(a: HostAccess, window: number): Steps<HostFunction | null> {
  const id = yield* a.cfgRead(PCI_VENDOR_ID, 4);
  if (id === 0xffffffff || id === 0) return null;
  const rev = yield* a.cfgRead(PCI_REVISION, 4);
  const subVendor = yield* a.cfgRead(PCI_SUBSYSTEM_VENDOR, 2);
  const subDevice = yield* a.cfgRead(PCI_SUBSYSTEM_ID, 2);
  const interruptPin = yield* a.cfgRead(PCI_INTERRUPT_PIN, 1);
  const bars = yield* sizeBars(a, window);
  const caps = yield* readCaps(a);
  yield* silence(a, caps);
  return {
    vendor: id & 0xffff,
    device: id >>> 16,
    revision: rev & 0xff,
    classCode: rev >>> 8,
    subVendor,
    subDevice,
    interruptPin,
    bars,
    caps,
  };
}

/** pci_msix_init: an earlier kernel may have left MSI-X on; a legacy driver would then look for the MAC 4 bytes off. */
function* silence(a: HostAccess, caps: HostCaps): Steps {
  if (caps.msix === null) return;
  const control = yield* a.cfgRead(caps.msix.cap + 2, 2);
  if ((control & MSIX_CTL_ENABLE) === 0) return;
  yield* a.cfgWrite(caps.msix.cap + 2, 2, control & ~MSIX_CTL_ENABLE);
  const command = yield* a.cfgRead(PCI_COMMAND, 2);
  yield* a.cfgWrite(PCI_COMMAND, 2, command & ~COMMAND_INTX_DISABLE);
}

/** PCI 3.0 6.2.5.1: decoding off, all ones out, mask back, then the assigned address. I/O BARs are skipped. */
function* sizeBars(a: HostAccess, window: number): Steps<HostBar[]> {
  const bars: HostBar[] = [];
  let next = window;
  const command = yield* a.cfgRead(PCI_COMMAND, 2);
  yield* a.cfgWrite(PCI_COMMAND, 2, command & ~(COMMAND_MEMORY | COMMAND_MASTER | 1));
  for (let index = 0; index < 6; index++) {
    const off = PCI_BAR0 + index * 4;
    const before = yield* a.cfgRead(off, 4);
    yield* a.cfgWrite(off, 4, 0xffffffff);
    const mask = yield* a.cfgRead(off, 4);
    yield* a.cfgWrite(off, 4, before);
    if (mask === 0 || mask === 0xffffffff || (mask & 1) === 1) continue;
    const is64 = (mask & 6) === 4;
    let size = (~(mask & 0xfffffff0) + 1) >>> 0;
    if (is64) {
      const high = yield* a.cfgRead(off + 4, 4);
      yield* a.cfgWrite(off + 4, 4, 0xffffffff);
      const highMask = yield* a.cfgRead(off + 4, 4);
      yield* a.cfgWrite(off + 4, 4, high);
      if (highMask !== 0xffffffff) size = (~highMask >>> 0) * 2 ** 32 + (size === 0 ? 2 ** 32 : size);
    }
    if (size === 0) continue;
    next = Math.ceil(next / size) * size;
    bars.push({ index, size, is64, prefetchable: (mask & 8) !== 0, address: next });
    next += size;
    if (is64) index++;
  }
  for (const bar of bars) {
    const off = PCI_BAR0 + bar.index * 4;
    yield* a.cfgWrite(off, 4, bar.address >>> 0);
    if (bar.is64) yield* a.cfgWrite(off + 4, 4, Math.floor(bar.address / 2 ** 32));
  }
  return bars;
}

/** Walk the capability list with the two-bits-masked pointer and a bound, as pci_find_next_cap does. */
export function* readCaps(a: HostAccess): Steps<HostCaps> {
  const ids: number[] = [];
  const virtio: VirtioCap[] = [];
  let msix: MsixCap | null = null;
  let broken = false;
  const status = yield* a.cfgRead(PCI_STATUS, 2);
  if ((status & STATUS_CAP_LIST) === 0) return { ids, virtio, msix, broken };
  let at = (yield* a.cfgRead(PCI_CAP_POINTER, 1)) & 0xfc;
  while (at !== 0) {
    if (at < 0x40 || ids.length === MAX_CAPS) {
      broken = true;
      break;
    }
    const head = yield* a.cfgRead(at, 2);
    const id = head & 0xff;
    if (id === 0xff) {
      broken = true;
      break;
    }
    ids.push(id);
    if (id === CAP_ID_VENDOR) virtio.push(yield* readVirtioCap(a, at));
    if (id === CAP_ID_MSIX) msix = yield* readMsixCap(a, at);
    at = (head >>> 8) & 0xfc;
  }
  return { ids, virtio, msix, broken };
}

function* readVirtioCap(a: HostAccess, at: number): Steps<VirtioCap> {
  const type = yield* a.cfgRead(at + 3, 1);
  const bar = yield* a.cfgRead(at + 4, 1);
  const offset = yield* a.cfgRead(at + 8, 4);
  const length = yield* a.cfgRead(at + 12, 4);
  const multiplier = type === 2 ? yield* a.cfgRead(at + 16, 4) : 0;
  return { type, bar, offset, length, multiplier };
}

function* readMsixCap(a: HostAccess, cap: number): Steps<MsixCap> {
  const control = yield* a.cfgRead(cap + 2, 2);
  const table = yield* a.cfgRead(cap + 4, 4);
  const pba = yield* a.cfgRead(cap + 8, 4);
  return {
    cap,
    vectors: (control & 0x7ff) + 1,
    tableBar: table & 7,
    tableOff: (table & ~7) >>> 0,
    pbaBar: pba & 7,
    pbaOff: (pba & ~7) >>> 0,
  };
}
