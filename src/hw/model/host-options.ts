/** Options of the built-in host (host.ts) and their defaults. Data only. */
import type { Clock } from "./clock.ts";
import type { HostPace } from "./host-access.ts";
import type { IrqMode } from "./host-driver.ts";
import type { HostEnd } from "./host-end.ts";
import type { HostFaults } from "./host-faults.ts";
import type { HostKernel } from "./host-features.ts";
import type { NetOptions } from "./host-net.ts";
import type { HostTapOptions } from "./host-tap.ts";

/** Default bus addresses: memory from 128 MiB on, BARs below 4 GiB, clear of the message range. */
const MEMORY_BASE = 0x0800_0000;
export const BAR_WINDOW = 0xc000_0000;

export interface HostOptions {
  /** bytes of host memory and bus address of its first byte */
  memory: number;
  memoryBase: number;
  /** "auto" takes modern when the capability list offers it, as Linux does */
  personality: "auto" | "modern" | "legacy";
  kernel: HostKernel;
  /** feature bits the driver may take at most; null = all it knows */
  features: readonly number[] | null;
  /** largest queue size, 0 = the device's; modern only */
  queueSize: number;
  irq: IrqMode;
  pace: Partial<HostPace>;
  net: Partial<NetOptions>;
  faults: Partial<HostFaults>;
  seed: number;
  /** record what DMA may touch in `memory.shadow` */
  strict: boolean;
  /** bind as soon as the function shows up */
  autoBind: boolean;
  /** turns between two looks for the function while it is not there yet */
  rescanTurns: number;
  /** where frames go: a TAP, an own end, or nothing (frames are dropped) */
  tap: HostTapOptions | null;
  end: HostEnd | null;
  /** the model's clock, needed when pace.turnNs is set */
  clock: Clock | null;
}

export const HOST_DEFAULTS: Readonly<HostOptions> = {
  memory: 64 << 20,
  memoryBase: MEMORY_BASE,
  personality: "auto",
  kernel: "7.3",
  features: null,
  queueSize: 0,
  irq: "auto",
  pace: {},
  net: {},
  faults: {},
  seed: 1,
  strict: false,
  autoBind: true,
  rescanTurns: 100,
  tap: null,
  end: null,
  clock: null,
};
