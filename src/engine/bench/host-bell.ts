/**
 * The notify word as a host of `bench link` writes it: a posted write that leaves hostNotifyNs after the avail index was
 * stored (the host's CPU: a barrier, a load of the device's wish, the store) and is in the board's memory half a round trip later.
 */
import { ld16 } from "../../hw/mem.ts";
import type { LinkModel } from "../../hw/model/open-model.ts";
import type { NoticeWord } from "../host-notices.ts";

const PARKED = -1;
const WORD_BYTES = 4;

export class HostBell implements NoticeWord {
  /** writes so far */
  count = 0;
  private word = PARKED;
  /** on their way: when each lands, and what it says */
  private readonly coming: [number, number][] = [];

  /** @param availPtr CPU address of the avail ring @param queue its number */
  constructor(
    private readonly model: LinkModel,
    private readonly availPtr: number,
    private readonly queue: number,
  ) {}

  /** The driver notifies now. */
  ring(): void {
    const { endpoint, timing } = this.model;
    const { wire } = endpoint.timed!;
    this.count++;
    const sent = wire.sendDown(endpoint.clock.now + timing.hostNotifyNs, WORD_BYTES);
    this.coming.push([sent + wire.oneWayNs, (ld16(this.availPtr + 2) << 16) | this.queue]);
  }

  read(): number {
    const { now } = this.model.endpoint.clock;
    while (this.coming.length > 0 && this.coming[0]![0] <= now) this.word = this.coming.shift()![1];
    return this.word;
  }

  park(): void {
    this.read();
    this.word = PARKED;
  }
}
