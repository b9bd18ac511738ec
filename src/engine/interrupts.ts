/**
 * Interrupts towards the host (VIRTIO 1.2 4.1.5.1.2 MSI-X, 4.1.4.5 INTx). MSI-X is a 4-byte element on the write channel,
 * so it cannot overtake the used index in front of it; a masked entry leaves its pending bit and is sent when the
 * host unmasks. INTx is a pair of messages that the CPU sends through the outbound window, which nothing orders with the
 * DMA: the line is asserted only when the used index has landed, and then held for a pulse.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { type Intx, IRQ_READY, type MsixTable } from "../hw/irq.ts";
import { st32 } from "../hw/mem.ts";
import { NO_VECTOR } from "../hw/virtio.layout.ts";

const SLOTS = 8192;
const TWO32 = 4294967296;

export class Interrupts {
  /** interrupts sent, found masked, and INTx pulses (counters) */
  sent = 0;
  masked = 0;
  /** something is owed to the host: a field, since every turn asks */
  owed = false;
  private readonly stage: DmaRegion;
  private readonly table: MsixTable | null;
  private readonly intx: Intx | null;
  private slot = 0;
  private readonly held = new Uint8Array(2048);
  private heldCount = 0;
  private msix = false;
  private intxUp = false;
  private intxAgain = false;
  private intxSince = 0;
  private intxSinceNs = 0;
  /** the host has set Interrupt Disable: the level is told when it clears the bit */
  private intxBlocked = false;
  /** elements that must land before the line is asserted: the oldest such mark, and the newest one behind it */
  private intxWaiting = false;
  private intxMark = 0;
  private intxLater = false;
  private intxLaterMark = 0;
  private readonly intxHoldTurns: number;
  private readonly intxHoldNs: number;

  /**
   * An INTx stays asserted for both of these. Too short and a host never sees it, too long and its handler runs
   * thousands of times for nothing, after which Linux disables the line.
   * @param intxHoldTurns turns of the service loop @param intxHoldNs nanoseconds, 0: only turns count
   */
  constructor(memory: DmaMemory, table: MsixTable | null, intx: Intx | null, intxHoldTurns: number, intxHoldNs = 0) {
    this.stage = memory.alloc("msix-data", SLOTS * 4, 64);
    this.table = table;
    this.intx = intx;
    this.intxHoldTurns = intxHoldTurns;
    this.intxHoldNs = intxHoldNs;
  }

  /** Begin a new life; `msix` as the host chose it. */
  attach(msix: boolean): void {
    this.msix = msix;
    this.held.fill(0);
    this.heldCount = 0;
    this.reckon();
  }

  /** The host is gone: nothing is asserted and nothing is owed. */
  detach(): void {
    if (this.intxUp) {
      this.intxUp = false;
      this.intx?.deassert();
    }
    this.intxAgain = this.intxWaiting = this.intxLater = this.intxBlocked = false;
    for (let v = 0; this.heldCount > 0 && v < this.held.length; v++) {
      if (this.held[v] === 0) continue;
      this.held[v] = 0;
      this.heldCount--;
      this.table?.clearPending(v);
    }
    this.heldCount = 0;
    this.owed = false;
  }

  /** The link was reset, and the iATU perhaps with it. After detach(). @throws Fault as the first set-up */
  program(): void {
    this.intx?.program();
  }

  /**
   * Interrupt for `vector` (ignored with INTx) behind everything on `ch`; needs room for one element, the caller commits.
   * @returns 1 when an element was put, else 0
   */
  raise(ch: DmaChannel, vector: number): number {
    if (!this.msix) {
      this.await(ch.putCount);
      return 0;
    }
    if (vector === NO_VECTOR || this.table === null) return 0;
    const rc = this.table.load(vector);
    if (rc === 1) {
      this.masked++;
      if (this.held[vector] === 0) {
        this.held[vector] = 1;
        this.heldCount++;
        this.owed = true;
      }
      return 0;
    }
    if (rc !== 0) return 0;
    const k = this.slot;
    this.slot = (k + 1) & (SLOTS - 1);
    st32(this.stage.ptr + k * 4, this.table.data);
    const bus = this.stage.bus + k * 4;
    const hi = Math.floor(bus / TWO32);
    ch.put(4, (bus - hi * TWO32) | 0, hi | 0, this.table.addrLo, this.table.addrHi);
    this.sent++;
    return 1;
  }

  /** Assert the line once element `mark` has landed. */
  private await(mark: number): void {
    if (this.intx === null) return;
    this.owed = true;
    if (!this.intxWaiting) {
      this.intxWaiting = true;
      this.intxMark = mark;
    } else if (mark !== this.intxMark) {
      this.intxLater = true;
      this.intxLaterMark = mark;
    }
  }

  private pulse(intx: Intx): void {
    if (this.intxUp) {
      this.intxAgain = true;
      return;
    }
    this.intxBlocked = intx.assert() !== IRQ_READY;
    this.intxUp = true;
    this.intxSince = 0;
    if (this.intxHoldNs > 0) this.intxSinceNs = Bun.nanoseconds();
    this.sent++;
  }

  private line(ch: DmaChannel, intx: Intx): void {
    if (this.intxWaiting && ((ch.doneCount - this.intxMark) | 0) >= 0) {
      this.intxWaiting = this.intxLater;
      this.intxMark = this.intxLaterMark;
      this.intxLater = false;
      this.pulse(intx);
    }
    if (!this.intxUp || ++this.intxSince < this.intxHoldTurns) return;
    if (this.intxBlocked) {
      this.intxSince = 0;
      if (intx.refresh() !== IRQ_READY) return;
      this.intxBlocked = false;
      if (this.intxHoldNs > 0) this.intxSinceNs = Bun.nanoseconds();
      return;
    }
    if (this.intxHoldNs > 0 && Bun.nanoseconds() - this.intxSinceNs < this.intxHoldNs) return;
    intx.deassert();
    this.intxUp = false;
    if (this.intxAgain) {
      this.intxAgain = false;
      this.pulse(intx);
    }
  }

  /** Once a turn: begin and end INTx pulses, send what was held back by a mask. @returns 1 when the channel needs a commit */
  turn(ch: DmaChannel): number {
    if (!this.owed) return 0;
    if (!this.msix) {
      if (this.intx !== null && (this.intxWaiting || this.intxUp)) this.line(ch, this.intx);
      this.reckon();
      return 0;
    }
    if (this.heldCount === 0 || this.table === null || ch.room() < 4) return 0;
    let put = 0;
    const vectors = this.table.vectors;
    for (let v = 0; v < vectors && this.heldCount > 0; v++) {
      if (this.held[v] === 0 || this.table.load(v) !== 0) continue;
      this.held[v] = 0;
      this.heldCount--;
      this.table.clearPending(v);
      put |= this.raise(ch, v);
      if (ch.room() < 4) break;
    }
    this.reckon();
    return put;
  }

  /** The line must be served in time, so the loop must not sleep. A masked vector can wait for the next look. */
  get busy(): boolean {
    return this.intxWaiting || (this.intxUp && !this.intxBlocked);
  }

  private reckon(): void {
    this.owed = this.intxWaiting || this.intxUp || this.heldCount > 0;
  }
}
