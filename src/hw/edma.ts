/**
 * The eDMA block: which register map it has, how many channels, opening channels, quiet at the end. The list of one
 * channel is edma-channel.ts. Follows dw-hardware.md 1, 3, 8 and Linux dw_pcie_edma_detect().
 */
import type { Controller, CoreInfo } from "./controller.ts";
import { DBI } from "./dbi.regs.ts";
import type { DmaChannel } from "./dma-channel.ts";
import {
  CS_RUNNING,
  CTL_CS_SHIFT,
  contextOffset,
  EDMA,
  EDMA_CH,
  EDMA_CHANNEL,
  EDMA_COMMON,
  EDMA_LEGACY_DBI,
  EDMA_MAX_CHANNELS,
  EDMA_VIEWPORT,
  EDMA_VP,
  INT_ALL,
  LL_BYTES,
  VIEWPORT_CONTEXT,
  VIEWPORT_READ,
} from "./edma.regs.ts";
import { EdmaChannel } from "./edma-channel.ts";
import { Fault } from "./fault.ts";
import type { Mmio } from "./mmio.ts";
import { dump } from "./reg-table.ts";

export type DmaMap = CoreInfo["dmaMap"];

/** DBI 0x8f8 as text, for example 0x3532302a "520*" -> "5.20a"; "" when it is not ASCII. */
export function versionText(word: number): string {
  const c = [24, 16, 8, 0].map((s) => String.fromCharCode((word >>> s) & 0xff)).join("");
  if (!/^[0-9]{3}[0-9a-z*]$/i.test(c)) return "";
  return `${c[0]}.${c.slice(1, 3)}${c[3] === "*" ? "a" : c[3]}`;
}

/** 5.40a: from here on Linux assumes the unrolled map without looking */
const VERSION_540A = 0x3534302a;

/**
 * The register map, as Linux decides it (dw-hardware.md 8).
 * @param block the separate DMA range, null when the board has none (then only the legacy map is possible)
 * @param glue the map that the SoC's glue fixes, if it does
 */
export function detectDmaMap(dbi: Mmio, block: Mmio | null, glue?: DmaMap): DmaMap {
  if (glue !== undefined) return glue;
  if (block && dbi.ld32(DBI.VERSION) >= VERSION_540A && versionText(dbi.ld32(DBI.VERSION)) !== "") return "edma-unroll";
  const word = dbi.ld32(EDMA_LEGACY_DBI + EDMA.DMA_CTRL);
  if (word !== 0xffffffff) return word === 0 ? "none" : "edma-legacy";
  return block ? "edma-unroll" : "none";
}

/** Channels present in DMA_CTRL. Not checked: 0 or more than 8 means that this is no eDMA block. */
export function channelCounts(dma: Mmio): { word: number; write: number; read: number } {
  const word = dma.ld32(EDMA.DMA_CTRL);
  return { word, write: word & 0xf, read: (word >>> 16) & 0xf };
}

export interface EdmaOptions {
  /** use the local done status, see EdmaChannelInfo.lie */
  readonly lie?: boolean;
  /** leave interrupts unmasked */
  readonly interrupts?: boolean;
}

export class Edma {
  readonly writeChannels: number;
  readonly readChannels: number;
  readonly map: "edma-legacy" | "edma-unroll" | "hdma-compat";
  private readonly ctrl: Controller;
  private readonly opened: EdmaChannel[] = [];

  /** @throws Fault E_MISSING when the controller has no eDMA v0, or its channel counts are not 1..8 */
  constructor(ctrl: Controller) {
    const map = ctrl.core.dmaMap;
    if (map === "none")
      throw new Fault("E_MISSING", `${ctrl.name} has no DMA engine`, "choose a controller with a DesignWare eDMA");
    if (map === "hdma-native")
      throw new Fault("E_MISSING", `${ctrl.name} has the HDMA native map; the eDMA v0 maps are served so far`);
    const { word, write, read } = channelCounts(ctrl.dma);
    if (write < 1 || write > EDMA_MAX_CHANNELS || read < 1 || read > EDMA_MAX_CHANNELS)
      throw new Fault(
        "E_MISSING",
        `${ctrl.name}: DMA_CTRL reads 0x${word.toString(16).padStart(8, "0")}, that is ${write} write and ${read} read channels; 1 to ${EDMA_MAX_CHANNELS} each are possible`,
        "the eDMA is absent, unclocked or at another offset; check the board table",
      );
    this.ctrl = ctrl;
    this.map = map;
    this.writeChannels = write;
    this.readChannels = read;
  }

  /** Channels opened so far, in order. */
  get channels(): readonly EdmaChannel[] {
    return this.opened;
  }

  /**
   * Open and start one channel. Its list is taken from the controller's memory.
   * @param elements most elements that may be outstanding
   * @throws Fault E_DMA no such channel, E_BUSY opened already or running for somebody else, E_MISSING no memory left
   */
  open(isWrite: boolean, index: number, elements: number, options: EdmaOptions = {}): DmaChannel {
    const count = isWrite ? this.writeChannels : this.readChannels;
    const name = `${isWrite ? "write" : "read"} channel ${index}`;
    if (!Number.isInteger(index) || index < 0 || index >= count)
      throw new Fault("E_DMA", `${name} does not exist: ${this.ctrl.name} has ${count}`);
    if (!Number.isInteger(elements) || elements < 1)
      throw new Fault("E_DMA", `${name}: a list of ${elements} elements was asked, at least 1 is needed`);
    if (this.opened.some((c) => c.isWrite === isWrite && c.index === index))
      throw new Fault("E_BUSY", `${name} of ${this.ctrl.name} is already open`);
    const ll = this.ctrl.memory.alloc(`ll-${isWrite ? "wr" : "rd"}${index}`, (elements + 3) * LL_BYTES, 64);
    const channel = new EdmaChannel(this.ctrl.dma, { ...options, map: this.map, isWrite, index }, ll);
    this.opened.push(channel);
    channel.start();
    return channel;
  }

  /**
   * What an earlier process left running comes to its end; then both engines are off. Before that its lists must not be
   * overwritten: the engine would go on with whatever is there.
   * @returns false when a channel still ran after `ms` milliseconds
   */
  settle(ms: number): boolean {
    const d = this.ctrl.dma;
    const legacy = this.map === "edma-legacy";
    const until = performance.now() + ms;
    let rested = true;
    for (const isWrite of [true, false])
      for (let i = 0; i < (isWrite ? this.writeChannels : this.readChannels); i++) {
        if (legacy) d.st32(EDMA_VP.VIEWPORT_SEL, (isWrite ? 0 : VIEWPORT_READ) | i);
        const at = (legacy ? VIEWPORT_CONTEXT : contextOffset(isWrite, i)) + EDMA_CH.CH_CONTROL1;
        let running = true;
        do {
          this.ctrl.turn();
          running = ((d.ld32(at) >>> CTL_CS_SHIFT) & 3) === CS_RUNNING;
        } while (running && performance.now() < until);
        rested &&= !running;
      }
    this.quiesce();
    return rested;
  }

  /** Mask and clear every interrupt and switch both engines off (dw-hardware.md 3, "Quiesce"). */
  quiesce(): void {
    const d = this.ctrl.dma;
    d.st32(EDMA.WR_INT_MASK, INT_ALL);
    d.st32(EDMA.RD_INT_MASK, INT_ALL);
    d.st32(EDMA.WR_INT_CLEAR, INT_ALL);
    d.st32(EDMA.RD_INT_CLEAR, INT_ALL);
    d.st32(EDMA.WR_ENGINE_EN, 0);
    d.st32(EDMA.RD_ENGINE_EN, 0);
    this.opened.length = 0;
  }

  /** All registers as dump text: the common block and every channel's context, prefixed WR<n>. / RD<n>. */
  dump(withFields = false): string {
    const d = this.ctrl.dma;
    const legacy = this.map === "edma-legacy";
    let text = dump(d, EDMA_COMMON, 0, "", withFields);
    if (legacy) text += dump(d, EDMA_VIEWPORT, 0, "", withFields);
    const selected = legacy ? d.ld32(EDMA_VP.VIEWPORT_SEL) : 0;
    for (const isWrite of [true, false])
      for (let i = 0; i < (isWrite ? this.writeChannels : this.readChannels); i++) {
        if (legacy) d.st32(EDMA_VP.VIEWPORT_SEL, (isWrite ? 0 : VIEWPORT_READ) | i);
        const at = legacy ? VIEWPORT_CONTEXT : contextOffset(isWrite, i);
        text += dump(d, EDMA_CHANNEL, at, `${isWrite ? "WR" : "RD"}${i}.`, withFields);
      }
    if (legacy) d.st32(EDMA_VP.VIEWPORT_SEL, selected);
    return text;
  }
}
