/**
 * The built-in host of the model: memory, interrupt controller and a virtio-net driver that behaves as Linux does
 * towards the function it finds, ending in a TAP, test callbacks or generated traffic. It stands for the PCIe host
 * where no virtual machine is attached (vfio-user-*.ts does that).
 */
import { F_RING_RESET, STATUS_DRIVER_OK, VIRTIO_VENDOR } from "../virtio.layout.ts";
import type { AddressSpace } from "./address-space.ts";
import { DEFAULT_PACE, HostAccess, type HostPace, type Steps } from "./host-access.ts";
import { type DriverOptions, type DriverTruth, EBUSY, EIO, type HostDriver } from "./host-driver.ts";
import { LegacyDriver } from "./host-driver-legacy.ts";
import { ModernDriver } from "./host-driver-modern.ts";
import { CallbackEnd, type HostEnd } from "./host-end.ts";
import { enumerate, type HostFunction, readCaps } from "./host-enumerate.ts";
import { type HostFaults, NO_FAULTS, type RingFault } from "./host-faults.ts";
import { hasBit, setBit, words } from "./host-features.ts";
import { RingSaboteur } from "./host-inject.ts";
import { HostIrq } from "./host-irq.ts";
import { type HostBlock, HostMemory } from "./host-memory.ts";
import { DEFAULT_NET, HostNet } from "./host-net.ts";
import { BAR_WINDOW, HOST_DEFAULTS, type HostOptions } from "./host-options.ts";
import type { HostBus, HostSide } from "./host-side.ts";
import { HostTap } from "./host-tap.ts";
import { Random } from "./random.ts";

export type HostState =
  /** no function found yet */
  | "scanning"
  /** enumerated, no driver bound */
  | "idle"
  | "probing"
  | "bound"
  | "removing"
  /** reset by force; memory is not given back yet */
  | "resetting"
  /** the probe failed; see error */
  | "failed"
  /** touches nothing any more */
  | "crashed";

export class BuiltInHost implements HostSide {
  readonly options: HostOptions;
  readonly hostMemory: HostMemory;
  readonly memory: AddressSpace;
  readonly irq: HostIrq;
  readonly end: HostEnd;
  readonly pace: HostPace;
  /** set-up faults, read at every probe: may be changed between binds */
  readonly faults: HostFaults;
  state: HostState = "scanning";
  /** why the last procedure failed, for people; "" after a success */
  error = "";
  /** 0 or -errno of the last probe */
  errno = 0;
  /** successful binds, failed probes, removals and forced resets */
  binds = 0;
  failures = 0;
  removals = 0;
  resets = 0;
  turns = 0;
  fn: HostFunction | null = null;
  driver: HostDriver | null = null;
  net: HostNet | null = null;
  access: HostAccess | null = null;

  readonly #random: Random;
  readonly #rxArea: HostBlock;
  readonly #txArea: HostBlock;
  readonly #faultPage: HostBlock;
  #job: Steps | null = null;
  #rescan = 0;
  #wantBind: boolean;
  #rebind = false;
  /** driver of a kernel that crashed: what it handed over stays so until the next reset */
  #stale: HostDriver | null = null;
  #saboteurs: RingSaboteur[] = [];
  /** entry masked by maskVector, and turns until it is unmasked */
  #maskedEntry = -1;
  #maskedTurns = 0;

  /** @throws Fault from HostMemory or the TAP */
  constructor(options: Partial<HostOptions> = {}) {
    const o = { ...HOST_DEFAULTS, ...options };
    this.options = o;
    this.pace = { ...DEFAULT_PACE, ...o.pace };
    this.faults = { ...NO_FAULTS, ...o.faults };
    this.#random = new Random(o.seed);
    this.hostMemory = new HostMemory({ bytes: o.memory, base: o.memoryBase, strict: o.strict });
    this.memory = this.hostMemory.space;
    this.irq = new HostIrq(this.#random.next());
    this.#rxArea = this.hostMemory.alloc("receive buffers", o.memory / 8);
    this.#txArea = this.hostMemory.alloc("transmit buffers", (o.memory * 3) / 8);
    this.#faultPage = this.hostMemory.alloc("fault injection", 4096);
    this.end = o.end ?? (o.tap !== null ? new HostTap(o.tap) : new CallbackEnd(() => {}));
    this.#wantBind = o.autoBind;
  }

  /** What the driver wrote in this bind, to compare with what a device captured; null while there is no driver. */
  get truth(): DriverTruth | null {
    return this.driver?.truth ?? null;
  }

  get waitFds(): readonly number[] {
    return this.end.waitFds;
  }

  /** True while a procedure is under way that needs turns even if nothing else happens. */
  get busy(): boolean {
    return this.#job !== null || this.#maskedEntry >= 0;
  }

  /** Plug the function in. */
  attach(bus: HostBus): void {
    this.access = new HostAccess(bus, this.pace, this.options.clock);
  }

  message(addr: number, data: number): boolean {
    return this.irq.message(addr, data);
  }

  intx(asserted: boolean): void {
    this.irq.intx(asserted);
  }

  /** One turn of the host: at most pace.accessesPerTurn accesses of a procedure, and a bounded amount of data work. */
  turn(): void {
    this.turns++;
    if (this.state === "crashed" || this.access === null) return;
    if (this.#job === null) this.#choose();
    if (this.#job !== null && this.access.begin() && this.#job.next().done === true) this.#job = null;
    if (this.net !== null && this.state === "bound") this.net.turn();
    if (this.#maskedEntry >= 0 && this.#job === null && --this.#maskedTurns <= 0) this.#unmask();
  }

  /** Probe the driver. From "crashed" this is a new kernel: the function is enumerated again. */
  bind(): void {
    if (this.state === "crashed") {
      this.#stale = this.driver;
      this.driver = null;
      this.fn = null;
      this.state = "scanning";
      this.#rescan = 0;
    }
    this.#wantBind = true;
  }

  /** Remove the driver in the order of Linux. Ignored unless bound. */
  unbind(): void {
    this.#wantBind = false;
    if (this.state === "bound") this.#start("removing", this.#remove());
  }

  /** unbind() and bind() again. */
  rebind(): void {
    if (this.state === "bound") {
      this.#rebind = true;
      this.#start("removing", this.#remove());
    } else {
      this.bind();
    }
  }

  /**
   * Reset the function now, whatever is going on: status 0 is written in this call, what was under way is dropped,
   * memory is given back pace.reuseDelayTurns later. The driver stays unbound unless `rebind`.
   */
  reset(rebind = false): void {
    const driver = this.driver;
    if (this.access === null || driver === null || this.state === "crashed") return;
    this.resets++;
    this.#wantBind = false;
    this.#rebind = rebind;
    this.#maskedEntry = -1;
    this.access.restart();
    this.#start("resetting", this.#forcedReset(driver));
    if (this.access.begin()) this.#job?.next();
  }

  /** Stop touching anything, as a host that hangs. Memory stays handed over. */
  crash(): void {
    this.state = "crashed";
    this.#job = null;
    this.#wantBind = false;
    this.end.setLink(false);
  }

  /** Mask an MSI-X entry of the running driver for some turns, then unmask it. @returns false when it cannot be done now */
  maskVector(entry: number, turns: number): boolean {
    const msix = this.driver?.msix;
    if (this.state !== "bound" || this.#job !== null || !msix?.enabled || entry >= msix.vectors.length) return false;
    this.#maskedEntry = entry;
    this.#maskedTurns = turns;
    this.#job = msix.mask(entry);
    return true;
  }

  /** Move an interrupt to another CPU while it is in use. @returns false when it cannot be done now */
  retargetVector(entry: number): boolean {
    const msix = this.driver?.msix;
    if (this.state !== "bound" || this.#job !== null || !msix?.enabled || entry >= msix.vectors.length) return false;
    this.#job = msix.retarget(entry);
    return true;
  }

  /**
   * Reset and enable again queue 0 (receive) or 1 (transmit) alone, as `ethtool -G` does. Its frames in flight are lost.
   * @returns false when RING_RESET was not negotiated, or it cannot be done now
   */
  resetQueue(which: 0 | 1): boolean {
    const { driver, net } = this;
    if (this.state !== "bound" || this.#job !== null || net === null || !(driver instanceof ModernDriver)) return false;
    if (!hasBit(driver.truth.accepted, F_RING_RESET)) return false;
    net.hold(which);
    this.#job = this.#resetQueue(driver, net, which);
    return true;
  }

  /**
   * Break queue 0 (receive) or 1 (transmit) of the running driver.
   * @returns the head of the broken chain, or -1 when not bound or the ring is too full
   */
  inject(fault: RingFault, queue: 0 | 1): number {
    if (this.net === null || this.state !== "bound" || this.driver === null) return -1;
    const ring = queue === 0 ? this.net.rx.ring : this.net.tx.ring;
    this.#saboteurs[queue] ??= new RingSaboteur(ring, this.#faultPage, this.hostMemory);
    const head = this.#saboteurs[queue].inject(fault, queue === 0);
    if (head >= 0) this.net.kick(queue);
    return head;
  }

  /** Give memory and TAP back. The host must be off the link by then. */
  close(): void {
    this.state = "crashed";
    this.#job = null;
    this.end.close();
    this.hostMemory.close();
  }

  #start(state: HostState, job: Steps): void {
    this.state = state;
    this.#job = job;
  }

  #choose(): void {
    if (this.state === "scanning") {
      if (this.#rescan-- > 0) return;
      this.#rescan = this.options.rescanTurns;
      this.#job = this.#scan();
    } else if (this.#wantBind && (this.state === "idle" || this.state === "failed")) {
      this.#wantBind = false;
      this.#start("probing", this.#probe());
    }
  }

  *#scan(): Steps {
    const fn = yield* enumerate(this.access!, BAR_WINDOW);
    if (fn === null || fn.vendor !== VIRTIO_VENDOR) {
      this.error = fn === null ? "no function answers" : `vendor id 0x${fn.vendor.toString(16)} is not virtio's`;
      return;
    }
    this.fn = fn;
    this.error = "";
    this.state = "idle";
  }

  *#probe(): Steps {
    const fn = this.fn!;
    const o = this.options;
    fn.caps = yield* readCaps(this.access!);
    const env = {
      access: this.access!,
      irq: this.irq,
      memory: this.hostMemory,
      fn,
      options: this.#driverOptions(),
      afterReset: () => this.#buryStale(),
    };
    const modern = o.personality === "modern" || (o.personality === "auto" && ModernDriver.offeredBy(fn.caps.virtio));
    const driver = modern ? new ModernDriver(env) : new LegacyDriver(env);
    this.driver = driver;
    const rc = yield* driver.probe();
    if (rc !== 0) {
      if (driver.registered) yield* driver.fail();
      this.#failed(rc, driver.why);
      driver.forgetQueues();
      return;
    }
    this.net = new HostNet(driver, this.end, this.#rxArea, this.#txArea, this.#random, { ...DEFAULT_NET, ...o.net });
    yield* driver.addStatus(STATUS_DRIVER_OK);
    yield* driver.afterDriverOk();
    try {
      this.net.start();
    } catch (e) {
      // the TAP could not be set up: the host is alive, its netdev is not
      this.#failed(EIO, e instanceof Error ? e.message : String(e));
      return;
    }
    this.error = "";
    this.errno = 0;
    this.binds++;
    this.state = "bound";
  }

  *#remove(): Steps {
    const driver = this.driver!;
    this.end.setLink(false);
    // seen on the wire: a legacy removal reads the status once before the reset
    if (!driver.modern) yield* driver.readStatus();
    const rc = yield* driver.reset();
    if (rc !== 0) {
      this.#failed(rc, driver.why);
      return;
    }
    yield* this.access!.reuse();
    this.#dropNet();
    const left = yield* driver.removeAfterReset();
    this.driver = null;
    this.removals++;
    this.error = left === 0 ? "" : driver.why;
    this.state = "idle";
    if (this.#rebind) this.#wantBind = true;
    this.#rebind = false;
  }

  *#forcedReset(driver: HostDriver): Steps {
    const rc = yield* driver.reset();
    yield* this.access!.reuse();
    this.#dropNet();
    if (driver.msix !== null) yield* driver.msix.disable();
    driver.abandon();
    this.driver = null;
    if (rc !== 0) {
      this.#failed(EBUSY, driver.why);
      return;
    }
    this.state = "idle";
    if (this.#rebind) this.#wantBind = true;
    this.#rebind = false;
  }

  *#resetQueue(driver: ModernDriver, net: HostNet, which: 0 | 1): Steps {
    const rc = yield* driver.resetQueue(driver.queues[which], () => {
      this.#saboteurs[which]?.undo();
      net.emptied(which);
    });
    if (rc === 0) net.resume(which);
    else this.error = `queue ${which} could not be reset: ${rc}`;
  }

  *#buryStale(): Steps {
    const stale = this.#stale;
    if (stale === null) return;
    this.#stale = null;
    yield* this.access!.reuse();
    this.#dropNet();
    stale.abandon();
  }

  #unmask(): void {
    const entry = this.#maskedEntry;
    this.#maskedEntry = -1;
    const msix = this.driver?.msix;
    if (this.state === "bound" && msix?.enabled) this.#job = msix.unmask(entry);
  }

  #dropNet(): void {
    for (const s of this.#saboteurs) s?.undo();
    this.#saboteurs = [];
    this.net?.stop();
    this.net = null;
  }

  #failed(rc: number, why: string): void {
    this.failures++;
    this.errno = rc;
    this.error = why;
    this.state = "failed";
  }

  #driverOptions(): DriverOptions {
    const o = this.options;
    let featureMask = null;
    if (o.features !== null) {
      featureMask = words();
      for (const bit of o.features) setBit(featureMask, bit);
    }
    return { kernel: o.kernel, featureMask, queueSize: o.queueSize, irq: o.irq, faults: this.faults };
  }
}
