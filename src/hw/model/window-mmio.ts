/**
 * The board CPU's outbound window: each access looks for an outbound iATU region and becomes a memory request to the
 * host or a message. A request that no region takes, or that the host refuses, reads all ones and is counted.
 */
import { MSG_ASSERT_INTA, MSG_DEASSERT_INTA } from "../iatu.regs.ts";
import { ptrOf } from "../mem.ts";
import type { Mmio } from "../mmio.ts";
import { MATCH_MEM, MATCH_MSG, MATCH_NONE } from "./iatu-model.ts";
import type { Link } from "./link.ts";
import type { TimedDma } from "./timed-dma.ts";

/** bus address of window offset 0; above 4 GiB on purpose, so that nobody gets away with 32 bits */
export const WINDOW_BUS = 0x10_0000_0000;
/** message routing "terminate at receiver" (PCIe 2.2.8), what INTx uses */
const ROUTE_LOCAL = 4;

export class WindowMmio implements Mmio {
  readonly size: number;
  /** simulated time, or null */
  timed: TimedDma | null = null;
  readonly #link: Link;
  readonly #word = new Uint32Array(2);
  readonly #ptr = ptrOf(this.#word);

  constructor(link: Link, size: number) {
    this.#link = link;
    this.size = size;
  }

  describe(): string {
    return "board CPU through the window";
  }

  ld8(off: number): number {
    return this.#load(off, 1) & 0xff;
  }
  ld16(off: number): number {
    return this.#load(off, 2) & 0xffff;
  }
  ld32(off: number): number {
    return this.#load(off, 4) >>> 0;
  }
  st8(off: number, value: number): void {
    this.#store(off, 1, value);
  }
  st16(off: number, value: number): void {
    this.#store(off, 2, value);
  }
  st32(off: number, value: number): void {
    this.#store(off, 4, value);
  }

  #load(off: number, size: number): number {
    const { iatu, stats } = this.#link;
    stats.nonPostedReads++;
    this.#word[0] = 0xffffffff;
    if (off < 0 || off + size > this.size || iatu.matchOutbound(WINDOW_BUS + off) !== MATCH_MEM || iatu.run < size) {
      stats.outboundMisses++;
      return -1;
    }
    // its completion comes back behind every write before it
    iatu.posted = 0;
    const timed = this.timed;
    const cause =
      timed !== null
        ? timed.cpuRead(iatu.address, this.#ptr, size)
        : this.#link.fetch(iatu.address, this.#ptr, size, this);
    return cause !== 0 ? -1 : this.#word[0]!;
  }

  #store(off: number, size: number, value: number): void {
    const { iatu, stats } = this.#link;
    stats.postedWrites++;
    const kind = off < 0 || off + size > this.size ? MATCH_NONE : iatu.matchOutbound(WINDOW_BUS + off);
    if (kind !== MATCH_NONE) iatu.posted |= 1 << iatu.matched;
    if (kind === MATCH_MEM && iatu.run >= size) {
      this.#word[0] = value;
      if (this.timed !== null) this.timed.cpuWrite(iatu.address, this.#ptr, size);
      else this.#link.post(iatu.address, this.#ptr, size, this);
    } else if (kind === MATCH_MSG) this.#message(iatu.code, iatu.routing);
    else stats.outboundMisses++;
  }

  /** Assert_INTA and Deassert_INTA; they need no bus mastering, and the host's Interrupt Disable is the sender's to honour. */
  #message(code: number, routing: number): void {
    const { stats, host, config } = this.#link;
    if ((code !== MSG_ASSERT_INTA && code !== MSG_DEASSERT_INTA) || routing !== ROUTE_LOCAL || !config.linkUp) {
      stats.outboundMisses++;
      return;
    }
    if (code === MSG_ASSERT_INTA && config.intxDisabled) stats.intxWhileDisabled++;
    stats.intxMessages++;
    if (this.timed !== null) this.timed.cpuIntx(code === MSG_ASSERT_INTA);
    else host?.intx(code === MSG_ASSERT_INTA);
  }

  /**
   * A memcpy by the board's CPU to (`toHost`) or from the window at `off`, in the pieces its bus makes of it. For
   * benches of designs that copy by CPU. @returns bytes copied, fewer when the window or the host refused
   */
  bulk(off: number, ptr: number, len: number, toHost: boolean): number {
    const { iatu, stats } = this.#link;
    const timed = this.timed;
    const piece = timed === null ? 64 : toHost ? timed.timing.cpuWriteBytes : timed.timing.cpuReadBytes;
    for (let done = 0; done < len; ) {
      const at = off + done;
      if (at >= this.size || iatu.matchOutbound(WINDOW_BUS + at) !== MATCH_MEM) {
        stats.outboundMisses++;
        return done;
      }
      const addr = iatu.address;
      const n = Math.min(piece - (addr % piece), len - done, iatu.run);
      if (toHost) {
        stats.postedWrites++;
        if (timed !== null) timed.cpuWrite(addr, ptr + done, n);
        else this.#link.post(addr, ptr + done, n, this);
      } else {
        stats.nonPostedReads++;
        const cause = timed !== null ? timed.cpuRead(addr, ptr + done, n) : this.#link.fetch(addr, ptr + done, n, this);
        if (cause !== 0) return done;
      }
      done += n;
    }
    return len;
  }
}
