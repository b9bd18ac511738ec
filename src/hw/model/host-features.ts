/**
 * What a stock Linux virtio_net takes of an offered feature set, by kernel generation, and the checks of its
 * virtnet_validate (drivers/net/virtio_net.c) and vring_transport_features. Sets are four 32-bit words.
 */
import {
  F_ACCESS_PLATFORM,
  F_ANY_LAYOUT,
  F_CTRL_VQ,
  F_EVENT_IDX,
  F_GUEST_TSO4,
  F_GUEST_TSO6,
  F_IN_ORDER,
  F_INDIRECT_DESC,
  F_MQ,
  F_MRG_RXBUF,
  F_MTU,
  F_NOTIFICATION_DATA,
  F_ORDER_PLATFORM,
  F_RING_PACKED,
  F_RING_RESET,
  F_VERSION_1,
} from "../virtio.layout.ts";

/** 128 feature bits; bit b is bit b % 32 of word b / 32. */
export type FeatureWords = Uint32Array;

/** Generations with different behaviour towards a card; named by a release of each that was observed. */
export type HostKernel = "6.1" | "6.12" | "7.3";

export const F_GUEST_ECN_BIT = 9;
const F_GUEST_UFO_BIT = 10;
export const F_ADMIN_VQ = 41;
export const F_GUEST_UDP_TUNNEL_GSO = 65;
export const F_HOST_UDP_TUNNEL_GSO = 67;

/** bits that are meaningless, and refused, without the control queue */
const NEEDS_CTRL_VQ = [18, 19, 21, F_MQ, 23, 52, 53, 57, 60] as const;

const NET_COMMON = [0, 1, 2, F_MTU, 5, 7, 8, 9, 10, 11, 12, 13, 14, F_MRG_RXBUF, 16, F_CTRL_VQ, 18, 19, 21, 22, 23];
/** in the net driver's modern table, above word 0 */
const NET_HIGH = [52, 53, 57, 60, 62, 63];
/** taken by the ring and PCI layers */
const TRANSPORT = [F_INDIRECT_DESC, F_EVENT_IDX, F_VERSION_1, F_ACCESS_PLATFORM, F_RING_PACKED, F_ORDER_PLATFORM];

export function words(): FeatureWords {
  return new Uint32Array(4);
}

export function hasBit(w: FeatureWords, bit: number): boolean {
  return ((w[bit >>> 5] >>> (bit & 31)) & 1) === 1;
}

export function setBit(w: FeatureWords, bit: number): void {
  w[bit >>> 5] |= 1 << (bit & 31);
}

export function clearBit(w: FeatureWords, bit: number): void {
  w[bit >>> 5] &= ~(1 << (bit & 31));
}

/** Set bits in ascending order, for people and tests. */
export function bitsOf(w: FeatureWords): number[] {
  const bits: number[] = [];
  for (let bit = 0; bit < 128; bit++) if (hasBit(w, bit)) bits.push(bit);
  return bits;
}

/** Words (of 32 bits) that this kernel selects and reads; the four-word loop came with 6.17. */
export function featureWordCount(kernel: HostKernel): 2 | 4 {
  return kernel === "7.3" ? 4 : 2;
}

/** The bits this kernel's driver takes when they are offered to a function of that personality. */
export function driverTable(kernel: HostKernel, modern: boolean): FeatureWords {
  const w = words();
  for (const bit of NET_COMMON) setBit(w, bit);
  if (!modern) {
    for (const bit of [6, F_ANY_LAYOUT, F_INDIRECT_DESC, F_EVENT_IDX]) setBit(w, bit);
    return w;
  }
  for (const bit of NET_HIGH) setBit(w, bit);
  for (const bit of TRANSPORT) setBit(w, bit);
  setBit(w, F_RING_RESET);
  if (kernel !== "6.1") {
    for (const bit of [F_NOTIFICATION_DATA, 54, 55, 56]) setBit(w, bit);
  }
  if (kernel === "7.3") {
    for (const bit of [F_IN_ORDER, F_ADMIN_VQ, 59, F_GUEST_UDP_TUNNEL_GSO, 66, F_HOST_UDP_TUNNEL_GSO, 68])
      setBit(w, bit);
  }
  return w;
}

/**
 * Bits of the accepted set that virtnet_validate refuses: control-queue features without the control queue.
 * @returns the first such bit, or -1
 */
export function refusedBit(accepted: FeatureWords): number {
  if (hasBit(accepted, F_CTRL_VQ)) return -1;
  for (const bit of NEEDS_CTRL_VQ) if (hasBit(accepted, bit)) return bit;
  return -1;
}

/** Bytes of the net header that the driver uses with this accepted set (VIRTIO 1.2 5.1.6, tunnels of 7.x). */
export function headerLength(accepted: FeatureWords): number {
  if (hasBit(accepted, F_GUEST_UDP_TUNNEL_GSO) || hasBit(accepted, F_HOST_UDP_TUNNEL_GSO)) return 24;
  if (hasBit(accepted, F_VERSION_1) || hasBit(accepted, F_MRG_RXBUF)) return 12;
  return 10;
}

/** The driver must be ready for frames above the MTU (check_mergeable / big packets in virtio_net). */
export function wantsBigBuffers(accepted: FeatureWords): boolean {
  for (const bit of [F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_ECN_BIT, F_GUEST_UFO_BIT])
    if (hasBit(accepted, bit)) return true;
  return false;
}
