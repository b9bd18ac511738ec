/**
 * One VDUSE network device (Documentation/userspace-api/vduse.rst): creating and destroying it, its ioctls, control
 * messages and mappings. It has two split queues, 0 receive and 1 transmit. Policy and queues are vduse-port.ts.
 */
import { existsSync, writeFileSync } from "node:fs";
import { EACCES, EBUSY, ENODEV, ENOENT, ENXIO, EPERM } from "./errno.ts";
import { Fault } from "./fault.ts";
import {
  check,
  cstring,
  errno,
  libc,
  MAP_SHARED,
  mapFailed,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
} from "./libc.ts";
import {
  CONFIG_DATA,
  DEV_CONFIG,
  IOTLB_ENTRY,
  IOTLB_WRITE,
  NET_CONFIG,
  REQ_GET_VQ_STATE,
  REQUEST,
  RESPONSE,
  VDUSE_CREATE_DEV,
  VDUSE_DESTROY_DEV,
  VDUSE_DEV_GET_FEATURES,
  VDUSE_DEV_INJECT_CONFIG_IRQ,
  VDUSE_DEV_SET_CONFIG,
  VDUSE_IOTLB_GET_FD,
  VDUSE_SET_API_VERSION,
  VDUSE_VQ_GET_INFO,
  VDUSE_VQ_INJECT_IRQ,
  VDUSE_VQ_SETUP,
  VDUSE_VQ_SETUP_KICKFD,
  VQ_CONFIG,
  VQ_EVENTFD_BYTES,
  VQ_INFO,
} from "./vduse.layout.ts";

const CONTROL = "/dev/vduse/control";
const VQ_ALIGN = 4096;
const VIRTIO_NET = 1;
const VENDOR = 0x1af4;

/** What the control device refused with, in words. */
function openControl(): number {
  const fd = libc.open(cstring(CONTROL), O_RDWR | O_CLOEXEC, 0);
  if (fd >= 0) return fd;
  const e = errno();
  if (e === ENOENT || e === ENODEV || e === ENXIO)
    throw new Fault("E_MISSING", `${CONTROL} is missing: no VDUSE in this kernel`, "modprobe -a vduse virtio_vdpa");
  if (e === EACCES || e === EPERM) throw new Fault("E_PERM", `no permission to open ${CONTROL}`, "run as root");
  return check(fd, `open ${CONTROL}`);
}

/** Whether this kernel has VDUSE and the virtio driver of the vdpa bus; "" or what is missing. */
export function vduseMissing(): string {
  if (!existsSync(CONTROL)) return `${CONTROL} is absent (modprobe -a vduse virtio_vdpa)`;
  if (!existsSync("/sys/bus/vdpa/drivers/virtio_vdpa"))
    return "the driver virtio_vdpa is not loaded (modprobe virtio_vdpa)";
  return "";
}

export interface NetShape {
  readonly name: string;
  readonly featuresLo: number;
  readonly featuresHi: number;
  readonly queueSize: number;
  readonly mac: string;
  readonly mtu: number;
  /** VIRTIO_NET_S_* at creation */
  readonly status: number;
}

/** One queue as its driver set it up; addresses are IOVAs. */
export interface QueueInfo {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  readonly ready: boolean;
}

/** A mapped piece of the device's IOVA space. */
export interface IovaMapping {
  readonly ptr: number;
  readonly start: number;
  readonly size: number;
}

export class Vduse {
  readonly name: string;
  readonly fd: number;
  /** the last control message: type and its argument (queue index or status) */
  type = 0;
  argument = 0;
  readonly #request = new Uint32Array(REQUEST.BYTES / 4);
  readonly #response = new Uint32Array(RESPONSE.BYTES / 4);
  readonly #irq = [new Uint32Array([0]), new Uint32Array([1])] as const;

  private constructor(name: string, fd: number) {
    this.name = name;
    this.fd = fd;
  }

  /** Whether a VDUSE device of that name exists, of this or an earlier process. */
  static exists(name: string): boolean {
    return existsSync(`/dev/vduse/${name}`);
  }

  /**
   * Take over a device whose process ended.
   * @throws Fault E_BUSY while another process holds it, E_SYS
   */
  static attach(name: string): Vduse {
    const path = `/dev/vduse/${name}`;
    const fd = libc.open(cstring(path), O_RDWR | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd < 0 && errno() === EBUSY)
      throw new Fault("E_BUSY", `${path} is held by another process`, "end it, or choose another --port-name");
    return new Vduse(name, check(fd, `open ${path}`));
  }

  /** Make the device; the vdpa bus does not show it yet (vdpa.ts). @throws Fault E_MISSING, E_PERM, E_SYS */
  static create(o: NetShape): Vduse {
    const control = openControl();
    try {
      check(libc.ioctl(control, VDUSE_SET_API_VERSION, new BigUint64Array([0n])), "VDUSE_SET_API_VERSION 0");
      const b = Buffer.alloc(DEV_CONFIG.CONFIG + NET_CONFIG.BYTES);
      b.write(o.name, DEV_CONFIG.NAME, DEV_CONFIG.NAME_BYTES - 1);
      b.writeUInt32LE(VENDOR, DEV_CONFIG.VENDOR_ID);
      b.writeUInt32LE(VIRTIO_NET, DEV_CONFIG.DEVICE_ID);
      b.writeInt32LE(o.featuresLo, DEV_CONFIG.FEATURES_LO);
      b.writeInt32LE(o.featuresHi, DEV_CONFIG.FEATURES_HI);
      b.writeUInt32LE(2, DEV_CONFIG.VQ_NUM);
      b.writeUInt32LE(VQ_ALIGN, DEV_CONFIG.VQ_ALIGN);
      b.writeUInt32LE(NET_CONFIG.BYTES, DEV_CONFIG.CONFIG_SIZE);
      const c = DEV_CONFIG.CONFIG;
      b.set(
        o.mac.split(":").map((x) => Number.parseInt(x, 16)),
        c + NET_CONFIG.MAC,
      );
      b.writeUInt16LE(o.status, c + NET_CONFIG.STATUS);
      b.writeUInt16LE(1, c + NET_CONFIG.MAX_PAIRS);
      b.writeUInt16LE(o.mtu, c + NET_CONFIG.MTU);
      check(libc.ioctl(control, VDUSE_CREATE_DEV, b), `VDUSE_CREATE_DEV ${o.name}`);
    } finally {
      libc.close(control);
    }
    const dev = Vduse.attach(o.name);
    try {
      for (let q = 0; q < 2; q++) {
        const v = Buffer.alloc(VQ_CONFIG.BYTES);
        v.writeUInt32LE(q, VQ_CONFIG.INDEX);
        v.writeUInt16LE(o.queueSize, VQ_CONFIG.MAX_SIZE);
        check(libc.ioctl(dev.fd, VDUSE_VQ_SETUP, v), `VDUSE_VQ_SETUP ${q}`);
      }
      return dev;
    } catch (e) {
      dev.close();
      Vduse.destroy(o.name);
      throw e;
    }
  }

  /** Take the device away; its descriptor is closed and the vdpa device deleted. @returns 0 or -errno (EBUSY: still in use) */
  static destroy(name: string): number {
    const control = openControl();
    try {
      libc.ioctl(control, VDUSE_SET_API_VERSION, new BigUint64Array([0n]));
      const b = Buffer.alloc(DEV_CONFIG.NAME_BYTES);
      b.write(name);
      return libc.ioctl(control, VDUSE_DESTROY_DEV, b) < 0 ? -errno() : 0;
    } finally {
      libc.close(control);
    }
  }

  /** A file of /sys/class/vduse/NAME; older kernels lack some. Works before the vdpa device is added. */
  tune(file: "bounce_size" | "msg_timeout", value: number): void {
    try {
      writeFileSync(`/sys/class/vduse/${this.name}/${file}`, `${value}`);
    } catch {
      // the default stays
    }
  }

  /** Features that the driver accepted, as two int32 words; [0, 0] when the kernel gave the device up (EPERM). */
  features(): [number, number] {
    const w = new Int32Array(2);
    return libc.ioctl(this.fd, VDUSE_DEV_GET_FEATURES, w) < 0 ? [0, 0] : [w[0]!, w[1]!];
  }

  /** @returns the queue, or null when the kernel refuses */
  queue(index: number): QueueInfo | null {
    const b = Buffer.alloc(VQ_INFO.BYTES);
    b.writeUInt32LE(index, VQ_INFO.INDEX);
    if (libc.ioctl(this.fd, VDUSE_VQ_GET_INFO, b) < 0) return null;
    return {
      size: b.readUInt32LE(VQ_INFO.NUM),
      desc: Number(b.readBigUInt64LE(VQ_INFO.DESC)),
      driver: Number(b.readBigUInt64LE(VQ_INFO.DRIVER)),
      device: Number(b.readBigUInt64LE(VQ_INFO.DEVICE)),
      ready: b.readUInt8(VQ_INFO.READY) !== 0,
    };
  }

  /** Where the driver's notifications of a queue go; a reset of the device forgets it. */
  setKick(index: number, eventfd: number): number {
    const b = Buffer.alloc(VQ_EVENTFD_BYTES);
    b.writeUInt32LE(index, 0);
    b.writeInt32LE(eventfd, 4);
    return libc.ioctl(this.fd, VDUSE_VQ_SETUP_KICKFD, b);
  }

  /** Map the region around an IOVA. @returns null while nothing is there */
  map(iova: number): IovaMapping | null {
    const b = Buffer.alloc(IOTLB_ENTRY.BYTES);
    b.writeBigUInt64LE(BigInt(iova), IOTLB_ENTRY.START);
    b.writeBigUInt64LE(BigInt(iova), IOTLB_ENTRY.LAST);
    const fd = libc.ioctl(this.fd, VDUSE_IOTLB_GET_FD, b);
    if (fd < 0) return null;
    const start = Number(b.readBigUInt64LE(IOTLB_ENTRY.START));
    const last = Number(b.readBigUInt64LE(IOTLB_ENTRY.LAST));
    const perm = b.readUInt8(IOTLB_ENTRY.PERM);
    const size = last - start + 1;
    const prot = PROT_READ | ((perm & IOTLB_WRITE) !== 0 ? PROT_WRITE : 0);
    const ptr = libc.mmap(null, size, prot, MAP_SHARED, fd, Number(b.readBigUInt64LE(IOTLB_ENTRY.OFFSET)));
    libc.close(fd);
    return mapFailed(ptr) ? null : { ptr: Number(ptr), start, size };
  }

  /** Interrupt the driver of a queue. */
  interrupt(index: number): void {
    libc.ioctl(this.fd, VDUSE_VQ_INJECT_IRQ, this.#irq[index]!);
  }

  /** Change config space and tell the driver, if one is there. */
  setConfig(offset: number, bytes: Uint8Array): void {
    const b = Buffer.alloc(CONFIG_DATA.BYTES + bytes.length);
    b.writeUInt32LE(offset, CONFIG_DATA.OFFSET);
    b.writeUInt32LE(bytes.length, CONFIG_DATA.LENGTH);
    b.set(bytes, CONFIG_DATA.BYTES);
    libc.ioctl(this.fd, VDUSE_DEV_SET_CONFIG, b);
    libc.ioctl(this.fd, VDUSE_DEV_INJECT_CONFIG_IRQ, null);
  }

  /** Take one control message: `type` and `argument` are set, reply() is owed. @returns false when there is none */
  receive(): boolean {
    if (libc.read(this.fd, this.#request, REQUEST.BYTES) !== REQUEST.BYTES) return false;
    this.type = this.#request[REQUEST.TYPE >> 2]!;
    this.argument = this.#request[REQUEST.VQ >> 2]!;
    return true;
  }

  /** Answer the message of the last receive(). @param availIndex for REQ_GET_VQ_STATE */
  reply(availIndex = 0): void {
    const r = this.#response;
    r.fill(0);
    r[RESPONSE.ID >> 2] = this.#request[REQUEST.ID >> 2]!;
    if (this.type === REQ_GET_VQ_STATE) {
      r[RESPONSE.VQ >> 2] = this.argument;
      r[RESPONSE.AVAIL_INDEX >> 2] = availIndex;
    }
    libc.write(this.fd, r, RESPONSE.BYTES);
  }

  close(): void {
    libc.close(this.fd);
  }
}
