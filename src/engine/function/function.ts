/**
 * Makes the virtio-net function that the host sees: plan, memory, config space, windows, then the personality that
 * polls it. The one door of this folder for the engine.
 */
import type { Controller } from "../../hw/controller.ts";
import { findCap } from "../../hw/dbi.ts";
import { Fault } from "../../hw/fault.ts";
import type { Iatu } from "../../hw/iatu.ts";
import { CAP_ID_MSIX } from "../../hw/pci.layout.ts";
import { checkMtu, macBytes, NetConfig } from "./config.ts";
import { featureWord } from "./features.ts";
import type { FrozenLife, HostFunction } from "./host-function.ts";
import { LegacyFunction } from "./legacy.ts";
import { isStill, ModernFunction } from "./modern.ts";
import type { FunctionParts } from "./parts.ts";
import {
  allocFunctionMemory,
  closeWindows,
  type IrqChoice,
  isIdentityInPlace,
  isIdentityKept,
  MSIX_PBA_OFF,
  MSIX_TABLE_OFF,
  MSIX_VECTORS,
  openWindows,
  type Personality,
  planFunction,
  programIdentity,
  resetFunctionMemory,
  type SubsystemIds,
} from "./setup.ts";

export { FEATURE_SETS } from "./features.ts";
export {
  FN_DOWN,
  FN_NONE,
  FN_REFUSED,
  FN_UP,
  type FrozenLife,
  type FunctionStats,
  type HostFunction,
  type QueueCapture,
} from "./host-function.ts";
export { listSetup } from "./setup.ts";

export interface FunctionOptions extends SubsystemIds {
  readonly controller: Controller;
  readonly iatu: Iatu;
  /** "auto": modern when the core has a config limit, else legacy */
  readonly personality: Personality | "auto";
  /** "02:00:00:00:00:01", six bytes, or null for a random one */
  readonly mac: string | Uint8Array | null;
  readonly mtu: number;
  /** power of two, 2 to 32768 */
  readonly queueSize: number;
  /** "default", "safe", "wide" or a hex number, see features.ts */
  readonly features?: string;
  readonly irq?: IrqChoice;
  /** a life that an earlier process captured; its registers are in the memory that will be allocated (adopt.ts) */
  readonly life?: FrozenLife | null;
}

/** the queue size register has 16 bits and the size is a power of two (VIRTIO 1.2 2.7) */
const MAX_QUEUE_SIZE = 32768;

/**
 * Put the function on the link and make its follower.
 *
 * Ids and BARs are written only when the host does not already read them with the link up, because writing a BAR
 * erases the address the host gave it. The windows are opened last, onto memory that already answers like a device.
 * @throws Fault E_CONFIG for a value that cannot be, E_MISSING when the core cannot do it
 */
export function createFunction(o: FunctionOptions): HostFunction {
  const { controller: ctrl, iatu } = o;
  const plan = planFunction(ctrl.name, ctrl.core, {
    personality: o.personality,
    irq: o.irq ?? "auto",
    ...(o.subVendor === undefined ? {} : { subVendor: o.subVendor }),
    ...(o.subDevice === undefined ? {} : { subDevice: o.subDevice }),
  });
  if (
    !Number.isInteger(o.queueSize) ||
    o.queueSize < 2 ||
    o.queueSize > MAX_QUEUE_SIZE ||
    (o.queueSize & (o.queueSize - 1)) !== 0
  )
    throw new Fault(
      "E_CONFIG",
      `queue size is ${o.queueSize}, it must be a power of two from 2 to ${MAX_QUEUE_SIZE} (VIRTIO 1.2 2.7)`,
      "use 256",
    );
  const features = featureWord(o.features ?? "default", plan.personality);
  const config = new NetConfig(macBytes(o.mac), checkMtu(o.mtu));
  const memory = allocFunctionMemory(ctrl, plan);
  const inPlace = isIdentityInPlace(ctrl, plan);
  // Ids that are gone, or a link that is down: the host has reset the slot, and its driver with it.
  const life = inPlace && o.life != null && isStill(memory.bar0.ptr, o.life) ? o.life : null;
  if (life === null) resetFunctionMemory(memory);
  if (!inPlace) programIdentity(ctrl, plan);
  const parts: FunctionParts = {
    bar: memory.bar0.ptr,
    msixTablePtr: memory.msix === null ? 0 : memory.msix.ptr + MSIX_TABLE_OFF,
    pbaPtr: memory.msix === null ? 0 : memory.msix.ptr + MSIX_PBA_OFF,
    vectors: memory.msix === null ? 0 : MSIX_VECTORS,
    intxPin: plan.intxPin,
    dbi: ctrl.dbi,
    msixCap: plan.msix ? findCap(ctrl, CAP_ID_MSIX) : 0,
    features,
    queueSize: o.queueSize,
    config,
    intact: () => isIdentityKept(ctrl, plan),
    program: () => {
      programIdentity(ctrl, plan);
      openWindows(ctrl, iatu, plan, memory);
    },
    onClose: () => closeWindows(iatu, memory),
  };
  const fn = plan.personality === "modern" ? new ModernFunction(parts, life) : new LegacyFunction(parts);
  openWindows(ctrl, iatu, plan, memory);
  return fn;
}
