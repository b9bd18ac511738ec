/**
 * Tells one attempt of the host's driver to set up its queues from the next. Linux tries up to four interrupt policies in
 * one life; each MSI-X attempt writes the config vector before any queue, and takes it away again when it fails. So the
 * upper byte of that register is marked: a mark that is still there means that no attempt began or ended since. And
 * while an MSI-X attempt has not had its first queue captured, num_queues says 1: the driver reads it once more before
 * the second queue, fails the attempt by itself and tries again, where else a queue would be lost.
 */
import { ld16, st8, st16 } from "../../hw/mem.ts";
import type { Mmio } from "../../hw/mmio.ts";
import { COMMON_MSIX, COMMON_NUMQ, COMMON_Q_MSIX, NO_VECTOR } from "../../hw/virtio.layout.ts";
import { msixEnabled } from "./parts.ts";

/** upper byte of a vector register that no vector has (tables end at 2048), nor NO_VECTOR */
export const MARK = 0x80;
const QUEUES = 2;

/** The vector of a register that may be marked; ours are below 255. */
export function markedVector(cell: number): number {
  if (cell >>> 8 !== MARK) return cell;
  return (cell & 0xff) === 0xff ? NO_VECTOR : cell & 0xff;
}

export class Attempt {
  /** what was in the queue words when the mark was set may be an earlier attempt's */
  doubtful = false;
  /** MSI-X was seen in this life, or else in the last one; most hosts use it */
  private usual: boolean;
  /** the queue vector cell was NO_VECTOR at some time in this life, so what it has now was written in it */
  private vectorKnown = true;

  /** @param common CPU address of the common config */
  constructor(
    private readonly common: number,
    private readonly dbi: Mmio,
    private readonly msixCap: number,
  ) {
    this.usual = msixCap !== 0;
  }

  /** No driver is at work; the registers are as after a reset. */
  reset(): void {
    this.doubtful = false;
    this.vectorKnown = true;
    if (this.usual) this.lock();
    else this.unlock();
    // 4.1.5.1.2.1: nothing is mapped after a reset. A removal writes the same, a set-up writes its own behind FEATURES_OK.
    st16(this.common + COMMON_MSIX, NO_VECTOR);
    st16(this.common + COMMON_Q_MSIX, NO_VECTOR);
  }

  /** A life was noticed when its driver may be setting up queues already. */
  resetLate(): void {
    this.vectorKnown = ld16(this.common + COMMON_Q_MSIX) === NO_VECTOR;
    this.doubtful = false;
    this.mark();
    this.unlock();
  }

  /** No attempt has begun or ended since mark(). Without MSI-X there is only one in a life. */
  get same(): boolean {
    return this.msixCap === 0 || ld16(this.common + COMMON_MSIX) >>> 8 === MARK;
  }

  /**
   * A byte store: the vector beside it stays whatever the host writes meanwhile. Linux reads the vector back, right
   * after it wrote it, and compares with NO_VECTOR only; others may compare it whole, so it is not marked at once.
   */
  mark(): void {
    st8(this.common + COMMON_MSIX + 1, MARK);
  }

  /** The register reads as the driver wrote it again (4.1.5.1.2.1). */
  unmark(): void {
    if (!this.same || this.msixCap === 0) return;
    st8(this.common + COMMON_MSIX + 1, this.configVector === NO_VECTOR ? 0xff : 0);
  }

  get configVector(): number {
    return markedVector(ld16(this.common + COMMON_MSIX));
  }

  /** MSI-X is on: an attempt that can fail and be followed by another. */
  get repeatable(): boolean {
    const on = msixEnabled(this.dbi, this.msixCap);
    if (on) this.usual = true;
    return on;
  }

  /**
   * A driver has come. It will use MSI-X if the last one did, and only then is it locked, since the reset: without
   * vectors it has no other try, and is two reads from queue 0 to num_queues.
   */
  come(): void {
    this.usual = false;
  }

  /** The driver shall not go on to queue 1 before queue 0 was captured. */
  lock(): void {
    st16(this.common + COMMON_NUMQ, QUEUES - 1);
  }

  unlock(): void {
    st16(this.common + COMMON_NUMQ, QUEUES);
  }

  /**
   * `vector` was read behind the mark and in front of the words. It is taken away with each queue of a failed attempt, so
   * one that is there was written in the attempt under way, and the words before it.
   * @returns true when the words are no longer doubtful
   */
  settles(vector: number): boolean {
    if (vector === NO_VECTOR) this.vectorKnown = true;
    if (!this.doubtful || vector === NO_VECTOR || !this.vectorKnown) return false;
    this.doubtful = false;
    return true;
  }
}
