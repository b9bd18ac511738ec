/**
 * DesignWare DBI: the function's own config header and the port logic behind it. Data only. Capabilities move
 * from core to core and are found by walking the list. Facts: dw-hardware.md 8, 11, 12, 13.
 */
import { offsets, type RegTable } from "./reg-table.ts";

/** Type 0 header as 32-bit words; sub-word offsets are in pci.layout.ts. */
export const DBI_HEADER = [
  ["ID", 0x00, "RO", "device and vendor id", "DEVICE 31:16, VENDOR 15:0"],
  ["COMMAND_STATUS", 0x04, "RW", "status and command", "STATUS 31:16, INTX_DISABLE 10, MASTER 2, MEMORY 1"],
  ["CLASS_REV", 0x08, "RO", "class code and revision", "CLASS 31:8, REVISION 7:0"],
  ["HEADER_TYPE", 0x0c, "RO", "BIST, header type, latency, line size"],
  ["BAR0", 0x10, "RW", "base address 0"],
  ["BAR1", 0x14, "RW", "base address 1"],
  ["BAR2", 0x18, "RW", "base address 2"],
  ["BAR3", 0x1c, "RW", "base address 3"],
  ["BAR4", 0x20, "RW", "base address 4"],
  ["BAR5", 0x24, "RW", "base address 5"],
  ["SUBSYSTEM", 0x2c, "RO", "subsystem id and vendor", "DEVICE 31:16, VENDOR 15:0"],
  ["CAP_POINTER", 0x34, "RO", "first capability", "OFFSET 7:0"],
  ["INTERRUPT", 0x3c, "RW", "interrupt pin and line", "PIN 15:8, LINE 7:0"],
] as const satisfies RegTable;

/** Port logic. */
export const DBI_PORT = [
  ["PORT_LINK_CTRL", 0x710, "RW", "port link control"],
  ["PORT_DEBUG0", 0x728, "RO", "port debug 0", "LTSSM 5:0"],
  ["PORT_DEBUG1", 0x72c, "RO", "port debug 1", "TRAINING 29, LINK_UP 4"],
  ["GEN2_CTRL", 0x80c, "RW", "link width and speed control"],
  [
    "MISC_CONTROL_1",
    0x8bc,
    "RW",
    "miscellaneous control 1",
    "WIRE_WR_DISABLE 22, TARGET_ABOVE_CONFIG_LIMIT 19:18, CONFIG_LIMIT 17:8, CFG_TLP_BYPASS 7, DEFAULT_TARGET 1, RO_WR_EN 0",
  ],
  ["VERSION", 0x8f8, "RO", "core version, ASCII"],
  ["VERSION_TYPE", 0x8fc, "RO", "core type, ASCII"],
  ["ATU_VIEWPORT", 0x900, "RW", "iATU viewport; all ones when unrolled", "INBOUND 31, INDEX 4:0"],
  ["MSIX_MATCH_LO", 0x940, "RW", "MSI-X address match, low", "ENABLE 0"],
  ["MSIX_MATCH_HI", 0x944, "RW", "MSI-X address match, high"],
  ["MSIX_DOORBELL", 0x948, "WO", "MSI-X doorbell", "PF 28:24, VECTOR 10:0"],
] as const satisfies RegTable;

export const DBI = { ...offsets(DBI_HEADER), ...offsets(DBI_PORT) } as const;

/** DBI2 when the board names no own range for it */
export const DBI2_DEFAULT = 0x1000;
/** first and last byte+1 of DBI that the port logic needs */
export const DBI_SIZE = 0x1000;

export const RO_WR_EN = 1 << 0;
export const CONFIG_LIMIT_SHIFT = 8;
export const CONFIG_LIMIT_MASK = 0x3ff << 8;
export const TARGET_ABOVE_SHIFT = 18;
export const TARGET_ABOVE_MASK = 3 << 18;
/** requests above the limit go to ELBI (1) or come out of the AXI master through TRGT1 (2) */
export const TARGET_ABOVE_ELBI = 1;
export const TARGET_ABOVE_TRGT1 = 2;

export const LTSSM_MASK = 0x3f;
export const LTSSM_L0 = 0x11;
export const DEBUG1_LINK_UP = 1 << 4;
export const DEBUG1_TRAINING = 1 << 29;

/** BAR register flag bits (PCI 3.0 6.2.5.1) */
export const BAR_MEM_64 = 1 << 2;
export const BAR_PREFETCH = 1 << 3;
/** DBI2 BAR mask: bit 0 enables the BAR, the rest is size - 1 */
export const BAR_MASK_ENABLE = 1;

/** extended capability list (PCIe 7.6.3): first entry */
export const EXT_CAP_FIRST = 0x100;
export const EXT_CAP_VSEC = 0x000b;
export const EXT_CAP_REBAR = 0x0015;
/** Synopsys VSEC that describes the DMA block (dw-edma-pcie.c), and its fields from the capability on */
export const SYNOPSYS_VENDOR = 0x16c3;
export const EDDA_DEVICE = 0xedda;
export const VSEC_DMA_ID = 6;

/** PCI Express capability (PCIe 7.5.3): offsets from the capability */
export const EXP_DEVCTL = 0x08;
export const EXP_LNKCAP = 0x0c;
export const EXP_LNKSTA = 0x12;
export const EXP_DEVCTL_MRRS_SHIFT = 12;
export const EXP_DEVCTL_MRRS_MASK = 7 << 12;
export const EXP_DEVCTL_MPS_SHIFT = 5;
