/**
 * What is known per SoC and cannot be read from registers: ranges by name, glue facts, BAR rules, and what Linux' own
 * endpoint driver offers. Data only; from device trees and Linux feature tables (dw-hardware.md 12, 13), not from
 * hardware. The device tree of the running board wins wherever it names a range.
 */
import type { CoreInfo } from "./controller.ts";

export type RangeName = "dbi" | "dbi2" | "atu" | "dma" | "addr_space" | "app" | "apb" | "phy";

/** base address and size in bytes */
export type Range = readonly [base: number, size: number];

/** off: absent or used by the SoC; fixed: that many bytes; resizable: at least 1 MiB */
export type BarRule = "free" | "off" | "resizable" | { readonly fixed: number };

/** A range inside a BAR of a PCI function, for controllers whose registers are reached that way. */
export interface BarRange {
  readonly bar: number;
  readonly offset: number;
  readonly size: number;
}

/** Blocks by BAR; `busWindow` is the AXI address of addr_space. */
export type BarRanges = Readonly<Partial<Record<RangeName, BarRange>>> & { readonly busWindow?: number };

export interface Board {
  readonly name: string;
  readonly title: string;
  /** device-tree compatibles of the endpoint node */
  readonly compatible: readonly string[];
  /** endpoint controllers by sysfs name, ranges as the SoC's device tree has them */
  readonly controllers: Readonly<Record<string, Partial<Record<RangeName, Range>>>>;
  /** iATU: inbound and outbound windows where published, alignment in bytes */
  readonly inboundWindows: number | null;
  readonly outboundWindows: number | null;
  readonly windowAlign: number;
  readonly bars: readonly [BarRule, BarRule, BarRule, BarRule, BarRule, BarRule];
  /** register map that the glue fixes */
  readonly glueMap?: CoreInfo["dmaMap"];
  /** most bytes of a read request that the eDMA survives */
  readonly maxReadRequest?: number;
  /** GIC interrupts of the eDMA by device-tree name, per controller */
  readonly dmaIrq: string;
  /** what Linux' endpoint driver announces: MSI-X, INTx, MSI */
  readonly linux: { readonly msix: boolean; readonly intx: boolean; readonly msi: boolean };
  readonly notes: readonly string[];
}

const MIB = 0x100000;
const GIB = 0x40000000;
const FREE6: Board["bars"] = ["free", "free", "free", "free", "free", "free"];
const ALIGN_64K = 0x10000;
const ALIGN_4K = 0x1000;

export const BOARDS: readonly Board[] = [
  {
    name: "rk3588",
    title: "Rockchip RK3588, PCIe 3.0 x4",
    compatible: ["rockchip,rk3588-pcie-ep"],
    controllers: {
      "a40000000.pcie-ep": {
        dbi: [0xa_4000_0000, MIB],
        dbi2: [0xa_4010_0000, MIB],
        apb: [0xfe15_0000, 0x10000],
        addr_space: [0x9_0000_0000, GIB],
        atu: [0xa_4030_0000, MIB],
      },
    },
    inboundWindows: null,
    outboundWindows: null,
    windowAlign: ALIGN_64K,
    bars: ["resizable", "resizable", "resizable", "resizable", "off", "resizable"],
    dmaIrq: "SPI 271, 272, 269, 270 (dma0-3)",
    linux: { msix: true, intx: false, msi: true },
    notes: [
      "the best first board: MSI-X works with the stock driver",
      "BAR4 shows the eDMA registers to the host by default: a host can program the whole eDMA",
      "device-tree overlay rk3588-rock-5b-pcie-ep exists",
    ],
  },
  {
    name: "imx8mp",
    title: "NXP i.MX8M Plus / i.MX8M Mini",
    compatible: ["fsl,imx8mp-pcie-ep", "fsl,imx8mm-pcie-ep", "fsl,imx8mq-pcie-ep"],
    controllers: {
      "33800000.pcie-ep": {
        dbi: [0x3380_0000, MIB],
        addr_space: [0x1800_0000, 128 * MIB],
        dbi2: [0x3390_0000, MIB],
        atu: [0x33b0_0000, MIB],
      },
    },
    inboundWindows: 4,
    outboundWindows: 4,
    windowAlign: ALIGN_64K,
    bars: ["free", "off", "free", "off", { fixed: 256 }, "off"],
    dmaIrq: "SPI 127 (dma); second controller of i.MX8MQ SPI 80",
    linux: { msix: false, intx: false, msi: true },
    notes: [
      "no MSI-X: interrupts to the host go by INTx messages",
      "the outbound window 0x18000000-0x1fffffff has ordinary host RAM addresses: an eDMA access there may be translated",
      "device-tree overlays imx-pcie0-ep exist",
    ],
  },
  {
    name: "imx8q",
    title: "NXP i.MX8Q family",
    compatible: ["fsl,imx8q-pcie-ep"],
    controllers: { "5f010000.pcie-ep": { dbi: [0x5f01_0000, 0x10000], addr_space: [0x8000_0000, 256 * MIB] } },
    inboundWindows: null,
    outboundWindows: null,
    windowAlign: ALIGN_64K,
    bars: FREE6,
    dmaIrq: "SPI 104",
    linux: { msix: false, intx: false, msi: true },
    notes: ["no MSI-X: interrupts to the host go by INTx messages"],
  },
  {
    name: "imx95",
    title: "NXP i.MX95",
    compatible: ["fsl,imx95-pcie-ep"],
    controllers: {
      "4c300000.pcie-ep": {
        dbi: [0x4c30_0000, 0x10000],
        dbi2: [0x4c32_0000, 0x10000],
        app: [0x4c34_0000, 0x10000],
        atu: [0x4c36_0000, 0x10000],
        dma: [0x4c37_0000, 0x10000],
        addr_space: [0x9_0000_0000, 4 * GIB],
      },
      "4c380000.pcie-ep": { dbi: [0x4c38_0000, 0x10000], addr_space: [0xa_0000_0000, 4 * GIB] },
    },
    inboundWindows: null,
    outboundWindows: null,
    windowAlign: ALIGN_4K,
    bars: ["free", { fixed: 65536 }, "free", "free", "free", "free"],
    dmaIrq: "SPI 311; second controller SPI 317",
    linux: { msix: false, intx: false, msi: true },
    notes: ["the controller's memory accesses pass an SMMU: use iommu.passthrough=1", "no MSI-X"],
  },
  {
    name: "rcar-gen4",
    title: "Renesas R-Car S4 / V4H",
    compatible: ["renesas,rcar-gen4-pcie-ep", "renesas,r8a779f0-pcie-ep", "renesas,r8a779g0-pcie-ep"],
    controllers: {
      "e65d0000.pcie-ep": {
        dbi: [0xe65d_0000, 0x2000],
        dbi2: [0xe65d_2000, 0x1000],
        atu: [0xe65d_3000, 0x2000],
        dma: [0xe65d_5000, 0x1200],
        app: [0xe65d_6200, 0xe00],
        phy: [0xe65d_7000, 0x400],
        addr_space: [0xfe00_0000, 4 * MIB],
      },
      "e65d8000.pcie-ep": {},
    },
    inboundWindows: null,
    outboundWindows: null,
    windowAlign: ALIGN_4K,
    bars: ["resizable", "off", "resizable", "off", { fixed: 256 }, "off"],
    glueMap: "edma-unroll",
    maxReadRequest: 128,
    dmaIrq: "SPI 417; second controller SPI 450",
    linux: { msix: false, intx: false, msi: true },
    notes: [
      "eDMA reads above 128 bytes a request are corrupted: Max_Read_Request_Size must be 128",
      "eDMA interrupts need app + 0x314 = 0xffff; epnic polls and does not use them",
      "no MSI-X: interrupts to the host go by INTx messages",
    ],
  },
  {
    name: "tegra194",
    title: "NVIDIA Tegra194",
    compatible: ["nvidia,tegra194-pcie-ep"],
    controllers: {
      "14160000.pcie_ep": { atu: [0x3604_0000, 0x40000] },
      "14180000.pcie_ep": { atu: [0x3804_0000, 0x40000] },
      "141a0000.pcie_ep": { atu: [0x3a04_0000, 0x40000] },
    },
    inboundWindows: 2,
    outboundWindows: 8,
    windowAlign: ALIGN_64K,
    bars: ["free", "off", "off", "off", "off", "off"],
    dmaIrq: "inside the controller's interrupt",
    linux: { msix: true, intx: false, msi: true },
    notes: ["BAR2 is the hardware's own MSI-X table, BAR4 the eDMA registers: only BAR0 is programmable"],
  },
  {
    name: "tegra234",
    title: "NVIDIA Tegra234",
    compatible: ["nvidia,tegra234-pcie-ep"],
    controllers: {
      "140e0000.pcie_ep": {},
      "14160000.pcie_ep": {},
      "141a0000.pcie_ep": {},
      "141c0000.pcie_ep": {},
      "141e0000.pcie_ep": {},
    },
    inboundWindows: 2,
    outboundWindows: 8,
    windowAlign: ALIGN_64K,
    bars: ["free", "off", "off", "off", "off", "off"],
    dmaIrq: "APPL_INTR_EN_L1_8 bit 6",
    linux: { msix: true, intx: false, msi: true },
    notes: ["the controller's memory accesses pass an SMMU: use iommu.passthrough=1"],
  },
  {
    name: "stm32mp25",
    title: "ST STM32MP25",
    compatible: ["st,stm32mp25-pcie-ep"],
    controllers: { "48400000.pcie-ep": {} },
    inboundWindows: null,
    outboundWindows: null,
    windowAlign: ALIGN_64K,
    bars: FREE6,
    dmaIrq: "",
    linux: { msix: false, intx: false, msi: true },
    notes: ["no MSI-X: interrupts to the host go by INTx messages"],
  },
];

/** The board whose endpoint node has one of these compatibles, or null. */
export function boardByCompatible(compatible: readonly string[]): Board | null {
  for (const c of compatible) for (const b of BOARDS) if (b.compatible.includes(c)) return b;
  return null;
}

export function boardByName(name: string): Board | null {
  return BOARDS.find((b) => b.name === name) ?? null;
}

/** Endpoint controllers that hang on the board's own PCI bus, by vendor:device. */
export const PCI_CONTROLLERS: readonly { readonly id: string; readonly board: Board; readonly ranges: BarRanges }[] = [
  {
    // model/board-model.ts: the emulated board of the rig; the vendor is QEMU's for devices that nobody sells
    id: "1234:e9cc",
    board: {
      name: "emulated",
      title: "emulated board (development)",
      compatible: [],
      controllers: {},
      inboundWindows: 8,
      outboundWindows: 8,
      windowAlign: ALIGN_64K,
      bars: FREE6,
      dmaIrq: "",
      linux: { msix: true, intx: true, msi: true },
      notes: [],
    },
    ranges: {
      dbi: { bar: 0, offset: 0, size: 0x1000 },
      dbi2: { bar: 0, offset: 0x1000, size: 0x1000 },
      dma: { bar: 0, offset: 0x2000, size: 0x1200 },
      atu: { bar: 0, offset: 0x8000, size: 0x8000 },
      addr_space: { bar: 2, offset: 0, size: MIB },
      busWindow: 0x10_0000_0000,
    },
  },
];

/** PCI functions that carry eDMA registers but no endpoint of ours: the host's end of somebody's board. */
export const REMOTE_DMA: readonly { readonly id: string; readonly title: string; readonly map: CoreInfo["dmaMap"] }[] =
  [
    { id: "16c3:edda", title: "Synopsys EDDA test endpoint", map: "edma-unroll" },
    { id: "10ee:b054", title: "AMD MDB", map: "hdma-native" },
  ];
