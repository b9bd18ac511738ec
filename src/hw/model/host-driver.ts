/**
 * The part of the built-in host's virtio-net driver that both personalities share: interrupt policies and queue
 * discovery (drivers/virtio/virtio_pci_common.c), removal, and the record of what was written. Personalities are in
 * host-driver-modern.ts and host-driver-legacy.ts; the data side is host-net.ts.
 */
import { COMMAND_MASTER, COMMAND_MEMORY, PCI_COMMAND } from "../pci.layout.ts";
import { availBytes, DESC_SIZE, F_CTRL_VQ, F_MQ, NO_VECTOR, STATUS_FAILED, usedBytes } from "../virtio.layout.ts";
import type { HostAccess, Steps } from "./host-access.ts";
import type { HostFunction } from "./host-enumerate.ts";
import type { HostFaults } from "./host-faults.ts";
import { type FeatureWords, type HostKernel, hasBit, words } from "./host-features.ts";
import type { HostIrq } from "./host-irq.ts";
import type { HostBlock, HostMemory } from "./host-memory.ts";
import { HostMsix } from "./host-msix.ts";

export const ENOENT = -2;
export const EIO = -5;
export const ENOMEM = -12;
export const EBUSY = -16;
export const ENODEV = -19;
export const EINVAL = -22;
export const ENOSPC = -28;

export type IrqPolicy = "each" | "shared" | "intx";
export type IrqMode = "auto" | "msix" | "intx";

export interface DriverOptions {
  kernel: HostKernel;
  /** bits the driver may take, besides its own table; null = all */
  featureMask: FeatureWords | null;
  /** largest queue size (modern only; legacy cannot shrink), 0 = what the device offers */
  queueSize: number;
  irq: IrqMode;
  faults: HostFaults;
}

export interface DriverEnv {
  readonly access: HostAccess;
  readonly irq: HostIrq;
  readonly memory: HostMemory;
  readonly fn: HostFunction;
  readonly options: DriverOptions;
  /** run once in probe, when the function has been reset: memory of an earlier kernel is free from then on */
  afterReset(): Steps;
}

/** One queue as the driver set it up: exactly the values that were written to the device. */
export interface HostQueue {
  readonly index: number;
  readonly size: number;
  readonly block: HostBlock;
  readonly align: number;
  /** bus addresses as written, faults included */
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  /** MSI-X table entry written to the queue's vector register, NO_VECTOR for none */
  readonly entry: number;
  readonly hasCallback: boolean;
  readonly notifyBar: number;
  readonly notifyOff: number;
}

/** What a device must have understood, for tests to compare with what it captured. */
export interface DriverTruth {
  readonly personality: "modern" | "legacy";
  readonly offered: FeatureWords;
  readonly accepted: FeatureWords;
  hdrLen: number;
  mac: Uint8Array;
  mtu: number;
  linkStatus: number;
  maxPairs: number;
  /** interrupt policy that succeeded, "" while none has */
  policy: IrqPolicy | "";
  configEntry: number;
  queues: readonly HostQueue[];
  /** find_vqs attempts that failed, as "policy: errno reason" */
  failures: string[];
}

/** Offsets of a split ring block with the used ring at `align` (VIRTIO 1.2 2.7.2 for legacy, 64 as Linux for modern). */
export function ringOffsets(size: number, align: number): { avail: number; used: number; bytes: number } {
  const avail = DESC_SIZE * size;
  const used = Math.ceil((avail + availBytes(size)) / align) * align;
  return { avail, used, bytes: used + usedBytes(size) };
}

export abstract class HostDriver {
  abstract readonly modern: boolean;
  /** ring alignment of the personality */
  abstract readonly align: number;
  readonly env: DriverEnv;
  readonly access: HostAccess;
  readonly truth: DriverTruth;
  msix: HostMsix | null = null;
  queues: HostQueue[] = [];
  /** the function was reset and acknowledged: a failure from here on is told by status FAILED */
  registered = false;
  /** reason of the last negative result, for people */
  why = "";

  constructor(env: DriverEnv, personality: "modern" | "legacy") {
    this.env = env;
    this.access = env.access;
    this.truth = {
      personality,
      offered: words(),
      accepted: words(),
      hdrLen: 0,
      mac: new Uint8Array(6),
      mtu: 0,
      linkStatus: 0,
      maxPairs: 1,
      policy: "",
      configEntry: NO_VECTOR,
      queues: [],
      failures: [],
    };
  }

  /** From pci_enable_device to just before DRIVER_OK: the rings exist, nothing is in them. @returns 0 or -errno */
  abstract probe(): Steps<number>;
  /** Reset and wait for it. @returns 0, or -16 when status never became 0 */
  abstract reset(): Steps<number>;
  /** Add bits to the device status, read-modify-write as virtio_add_status. */
  abstract addStatus(bits: number): Steps;
  abstract readStatus(): Steps<number>;
  /** Work after DRIVER_OK: the link status worker. */
  abstract afterDriverOk(): Steps;
  /** Read ISR on the spot (data side). */
  abstract readIsrNow(): number;
  /** Re-read the link status on the spot (config interrupt). */
  abstract readLinkNow(): number;

  protected abstract setupQueue(index: number, entry: number, callback: boolean): Steps<number>;
  protected abstract deleteQueue(queue: HostQueue): Steps;
  /** @returns what the config vector register reads back */
  protected abstract writeConfigVector(entry: number): Steps<number>;

  /** pci_enable_device: memory decoding on. */
  *enableMemory(): Steps {
    const command = yield* this.access.cfgRead(PCI_COMMAND, 2);
    if ((command & COMMAND_MEMORY) === 0) yield* this.access.cfgWrite(PCI_COMMAND, 2, command | COMMAND_MEMORY);
  }

  /** pci_set_master, after the transport probe and before the device is reset. */
  *enableMaster(): Steps {
    if (this.env.options.faults.noBusMaster) return;
    const command = yield* this.access.cfgRead(PCI_COMMAND, 2);
    yield* this.access.cfgWrite(PCI_COMMAND, 2, command | COMMAND_MASTER);
  }

  /** vp_find_vqs: one vector per queue, then a shared one, then INTx. @returns 0 or -errno of the last try */
  protected *findQueues(count: number): Steps<number> {
    const { fn, options } = this.env;
    let rc = ENODEV;
    this.why = "the function has neither MSI-X nor an interrupt pin";
    const policies: IrqPolicy[] = [];
    if (options.irq !== "intx" && fn.caps.msix !== null) policies.push("each", "shared");
    if (options.irq !== "msix" && fn.interruptPin !== 0) policies.push("intx");
    for (const policy of policies) {
      rc = yield* this.#tryPolicy(policy, count);
      if (rc === 0) {
        this.truth.policy = policy;
        this.truth.queues = this.queues;
        return 0;
      }
      this.truth.failures.push(`${policy}: ${rc} ${this.why}`);
      yield* this.deleteQueues(policy);
    }
    return rc;
  }

  *#tryPolicy(policy: IrqPolicy, count: number): Steps<number> {
    const callbacks = Math.min(count, 2);
    if (policy !== "intx") {
      const msix = new HostMsix(this.access, this.env.irq, this.env.fn.caps.msix!);
      this.msix = msix;
      const need = policy === "each" ? 1 + callbacks : 2;
      const rc = yield* msix.enable(need);
      if (rc !== 0) {
        this.why = `the MSI-X table has ${msix.cap.vectors} entries, ${need} are needed`;
        return rc;
      }
      yield* msix.request(0);
      if ((yield* this.writeConfigVector(0)) === NO_VECTOR) {
        this.why = "the device refused the config vector";
        return EBUSY;
      }
      this.truth.configEntry = 0;
      if (policy === "shared") yield* msix.request(1);
    }
    for (let i = 0; i < count; i++) {
      // queues in order receive, transmit, control; the control queue follows the pairs the device has
      const index = i < 2 ? i : 2 * this.truth.maxPairs;
      const callback = i < 2;
      const entry = policy === "intx" || !callback ? NO_VECTOR : policy === "each" ? 1 + i : 1;
      const rc = yield* this.setupQueue(index, entry, callback);
      if (rc !== 0) return rc;
      if (policy === "each" && callback) yield* this.msix!.request(entry);
    }
    return 0;
  }

  /** vp_del_vqs: queues, config vector, MSI-X off. */
  protected *deleteQueues(policy: IrqPolicy | ""): Steps {
    for (const queue of this.queues) {
      if (policy === "each" && queue.entry !== NO_VECTOR) yield* this.msix!.mask(queue.entry);
      yield* this.deleteQueue(queue);
    }
    this.forgetQueues();
    const msix = this.msix;
    if (msix?.enabled) {
      yield* msix.mask(0);
      yield* this.writeConfigVector(NO_VECTOR);
      yield* msix.disable();
    }
    this.msix = null;
    this.truth.configEntry = NO_VECTOR;
  }

  /** Free ring memory without touching the device. */
  forgetQueues(): void {
    for (const queue of this.queues) this.env.memory.freeRing(queue.block);
    this.queues = [];
    this.truth.queues = [];
  }

  /** Drop everything on the host's side, as when the kernel that held it is gone. */
  abandon(): void {
    this.forgetQueues();
    this.msix?.forget();
    this.msix = null;
  }

  /**
   * The driver is unbound after its reset: queues deleted, MSI-X off, ACKNOWLEDGE set again by the virtio bus,
   * bus mastering off (pci_disable_device). Buffers must have been revoked between reset() and this.
   */
  *removeAfterReset(): Steps<number> {
    yield* this.deleteQueues(this.truth.policy);
    this.truth.policy = "";
    const status = yield* this.readStatus();
    yield* this.addStatus(1);
    const command = yield* this.access.cfgRead(PCI_COMMAND, 2);
    yield* this.access.cfgWrite(PCI_COMMAND, 2, command & ~COMMAND_MASTER);
    if (status !== 0) this.why = `status reads ${status} after the reset`;
    return status === 0 ? 0 : EBUSY;
  }

  /** The probe failed: FAILED is set, as virtio_dev_probe does. */
  *fail(): Steps {
    yield* this.addStatus(STATUS_FAILED);
  }

  /** Queues that the accepted features call for: one pair, and the control queue. */
  protected queueCount(): number {
    return hasBit(this.truth.accepted, F_CTRL_VQ) ? 3 : 2;
  }

  protected wantsPairs(): boolean {
    return hasBit(this.truth.accepted, F_MQ);
  }
}
