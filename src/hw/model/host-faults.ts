/**
 * Switches that make the built-in host misbehave, for the engine's tests. Set-up faults act in probe; ring faults
 * are injected by BuiltInHost.inject() into a running queue. All are off by default.
 */

export interface HostFaults {
  /** never enable bus mastering */
  noBusMaster: boolean;
  /** descriptor table address 8 bytes off a 16-byte boundary (modern) */
  misalignedQueue: boolean;
  /** used ring address equal to the available ring's (modern) */
  overlappingQueue: boolean;
  /** queue size written is this, for example 100 (modern); 0 = off */
  badRingSize: number;
  /** queue addresses outside host memory (both personalities) */
  unmappedQueue: boolean;
}

export const NO_FAULTS: Readonly<HostFaults> = {
  noBusMaster: false,
  misalignedQueue: false,
  overlappingQueue: false,
  badRingSize: 0,
  unmappedQueue: false,
};

/** Broken chains and indices that can be put into a running transmit or receive queue. */
export type RingFault =
  /** a descriptor's next names the head again */
  | "desc-loop"
  /** next is the queue size or more */
  | "next-out-of-range"
  /** the available ring names a head that is the queue size or more */
  | "head-out-of-range"
  /** a legal but absurd chain: every descriptor of the queue in one chain */
  | "long-chain"
  /** buffer address outside host memory */
  | "bad-address"
  /** a descriptor of length 0 in the chain */
  | "zero-length"
  /** a device-readable descriptor after a device-writable one */
  | "write-before-read"
  /** the available index advances by more than the queue size */
  | "avail-jump"
  /** indirect table whose length is no multiple of 16 (only when negotiated) */
  | "indirect-length"
  /** an indirect descriptor inside an indirect table */
  | "indirect-nested";
