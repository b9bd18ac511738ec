/**
 * The VDUSE user ABI (linux/vduse.h, API version 0) and what of generic netlink is needed to add and delete a vdpa
 * device (linux/vdpa.h, linux/genetlink.h). Data only; sizes and codes are the same on x86-64 and arm64.
 */

// --- ioctls of /dev/vduse/control ---
export const VDUSE_SET_API_VERSION = 0x40088101;
export const VDUSE_CREATE_DEV = 0x41508102;
export const VDUSE_DESTROY_DEV = 0x41008103;

// --- ioctls of /dev/vduse/NAME ---
export const VDUSE_IOTLB_GET_FD = 0xc0208110;
export const VDUSE_DEV_GET_FEATURES = 0x80088111;
export const VDUSE_DEV_SET_CONFIG = 0x40088112;
export const VDUSE_DEV_INJECT_CONFIG_IRQ = 0x8113;
export const VDUSE_VQ_SETUP = 0x40208114;
export const VDUSE_VQ_GET_INFO = 0xc0308115;
export const VDUSE_VQ_SETUP_KICKFD = 0x40088116;
export const VDUSE_VQ_INJECT_IRQ = 0x40048117;

/** struct vduse_dev_config: fixed part, then the device's config space */
export const DEV_CONFIG = {
  NAME: 0,
  NAME_BYTES: 256,
  VENDOR_ID: 256,
  DEVICE_ID: 260,
  FEATURES_LO: 264,
  FEATURES_HI: 268,
  VQ_NUM: 272,
  VQ_ALIGN: 276,
  CONFIG_SIZE: 332,
  CONFIG: 336,
} as const;

/** struct virtio_net_config (VIRTIO 1.2 5.1.4) as far as it is offered */
export const NET_CONFIG = { MAC: 0, STATUS: 6, MAX_PAIRS: 8, MTU: 10, BYTES: 24 } as const;
export const NET_S_LINK_UP = 1;

/** struct vduse_vq_config: index u32, max_size u16 */
export const VQ_CONFIG = { INDEX: 0, MAX_SIZE: 4, BYTES: 32 } as const;
/** struct vduse_vq_info */
export const VQ_INFO = { INDEX: 0, NUM: 4, DESC: 8, DRIVER: 16, DEVICE: 24, READY: 40, BYTES: 48 } as const;
/** struct vduse_vq_eventfd: index u32, fd i32 */
export const VQ_EVENTFD_BYTES = 8;
/** struct vduse_iotlb_entry */
export const IOTLB_ENTRY = { OFFSET: 0, START: 8, LAST: 16, PERM: 24, BYTES: 32 } as const;
export const IOTLB_READ = 1;
export const IOTLB_WRITE = 2;
/** struct vduse_config_data: offset u32, length u32, bytes */
export const CONFIG_DATA = { OFFSET: 0, LENGTH: 4, BYTES: 8 } as const;

/** struct vduse_dev_request, what read() gives */
export const REQUEST = { TYPE: 0, ID: 4, VQ: 24, STATUS: 24, BYTES: 152 } as const;
/** struct vduse_dev_response, what write() takes */
export const RESPONSE = { ID: 0, RESULT: 4, VQ: 24, AVAIL_INDEX: 28, BYTES: 152 } as const;
export const REQ_GET_VQ_STATE = 0;
export const REQ_SET_STATUS = 1;
export const REQ_UPDATE_IOTLB = 2;

// --- generic netlink ---
export const NETLINK_GENERIC = 16;
export const NLM_F_REQUEST = 1;
export const NLM_F_ACK = 4;
export const NLMSG_ERROR = 2;
export const GENL_ID_CTRL = 16;
export const CTRL_CMD_GETFAMILY = 3;
export const CTRL_ATTR_FAMILY_ID = 1;
export const CTRL_ATTR_FAMILY_NAME = 2;
export const VDPA_CMD_DEV_NEW = 3;
export const VDPA_CMD_DEV_DEL = 4;
export const VDPA_ATTR_MGMTDEV_DEV_NAME = 2;
export const VDPA_ATTR_DEV_NAME = 4;
