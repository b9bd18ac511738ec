/**
 * The board's side through VDUSE: the board's own kernel probes its stock virtio_net, and this port gives the engine
 * that driver's two virtqueues and packet buffers. No frame is touched here: the kernel copies to and from its bounce
 * pages, the endpoint's DMA reads and writes those.
 *
 * The netdev outlives this process: when epnic dies it stays, and the next epnic takes the rings over where the used
 * index stands (completions are in order). It is taken away by a clean stop, and made again when a host took
 * other offloads than it was made for. Everything slow happens piecewise in turn(); adding and deleting the vdpa
 * device is a child's work, because the kernel blocks the caller until we have answered the driver's probe.
 */
import type { BufferBus } from "./bounce-pages.ts";
import { EBUSY, errnoName } from "./errno.ts";
import { Fault } from "./fault.ts";
import { check, EFD_CLOEXEC, EFD_NONBLOCK, libc, POLLIN, ptrOf } from "./libc.ts";
import { IdleQueues } from "./local-ring.ts";
import { ld16 } from "./mem.ts";
import type { LocalBuffers, LocalRing, NetPort, PortFeatures } from "./net-port.ts";
import { moveNetdev, netdevBelow, netdevIndex, renameNetdev, setNetdev } from "./netdev.ts";
import { VdpaChild, vdpaExists } from "./vdpa.ts";
import { NET_CONFIG, NET_S_LINK_UP, REQ_GET_VQ_STATE, REQ_SET_STATUS } from "./vduse.layout.ts";
import { Vduse, vduseMissing } from "./vduse.ts";
import { boardFeatures, FEATURES_HI, SHAPING } from "./vduse-features.ts";
import { VduseRings } from "./vduse-rings.ts";
import { F_MRG_RXBUF, STATUS_DRIVER_OK } from "./virtio.layout.ts";

export interface VdusePortOptions {
  /** name of the VDUSE device and of the netdev */
  readonly name: string;
  /** namespace of /run/netns that the netdev is moved to, "" for the own one */
  readonly netns?: string;
  readonly mac: string;
  readonly mtu: number;
  readonly queueSize?: number;
  /** the model's board bus; null on a board, where pages are reached by physical address */
  readonly bus?: BufferBus | null;
  readonly log: (level: "info" | "warn" | "error", text: string) => void;
}

/** turns between two looks at control messages and notifications: one poll(2) of 0.3 us */
const LOOK_TURNS = 64;
/** milliseconds between two looks at sysfs while a netdev is expected */
const SYSFS_MS = 20;
/** seconds the kernel waits for an answer of a process that is not there */
const MSG_TIMEOUT_S = 10;
/** milliseconds a clean stop may take, the start of the helper process included; the init files wait 25 s */
const STOP_MS = 20_000;
const DEFAULT_QUEUE = 256;
const MIB = 1 << 20;

/** header length that a driver with VERSION_1 has (5.1.6) */
const HEADER = 12;
/** none -> adding -> there -> deleting -> none */
type Stage = "none" | "adding" | "there" | "deleting";

export class VdusePort implements NetPort {
  readonly kind = "vduse";
  readonly netdev: string;
  /** Bounce pages: mapped for writing here, and copied back for DMA_FROM_DEVICE only (Linux, vdpa_user/iova_domain.c). */
  readonly txHeaderWritable = true;
  readonly hdrLen = HEADER;
  readonly copiedBytes = 0;
  readonly waitFds: readonly number[];
  rxMergeable = true;
  ready = false;
  generation = 0;
  rx: LocalRing;
  tx: LocalRing;
  buffers: LocalBuffers;
  /** negotiations of the board's driver */
  lives = 0;

  readonly #o: VdusePortOptions;
  readonly #size: number;
  readonly #idle: IdleQueues;
  readonly #kick: readonly [number, number];
  readonly #kickWord = new Uint32Array(2);
  // what turn() polls: device, kicks
  readonly #polled = new Int32Array(6);
  readonly #polledPtr: number;
  /** stands for "the engine waits on the epoll of this device, whichever it is now" */
  readonly #epoll: number;
  #dev: Vduse | null = null;
  #stage: Stage = "none";
  #child: VdpaChild | null = null;
  /** low feature word the device should offer, 0 as long as nobody asked; what it offers now */
  #want = 0;
  #offered = 0;
  /** what the device was made for by this process: the driver may take less, which is no reason to make it again */
  #madeFor = 0;
  #linkUp = false;
  #turns = 0;
  #sysfsAt = 0;
  #configured = false;
  #broken = false;
  #serving = false;
  readonly #rings: VduseRings;
  /** status message whose answer waits until the engine has let go of the rings */
  #owedReply = false;

  /** @throws Fault E_MISSING no VDUSE, E_BUSY another process holds the device, E_CONFIG name, E_SYS */
  constructor(o: VdusePortOptions) {
    if (!/^[^/\s:%]{1,15}$/.test(o.name) || o.name === "." || o.name === ".." || o.name === "control")
      throw new Fault(
        "E_CONFIG",
        `"${o.name}" cannot name a VDUSE device: 1 to 15 bytes without "/", ":", "%" and blanks`,
      );
    const missing = vduseMissing();
    if (missing !== "")
      throw new Fault("E_MISSING", `the board's side cannot be VDUSE: ${missing}`, "or use --port tap");
    this.#o = o;
    this.#size = o.queueSize ?? DEFAULT_QUEUE;
    this.netdev = o.name;
    this.#idle = new IdleQueues();
    this.#rings = new VduseRings(o.bus ?? null);
    this.rx = this.#idle.ring;
    this.tx = this.#idle.ring;
    this.buffers = this.#idle.buffers;
    const eventfd = (): number => check(libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
    this.#kick = [eventfd(), eventfd()];
    this.#epoll = check(libc.epoll_create1(EFD_CLOEXEC), "epoll_create1");
    this.waitFds = [this.#epoll, ...this.#kick];
    this.#polledPtr = ptrOf(this.#polled);
    this.#polled.set([-1, POLLIN, this.#kick[0], POLLIN, this.#kick[1], POLLIN]);
    if (Vduse.exists(o.name)) this.#reattach();
  }

  // --- NetPort ---

  /** Make the netdev for a host that accepts all that is offered; start() corrects it. */
  expect(f: PortFeatures): void {
    if (this.#want === 0) this.#want = boardFeatures(f);
  }

  start(f: PortFeatures): void {
    this.#want = boardFeatures(f);
    this.#serving = true;
    this.#dropStale();
  }

  stop(): void {
    this.#serving = false;
    this.setLink(false);
  }

  resumeIdx(queue: number): number {
    const ring = queue === 0 ? this.rx : this.tx;
    return ld16(ring.usedPtr + 2);
  }

  setLink(up: boolean): void {
    if (up === this.#linkUp) return;
    this.#linkUp = up;
    this.#dev?.setConfig(NET_CONFIG.STATUS, new Uint8Array([up ? NET_S_LINK_UP : 0, 0]));
  }

  notify(queue: number): void {
    this.#dev?.interrupt(queue);
  }

  turn(): number {
    if ((++this.#turns & (LOOK_TURNS - 1)) !== 0 && !this.#owedReply) return 0;
    return this.#look();
  }

  /** Take the netdev and the device away. Blocks for as long as the kernel's driver takes to go. */
  close(): void {
    this.#drop();
    const dev = this.#dev;
    if (dev !== null) {
      const until = Date.now() + STOP_MS;
      const child = vdpaExists(dev.name) ? new VdpaChild("del", dev.name) : null;
      // The kernel takes the device out of sysfs before it takes the driver off it, and that asks us: answer until it is over.
      while (child?.running && Date.now() < until) {
        if (dev.receive()) this.#answer(dev);
        else libc.usleep(200);
      }
      this.#free();
      dev.close();
      let rc = Vduse.destroy(dev.name);
      while (rc === -EBUSY && Date.now() < until) {
        libc.usleep(1000);
        rc = Vduse.destroy(dev.name);
      }
      if (rc < 0)
        this.#o.log("warn", `${dev.name} stays: VDUSE_DESTROY_DEV says ${errnoName(-rc)}; vdpa dev del ${dev.name}`);
      this.#dev = null;
    }
    for (const fd of [...this.#kick, this.#epoll]) libc.close(fd);
    this.#idle.close();
  }

  // --- life of the device ---

  #open(dev: Vduse): void {
    this.#dev = dev;
    this.#polled[0] = dev.fd;
    const event = new Uint8Array(16);
    event[0] = POLLIN;
    check(libc.epoll_ctl(this.#epoll, 1, dev.fd, event), "epoll_ctl of the VDUSE device");
  }

  #reattach(): void {
    const { name } = this.#o;
    const dev = Vduse.attach(name);
    const [lo, hi] = dev.features();
    if (!vdpaExists(name) && lo === 0) {
      // Left behind before it was ever added, or given up by the kernel: begin anew.
      dev.close();
      const rc = Vduse.destroy(name);
      if (rc < 0) throw new Fault("E_BUSY", `VDUSE device ${name} cannot be taken over: ${errnoName(-rc)}`);
      return;
    }
    this.#open(dev);
    this.#offered = lo;
    this.#stage = vdpaExists(name) ? "there" : "adding";
    if (this.#stage === "adding") this.#child = new VdpaChild("add", name);
    // Nobody serves it yet; the carrier comes back with the host.
    dev.setConfig(NET_CONFIG.STATUS, new Uint8Array(2));
    if (hi !== 0 && this.#mapRings()) this.#o.log("info", `${name}: took over the live netdev of an earlier process`);
  }

  #create(): void {
    const o = this.#o;
    const dev = Vduse.create({
      name: o.name,
      featuresLo: this.#want,
      featuresHi: FEATURES_HI,
      queueSize: this.#size,
      mac: o.mac,
      mtu: o.mtu,
      status: this.#linkUp ? NET_S_LINK_UP : 0,
    });
    this.#open(dev);
    dev.tune("msg_timeout", MSG_TIMEOUT_S);
    if (this.#size > DEFAULT_QUEUE) dev.tune("bounce_size", 256 * MIB);
    this.#offered = this.#madeFor = this.#want;
    this.#configured = false;
    this.#stage = "adding";
    this.#child = new VdpaChild("add", o.name);
  }

  /** One step of the life of the device. */
  #advance(): void {
    const o = this.#o;
    try {
      if (this.#stage === "none") {
        if (this.#want !== 0 && !this.#broken) this.#create();
      } else if (this.#stage === "adding") {
        const status = this.#child?.status ?? null;
        if (status === null) return;
        this.#child = null;
        if (status !== 0 && !vdpaExists(o.name))
          throw new Fault("E_SYS", `vdpa dev add ${o.name} ended with ${status}`);
        this.#stage = "there";
      } else if (this.#stage === "there") {
        if (this.#misfit()) {
          o.log("info", `${o.name}: the host took other offloads, the netdev is made again`);
          this.#stage = "deleting";
          this.#child = new VdpaChild("del", o.name);
        } else if (!this.#configured) this.#configure();
      } else if (this.#child?.status !== null) {
        this.#drop();
        this.#free();
        this.#dev?.close();
        this.#dev = null;
        this.#polled[0] = -1;
        const rc = Vduse.destroy(o.name);
        if (rc === -EBUSY) return;
        this.#child = null;
        this.#stage = "none";
      }
    } catch (e) {
      this.#broken = true;
      this.#stage = this.#stage === "there" ? "there" : "none";
      this.#configured = true;
      o.log("error", `board side: ${(e as Error).message}`);
    }
  }

  /** The device offers other offloads than it should. */
  #misfit(): boolean {
    const differ = ((this.#offered ^ this.#want) & SHAPING) !== 0;
    return differ && this.#want !== 0 && this.#offered !== 0 && this.#want !== this.#madeFor && !this.#broken;
  }

  /** Name, namespace, MTU and up, as soon as the driver has made its netdev. */
  #configure(): void {
    const { name, mtu } = this.#o;
    const netns = this.#o.netns ?? "";
    const found = netdevBelow(`/sys/bus/vdpa/devices/${name}`);
    if (found === "") {
      if (netns === "" || netdevIndex(name, netns) === 0) return;
    } else if (found !== name) renameNetdev(found, name);
    if (found !== "" && netns !== "") moveNetdev(name, netns);
    setNetdev(name, { netns, mtu, up: true });
    this.#configured = true;
    this.#o.log("info", `board side: netdev ${name}${netns === "" ? "" : ` in ${netns}`} is virtio_net through VDUSE`);
  }

  // --- messages and rings ---

  #look(): number {
    let work = 0;
    const dev = this.#dev;
    if (dev !== null) {
      if (this.#owedReply) {
        this.#owedReply = false;
        this.#rings.release();
        dev.reply();
        work++;
      }
      if (libc.poll(this.#polledPtr, 3, 0) > 0) {
        const polled = this.#polled;
        if (polled[1]! >>> 16 !== 0) while (!this.#owedReply && dev.receive()) work += this.#answer(dev);
        // A level that nobody clears would end every sleep at once.
        if (polled[3]! >>> 16 !== 0) libc.read(this.#kick[0], this.#kickWord, 8);
        if (polled[5]! >>> 16 !== 0) libc.read(this.#kick[1], this.#kickWord, 8);
      }
      if (this.#rings.rx !== null && !this.ready) this.#tryReady();
    }
    if (this.#stage !== "there" || !this.#configured || this.#misfit()) {
      const now = Date.now();
      if (now - this.#sysfsAt >= SYSFS_MS) {
        this.#sysfsAt = now;
        this.#advance();
      }
    }
    return work;
  }

  /** Deal with the message just received. @returns 1 */
  #answer(dev: Vduse): number {
    if (dev.type === REQ_SET_STATUS) {
      const status = dev.argument & 0xff;
      if ((status & STATUS_DRIVER_OK) !== 0) {
        if (this.#rings.rx === null) this.#mapRings();
      } else if (this.#rings.rx !== null) {
        // The answer waits until the engine has stopped its DMA and left the rings: one turn.
        this.#drop();
        this.#owedReply = true;
        return 1;
      }
    }
    if (dev.type === REQ_GET_VQ_STATE) dev.reply(this.#rings.usedIdx(dev.argument));
    else dev.reply();
    return 1;
  }

  /** The driver is at DRIVER_OK, or was when an earlier process died: map its rings. @returns false when they are not live */
  #mapRings(): boolean {
    const dev = this.#dev!;
    const rx = dev.queue(0);
    const tx = dev.queue(1);
    if (rx === null || tx === null || !rx.ready || !tx.ready || rx.size === 0 || tx.size === 0) return false;
    // A reset forgets them, so they are set here and not at creation.
    dev.setKick(0, this.#kick[0]);
    dev.setKick(1, this.#kick[1]);
    if (!this.#rings.map(dev, rx, tx)) {
      this.#o.log("error", `${dev.name}: the driver's rings cannot be mapped`);
      return false;
    }
    const [lo] = dev.features();
    this.rxMergeable = ((lo >>> F_MRG_RXBUF) & 1) === 1;
    this.#offered = (this.#offered & ~SHAPING) | (lo & SHAPING);
    this.lives++;
    this.#tryReady();
    return true;
  }

  #tryReady(): void {
    const rings = this.#rings;
    if (!rings.mapBuffers(this.#dev!)) return;
    this.rx = rings.rx!;
    this.tx = rings.tx!;
    this.buffers = rings.pages!;
    this.generation++;
    this.ready = true;
    if (!this.#serving) this.#dropStale();
  }

  /** The rings are void from now on; memory behind them is kept until the engine has noticed. */
  #drop(): void {
    if (this.#rings.rx === null) return;
    this.#rings.drop();
    this.rx = this.#idle.ring;
    this.tx = this.#idle.ring;
    this.buffers = this.#idle.buffers;
    this.ready = false;
    this.generation++;
  }

  /** Everything mapped, rings dropped before. */
  #free(): void {
    this.#rings.release();
    this.#owedReply = false;
  }

  #dropStale(): void {
    if (this.#rings.giveBackStale()) this.notify(1);
  }
}
