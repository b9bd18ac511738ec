/**
 * The driver resets one of its two rings and sets it up anew (VIRTIO_F_RING_RESET, VIRTIO 1.2 2.6.1): the handshake over
 * the two registers. The engine stops between noticed() and follow(), so that nothing is under way when we answer.
 */
import { ld16, st16 } from "../../hw/mem.ts";
import { COMMON_Q_RESET, COMMON_Q_SELECT } from "../../hw/virtio.layout.ts";
import { queuesOverlap } from "./capture.ts";
import type { FunctionStats } from "./host-function.ts";
import type { QueueWords } from "./queue-words.ts";

/** follow(): the driver is not through, or it is */
export const RING_WAIT = 0;
export const RING_BACK = 1;
/** what it wrote is no ring, see `rule` */
export const RING_BAD = 2;

export class RingReset {
  /** the ring that is or was reset */
  queue = -1;
  /** the rule that was broken, after RING_BAD */
  rule = "";

  /** @param common CPU address of the common config */
  constructor(
    private readonly common: number,
    private readonly words: QueueWords,
    private readonly stats: FunctionStats,
  ) {}

  /** @returns whether a reset was begun */
  noticed(): boolean {
    const c = this.common;
    if (ld16(c + COMMON_Q_RESET) !== 1) return false;
    const queue = ld16(c + COMMON_Q_SELECT);
    if (queue > 1) return false;
    this.queue = queue;
    this.stats.queueResets++;
    return true;
  }

  /** Nothing is under way: answer, then wait for the ring's new place and its enable bit. @returns RING_* */
  follow(): number {
    const { words } = this;
    if (ld16(this.common + COMMON_Q_RESET) === 1) {
      words.reopen(this.queue);
      st16(this.common + COMMON_Q_RESET, 0);
      return RING_WAIT;
    }
    words.enableSeen = false;
    if (words.sample() < 0 || !words.enableSeen) return RING_WAIT;
    words.sample();
    words.settle();
    for (let q = 0; q < 2; q++) if (words.valid[q] === 0) return this.bad(words.fault(q));
    const [rx, tx] = words.queues;
    if (queuesOverlap(rx, tx)) return this.bad("the rings of queue 0 and queue 1 overlap");
    return RING_BACK;
  }

  private bad(why: string): number {
    this.rule = `after a ring reset, ${why}`;
    return RING_BAD;
  }
}
