/**
 * The address translation unit of the model: regions with their registers in both forms (viewport, unrolled) and the
 * matching of inbound and outbound requests. It knows addresses only; endpoint.ts and link.ts move the data.
 * Facts: dw-hardware.md 10. The lowest matching region wins.
 */
import {
  ATU,
  ATU_BAR_SHIFT,
  ATU_CTRL1_INCREASE_SIZE,
  ATU_DMA_BYPASS,
  ATU_ENABLE,
  ATU_INHIBIT_PAYLOAD,
  ATU_MATCH_BAR,
  ATU_REGION_BYTES,
  ATU_TYPE_CFG0,
  ATU_TYPE_MEM,
  ATU_TYPE_MSG,
} from "../iatu.regs.ts";

const TYPE_MASK = 0x1f;
const MSG_MASK = 0x18;
const WORDS = ATU_REGION_BYTES / 4;

/** What a request came to: outbound() and inbound() leave it in `kind`. */
export const MATCH_NONE = 0;
export const MATCH_MEM = 1;
export const MATCH_MSG = 2;
export const MATCH_OTHER = 3;

class Region {
  readonly regs = new Int32Array(WORDS);
  enabled = false;
  type = 0;
  base = 0;
  /** last address of the region */
  limit = 0;
  target = 0;
}

export class IatuModel {
  readonly inbound: readonly Region[];
  readonly outbound: readonly Region[];
  readonly align: number;
  /** DBI 0x900; bit 31 inbound, low bits the region */
  viewport = 0;
  /** changes with every register write */
  generation = 0;
  /** result of the last match: translated address, bytes to the region's end, message code and routing */
  address = 0;
  run = 0;
  code = 0;
  routing = 0;
  inhibitPayload = false;
  /** region of the last outbound match */
  matched = 0;
  /** outbound regions (bits) through which writes of the CPU may still be on their way: cleared by a read or a turn */
  posted = 0;
  /** told when one of those regions is changed, which loses or misdirects the write on silicon */
  onChangeUnderWrite: ((region: number) => void) | null = null;
  // hull of the enabled outbound regions that translate DMA; empty when low > high
  #dmaLow = 1;
  #dmaHigh = 0;
  readonly #indexMask: number;

  /** @param align granularity in bytes, a power of two */
  constructor(inbound: number, outbound: number, align: number) {
    this.inbound = Array.from({ length: inbound }, () => new Region());
    this.outbound = Array.from({ length: outbound }, () => new Region());
    this.align = align;
    let mask = 1;
    while (mask < Math.max(inbound, outbound)) mask *= 2;
    this.#indexMask = mask - 1;
    for (const r of [...this.inbound, ...this.outbound]) r.regs[ATU.ATU_LIMIT >> 2] = align - 1;
  }

  /** All regions off, registers at their reset values. */
  reset(): void {
    for (const r of [...this.inbound, ...this.outbound]) {
      r.regs.fill(0);
      r.regs[ATU.ATU_LIMIT >> 2] = this.align - 1;
      this.#decode(r);
    }
    this.viewport = 0;
    this.posted = 0;
  }

  /** Unrolled form: region index << 9, inbound at + 0x100. A region the core lacks reads 0 and takes no write. */
  readUnrolled(off: number): number {
    return this.#read((off & 0x100) !== 0, off >>> 9, off & 0xff);
  }

  writeUnrolled(off: number, value: number, lanes: number): void {
    this.#write((off & 0x100) !== 0, off >>> 9, off & 0xff, value, lanes);
  }

  /** Viewport form: DBI 0x904 + off shows the region that DBI 0x900 selects. */
  readViewport(off: number): number {
    return this.#read(this.viewport < 0, this.viewport & this.#indexMask, off);
  }

  writeViewport(off: number, value: number, lanes: number): void {
    this.#write(this.viewport < 0, this.viewport & this.#indexMask, off, value, lanes);
  }

  /** Only as many index bits stick as the core has regions for. */
  selectViewport(value: number): void {
    this.viewport = value & (0x80000000 | this.#indexMask);
  }

  #read(inbound: boolean, index: number, off: number): number {
    const r = (inbound ? this.inbound : this.outbound)[index];
    return r === undefined || off >= ATU_REGION_BYTES ? 0 : r.regs[off >> 2]!;
  }

  #write(inbound: boolean, index: number, off: number, value: number, lanes: number): void {
    const r = (inbound ? this.inbound : this.outbound)[index];
    if (r === undefined || off >= ATU_REGION_BYTES) return;
    if (!inbound && (this.posted & (1 << index)) !== 0) {
      this.posted &= ~(1 << index);
      this.onChangeUnderWrite?.(index);
    }
    const low = this.align - 1;
    let v = (r.regs[off >> 2]! & ~lanes) | (value & lanes);
    if (off === ATU.ATU_BASE_LO || off === ATU.ATU_TARGET_LO) v &= ~low;
    else if (off === ATU.ATU_LIMIT) v |= low;
    r.regs[off >> 2] = v;
    this.#decode(r);
  }

  #decode(r: Region): void {
    const word = (off: number): number => r.regs[off >> 2]! >>> 0;
    const ctrl1 = word(ATU.ATU_CTRL1);
    r.enabled = (word(ATU.ATU_CTRL2) & ATU_ENABLE) !== 0;
    r.type = ctrl1 & TYPE_MASK;
    r.base = word(ATU.ATU_BASE_HI) * 4294967296 + word(ATU.ATU_BASE_LO);
    const limitHi = ctrl1 & ATU_CTRL1_INCREASE_SIZE ? word(ATU.ATU_LIMIT_HI) : word(ATU.ATU_BASE_HI);
    r.limit = limitHi * 4294967296 + word(ATU.ATU_LIMIT);
    r.target = word(ATU.ATU_TARGET_HI) * 4294967296 + word(ATU.ATU_TARGET_LO);
    this.generation++;
    this.#dmaLow = 1;
    this.#dmaHigh = 0;
    for (const o of this.outbound) {
      if (!o.enabled || (o.regs[ATU.ATU_CTRL2 >> 2]! & ATU_DMA_BYPASS) !== 0 || o.limit < o.base) continue;
      if (this.#dmaLow > this.#dmaHigh) {
        this.#dmaLow = o.base;
        this.#dmaHigh = o.limit;
      } else {
        if (o.base < this.#dmaLow) this.#dmaLow = o.base;
        if (o.limit > this.#dmaHigh) this.#dmaHigh = o.limit;
      }
    }
  }

  /**
   * A host memory request to BAR `bar` at `off`. BAR match uses the offset (target bits below the BAR's size are
   * ignored), address match the host's address.
   * @returns MATCH_MEM with `address` (board bus) and `run`, or MATCH_NONE
   */
  matchBar(bar: number, off: number, barAddr: number, barSize: number): number {
    const addr = barAddr + off;
    for (let i = 0; i < this.inbound.length; i++) {
      const r = this.inbound[i]!;
      if (!r.enabled || r.type !== ATU_TYPE_MEM) continue;
      const ctrl2 = r.regs[ATU.ATU_CTRL2 >> 2]!;
      if ((ctrl2 & ATU_MATCH_BAR) !== 0) {
        if (((ctrl2 >> ATU_BAR_SHIFT) & 7) !== bar) continue;
        this.address = r.target - (r.target % barSize) + off;
        this.run = barSize - off;
        return MATCH_MEM;
      }
      if (addr < r.base || addr > r.limit) continue;
      this.address = r.target + (addr - r.base);
      this.run = r.limit - addr + 1;
      return MATCH_MEM;
    }
    return MATCH_NONE;
  }

  /** A config request above the config limit: the first enabled CFG0 region takes it, its offset is the register's. */
  matchConfig(off: number): number {
    for (let i = 0; i < this.inbound.length; i++) {
      const r = this.inbound[i]!;
      if (!r.enabled || r.type !== ATU_TYPE_CFG0) continue;
      this.address = r.target + off;
      this.run = 4096 - off;
      return MATCH_MEM;
    }
    return MATCH_NONE;
  }

  /** A request of the board's CPU at bus address `addr`. */
  matchOutbound(addr: number): number {
    for (let i = 0; i < this.outbound.length; i++) {
      const r = this.outbound[i]!;
      if (!r.enabled || addr < r.base || addr > r.limit) continue;
      this.matched = i;
      return this.#take(r, addr);
    }
    return MATCH_NONE;
  }

  /** Whether a DMA request to PCI address `addr` may fall into an outbound region; quick, for every element. */
  dmaNear(addr: number, len: number): boolean {
    return addr <= this.#dmaHigh && addr + len > this.#dmaLow;
  }

  /** A DMA request: as matchOutbound, but regions with the bypass bit let it pass. `run` counts to the next region. */
  matchDma(addr: number, len: number): number {
    this.run = len;
    this.address = addr;
    for (let i = 0; i < this.outbound.length; i++) {
      const r = this.outbound[i]!;
      if (!r.enabled || (r.regs[ATU.ATU_CTRL2 >> 2]! & ATU_DMA_BYPASS) !== 0) continue;
      if (addr >= r.base && addr <= r.limit) {
        const kind = this.#take(r, addr);
        if (this.run > len) this.run = len;
        return kind;
      }
      if (r.base > addr && r.base - addr < this.run) this.run = r.base - addr;
    }
    return MATCH_NONE;
  }

  #take(r: Region, addr: number): number {
    const ctrl2 = r.regs[ATU.ATU_CTRL2 >> 2]!;
    this.address = r.target + (addr - r.base);
    this.run = r.limit - addr + 1;
    if (r.type === ATU_TYPE_MEM) return MATCH_MEM;
    if ((r.type & MSG_MASK) !== ATU_TYPE_MSG) return MATCH_OTHER;
    this.code = ctrl2 & 0xff;
    this.routing = r.type & 7;
    this.inhibitPayload = (ctrl2 & ATU_INHIBIT_PAYLOAD) !== 0;
    return MATCH_MSG;
  }
}
