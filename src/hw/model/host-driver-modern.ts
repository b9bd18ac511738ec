/**
 * The built-in host's driver for a modern (virtio 1.x) function: accesses in the order of Linux
 * drivers/virtio/virtio_pci_modern.c and virtnet_probe, as in facts/virtio-host-sequence.md section 2.
 */
import {
  CAP_COMMON_CFG,
  CAP_DEVICE_CFG,
  CAP_ISR_CFG,
  CAP_NOTIFY_CFG,
  COMMON_CFGGENERATION,
  COMMON_DF,
  COMMON_DFSELECT,
  COMMON_GF,
  COMMON_GFSELECT,
  COMMON_MSIX,
  COMMON_NUMQ,
  COMMON_Q_AVAILHI,
  COMMON_Q_AVAILLO,
  COMMON_Q_DESCHI,
  COMMON_Q_DESCLO,
  COMMON_Q_ENABLE,
  COMMON_Q_MSIX,
  COMMON_Q_NOFF,
  COMMON_Q_RESET,
  COMMON_Q_SELECT,
  COMMON_Q_SIZE,
  COMMON_Q_USEDHI,
  COMMON_Q_USEDLO,
  COMMON_STATUS,
  F_MAC,
  F_MTU,
  F_NOTIFICATION_DATA,
  F_RING_PACKED,
  F_RING_RESET,
  F_STATUS,
  F_VERSION_1,
  NET_CFG_MAC,
  NET_CFG_MAX_PAIRS,
  NET_CFG_MTU,
  NET_CFG_STATUS,
  NO_VECTOR,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_FEATURES_OK,
} from "../virtio.layout.ts";
import type { Steps } from "./host-access.ts";
import {
  type DriverEnv,
  EBUSY,
  EINVAL,
  ENODEV,
  ENOENT,
  ENOMEM,
  HostDriver,
  type HostQueue,
  ringOffsets,
} from "./host-driver.ts";
import type { VirtioCap } from "./host-enumerate.ts";
import {
  clearBit,
  driverTable,
  F_ADMIN_VQ,
  featureWordCount,
  hasBit,
  headerLength,
  refusedBit,
} from "./host-features.ts";

const MIN_MTU = 68;
/** a wait for status 0 gives up after this many msleep(1); the kernel would wait for ever */
const RESET_TRIES = 5000;
const COMMON_ADMIN_IDX = 0x3c;
const COMMON_ADMIN_NUM = 0x3e;

export class ModernDriver extends HostDriver {
  readonly modern = true;
  readonly align = 64;
  #common: VirtioCap = NO_CAP;
  #isr: VirtioCap = NO_CAP;
  #notify: VirtioCap = NO_CAP;
  #device: VirtioCap = NO_CAP;

  constructor(env: DriverEnv) {
    super(env, "modern");
  }

  /** Whether the capability list offers the modern interface (vp_modern_probe: no COMMON means legacy). */
  static offeredBy(caps: readonly VirtioCap[]): boolean {
    return caps.some((c) => c.type === CAP_COMMON_CFG);
  }

  *probe(): Steps<number> {
    yield* this.enableMemory();
    let rc = this.#findCaps();
    if (rc !== 0) return rc;
    yield* this.enableMaster();
    rc = yield* this.reset();
    if (rc !== 0) return rc;
    yield* this.env.afterReset();
    this.registered = true;
    yield* this.addStatus(STATUS_ACKNOWLEDGE);
    yield* this.addStatus(STATUS_DRIVER);
    rc = yield* this.#negotiate();
    if (rc !== 0) return rc;
    rc = yield* this.#readNetConfig();
    if (rc !== 0) return rc;
    rc = yield* this.findQueues(this.queueCount());
    if (rc !== 0) return rc;
    for (const queue of this.queues) {
      yield* this.#w(COMMON_Q_SELECT, 2, queue.index);
      yield* this.#w(COMMON_Q_ENABLE, 2, 1);
    }
    return 0;
  }

  *reset(): Steps<number> {
    yield* this.#w(COMMON_STATUS, 1, 0);
    for (let tries = 0; tries < RESET_TRIES; tries++) {
      if ((yield* this.#r(COMMON_STATUS, 1)) === 0) return 0;
      yield* this.access.sleep();
    }
    this.why = `status never read 0 after a reset (${RESET_TRIES} tries)`;
    return EBUSY;
  }

  *addStatus(bits: number): Steps {
    const status = yield* this.#r(COMMON_STATUS, 1);
    yield* this.#w(COMMON_STATUS, 1, status | bits);
  }

  readStatus(): Steps<number> {
    return this.#r(COMMON_STATUS, 1);
  }

  /** The config work item: the link status inside a generation loop. */
  *afterDriverOk(): Steps {
    if (!hasBit(this.truth.accepted, F_STATUS)) return;
    let generation = yield* this.#r(COMMON_CFGGENERATION, 1);
    for (;;) {
      this.truth.linkStatus = yield* this.#rdev(NET_CFG_STATUS, 2);
      const again = yield* this.#r(COMMON_CFGGENERATION, 1);
      if (again === generation) return;
      generation = again;
    }
  }

  readIsrNow(): number {
    return this.access.bus.barRead(this.#isr.bar, this.#isr.offset, 1);
  }

  readLinkNow(): number {
    return this.access.bus.barRead(this.#device.bar, this.#device.offset + NET_CFG_STATUS, 2);
  }

  /**
   * Ring reset of one queue (VIRTIO 1.2 2.6.1, only if accepted), then the same ring handed over again empty: the
   * caller revokes buffers between the two halves.
   * @returns 0, -16 when the device never finished, -22 when not negotiated
   */
  *resetQueue(queue: HostQueue, emptied: () => void): Steps<number> {
    if (!hasBit(this.truth.accepted, F_RING_RESET)) return EINVAL;
    yield* this.#w(COMMON_Q_SELECT, 2, queue.index);
    yield* this.#w(COMMON_Q_RESET, 2, 1);
    let tries = 0;
    while ((yield* this.#r(COMMON_Q_RESET, 2)) !== 0) {
      if (++tries === RESET_TRIES) return EBUSY;
      yield* this.access.sleep();
    }
    while ((yield* this.#r(COMMON_Q_ENABLE, 2)) !== 0) {
      if (++tries === RESET_TRIES) return EBUSY;
      yield* this.access.sleep();
    }
    emptied();
    yield* this.#w(COMMON_Q_SELECT, 2, queue.index);
    if ((yield* this.#r(COMMON_Q_RESET, 2)) !== 0) return EBUSY;
    yield* this.#w(COMMON_Q_SELECT, 2, queue.index);
    if ((yield* this.#r(COMMON_Q_ENABLE, 2)) !== 0) return EBUSY;
    yield* this.#writeQueue(queue.index, queue.size, queue.desc, queue.avail, queue.used);
    if (queue.entry !== NO_VECTOR) yield* this.#writeVector(queue.index, queue.entry);
    yield* this.#w(COMMON_Q_SELECT, 2, queue.index);
    yield* this.#w(COMMON_Q_ENABLE, 2, 1);
    return 0;
  }

  #findCaps(): number {
    const { bars, caps } = this.env.fn;
    const find = (type: number): VirtioCap =>
      caps.virtio.find(
        (c) => c.type === type && c.length > 0 && bars.some((b) => b.index === c.bar && c.offset + c.length <= b.size),
      ) ?? NO_CAP;
    this.#common = find(CAP_COMMON_CFG);
    this.#isr = find(CAP_ISR_CFG);
    this.#notify = find(CAP_NOTIFY_CFG);
    this.#device = find(CAP_DEVICE_CFG);
    if (this.#common === NO_CAP) return this.#fail(ENODEV, "no usable COMMON capability");
    if (this.#isr === NO_CAP || this.#notify === NO_CAP)
      return this.#fail(EINVAL, "the ISR or NOTIFY capability is missing or outside of its BAR");
    if (this.#device === NO_CAP) return this.#fail(EINVAL, "the DEVICE capability is missing or outside of its BAR");
    if (this.#common.length < COMMON_Q_NDATA_END) return this.#fail(EINVAL, "the COMMON capability is too short");
    return 0;
  }

  /** virtio_dev_probe and virtnet_validate: read words, take what the table knows, write, check. */
  *#negotiate(): Steps<number> {
    const { offered, accepted } = this.truth;
    const { kernel, featureMask } = this.env.options;
    const n = featureWordCount(kernel);
    for (let i = 0; i < n; i++) {
      yield* this.#w(COMMON_DFSELECT, 4, i);
      offered[i] = yield* this.#r(COMMON_DF, 4);
    }
    const table = driverTable(kernel, true);
    for (let i = 0; i < 4; i++) accepted[i] = offered[i] & table[i] & (featureMask === null ? -1 : featureMask[i]);
    if (!hasBit(accepted, F_VERSION_1)) return this.#fail(EINVAL, "the device does not offer VERSION_1");
    yield* this.#writeFeatures(n);
    const refused = refusedBit(accepted);
    if (refused >= 0) return this.#fail(EINVAL, `feature bit ${refused} is offered without the control queue`);
    if (hasBit(accepted, F_MTU)) {
      this.truth.mtu = yield* this.#rdev(NET_CFG_MTU, 2);
      if (this.truth.mtu < MIN_MTU) {
        clearBit(accepted, F_MTU);
        yield* this.#writeFeatures(n);
      }
    }
    yield* this.addStatus(STATUS_FEATURES_OK);
    const status = yield* this.#r(COMMON_STATUS, 1);
    if ((status & STATUS_FEATURES_OK) === 0)
      return this.#fail(ENODEV, `FEATURES_OK is not in status 0x${status.toString(16)}`);
    if (hasBit(accepted, F_RING_PACKED))
      return this.#fail(EINVAL, "RING_PACKED was taken; the built-in host has only split rings");
    this.truth.hdrLen = headerLength(accepted);
    return 0;
  }

  *#writeFeatures(n: number): Steps {
    for (let i = 0; i < n; i++) {
      yield* this.#w(COMMON_GFSELECT, 4, i);
      yield* this.#w(COMMON_GF, 4, this.truth.accepted[i]);
    }
  }

  *#readNetConfig(): Steps<number> {
    const { accepted, mac } = this.truth;
    if (this.wantsPairs()) this.truth.maxPairs = yield* this.#rdev(NET_CFG_MAX_PAIRS, 2);
    if (hasBit(accepted, F_MAC)) {
      let generation = yield* this.#r(COMMON_CFGGENERATION, 1);
      for (;;) {
        for (let i = 0; i < 6; i++) mac[i] = yield* this.#rdev(NET_CFG_MAC + i, 1);
        const again = yield* this.#r(COMMON_CFGGENERATION, 1);
        if (again === generation) break;
        generation = again;
      }
    }
    if (hasBit(accepted, F_MTU)) this.truth.mtu = yield* this.#rdev(NET_CFG_MTU, 2);
    if (hasBit(accepted, F_ADMIN_VQ)) {
      yield* this.#r(COMMON_ADMIN_IDX, 2);
      if ((yield* this.#r(COMMON_ADMIN_NUM, 2)) === 0)
        return this.#fail(EINVAL, "ADMIN_VQ was taken and there is no admin queue");
    }
    return 0;
  }

  protected *setupQueue(index: number, entry: number, hasCallback: boolean): Steps<number> {
    const { memory, options, fn } = this.env;
    if (index >= (yield* this.#r(COMMON_NUMQ, 2))) return this.#fail(ENOENT, `queue ${index} is not below num_queues`);
    yield* this.#w(COMMON_Q_SELECT, 2, index);
    let size = yield* this.#r(COMMON_Q_SIZE, 2);
    // a device with one size register for all queues shows us the bad size of the one before
    if (options.faults.badRingSize !== 0 && this.queues.length > 0) size = this.queues[0].size;
    yield* this.#w(COMMON_Q_SELECT, 2, index);
    const enabled = yield* this.#r(COMMON_Q_ENABLE, 2);
    if (size === 0 || enabled !== 0) return this.#fail(ENOENT, `queue ${index} has size ${size} and enable ${enabled}`);
    if ((size & (size - 1)) !== 0) return this.#fail(EINVAL, `queue ${index} has size ${size}, no power of two`);
    if (options.queueSize !== 0 && options.queueSize < size) size = options.queueSize;
    const at = ringOffsets(size, this.align);
    const block = memory.allocRing(at.bytes);
    if (block === null) return this.#fail(ENOMEM, `no host memory for a ring of ${at.bytes} bytes`);
    yield* this.access.software();
    const f = options.faults;
    const base = f.unmappedQueue ? memory.base + memory.bytes + 0x100000 : block.bus;
    const desc = f.misalignedQueue ? base + 8 : base;
    const avail = base + at.avail;
    const used = f.overlappingQueue ? avail : base + at.used;
    const written = f.badRingSize !== 0 ? f.badRingSize : size;
    yield* this.#writeQueue(index, written, desc, avail, used);
    if (entry !== NO_VECTOR && (yield* this.#writeVector(index, entry)) === NO_VECTOR) {
      memory.freeRing(block);
      return this.#fail(EBUSY, `the device refused vector ${entry} for queue ${index}`);
    }
    yield* this.#w(COMMON_Q_SELECT, 2, index);
    const off = (yield* this.#r(COMMON_Q_NOFF, 2)) * this.#notify.multiplier;
    const width = hasBit(this.truth.accepted, F_NOTIFICATION_DATA) ? 4 : 2;
    if (off + width > this.#notify.length || !fn.bars.some((b) => b.index === this.#notify.bar)) {
      memory.freeRing(block);
      return this.#fail(EINVAL, `notify offset ${off} of queue ${index} is outside of ${this.#notify.length} bytes`);
    }
    this.queues.push({
      index,
      size,
      block,
      align: this.align,
      desc,
      avail,
      used,
      entry,
      hasCallback,
      notifyBar: this.#notify.bar,
      notifyOff: this.#notify.offset + off,
    });
    return 0;
  }

  *#writeQueue(index: number, size: number, desc: number, avail: number, used: number): Steps {
    yield* this.#w(COMMON_Q_SELECT, 2, index);
    yield* this.#w(COMMON_Q_SIZE, 2, size);
    yield* this.#w(COMMON_Q_SELECT, 2, index);
    yield* this.#w(COMMON_Q_DESCLO, 4, desc % 2 ** 32);
    yield* this.#w(COMMON_Q_DESCHI, 4, Math.floor(desc / 2 ** 32));
    yield* this.#w(COMMON_Q_AVAILLO, 4, avail % 2 ** 32);
    yield* this.#w(COMMON_Q_AVAILHI, 4, Math.floor(avail / 2 ** 32));
    yield* this.#w(COMMON_Q_USEDLO, 4, used % 2 ** 32);
    yield* this.#w(COMMON_Q_USEDHI, 4, Math.floor(used / 2 ** 32));
  }

  *#writeVector(index: number, entry: number): Steps<number> {
    yield* this.#w(COMMON_Q_SELECT, 2, index);
    yield* this.#w(COMMON_Q_MSIX, 2, entry);
    return yield* this.#r(COMMON_Q_MSIX, 2);
  }

  protected *deleteQueue(queue: HostQueue): Steps {
    if (this.msix?.enabled) yield* this.#writeVector(queue.index, NO_VECTOR);
  }

  protected *writeConfigVector(entry: number): Steps<number> {
    yield* this.#w(COMMON_MSIX, 2, entry);
    return yield* this.#r(COMMON_MSIX, 2);
  }

  #r(off: number, size: number): Steps<number> {
    return this.access.read(this.#common.bar, this.#common.offset + off, size);
  }

  #w(off: number, size: number, value: number): Steps {
    return this.access.write(this.#common.bar, this.#common.offset + off, size, value);
  }

  #rdev(off: number, size: number): Steps<number> {
    return this.access.read(this.#device.bar, this.#device.offset + off, size);
  }

  #fail(rc: number, why: string): number {
    this.why = why;
    return rc;
  }
}

const NO_CAP: VirtioCap = { type: 0, bar: 0, offset: 0, length: 0, multiplier: 0 };
/** vp_modern_probe maps at least the 1.0 structure */
const COMMON_Q_NDATA_END = 0x38;
