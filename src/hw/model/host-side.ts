/**
 * The two faces of the simulated PCIe link. `HostSide` is what the endpoint sees of the host (its memory and its
 * interrupt controller); `HostBus` is what the host sees of the endpoint (config space and BARs). The built-in
 * driver (host-*.ts) and the vfio-user server (vfio-user-*.ts) each implement the first and use the second.
 */
import type { AddressSpace } from "./address-space.ts";

export interface HostSide {
  /** memory that the endpoint's DMA and outbound windows can reach, by PCI bus address */
  readonly memory: AddressSpace;
  /**
   * A posted write of 4 bytes that hit no memory: the address range of message interrupts.
   * @returns false when nobody listens there (the link answers Unsupported Request)
   */
  message(addr: number, data: number): boolean;
  /** Assert_INTA / Deassert_INTA message */
  intx(asserted: boolean): void;
}

/** Accesses a host CPU makes. Offsets in bytes, sizes 1, 2 or 4 (BAR also 8 as two 4-byte accesses). */
export interface HostBus {
  cfgRead(off: number, size: number): number;
  cfgWrite(off: number, size: number, value: number): void;
  /** BAR size in bytes as the core advertises it, 0 when disabled */
  barSize(bar: number): number;
  /** reads all ones when memory decoding is off or no inbound region covers the offset */
  barRead(bar: number, off: number, size: number): number;
  barWrite(bar: number, off: number, size: number, value: number): void;
  /**
   * Board memory behind a whole BAR, when one inbound region covers it (plain mode: it can be mapped by the host
   * without traps). @returns CPU pointer, 0 when not covered
   */
  barPointer(bar: number): number;
}
