/**
 * Layouts and constants of VIRTIO 1.2 that more than one room needs: feature bits, split ring (2.7), net header and
 * config (5.1), PCI transport (4.1). Data only.
 */

// --- feature bits: 5.1.3 (net), 6 (reserved) ---
export const F_CSUM = 0;
export const F_GUEST_CSUM = 1;
export const F_MTU = 3;
export const F_MAC = 5;
export const F_GUEST_TSO4 = 7;
export const F_GUEST_TSO6 = 8;
export const F_GUEST_ECN = 9;
export const F_GUEST_UFO = 10;
export const F_HOST_TSO4 = 11;
export const F_HOST_TSO6 = 12;
export const F_HOST_ECN = 13;
export const F_HOST_UFO = 14;
export const F_MRG_RXBUF = 15;
export const F_STATUS = 16;
export const F_CTRL_VQ = 17;
export const F_MQ = 22;
export const F_ANY_LAYOUT = 27;
export const F_INDIRECT_DESC = 28;
export const F_EVENT_IDX = 29;
export const F_VERSION_1 = 32;
export const F_ACCESS_PLATFORM = 33;
export const F_RING_PACKED = 34;
export const F_IN_ORDER = 35;
export const F_ORDER_PLATFORM = 36;
export const F_NOTIFICATION_DATA = 38;
export const F_RING_RESET = 40;

// --- device status: 2.1 ---
export const STATUS_ACKNOWLEDGE = 1;
export const STATUS_DRIVER = 2;
export const STATUS_DRIVER_OK = 4;
export const STATUS_FEATURES_OK = 8;
export const STATUS_NEEDS_RESET = 0x40;
export const STATUS_FAILED = 0x80;

// --- split ring: 2.7 ---
export const DESC_F_NEXT = 1;
export const DESC_F_WRITE = 2;
export const DESC_F_INDIRECT = 4;
export const AVAIL_F_NO_INTERRUPT = 1;
export const USED_F_NO_NOTIFY = 1;
/** bytes of one descriptor (2.7.5) */
export const DESC_SIZE = 16;
/** bytes of the available ring with used_event (2.7.6): flags, idx, ring[n], used_event */
export const availBytes = (n: number): number => 6 + 2 * n;
/** bytes of the used ring with avail_event (2.7.8): flags, idx, {id,len}[n], avail_event */
export const usedBytes = (n: number): number => 6 + 8 * n;

// --- net header: 5.1.6 ---
export const NET_HDR_F_NEEDS_CSUM = 1;
export const NET_HDR_F_DATA_VALID = 2;
export const NET_HDR_GSO_TYPE = 1;
export const NET_HDR_GSO_NONE = 0;
/** beside a type: the first segment has ECN set */
export const NET_HDR_GSO_ECN = 0x80;
export const NET_HDR_GSO_TCPV4 = 1;
export const NET_HDR_GSO_UDP = 3;
export const NET_HDR_GSO_TCPV6 = 4;
/** byte offset of num_buffers, present when the header is 12 bytes or longer */
export const NET_HDR_NUM_BUFFERS = 10;
/** largest frame with GSO, without the virtio-net header */
export const MAX_GSO_FRAME = 65550;

// --- net config space: 5.1.4 (byte offsets) ---
export const NET_CFG_MAC = 0;
export const NET_CFG_STATUS = 6;
export const NET_CFG_MAX_PAIRS = 8;
export const NET_CFG_MTU = 10;
export const NET_CFG_SPEED = 12;
export const NET_CFG_DUPLEX = 16;
export const NET_S_LINK_UP = 1;

// --- PCI transport, modern common config: 4.1.4.3 (byte offsets) ---
export const COMMON_DFSELECT = 0x00;
export const COMMON_DF = 0x04;
export const COMMON_GFSELECT = 0x08;
export const COMMON_GF = 0x0c;
export const COMMON_MSIX = 0x10;
export const COMMON_NUMQ = 0x12;
export const COMMON_STATUS = 0x14;
export const COMMON_CFGGENERATION = 0x15;
export const COMMON_Q_SELECT = 0x16;
export const COMMON_Q_SIZE = 0x18;
export const COMMON_Q_MSIX = 0x1a;
export const COMMON_Q_ENABLE = 0x1c;
export const COMMON_Q_NOFF = 0x1e;
export const COMMON_Q_DESCLO = 0x20;
export const COMMON_Q_DESCHI = 0x24;
export const COMMON_Q_AVAILLO = 0x28;
export const COMMON_Q_AVAILHI = 0x2c;
export const COMMON_Q_USEDLO = 0x30;
export const COMMON_Q_USEDHI = 0x34;
export const COMMON_Q_NDATA = 0x38;
export const COMMON_Q_RESET = 0x3a;
export const COMMON_LENGTH = 0x40;

// --- PCI transport, legacy block in BAR0: 4.1.4.10 (byte offsets) ---
export const LEGACY_HOST_FEATURES = 0x00;
export const LEGACY_GUEST_FEATURES = 0x04;
export const LEGACY_QUEUE_PFN = 0x08;
export const LEGACY_QUEUE_NUM = 0x0c;
export const LEGACY_QUEUE_SEL = 0x0e;
export const LEGACY_QUEUE_NOTIFY = 0x10;
export const LEGACY_STATUS = 0x12;
export const LEGACY_ISR = 0x13;
export const LEGACY_MSI_CONFIG_VECTOR = 0x14;
export const LEGACY_MSI_QUEUE_VECTOR = 0x16;
/** device config when MSI-X is disabled / enabled */
export const LEGACY_CONFIG_NO_MSIX = 0x14;
export const LEGACY_CONFIG_MSIX = 0x18;
export const LEGACY_PAGE = 4096;

/** "no vector" in every MSI-X vector register (4.1.5.1.2) */
export const NO_VECTOR = 0xffff;

// --- vendor capability types: 4.1.4 ---
export const CAP_COMMON_CFG = 1;
export const CAP_NOTIFY_CFG = 2;
export const CAP_ISR_CFG = 3;
export const CAP_DEVICE_CFG = 4;
export const CAP_PCI_CFG = 5;

// --- ids: 4.1.2 ---
export const VIRTIO_VENDOR = 0x1af4;
export const NET_DEVICE_MODERN = 0x1041;
export const NET_DEVICE_LEGACY = 0x1000;
export const VIRTIO_ID_NET = 1;
