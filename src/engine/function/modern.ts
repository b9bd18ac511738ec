/**
 * The modern (virtio 1.x) function on a BAR of plain memory: follows the host's driver through status, features and
 * queues by polling alone (VIRTIO 1.2 3.1.1, 4.1.4.3). Which race each rule answers: docs/function.md.
 */
import { ld8, ld16, ld32, st8, st16, st32 } from "../../hw/mem.ts";
import {
  COMMON_CFGGENERATION,
  COMMON_DF,
  COMMON_DFSELECT,
  COMMON_GF,
  COMMON_GFSELECT,
  COMMON_Q_NOFF,
  COMMON_Q_RESET,
  COMMON_STATUS,
  F_GUEST_TSO6,
  F_STATUS,
  NET_CFG_STATUS,
  NET_S_LINK_UP,
  NO_VECTOR,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  STATUS_NEEDS_RESET,
} from "../../hw/virtio.layout.ts";
import { Attempt } from "./attempt.ts";
import { ConfigNotice } from "./config-notice.ts";
import { acceptedModern } from "./features.ts";
import {
  FN_DOWN,
  FN_NONE,
  FN_REFUSED,
  FN_UP,
  type FrozenLife,
  type FunctionStats,
  type HostFunction,
  type QueueCapture,
} from "./host-function.ts";
import { NotifyWord } from "./notify.ts";
import { emptyStats, type FunctionParts, GAVE_UP, msixEnabled, REBIND, resetMsix } from "./parts.ts";
import { QueueWords } from "./queue-words.ts";
import { RING_BAD, RING_WAIT, RingReset } from "./ring-reset.ts";
import { MODERN_DEVICE, MODERN_ISR, MODERN_NOTIFY } from "./setup.ts";
import { judgeSetup } from "./verdict.ts";

/** what device_feature_select holds until a driver writes it: every life begins with such a write */
const SELECT_PARKED = -1;
/** a queue_select that moves under every sample is not a driver at rest */
const SETTLE_TRIES = 4;

/** states of one life */
const WATCHING = 0;
const LIVE = 1;
const REFUSED = 2;
/** one ring is being reset, the handshake is open */
const RING_RESET = 3;

/**
 * Whether the driver that was captured still drives the function. The status alone does not say so: while nobody looked,
 * it may have been reset and set up again; that begins with a write of device_feature_select.
 */
export function isStill(bar: number, life: FrozenLife): boolean {
  return ld8(bar + COMMON_STATUS) === life.status && (ld32(bar + COMMON_DFSELECT) | 0) === SELECT_PARKED;
}

export class ModernFunction implements HostFunction {
  readonly personality = "modern" as const;
  readonly resumable = true;
  readonly queues: readonly [QueueCapture, QueueCapture];
  readonly msixTablePtr: number;
  readonly pbaPtr: number;
  readonly vectors: number;
  readonly intxPin: boolean;
  readonly stats: FunctionStats = emptyStats();
  live = false;
  freshQueues = 0;
  featuresLo = 0;
  featuresHi = 0;
  inOrder = false;
  hdrLen = 12;
  msix = false;
  configVector = NO_VECTOR;
  lastRefusal = "";
  private readonly common: number;
  private readonly attempt: Attempt;
  private readonly words: QueueWords;
  private state = WATCHING;
  private lastStatus = 0;
  /** status byte of the frozen life, without NEEDS_RESET */
  private frozen = 0;
  private tainted = false;
  /** the driver set FAILED and none has begun since */
  private gone = false;
  /** nothing was taken from the registers since clean() */
  private untouched = false;
  private readonly offersRingReset: boolean;
  private readonly ringReset: RingReset;
  readonly notify: NotifyWord;
  private readonly notice: ConfigNotice;

  /** @param life goes on without FN_UP when the registers in `parts.bar` are still those it was frozen with */
  constructor(
    private readonly parts: FunctionParts,
    life: FrozenLife | null = null,
  ) {
    this.common = parts.bar;
    this.msixTablePtr = parts.msixTablePtr;
    this.pbaPtr = parts.pbaPtr;
    this.vectors = parts.vectors;
    this.intxPin = parts.intxPin;
    this.offersRingReset = ((parts.features >>> F_GUEST_TSO6) & 1) === 1;
    this.notify = new NotifyWord(parts.bar + MODERN_NOTIFY);
    this.attempt = new Attempt(this.common, parts.dbi, parts.msixCap);
    this.words = new QueueWords(this.common, parts.queueSize, this.stats, this.attempt);
    this.queues = this.words.queues;
    this.ringReset = new RingReset(this.common, this.words, this.stats);
    this.notice = new ConfigNotice(
      parts.bar + MODERN_ISR,
      this.common + COMMON_STATUS,
      this.common + COMMON_CFGGENERATION,
      parts.config,
    );
    if (life !== null && isStill(this.common, life)) {
      this.goOn(life);
      return;
    }
    st8(this.common + COMMON_STATUS, 0);
    this.clean();
  }

  poll(): number {
    const c = this.common;
    const status = ld8(c + COMMON_STATUS);
    const select = ld32(c + COMMON_DFSELECT) | 0;
    if (this.state === LIVE && select === SELECT_PARKED && (status & ~STATUS_NEEDS_RESET) === this.frozen) {
      if (this.notice.countdown > 0) this.notice.tick();
      return this.offersRingReset ? this.watchRingReset() : FN_NONE;
    }
    return this.follow(status, select);
  }

  /** Everything but the quiet live case. */
  private follow(status: number, select: number): number {
    const same = select === SELECT_PARKED && (status & ~STATUS_NEEDS_RESET) === this.frozen;
    if (this.state === RING_RESET && same) return this.followRingReset();
    if (this.state === REFUSED && same) return FN_NONE;
    if (this.state !== WATCHING) {
      this.end(status);
      return FN_DOWN;
    }
    if (select !== SELECT_PARKED) this.newLife();
    else if (status === 0) {
      if (this.lastStatus !== 0) this.clean();
    } else if ((this.lastStatus & ~status) !== 0) {
      // lowered without being seen at 0
      this.newLife();
    }
    if ((status & ~this.lastStatus & STATUS_FAILED) !== 0) return this.gaveUp(status);
    this.lastStatus = status;
    if (this.gone) return FN_NONE;
    if ((status & STATUS_FEATURES_OK) !== 0) {
      this.untouched = false;
      const steady = this.words.sample();
      if ((status & STATUS_DRIVER_OK) !== 0) return this.freeze(status, steady);
    } else if ((status & STATUS_DRIVER_OK) !== 0) {
      return this.refuse(status, `DRIVER_OK without FEATURES_OK (status 0x${status.toString(16)})`);
    } else if ((status & STATUS_DRIVER) !== 0) this.words.expect();
    return FN_NONE;
  }

  /** A life is over: live or refused until now. */
  private end(status: number): void {
    this.live = false;
    this.state = WATCHING;
    this.stats.resets++;
    if ((status & STATUS_FEATURES_OK) === 0) this.clean();
    else this.newLife();
    this.lastStatus = status & ~STATUS_FAILED;
  }

  /** Linux does not reset the function then, and FAILED stays over its next try. */
  private gaveUp(status: number): number {
    this.clean();
    this.tainted = false;
    this.gone = true;
    this.lastStatus = status;
    this.configVector = NO_VECTOR;
    this.lastRefusal = GAVE_UP;
    this.stats.refusals++;
    return FN_REFUSED;
  }

  /** Registers as after a device reset (VIRTIO 1.2 2.1.1, 4.1.4.3), for what the host does not own at this moment. */
  private clean(): void {
    const c = this.common;
    st32(c + COMMON_DFSELECT, SELECT_PARKED);
    st32(c + COMMON_DF, this.parts.features);
    st16(c + COMMON_Q_NOFF, 0);
    st16(c + COMMON_Q_RESET, 0);
    this.notify.reset();
    this.notice.reset();
    this.gone = false;
    this.parts.config.write(this.parts.bar + MODERN_DEVICE);
    this.words.reset();
    // queue words are written only behind FEATURES_OK: if it is there now, the zeroing may have hit a fast driver's
    this.tainted = (ld8(c + COMMON_STATUS) & STATUS_FEATURES_OK) !== 0;
    if (this.tainted) this.stats.missed++;
    this.untouched = !this.tainted;
  }

  /** A driver has begun (again): device_feature_select was written, or the status went down. */
  private newLife(): void {
    const c = this.common;
    st32(c + COMMON_DFSELECT, SELECT_PARKED);
    this.gone = false;
    // The usual case: the reset was seen and dealt with, and no life went by unseen since. To clean again is not only
    // needless: it is cold code, takes 30 us or more, and a host writes FEATURES_OK about as soon after its first select.
    if (this.untouched && this.words.areZero()) return;
    if ((ld8(c + COMMON_STATUS) & STATUS_FEATURES_OK) === 0) {
      this.clean();
      return;
    }
    this.stats.missed++;
    this.tainted = false;
    this.words.resetLate();
  }

  /** DRIVER_OK: every write of the set-up is in memory. Believe it or refuse it. */
  private freeze(status: number, steady: number): number {
    const { words, parts } = this;
    const c = this.common;
    for (let i = 0; i < SETTLE_TRIES && steady < 0; i++) steady = words.sample();
    if (steady < 0) return FN_NONE;
    words.settle();
    const select = ld32(c + COMMON_GFSELECT);
    const resting = ld32(c + COMMON_GF) | 0;
    const config = this.attempt.configVector;
    // one more look: all of the above belongs to one life
    if (ld8(c + COMMON_STATUS) !== status || (ld32(c + COMMON_DFSELECT) | 0) !== SELECT_PARKED) return FN_NONE;

    if (this.tainted) return this.refuse(status, "the driver was faster than the reset of the registers");
    this.msix = msixEnabled(parts.dbi, parts.msixCap);
    const why = judgeSetup(words, this.attempt, this.msix, parts.vectors);
    if (why !== "") return this.refuse(status, why);
    if (!this.msix) for (const q of this.queues) q.vector = NO_VECTOR;
    const a = acceptedModern(parts.features, select, resting);
    if (a.refusal !== "") return this.refuse(status, a.refusal);
    this.featuresLo = a.lo;
    this.featuresHi = a.hi;
    this.hdrLen = a.hdrLen;
    this.inOrder = a.inOrder;
    this.configVector = this.msix && config < parts.vectors ? config : NO_VECTOR;
    this.frozen = status & ~STATUS_NEEDS_RESET;
    this.lastRefusal = "";
    this.attempt.unmark();
    this.freshQueues = 3;
    this.state = LIVE;
    this.live = true;
    this.stats.negotiations++;
    return FN_UP;
  }

  /** No register that the host reads is touched: to it nothing happens. */
  private goOn(life: FrozenLife): void {
    const { config, bar } = this.parts;
    config.up = (ld16(bar + MODERN_DEVICE + NET_CFG_STATUS) & NET_S_LINK_UP) !== 0;
    this.notice.goOn();
    for (let k = 0; k < 2; k++) Object.assign(this.queues[k]!, life.queues[k]);
    this.featuresLo = life.featuresLo;
    this.featuresHi = life.featuresHi;
    this.hdrLen = life.hdrLen;
    this.inOrder = life.inOrder;
    this.msix = life.msix;
    this.configVector = life.configVector;
    this.frozen = this.lastStatus = life.status & ~STATUS_NEEDS_RESET;
    this.untouched = false;
    this.freshQueues = 3;
    this.state = LIVE;
    this.live = true;
  }

  private refuse(status: number, rule: string): number {
    // for the notification that comes with NEEDS_RESET
    const config = this.attempt.configVector;
    this.msix = msixEnabled(this.parts.dbi, this.parts.msixCap);
    this.configVector = this.msix && config < this.parts.vectors ? config : NO_VECTOR;
    this.state = REFUSED;
    this.live = false;
    this.frozen = status & ~STATUS_NEEDS_RESET;
    this.lastRefusal = `${rule}; ${REBIND}`;
    this.stats.refusals++;
    return FN_REFUSED;
  }

  /** VIRTIO 1.2 2.6.1: the driver resets one ring. Reported as FN_DOWN, so the engine stops first. */
  private watchRingReset(): number {
    if (!this.ringReset.noticed()) return FN_NONE;
    this.state = RING_RESET;
    this.live = false;
    return FN_DOWN;
  }

  private followRingReset(): number {
    const { ringReset } = this;
    const rc = ringReset.follow();
    if (rc === RING_WAIT) return FN_NONE;
    if (rc === RING_BAD) return this.refuse(this.frozen, ringReset.rule);
    this.freshQueues = 1 << ringReset.queue;
    this.state = LIVE;
    this.live = true;
    return FN_UP;
  }

  stillLive(): boolean {
    return this.live && (ld8(this.common + COMMON_STATUS) & ~STATUS_NEEDS_RESET) === this.frozen;
  }

  setHdrLen(bytes: number): void {
    this.hdrLen = bytes;
  }

  setLink(up: boolean): number {
    if (!this.notice.showLink(up, this.parts.bar + MODERN_DEVICE)) return 0;
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
    return this.notify.hint(queue);
  }

  get negotiating(): boolean {
    return this.state === WATCHING && !this.gone && (this.lastStatus & STATUS_DRIVER) !== 0;
  }

  intact(): boolean {
    return this.parts.intact();
  }

  hostGone(): void {
    const { parts } = this;
    if (this.state !== WATCHING) this.stats.resets++;
    this.live = false;
    this.state = WATCHING;
    st8(this.common + COMMON_STATUS, 0);
    resetMsix(parts);
    this.lastStatus = 0;
    this.clean();
    if (!parts.intact()) parts.program();
  }

  close(): void {
    this.live = false;
    this.parts.onClose();
  }
}
