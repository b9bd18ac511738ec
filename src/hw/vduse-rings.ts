/**
 * The rings and packet buffers of the board's driver behind VDUSE, as long as one life of that driver lasts: mapped from
 * the device's IOVA regions, dropped when the driver resets, unmapped when the engine has let go of them.
 */
import { BouncePages, type BufferBus } from "./bounce-pages.ts";
import { ringAt } from "./local-ring.ts";
import { ld16, st16, unmap } from "./mem.ts";
import type { LocalRing } from "./net-port.ts";
import type { IovaMapping, QueueInfo, Vduse } from "./vduse.ts";
import { AVAIL_F_NO_INTERRUPT, availBytes, DESC_SIZE, USED_F_NO_NOTIFY, usedBytes } from "./virtio.layout.ts";

export class VduseRings {
  /** null while no driver is at DRIVER_OK */
  rx: LocalRing | null = null;
  tx: LocalRing | null = null;
  /** null until the driver has mapped its first packet */
  pages: BouncePages | null = null;
  #maps: IovaMapping[] = [];
  #oldMaps: IovaMapping[] = [];
  readonly #bus: BufferBus | null;

  constructor(bus: BufferBus | null) {
    this.#bus = bus;
  }

  /** Map both rings. @returns false when one cannot be mapped; nothing has changed then */
  map(dev: Vduse, rx: QueueInfo, tx: QueueInfo): boolean {
    const liveRx = this.#ring(dev, rx);
    const liveTx = this.#ring(dev, tx);
    if (liveRx === null || liveTx === null) return false;
    this.rx = liveRx;
    this.tx = liveTx;
    // Notifications are of no use to a poller; the engine says so again when it takes the rings.
    st16(liveTx.usedPtr, USED_F_NO_NOTIFY);
    st16(liveRx.usedPtr, USED_F_NO_NOTIFY);
    return true;
  }

  /** The buffers can be mapped from the first mapping of a packet on (ifup fills the receive queue). @returns whether they are */
  mapBuffers(dev: Vduse): boolean {
    const { rx, tx } = this;
    if (this.pages !== null) return true;
    if (rx === null || tx === null || (ld16(rx.availPtr + 2) === 0 && ld16(tx.availPtr + 2) === 0)) return false;
    const m = dev.map(0);
    if (m === null) return false;
    this.pages = new BouncePages(m.ptr, m.size, this.#bus);
    return true;
  }

  #ring(dev: Vduse, q: QueueInfo): LocalRing | null {
    const at = (iova: number, bytes: number): number => {
      const inside = (m: IovaMapping): boolean => iova >= m.start && iova + bytes <= m.start + m.size;
      let m = this.#maps.find(inside);
      if (m === undefined) {
        const made = dev.map(iova);
        if (made === null) return 0;
        this.#maps.push(made);
        if (!inside(made)) return 0;
        m = made;
      }
      return m.ptr + (iova - m.start);
    };
    const desc = at(q.desc, q.size * DESC_SIZE);
    const avail = at(q.driver, availBytes(q.size));
    const used = at(q.device, usedBytes(q.size));
    return desc === 0 || avail === 0 || used === 0 ? null : ringAt(q.size, desc, avail, used);
  }

  /** Where queue `index` stands: completions are in order. 0 without a driver. */
  usedIdx(index: number): number {
    const ring = index === 0 ? this.rx : this.tx;
    return ring === null ? 0 : ld16(ring.usedPtr + 2);
  }

  /** The rings are void from now on; memory behind them is kept until release(). */
  drop(): void {
    this.rx = this.tx = null;
    this.#oldMaps.push(...this.#maps);
    this.#maps = [];
  }

  /** The engine has let go of everything that was dropped. */
  release(): void {
    for (const m of this.#oldMaps) unmap(m.ptr, m.size);
    this.#oldMaps = [];
    this.pages?.close();
    this.pages = null;
  }

  /**
   * Frames that the board sent while no host was there go back undelivered: a host wants no old news.
   * @returns whether the driver wants an interrupt for them
   */
  giveBackStale(): boolean {
    const ring = this.tx;
    if (ring === null) return false;
    const mask = ring.size - 1;
    const idx = ld16(ring.availPtr + 2);
    let used = ld16(ring.usedPtr + 2);
    if (used === idx || ((idx - used) & 0xffff) > ring.size) return false;
    while (used !== idx) {
      const at = (used & mask) << 1;
      ring.usedElem[at] = ring.avail[2 + (used & mask)]!;
      ring.usedElem[at + 1] = 0;
      used = (used + 1) & 0xffff;
    }
    st16(ring.usedPtr + 2, used);
    return (ld16(ring.availPtr) & AVAIL_F_NO_INTERRUPT) === 0;
  }
}
