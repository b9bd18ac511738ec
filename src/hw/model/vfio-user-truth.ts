/**
 * What the guest's driver really asked for, put together from its trapped writes to BAR0: an account that is kept
 * apart from the engine's own capture, so that both can be compared. Knows the register layout, draws no conclusions.
 */
import {
  availBytes,
  COMMON_GF,
  COMMON_GFSELECT,
  COMMON_Q_AVAILHI,
  COMMON_Q_AVAILLO,
  COMMON_Q_DESCHI,
  COMMON_Q_DESCLO,
  COMMON_Q_ENABLE,
  COMMON_Q_MSIX,
  COMMON_Q_RESET,
  COMMON_Q_SELECT,
  COMMON_Q_SIZE,
  COMMON_Q_USEDHI,
  COMMON_Q_USEDLO,
  COMMON_STATUS,
  DESC_SIZE,
  LEGACY_GUEST_FEATURES,
  LEGACY_MSI_QUEUE_VECTOR,
  LEGACY_PAGE,
  LEGACY_QUEUE_NUM,
  LEGACY_QUEUE_PFN,
  LEGACY_QUEUE_SEL,
  LEGACY_STATUS,
  NO_VECTOR,
  STATUS_DRIVER_OK,
} from "../virtio.layout.ts";

export interface QueueTruth {
  size: number;
  desc: number;
  avail: number;
  used: number;
  vector: number;
}

export interface TruthSource {
  /** true: modern, common configuration at BAR0 offset `common`; false: legacy registers */
  modern(): boolean;
  common(): number;
  msixEnabled(): boolean;
  /** 16-bit word of BAR0 */
  peek16(off: number): number;
}

const TWO32 = 2 ** 32;

export class HostTruth {
  /** feature words 0..3 as the guest accepted them */
  readonly features = [0, 0, 0, 0];
  readonly queues: QueueTruth[] = [];
  #select = 0;
  #gfSelect = 0;
  #status = 0;
  readonly #source: TruthSource;
  /** called when DRIVER_OK is written */
  onDriverOk: (() => void) | null = null;
  /** called when the driver knows that the device is reset: it has read the status back, or the function is gone */
  onReset: (() => void) | null = null;
  /** the driver knows that one queue is reset (VIRTIO 1.2 2.6.1), and: it has enabled that queue anew */
  onQueueReset: ((queue: number) => void) | null = null;
  onQueueUp: ((queue: number) => void) | null = null;
  #queueReset = -1;
  #resetting = false;

  constructor(source: TruthSource) {
    this.#source = source;
  }

  get driverOk(): boolean {
    return (this.#status & STATUS_DRIVER_OK) !== 0;
  }

  /** The function was reset from outside, or the guest is gone. */
  reset(): void {
    this.#clear();
    this.onReset?.();
  }

  #clear(): void {
    this.#resetting = false;
    this.#queueReset = -1;
    this.features.fill(0);
    this.queues.length = 0;
    this.#select = 0;
    this.#status = 0;
  }

  /** A write of the guest to BAR0. */
  write(off: number, count: number, value: number): void {
    if (this.#source.modern()) this.#modern(off - this.#source.common(), value);
    else this.#legacy(off, count, value);
  }

  /** A read of BAR0 was answered with `value`. */
  read(off: number, value: number): void {
    if (this.#queueReset >= 0 && value === 0 && off === this.#source.common() + COMMON_Q_RESET) {
      this.onQueueReset?.(this.#queueReset);
      this.#queueReset = -1;
    }
    if (!this.#resetting) return;
    const status = this.#source.modern() ? this.#source.common() + COMMON_STATUS : LEGACY_STATUS;
    if (off === status) this.#resetDone();
  }

  #resetDone(): void {
    this.#resetting = false;
    this.onReset?.();
  }

  #queue(): QueueTruth {
    this.queues[this.#select] ??= { size: 0, desc: 0, avail: 0, used: 0, vector: NO_VECTOR };
    return this.queues[this.#select];
  }

  #status8(value: number): void {
    const before = this.#status;
    if (value === 0) {
      this.#clear();
      this.#resetting = true;
    } else if (this.#resetting) this.#resetDone();
    this.#status = value;
    if (value & STATUS_DRIVER_OK && !(before & STATUS_DRIVER_OK)) this.onDriverOk?.();
  }

  #modern(off: number, value: number): void {
    const low = (old: number): number => Math.floor(old / TWO32) * TWO32 + value;
    const high = (old: number): number => (old % TWO32) + value * TWO32;
    switch (off) {
      case COMMON_STATUS:
        this.#status8(value);
        return;
      case COMMON_GFSELECT:
        this.#gfSelect = value;
        return;
      case COMMON_GF:
        if (this.#gfSelect < 4) this.features[this.#gfSelect] = value >>> 0;
        return;
      case COMMON_Q_SELECT:
        this.#select = value;
        return;
      case COMMON_Q_SIZE:
        this.#queue().size = value;
        return;
      case COMMON_Q_MSIX:
        this.#queue().vector = value;
        return;
      case COMMON_Q_RESET:
        if (value === 1) this.#queueReset = this.#select;
        return;
      case COMMON_Q_ENABLE:
        if (value === 1 && this.driverOk) this.onQueueUp?.(this.#select);
        return;
      case COMMON_Q_DESCLO:
        this.#queue().desc = low(this.#queue().desc);
        return;
      case COMMON_Q_DESCHI:
        this.#queue().desc = high(this.#queue().desc);
        return;
      case COMMON_Q_AVAILLO:
        this.#queue().avail = low(this.#queue().avail);
        return;
      case COMMON_Q_AVAILHI:
        this.#queue().avail = high(this.#queue().avail);
        return;
      case COMMON_Q_USEDLO:
        this.#queue().used = low(this.#queue().used);
        return;
      case COMMON_Q_USEDHI:
        this.#queue().used = high(this.#queue().used);
        return;
      default:
        return;
    }
  }

  #legacy(off: number, count: number, value: number): void {
    switch (off) {
      case LEGACY_STATUS:
        if (count === 1) this.#status8(value);
        return;
      case LEGACY_GUEST_FEATURES:
        this.features[0] = value >>> 0;
        return;
      case LEGACY_QUEUE_SEL:
        this.#select = value;
        return;
      case LEGACY_QUEUE_PFN:
        this.#pfn(value);
        return;
      case LEGACY_MSI_QUEUE_VECTOR:
        if (this.#source.msixEnabled()) this.#queue().vector = value;
        return;
      default:
        return;
    }
  }

  #pfn(pfn: number): void {
    const q = this.#queue();
    if (pfn === 0) {
      delete this.queues[this.#select];
      return;
    }
    q.size = this.#source.peek16(LEGACY_QUEUE_NUM);
    q.desc = pfn * LEGACY_PAGE;
    q.avail = q.desc + DESC_SIZE * q.size;
    q.used = Math.ceil((q.avail + availBytes(q.size)) / LEGACY_PAGE) * LEGACY_PAGE;
    q.vector = NO_VECTOR;
  }

  /** One line: features and both queues. */
  describe(): string {
    const bits: number[] = [];
    this.features.forEach((word, w) => {
      for (let b = 0; b < 32; b++) if ((word >>> b) & 1) bits.push(32 * w + b);
    });
    return `features ${bits.join(",")}, ${describeQueues(this.queues)}`;
  }
}

/** "rx 256 desc 0x1000 avail 0x2000 used 0x3000 vector 1, tx ..." */
export function describeQueues(queues: readonly (QueueTruth | undefined)[]): string {
  return ["rx", "tx"]
    .map((name, i) => {
      const q = queues[i];
      if (q === undefined) return `${name} none`;
      const at = (n: number): string => `0x${n.toString(16)}`;
      return `${name} ${q.size} desc ${at(q.desc)} avail ${at(q.avail)} used ${at(q.used)} vector ${q.vector === NO_VECTOR ? "none" : q.vector}`;
    })
    .join(", ");
}
