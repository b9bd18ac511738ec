/**
 * What a PCIe link and an eDMA cost, as numbers: the parameters of a model with time, presets, and the payload limit
 * that a report compares with. Formulae and constants only; timed-dma.ts applies them.
 *
 * Wire overhead (PCIe Base 3.0 3.6, 4.2.2; the same sums as Xilinx WP350): a TLP carries framing and sequence number 4
 * (Gen1/2: STP 1 + sequence 2 + END 1), LCRC 4 and a header of 12 or 16 bytes. A DLLP is 8 bytes with framing.
 */
import { Fault } from "../fault.ts";

export interface LinkTiming {
  readonly name: string;
  /** generation 1..5 and lanes */
  readonly gen: number;
  readonly width: number;
  /** maximum payload of posted writes, maximum read request, bytes */
  readonly mps: number;
  readonly mrrs: number;
  /** read completion boundary, bytes; completions after the first start on a multiple of it */
  readonly rcb: number;
  /** largest completion payload the host returns, bytes, a multiple of rcb */
  readonly completion: number;
  /** read requests the DMA may have under way, all channels together */
  readonly tags: number;
  /** ns from a read request leaving the board to the first byte of its completion, idle link */
  readonly roundTripNs: number;
  /** ns the engine needs to read one linked-list element from board memory */
  readonly llFetchNs: number;
  /** ns between the last request of an element and the first of the next on the same channel */
  readonly elementNs: number;
  /** read elements of one channel that may be under way */
  readonly readElements: number;
  /** ns the board's CPU stands still for one read through the window, and the most bytes of such a read in a copy */
  readonly cpuReadNs: number;
  readonly cpuReadBytes: number;
  /** ns the board's CPU spends for one posted write through the window, and the most bytes of one in a copy */
  readonly cpuWriteNs: number;
  readonly cpuWriteBytes: number;
  /** ns the board's CPU spends for one store to a register of the controller */
  readonly regWriteNs: number;
  /** ns from a host driver's new avail index to its notification on the link: a barrier, a load of the device's wish, a store */
  readonly hostNotifyNs: number;
}

/** TLP overhead in bytes with a 4-double-word header (requests with 64-bit addresses) and with 3 (completions) */
export const TLP_REQUEST = 24;
export const TLP_COMPLETION = 20;
/** Ack and flow control DLLPs in the other direction: one Ack in 5 TLPs, one UpdateFC in 4 (assumption of WP350) */
export const DLLP_PER_TLP = 8 / 5 + 8 / 4;

const GT = [0, 2.5, 5, 8, 16, 32];

/** Bits a direction carries per ns (= Gb/s) after line encoding: 8b/10b for Gen1 and 2, 128b/130b from Gen3 on. */
export function rawGbps(t: LinkTiming): number {
  return GT[t.gen]! * t.width * (t.gen <= 2 ? 0.8 : 128 / 130);
}

/** Largest completion of a request that starts on a read completion boundary. */
function completionBytes(t: LinkTiming): number {
  return Math.min(t.completion, t.mrrs);
}

export type Direction = "ep_to_host" | "host_to_ep" | "both";

/**
 * Payload in Gb/s that the link can carry with nothing but full packets; for "both" the sum of the two directions
 * when each is full (they share: requests go up with the writes, DLLPs of one direction travel in the other).
 *
 *   up:   w * (mps + 24) / mps + r * (24 / mrrs + D / c)      = raw      D = DLLP_PER_TLP, c = completion payload
 *   down: r * (c + 20) / c     + D * (w / mps + r / mrrs)     = raw      w, r payload rates of writes and reads
 */
export function payloadLimit(t: LinkTiming, direction: Direction): number {
  const raw = rawGbps(t);
  const c = completionBytes(t);
  const d = DLLP_PER_TLP;
  const upW = (t.mps + TLP_REQUEST) / t.mps;
  const upR = TLP_REQUEST / t.mrrs + d / c;
  const downR = (c + TLP_COMPLETION) / c + d / t.mrrs;
  const downW = d / t.mps;
  if (direction === "ep_to_host") return raw / upW;
  if (direction === "host_to_ep") return raw / Math.max(downR, upR);
  const det = upW * downR - upR * downW;
  return (raw * (downR - upR)) / det + (raw * (upW - downW)) / det;
}

/*
 * Presets. Known: generation, lanes, R-Car's read request cap (dw-hardware.md 13, prior-art.md). The rest are
 * assumptions of ours:
 * - mps, mrrs, completion: what Linux hosts usually set for such devices, 128 on the smallest core;
 * - round trip 800-900 ns, CPU read 100 ns more: published reads over an idle link take 0.5-1 us (Neugebauer et al.,
 *   "Understanding PCIe performance for end host networking", SIGCOMM 2018);
 * - CPU copies in 16-byte accesses, since a window is device memory for an arm64 core and nothing merges; 20 ns a store;
 * - a store to a register of the controller takes what one to the window does: both end at the controller's bus port;
 * - a host's notification leaves 30 ns after its index: a barrier, a load of the wish, whose line the driver has just
 *   read the used index from, an indirect call and a store;
 * - tags, readElements, llFetchNs, elementNs: unknown for these cores; set so that one channel with large elements
 *   fills the link, as published eDMA figures suggest it can. Vary them to see what a report depends on.
 */
const COMMON = {
  mps: 256,
  mrrs: 512,
  rcb: 64,
  completion: 256,
  tags: 32,
  llFetchNs: 100,
  elementNs: 10,
  readElements: 4,
  cpuReadBytes: 16,
  cpuWriteNs: 20,
  cpuWriteBytes: 16,
  regWriteNs: 20,
  hostNotifyNs: 30,
};

export const PRESETS: Readonly<Record<string, LinkTiming>> = {
  rk3588: { ...COMMON, name: "rk3588", gen: 3, width: 4, roundTripNs: 800, cpuReadNs: 900 },
  "rcar-s4": {
    ...COMMON,
    name: "rcar-s4",
    gen: 4,
    width: 2,
    mrrs: 128,
    completion: 128,
    tags: 64,
    roundTripNs: 800,
    cpuReadNs: 900,
  },
  imx8mp: {
    ...COMMON,
    name: "imx8mp",
    gen: 3,
    width: 1,
    mps: 128,
    completion: 128,
    tags: 16,
    roundTripNs: 900,
    cpuReadNs: 1000,
  },
};

/** A preset by name. @throws Fault E_USAGE naming the ones there are */
export function preset(name: string): LinkTiming {
  const t = PRESETS[name];
  if (t === undefined)
    throw new Fault("E_USAGE", `no link preset "${name}"`, `choose one of ${Object.keys(PRESETS).join(", ")}`);
  return t;
}

/** @throws Fault E_CONFIG naming the parameter that makes no sense */
export function checkTiming(t: LinkTiming): void {
  const rule = (ok: boolean, text: string): void => {
    if (!ok) throw new Fault("E_CONFIG", `link timing "${t.name}": ${text}`);
  };
  rule(t.gen >= 1 && t.gen < GT.length && Number.isInteger(t.gen), `gen is ${t.gen}, it must be 1 to ${GT.length - 1}`);
  rule([1, 2, 4, 8, 16].includes(t.width), `width is ${t.width}, it must be 1, 2, 4, 8 or 16`);
  for (const key of ["mps", "mrrs"] as const)
    rule(
      [128, 256, 512, 1024, 2048, 4096].includes(t[key]),
      `${key} is ${t[key]}, it must be a power of two 128 to 4096`,
    );
  rule(t.rcb === 64 || t.rcb === 128, `rcb is ${t.rcb}, it must be 64 or 128`);
  rule(
    t.completion % t.rcb === 0 && t.completion > 0,
    `completion is ${t.completion}, it must be a multiple of rcb ${t.rcb}`,
  );
  rule(t.tags >= 1 && t.tags <= 1024, `tags is ${t.tags}, it must be 1 to 1024`);
  rule(t.readElements >= 1 && t.readElements <= 16, `readElements is ${t.readElements}, it must be 1 to 16`);
  // a list that links to itself must not stop time
  rule(t.llFetchNs >= 1, `llFetchNs is ${t.llFetchNs}, it must be at least 1`);
  for (const key of ["roundTripNs", "elementNs", "cpuReadNs", "cpuWriteNs", "regWriteNs", "hostNotifyNs"] as const)
    rule(t[key] >= 0, `${key} is ${t[key]}, it must not be negative`);
  for (const key of ["cpuReadBytes", "cpuWriteBytes"] as const)
    rule(t[key] >= 1 && t[key] <= 2048, `${key} is ${t[key]}, it must be 1 to 2048`);
}
