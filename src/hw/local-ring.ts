/**
 * Views over a split virtqueue that lies in local memory (net-port.ts LocalRing), and an empty one for a port whose
 * driver is not there.
 */
import { mapAnonymous, unmap, view } from "./mem.ts";
import type { LocalBuffers, LocalRing } from "./net-port.ts";
import { availBytes, DESC_SIZE, usedBytes } from "./virtio.layout.ts";

/** Views of a split ring at three CPU addresses. */
export function ringAt(size: number, desc: number, avail: number, used: number): LocalRing {
  const availView = new Uint16Array(view(avail, availBytes(size)));
  const usedView = view(used, usedBytes(size));
  return {
    size,
    availPtr: avail,
    usedPtr: used,
    desc: new Int32Array(view(desc, size * DESC_SIZE)),
    avail: availView,
    // The elements begin 4 bytes in; the view must not reach past the ring's last element.
    usedElem: new Uint32Array(usedView, 4, size * 2),
    used16: new Uint16Array(usedView),
  };
}

/** Empty memory that stands for rings and buffers while there is no driver, so that the engine always has some. */
export class IdleQueues {
  readonly ring: LocalRing;
  readonly buffers: LocalBuffers;
  readonly #ptr: number;

  constructor() {
    this.#ptr = mapAnonymous(4096);
    this.ring = ringAt(16, this.#ptr, this.#ptr + 1024, this.#ptr + 2048);
    this.buffers = {
      base: 0,
      busBase: 0,
      u8: new Uint8Array(view(this.#ptr + 3072, 1024)),
      pageBusLo: null,
      pageBusHi: null,
      learn: () => 0,
    };
  }

  close(): void {
    unmap(this.#ptr, 4096);
  }
}
