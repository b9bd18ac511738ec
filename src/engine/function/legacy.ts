/**
 * The legacy (transitional) function: the register block of VIRTIO 1.2 4.1.4.10 at offset 0 of BAR0, in plain memory.
 * The queue address is a single word that must read 0 before the driver sets up the next queue, so a driver that gets
 * to DRIVER_OK has been seen by construction: the last two page numbers found are those of queues 0 and 1.
 */
import { ld8, ld16, ld32, st8, st16, st32 } from "../../hw/mem.ts";
import {
  F_STATUS,
  LEGACY_CONFIG_MSIX,
  LEGACY_CONFIG_NO_MSIX,
  LEGACY_GUEST_FEATURES,
  LEGACY_HOST_FEATURES,
  LEGACY_ISR,
  LEGACY_MSI_QUEUE_VECTOR,
  LEGACY_QUEUE_NOTIFY,
  LEGACY_QUEUE_NUM,
  LEGACY_QUEUE_PFN,
  LEGACY_QUEUE_SEL,
  LEGACY_STATUS,
  NO_VECTOR,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_NEEDS_RESET,
} from "../../hw/virtio.layout.ts";
import { emptyQueue, judgeVectors, legacyRing, queuesOverlap } from "./capture.ts";
import { ConfigNotice } from "./config-notice.ts";
import { legacyHeader } from "./features.ts";
import {
  FN_DOWN,
  FN_NONE,
  FN_REFUSED,
  FN_UP,
  type FunctionStats,
  type HostFunction,
  type QueueCapture,
} from "./host-function.ts";
import { FEATURES_PARKED, PageNumbers } from "./page-numbers.ts";
import { emptyStats, type FunctionParts, GAVE_UP, msixEnabled, REBIND, resetMsix } from "./parts.ts";

const NOTIFY_PARKED = 0xffff;
const WATCHING = 0;
const LIVE = 1;
const REFUSED = 2;

export class LegacyFunction implements HostFunction {
  readonly personality = "legacy" as const;
  readonly resumable = false;
  readonly queues: readonly [QueueCapture, QueueCapture] = [emptyQueue(), emptyQueue()];
  readonly freshQueues = 3;
  readonly msixTablePtr: number;
  readonly pbaPtr: number;
  readonly vectors: number;
  readonly intxPin: boolean;
  readonly stats: FunctionStats = emptyStats();
  live = false;
  featuresLo = 0;
  readonly featuresHi = 0;
  inOrder = false;
  hdrLen = 10;
  msix = false;
  configVector = NO_VECTOR;
  lastRefusal = "";
  private readonly bar: number;
  private state = WATCHING;
  private lastStatus = 0;
  private frozen = 0;
  private readonly pages: PageNumbers;
  private readonly notice: ConfigNotice;
  private accepted = 0;
  /** the driver set FAILED and none has begun since */
  private gone = false;
  private readonly hinted = new Uint8Array(2);

  constructor(private readonly parts: FunctionParts) {
    this.bar = parts.bar;
    this.msixTablePtr = parts.msixTablePtr;
    this.pbaPtr = parts.pbaPtr;
    this.vectors = parts.vectors;
    this.intxPin = parts.intxPin;
    this.pages = new PageNumbers(parts, this.stats);
    this.notice = new ConfigNotice(this.bar + LEGACY_ISR, this.bar + LEGACY_STATUS, 0, parts.config);
    st32(this.bar + LEGACY_QUEUE_PFN, 0);
    st32(this.bar + LEGACY_GUEST_FEATURES, FEATURES_PARKED);
    st8(this.bar + LEGACY_STATUS, 0);
    this.clean();
    this.pages.wide = msixEnabled(parts.dbi, parts.msixCap);
    this.writeConfig();
  }

  poll(): number {
    if (this.state === WATCHING) return this.follow();
    const b = this.bar;
    // a page number is a life sign: the word was zeroed, and only a driver at its set-up writes another value
    if (ld32(b + LEGACY_QUEUE_PFN) === 0 && (ld8(b + LEGACY_STATUS) & ~STATUS_NEEDS_RESET) === this.frozen) {
      if (this.notice.countdown > 0) this.notice.tick();
      return FN_NONE;
    }
    this.end();
    return FN_DOWN;
  }

  private follow(): number {
    this.watchLife();
    // The device config lies 4 bytes further on while MSI-X is enabled, and the two vector cells in its old place.
    if (this.pages.watchLayout()) this.writeConfig();
    this.pages.take();
    const status = ld8(this.bar + LEGACY_STATUS);
    if (status === 0) {
      // whatever was found was found before status was read, so it belongs to the life that has ended
      if (this.lastStatus !== 0) this.clean();
      this.gone = false;
      this.pages.forget();
      this.accepted = 0;
    } else this.pages.watchVector();
    const failed = status & ~this.lastStatus & STATUS_FAILED;
    this.lastStatus = status;
    if (failed !== 0) return this.gaveUp();
    if ((status & STATUS_DRIVER_OK) !== 0 && !this.gone) return this.freeze(status);
    return FN_NONE;
  }

  /** Linux does not reset the function then, and FAILED stays over its next try. */
  private gaveUp(): number {
    this.pages.forget();
    this.gone = true;
    this.configVector = NO_VECTOR;
    this.lastRefusal = GAVE_UP;
    this.stats.refusals++;
    return FN_REFUSED;
  }

  /** Every life writes its accepted features before it sets up queues; the word is parked so that this shows. */
  private watchLife(): void {
    const accepted = ld32(this.bar + LEGACY_GUEST_FEATURES) | 0;
    if (accepted === FEATURES_PARKED) return;
    st32(this.bar + LEGACY_GUEST_FEATURES, FEATURES_PARKED);
    this.gone = false;
    this.accepted = accepted;
    this.pages.forget();
  }

  private writeConfig(): void {
    this.parts.config.write(this.configAt());
  }

  private configAt(): number {
    return this.bar + (this.pages.wide ? LEGACY_CONFIG_MSIX : LEGACY_CONFIG_NO_MSIX);
  }

  /** Constant registers and those the host does not own while status is 0. Not the MSI-X cells: a removal still reads them. */
  private clean(): void {
    const b = this.bar;
    st32(b + LEGACY_HOST_FEATURES, this.parts.features);
    st16(b + LEGACY_QUEUE_NUM, this.parts.queueSize);
    st16(b + LEGACY_QUEUE_NOTIFY, NOTIFY_PARKED);
    this.notice.reset();
    this.hinted.fill(0);
  }

  private end(): void {
    this.live = false;
    this.state = WATCHING;
    this.stats.resets++;
    this.pages.forget();
    // any value but 0: the next poll cleans when it finds status 0
    this.lastStatus = this.frozen;
    this.clean();
  }

  private freeze(status: number): number {
    const { parts, queues, pages } = this;
    const b = this.bar;
    // written after follow() looked for it: look at everything again with it in place
    if (pages.take()) return FN_NONE;
    const { older, newer } = pages;
    const select = ld16(b + LEGACY_QUEUE_SEL);
    const { accepted } = this;
    this.msix = pages.wide;
    const config = pages.configVector;
    if (this.msix) newer.vector = ld16(b + LEGACY_MSI_QUEUE_VECTOR);
    // one more look: all of the above belongs to one life
    if (ld8(b + LEGACY_STATUS) !== status || ld32(b + LEGACY_QUEUE_PFN) !== 0) return FN_NONE;
    if ((ld32(b + LEGACY_GUEST_FEATURES) | 0) !== FEATURES_PARKED) return FN_NONE;

    if (newer.pfn === 0) return this.refuse(status, "no queue address was seen");
    if (older.pfn === 0) return this.refuse(status, `only one queue address was seen (page 0x${hex(newer.pfn)})`);
    if (select !== 1)
      return this.refuse(status, `queue_select rests at ${select}, a driver of one pair of queues leaves it at 1`);
    if ((accepted & ~parts.features) !== 0)
      return this.refuse(
        status,
        `the driver accepted features 0x${hex(accepted)}, 0x${hex(parts.features)} were offered`,
      );
    legacyRing(queues[0], older.pfn, parts.queueSize, this.msix ? older.vector : NO_VECTOR);
    legacyRing(queues[1], newer.pfn, parts.queueSize, this.msix ? newer.vector : NO_VECTOR);
    if (queuesOverlap(queues[0], queues[1]))
      return this.refuse(
        status,
        `the rings of queue 0 (page 0x${hex(older.pfn)}) and queue 1 (page 0x${hex(newer.pfn)}) overlap at queue size ${parts.queueSize}`,
      );
    if (this.msix) {
      const why = judgeVectors(queues[0].vector, queues[1].vector, older.sure === 1, parts.vectors);
      if (why !== "") return this.refuse(status, why);
    }
    this.featuresLo = accepted;
    this.hdrLen = legacyHeader(accepted);
    this.inOrder = false;
    this.configVector = config < parts.vectors ? config : NO_VECTOR;
    pages.unmark(config);
    this.frozen = status & ~STATUS_NEEDS_RESET;
    this.lastRefusal = "";
    this.state = LIVE;
    this.live = true;
    this.stats.negotiations++;
    return FN_UP;
  }

  private refuse(status: number, rule: string): number {
    // for the notification that comes with NEEDS_RESET
    const config = this.pages.configVector;
    this.msix = this.pages.wide;
    this.configVector = config < this.parts.vectors ? config : NO_VECTOR;
    this.state = REFUSED;
    this.live = false;
    this.frozen = status & ~STATUS_NEEDS_RESET;
    this.lastRefusal = `${rule}; ${REBIND}`;
    this.stats.refusals++;
    return FN_REFUSED;
  }

  stillLive(): boolean {
    return this.live && (ld8(this.bar + LEGACY_STATUS) & ~STATUS_NEEDS_RESET) === this.frozen;
  }

  setHdrLen(bytes: number): void {
    this.hdrLen = bytes;
  }

  setLink(up: boolean): number {
    if (!this.notice.showLink(up, this.configAt())) return 0;
    return this.live && ((this.featuresLo >>> F_STATUS) & 1) === 1 ? this.notice.raise(this.reachable) : 0;
  }

  setNeedsReset(): number {
    return this.notice.needsReset(this.reachable);
  }

  /** A config interrupt would reach the driver. */
  private get reachable(): boolean {
    return !this.msix || this.configVector !== NO_VECTOR;
  }

  notifyHint(queue: number): number {
    const at = this.bar + LEGACY_QUEUE_NOTIFY;
    if (ld16(at) !== NOTIFY_PARKED) {
      st16(at, NOTIFY_PARKED);
      // notifies of both queues collapse in the one word
      this.hinted.fill(1);
    }
    if (this.hinted[queue] === 0) return -1;
    this.hinted[queue] = 0;
    return queue;
  }

  get negotiating(): boolean {
    return this.state === WATCHING && !this.gone && (this.lastStatus & STATUS_DRIVER) !== 0;
  }

  intact(): boolean {
    return this.parts.intact();
  }

  hostGone(): void {
    const { parts } = this;
    const b = this.bar;
    if (this.state !== WATCHING) this.stats.resets++;
    this.live = false;
    this.state = WATCHING;
    st8(b + LEGACY_STATUS, 0);
    st32(b + LEGACY_QUEUE_PFN, 0);
    resetMsix(parts);
    this.pages.forget();
    this.lastStatus = 0;
    this.clean();
    if (!parts.intact()) parts.program();
    this.pages.wide = msixEnabled(parts.dbi, parts.msixCap);
    this.writeConfig();
  }

  close(): void {
    this.live = false;
    this.parts.onClose();
  }
}

const hex = (v: number): string => (v >>> 0).toString(16);
