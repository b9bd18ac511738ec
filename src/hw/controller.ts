/**
 * An opened endpoint controller: everything the engine needs of the hardware, and nothing about virtio.
 * Made by open.ts, either from sysfs resource files or from the model.
 */
import type { DmaMemory } from "./dma-memory.ts";
import type { Mmio } from "./mmio.ts";

/** What the core was found to be able to do. Filled by probing registers, or by the board table where they do not tell. */
export interface CoreInfo {
  /** DesignWare core version as in DBI 0x8f8, for example "5.20a"; "" when unreadable */
  readonly version: string;
  readonly atuUnrolled: boolean;
  readonly inboundWindows: number;
  readonly outboundWindows: number;
  /** iATU granularity in bytes, a power of two */
  readonly windowAlign: number;
  readonly dmaMap: "edma-legacy" | "edma-unroll" | "hdma-compat" | "hdma-native" | "none";
  readonly writeChannels: number;
  readonly readChannels: number;
  /** config-limit option present: vendor capabilities can be served, so the modern personality is possible */
  readonly configLimit: boolean;
  /** the core has an MSI-X capability */
  readonly msix: boolean;
  /** the core has an MSI capability */
  readonly msi: boolean;
  /** link is up, generation (1..6) and width; 0 when down */
  readonly linkGen: number;
  readonly linkWidth: number;
  /**
   * Most bytes of a read request that the DMA engine survives (R-Car Gen4: 128); absent when any size will do. The
   * host sets its own value when it enumerates: apply it with dbi.ts capReadRequest() before each life's first read.
   */
  readonly maxReadRequest?: number;
  /** what the SoC allows of each BAR, absent when all six are free: least and most bytes, most 0 for one that is off */
  readonly bars?: readonly { readonly least: number; readonly most: number }[];
}

export interface Controller {
  /** "model" or the sysfs name, for example "a40000000.pcie-ep" */
  readonly name: string;
  readonly isModel: boolean;
  /** the function's own config space and port logic; RO fields open with 0x8bc bit 0 */
  readonly dbi: Mmio;
  /** shadow registers (BAR masks) */
  readonly dbi2: Mmio;
  /** unrolled iATU block, or null when the core has the viewport form in DBI 0x900 */
  readonly atu: Mmio | null;
  /** eDMA/HDMA block: offset 0 is the block's first register in every map (legacy: DBI 0x970) */
  readonly dma: Mmio;
  /** outbound window as the CPU sees it: an access becomes a PCIe memory access if an outbound iATU region covers it */
  readonly window: Mmio;
  /** bus (AXI) address of window offset 0, what outbound iATU base registers are compared with */
  readonly windowBus: number;
  readonly memory: DmaMemory;
  readonly core: CoreInfo;
  /**
   * Let the other side of a simulated link make progress; on silicon it does nothing. Called once per turn of the
   * service loop. Allocates nothing.
   */
  turn(): void;
  /** Unmap and close everything; the controller keeps the state it has. */
  close(): void;
}
