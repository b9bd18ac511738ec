/**
 * DesignWare internal address translation unit: registers of one region and its bits. Data only.
 * Facts: dw-hardware.md 10; Linux pcie-designware.h.
 */
import { offsets, type RegTable } from "./reg-table.ts";

/**
 * One region; only control 2 means something else in the two directions.
 * Base: unrolled regionOffset(), viewport form DBI ATU_VIEWPORT_WINDOW after writing ATU_VIEWPORT.
 */
const region = (control2: string) =>
  [
    ["ATU_CTRL1", 0x00, "RW", "region control 1", "FUNC 22:20, INCREASE_SIZE 13, ATTR 10:9, TD 8, TC 7:5, TYPE 4:0"],
    ["ATU_CTRL2", 0x04, "RW", "region control 2", control2],
    ["ATU_BASE_LO", 0x08, "RW", "lower base address"],
    ["ATU_BASE_HI", 0x0c, "RW", "upper base address"],
    ["ATU_LIMIT", 0x10, "RW", "limit address"],
    ["ATU_TARGET_LO", 0x14, "RW", "lower target address"],
    ["ATU_TARGET_HI", 0x18, "RW", "upper target address"],
    ["ATU_LIMIT_HI", 0x20, "RW", "upper limit address, since 4.60a"],
  ] as const satisfies RegTable;

/** DMA_BYPASS: the bit number is believed, not verified */
export const IATU_OUTBOUND = region(
  "ENABLE 31, INVERT 29, CFG_SHIFT 28, DMA_BYPASS 27, HEADER_SUBST 23, INHIBIT_PAYLOAD 22, SNP 20, FUNC_BYPASS 19, TAG_SUBST 16, TAG 15:8, MSG_CODE 7:0",
);
export const IATU_INBOUND = region(
  "ENABLE 31, MATCH_MODE 30, INVERT 29, CFG_SHIFT 28, FUZZY_TYPE 27, RESPONSE 25:24, SINGLE_ADDR 23, MSG_CODE_MATCH 21, FUNC_MATCH 19, ATTR_MATCH 16, TD 15, TC 14, BAR_NUM 10:8",
);

export const ATU = offsets(IATU_OUTBOUND);

/** default place of the unrolled block in DBI */
export const ATU_DBI_DEFAULT = 0x300000;
/** DBI offsets of the viewport form; ATU_VIEWPORT reads all ones when the core is unrolled */
export const ATU_VIEWPORT = 0x900;
export const ATU_VIEWPORT_WINDOW = 0x904;
export const ATU_VIEWPORT_INBOUND = 0x80000000 | 0;
/** unrolled: offset of a region in the iATU block */
export const regionOffset = (inbound: boolean, index: number): number => (index << 9) + (inbound ? 0x100 : 0);
/** most regions of one direction that Linux looks for */
export const ATU_MAX_REGIONS = 32;
export const ATU_REGION_BYTES = 0x24;

export const ATU_TYPE_MEM = 0x0;
export const ATU_TYPE_IO = 0x2;
export const ATU_TYPE_CFG0 = 0x4;
export const ATU_TYPE_CFG1 = 0x5;
export const ATU_TYPE_MSG = 0x10;
/** message routing in the low bits of TYPE: 4 = terminate at receiver, as INTx needs */
export const ATU_MSG_ROUTE_LOCAL = 0x4;
export const ATU_CTRL1_INCREASE_SIZE = 1 << 13;

export const ATU_ENABLE = 0x80000000 | 0;
/** inbound memory: 1 = BAR match, 0 = address match */
export const ATU_MATCH_BAR = 1 << 30;
export const ATU_INHIBIT_PAYLOAD = 1 << 22;
/** outbound: requests of the DMA engine pass untranslated; the bit number is believed, not verified */
export const ATU_DMA_BYPASS = 1 << 27;
export const ATU_BAR_SHIFT = 8;

/** message codes of INTA (PCIe 2.2.8.1) */
export const MSG_ASSERT_INTA = 0x20;
export const MSG_DEASSERT_INTA = 0x24;
