/** What both personalities are built from. Made by function.ts, or by tests over plain memory. */
import { st32 } from "../../hw/mem.ts";
import type { Mmio } from "../../hw/mmio.ts";
import { MSIX_CTL_ENABLE, MSIX_ENTRY_CTRL, MSIX_ENTRY_MASKED, MSIX_ENTRY_SIZE } from "../../hw/pci.layout.ts";
import type { NetConfig } from "./config.ts";
import type { FunctionStats } from "./host-function.ts";

export interface FunctionParts {
  /** CPU address of BAR0's memory, zeroed */
  readonly bar: number;
  /** CPU addresses in the MSI-X BAR, 0 without MSI-X */
  readonly msixTablePtr: number;
  readonly pbaPtr: number;
  readonly vectors: number;
  readonly intxPin: boolean;
  /** config space as DBI shows it, and where the MSI-X capability is in it (0 none) */
  readonly dbi: Mmio;
  readonly msixCap: number;
  /** feature word offered, int32 */
  readonly features: number;
  readonly queueSize: number;
  readonly config: NetConfig;
  /** what was written to config space is still there */
  readonly intact: () => boolean;
  /** write it again. @throws Fault as the first set-up */
  readonly program: () => void;
  /** close the inbound windows */
  readonly onClose: () => void;
}

/** MSI-X Enable as the host left it (PCI 3.0 6.8.2.3). */
export function msixEnabled(dbi: Mmio, cap: number): boolean {
  return cap !== 0 && ((dbi.ld32(cap) >>> 16) & MSIX_CTL_ENABLE) !== 0;
}

/** MSI-X entries masked, nothing pending, as after a conventional reset (PCI 3.0 6.8.2). */
export function resetMsix(parts: FunctionParts): void {
  for (let v = 0; v < parts.vectors; v++) {
    const entry = parts.msixTablePtr + v * MSIX_ENTRY_SIZE;
    for (let w = 0; w < MSIX_ENTRY_CTRL; w += 4) st32(entry + w, 0);
    st32(entry + MSIX_ENTRY_CTRL, MSIX_ENTRY_MASKED);
  }
  if (parts.vectors > 0) st32(parts.pbaPtr, 0);
}

export function emptyStats(): FunctionStats {
  return { negotiations: 0, refusals: 0, recovered: 0, resets: 0, missed: 0, restarts: 0, queueResets: 0 };
}

/** Polls after which the config-change bit of ISR is taken back: the host has read it long ago, and nothing clears it on read. */
export const ISR_CONFIG_POLLS = 20000;
export const ISR_QUEUE = 1;
export const ISR_CONFIG = 2;

/** what to do about a capture that was not believed, and about a driver that did not get so far */
export const REBIND =
  "rebind the driver on the host (unbind and bind, or remove the device and rescan); give the service loop a core of its own if this repeats";
export const NOT_THE_HOSTS = "it was seen too late or not at all while the host's driver set it up";
export const GAVE_UP =
  "the host's driver gave up its set-up (status FAILED), its kernel log says why; bind it again. If it says -2 or -22, a queue was seen too late: give the service loop a core of its own";
