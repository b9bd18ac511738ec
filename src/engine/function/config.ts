/**
 * The net device's config area (VIRTIO 1.2 5.1.4) as the host reads it from BAR memory: MAC, link status, MTU. The
 * only writer is this side, so a torn read is excluded by the generation byte (modern) or accepted (legacy: single bytes).
 */
import { Fault } from "../../hw/fault.ts";
import { st8, st16, st32, wmb } from "../../hw/mem.ts";
import {
  NET_CFG_DUPLEX,
  NET_CFG_MAC,
  NET_CFG_MAX_PAIRS,
  NET_CFG_MTU,
  NET_CFG_SPEED,
  NET_CFG_STATUS,
  NET_S_LINK_UP,
} from "../../hw/virtio.layout.ts";

/** bytes of the area that are given a value */
export const NET_CFG_BYTES = 0x18;
const SPEED_UNKNOWN = 0xffffffff;
const DUPLEX_UNKNOWN = 0xff;

/** 5.1.4.1: a device MUST set mtu between these */
export const MTU_MIN = 68;
export const MTU_MAX = 65535;

/**
 * "02:00:00:00:00:01" or six bytes; null makes a random locally administered address.
 * @throws Fault E_CONFIG when it is no unicast MAC address
 */
export function macBytes(mac: string | Uint8Array | null): Uint8Array {
  let bytes: Uint8Array;
  if (mac === null) {
    bytes = crypto.getRandomValues(new Uint8Array(6));
    bytes[0] = (bytes[0]! & 0xfc) | 0x02;
  } else if (typeof mac === "string") {
    if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac))
      throw new Fault("E_CONFIG", `mac is "${mac}"`, "six bytes in hex, such as 02:00:00:00:00:01");
    bytes = Uint8Array.from(mac.split(":"), (b) => Number.parseInt(b, 16));
  } else bytes = Uint8Array.from(mac);
  if (bytes.length !== 6 || (bytes[0]! & 1) === 1 || bytes.every((b) => b === 0)) {
    const text = Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join(":");
    throw new Fault("E_CONFIG", `mac ${text} is not a unicast address of 6 bytes`, "use one such as 02:00:00:00:00:01");
  }
  return bytes;
}

/** @throws Fault E_CONFIG outside of 68..65535 */
export function checkMtu(mtu: number): number {
  if (!Number.isInteger(mtu) || mtu < MTU_MIN || mtu > MTU_MAX)
    throw new Fault("E_CONFIG", `mtu is ${mtu}, it must be ${MTU_MIN} to ${MTU_MAX} (VIRTIO 1.2 5.1.4.1)`, "use 1500");
  return mtu;
}

/** Writes all fields of the area at `ptr`. */
export class NetConfig {
  /** link as last set */
  up = false;
  constructor(
    private readonly mac: Uint8Array,
    private readonly mtu: number,
  ) {}

  write(ptr: number): void {
    for (let i = 0; i < 6; i++) st8(ptr + NET_CFG_MAC + i, this.mac[i]!);
    this.writeStatus(ptr);
    st16(ptr + NET_CFG_MAX_PAIRS, 1);
    st16(ptr + NET_CFG_MTU, this.mtu);
    st32(ptr + NET_CFG_SPEED, SPEED_UNKNOWN);
    st8(ptr + NET_CFG_DUPLEX, DUPLEX_UNKNOWN);
    wmb();
  }

  writeStatus(ptr: number): void {
    st16(ptr + NET_CFG_STATUS, this.up ? NET_S_LINK_UP : 0);
  }
}
