/**
 * What the messages of a vfio-user client mean and what is answered: one message of the socket at a time. It decides
 * nothing about time: an access to a region may be carried out now and answered later (finish()).
 */
import { EINVAL, EOPNOTSUPP } from "../errno.ts";
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
import type { VfioUserFunction } from "./vfio-user-function.ts";
import type { VfioUserIrq } from "./vfio-user-irq.ts";
import { type GuestMemory, u64At, valueAt } from "./vfio-user-memory.ts";
import type { VfioUserMsi } from "./vfio-user-msi.ts";
import type { VfioUserSocket } from "./vfio-user-socket.ts";
import type { HostTruth } from "./vfio-user-truth.ts";

/** handle(), finish(): answered, the next message may be taken */
export const ANSWERED = 1;
/** answered as far as the socket takes it: no further message before the rest is out */
export const SENDING = 0;
/** an access that may be held is in the receive buffer; a write has been carried out, a read reads in finish() */
export const HELD_ACCESS = 2;
/** the client broke the protocol or the socket is gone: `reason` */
export const ENDED = -1;

export interface MessageParts {
  readonly socket: VfioUserSocket;
  readonly guest: GuestMemory;
  readonly irq: VfioUserIrq;
  readonly msi: VfioUserMsi;
  /** BARs may be mapped by the client */
  readonly mappable: boolean;
  readonly warn: (text: string) => void;
}

export class VfioUserMessages {
  /** why the connection cannot go on */
  reason = "";
  /** figures for the log, the tests and the rig */
  resets = 0;
  reads = 0;
  writes = 0;
  /** account of what a virtio driver wrote, null for other functions */
  truth: HostTruth | null = null;
  readonly #p: MessageParts;
  #versioned = false;

  constructor(parts: MessageParts) {
    this.#p = parts;
  }

  /** A new client: it must begin with VERSION. */
  begin(): void {
    this.#versioned = false;
  }

  /** The message in the socket's receive buffer. @returns ANSWERED, SENDING, HELD_ACCESS or ENDED */
  handle(fn: VfioUserFunction): number {
    const { header, body, bodyLen, fds } = this.#p.socket;
    const command = header.getUint16(HDR_COMMAND, true);
    const least = MIN_BODY[command];
    if ((header.getUint32(HDR_FLAGS, true) & FLAG_TYPE_MASK) === FLAG_REPLY) {
      return this.#ended(`a reply to ${COMMAND_NAMES[command] ?? command}, nothing was asked`);
    }
    if (least === undefined) return this.#replyError(EOPNOTSUPP);
    if (bodyLen < least) {
      return this.#ended(`${COMMAND_NAMES[command]} with ${bodyLen} bytes, at least ${least} belong to it`);
    }
    if (!this.#versioned && command !== CMD_VERSION) {
      return this.#ended(`${COMMAND_NAMES[command]} before VERSION`);
    }
    const out = this.#p.socket.out;
    switch (command) {
      case CMD_VERSION:
        return this.#version();
      case CMD_DMA_MAP: {
        const rc = this.#p.guest.map(body, fds[0] ?? -1);
        return rc === 0 ? this.#reply(0) : this.#refused(rc, this.#p.guest.reason);
      }
      case CMD_DMA_UNMAP: {
        const rc = this.#p.guest.unmap(body);
        if (rc !== 0) return this.#refused(rc, this.#p.guest.reason);
        for (let i = 0; i < least; i++) out.setUint8(HDR_BYTES + i, body.getUint8(i));
        return this.#reply(least);
      }
      case CMD_GET_INFO:
        fn.deviceInfo(out, HDR_BYTES);
        return this.#reply(INFO_BYTES);
      case CMD_REGION_INFO: {
        const region = body.getUint32(REGION_INDEX, true);
        if (region >= REGION_COUNT) return this.#replyError(EINVAL);
        const fd = fn.regionInfo(out, HDR_BYTES, region, this.#p.mappable);
        if (this.#p.mappable && fn.maps(region) && fd < 0)
          this.#p.warn(`BAR${region} cannot be mapped (no single window covers it): the guest's accesses trap`);
        return this.#reply(REGION_BYTES, fd);
      }
      case CMD_IRQ_INFO:
        fn.irqInfo(out, HDR_BYTES, body.getUint32(IRQ_INDEX, true), this.#p.msi.vectors);
        return this.#reply(IRQ_INFO_BYTES);
      case CMD_SET_IRQS: {
        const msi = body.getUint32(SET_INDEX, true) === IRQ_MSI && this.#p.msi.cap !== 0;
        const rc = msi ? this.#p.msi.set(body, fds) : this.#p.irq.set(body, fds);
        return rc === 0 ? this.#reply(0) : this.#refused(rc, "a SET_IRQS outside what the function has");
      }
      case CMD_READ:
      case CMD_WRITE:
        return this.#access(fn, command === CMD_WRITE);
      case CMD_RESET:
        this.resets++;
        fn.resetConfig();
        this.truth?.reset();
        return this.#reply(0);
      default:
        return this.#replyError(EOPNOTSUPP);
    }
  }

  #version(): number {
    const { body, out } = this.#p.socket;
    const major = body.getUint16(0, true);
    const minor = body.getUint16(2, true);
    if (major !== 0) {
      return this.#ended(`QEMU speaks vfio-user ${major}.${minor}, this server 0.0`);
    }
    this.#versioned = true;
    out.setUint16(HDR_BYTES, 0, true);
    out.setUint16(HDR_BYTES + 2, 0, true);
    for (let i = 0; i < CAPABILITIES.length; i++) out.setUint8(HDR_BYTES + 4 + i, CAPABILITIES.charCodeAt(i));
    out.setUint8(HDR_BYTES + 4 + CAPABILITIES.length, 0);
    return this.#reply(4 + CAPABILITIES.length + 1);
  }

  /** READ or WRITE: checked, and a write carried out. */
  #access(fn: VfioUserFunction, write: boolean): number {
    const { body, bodyLen } = this.#p.socket;
    const region = body.getUint32(RW_REGION, true);
    const offset = u64At(body, RW_OFFSET);
    const count = body.getUint32(RW_COUNT, true);
    if (!fn.allowed(region, offset, count) || (write && bodyLen < RW_DATA + count))
      return this.#refused(
        EINVAL,
        `${write ? "write" : "read"} of ${count} bytes at 0x${offset.toString(16)} of region ${region}`,
      );
    if (write) {
      this.writes++;
      fn.write(region, offset, count, body, RW_DATA);
      if (region === 0 && count <= 4) this.truth?.write(offset, count, valueAt(body, RW_DATA, count));
    } else {
      this.reads++;
    }
    // a write of config space can change what registers mean (MSI-X enable), a read of it cannot
    return region === REGION_CONFIG && !write ? this.finish(fn) : HELD_ACCESS;
  }

  /** Reply to the access in the receive buffer; a read takes its value only now. */
  finish(fn: VfioUserFunction): number {
    const { header, body, out } = this.#p.socket;
    for (let i = 0; i < RW_DATA; i++) out.setUint8(HDR_BYTES + i, body.getUint8(i));
    if (header.getUint16(HDR_COMMAND, true) === CMD_WRITE) return this.#reply(RW_DATA);
    const count = body.getUint32(RW_COUNT, true);
    const region = body.getUint32(RW_REGION, true);
    const offset = u64At(body, RW_OFFSET);
    fn.read(region, offset, count, out, HDR_BYTES + RW_DATA);
    if (region === 0 && count <= 4) this.truth?.read(offset, valueAt(out, HDR_BYTES + RW_DATA, count));
    return this.#reply(RW_DATA + count);
  }

  #refused(code: number, reason: string): number {
    this.#p.warn(`refused: ${reason}`);
    return this.#replyError(code);
  }

  #replyError(code: number): number {
    return this.#sent(this.#p.socket.replyError(code));
  }

  /** Reply with `len` bytes that are in `out` behind the header. */
  #reply(len: number, fd = -1): number {
    return this.#sent(this.#p.socket.reply(len, fd));
  }

  #sent(rc: number): number {
    return rc < 0 ? this.#ended(this.#p.socket.reason) : rc > 0 ? ANSWERED : SENDING;
  }

  #ended(reason: string): number {
    this.reason = reason;
    return ENDED;
  }
}
