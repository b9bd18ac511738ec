/**
 * What the service loop sees of the virtio-net function: a thing to poll that says when the host's driver is there and
 * where its queues are. Two implementations, modern.ts and legacy.ts, made by function.ts. Not the data path: nothing
 * here reads a ring.
 */

import type { NotifyWord } from "./notify.ts";

/** poll(): nothing new */
export const FN_NONE = 0;
/** DRIVER_OK was seen; queues are frozen and valid until FN_DOWN */
export const FN_UP = 1;
/** the host reset the function or lowered its status; also ends FN_REFUSED */
export const FN_DOWN = 2;
/** DRIVER_OK was seen but the capture is not usable, see lastRefusal */
export const FN_REFUSED = 3;

/** One of the host's queues as captured. Addresses are PCI bus addresses as int32 words. */
export interface QueueCapture {
  size: number;
  descLo: number;
  descHi: number;
  availLo: number;
  availHi: number;
  usedLo: number;
  usedHi: number;
  /** MSI-X vector, NO_VECTOR for none and with INTx */
  vector: number;
}

/** Plain numbers for counters and tests; they only grow. */
export interface FunctionStats {
  /** FN_UP events */
  negotiations: number;
  /** FN_REFUSED events */
  refusals: number;
  /** queues whose missed half was rebuilt from the ring's block layout */
  recovered: number;
  /** FN_DOWN events */
  resets: number;
  /** host activity that was noticed too late to be followed: lives found after FEATURES_OK, queues never seen */
  missed: number;
  /** set-up attempts of the host that were repeated within one life (another interrupt policy) */
  restarts: number;
  /** ring resets (VIRTIO_F_RING_RESET) answered */
  queueResets: number;
}

/** What freezes at DRIVER_OK: enough for another process to go on with the same driver (adopt.ts). */
export interface FrozenLife {
  readonly featuresLo: number;
  readonly featuresHi: number;
  readonly hdrLen: number;
  readonly inOrder: boolean;
  readonly msix: boolean;
  readonly configVector: number;
  readonly status: number;
  readonly queues: readonly QueueCapture[];
}

export interface HostFunction {
  readonly personality: "modern" | "legacy";
  /**
   * One sample of the registers. Allocates nothing and never throws, except that the text of a refusal is made.
   * @returns FN_NONE, FN_UP, FN_DOWN or FN_REFUSED
   */
  poll(): number;
  /** between FN_UP and FN_DOWN */
  readonly live: boolean;
  /** A driver has said DRIVER and not yet DRIVER_OK: its queues may come within microseconds, so poll() must not pause. */
  readonly negotiating: boolean;
  /** One 8-bit load, for use right before a burst. false: call poll() and issue nothing more. */
  stillLive(): boolean;
  /** [0] receiveq, [1] transmitq; meaningful while live */
  readonly queues: readonly QueueCapture[];
  /**
   * Queues that start at index 0 with this FN_UP, as a bit mask: 3 after a negotiation; 1 or 2 after the host reset
   * one ring (only when feature word bit 8 is offered), then the other goes on where it was.
   */
  readonly freshQueues: number;
  /** what is taken as accepted (features.ts says how sure that is), int32 words of bits 0..31 and 32..63 */
  readonly featuresLo: number;
  readonly featuresHi: number;
  /** used buffers must go back in the order they came (the host may have taken IN_ORDER unseen) */
  readonly inOrder: boolean;
  /** bytes of the net header: 10, 12 or 24 */
  readonly hdrLen: number;
  /** Override after a look at the first frame. */
  setHdrLen(bytes: number): void;
  /** A later process can go on with a life of this function: it is made with FunctionOptions.life, and live at once. */
  readonly resumable: boolean;
  /** the host enabled MSI-X; otherwise it uses INTx */
  readonly msix: boolean;
  /** MSI-X vector of config changes, NO_VECTOR for none and with INTx */
  readonly configVector: number;
  /** Show the carrier to the host. @returns 1 when a config interrupt should be raised */
  setLink(up: boolean): number;
  /**
   * DEVICE_NEEDS_RESET (VIRTIO 1.2 2.1.2). A read-modify-write of a word the host writes: only when the host is quiet.
   * @returns 1 when a config interrupt must be raised (msix and configVector are valid for it, after a refusal too)
   */
  setNeedsReset(): number;
  /** @returns the last notify value for this queue since the last call, -1 for none. A hint: notifies collapse. */
  notifyHint(queue: number): number;
  /** The same word as it is, where it can hold an avail index (NOTIFICATION_DATA). */
  readonly notify?: NotifyWord;
  /** CPU addresses of the MSI-X table and its pending bits in BAR memory, 0 when the function has no MSI-X */
  readonly msixTablePtr: number;
  readonly pbaPtr: number;
  /** entries of the table, 0 without MSI-X */
  readonly vectors: number;
  /** the function says it has INTA, so an Intx must be at hand */
  readonly intxPin: boolean;
  /** rule that was broken with both values, and what to do; "" after a good negotiation */
  readonly lastRefusal: string;
  readonly stats: FunctionStats;
  /** false: a reset from the host's side (hot reset, PERST#) has erased what was written to config space */
  intact(): boolean;
  /**
   * The host has gone without a word (link down, hot reset, PERST#): its driver's life is over and the registers are as
   * after power-on. Config space is written again when it is not intact. Not for the loop.
   * @throws Fault as the first set-up
   */
  hostGone(): void;
  /** Take the function off the link: the inbound windows are closed, because the memory behind them goes away. */
  close(): void;
}
