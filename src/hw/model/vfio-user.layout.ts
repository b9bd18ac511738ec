/**
 * Constants and offsets of the vfio-user protocol (libvfio-user specification 0.x as spoken by QEMU 11.1) and of the
 * vfio structures it carries (linux/vfio.h). Data only; everything is little endian.
 */

// --- message header, 16 bytes ---
export const HDR_ID = 0;
export const HDR_COMMAND = 2;
export const HDR_SIZE = 4;
export const HDR_FLAGS = 8;
export const HDR_ERROR = 12;
export const HDR_BYTES = 16;
export const FLAG_TYPE_MASK = 0xf;
export const FLAG_REPLY = 1;
export const FLAG_NO_REPLY = 0x10;
export const FLAG_ERROR = 0x20;

// --- commands ---
export const CMD_VERSION = 1;
export const CMD_DMA_MAP = 2;
export const CMD_DMA_UNMAP = 3;
export const CMD_GET_INFO = 4;
export const CMD_REGION_INFO = 5;
export const CMD_REGION_IO_FDS = 6;
export const CMD_IRQ_INFO = 7;
export const CMD_SET_IRQS = 8;
export const CMD_READ = 9;
export const CMD_WRITE = 10;
export const CMD_RESET = 13;

/** Names for messages to people. */
export const COMMAND_NAMES: Readonly<Record<number, string>> = {
  [CMD_VERSION]: "VERSION",
  [CMD_DMA_MAP]: "DMA_MAP",
  [CMD_DMA_UNMAP]: "DMA_UNMAP",
  [CMD_GET_INFO]: "DEVICE_GET_INFO",
  [CMD_REGION_INFO]: "DEVICE_GET_REGION_INFO",
  [CMD_REGION_IO_FDS]: "DEVICE_GET_REGION_IO_FDS",
  [CMD_IRQ_INFO]: "DEVICE_GET_IRQ_INFO",
  [CMD_SET_IRQS]: "DEVICE_SET_IRQS",
  [CMD_READ]: "REGION_READ",
  [CMD_WRITE]: "REGION_WRITE",
  [CMD_RESET]: "DEVICE_RESET",
};

/** Smallest body of each command in bytes, without the header; an absent command is not supported. */
export const MIN_BODY: Readonly<Record<number, number>> = {
  [CMD_VERSION]: 4,
  [CMD_DMA_MAP]: 32,
  [CMD_DMA_UNMAP]: 24,
  [CMD_GET_INFO]: 16,
  [CMD_REGION_INFO]: 32,
  [CMD_IRQ_INFO]: 16,
  [CMD_SET_IRQS]: 20,
  [CMD_READ]: 16,
  [CMD_WRITE]: 16,
  [CMD_RESET]: 0,
};

// --- DMA_MAP body ---
export const MAP_FLAGS = 4;
export const MAP_FD_OFFSET = 8;
export const MAP_IOVA = 16;
export const MAP_SIZE = 24;
// --- DMA_UNMAP body ---
export const UNMAP_FLAGS = 4;
export const UNMAP_IOVA = 8;
export const UNMAP_SIZE = 16;
export const UNMAP_FLAG_ALL = 2;

// --- DEVICE_INFO body ---
export const INFO_BYTES = 16;
export const INFO_FLAG_RESET = 1;
export const INFO_FLAG_PCI = 2;

// --- REGION_INFO body ---
export const REGION_BYTES = 32;
export const REGION_FLAGS = 4;
export const REGION_INDEX = 8;
export const REGION_SIZE = 16;
export const REGION_OFFSET = 24;
export const REGION_FLAG_READ = 1;
export const REGION_FLAG_WRITE = 2;
export const REGION_FLAG_MMAP = 4;
/** regions 0..5 are the BARs */
export const REGION_CONFIG = 7;
export const REGION_COUNT = 9;

// --- IRQ_INFO body ---
export const IRQ_INFO_BYTES = 16;
export const IRQ_FLAGS = 4;
export const IRQ_INDEX = 8;
export const IRQ_COUNT = 12;
export const IRQ_FLAG_EVENTFD = 1;
export const IRQ_FLAG_MASKABLE = 2;
export const IRQ_FLAG_AUTOMASKED = 4;
export const IRQ_INTX = 0;
export const IRQ_MSI = 1;
export const IRQ_MSIX = 2;
export const IRQ_KINDS = 5;

// --- SET_IRQS body ---
export const SET_FLAGS = 4;
export const SET_INDEX = 8;
export const SET_START = 12;
export const SET_COUNT = 16;
export const SET_DATA_NONE = 1;
export const SET_DATA_BOOL = 2;
export const SET_DATA_EVENTFD = 4;
export const SET_ACTION_MASK = 8;
export const SET_ACTION_UNMASK = 0x10;
export const SET_ACTION_TRIGGER = 0x20;

// --- REGION_READ / REGION_WRITE body ---
export const RW_OFFSET = 0;
export const RW_REGION = 8;
export const RW_COUNT = 12;
export const RW_DATA = 16;

/** Largest body we take: the data limit we announce and room for the fixed part. */
export const MAX_TRANSFER = 1 << 20;
/** File descriptors a message may carry. */
export const MAX_FDS = 8;

/** Our side of the negotiation; QEMU reads it into its request's buffer, so it stays below 194 bytes. */
export const CAPABILITIES = `{"capabilities":{"max_msg_fds":${MAX_FDS},"max_data_xfer_size":${MAX_TRANSFER},"pgsizes":4096,"write_multiple":false}}`;
