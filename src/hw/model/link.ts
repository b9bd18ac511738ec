/**
 * The simulated PCIe link, data only: moves bytes between the board's bus and the host's, with address translation of
 * DMA, bus mastering, message interrupts, and the strict check on both sides. Time is timed-dma.ts.
 *
 * Posted writes that nobody takes vanish without an error for the sender, as on PCIe; reads report a cause.
 */
import { CAUSE_CA, CAUSE_LOCAL, CAUSE_UR } from "../edma.regs.ts";
import { copy, fence, ld32 } from "../mem.ts";
import type { AddressSpace } from "./address-space.ts";
import { type ConfigModel, STATUS_MASTER_ABORT, STATUS_TARGET_ABORT } from "./config-model.ts";
import type { HostSide } from "./host-side.ts";
import { type IatuModel, MATCH_MEM, MATCH_NONE } from "./iatu-model.ts";
import type { ModelStats, ViolationLog } from "./stats.ts";

/** Who makes an access, for the text of a violation. */
export interface Requester {
  describe(): string;
}

/**
 * Turns after which a board must have noticed that bus mastering or the link is off. Its service loop looks once a
 * slice of some thousand turns; that it read the command register for another reason (INTx) is not yet a look.
 */
const UNAWARE_TURNS = 1 << 16;

// x86 keeps stores in order; elsewhere a host in another process may see them out of order without a barrier
const ORDERED_STORES = process.arch === "x64";

export class Link {
  host: HostSide | null = null;
  readonly board: AddressSpace;
  readonly iatu: IatuModel;
  readonly config: ConfigModel;
  readonly stats: ModelStats;
  readonly violations: ViolationLog;

  constructor(board: AddressSpace, iatu: IatuModel, config: ConfigModel, stats: ModelStats, violations: ViolationLog) {
    this.board = board;
    this.iatu = iatu;
    this.config = config;
    this.stats = stats;
    this.violations = violations;
  }

  /** A whole write element: board memory `src` to PCI address `dst`. @returns 0 or CAUSE_LOCAL */
  dmaWrite(src: number, dst: number, size: number, who: Requester): number {
    let from = src;
    let to = dst;
    let left = size;
    while (left > 0) {
      const ptr = this.local(from, left, false, who);
      if (ptr === 0) return CAUSE_LOCAL;
      const n = this.board.run;
      this.write(to, ptr, n, who);
      from += n;
      to += n;
      left -= n;
    }
    return 0;
  }

  /** A whole read element: PCI address `src` to board memory `dst`. @returns 0 or a CAUSE_* */
  dmaRead(src: number, dst: number, size: number, who: Requester): number {
    let from = src;
    let to = dst;
    let left = size;
    while (left > 0) {
      const ptr = this.local(to, left, true, who);
      if (ptr === 0) return CAUSE_LOCAL;
      const n = this.board.run;
      const cause = this.read(from, ptr, n, who);
      if (cause !== 0) return cause;
      from += n;
      to += n;
      left -= n;
    }
    return 0;
  }

  /** Board memory as DMA sees it, checked in strict mode; board.run tells how much of it is contiguous. 0 = nothing there. */
  local(addr: number, len: number, write: boolean, who: Requester): number {
    const ptr = this.board.resolve(addr, len, write);
    if (ptr === 0) {
      this.stats.localErrors++;
      return 0;
    }
    const shadow = this.board.shadow;
    if (shadow !== null && !shadow.check(addr, this.board.run, write))
      this.#violation(who, write, "board", addr, this.board.run, shadow.badAddr);
    return ptr;
  }

  /** DMA memory write of `len` bytes at CPU address `ptr` to PCI address `addr`, through the iATU where it covers it. */
  write(addr: number, ptr: number, len: number, who: Requester): void {
    if (!this.iatu.dmaNear(addr, len)) {
      this.post(addr, ptr, len, who);
      return;
    }
    for (let done = 0; done < len; ) {
      const kind = this.iatu.matchDma(addr + done, len - done);
      const n = this.iatu.run;
      if (kind === MATCH_NONE) this.post(addr + done, ptr + done, n, who);
      else if (kind === MATCH_MEM) {
        this.stats.dmaTranslated++;
        this.post(this.iatu.address, ptr + done, n, who);
      } else this.#dropped(addr + done, n, who, "an outbound region that is no memory region");
      done += n;
    }
  }

  /** DMA memory read, through the iATU where it covers it. @returns 0 or a CAUSE_* */
  read(addr: number, ptr: number, len: number, who: Requester): number {
    if (!this.iatu.dmaNear(addr, len)) return this.fetch(addr, ptr, len, who);
    for (let done = 0; done < len; ) {
      const kind = this.iatu.matchDma(addr + done, len - done);
      const n = this.iatu.run;
      let cause = CAUSE_UR;
      if (kind === MATCH_NONE) cause = this.fetch(addr + done, ptr + done, n, who);
      else if (kind === MATCH_MEM) {
        this.stats.dmaTranslated++;
        cause = this.fetch(this.iatu.address, ptr + done, n, who);
      }
      if (cause !== 0) return cause;
      done += n;
    }
    return 0;
  }

  /** A posted memory write on the wire. Four bytes that hit no memory may be a message interrupt. */
  post(addr: number, ptr: number, len: number, who: Requester): void {
    const host = this.host;
    if (host === null || !this.config.master || !this.config.linkUp) {
      this.stats.busMasterBlocked++;
      this.#cutOff(addr, len, who);
      return;
    }
    const memory = host.memory;
    const shadow = memory.shadow;
    for (let done = 0; done < len; ) {
      const dst = memory.resolve(addr + done, len - done, true);
      if (dst === 0) {
        if (len === 4 && (addr & 3) === 0 && !memory.holds(addr) && host.message(addr, ld32(ptr))) {
          this.stats.messages++;
          return;
        }
        this.#dropped(addr + done, len - done, who, "no memory there that may be written");
        return;
      }
      const n = memory.run;
      if (shadow !== null && !shadow.check(addr + done, n, true))
        this.#violation(who, true, "host", addr + done, n, shadow.badAddr);
      if (!ORDERED_STORES) fence();
      copy(dst, ptr + done, n);
      done += n;
    }
  }

  /** A memory read on the wire. @returns 0, CAUSE_UR or CAUSE_CA */
  fetch(addr: number, ptr: number, len: number, who: Requester): number {
    const host = this.host;
    if (host === null || !this.config.master || !this.config.linkUp) {
      this.stats.busMasterBlocked++;
      this.stats.unsupportedRequests++;
      return CAUSE_UR;
    }
    const memory = host.memory;
    const shadow = memory.shadow;
    for (let done = 0; done < len; ) {
      const src = memory.resolve(addr + done, len - done, false);
      if (src === 0) {
        // memory that may not be read completes with an abort, an address that nobody has is unsupported
        if (memory.holds(addr + done)) {
          this.stats.completerAborts++;
          this.config.received(STATUS_TARGET_ABORT);
          return CAUSE_CA;
        }
        this.stats.unsupportedRequests++;
        this.config.received(STATUS_MASTER_ABORT);
        return CAUSE_UR;
      }
      const n = memory.run;
      if (shadow !== null && !shadow.check(addr + done, n, false))
        this.#violation(who, false, "host", addr + done, n, shadow.badAddr);
      copy(ptr + done, src, n);
      done += n;
    }
    return 0;
  }

  /**
   * A host may switch bus mastering off or drop the link (a crash, a reboot) with lists under way: nothing tells the
   * board, and what it had begun is lost harmlessly. That is a violation only once it should know.
   */
  #cutOff(addr: number, len: number, who: Requester): void {
    const { config } = this;
    if (this.host === null) this.#dropped(addr, len, who, "no host");
    else if (config.turnsCutOff < UNAWARE_TURNS) this.stats.postedDropped++;
    else this.#dropped(addr, len, who, "bus mastering off");
  }

  #dropped(addr: number, len: number, who: Requester, why: string): void {
    this.stats.postedDropped++;
    if (this.board.shadow !== null)
      this.violations.add(`${who.describe()}: write of ${len} bytes to PCI 0x${addr.toString(16)} is lost: ${why}`);
  }

  #violation(who: Requester, write: boolean, side: string, addr: number, len: number, bad: number): void {
    this.violations.add(
      `${who.describe()}: ${write ? "writes" : "reads"} ${side} memory 0x${addr.toString(16)} +${len}, byte 0x${bad.toString(16)} is not granted for it`,
    );
  }
}
