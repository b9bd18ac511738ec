/** What one life of the host's driver fixes, taken from the function's capture: for the data path, the port and the log. */
import type { NetPort, PortFeatures } from "../hw/net-port.ts";
import {
  F_CSUM,
  F_EVENT_IDX,
  F_GUEST_CSUM,
  F_GUEST_TSO4,
  F_GUEST_TSO6,
  F_HOST_TSO4,
  F_HOST_TSO6,
  F_INDIRECT_DESC,
  F_MRG_RXBUF,
  F_MTU,
  F_NOTIFICATION_DATA,
  NO_VECTOR,
} from "../hw/virtio.layout.ts";
import type { LifeOptions } from "./datapath.ts";
import { hex64 } from "./function/capture.ts";
import type { HostFunction } from "./function/function.ts";

function has(fn: HostFunction, bit: number): boolean {
  return ((bit < 32 ? fn.featuresLo >>> bit : fn.featuresHi >>> (bit - 32)) & 1) === 1;
}

/** What the board's side may do. */
export function portFeatures(fn: HostFunction, mtu: number): PortFeatures {
  return {
    hdrLen: fn.hdrLen,
    toHostCsum: has(fn, F_GUEST_CSUM),
    toHostTso4: has(fn, F_GUEST_TSO4),
    toHostTso6: has(fn, F_GUEST_TSO6),
    toBoardCsum: has(fn, F_CSUM),
    toBoardTso4: has(fn, F_HOST_TSO4),
    toBoardTso6: has(fn, F_HOST_TSO6),
    mtu,
  };
}

/** The port has been started: what it says of itself counts. */
export function lifeOptions(fn: HostFunction, port: NetPort, mtu: number): LifeOptions {
  const rx = fn.queues[0]!;
  const tx = fn.queues[1]!;
  return {
    rx,
    tx,
    rxVector: rx.vector,
    txVector: tx.vector,
    hdrLen: fn.hdrLen,
    mergeable: has(fn, F_MRG_RXBUF),
    eventIdx: has(fn, F_EVENT_IDX),
    indirect: has(fn, F_INDIRECT_DESC),
    boardMergeable: port.rxMergeable,
    ...(port.hdrLen === undefined ? {} : { boardHdrLen: port.hdrLen }),
    msix: fn.msix,
    mtu: has(fn, F_MTU) ? mtu : 0,
    notices: has(fn, F_NOTIFICATION_DATA) ? (fn.notify ?? null) : null,
  };
}

/** Accepted feature bits as "0,5,15,32". */
export function featureText(fn: HostFunction): string {
  const bits: number[] = [];
  for (let i = 0; i < 64; i++) {
    if (has(fn, i)) bits.push(i);
  }
  return bits.join(",");
}

/** Both queues as captured, in the words of the model's own account of the host (vfio-user-truth.ts). */
export function queueText(fn: HostFunction): string {
  return ["rx", "tx"]
    .map((name, i) => {
      const q = fn.queues[i]!;
      const vector = q.vector === NO_VECTOR ? "none" : q.vector;
      return `${name} ${q.size} desc ${hex64(q.descLo, q.descHi)} avail ${hex64(q.availLo, q.availHi)} used ${hex64(q.usedLo, q.usedHi)} vector ${vector}`;
    })
    .join(", ");
}
