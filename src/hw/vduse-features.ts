/**
 * Feature words of the board's netdev behind VDUSE: the host comes first, and what it took decides what the board's
 * driver is offered (VIRTIO 1.2 5.1.3).
 */
import type { PortFeatures } from "./net-port.ts";
import {
  F_ACCESS_PLATFORM,
  F_CSUM,
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
  F_VERSION_1,
} from "./virtio.layout.ts";

/** accepted bits that shape frames: a device made for others must be made again */
export const SHAPING =
  (1 << F_CSUM) |
  (1 << F_GUEST_CSUM) |
  (1 << F_GUEST_TSO4) |
  (1 << F_GUEST_TSO6) |
  (1 << F_HOST_TSO4) |
  (1 << F_HOST_TSO6);
const ALWAYS_LO = (1 << F_MAC) | (1 << F_STATUS) | (1 << F_MTU) | (1 << F_MRG_RXBUF) | (1 << F_INDIRECT_DESC);
/** high word of what is offered */
export const FEATURES_HI = (1 << (F_VERSION_1 - 32)) | (1 << (F_ACCESS_PLATFORM - 32));

/** What the board's driver may be offered so that a frame means the same on both sides. */
export function boardFeatures(f: PortFeatures): number {
  const bit = (on: boolean, b: number): number => (on ? 1 << b : 0);
  return (
    ALWAYS_LO |
    bit(f.toHostCsum, F_CSUM) |
    bit(f.toHostCsum && f.toHostTso4, F_HOST_TSO4) |
    bit(f.toHostCsum && f.toHostTso6, F_HOST_TSO6) |
    bit(f.toBoardCsum, F_GUEST_CSUM) |
    bit(f.toBoardCsum && f.toBoardTso4, F_GUEST_TSO4) |
    bit(f.toBoardCsum && f.toBoardTso6, F_GUEST_TSO6)
  );
}
