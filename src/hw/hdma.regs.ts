/**
 * DesignWare HDMA native (v0): register table of one channel, for recognition and dumps. Data only; no driver yet.
 * Write channel n is at 0x200 * n, read channel n at 0x200 * n + 0x100. Facts: dw-hardware.md 7.
 */
import { offsets, type RegTable } from "./reg-table.ts";

export const HDMA_CHANNEL = [
  ["HD_EN", 0x00, "RW", "channel enable", "ENABLE 0"],
  ["HD_DOORBELL", 0x04, "WO", "doorbell", "START 0"],
  ["HD_PREFETCH", 0x08, "RW", "element prefetch"],
  ["HD_HANDSHAKE", 0x0c, "RW", "handshake"],
  ["HD_LLP_LO", 0x10, "RW", "linked-list pointer, low"],
  ["HD_LLP_HI", 0x14, "RW", "linked-list pointer, high"],
  ["HD_CYCLE", 0x18, "RW", "cycle synchronisation", "STATE 1, BIT 0"],
  ["HD_SIZE", 0x1c, "RW", "transfer size in bytes"],
  ["HD_SAR_LO", 0x20, "RW", "source address, low"],
  ["HD_SAR_HI", 0x24, "RW", "source address, high"],
  ["HD_DAR_LO", 0x28, "RW", "destination address, low"],
  ["HD_DAR_HI", 0x2c, "RW", "destination address, high"],
  ["HD_WATERMARK", 0x30, "RW", "watermark enable"],
  ["HD_CONTROL1", 0x34, "RW", "control 1", "LLE 0"],
  ["HD_FUNC", 0x38, "RW", "function number"],
  ["HD_QOS", 0x3c, "RW", "quality of service"],
  ["HD_STATUS", 0x80, "RO", "channel status", "CS 1:0"],
  ["HD_INT_STATUS", 0x84, "RO", "interrupt status", "ABORT 2, WATERMARK 1, STOP 0"],
  [
    "HD_INT_SETUP",
    0x88,
    "RW",
    "interrupt set-up",
    "LOCAL_ABORT_EN 6, REMOTE_ABORT_EN 5, LOCAL_STOP_EN 4, REMOTE_STOP_EN 3, ABORT_MASK 2, WATERMARK_MASK 1, STOP_MASK 0",
  ],
  ["HD_INT_CLEAR", 0x8c, "WO", "interrupt clear"],
  ["HD_MSI_STOP_LO", 0x90, "RW", "stop message address, low"],
  ["HD_MSI_STOP_HI", 0x94, "RW", "stop message address, high"],
  ["HD_MSI_WATERMARK_LO", 0x98, "RW", "watermark message address, low"],
  ["HD_MSI_WATERMARK_HI", 0x9c, "RW", "watermark message address, high"],
  ["HD_MSI_ABORT_LO", 0xa0, "RW", "abort message address, low"],
  ["HD_MSI_ABORT_HI", 0xa4, "RW", "abort message address, high"],
  ["HD_MSI_DATA", 0xa8, "RW", "message data"],
] as const satisfies RegTable;

export const HDMA_CH = offsets(HDMA_CHANNEL);
export const hdmaChannelOffset = (isWrite: boolean, index: number): number => 0x200 * index + (isWrite ? 0 : 0x100);
export const HDMA_SIZE = 0x1000;
