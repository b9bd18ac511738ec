/**
 * Mapping of registers and windows: sysfs `resourceN` and `resourceN_wc` files of PCI functions, and physical ranges
 * through /dev/mem for controllers of the SoC. Set-up only; every refusal of the kernel becomes a Fault that says
 * what to do. Memory for DMA is dma-hugepage.ts.
 */
import { closeSync, existsSync, fstatSync, openSync } from "node:fs";
import { join } from "node:path";
import { Fault } from "./fault.ts";
import {
  errno,
  errnoName,
  libc,
  MAP_SHARED,
  mapFailed,
  O_CLOEXEC,
  O_RDWR,
  O_SYNC,
  PAGE_SIZE,
  PROT_READ,
  PROT_WRITE,
} from "./libc.ts";
import { unmap } from "./mem.ts";

const hex = (v: number): string => `0x${v.toString(16)}`;

/** A piece of a file or of physical memory in this process. */
export class Mapping {
  /** CPU address of the first byte asked for */
  readonly ptr: number;
  readonly size: number;
  private base: number;
  private readonly mapped: number;

  constructor(ptr: number, size: number, base: number, mapped: number) {
    this.ptr = ptr;
    this.size = size;
    this.base = base;
    this.mapped = mapped;
  }

  /** Unmap; using `ptr` afterwards kills the process. */
  close(): void {
    if (this.base === 0) return;
    unmap(this.base, this.mapped);
    this.base = 0;
  }
}

interface Hints {
  /** what is mapped, for error texts */
  readonly what: string;
  /** errno name -> what to do */
  readonly fix: Readonly<Record<string, string>>;
}

const PERMISSION = new Set(["EPERM", "EACCES"]);

function failure(operation: string, code: string, h: Hints): Fault {
  const kind = PERMISSION.has(code)
    ? "E_PERM"
    : code === "ENOENT"
      ? "E_MISSING"
      : code === "EBUSY"
        ? "E_BUSY"
        : "E_SYS";
  return new Fault(kind, `${operation} of ${h.what}: ${code}`, h.fix[code]);
}

function map(path: string, flags: number, offset: number, size: number, h: Hints): Mapping {
  let fd: number;
  try {
    fd = openSync(path, flags | O_RDWR | O_CLOEXEC);
  } catch (e) {
    throw failure("open", (e as NodeJS.ErrnoException).code ?? String(e), h);
  }
  try {
    const stat = fstatSync(fd);
    // a regular file (a PCI resource, a test image) must be long enough: beyond its end a load kills the process
    if (stat.isFile() && stat.size < offset + size)
      throw new Fault("E_CONFIG", `${h.what} needs ${hex(offset + size)} bytes, ${path} has ${hex(stat.size)}`);
    const before = offset % PAGE_SIZE;
    const mapped = Math.ceil((before + size) / PAGE_SIZE) * PAGE_SIZE;
    const base = libc.mmap(null, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset - before);
    if (mapFailed(base)) throw failure("mmap", errnoName(errno()), h);
    return new Mapping(Number(base) + before, size, Number(base), mapped);
  } finally {
    closeSync(fd);
  }
}

/**
 * Map part of BAR `bar` of a PCI function.
 * @param device sysfs directory of the function
 * @param combine use the write-combining file (windows and buffers, never registers)
 * @throws Fault E_MISSING no such BAR, E_PERM, E_CONFIG shorter than asked, E_SYS
 */
export function mapResource(device: string, bar: number, offset: number, size: number, combine = false): Mapping {
  const path = join(device, `resource${bar}${combine ? "_wc" : ""}`);
  if (!existsSync(path))
    throw new Fault(
      "E_MISSING",
      `${path} does not exist`,
      combine ? "the BAR is not prefetchable: map it without write combining" : `the function has no memory BAR${bar}`,
    );
  return map(path, O_SYNC, offset, size, {
    what: `${path} + ${hex(offset)}, ${hex(size)} bytes`,
    fix: {
      EACCES: "run as root",
      EPERM: "the kernel is locked down (Secure Boot): boot with lockdown=none",
      EINVAL: "the BAR is smaller than that, or the kernel gave it no address: echo 1 >enable, or rescan the bus",
      EBUSY: "a kernel driver claims the BAR exclusively: unbind it",
    },
  });
}

/**
 * Map a physical range through /dev/mem, uncached (O_SYNC: Device or non-cacheable memory on arm64, so unaligned
 * accesses fault).
 * @param devMem the device node, or an image file in tests
 * @throws Fault E_MISSING no /dev/mem, E_PERM refused by permission or strict mode, E_SYS
 */
export function mapPhysical(base: number, size: number, what: string, devMem = "/dev/mem"): Mapping {
  if (!Number.isSafeInteger(base) || base < 0 || !Number.isSafeInteger(size) || size <= 0)
    throw new Fault("E_CONFIG", `range ${hex(base)} + ${hex(size)} of ${what} is not an address range`);
  return map(devMem, O_SYNC, base, size, {
    what: `${what} at ${hex(base)}, ${hex(size)} bytes, through ${devMem}`,
    fix: {
      ENOENT: "use a kernel with CONFIG_DEVMEM",
      EACCES: "run as root",
      EPERM:
        "run with CAP_SYS_RAWIO; if that is so, the kernel is strict about ranges that a driver claimed: boot with iomem=relaxed or use a kernel without CONFIG_IO_STRICT_DEVMEM",
      EINVAL: "the range is outside what this CPU can address",
    },
  });
}
