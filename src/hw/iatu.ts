/**
 * The internal address translation unit: inbound regions put BARs (and config requests above the limit) into board
 * memory, outbound regions turn pieces of the CPU's window into PCIe accesses or messages. Both register forms.
 * Follows dw-hardware.md 10 and Linux pcie-designware.c: base, limit, target, CTRL1, CTRL2, then poll ENABLE.
 *
 * Which region serves what is the caller's plan. A region must not be changed while traffic goes through it.
 */
import type { Controller } from "./controller.ts";
import { Fault } from "./fault.ts";
import {
  ATU,
  ATU_BAR_SHIFT,
  ATU_CTRL1_INCREASE_SIZE,
  ATU_ENABLE,
  ATU_INHIBIT_PAYLOAD,
  ATU_MATCH_BAR,
  ATU_MAX_REGIONS,
  ATU_MSG_ROUTE_LOCAL,
  ATU_TYPE_CFG0,
  ATU_TYPE_MEM,
  ATU_TYPE_MSG,
  ATU_VIEWPORT,
  ATU_VIEWPORT_INBOUND,
  ATU_VIEWPORT_WINDOW,
  IATU_INBOUND,
  IATU_OUTBOUND,
  regionOffset,
} from "./iatu.regs.ts";
import type { Mmio } from "./mmio.ts";
import { dump } from "./reg-table.ts";

/** Linux polls ENABLE 5 times with 9 ms between */
const ENABLE_POLLS = 5;
const ENABLE_WAIT_MS = 9;
/** what Linux writes into the target to see whether a region exists */
const PROBE_WORD = 0x11110000;

const hex = (v: number): string => `0x${v.toString(16)}`;
const hiWord = (v: number): number => Math.floor(v / 2 ** 32) | 0;

/** The registers only: what is needed before a Controller exists (open.ts, probe). */
export class IatuRegs {
  private readonly dbi: Mmio;
  private readonly atu: Mmio | null;

  /** @param atu the unrolled block, or null for the viewport form */
  constructor(dbi: Mmio, atu: Mmio | null) {
    this.dbi = dbi;
    this.atu = atu;
  }

  private window(inbound: boolean, region: number): number {
    if (this.atu) return regionOffset(inbound, region);
    this.dbi.st32(ATU_VIEWPORT, (inbound ? ATU_VIEWPORT_INBOUND : 0) | region);
    return ATU_VIEWPORT_WINDOW;
  }

  read(inbound: boolean, region: number, reg: number): number {
    return (this.atu ?? this.dbi).ld32(this.window(inbound, region) + reg);
  }

  write(inbound: boolean, region: number, reg: number, value: number): void {
    (this.atu ?? this.dbi).st32(this.window(inbound, region) + reg, value);
  }

  /**
   * Count windows and find the alignment, as Linux does (dw-hardware.md 10). DESTROYS the target of every region and
   * the limit of outbound 0: only while nothing is configured.
   */
  discover(): { inbound: number; outbound: number; align: number } {
    const count = (inbound: boolean): number => {
      const most = this.atu ? Math.min(ATU_MAX_REGIONS, Math.floor(this.atu.size / 512)) : ATU_MAX_REGIONS;
      for (let i = 0; i < most; i++) {
        if (!this.atu) {
          // an index that does not exist does not stick in the viewport register
          this.dbi.st32(ATU_VIEWPORT, (inbound ? ATU_VIEWPORT_INBOUND : 0) | i);
          if ((this.dbi.ld32(ATU_VIEWPORT) & 0xff) !== i) return i;
        }
        this.write(inbound, i, ATU.ATU_TARGET_LO, PROBE_WORD);
        if (this.read(inbound, i, ATU.ATU_TARGET_LO) !== PROBE_WORD) return i;
        this.write(inbound, i, ATU.ATU_TARGET_LO, 0);
      }
      return most;
    };
    const outbound = count(false);
    const inbound = count(true);
    let align = 0;
    if (outbound > 0) {
      this.write(false, 0, ATU.ATU_LIMIT, 0);
      // fls of the bits that read as one: 0xffff -> 64 KiB
      align = 2 ** (32 - Math.clz32(this.read(false, 0, ATU.ATU_LIMIT)));
    }
    return { inbound, outbound, align };
  }

  dump(inbound: boolean, region: number, withFields = false): string {
    const at = this.window(inbound, region);
    const table = inbound ? IATU_INBOUND : IATU_OUTBOUND;
    return dump(this.atu ?? this.dbi, table, at, `${inbound ? "IB" : "OB"}${region}.`, withFields);
  }
}

export class Iatu {
  readonly regs: IatuRegs;
  private readonly ctrl: Controller;

  constructor(ctrl: Controller) {
    this.ctrl = ctrl;
    this.regs = new IatuRegs(ctrl.dbi, ctrl.atu);
  }

  /**
   * Match BAR `bar` and put it at `target`.
   * @param target bus address of board memory, aligned to `barSize`, the size that the core advertises
   * @throws Fault E_USAGE for a rule of the hardware, E_MISSING when the core has too few regions
   */
  inboundBar(region: number, bar: number, target: number, barSize: number): void {
    this.have(true, region);
    const { windowAlign } = this.ctrl.core;
    if (!Number.isInteger(bar) || bar < 0 || bar > 5) throw new Fault("E_USAGE", `BAR${bar} does not exist, 0 to 5 do`);
    if (!(barSize > 0) || 2 ** Math.round(Math.log2(barSize)) !== barSize)
      throw new Fault("E_USAGE", `BAR${bar} size ${hex(barSize)} is not a power of two`);
    if (barSize < windowAlign)
      throw new Fault(
        "E_USAGE",
        `BAR${bar} has ${hex(barSize)} bytes, an inbound region covers at least ${hex(windowAlign)}`,
        `make BAR${bar} ${hex(windowAlign)} bytes or larger`,
      );
    this.aligned(`target of BAR${bar}`, target, barSize);
    this.program(true, region, -1, 0, target, ATU_TYPE_MEM, ATU_ENABLE | ATU_MATCH_BAR | (bar << ATU_BAR_SHIFT));
  }

  /**
   * Put the config requests that leave the core (register number above the config limit) into board memory at
   * `target`: one region of the core's alignment, the register number is the offset.
   */
  inboundCfg(region: number, target: number): void {
    this.have(true, region);
    this.aligned("config target", target, this.ctrl.core.windowAlign);
    // for CFG0, bit 30 means: accept whatever routing id our function was given
    this.program(true, region, 0, this.ctrl.core.windowAlign - 1, target, ATU_TYPE_CFG0, ATU_ENABLE | ATU_MATCH_BAR);
  }

  /**
   * CPU accesses to bus addresses base .. base+size-1 become memory accesses at PCI address `target`.
   * @param base ctrl.windowBus + offset; base, target and size are multiples of the core's alignment
   */
  outboundMem(region: number, base: number, target: number, size: number): void {
    const { windowAlign } = this.ctrl.core;
    this.have(false, region);
    this.aligned("outbound base", base, windowAlign);
    this.aligned("outbound target", target, windowAlign);
    this.aligned("outbound size", size, windowAlign);
    this.inWindow(base, size);
    this.program(false, region, base, base + size - 1, target, ATU_TYPE_MEM, ATU_ENABLE);
  }

  /**
   * Re-aim an outbound region in the service loop: no exception, arguments are the caller's duty (aligned, inside the
   * window). @returns 0, or -1 when the region did not become enabled at once
   */
  aim(region: number, base: number, size: number, targetLo: number, targetHi: number): number {
    const r = this.regs;
    const limit = base + size - 1;
    r.write(false, region, ATU.ATU_CTRL2, 0);
    r.write(false, region, ATU.ATU_BASE_LO, base | 0);
    r.write(false, region, ATU.ATU_BASE_HI, hiWord(base));
    r.write(false, region, ATU.ATU_LIMIT, limit | 0);
    r.write(false, region, ATU.ATU_LIMIT_HI, hiWord(limit));
    r.write(false, region, ATU.ATU_TARGET_LO, targetLo);
    r.write(false, region, ATU.ATU_TARGET_HI, targetHi);
    r.write(false, region, ATU.ATU_CTRL1, ATU_TYPE_MEM);
    r.write(false, region, ATU.ATU_CTRL2, ATU_ENABLE);
    for (let i = 0; i < 1000; i++) if (r.read(false, region, ATU.ATU_CTRL2) & ATU_ENABLE) return 0;
    return -1;
  }

  /**
   * A write of any 32-bit word to `base` sends the message `code` without payload, routed to the receiver. The region
   * takes one alignment unit of the window (PCIe 2.2.8.1; dw-hardware.md 12).
   */
  outboundMsg(region: number, base: number, code: number): void {
    const { windowAlign } = this.ctrl.core;
    this.have(false, region);
    this.aligned("message base", base, windowAlign);
    this.inWindow(base, windowAlign);
    if (!Number.isInteger(code) || code < 0 || code > 0xff)
      throw new Fault("E_USAGE", `message code ${code} is not a byte`);
    const type = ATU_TYPE_MSG | ATU_MSG_ROUTE_LOCAL;
    this.program(false, region, base, base + windowAlign - 1, 0, type, ATU_ENABLE | ATU_INHIBIT_PAYLOAD | code);
  }

  disableInbound(region: number): void {
    this.have(true, region);
    this.regs.write(true, region, ATU.ATU_CTRL2, 0);
  }

  disableOutbound(region: number): void {
    this.have(false, region);
    this.regs.write(false, region, ATU.ATU_CTRL2, 0);
  }

  /** True when the region is enabled at this moment. */
  enabled(inbound: boolean, region: number): boolean {
    return (this.regs.read(inbound, region, ATU.ATU_CTRL2) & ATU_ENABLE) !== 0;
  }

  private have(inbound: boolean, region: number): void {
    const n = inbound ? this.ctrl.core.inboundWindows : this.ctrl.core.outboundWindows;
    if (!Number.isInteger(region) || region < 0 || region >= n)
      throw new Fault(
        "E_MISSING",
        `${inbound ? "inbound" : "outbound"} region ${region} of ${this.ctrl.name}: it has ${n}`,
      );
  }

  private aligned(what: string, value: number, to: number): void {
    if (!Number.isSafeInteger(value) || value < 0 || value % to !== 0)
      throw new Fault("E_USAGE", `${what} ${hex(value)} is not a multiple of ${hex(to)}`);
  }

  private inWindow(base: number, size: number): void {
    const { windowBus, window } = this.ctrl;
    if (size <= 0 || base < windowBus || base + size > windowBus + window.size)
      throw new Fault(
        "E_USAGE",
        `outbound region ${hex(base)}+${hex(size)} is not inside the window ${hex(windowBus)}+${hex(window.size)}`,
      );
  }

  /** base < 0: the region matches a BAR and has no base and limit. */
  private program(
    inbound: boolean,
    region: number,
    base: number,
    limit: number,
    target: number,
    ctrl1: number,
    ctrl2: number,
  ): void {
    const r = this.regs;
    r.write(inbound, region, ATU.ATU_CTRL2, 0);
    let control1 = ctrl1;
    if (base >= 0) {
      r.write(inbound, region, ATU.ATU_BASE_LO, base | 0);
      r.write(inbound, region, ATU.ATU_BASE_HI, hiWord(base));
      r.write(inbound, region, ATU.ATU_LIMIT, limit | 0);
      // the upper limit counts only with INCREASE_SIZE, so a core without it (before 4.60a) never sees a difference
      r.write(inbound, region, ATU.ATU_LIMIT_HI, hiWord(limit));
      if (hiWord(base) !== hiWord(limit)) control1 |= ATU_CTRL1_INCREASE_SIZE;
    }
    r.write(inbound, region, ATU.ATU_TARGET_LO, target | 0);
    r.write(inbound, region, ATU.ATU_TARGET_HI, hiWord(target));
    r.write(inbound, region, ATU.ATU_CTRL1, control1);
    r.write(inbound, region, ATU.ATU_CTRL2, ctrl2);
    for (let i = 0; i < ENABLE_POLLS; i++) {
      if (r.read(inbound, region, ATU.ATU_CTRL2) & ATU_ENABLE) return;
      Bun.sleepSync(ENABLE_WAIT_MS);
    }
    throw new Fault(
      "E_SYS",
      `${inbound ? "inbound" : "outbound"} region ${region} of ${this.ctrl.name} did not enable in ${ENABLE_POLLS * ENABLE_WAIT_MS} ms: CTRL2 reads ${hex(r.read(inbound, region, ATU.ATU_CTRL2))}, ${hex(ctrl2 >>> 0)} was written`,
    );
  }
}
