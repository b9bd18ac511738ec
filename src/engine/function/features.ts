/**
 * Feature words. The modern function answers every feature select with the same 32-bit word, because a BAR in plain
 * memory cannot follow driver-paced selects (docs/function.md): bit b stands for features b, b+32, b+64 and b+96 at once.
 * The legacy function has one word and no select, so there nothing is ambiguous. Sets: measured with Linux 6.1, 6.12, 7.3.
 */
import { Fault } from "../../hw/fault.ts";
import {
  F_ANY_LAYOUT,
  F_CSUM,
  F_EVENT_IDX,
  F_GUEST_CSUM,
  F_GUEST_TSO4,
  F_GUEST_TSO6,
  F_HOST_TSO4,
  F_HOST_TSO6,
  F_INDIRECT_DESC,
  F_MAC,
  F_MRG_RXBUF,
  F_MTU,
  F_STATUS,
} from "../../hw/virtio.layout.ts";

/** bit 4: no net feature, stands for ORDER_PLATFORM (36) */
const B_ORDER_PLATFORM = 4;
/** bit 6: GSO, never taken by a modern driver, stands for NOTIFICATION_DATA (38) */
const B_NOTIFICATION_DATA = 6;

const wordOf = (...bits: number[]): number => bits.reduce((w, b) => w | (1 << b), 0);

const SAFE = wordOf(F_CSUM, F_MAC, F_HOST_TSO4, F_HOST_TSO6, F_MRG_RXBUF, F_STATUS);
/**
 * GUEST_CSUM brings ACCESS_PLATFORM (33), bit 4 ORDER_PLATFORM (36): hosts with an IOMMU and weakly ordered hosts work. With
 * NOTIFICATION_DATA the host tells its avail index (host-notices.ts).
 */
const MODERN_DEFAULT = SAFE | wordOf(F_GUEST_CSUM, B_ORDER_PLATFORM, F_GUEST_TSO4, B_NOTIFICATION_DATA);
// GUEST_TSO6 (8) stands for RING_RESET (40): served, but not yet tried with a stock kernel, so only by number.
const MODERN_WIDE = MODERN_DEFAULT | wordOf(F_MTU, F_EVENT_IDX);
/** 6.3: a transitional device must offer ANY_LAYOUT; with it Linux puts the header in front of a frame, into one descriptor */
const LEGACY_SAFE = SAFE | wordOf(F_ANY_LAYOUT);
const LEGACY_DEFAULT = LEGACY_SAFE | wordOf(F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6);
const LEGACY_WIDE = LEGACY_DEFAULT | wordOf(F_MTU, F_INDIRECT_DESC, F_EVENT_IDX);

export const FEATURE_SETS: Readonly<Record<string, { modern: number; legacy: number }>> = {
  safe: { modern: SAFE, legacy: LEGACY_SAFE },
  default: { modern: MODERN_DEFAULT, legacy: LEGACY_DEFAULT },
  wide: { modern: MODERN_WIDE, legacy: LEGACY_WIDE },
};

/** Bits of the modern word that break a stock driver or ask for what epnic does not have. */
const MODERN_BAD: Readonly<Record<number, string>> = {
  2: "it stands for RING_PACKED (34) too, and a packed ring would be used",
  9: "it stands for ADMIN_VQ (41) too, and the driver's queue search fails without an admin queue",
  17: "epnic has no control queue",
  18: "it stands for CTRL_RX, which needs a control queue",
  19: "it stands for CTRL_VLAN, which needs a control queue",
  20: "it stands for VQ_NOTF_COAL (52) too, which needs a control queue",
  21: "it stands for GUEST_ANNOUNCE and NOTF_COAL (53), which need a control queue",
  22: "it stands for MQ, which needs a control queue",
  23: "it stands for CTRL_MAC_ADDR, which needs a control queue",
  25: "it stands for HASH_REPORT (57) too, which needs a control queue",
  28: "it stands for RSS (60) too, which needs a control queue: Linux fails the probe with -22",
  30: "it stands for STANDBY (62) too, and the host would wait for a second device",
};
const LEGACY_BAD: Readonly<Record<number, string>> = {
  2: "CTRL_GUEST_OFFLOADS needs a control queue, which epnic does not have",
  17: "epnic has no control queue",
  18: "CTRL_RX needs a control queue",
  19: "CTRL_VLAN needs a control queue",
  20: "CTRL_RX_EXTRA needs a control queue",
  21: "GUEST_ANNOUNCE needs a control queue",
  22: "MQ needs a control queue",
  23: "CTRL_MAC_ADDR needs a control queue",
};

/** a feature bit and the bit it may not be offered without (VIRTIO 1.2 5.1.3.1) */
const NEEDS: readonly (readonly [number, number])[] = [
  [F_GUEST_TSO4, F_GUEST_CSUM],
  [F_GUEST_TSO6, F_GUEST_CSUM],
  [9, F_GUEST_CSUM],
  [10, F_GUEST_CSUM],
  [F_HOST_TSO4, F_CSUM],
  [F_HOST_TSO6, F_CSUM],
  [13, F_CSUM],
  [14, F_CSUM],
];

/** a feature bit and two of which it needs at least one (5.1.3.1: ECN needs a TSO of its direction, RSC_EXT a HOST_TSO) */
const NEEDS_ONE: readonly (readonly [number, number, number])[] = [
  [9, F_GUEST_TSO4, F_GUEST_TSO6],
  [13, F_HOST_TSO4, F_HOST_TSO6],
];
/** bit 29 of a modern word stands for RSC_EXT (61) besides EVENT_IDX */
const NEEDS_ONE_MODERN: readonly [number, number, number] = [F_EVENT_IDX, F_HOST_TSO4, F_HOST_TSO6];

/**
 * The feature word to offer.
 * @param spec "default", "safe", "wide", or a number in hex of up to 64 bits. For the modern function both halves of the
 *   number fold into the one word that every select shows; the legacy function has the lower half only.
 * @returns int32
 * @throws Fault E_CONFIG with the bit and the reason
 */
export function featureWord(spec: string, personality: "modern" | "legacy"): number {
  const set = FEATURE_SETS[spec.toLowerCase()];
  if (set !== undefined) return set[personality];
  const hex = /^0x([0-9a-f]{1,16})$/i.exec(spec)?.[1]?.padStart(16, "0");
  if (hex === undefined)
    throw new Fault("E_CONFIG", `features is "${spec}"`, `use ${Object.keys(FEATURE_SETS).join(", ")} or a hex number`);
  const lo = Number.parseInt(hex.slice(8), 16) | 0;
  const hi = Number.parseInt(hex.slice(0, 8), 16) | 0;
  const word = personality === "modern" ? lo | hi : lo;
  checkWord(word, personality);
  return word;
}

/** @throws Fault E_CONFIG when a stock driver cannot bind to this word */
export function checkWord(word: number, personality: "modern" | "legacy"): void {
  const at = `feature word 0x${(word >>> 0).toString(16)}`;
  const bad = personality === "modern" ? MODERN_BAD : LEGACY_BAD;
  for (let b = 0; b < 32; b++) {
    if (((word >>> b) & 1) === 1 && bad[b] !== undefined)
      throw new Fault("E_CONFIG", `${at} has bit ${b}: ${bad[b]}`, `clear bit ${b} (${personality} function)`);
  }
  if (personality === "modern" && (word & 1) === 0)
    throw new Fault("E_CONFIG", `${at} lacks bit 0, which stands for VERSION_1 (32)`, "set bit 0");
  for (const [bit, needs] of NEEDS) {
    if (((word >>> bit) & 1) === 1 && ((word >>> needs) & 1) === 0)
      throw new Fault("E_CONFIG", `${at} has bit ${bit} without bit ${needs}`, `set bit ${needs} or clear bit ${bit}`);
  }
  for (const [bit, one, other] of personality === "modern" ? [...NEEDS_ONE, NEEDS_ONE_MODERN] : NEEDS_ONE) {
    if (((word >>> bit) & 1) === 1 && (((word >>> one) | (word >>> other)) & 1) === 0)
      throw new Fault(
        "E_CONFIG",
        `${at} has bit ${bit} without bit ${one} or ${other}`,
        `set one of them or clear bit ${bit}`,
      );
  }
}

/** Bits of the low word that no modern driver takes: ORDER_PLATFORM's and NOTIFICATION_DATA's shadows. */
const NEVER_TAKEN_LOW = (1 << B_ORDER_PLATFORM) | (1 << B_NOTIFICATION_DATA);
/** High-word bits that every kernel with the four-word loop takes when offered: 32, 33, 36, 38, 40. */
const TAKEN_HIGH = wordOf(F_CSUM, F_GUEST_CSUM, B_ORDER_PLATFORM, B_NOTIFICATION_DATA, F_GUEST_TSO6);
/** no driver of a modern function may leave VERSION_1 out */
const VERSION_1_HIGH = 1;

/** What a modern driver is taken to have accepted. */
export interface Accepted {
  lo: number;
  hi: number;
  hdrLen: number;
  inOrder: boolean;
  /** "" or the broken rule */
  refusal: string;
}

/**
 * Judge what rests in driver_feature_select and driver_feature at DRIVER_OK. Only the last pair written survives: a
 * kernel of two words rests at select 1 (the high word is then exact), one of four at select 3 (the high word is
 * then what such kernels take). A driver that writes the low word last rests at 0 (the low word is exact).
 * Header: 24 bytes when UDP tunnel offloads (65 from bit 1, 67 from bit 3) were in reach of the driver, else 12.
 */
export function acceptedModern(word: number, select: number, resting: number): Accepted {
  const four = select >= 3;
  const a: Accepted = { lo: word & ~NEVER_TAKEN_LOW, hi: word & TAKEN_HIGH, hdrLen: 12, inOrder: false, refusal: "" };
  if (select === 1) {
    a.hi = resting & word;
    if ((resting & ~word) !== 0)
      a.refusal = `the driver accepted features 32..63 = 0x${hex(resting)}, 0x${hex(word)} were offered`;
    else if ((resting & VERSION_1_HIGH) === 0)
      a.refusal = `the driver did not accept VERSION_1 (features 32..63 = 0x${hex(resting)}), it is not a virtio 1.x driver`;
  } else if (select === 0) {
    a.lo = resting & word;
    if ((resting & ~word) !== 0)
      a.refusal = `the driver accepted features 0..31 = 0x${hex(resting)}, 0x${hex(word)} were offered`;
  }
  if (four && (word & wordOf(F_GUEST_CSUM, F_MTU)) !== 0) a.hdrLen = 24;
  // IN_ORDER is 35, the shadow of MTU; which four-word kernels take it is not known exactly, so it is always kept.
  a.inOrder = (word & (1 << F_MTU)) !== 0;
  return a;
}

/** Legacy: the accepted word stays readable. @returns header length in bytes */
export function legacyHeader(accepted: number): number {
  return (accepted & (1 << F_MRG_RXBUF)) !== 0 ? 12 : 10;
}

const hex = (v: number): string => (v >>> 0).toString(16);
