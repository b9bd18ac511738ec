/** What core the model is, what is wrong with it, and the defaults. */
import { Fault } from "../fault.ts";
import { BOARD_BASE } from "./board-memory.ts";
import type { DmaFaults } from "./dma-faults.ts";
import { checkTiming, type LinkTiming } from "./timing.ts";

export interface ModelOptions {
  /** name of the controller, shown by `probe` */
  name: string;
  /** config-limit option present: vendor capabilities can be served from memory, so the modern personality works */
  modernCapable: boolean;
  msix: boolean;
  msi: boolean;
  /** 1..8 each */
  writeChannels: number;
  readChannels: number;
  /** 1..32 each */
  inboundWindows: number;
  outboundWindows: number;
  /** iATU granularity in bytes, a power of two from 4096 on */
  windowAlign: number;
  /** compat is the unrolled map with the power enables of the HDMA-compatible core */
  dmaMap: "legacy" | "unroll" | "compat";
  atu: "viewport" | "unroll";
  /** record every DMA access to memory that its owner has not handed over, on either side */
  strict: boolean;
  /** most bytes of a read request that the core survives, as a board's table would say (R-Car Gen4: 128); 0 when any size will do */
  maxReadRequest: number;
  /** bytes, a multiple of 4096 */
  boardMemory: number;
  /** bus address of its first byte, a multiple of 4096 */
  boardBase: number;
  /** bytes of the CPU's outbound window; costs nothing */
  windowSize: number;
  seed: number;
  faults: Partial<DmaFaults>;
  /** null: no simulated time, everything that is ready happens in its turn */
  timing: LinkTiming | null;
  /** ns the model's clock advances with every turn without timing; with timing, the cost of a turn of the service loop */
  turnNs: number;
  /** four ASCII characters as in DBI 0x8f8: major, two minor digits, letter ("520a" is 5.20a) */
  version: string;
  linkGen: number;
  linkWidth: number;
}

export const MODEL_DEFAULTS: Readonly<ModelOptions> = {
  name: "model",
  modernCapable: true,
  msix: true,
  msi: true,
  writeChannels: 2,
  readChannels: 2,
  inboundWindows: 8,
  outboundWindows: 8,
  windowAlign: 65536,
  dmaMap: "unroll",
  atu: "unroll",
  strict: false,
  maxReadRequest: 0,
  boardMemory: 64 * 1024 * 1024,
  boardBase: BOARD_BASE,
  windowSize: 0x4000_0000,
  seed: 1,
  faults: {},
  timing: null,
  turnNs: 100,
  version: "520a",
  linkGen: 3,
  linkWidth: 4,
};

/** Defaults filled in. @throws Fault E_CONFIG naming the option that is out of range */
export function modelOptions(given: Partial<ModelOptions>): ModelOptions {
  if (given.timing) checkTiming(given.timing);
  const link = given.timing ? { linkGen: given.timing.gen, linkWidth: given.timing.width } : {};
  const o: ModelOptions = { ...MODEL_DEFAULTS, ...link, ...given };
  const range = (key: keyof ModelOptions, low: number, high: number): void => {
    const v = o[key] as number;
    if (!Number.isInteger(v) || v < low || v > high)
      throw new Fault("E_CONFIG", `model option ${key} is ${v}, it must be a whole number ${low} to ${high}`);
  };
  range("writeChannels", 1, 8);
  range("readChannels", 1, 8);
  range("inboundWindows", 1, 32);
  range("outboundWindows", 1, 32);
  range("windowAlign", 4096, 2 ** 30);
  range("boardMemory", 65536, 2 ** 31 - 4096);
  range("boardBase", 0, 2 ** 52);
  range("linkGen", 1, 6);
  range("linkWidth", 1, 16);
  if ((o.windowAlign & (o.windowAlign - 1)) !== 0)
    throw new Fault("E_CONFIG", `model option windowAlign is ${o.windowAlign}, it must be a power of two`);
  for (const key of ["boardMemory", "boardBase"] as const)
    if (o[key] % 4096 !== 0)
      throw new Fault("E_CONFIG", `model option ${key} is ${o[key]}, it must be a multiple of 4096`);
  if (!/^[0-9]{3}[a-z*]$/.test(o.version))
    throw new Fault("E_CONFIG", `model option version is "${o.version}", it must look like "520a"`);
  return o;
}
