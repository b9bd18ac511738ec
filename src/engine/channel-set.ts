/**
 * The DMA channels of a data path: how far they are, starting them over, and what went wrong on one of them in the
 * terms of codes.ts.
 */
import { CH_ABORT, type DmaChannel } from "../hw/dma-channel.ts";
import { OK, R_DMA_ABORT, R_DMA_STUCK } from "./codes.ts";

export interface Channels {
  readonly write: DmaChannel;
  readonly read: DmaChannel;
  /** read channel for ring contents; may be the same as `read` */
  readonly fetch: DmaChannel;
}

export class ChannelSet implements Channels {
  readonly write: DmaChannel;
  readonly read: DmaChannel;
  readonly fetch: DmaChannel;
  /** what the last negative code is about */
  culprit = "";
  a = 0;
  b = 0;

  constructor(ch: Channels) {
    this.write = ch.write;
    this.read = ch.read;
    this.fetch = ch.fetch;
  }

  /** Look how far every channel with work is. @returns 0 or a negative code */
  progress(): number {
    const { write, read, fetch } = this;
    let rc = this.advance(write);
    if (rc === OK) rc = this.advance(read);
    if (rc === OK && fetch !== read) rc = this.advance(fetch);
    return rc;
  }

  /** Look how far one is. @returns 0 or a negative code */
  advance(ch: DmaChannel): number {
    // With nothing outstanding too: a channel that stopped must be seen at rest once more before commit() may ring it.
    const rc = ch.progress();
    return rc < 0 ? this.failed(rc, ch) : OK;
  }

  /** Cut off what the hardware has not begun, on all of them. @returns 0 or a negative code */
  recover(): number {
    const { write } = this;
    const rc = this.recoverReads();
    return write.recover() < 0 ? this.stuck(write) : rc;
  }

  /** The same on the read channels: none is cut off alone, see DmaChannel.halt(). @returns 0 or a negative code */
  recoverReads(): number {
    const { read, fetch } = this;
    const a = read.halt();
    const b = fetch === read ? a : fetch.halt();
    if (a === 0) read.start();
    if (fetch !== read && b === 0) fetch.start();
    return a < 0 ? this.stuck(read) : b < 0 ? this.stuck(fetch) : OK;
  }

  /** All channels at rest. */
  get drained(): boolean {
    const { write, read, fetch } = this;
    return write.putCount === write.doneCount && read.putCount === read.doneCount && fetch.putCount === fetch.doneCount;
  }

  /** Changes whenever an element lands. */
  get doneSum(): number {
    const { write, read, fetch } = this;
    return (write.doneCount + read.doneCount + fetch.doneCount) | 0;
  }

  /** One of them has not moved for long. @returns the code */
  stalled(): number {
    const { write, read, fetch } = this;
    return this.stuck(write.putCount !== write.doneCount ? write : read.putCount !== read.doneCount ? read : fetch);
  }

  /** @returns the code for a channel that does not come to rest */
  stuck(ch: DmaChannel): number {
    return this.fault(R_DMA_STUCK, ch, ch.index + (ch.isWrite ? 0 : 8), (ch.putCount - ch.doneCount) | 0);
  }

  private failed(rc: number, ch: DmaChannel): number {
    if (rc !== CH_ABORT) return this.stuck(ch);
    return this.fault(R_DMA_ABORT, ch, ch.lastError, ch.index + (ch.isWrite ? 0 : 8));
  }

  private fault(code: number, ch: DmaChannel, a: number, b: number): number {
    this.culprit = ch.isWrite ? "dma.write" : "dma.read";
    this.a = a;
    this.b = b;
    return code;
  }
}
