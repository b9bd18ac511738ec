/**
 * A long rest of the service loop. A look at the host's transmit ring is DMA across the link and a dozen register accesses, and
 * while nobody is asked to notify, only looks find out that there is something to do. So when the loop has slept for a
 * while without work, both drivers are asked to notify (VIRTIO 1.2 2.7.10). From then on one load of board memory a
 * sleep tells whether the host has written its notify word, and the board's driver ends the sleep through a descriptor.
 *
 * The wish is a hint and the driver may have missed it: it looks at the flag after it wrote its index. So the rest begins
 * only when looks that were begun after the wish had landed found nothing, and it is interrupted a few times a second
 * for one look at everything.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DataPath } from "./datapath.ts";
import type { HostFunction } from "./function/function.ts";

/** sleeps without work before the drivers are asked */
const RESTS = 16;
/** empty answers after the wish landed: more than looks can be under way */
const LOOKS = 9;

const AWAKE = 0;
const ASKED = 1;
const LOOKING = 2;
const DOZING = 3;

export class Doze {
  private state = AWAKE;
  private rests = 0;
  private mark = 0;
  private looks = 0;
  /** the wish to the host's driver was sent here, not by its ring (host-notices.ts) */
  private asked = false;

  constructor(
    private readonly fn: HostFunction,
    private readonly dp: DataPath,
    private readonly write: DmaChannel,
  ) {}

  /** Both drivers notify: nothing but calm() has to be asked. */
  get deep(): boolean {
    return this.state === DOZING;
  }

  /** The loop, which serves a driver, found nothing to do and is about to sleep. */
  rest(): void {
    const { dp, write, fn } = this;
    const { hqTx } = dp;
    if (this.state === AWAKE) {
      if (++this.rests < RESTS || this.waiting() || write.room() < 2 || !fn.stillLive()) return;
      dp.eqTx.suppressNotify(false);
      this.state = ASKED;
      this.mark = write.putCount;
      this.asked = !hqTx.listening;
      if (!this.asked) return;
      hqTx.putNotifyWish(write, true, hqTx.next);
      write.commit();
      this.mark = write.putCount;
      // what was notified before
      fn.notifyHint(0);
      fn.notifyHint(1);
    } else if (this.state === ASKED) {
      if (((write.doneCount - this.mark) | 0) < 0) return;
      this.looks = hqTx.emptyFetches;
      this.state = LOOKING;
    } else if (this.state === LOOKING && this.assured() && !this.waiting()) {
      this.state = DOZING;
    }
  }

  /** What the host's driver adds from now on, it notifies of. */
  private assured(): boolean {
    const { hqTx } = this.dp;
    if (hqTx.listening) return hqTx.hearing;
    // It turned out not to tell its index: it is asked as any other.
    if (!this.asked) this.state = AWAKE;
    return this.asked && hqTx.emptyFetches - this.looks >= LOOKS;
  }

  /** Chains that cannot be carried now: the other side has no buffers, and does not notify of them. */
  private waiting(): boolean {
    return this.dp.eqTx.available() !== 0 || this.dp.hqTx.available() !== 0;
  }

  /** Nothing has happened that the loop must attend to. */
  calm(): boolean {
    const { fn, dp } = this;
    const told = this.asked ? fn.notifyHint(1) >= 0 : dp.hqTx.called || !dp.hqTx.hearing;
    return fn.stillLive() && !told && dp.eqTx.look() === 0 && dp.quiet;
  }

  /** There is work again, so notifications are of no use. */
  busy(): void {
    this.rests = 0;
    if (this.state === AWAKE) return;
    this.state = AWAKE;
    const { dp, write, fn } = this;
    if (!fn.stillLive()) return;
    dp.eqTx.suppressNotify(true);
    if (!this.asked || write.room() < 2) return;
    dp.hqTx.putNotifyWish(write, false, 0);
    write.commit();
  }

  /** No driver is served: nobody's rings may be touched. */
  forget(): void {
    this.state = AWAKE;
    this.rests = 0;
  }
}
