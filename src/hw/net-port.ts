/**
 * The board's side of the pair of queues (EQ): VDUSE, TAP or an in-process test driver. A NetPort owns the
 * *driver's* end of two split virtqueues, or, for VDUSE, gives access to the two whose driver is the board's
 * kernel. The engine is the device of these queues in every case.
 */

/** A split virtqueue as its device finds it in local memory (VIRTIO 1.2 2.7). All offsets are into the views. */
export interface LocalRing {
  /** queue size, a power of two, at most 32768 */
  readonly size: number;
  /** CPU address of the available ring: its idx word is at availPtr + 2 and is read with mem.ld16 */
  readonly availPtr: number;
  /** CPU address of the used ring: flags at +0, idx at +2, written with mem.st16 after mem.fence() */
  readonly usedPtr: number;
  /** view over the descriptor table, 4 int32 words a descriptor: addr lo, addr hi, len, flags | next << 16 */
  readonly desc: Int32Array;
  /** view over the available ring as 16-bit words: [0] flags, [1] idx, [2..2+size) ring, [2+size] used_event */
  readonly avail: Uint16Array;
  /** view over the used ring's elements as 32-bit words: [2*i] id, [2*i+1] len, i < size */
  readonly usedElem: Uint32Array;
  /** view over the used ring as 16-bit words: [0] flags, [1] idx, [2+4*size] avail_event */
  readonly used16: Uint16Array;
}

/**
 * Where the buffers named in the descriptors are, for the CPU and for the DMA engine. Addresses in descriptors are
 * `base <= a < base + u8.length`. With `pageBusLo === null` the bus address of address `a` is `busBase + (a - base)`;
 * else memory is scattered in 4 KiB pages and page p = (a - base) >>> 12 has its bus address in
 * pageBusHi[p], pageBusLo[p] (int32 words; lo 0 and hi 0 = not known yet, call `learn(p)`).
 */
export interface LocalBuffers {
  readonly base: number;
  readonly busBase: number;
  /** CPU view of all buffers, from an even address on; also used to patch the header in place */
  readonly u8: Uint8Array;
  readonly pageBusLo: Int32Array | null;
  readonly pageBusHi: Int32Array | null;
  /** Fill the entry of page p. Returns 0, or a negative code when the page cannot be reached by DMA. */
  learn(page: number): number;
}

/** Offload and shape decisions that follow from what the host accepted ("the host comes first"). */
export interface PortFeatures {
  /** bytes of the virtio-net header on both sides: 10, 12 or 24 */
  hdrLen: number;
  /** frames from the board may be larger than the MTU (host accepted GUEST_TSO4 / GUEST_TSO6) */
  toHostTso4: boolean;
  toHostTso6: boolean;
  /** frames from the board may carry NEEDS_CSUM (host accepted GUEST_CSUM) */
  toHostCsum: boolean;
  /** frames from the host may be larger than the MTU (host accepted HOST_TSO4 / HOST_TSO6) */
  toBoardTso4: boolean;
  toBoardTso6: boolean;
  /** frames from the host may carry NEEDS_CSUM (host accepted CSUM) */
  toBoardCsum: boolean;
  mtu: number;
}

export interface NetPort {
  /** "tap", "vduse" or "test" */
  readonly kind: string;
  /** name of the netdev on the board, "" if none */
  readonly netdev: string;
  /**
   * Queues are live: `rx` takes frames towards the board's stack, `tx` gives frames of the board's stack.
   * Changes only inside start(), stop() and turn(); generation counts every change of the rings (a reset of the
   * board's driver), so that the engine knows when cached cursors are void.
   */
  readonly ready: boolean;
  readonly generation: number;
  readonly rx: LocalRing;
  readonly tx: LocalRing;
  readonly buffers: LocalBuffers;
  /** The device-readable TX header may be overwritten in place: its driver does not look at it again. */
  readonly txHeaderWritable: boolean;
  /** A frame for the board may be spread over several buffers of `rx` (its driver negotiated MRG_RXBUF). */
  readonly rxMergeable: boolean;
  /** Bytes of the header that this port's frames begin with; absent when it is what start() was told. */
  readonly hdrLen?: number;
  /** What start() will ask for if the host accepts all it is offered: a port whose netdev takes time makes it now. */
  expect?(f: PortFeatures): void;
  /** Cursor to resume from, per queue (0 rx, 1 tx): the used idx of a ring whose earlier device process died. */
  resumeIdx(queue: number): number;
  /** Fix header length and offloads; called once after the host's DRIVER_OK, before start(). */
  start(f: PortFeatures): void;
  /** The host is gone: stop moving frames, keep the netdev, carrier down. */
  stop(): void;
  /** Let the port do its own work (TAP syscalls, VDUSE messages). Returns the number of things done. Allocates nothing when idle. */
  turn(): number;
  /** Bytes this process copied with the CPU to move frames (system calls of a TAP); 0 where the kernel or DMA does it. */
  readonly copiedBytes: number;
  /** The used ring of queue 0 (rx) or 1 (tx) has new entries and its driver did not suppress the interrupt. */
  notify(queue: number): void;
  /** Carrier of the board's netdev. */
  setLink(up: boolean): void;
  /**
   * The board's netdev is administratively up (absent: the port cannot tell). One system call; the engine asks a few
   * times a second and shows the host no carrier while it is down.
   */
  isUp?(): boolean;
  /** File descriptors worth waiting on while idle, and what the port cannot wait on (then poll every few ms). */
  readonly waitFds: readonly number[];
  close(): void;
}
