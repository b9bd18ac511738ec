/**
 * Are the rings at the captured addresses new ones? A driver that says DRIVER_OK has used none of its buffers yet: used
 * index and flags are 0, and the available index is no further than the queue is long (VIRTIO 1.2 2.7.6, 2.7.8; drivers
 * hand over zeroed memory). Places of an earlier life or attempt mostly are not like that. Looked at once, before
 * anything is written to the host's memory.
 */
import type { Controller } from "../hw/controller.ts";
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { ld16 } from "../hw/mem.ts";
import type { Fetcher } from "./fetch.ts";
import { hex64 } from "./function/capture.ts";
import type { QueueCapture } from "./function/host-function.ts";
import { NOT_THE_HOSTS, REBIND } from "./function/parts.ts";

/** a read across the link takes microseconds; the model wants turns */
const WAIT_MS = 20;
/** flags and index of both rings of a queue */
const QUEUE_BYTES = 8;
const ONES = 0xffff;

export class RingCheck {
  private readonly mem: DmaRegion;

  /** @param channel what `fetcher` goes through */
  constructor(
    private readonly ctrl: Pick<Controller, "turn">,
    memory: DmaMemory,
    private readonly fetcher: Fetcher,
    private readonly channel: DmaChannel,
  ) {
    this.mem = memory.alloc("ring-check", 64, 64);
  }

  /**
   * Look at the queues; the channel is at rest before and after. Memory that cannot be read is for the data path to tell.
   * @param which bit 0 receive, bit 1 transmit
   * @returns "" or the broken rule and what to do
   */
  fault(queues: readonly QueueCapture[], which: number): string {
    const { fetcher, mem, ctrl, channel } = this;
    queues.forEach((q, k) => {
      if (((which >> k) & 1) === 0) return;
      fetcher.put(4, q.availLo, q.availHi, mem, QUEUE_BYTES * k);
      fetcher.put(4, q.usedLo, q.usedHi, mem, QUEUE_BYTES * k + 4);
    });
    const mark = fetcher.commit();
    const until = Date.now() + WAIT_MS;
    while (!fetcher.landed(mark)) {
      ctrl.turn();
      if (channel.progress() < 0 || Date.now() > until) {
        channel.recover();
        return "";
      }
    }
    for (let k = 0; k < queues.length; k++) {
      if (((which >> k) & 1) === 0) continue;
      const why = this.judge(queues[k]!, mem.ptr + QUEUE_BYTES * k);
      if (why !== "") return `queue ${k} (${k === 0 ? "receive" : "transmit"}): ${why}: ${NOT_THE_HOSTS}; ${REBIND}`;
    }
    return "";
  }

  private judge(q: QueueCapture, at: number): string {
    const flags = ld16(at);
    const idx = ld16(at + 2);
    const usedFlags = ld16(at + 4);
    const usedIdx = ld16(at + 6);
    if (flags === ONES && idx === ONES) return "";
    if (usedFlags !== 0 || usedIdx !== 0)
      return `the used ring at ${hex64(q.usedLo, q.usedHi)} has flags ${usedFlags} and index ${usedIdx}, a new one has 0 and 0`;
    if (flags > 1 || idx > q.size)
      return `the available ring at ${hex64(q.availLo, q.availHi)} has flags ${flags} and index ${idx}, the queue has ${q.size} entries`;
    return "";
  }
}
