/**
 * The PCI function as vfio-user shows it: regions, interrupts and their descriptions, and accesses carried out on the
 * HostBus. Stateless towards the connection; it writes replies, vfio-user-host.ts sends them.
 */
import { libc } from "../libc.ts";
import { st32 } from "../mem.ts";
import {
  CAP_ID_MSI,
  CAP_ID_MSIX,
  CAP_ID_VENDOR,
  MSIX_CTL_ENABLE,
  PCI_BAR0,
  PCI_CAP_POINTER,
  PCI_COMMAND,
  PCI_INTERRUPT_PIN,
  PCI_STATUS,
} from "../pci.layout.ts";
import { CAP_COMMON_CFG } from "../virtio.layout.ts";
import type { HostBus } from "./host-side.ts";
import {
  INFO_BYTES,
  INFO_FLAG_PCI,
  INFO_FLAG_RESET,
  IRQ_COUNT,
  IRQ_FLAG_AUTOMASKED,
  IRQ_FLAG_EVENTFD,
  IRQ_FLAG_MASKABLE,
  IRQ_FLAGS,
  IRQ_INDEX,
  IRQ_INFO_BYTES,
  IRQ_INTX,
  IRQ_KINDS,
  IRQ_MSI,
  IRQ_MSIX,
  REGION_BYTES,
  REGION_CONFIG,
  REGION_COUNT,
  REGION_FLAG_MMAP,
  REGION_FLAG_READ,
  REGION_FLAG_WRITE,
  REGION_FLAGS,
  REGION_INDEX,
  REGION_OFFSET,
  REGION_SIZE,
} from "./vfio-user.layout.ts";
import { type Backing, backingOf } from "./vfio-user-backing.ts";
import type { TruthSource } from "./vfio-user-truth.ts";

/** What differs between the functions that are served. */
export interface FunctionShape {
  /** bytes of config space that are served; with 256 QEMU makes up the extended part. Default 256 */
  readonly configBytes?: 256 | 4096;
  /** BARs that plain mode lets the guest map. Default 0, the virtio registers: the BAR of an MSI-X table would gain nothing */
  readonly mapped?: readonly number[];
}

const STATUS_CAP_LIST = 1 << 4;

export class VfioUserFunction implements TruthSource {
  readonly #bus: HostBus;
  readonly #configBytes: number;
  readonly #mapped: readonly number[];
  /** offset of the MSI capability, 0 without one */
  msiCap = 0;
  /** MSI-X capability: its offset, vectors, and where the table is */
  msixCap = 0;
  /** offset of virtio's common configuration in BAR0, -1 without such a capability (legacy function) */
  commonOffset = -1;
  vectors = 0;
  tableBar = 0;
  tableOffset = 0;
  readonly #backing: (Backing | null)[] = [];

  constructor(bus: HostBus, shape: FunctionShape = {}) {
    this.#bus = bus;
    this.#configBytes = shape.configBytes ?? 256;
    this.#mapped = shape.mapped ?? [0];
  }

  /** Whether plain mode wants to let the guest map this BAR. */
  maps(region: number): boolean {
    return this.#mapped.includes(region);
  }

  /** Some BAR is set up: the endpoint's software is ready to be enumerated. */
  get ready(): boolean {
    for (let b = 0; b < 6; b++) if (this.#bus.barSize(b) > 0) return true;
    return false;
  }

  /** Read the capability list, as a host does at enumeration. */
  scan(): void {
    this.msiCap = 0;
    this.msixCap = 0;
    this.vectors = 0;
    this.commonOffset = -1;
    const bus = this.#bus;
    if ((bus.cfgRead(PCI_STATUS, 2) & STATUS_CAP_LIST) === 0) return;
    let at = bus.cfgRead(PCI_CAP_POINTER, 1) & 0xfc;
    for (let i = 0; at !== 0 && i < 48; i++) {
      const id = bus.cfgRead(at, 1);
      if (id === CAP_ID_VENDOR && bus.cfgRead(at + 3, 1) === CAP_COMMON_CFG) this.commonOffset = bus.cfgRead(at + 8, 4);
      if (id === CAP_ID_MSI) this.msiCap = at;
      if (id === CAP_ID_MSIX) {
        const table = bus.cfgRead(at + 4, 4);
        this.msixCap = at;
        this.vectors = (bus.cfgRead(at + 2, 2) & 0x7ff) + 1;
        this.tableBar = table & 7;
        this.tableOffset = table - (table & 7);
      }
      at = bus.cfgRead(at + 1, 1) & 0xfc;
    }
  }

  modern(): boolean {
    return this.commonOffset >= 0;
  }

  common(): number {
    return this.commonOffset;
  }

  msixEnabled(): boolean {
    return this.msixCap !== 0 && (this.#bus.cfgRead(this.msixCap + 2, 2) & MSIX_CTL_ENABLE) !== 0;
  }

  peek16(off: number): number {
    return this.#bus.barRead(0, off, 2);
  }

  /** What a reset of the function leaves: no decoding, no bus mastering, no MSI-X, no addresses. */
  resetConfig(): void {
    const bus = this.#bus;
    bus.cfgWrite(PCI_COMMAND, 2, 0);
    if (this.msixCap !== 0) {
      const ctl = bus.cfgRead(this.msixCap + 2, 2);
      if (ctl & MSIX_CTL_ENABLE) bus.cfgWrite(this.msixCap + 2, 2, ctl & ~MSIX_CTL_ENABLE);
    }
    if (this.msiCap !== 0) bus.cfgWrite(this.msiCap + 2, 2, bus.cfgRead(this.msiCap + 2, 2) & ~1);
    for (let b = 0; b < 6; b++) bus.cfgWrite(PCI_BAR0 + 4 * b, 4, 0);
  }

  /** One word of the MSI-X table; also while memory decoding is off, because a mask must not get lost then. */
  tableWrite(off: number, value: number): void {
    const ptr = this.#bus.barPointer(this.tableBar);
    if (ptr !== 0) st32(ptr + this.tableOffset + off, value);
    else this.#bus.barWrite(this.tableBar, this.tableOffset + off, 4, value);
  }

  regionSize(region: number): number {
    return region === REGION_CONFIG ? this.#configBytes : region < 6 ? this.#bus.barSize(region) : 0;
  }

  /** DEVICE_GET_INFO reply into `out` at `at`. */
  deviceInfo(out: DataView, at: number): void {
    out.setUint32(at, INFO_BYTES, true);
    out.setUint32(at + 4, INFO_FLAG_RESET | INFO_FLAG_PCI, true);
    out.setUint32(at + 8, REGION_COUNT, true);
    out.setUint32(at + 12, IRQ_KINDS, true);
  }

  /**
   * REGION_INFO reply into `out` at `at`.
   * @param share hand out the memory behind the BARs of the shape when the bus has it
   * @returns descriptor to send along, or -1
   */
  regionInfo(out: DataView, at: number, region: number, share: boolean): number {
    const size = this.regionSize(region);
    let flags = size > 0 ? REGION_FLAG_READ | REGION_FLAG_WRITE : 0;
    let fd = -1;
    let offset = 0;
    if (share && this.maps(region) && size > 0) {
      const backing = this.#share(region, size);
      if (backing !== null) {
        flags |= REGION_FLAG_MMAP;
        fd = backing.fd;
        offset = backing.offset;
      }
    }
    out.setUint32(at, REGION_BYTES, true);
    out.setUint32(at + REGION_FLAGS, flags, true);
    out.setUint32(at + REGION_INDEX, region, true);
    out.setUint32(at + REGION_INDEX + 4, 0, true);
    setU64(out, at + REGION_SIZE, size);
    setU64(out, at + REGION_OFFSET, offset);
    return fd;
  }

  #share(bar: number, size: number): Backing | null {
    const old = this.#backing[bar];
    if (old) return old;
    const ptr = this.#bus.barPointer(bar);
    const backing = ptr === 0 ? null : backingOf(ptr, size);
    this.#backing[bar] = backing;
    return backing;
  }

  /** @param msi messages of the MSI capability */
  irqInfo(out: DataView, at: number, index: number, msi: number): void {
    const pin = this.#bus.cfgRead(PCI_INTERRUPT_PIN, 1);
    const count =
      index === IRQ_INTX ? (pin > 0 ? 1 : 0) : index === IRQ_MSIX ? this.vectors : index === IRQ_MSI ? msi : 0;
    const flags = index === IRQ_INTX ? IRQ_FLAG_EVENTFD | IRQ_FLAG_MASKABLE | IRQ_FLAG_AUTOMASKED : IRQ_FLAG_EVENTFD;
    out.setUint32(at, IRQ_INFO_BYTES, true);
    out.setUint32(at + IRQ_FLAGS, flags, true);
    out.setUint32(at + IRQ_INDEX, index, true);
    out.setUint32(at + IRQ_COUNT, count, true);
  }

  /** Whether an access lies in the region and has a size the bus can carry. */
  allowed(region: number, offset: number, count: number): boolean {
    if (offset < 0 || count <= 0 || offset + count > this.regionSize(region)) return false;
    return region === REGION_CONFIG || count === 1 || count === 2 || count === 4 || count === 8;
  }

  /** Read `count` bytes into `out` at `at`; BAR reads of 8 bytes are two of 4. */
  read(region: number, offset: number, count: number, out: DataView, at: number): void {
    let done = 0;
    while (done < count) {
      const n = step(offset + done, count - done);
      const v =
        region === REGION_CONFIG ? this.#bus.cfgRead(offset + done, n) : this.#bus.barRead(region, offset + done, n);
      if (n === 4) out.setUint32(at + done, v, true);
      else if (n === 2) out.setUint16(at + done, v, true);
      else out.setUint8(at + done, v);
      done += n;
    }
  }

  write(region: number, offset: number, count: number, data: DataView, at: number): void {
    let done = 0;
    while (done < count) {
      const n = step(offset + done, count - done);
      const v =
        n === 4
          ? data.getUint32(at + done, true)
          : n === 2
            ? data.getUint16(at + done, true)
            : data.getUint8(at + done);
      if (region === REGION_CONFIG) this.#bus.cfgWrite(offset + done, n, v);
      else this.#bus.barWrite(region, offset + done, n, v);
      done += n;
    }
  }

  /** Close what was opened for sharing. */
  close(): void {
    for (const b of this.#backing) if (b) libc.close(b.fd);
    this.#backing.length = 0;
  }
}

/** The largest aligned access that starts here. */
function step(offset: number, left: number): number {
  if ((offset & 3) === 0 && left >= 4) return 4;
  if ((offset & 1) === 0 && left >= 2) return 2;
  return 1;
}

function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}
