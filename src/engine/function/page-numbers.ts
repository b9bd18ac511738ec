/**
 * The legacy function's queue address: one page number word for both queues, which must read 0 before the driver sets up
 * the next one (VIRTIO 1.2 4.1.5.1.3.1; Linux fails its probe else). So it is taken and zeroed the moment it is seen, and
 * at DRIVER_OK the last two that were found are those of queues 0 and 1. Which race each rule answers: docs/function.md.
 */
import { ld8, ld16, ld32, st8, st32 } from "../../hw/mem.ts";
import {
  LEGACY_GUEST_FEATURES,
  LEGACY_MSI_CONFIG_VECTOR,
  LEGACY_MSI_QUEUE_VECTOR,
  LEGACY_QUEUE_PFN,
  LEGACY_QUEUE_SEL,
  NO_VECTOR,
} from "../../hw/virtio.layout.ts";
import { MARK, markedVector } from "./attempt.ts";
import type { FunctionStats } from "./host-function.ts";
import { type FunctionParts, msixEnabled } from "./parts.ts";

/** what the guest features are parked at: bit 31 is never offered, so no driver writes this */
export const FEATURES_PARKED = 0x80000000 | 0;
/** upper byte of the config vector, and a value that no vector and not NO_VECTOR has there; see attempt.ts */
const VECTOR_HIGH = LEGACY_MSI_CONFIG_VECTOR + 1;

/** One page number as it was found. */
export interface Found {
  pfn: number;
  vector: number;
  /** the vector was read while queue_select was past this queue and the next page number was not there */
  sure: number;
}

export class PageNumbers {
  /** the page number before the last, and the last; pfn 0: none */
  older: Found = { pfn: 0, vector: NO_VECTOR, sure: 0 };
  newer: Found = { pfn: 0, vector: NO_VECTOR, sure: 0 };
  /** MSI-X Enable as it shaped the layout of the register block */
  wide = false;
  private readonly bar: number;

  constructor(
    private readonly parts: FunctionParts,
    private readonly stats: FunctionStats,
  ) {
    this.bar = parts.bar;
  }

  /**
   * A page number is there: take it and zero the word, which the host looks at again within a microsecond or two.
   * Between the load and the store the host may write another one only if it has begun anew; what it does first then
   * is looked at behind the store.
   * @returns whether there was one
   */
  take(): boolean {
    const at = this.bar + LEGACY_QUEUE_PFN;
    let pfn = ld32(at);
    if (pfn === 0) return false;
    if (this.wide && ld8(this.bar + VECTOR_HIGH) !== MARK) {
      // the attempt's first; one that begins behind the mark erases it
      st8(this.bar + VECTOR_HIGH, MARK);
      pfn = ld32(at);
      if (pfn === 0) return false;
    }
    st32(at, 0);
    if (
      (ld32(this.bar + LEGACY_GUEST_FEATURES) | 0) !== FEATURES_PARKED ||
      msixEnabled(this.parts.dbi, this.parts.msixCap) !== this.wide ||
      !this.isVectorKept()
    ) {
      this.forget();
      this.stats.missed++;
      return true;
    }
    const reuse = this.older;
    this.older = this.newer;
    reuse.pfn = pfn;
    reuse.vector = NO_VECTOR;
    reuse.sure = 0;
    this.newer = reuse;
    return true;
  }

  forget(): void {
    this.older.pfn = 0;
    this.newer.pfn = 0;
  }

  /** Keep overwriting the last queue's vector with the cell; the loads are ordered so that it cannot be a later queue's. */
  watchVector(): void {
    if (!this.wide || this.newer.pfn === 0) return;
    const select = ld16(this.bar + LEGACY_QUEUE_SEL);
    const vector = ld16(this.bar + LEGACY_MSI_QUEUE_VECTOR);
    if (ld32(this.bar + LEGACY_QUEUE_PFN) !== 0) return;
    this.newer.vector = vector;
    if (select === 1) this.newer.sure = 1;
  }

  /** @returns whether MSI-X Enable, and with it the place of the device config, is not as it was */
  watchLayout(): boolean {
    if (this.parts.msixCap === 0) return false;
    const wide = msixEnabled(this.parts.dbi, this.parts.msixCap);
    // an attempt with vectors that came and went unseen has left its own in place of the MAC
    if (wide === this.wide && (wide || this.isVectorKept())) return false;
    this.wide = wide;
    return true;
  }

  /**
   * No attempt of the driver with MSI-X has begun or ended since the config vector was marked. Without MSI-X the MAC is
   * in its place, where such an attempt leaves NO_VECTOR.
   */
  private isVectorKept(): boolean {
    if (this.wide) return ld8(this.bar + VECTOR_HIGH) === MARK;
    return this.parts.msixCap === 0 || ld16(this.bar + LEGACY_MSI_CONFIG_VECTOR) !== NO_VECTOR;
  }

  /** The vector that the driver mapped configuration changes to. */
  get configVector(): number {
    return this.wide ? markedVector(ld16(this.bar + LEGACY_MSI_CONFIG_VECTOR)) : NO_VECTOR;
  }

  /** The register reads as the driver wrote it again (4.1.5.1.2.1). @param config what it wrote */
  unmark(config: number): void {
    if (this.wide && this.isVectorKept()) st8(this.bar + VECTOR_HIGH, config === NO_VECTOR ? 0xff : 0);
  }
}
