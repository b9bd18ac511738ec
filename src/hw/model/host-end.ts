/**
 * Where the frames of the built-in host come from and go to: a TAP (host-tap.ts), test callbacks (here) or the
 * seeded generator and checker (host-traffic.ts). Called per frame: no allocation in implementations that matter.
 */
import { copy, ptrOf } from "../mem.ts";

/** What the driver negotiated, as far as an end must know. */
export interface EndFeatures {
  /** bytes of the net header in front of every frame, both ways */
  hdrLen: number;
  mac: Uint8Array;
  mtu: number;
  /** the device takes frames without a checksum / larger than the MTU (CSUM, HOST_TSO4, HOST_TSO6) */
  txCsum: boolean;
  txTso4: boolean;
  txTso6: boolean;
}

export interface HostEnd {
  /** "tap", "test" or "traffic" */
  readonly kind: string;
  /** descriptors worth waiting on while idle */
  readonly waitFds: readonly number[];
  /** the driver is up */
  start(f: EndFeatures): void;
  /** the driver is gone */
  stop(): void;
  setLink(up: boolean): void;
  /**
   * Put the next frame to transmit, net header first, at `ptr`.
   * @returns its length with the header (at most `max`), or 0 when there is none now
   */
  fetch(ptr: number, max: number): number;
  /**
   * A received frame, net header first, in `n` pieces of `total` bytes together; they are reused after the call.
   * @returns 0, or a negative code when it was dropped
   */
  deliver(ptrs: Float64Array, lens: Int32Array, n: number, total: number): number;
  close(): void;
}

const STAGING = 131072;

/** Test callbacks. Frames to send are queued here; received ones are gathered into one buffer that is reused. */
export class CallbackEnd implements HostEnd {
  readonly kind = "test";
  readonly waitFds = [];
  readonly onFrame: (bytes: Uint8Array) => void;
  features: EndFeatures | null = null;
  linkUp = false;
  readonly #queue: Uint8Array[] = [];
  readonly #staging = new Uint8Array(STAGING);
  readonly #stagingPtr = ptrOf(this.#staging);

  /** @param onFrame gets net header and frame, valid during the call only */
  constructor(onFrame: (bytes: Uint8Array) => void) {
    this.onFrame = onFrame;
  }

  /** frames not yet in the transmit queue */
  get backlog(): number {
    return this.#queue.length;
  }

  /** Queue a frame with its net header in front (hdrLen bytes). */
  send(bytes: Uint8Array): void {
    this.#queue.push(bytes.slice());
  }

  start(f: EndFeatures): void {
    this.features = f;
  }

  stop(): void {
    this.features = null;
  }

  setLink(up: boolean): void {
    this.linkUp = up;
  }

  fetch(ptr: number, max: number): number {
    const bytes = this.#queue[0];
    if (bytes === undefined) return 0;
    this.#queue.shift();
    if (bytes.length > max) return 0;
    copy(ptr, ptrOf(bytes), bytes.length);
    return bytes.length;
  }

  deliver(ptrs: Float64Array, lens: Int32Array, n: number, total: number): number {
    let at = 0;
    for (let i = 0; i < n; i++) {
      copy(this.#stagingPtr + at, ptrs[i], lens[i]);
      at += lens[i];
    }
    this.onFrame(this.#staging.subarray(0, total));
    return 0;
  }

  close(): void {}
}
