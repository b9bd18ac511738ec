/**
 * The eDMA without simulated time: in each turn the running channels work in seeded order, element by element, and an
 * element's data moves at once (or packet by packet, dma-faults.ts). With time: timed-dma.ts.
 */
import { type ChannelModel, FETCHED, HELD, RUN } from "./channel-model.ts";
import type { EdmaModel } from "./edma-model.ts";

/** elements and links a turn at most handles, so that the host and the service loop get their share */
export const TURN_BUDGET = 256;
const MAX_BURST = 16;

export class LiveDma {
  readonly #edma: EdmaModel;

  constructor(edma: EdmaModel) {
    this.#edma = edma;
  }

  /** Let running channels work, in seeded order, at most TURN_BUDGET steps. */
  turn(): void {
    const edma = this.#edma;
    let ready = edma.running;
    if (ready === 0) return;
    for (let m = ready; m !== 0; m &= m - 1) edma.channelOf(m & -m).beginTurn();
    ready = edma.running;
    let budget = TURN_BUDGET;
    while (ready !== 0 && budget > 0) {
      const ch = this.#pick(ready);
      // a lone channel needs no interleaving
      let burst = (ready & (ready - 1)) === 0 ? budget : 1 + edma.random.below(MAX_BURST);
      if (burst > budget) burst = budget;
      budget -= burst;
      while (burst > 0 && this.#step(ch)) burst--;
      if (burst > 0) ready &= ~ch.bit;
    }
  }

  #pick(ready: number): ChannelModel {
    let m = ready;
    if ((m & (m - 1)) !== 0) {
      let n = 0;
      for (let k = m; k !== 0; k &= k - 1) n++;
      for (let skip = this.#edma.random.below(n); skip > 0; skip--) m &= m - 1;
    }
    return this.#edma.channelOf(m & -m);
  }

  /** One element or link. @returns false when the channel can do no more in this turn */
  #step(ch: ChannelModel): boolean {
    const edma = this.#edma;
    if (ch.state === RUN) {
      const got = ch.fetch();
      ch.llpShown = ch.llp;
      if (got !== FETCHED) return got > 0;
      if (edma.faults.holdFetched > 0 && edma.random.chance(edma.faults.holdFetched)) {
        ch.state = HELD;
        return false;
      }
    } else if (ch.state !== HELD) return false;
    else ch.state = RUN;
    const control = ch.control;
    const cause = this.#move(ch);
    if (cause !== 0) {
      ch.abort(cause);
      return false;
    }
    if (ch.moved < ch.size >>> 0) {
      ch.state = HELD;
      return false;
    }
    ch.moved = 0;
    edma.link.stats.elements++;
    ch.executed(control);
    return true;
  }

  /** Move what is left of the channel's element, or a packet of it. @returns 0 or a CAUSE_* */
  #move(ch: ChannelModel): number {
    const size = ch.size >>> 0;
    if (size === 0) return 0;
    if (ch.moved === 0) this.#begin(ch, size);
    const edma = this.#edma;
    const link = edma.link;
    const src = (ch.sarHi >>> 0) * 4294967296 + (ch.sarLo >>> 0);
    const dst = (ch.darHi >>> 0) * 4294967296 + (ch.darLo >>> 0);
    const done = ch.moved;
    let n = size - done;
    if (edma.faults.splitData > 0 && edma.random.chance(edma.faults.splitData)) {
      const shift = ch.isWrite ? link.config.mpsShift : link.config.rcbShift;
      const at = (ch.isWrite ? ch.darLo : ch.sarLo) + done;
      const packet = (1 << shift) - (at & ((1 << shift) - 1));
      if (packet < n) n = packet;
    }
    ch.moved = done + n;
    if (ch.isWrite) return link.dmaWrite(src + done, dst + done, n, ch);
    if (edma.injectCause !== 0) {
      const cause = edma.takeInjected(ch);
      if (cause !== 0) return cause;
    }
    const cause = link.dmaRead(src + done, dst + done, n, ch);
    if (cause === 0 && ch.moved === size && edma.readsSpoil) edma.spoil(dst, size);
    return cause;
  }

  /** Count an element's bytes and packets. */
  #begin(ch: ChannelModel, size: number): void {
    const { stats, config } = this.#edma.link;
    if (ch.isWrite) {
      const shift = config.mpsShift;
      stats.bytesToHost += size;
      stats.tlpWrites += ((ch.darLo & ((1 << shift) - 1)) + size + (1 << shift) - 1) >>> shift;
    } else {
      const shift = config.mrrsShift;
      stats.bytesToBoard += size;
      stats.tlpReads += ((ch.sarLo & ((1 << shift) - 1)) + size + (1 << shift) - 1) >>> shift;
    }
  }
}
