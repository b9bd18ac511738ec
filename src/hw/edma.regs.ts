/**
 * DesignWare eDMA v0 (and its HDMA-compatible variant): register tables, channel contexts, linked-list format.
 * Data only. Offsets are from the eDMA block's first register (legacy map: DBI + 0x970). Facts: dw-hardware.md 1, 2;
 * names follow Linux dw-edma-v0-regs.h in a shorter form.
 */
import { offsets, type RegTable } from "./reg-table.ts";

const CHANNEL_PAIR = "ODD 31:16, EVEN 15:0";
const INT_BITS = "ABORT 23:16, DONE 7:0";
const DOORBELL_BITS = "STOP 31, CHANNEL 2:0";
const ENABLE_BIT = "ENABLE 0";
const CONTROL1_BITS =
  "AT 31:30, TC 29:27, TD 26, RO 25, NS 24, FUNC 16:12, LLE 9, CCS 8, CS 6:5, RIE 4, LIE 3, LLP 2, TCB 1, CB 0";

/** Common block, the same in the legacy and the unrolled map. */
export const EDMA_COMMON = [
  ["ARB_PRIORITY", 0x000, "RW", "DMA data arbitration priority"],
  ["DMA_CTRL", 0x008, "RO", "channels present", "RD_CHANNELS 19:16, WR_CHANNELS 3:0"],
  ["WR_ENGINE_EN", 0x00c, "RW", "write engine enable", ENABLE_BIT],
  ["WR_DOORBELL", 0x010, "WO", "write doorbell", DOORBELL_BITS],
  ["WR_ARB_WEIGHT_LO", 0x018, "RW", "write arbitration weight, channels 0-3"],
  ["WR_ARB_WEIGHT_HI", 0x01c, "RW", "write arbitration weight, channels 4-7"],
  ["RD_ENGINE_EN", 0x02c, "RW", "read engine enable", ENABLE_BIT],
  ["RD_DOORBELL", 0x030, "WO", "read doorbell", DOORBELL_BITS],
  ["RD_ARB_WEIGHT_LO", 0x038, "RW", "read arbitration weight, channels 0-3"],
  ["RD_ARB_WEIGHT_HI", 0x03c, "RW", "read arbitration weight, channels 4-7"],
  ["WR_INT_STATUS", 0x04c, "RO", "write interrupt status", INT_BITS],
  ["WR_INT_MASK", 0x054, "RW", "write interrupt mask", INT_BITS],
  ["WR_INT_CLEAR", 0x058, "WO", "write interrupt clear", INT_BITS],
  ["WR_ERR_STATUS", 0x05c, "RO", "write error status", "LL_FETCH 23:16, LOCAL 7:0"],
  ["WR_DONE_IMWR_LO", 0x060, "RW", "write done message address, low"],
  ["WR_DONE_IMWR_HI", 0x064, "RW", "write done message address, high"],
  ["WR_ABORT_IMWR_LO", 0x068, "RW", "write abort message address, low"],
  ["WR_ABORT_IMWR_HI", 0x06c, "RW", "write abort message address, high"],
  ["WR_IMWR_DATA_01", 0x070, "RW", "write message data, channels 0 and 1", CHANNEL_PAIR],
  ["WR_IMWR_DATA_23", 0x074, "RW", "write message data, channels 2 and 3", CHANNEL_PAIR],
  ["WR_IMWR_DATA_45", 0x078, "RW", "write message data, channels 4 and 5", CHANNEL_PAIR],
  ["WR_IMWR_DATA_67", 0x07c, "RW", "write message data, channels 6 and 7", CHANNEL_PAIR],
  ["WR_LL_ERR_EN", 0x090, "RW", "write linked-list error enable", "LOCAL_ABORT 23:16, REMOTE_ABORT 7:0"],
  ["RD_INT_STATUS", 0x0a0, "RO", "read interrupt status", INT_BITS],
  ["RD_INT_MASK", 0x0a8, "RW", "read interrupt mask", INT_BITS],
  ["RD_INT_CLEAR", 0x0ac, "WO", "read interrupt clear", INT_BITS],
  ["RD_ERR_STATUS_LO", 0x0b4, "RO", "read error status, low", "LL_FETCH 23:16, LOCAL 7:0"],
  ["RD_ERR_STATUS_HI", 0x0b8, "RO", "read error status, high", "POISONED 31:24, TIMEOUT 23:16, CA 15:8, UR 7:0"],
  ["RD_LL_ERR_EN", 0x0c4, "RW", "read linked-list error enable", "LOCAL_ABORT 23:16, REMOTE_ABORT 7:0"],
  ["RD_DONE_IMWR_LO", 0x0cc, "RW", "read done message address, low"],
  ["RD_DONE_IMWR_HI", 0x0d0, "RW", "read done message address, high"],
  ["RD_ABORT_IMWR_LO", 0x0d4, "RW", "read abort message address, low"],
  ["RD_ABORT_IMWR_HI", 0x0d8, "RW", "read abort message address, high"],
  ["RD_IMWR_DATA_01", 0x0dc, "RW", "read message data, channels 0 and 1", CHANNEL_PAIR],
  ["RD_IMWR_DATA_23", 0x0e0, "RW", "read message data, channels 2 and 3", CHANNEL_PAIR],
  ["RD_IMWR_DATA_45", 0x0e4, "RW", "read message data, channels 4 and 5", CHANNEL_PAIR],
  ["RD_IMWR_DATA_67", 0x0e8, "RW", "read message data, channels 6 and 7", CHANNEL_PAIR],
] as const satisfies RegTable;

/** Only in the legacy map: selects the channel context that appears at VIEWPORT_CONTEXT. */
export const EDMA_VIEWPORT = [
  ["VIEWPORT_SEL", 0x0fc, "RW", "channel context selection", "READ 31, CHANNEL 2:0"],
] as const satisfies RegTable;

/** Only in the unrolled map. Power enables exist in the HDMA-compatible variant: + 4 * channel. */
export const EDMA_UNROLL = [
  ["WR_CH_GROUP", 0x100, "RW", "write engine channel group"],
  ["RD_CH_GROUP", 0x104, "RW", "read engine channel group"],
  ["WR_HANDSHAKE", 0x108, "RO", "write handshake counter, low"],
  ["RD_HANDSHAKE", 0x118, "RO", "read handshake counter, low"],
  ["WR_CH_POWER", 0x128, "RW", "write channel 0 power enable"],
  ["RD_CH_POWER", 0x168, "RW", "read channel 0 power enable"],
] as const satisfies RegTable;

/** Channel context; offsets are from contextOffset(). */
export const EDMA_CHANNEL = [
  ["CH_CONTROL1", 0x00, "RW", "channel control 1", CONTROL1_BITS],
  ["CH_CONTROL2", 0x04, "RW", "channel control 2", "VF 8:1, VF_EN 0"],
  ["CH_SIZE", 0x08, "RW", "transfer size in bytes"],
  ["CH_SAR_LO", 0x0c, "RW", "source address, low"],
  ["CH_SAR_HI", 0x10, "RW", "source address, high"],
  ["CH_DAR_LO", 0x14, "RW", "destination address, low"],
  ["CH_DAR_HI", 0x18, "RW", "destination address, high"],
  ["CH_LLP_LO", 0x1c, "RW", "linked-list pointer, low"],
  ["CH_LLP_HI", 0x20, "RW", "linked-list pointer, high"],
] as const satisfies RegTable;

export const EDMA = offsets(EDMA_COMMON);
export const EDMA_VP = offsets(EDMA_VIEWPORT);
export const EDMA_UN = offsets(EDMA_UNROLL);
export const EDMA_CH = offsets(EDMA_CHANNEL);

// --- where the block and its channel contexts are ---
/** DBI offset of the legacy block */
export const EDMA_LEGACY_DBI = 0x970;
/** offset of the unrolled block behind the iATU's base when the board names none */
export const EDMA_UNROLL_ATU = 0x80000;
/** legacy: the one context window; bit 31 of VIEWPORT_SEL chooses the read side */
export const VIEWPORT_CONTEXT = 0x100;
export const VIEWPORT_READ = 0x80000000 | 0;
/** bytes of the block that are touched: legacy, unrolled with 8 + 8 channels */
export const EDMA_LEGACY_SIZE = 0x124;
export const EDMA_UNROLL_SIZE = 0x1200;
export const EDMA_MAX_CHANNELS = 8;
/** unrolled map: context of a channel */
export const contextOffset = (isWrite: boolean, index: number): number => (isWrite ? 0x200 : 0x300) + 0x200 * index;

// --- control bits: CH_CONTROL1 and the first word of an element ---
export const CTL_CB = 1 << 0;
export const CTL_TCB = 1 << 1;
export const CTL_LLP = 1 << 2;
export const CTL_LIE = 1 << 3;
export const CTL_RIE = 1 << 4;
export const CTL_CS_SHIFT = 5;
export const CTL_CS_MASK = 3 << 5;
export const CTL_CCS = 1 << 8;
export const CTL_LLE = 1 << 9;
/** channel status in CH_CONTROL1 [6:5] */
export const CS_RESET = 0;
export const CS_RUNNING = 1;
export const CS_HALTED = 2;
export const CS_STOPPED = 3;

export const DOORBELL_STOP = 0x80000000 | 0;
/** interrupt registers: done of channel n is bit n, abort is bit 16 + n */
export const INT_ABORT_SHIFT = 16;
export const INT_ALL = 0x00ff00ff;
export const LL_ERR_LOCAL_SHIFT = 16;

// --- linked-list elements: 6 int32 words; a link uses the first 4 ---
export const LL_BYTES = 24;
export const LL_WORDS = 6;
export const LL_CTL = 0;
export const LL_SIZE = 1;
export const LL_SAR_LO = 2;
export const LL_SAR_HI = 3;
export const LL_DAR_LO = 4;
export const LL_DAR_HI = 5;
export const LINK_PTR_LO = 2;
export const LINK_PTR_HI = 3;

// --- causes of an abort, folded from the error status registers of one channel (DmaChannel.lastError) ---
export const CAUSE_LOCAL = 1 << 0;
export const CAUSE_LL_FETCH = 1 << 1;
export const CAUSE_UR = 1 << 2;
export const CAUSE_CA = 1 << 3;
export const CAUSE_TIMEOUT = 1 << 4;
export const CAUSE_POISONED = 1 << 5;
/** halted, but no error status bit was set for the channel */
export const CAUSE_UNKNOWN = 1 << 6;
/** LLP stopped outside the list */
export const CAUSE_POSITION = 1 << 7;
/** registers read all ones: the block lost clock or power */
export const CAUSE_GONE = 1 << 8;

const CAUSE_TEXT = [
  "local (AXI) error",
  "linked-list fetch error",
  "unsupported request",
  "completer abort",
  "completion timeout",
  "poisoned data",
  "halted without a cause",
  "LLP outside the list",
  "registers read all ones",
] as const;

/** `lastError` in words, for the log. */
export function causeText(causes: number): string {
  const words = CAUSE_TEXT.filter((_, bit) => causes & (1 << bit));
  return words.length ? words.join(", ") : "no error";
}
