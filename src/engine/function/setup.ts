/**
 * Makes the endpoint look like a virtio-net function: identity, BARs, capability list, MSI-X, inbound windows. What is
 * to be is first put into a plan (planFunction, which explains every "cannot"), then written by setupFunction. Runs
 * once; everything in config space must be there before the host enumerates.
 */
import type { Controller, CoreInfo } from "../../hw/controller.ts";
import { findCap, linkUp, setBar, setCapNext, setIds, setMsix, tryConfigLimit } from "../../hw/dbi.ts";
import type { DmaRegion } from "../../hw/dma-memory.ts";
import { Fault } from "../../hw/fault.ts";
import { Iatu } from "../../hw/iatu.ts";
import { fill, mapAnonymous, st8, st32, view, wmb } from "../../hw/mem.ts";
import {
  CAP_ID_EXP,
  CAP_ID_MSI,
  CAP_ID_MSIX,
  CAP_ID_PM,
  CAP_ID_VENDOR,
  CLASS_NETWORK_ETHERNET,
  MSIX_ENTRY_CTRL,
  MSIX_ENTRY_MASKED,
  MSIX_ENTRY_SIZE,
  PCI_CAP_POINTER,
  PCI_SUBSYSTEM_VENDOR,
  PCI_VENDOR_ID,
} from "../../hw/pci.layout.ts";
import {
  CAP_COMMON_CFG,
  CAP_DEVICE_CFG,
  CAP_ISR_CFG,
  CAP_NOTIFY_CFG,
  COMMON_LENGTH,
  NET_DEVICE_LEGACY,
  NET_DEVICE_MODERN,
  VIRTIO_ID_NET,
  VIRTIO_VENDOR,
} from "../../hw/virtio.layout.ts";
import { NET_CFG_BYTES } from "./config.ts";
import { type RecordedWrite, recordWrites } from "./recorder.ts";

export type Personality = "modern" | "legacy";
export type IrqChoice = "auto" | "msix" | "intx";

/** Places in BAR0 of the modern function; the legacy one has its block at 0. */
export const MODERN_COMMON = 0x0000;
export const MODERN_ISR = 0x1000;
export const MODERN_DEVICE = 0x2000;
export const MODERN_NOTIFY = 0x3000;
const NOTIFY_BYTES = 0x1000;
/** queue_notify_off is 0 for every queue, so all notifies hit one word whatever the multiplier is */
const NOTIFY_MULTIPLIER = 4;

export const MSIX_BAR = 2;
export const MSIX_TABLE_OFF = 0;
export const MSIX_PBA_OFF = 0x800;
/** config, one a queue, one spare */
export const MSIX_VECTORS = 4;

/** inbound regions */
const REGION_BAR0 = 0;
const REGION_MSIX = 1;
const REGION_CFG = 2;

const BAR_BYTES = 0x10000;
const CFG_BYTES = 0x1000;
/** common 16, ISR 16, device 16, notify 20 */
const VENDOR_CAPS_BYTES = 68;
const CONFIG_SPACE = 0x100;
const MAX_CAPS = 48;

export interface SubsystemIds {
  readonly subVendor?: number;
  readonly subDevice?: number;
}

export interface FunctionPlan extends Required<SubsystemIds> {
  readonly personality: Personality;
  readonly device: number;
  readonly revision: number;
  readonly msix: boolean;
  readonly intxPin: boolean;
  readonly barBytes: number;
  readonly cfgBytes: number;
}

/**
 * Decide what the function will be.
 * @throws Fault E_MISSING when the core cannot do what was asked, with both sides of the rule
 */
export function planFunction(
  name: string,
  core: CoreInfo,
  asked: { personality: Personality | "auto"; irq: IrqChoice } & SubsystemIds,
): FunctionPlan {
  const personality = asked.personality === "auto" ? (core.configLimit ? "modern" : "legacy") : asked.personality;
  if (personality === "modern" && !core.configLimit)
    throw new Fault(
      "E_MISSING",
      `personality modern needs vendor capabilities, and the core of ${name} has no config limit (DBI 0x8bc) to serve them`,
      "use personality legacy or auto",
    );
  if (asked.irq === "msix" && !core.msix)
    throw new Fault("E_MISSING", `irq msix was asked, ${name} has no MSI-X capability`, "use irq auto or intx");
  const msix = core.msix && asked.irq !== "intx";
  const windows = 1 + (msix ? 1 : 0) + (personality === "modern" ? 1 : 0);
  if (core.inboundWindows < windows)
    throw new Fault(
      "E_MISSING",
      `${windows} inbound windows are needed (BAR0${msix ? ", MSI-X table" : ""}${personality === "modern" ? ", capabilities" : ""}), ${name} has ${core.inboundWindows}`,
      msix ? "use irq intx" : "use personality legacy",
    );
  const modern = personality === "modern";
  const used = msix ? [0, MSIX_BAR] : [0];
  const barBytes = Math.max(BAR_BYTES, core.windowAlign, ...used.map((bar) => core.bars?.[bar]?.least ?? 0));
  for (const bar of used) {
    const most = core.bars?.[bar]?.most ?? Number.POSITIVE_INFINITY;
    if (most < barBytes)
      throw new Fault(
        "E_MISSING",
        `BAR${bar} of ${name} ${most === 0 ? "is off" : `has ${most} bytes`}, ${bar === 0 ? "the registers need" : "the MSI-X table needs"} ${barBytes}`,
        bar === 0 ? "this controller cannot show the function" : "use irq intx",
      );
  }
  return {
    personality,
    device: modern ? NET_DEVICE_MODERN : NET_DEVICE_LEGACY,
    // 4.1.2.1: transitional devices MUST have revision 0, others SHOULD have 1 or higher
    revision: modern ? 1 : 0,
    subVendor: asked.subVendor ?? VIRTIO_VENDOR,
    // the legacy driver takes the device type from the subsystem id (4.1.2.1)
    subDevice: modern ? (asked.subDevice ?? 0x1100) : VIRTIO_ID_NET,
    msix,
    intxPin: asked.irq !== "msix",
    barBytes,
    cfgBytes: Math.max(CFG_BYTES, core.windowAlign),
  };
}

/** Board memory behind the function. */
export interface FunctionMemory {
  readonly bar0: DmaRegion;
  readonly msix: DmaRegion | null;
  readonly cfg: DmaRegion | null;
}

/** Memory for BARs and capabilities; zero, unless an earlier process left a life in it (adopt.ts). */
export function allocFunctionMemory(ctrl: Controller, plan: FunctionPlan): FunctionMemory {
  // an inbound region in BAR match mode wants its target aligned to the BAR's size
  const bar0 = ctrl.memory.alloc("bar0", plan.barBytes, plan.barBytes);
  const msix = plan.msix ? ctrl.memory.alloc("msix-table", plan.barBytes, plan.barBytes) : null;
  const cfg = plan.personality === "modern" ? ctrl.memory.alloc("config", plan.cfgBytes, plan.cfgBytes) : null;
  return { bar0, msix, cfg };
}

/** Registers as after power-on: zero, MSI-X entries masked (PCI 3.0 6.8.2.9). */
export function resetFunctionMemory({ bar0, msix }: FunctionMemory): void {
  fill(bar0.ptr, 0, bar0.size);
  if (msix === null) return;
  fill(msix.ptr, 0, msix.size);
  for (let v = 0; v < MSIX_VECTORS; v++)
    st32(msix.ptr + MSIX_TABLE_OFF + v * MSIX_ENTRY_SIZE + MSIX_ENTRY_CTRL, MSIX_ENTRY_MASKED);
}

/** Capabilities that live in the core: where the last of the list is and where they all end. */
interface CoreCaps {
  readonly last: number;
  readonly end: number;
}

/** bytes of a capability in the core, by id; message control is needed for MSI (PCI 3.0 6.8.1) */
function capBytes(ctrl: Controller, at: number, id: number): number {
  switch (id) {
    case CAP_ID_PM:
      return 0x08;
    case CAP_ID_MSI: {
      const control = ctrl.dbi.ld32(at) >>> 16;
      return ((control & 0x80) !== 0 ? 0x0e : 0x0a) + ((control & 0x100) !== 0 ? 10 : 0);
    }
    case CAP_ID_EXP:
      return 0x3c;
    case CAP_ID_MSIX:
      return 0x0c;
    case CAP_ID_VENDOR:
      return (ctrl.dbi.ld32(at) >>> 16) & 0xff;
    default:
      return 0x08;
  }
}

/** Walk the list as DBI shows it; it ends at 0 or where no capability id answers (an earlier set-up's vendor list). */
function coreCaps(ctrl: Controller): CoreCaps {
  let last = PCI_CAP_POINTER;
  let end = 0x40;
  let at = ctrl.dbi.ld32(PCI_CAP_POINTER) & 0xfc;
  for (let i = 0; i < MAX_CAPS && at >= 0x40; i++) {
    const head = ctrl.dbi.ld32(at);
    const id = head & 0xff;
    if (id === 0 || id === 0xff) break;
    last = at;
    end = Math.max(end, at + capBytes(ctrl, at, id));
    at = (head >>> 8) & 0xfc;
  }
  return { last, end: (end + 3) & ~3 };
}

/** Take a capability out of the list. */
function unlinkCap(ctrl: Controller, cap: number): void {
  const next = (ctrl.dbi.ld32(cap) >>> 8) & 0xfc;
  let before = PCI_CAP_POINTER;
  let at = ctrl.dbi.ld32(PCI_CAP_POINTER) & 0xfc;
  for (let i = 0; i < MAX_CAPS && at >= 0x40 && at !== cap; i++) {
    before = at;
    at = (ctrl.dbi.ld32(at) >>> 8) & 0xfc;
  }
  if (at === cap) setCapNext(ctrl, before, next);
}

/**
 * Serve the four vendor capabilities (VIRTIO 1.2 4.1.4) from board memory behind the core's last capability: the core
 * answers config registers up to the limit, the rest comes from `cfg` (dw-hardware.md 11).
 */
function placeVendorCaps(ctrl: Controller, cfg: DmaRegion): void {
  const { last, end } = coreCaps(ctrl);
  if (end + VENDOR_CAPS_BYTES > CONFIG_SPACE)
    throw new Fault(
      "E_MISSING",
      `the capabilities of ${ctrl.name} end at 0x${end.toString(16)}, the virtio ones need ${VENDOR_CAPS_BYTES} bytes below 0x${CONFIG_SPACE.toString(16)}`,
      "use personality legacy",
    );
  let at = end;
  const put = (type: number, offset: number, length: number, bytes: number, isLast: boolean): void => {
    st8(cfg.ptr + at, CAP_ID_VENDOR);
    st8(cfg.ptr + at + 1, isLast ? 0 : at + bytes);
    st8(cfg.ptr + at + 2, bytes);
    st8(cfg.ptr + at + 3, type);
    st32(cfg.ptr + at + 4, 0); // BAR0
    st32(cfg.ptr + at + 8, offset);
    st32(cfg.ptr + at + 12, length);
    if (bytes === 20) st32(cfg.ptr + at + 16, NOTIFY_MULTIPLIER);
    at += bytes;
  };
  put(CAP_COMMON_CFG, MODERN_COMMON, COMMON_LENGTH, 16, false);
  put(CAP_ISR_CFG, MODERN_ISR, 4, 16, false);
  put(CAP_DEVICE_CFG, MODERN_DEVICE, NET_CFG_BYTES, 16, false);
  put(CAP_NOTIFY_CFG, MODERN_NOTIFY, NOTIFY_BYTES, 20, true);
  wmb();
  setCapNext(ctrl, last, end);
  const limit = end / 4 - 1;
  if (!tryConfigLimit(ctrl, limit))
    throw new Fault(
      "E_MISSING",
      `${ctrl.name} does not keep config limit ${limit} (DBI 0x8bc)`,
      "use personality legacy",
    );
}

const idWord = (plan: FunctionPlan): number => ((plan.device << 16) | VIRTIO_VENDOR) >>> 0;
const subsystemWord = (plan: FunctionPlan): number => ((plan.subDevice << 16) | plan.subVendor) >>> 0;

/** Our ids are in config space. */
export function isIdentityKept(ctrl: Controller, plan: FunctionPlan): boolean {
  return (
    ctrl.dbi.ld32(PCI_VENDOR_ID) >>> 0 === idWord(plan) &&
    ctrl.dbi.ld32(PCI_SUBSYSTEM_VENDOR) >>> 0 === subsystemWord(plan)
  );
}

/** The link is up and the host already reads these ids: it may have assigned the BARs, which a rewrite would erase. */
export function isIdentityInPlace(ctrl: Controller, plan: FunctionPlan): boolean {
  return linkUp(ctrl) && isIdentityKept(ctrl, plan);
}

/** Ids, BARs and MSI-X. Erases BAR addresses that a host has assigned. */
export function programIdentity(ctrl: Controller, plan: FunctionPlan): void {
  setIds(ctrl, {
    vendor: VIRTIO_VENDOR,
    device: plan.device,
    revision: plan.revision,
    classCode: CLASS_NETWORK_ETHERNET,
    subVendor: plan.subVendor,
    subDevice: plan.subDevice,
    interruptPin: plan.intxPin ? 1 : 0,
  });
  for (let bar = 0; bar < 6; bar++) {
    const used = bar === 0 || (bar === MSIX_BAR && plan.msix);
    setBar(ctrl, bar, used ? plan.barBytes : 0);
  }
  const cap = findCap(ctrl, CAP_ID_MSIX);
  if (plan.msix)
    setMsix(ctrl, {
      vectors: MSIX_VECTORS,
      tableBar: MSIX_BAR,
      tableOff: MSIX_TABLE_OFF,
      pbaBar: MSIX_BAR,
      pbaOff: MSIX_PBA_OFF,
    });
  else if (cap !== 0) unlinkCap(ctrl, cap);
}

/** Inbound windows: from here on the host reads and writes `memory`, so it must be filled. */
export function openWindows(ctrl: Controller, iatu: Iatu, plan: FunctionPlan, memory: FunctionMemory): void {
  if (memory.cfg !== null) {
    placeVendorCaps(ctrl, memory.cfg);
    iatu.inboundCfg(REGION_CFG, memory.cfg.bus);
  }
  iatu.inboundBar(REGION_BAR0, 0, memory.bar0.bus, plan.barBytes);
  if (memory.msix !== null) iatu.inboundBar(REGION_MSIX, MSIX_BAR, memory.msix.bus, plan.barBytes);
}

export function closeWindows(iatu: Iatu, memory: FunctionMemory): void {
  iatu.disableInbound(REGION_BAR0);
  if (memory.msix !== null) iatu.disableInbound(REGION_MSIX);
  if (memory.cfg !== null) iatu.disableInbound(REGION_CFG);
}

/**
 * Every register write that setting up this function would make, none of them made. Bus addresses of board memory
 * are not known before it is allocated; in the list they count from 0.
 * @throws Fault as planFunction and the parts it would call
 */
export function listSetup(
  ctrl: Controller,
  asked: { personality: Personality | "auto"; irq: IrqChoice } & SubsystemIds,
): readonly RecordedWrite[] {
  const plan = planFunction(ctrl.name, ctrl.core, asked);
  const { controller, writes } = recordWrites(ctrl, true, (size) => {
    const ptr = mapAnonymous(size);
    return { ptr, buffer: view(ptr, size) };
  });
  programIdentity(controller, plan);
  openWindows(controller, new Iatu(controller), plan, allocFunctionMemory(controller, plan));
  return writes;
}
