/** Config space offsets and bits (PCI Local Bus 3.0 chapter 6, PCIe 7.5), data only. Byte offsets. */
export const PCI_VENDOR_ID = 0x00;
export const PCI_DEVICE_ID = 0x02;
export const PCI_COMMAND = 0x04;
export const PCI_STATUS = 0x06;
export const PCI_REVISION = 0x08;
export const PCI_CLASS = 0x09;
export const PCI_BAR0 = 0x10;
export const PCI_SUBSYSTEM_VENDOR = 0x2c;
export const PCI_SUBSYSTEM_ID = 0x2e;
export const PCI_CAP_POINTER = 0x34;
export const PCI_INTERRUPT_LINE = 0x3c;
export const PCI_INTERRUPT_PIN = 0x3d;

export const COMMAND_MEMORY = 1 << 1;
export const COMMAND_MASTER = 1 << 2;
export const COMMAND_INTX_DISABLE = 1 << 10;

export const CAP_ID_PM = 0x01;
export const CAP_ID_MSI = 0x05;
export const CAP_ID_VENDOR = 0x09;
export const CAP_ID_EXP = 0x10;
export const CAP_ID_MSIX = 0x11;

/** MSI-X message control, capability + 2 */
export const MSIX_CTL_ENABLE = 0x8000;
export const MSIX_CTL_FUNCTION_MASK = 0x4000;
/** MSI-X table entry: 16 bytes (PCIe 7.7.2) */
export const MSIX_ENTRY_SIZE = 16;
export const MSIX_ENTRY_ADDR_LO = 0;
export const MSIX_ENTRY_ADDR_HI = 4;
export const MSIX_ENTRY_DATA = 8;
export const MSIX_ENTRY_CTRL = 12;
export const MSIX_ENTRY_MASKED = 1;

export const CLASS_NETWORK_ETHERNET = 0x020000;
