/**
 * Reset contents of the model core's config space and who may write which bits, one line a 32-bit word: typical
 * positions of a DesignWare endpoint (dw-hardware.md 11). Data only.
 */

/** offset, reset value, bits the host (and DBI) may write, bits DBI may write with RO_WR_EN, write-1-to-clear bits */
export type ConfigWord = readonly [off: number, reset: number, host: number, ro: number, w1c: number];

export const PM_CAP = 0x40;
export const MSI_CAP = 0x50;
export const EXP_CAP = 0x70;
export const MSIX_CAP = 0xb0;

/** Device Control (PCIe 7.5.3.4) and its function level reset bit */
export const DEVCTL = EXP_CAP + 0x08;
export const DEVCTL_FLR = 0x8000;
export const LNKCAP = EXP_CAP + 0x0c;
/** Link Control (PCIe 7.5.3.7) and its read completion boundary: 0 is 64 bytes, 1 is 128 */
export const LNKCTL = EXP_CAP + 0x10;
export const LNKCTL_RCB = 0x8;
export const MSIX_CTL_WORD = MSIX_CAP;

export interface ConfigChoice {
  readonly msi: boolean;
  readonly msix: boolean;
  readonly linkGen: number;
  readonly linkWidth: number;
  /** Max_Payload_Size and Max_Read_Request_Size after a reset, bytes: a power of two 128 to 4096 */
  readonly mps: number;
  readonly mrrs: number;
}

export function configWords(c: ConfigChoice): ConfigWord[] {
  const link = c.linkGen | (c.linkWidth << 4);
  const devctl = 0x0810 | (Math.log2(c.mps / 128) << 5) | (Math.log2(c.mrrs / 128) << 12);
  const words: ConfigWord[] = [
    // Synopsys' default ids; revision 1, so a driver that forgets to set it shows
    [0x00, 0xabcd16c3, 0, 0xffffffff, 0],
    [0x04, 0x00100000, 0x00000547, 0, 0xf9000000],
    [0x08, 0x00000001, 0, 0xffffffff, 0],
    [0x0c, 0, 0x000000ff, 0x00800000, 0],
    [0x28, 0, 0, 0xffffffff, 0],
    [0x2c, 0, 0, 0xffffffff, 0],
    [0x34, PM_CAP, 0, 0xff, 0],
    [0x3c, 0x000001ff, 0x000000ff, 0xffff_ff00, 0],
    // power management 7.5.2: PMC, PMCSR
    [PM_CAP, 0x01c30001 | ((c.msi ? MSI_CAP : EXP_CAP) << 8), 0, 0xffffff00, 0],
    [PM_CAP + 4, 0x8, 0x00000103, 0x8, 0x8000],
    // PCI Express 7.5.3, version 2, endpoint
    [EXP_CAP, 0x00020010 | ((c.msix ? MSIX_CAP : 0) << 8), 0, 0xffffff00, 0],
    [EXP_CAP + 0x04, 0x10008021, 0, 0xffffffff, 0],
    [DEVCTL, devctl, 0x00007fff, 0, 0x000f0000],
    [LNKCAP, 0x00400c00 | link, 0, 0xffffffff, 0],
    [LNKCTL, (0x1000 | link) << 16, 0x00000fff, 0, 0xc0000000],
    [EXP_CAP + 0x24, 0x0000001f, 0, 0xffffffff, 0],
    [EXP_CAP + 0x28, 0, 0x0000ffff, 0, 0],
    [EXP_CAP + 0x2c, ((1 << c.linkGen) - 1) << 1, 0, 0xffffffff, 0],
    [EXP_CAP + 0x30, c.linkGen, 0x0000ffff, 0, 0],
    // advanced error reporting, then secondary PCI Express
    [0x100, 0x14820001, 0, 0xfff00000, 0],
    [0x104, 0, 0, 0, 0x0fffffff],
    [0x108, 0, 0x0fffffff, 0, 0],
    [0x10c, 0x00462030, 0x0fffffff, 0, 0],
    [0x110, 0, 0, 0, 0x0000ffff],
    [0x114, 0x00006000, 0x0000ffff, 0, 0],
    [0x118, 0x000000a0, 0x00000140, 0, 0],
    [0x148, 0x00010019, 0, 0xfff00000, 0],
  ];
  if (c.msi)
    words.push(
      // 64-bit, up to 32 messages, no per-vector mask
      [MSI_CAP, 0x008a0005 | (EXP_CAP << 8), 0x00710000, 0x018eff00, 0],
      [MSI_CAP + 0x4, 0, 0xfffffffc, 0, 0],
      [MSI_CAP + 0x8, 0, 0xffffffff, 0, 0],
      [MSI_CAP + 0xc, 0, 0x0000ffff, 0, 0],
    );
  if (c.msix)
    words.push(
      [MSIX_CAP, 0x00070011, 0xc0000000, 0x07ffff00, 0],
      [MSIX_CAP + 0x4, 0, 0, 0xffffffff, 0],
      [MSIX_CAP + 0x8, 0x800, 0, 0xffffffff, 0],
    );
  return words;
}
