/**
 * The built-in host's driver for a legacy (transitional) function without vendor capabilities: the access order
 * that Linux 6.1, 6.12 and 7.3 showed on the wire (facts/vfio-user-2.md section 2).
 */
import {
  F_MAC,
  F_MTU,
  F_STATUS,
  LEGACY_CONFIG_MSIX,
  LEGACY_CONFIG_NO_MSIX,
  LEGACY_GUEST_FEATURES,
  LEGACY_HOST_FEATURES,
  LEGACY_ISR,
  LEGACY_MSI_CONFIG_VECTOR,
  LEGACY_MSI_QUEUE_VECTOR,
  LEGACY_PAGE,
  LEGACY_QUEUE_NOTIFY,
  LEGACY_QUEUE_NUM,
  LEGACY_QUEUE_PFN,
  LEGACY_QUEUE_SEL,
  LEGACY_STATUS,
  NET_CFG_MAC,
  NET_CFG_MAX_PAIRS,
  NET_CFG_MTU,
  NET_CFG_STATUS,
  NO_VECTOR,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
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
import { clearBit, driverTable, hasBit, headerLength, refusedBit } from "./host-features.ts";

const MIN_MTU = 68;
const BAR = 0;

export class LegacyDriver extends HostDriver {
  readonly modern = false;
  readonly align = LEGACY_PAGE;

  constructor(env: DriverEnv) {
    super(env, "legacy");
  }

  *probe(): Steps<number> {
    const { fn } = this.env;
    if (fn.device < 0x1000 || fn.device > 0x103f || fn.revision !== 0)
      return this.#fail(
        ENODEV,
        `device id 0x${fn.device.toString(16)} revision ${fn.revision} is not a legacy function`,
      );
    if (!fn.bars.some((b) => b.index === BAR)) return this.#fail(ENODEV, "a legacy function needs BAR 0");
    yield* this.enableMemory();
    yield* this.enableMaster();
    yield* this.reset();
    yield* this.env.afterReset();
    this.registered = true;
    yield* this.addStatus(STATUS_ACKNOWLEDGE);
    yield* this.addStatus(STATUS_DRIVER);
    let rc = yield* this.#negotiate();
    if (rc !== 0) return rc;
    yield* this.#readNetConfig();
    rc = yield* this.findQueues(this.queueCount());
    return rc;
  }

  /** vp_reset: written, and read once to flush; the value is not looked at. */
  *reset(): Steps<number> {
    yield* this.#w(LEGACY_STATUS, 1, 0);
    yield* this.#r(LEGACY_STATUS, 1);
    return 0;
  }

  *addStatus(bits: number): Steps {
    const status = yield* this.#r(LEGACY_STATUS, 1);
    yield* this.#w(LEGACY_STATUS, 1, status | bits);
  }

  readStatus(): Steps<number> {
    return this.#r(LEGACY_STATUS, 1);
  }

  *afterDriverOk(): Steps {
    if (hasBit(this.truth.accepted, F_STATUS))
      this.truth.linkStatus = yield* this.#r(this.#config() + NET_CFG_STATUS, 2);
  }

  readIsrNow(): number {
    return this.access.bus.barRead(BAR, LEGACY_ISR, 1);
  }

  readLinkNow(): number {
    return this.access.bus.barRead(BAR, this.#config() + NET_CFG_STATUS, 2);
  }

  *#negotiate(): Steps<number> {
    const { offered, accepted } = this.truth;
    const { kernel, featureMask } = this.env.options;
    offered[0] = yield* this.#r(LEGACY_HOST_FEATURES, 4);
    accepted[0] = offered[0] & driverTable(kernel, false)[0] & (featureMask === null ? -1 : featureMask[0]);
    const refused = refusedBit(accepted);
    if (refused >= 0) return this.#fail(EINVAL, `feature bit ${refused} is offered without the control queue`);
    if (hasBit(accepted, F_MTU)) {
      this.truth.mtu = yield* this.#r(this.#config() + NET_CFG_MTU, 2);
      if (this.truth.mtu < MIN_MTU) clearBit(accepted, F_MTU);
    }
    yield* this.#w(LEGACY_GUEST_FEATURES, 4, accepted[0]);
    this.truth.hdrLen = headerLength(accepted);
    return 0;
  }

  *#readNetConfig(): Steps {
    const { accepted, mac } = this.truth;
    if (this.wantsPairs()) this.truth.maxPairs = yield* this.#r(this.#config() + NET_CFG_MAX_PAIRS, 2);
    if (hasBit(accepted, F_MAC))
      for (let i = 0; i < 6; i++) mac[i] = yield* this.#r(this.#config() + NET_CFG_MAC + i, 1);
    if (hasBit(accepted, F_MTU)) this.truth.mtu = yield* this.#r(this.#config() + NET_CFG_MTU, 2);
  }

  protected *setupQueue(index: number, entry: number, hasCallback: boolean): Steps<number> {
    const { memory, options } = this.env;
    yield* this.#w(LEGACY_QUEUE_SEL, 2, index);
    const size = yield* this.#r(LEGACY_QUEUE_NUM, 2);
    if (size === 0) return this.#fail(ENOENT, `queue ${index} has size 0`);
    yield* this.#w(LEGACY_QUEUE_SEL, 2, index);
    const pfn = yield* this.#r(LEGACY_QUEUE_PFN, 4);
    if (pfn !== 0) return this.#fail(ENOENT, `queue ${index} has PFN 0x${pfn.toString(16)} before it was set up`);
    if ((size & (size - 1)) !== 0) return this.#fail(EINVAL, `queue ${index} has size ${size}, no power of two`);
    const at = ringOffsets(size, this.align);
    const block = memory.allocRing(at.bytes);
    if (block === null) return this.#fail(ENOMEM, `no host memory for a ring of ${at.bytes} bytes`);
    yield* this.access.software();
    const base = options.faults.unmappedQueue ? memory.base + memory.bytes + 0x100000 : block.bus;
    yield* this.#w(LEGACY_QUEUE_SEL, 2, index);
    yield* this.#w(LEGACY_QUEUE_PFN, 4, base / LEGACY_PAGE);
    // pushed before the vector is known to be taken: on failure del_vq must clear the PFN
    const queue = {
      index,
      size,
      block,
      align: this.align,
      desc: base,
      avail: base + at.avail,
      used: base + at.used,
      entry,
      hasCallback,
      notifyBar: BAR,
      notifyOff: LEGACY_QUEUE_NOTIFY,
    };
    this.queues.push(queue);
    if (entry !== NO_VECTOR && (yield* this.#writeVector(index, entry)) === NO_VECTOR)
      return this.#fail(EBUSY, `the device refused vector ${entry} for queue ${index}`);
    return 0;
  }

  protected *deleteQueue(queue: HostQueue): Steps {
    if (this.msix?.enabled) {
      yield* this.#writeVector(queue.index, NO_VECTOR);
      yield* this.#r(LEGACY_ISR, 1);
    }
    yield* this.#w(LEGACY_QUEUE_SEL, 2, queue.index);
    yield* this.#w(LEGACY_QUEUE_PFN, 4, 0);
  }

  *#writeVector(index: number, entry: number): Steps<number> {
    yield* this.#w(LEGACY_QUEUE_SEL, 2, index);
    yield* this.#w(LEGACY_MSI_QUEUE_VECTOR, 2, entry);
    return yield* this.#r(LEGACY_MSI_QUEUE_VECTOR, 2);
  }

  protected *writeConfigVector(entry: number): Steps<number> {
    yield* this.#w(LEGACY_MSI_CONFIG_VECTOR, 2, entry);
    return yield* this.#r(LEGACY_MSI_CONFIG_VECTOR, 2);
  }

  /** the config area moves with the MSI-X enable bit (VIRTIO 1.2 4.1.4.10) */
  #config(): number {
    return this.msix?.enabled ? LEGACY_CONFIG_MSIX : LEGACY_CONFIG_NO_MSIX;
  }

  #r(off: number, size: number): Steps<number> {
    return this.access.read(BAR, off, size);
  }

  #w(off: number, size: number, value: number): Steps {
    return this.access.write(BAR, off, size, value);
  }

  #fail(rc: number, why: string): number {
    this.why = why;
    return rc;
  }
}
