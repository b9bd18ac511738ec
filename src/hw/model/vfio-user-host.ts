/**
 * A QEMU guest as the host at the other end of the simulated link: a vfio-user server that runs in the engine's own
 * thread, a bounded piece of work a turn.
 *
 * Two ways for the guest's accesses to BAR0 (facts: a BAR traps nothing, the endpoint polls):
 *  - "held": each access ends only after the engine had two more turns. That is the ratio real hardware has (a PCIe
 *    access takes longer than a turn of the poller), and it does not depend on how loaded the machine is.
 *  - "plain": the guest maps the board memory behind the BAR; nobody sees the accesses, as on silicon.
 *
 * A QEMU that breaks the protocol, hangs in a message or vanishes is reported, everything it gave is returned, and
 * the next QEMU may connect.
 */
import { EINVAL, EOPNOTSUPP } from "../errno.ts";
import { AddressSpace } from "./address-space.ts";
import type { HostBus, HostSide } from "./host-side.ts";
import { ViolationLog } from "./stats.ts";
import {
  CAPABILITIES,
  CMD_DMA_MAP,
  CMD_DMA_UNMAP,
  CMD_GET_INFO,
  CMD_IRQ_INFO,
  CMD_READ,
  CMD_REGION_INFO,
  CMD_RESET,
  CMD_SET_IRQS,
  CMD_VERSION,
  CMD_WRITE,
  COMMAND_NAMES,
  FLAG_REPLY,
  FLAG_TYPE_MASK,
  HDR_BYTES,
  HDR_COMMAND,
  HDR_FLAGS,
  INFO_BYTES,
  IRQ_INDEX,
  IRQ_INFO_BYTES,
  IRQ_MSI,
  MIN_BODY,
  REGION_BYTES,
  REGION_CONFIG,
  REGION_COUNT,
  REGION_INDEX,
  RW_COUNT,
  RW_DATA,
  RW_OFFSET,
  RW_REGION,
  SET_INDEX,
} from "./vfio-user.layout.ts";
import { GuestAuditor } from "./vfio-user-auditor.ts";
import { type FunctionShape, VfioUserFunction } from "./vfio-user-function.ts";
import { VfioUserIrq } from "./vfio-user-irq.ts";
import { GuestMemory, u64At, valueAt } from "./vfio-user-memory.ts";
import { VfioUserMsi } from "./vfio-user-msi.ts";
import { RX_CLOSED, RX_MESSAGE, RX_NONE, VfioUserSocket } from "./vfio-user-socket.ts";
import { HostTruth } from "./vfio-user-truth.ts";

export type VfioUserMode = "held" | "plain";

export interface VfioUserOptions extends FunctionShape {
  /** unix socket to listen on; "plain:" or "held:" in front of it says the mode */
  path: string;
  /** default "held" */
  mode?: VfioUserMode;
  /** follow the guest's rings and let DMA touch only what they hand over; needs held accesses */
  strict?: boolean;
  /** the function is a virtio device: keep an account of what its driver writes (default true) */
  virtio?: boolean;
  /** where the guest's memory appears; an own space by default */
  space?: AddressSpace;
  /**
   * Where the engine is another process: milliseconds a BAR access is held while the guest's driver negotiates, 0 never;
   * accesses of a driver at DRIVER_OK are not held. Without it they are held for turns of the engine.
   */
  holdMs?: number;
  log?: (level: "info" | "warn" | "error", text: string) => void;
}

/** turns an access is held: the engine polls once a turn, and a change must be seen twice to be taken */
const HOLD_TURNS = 3;
/** messages handled in one turn at most */
const BURST = 16;
/** a socket that was quiet this many turns is looked at every eighth turn only */
const QUIET_TURNS = 256;

export class VfioUserHost implements HostSide {
  readonly memory: AddressSpace;
  readonly guest: GuestMemory;
  readonly irq: VfioUserIrq;
  readonly msi: VfioUserMsi;
  readonly mode: VfioUserMode;
  /** strict mode: what is wrong in the guest's rings themselves; accesses outside of them are the link's to report */
  readonly audit = new ViolationLog();
  /** figures for the log, the tests and the rig */
  attaches = 0;
  resets = 0;
  reads = 0;
  writes = 0;

  readonly #socket: VfioUserSocket;
  readonly #shape: FunctionShape;
  readonly #virtio: boolean;
  readonly #log: (level: "info" | "warn" | "error", text: string) => void;
  #truth: HostTruth | null = null;
  #auditor: GuestAuditor | null = null;
  #bus: HostBus | null = null;
  #function: VfioUserFunction | null = null;
  #turns = 0;
  #quiet = 0;
  /** turn at which the access in #socket.header/body may end; 0: none is held */
  #holdUntil = 0;
  /** the same as a time, with holdMs */
  #holdUntilMs = 0;
  readonly #holdMs: number | undefined;
  #versioned = false;
  #straySeen = 0;

  /** Listen at once, so that QEMU may be started. @throws Fault when the socket cannot be made */
  constructor(options: VfioUserOptions) {
    const prefix = options.path.match(/^(held|plain):/);
    this.mode = (prefix?.[1] as VfioUserMode | undefined) ?? options.mode ?? "held";
    this.#log = options.log ?? ((level, text) => console.error(`vfio-user ${level}: ${text}`));
    const strict = (options.strict ?? false) && (options.virtio ?? true);
    if (strict && this.mode === "plain")
      this.#log(
        "warn",
        "strict mode does not cover the guest's memory: without trapped accesses nobody knows its rings",
      );
    this.memory = options.space ?? new AddressSpace("host", { strict: strict && this.mode === "held" });
    this.#holdMs = options.holdMs;
    this.guest = new GuestMemory(this.memory);
    this.irq = new VfioUserIrq((off, value) => this.#function?.tableWrite(off, value));
    this.msi = new VfioUserMsi((off, size) => this.#bus?.cfgRead(off, size) ?? 0);
    this.#shape = options;
    this.#virtio = options.virtio ?? true;
    this.#socket = new VfioUserSocket(prefix ? options.path.slice(prefix[0].length) : options.path);
  }

  attach(bus: HostBus): void {
    this.#bus = bus;
    const fn = new VfioUserFunction(bus, this.#shape);
    this.#function = fn;
    if (!this.#virtio) return;
    const truth = new HostTruth(fn);
    const { shadow } = this.memory;
    const auditor =
      shadow === null ? null : new GuestAuditor(this.memory, shadow, (text) => this.audit.add(`host memory, ${text}`));
    this.#auditor = auditor;
    truth.onDriverOk = () => {
      this.#log("info", `the guest set DRIVER_OK: ${truth.describe()}`);
      auditor?.start(truth.queues);
    };
    auditor?.follow(truth);
    this.#truth = truth;
  }

  /** what the guest wrote so far; complete only where BAR0 traps */
  get truth(): HostTruth | null {
    return this.#truth;
  }

  get connected(): boolean {
    return this.#socket.connected;
  }

  /** Wait on this while there is nothing to do. */
  get waitFd(): number {
    return this.#socket.waitFd;
  }

  message(addr: number, data: number): boolean {
    const known = this.irq.message(addr, data) || this.msi.message(addr, data);
    if (this.irq.stray !== this.#straySeen) {
      if (this.#straySeen === 0) this.#log("warn", this.irq.strayText);
      this.#straySeen = this.irq.stray;
    }
    return known;
  }

  intx(asserted: boolean): void {
    this.irq.intx(asserted);
  }

  /** A bounded piece of work; never blocks and allocates nothing while nothing comes. */
  turn(): void {
    this.#turns++;
    this.irq.turn();
    const socket = this.#socket;
    const fn = this.#function;
    if (fn === null) return;
    if (!socket.connected) {
      if ((this.#turns & 63) === 0 && fn.ready && socket.accept()) this.#begin(fn);
      return;
    }
    this.#auditor?.turn();
    if (this.#holdUntil !== 0) {
      if (this.#turns < this.#holdUntil || (this.#holdUntilMs !== 0 && performance.now() < this.#holdUntilMs)) return;
      this.#holdUntil = 0;
      if (!this.#finishAccess(fn)) return;
    }
    if (socket.sending) {
      if (socket.flush() < 0) {
        this.#end(socket.reason, true);
        return;
      }
      if (socket.sending) return;
    }
    if (this.#quiet > QUIET_TURNS && (this.#turns & 7) !== 0) return;
    for (let i = 0; i < BURST; i++) {
      const rc = socket.receive();
      if (rc === RX_NONE) {
        this.#quiet++;
        return;
      }
      if (rc !== RX_MESSAGE) {
        this.#end(rc === RX_CLOSED ? "QEMU closed the connection" : socket.reason, rc !== RX_CLOSED);
        return;
      }
      this.#quiet = 0;
      if (!this.#handle(fn)) return;
    }
  }

  #begin(fn: VfioUserFunction): void {
    this.attaches++;
    this.#versioned = false;
    this.#quiet = 0;
    fn.scan();
    this.irq.vectors = fn.vectors;
    // a virtio driver never uses MSI (the PCI transport knows MSI-X and INTx only)
    this.msi.cap = this.#virtio ? 0 : fn.msiCap;
    const kind = fn.vectors
      ? `${fn.vectors} MSI-X vectors`
      : this.msi.cap
        ? `${this.msi.vectors} MSI messages`
        : "INTx";
    this.#log("info", `QEMU connected (${this.mode} accesses, ${kind})`);
  }

  /** The connection is over: take everything back so that the next QEMU finds a function after power-on. */
  #end(reason: string, broken: boolean): void {
    this.#log(broken ? "error" : "info", `${broken ? "connection dropped: " : ""}${reason}; waiting for a new QEMU`);
    this.#holdUntil = 0;
    this.#socket.drop();
    this.irq.clear(true);
    this.msi.clear();
    this.#function?.resetConfig();
    this.#function?.close();
    this.guest.clear();
    this.#truth?.reset();
  }

  /** One whole message. @returns false when the turn must end here */
  #handle(fn: VfioUserFunction): boolean {
    const { header, body, bodyLen, fds } = this.#socket;
    const command = header.getUint16(HDR_COMMAND, true);
    const least = MIN_BODY[command];
    if ((header.getUint32(HDR_FLAGS, true) & FLAG_TYPE_MASK) === FLAG_REPLY) {
      this.#end(`a reply to ${COMMAND_NAMES[command] ?? command}, nothing was asked`, true);
      return false;
    }
    if (least === undefined) return this.#replyError(EOPNOTSUPP);
    if (bodyLen < least) {
      this.#end(`${COMMAND_NAMES[command]} with ${bodyLen} bytes, at least ${least} belong to it`, true);
      return false;
    }
    if (!this.#versioned && command !== CMD_VERSION) {
      this.#end(`${COMMAND_NAMES[command]} before VERSION`, true);
      return false;
    }
    const out = this.#socket.out;
    switch (command) {
      case CMD_VERSION:
        return this.#version();
      case CMD_DMA_MAP: {
        const rc = this.guest.map(body, fds[0] ?? -1);
        return rc === 0 ? this.#reply(0) : this.#refused(rc, this.guest.reason);
      }
      case CMD_DMA_UNMAP: {
        const rc = this.guest.unmap(body);
        if (rc !== 0) return this.#refused(rc, this.guest.reason);
        for (let i = 0; i < least; i++) out.setUint8(HDR_BYTES + i, body.getUint8(i));
        return this.#reply(least);
      }
      case CMD_GET_INFO:
        fn.deviceInfo(out, HDR_BYTES);
        return this.#reply(INFO_BYTES);
      case CMD_REGION_INFO: {
        const region = body.getUint32(REGION_INDEX, true);
        if (region >= REGION_COUNT) return this.#replyError(EINVAL);
        const fd = fn.regionInfo(out, HDR_BYTES, region, this.mode === "plain");
        if (this.mode === "plain" && fn.maps(region) && fd < 0)
          this.#log("warn", `BAR${region} cannot be mapped (no single window covers it): the guest's accesses trap`);
        return this.#reply(REGION_BYTES, fd);
      }
      case CMD_IRQ_INFO:
        fn.irqInfo(out, HDR_BYTES, body.getUint32(IRQ_INDEX, true), this.msi.vectors);
        return this.#reply(IRQ_INFO_BYTES);
      case CMD_SET_IRQS: {
        const msi = body.getUint32(SET_INDEX, true) === IRQ_MSI && this.msi.cap !== 0;
        const rc = msi ? this.msi.set(body, fds) : this.irq.set(body, fds);
        return rc === 0 ? this.#reply(0) : this.#refused(rc, "a SET_IRQS outside what the function has");
      }
      case CMD_READ:
      case CMD_WRITE:
        return this.#access(fn, command === CMD_WRITE);
      case CMD_RESET:
        this.resets++;
        fn.resetConfig();
        this.#truth?.reset();
        return this.#reply(0);
      default:
        return this.#replyError(EOPNOTSUPP);
    }
  }

  #version(): boolean {
    const { body, out } = this.#socket;
    const major = body.getUint16(0, true);
    const minor = body.getUint16(2, true);
    if (major !== 0) {
      this.#end(`QEMU speaks vfio-user ${major}.${minor}, this server 0.0`, true);
      return false;
    }
    this.#versioned = true;
    out.setUint16(HDR_BYTES, 0, true);
    out.setUint16(HDR_BYTES + 2, 0, true);
    for (let i = 0; i < CAPABILITIES.length; i++) out.setUint8(HDR_BYTES + 4 + i, CAPABILITIES.charCodeAt(i));
    out.setUint8(HDR_BYTES + 4 + CAPABILITIES.length, 0);
    return this.#reply(4 + CAPABILITIES.length + 1);
  }

  /** READ or WRITE: carried out now, or after the hold. */
  #access(fn: VfioUserFunction, write: boolean): boolean {
    const { body, bodyLen } = this.#socket;
    const region = body.getUint32(RW_REGION, true);
    const offset = u64At(body, RW_OFFSET);
    const count = body.getUint32(RW_COUNT, true);
    if (!fn.allowed(region, offset, count) || (write && bodyLen < RW_DATA + count))
      return this.#refused(
        EINVAL,
        `${write ? "write" : "read"} of ${count} bytes at 0x${offset.toString(16)} of region ${region}`,
      );
    const before = this.#truth?.driverOk ?? true;
    if (write) {
      this.writes++;
      fn.write(region, offset, count, body, RW_DATA);
      if (region === 0 && count <= 4) this.#truth?.write(offset, count, valueAt(body, RW_DATA, count));
    } else {
      this.reads++;
    }
    // a write of config space can change what registers mean (MSI-X enable), a read of it cannot
    if (region === REGION_CONFIG && !write) return this.#finishAccess(fn);
    const ms = this.#holdMs;
    if (ms === undefined) this.#holdUntil = this.#turns + HOLD_TURNS;
    else {
      if (ms === 0 || (before && (this.#truth?.driverOk ?? true))) return this.#finishAccess(fn);
      this.#holdUntil = this.#turns;
      this.#holdUntilMs = performance.now() + ms;
    }
    return false;
  }

  /** Reply to the access in the receive buffer; a read takes its value only now. */
  #finishAccess(fn: VfioUserFunction): boolean {
    const { header, body, out } = this.#socket;
    for (let i = 0; i < RW_DATA; i++) out.setUint8(HDR_BYTES + i, body.getUint8(i));
    if (header.getUint16(HDR_COMMAND, true) === CMD_WRITE) return this.#reply(RW_DATA);
    const count = body.getUint32(RW_COUNT, true);
    const region = body.getUint32(RW_REGION, true);
    const offset = u64At(body, RW_OFFSET);
    fn.read(region, offset, count, out, HDR_BYTES + RW_DATA);
    if (region === 0 && count <= 4) this.#truth?.read(offset, valueAt(out, HDR_BYTES + RW_DATA, count));
    return this.#reply(RW_DATA + count);
  }

  #refused(code: number, reason: string): boolean {
    this.#log("warn", `refused: ${reason}`);
    return this.#replyError(code);
  }

  #replyError(code: number): boolean {
    return this.#sent(this.#socket.replyError(code));
  }

  /** Reply with `len` bytes that are in `out` behind the header. */
  #reply(len: number, fd = -1): boolean {
    return this.#sent(this.#socket.reply(len, fd));
  }

  /** @returns whether the next message may be taken in this turn */
  #sent(rc: number): boolean {
    if (rc < 0) this.#end(this.#socket.reason, true);
    return rc > 0;
  }

  /** End the connection and remove the socket. */
  close(): void {
    if (this.#socket.connected) this.#end("the server is closed", false);
    this.guest.clear();
    this.#function?.close();
    this.#socket.close();
  }
}
