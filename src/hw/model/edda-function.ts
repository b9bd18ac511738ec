/**
 * The Synopsys DMA test function 16c3:edda (dw-hardware.md 9) over the model's eDMA: a PCI function whose DMA is
 * driven by the *host*, as Linux's dw-edma-pcie does. For development only: the eDMA model is the same one that the
 * engine runs on, here under a driver that we did not write.
 *
 *   BAR0  eDMA registers, unrolled map, at 0 (where every Linux to date looks) and at 0x1000 (where its table says)
 *   BAR2  device memory: lists and data; the DMA's local addresses are BAR2's current bus address + offset
 *   BAR4  MSI-X table and pending bits
 */
import {
  BAR_MASK_ENABLE,
  DBI,
  EDDA_DEVICE,
  EXT_CAP_VSEC,
  RO_WR_EN,
  SYNOPSYS_VENDOR,
  VSEC_DMA_ID,
} from "../dbi.regs.ts";
import { MAP_ANONYMOUS, MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from "../libc.ts";
import { ld8, ld16, ld32, st8, st16, st32, unmap } from "../mem.ts";
import { PCI_BAR0 } from "../pci.layout.ts";
import { AddressSpace, REGION_READ, REGION_WRITE } from "./address-space.ts";
import { MSIX_CAP } from "./config.layout.ts";
import { ConfigModel } from "./config-model.ts";
import { NO_FAULTS } from "./dma-faults.ts";
import { EdmaModel } from "./edma-model.ts";
import type { HostBus, HostSide } from "./host-side.ts";
import { IatuModel } from "./iatu-model.ts";
import { Link } from "./link.ts";
import { Random } from "./random.ts";
import { ModelStats, ViolationLog } from "./stats.ts";

export interface EddaOptions {
  /** which message interrupts the function has; Linux takes MSI-X when there are both */
  msi: boolean;
  msix: boolean;
  /** channels each way, 1 or 2: the driver's table has two */
  channels: number;
  seed: number;
}

export const REGISTER_BAR = 0;
export const MEMORY_BAR = 2;
export const TABLE_BAR = 4;
const REGISTER_BYTES = 0x4000;
/** the second place of the registers, and the bytes there by Linux's table */
const REGISTER_ALIAS = 0x1000;
const ALIAS_BYTES = 0x2000;
/** lists from 0, data from 8 MiB on, the last block at 11 MiB */
const MEMORY_BYTES = 0x100_0000;
const TABLE_BYTES = 0x1000;
const PBA_OFFSET = 0x800;
const CLASS_DMA = 0x080100;

/** where the vendor-specific capability goes: behind secondary PCI Express */
const LAST_EXT_CAP = 0x148;
const VSEC = 0x160;
const VSEC_BYTES = 0x18;
/** map code 1 is unrolled (dw-hardware.md 8) */
const MAP_UNROLL = 1;

export class EddaFunction implements HostBus {
  readonly config: ConfigModel;
  readonly edma: EdmaModel;
  readonly link: Link;
  readonly board = new AddressSpace("device");
  readonly stats = new ModelStats();
  readonly violations = new ViolationLog();
  readonly #memory: number;
  readonly #table: number;
  readonly #vsec: readonly number[];
  #memoryAt = 0;

  constructor(options: Partial<EddaOptions> = {}) {
    const o: EddaOptions = { msi: true, msix: true, channels: 2, seed: 1, ...options };
    this.config = new ConfigModel({
      msi: o.msi,
      msix: o.msix,
      linkGen: 3,
      linkWidth: 4,
      mps: 128,
      mrrs: 512,
      configLimit: false,
      version: 0,
      versionType: 0,
    });
    const iatu = new IatuModel(1, 1, 65536);
    this.link = new Link(this.board, iatu, this.config, this.stats, this.violations);
    const shape = { map: "unroll" as const, writeChannels: o.channels, readChannels: o.channels };
    // no fixed memory: where the lists are is the host's choice
    this.edma = new EdmaModel(shape, this.link, new Random(o.seed), { ...NO_FAULTS }, new Int32Array(0), 0);
    this.#memory = mmap("device memory", MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    this.#table = mmap("MSI-X table", TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    this.#vsec = [
      EXT_CAP_VSEC | (1 << 16),
      VSEC_DMA_ID | (VSEC_BYTES << 20),
      MAP_UNROLL | (REGISTER_BAR << 8),
      o.channels | (o.channels << 16),
      REGISTER_ALIAS,
      0,
    ];
    this.#describe(o);
  }

  /** Identity, BARs and capabilities, as the core's software writes them through DBI. */
  #describe(o: EddaOptions): void {
    const c = this.config;
    c.dbiWrite(DBI.MISC_CONTROL_1, RO_WR_EN, -1);
    c.dbiWrite(DBI.ID, (EDDA_DEVICE << 16) | SYNOPSYS_VENDOR, -1);
    c.dbiWrite(DBI.CLASS_REV, CLASS_DMA << 8, -1);
    c.dbiWrite(DBI.SUBSYSTEM, (EDDA_DEVICE << 16) | SYNOPSYS_VENDOR, -1);
    c.dbiWrite(DBI.INTERRUPT, 0, 0xff00);
    if (o.msix) {
      c.dbiWrite(MSIX_CAP + 4, TABLE_BAR, -1);
      c.dbiWrite(MSIX_CAP + 8, PBA_OFFSET | TABLE_BAR, -1);
    }
    c.dbiWrite(LAST_EXT_CAP, VSEC << 20, 0xfff00000 | 0);
    const bars = [
      [REGISTER_BAR, REGISTER_BYTES],
      [MEMORY_BAR, MEMORY_BYTES],
      ...(o.msix ? [[TABLE_BAR, TABLE_BYTES] as const] : []),
    ] as const;
    for (const [bar, size] of bars) c.dbi2Write(PCI_BAR0 + 4 * bar, (size - 1) | BAR_MASK_ENABLE, -1);
    c.dbiWrite(DBI.MISC_CONTROL_1, 0, -1);
  }

  /** Plug it into a host. */
  attach(host: HostSide): void {
    this.link.host = host;
  }

  /** Let the DMA work for a bounded time; allocates nothing. */
  turn(): void {
    this.edma.turn();
  }

  cfgRead(off: number, size: number): number {
    const word = off & ~3;
    const v = word >= VSEC && word < VSEC + VSEC_BYTES ? this.#vsec[(word - VSEC) >> 2]! : this.config.hostRead(word);
    return part(v, off, size);
  }

  cfgWrite(off: number, size: number, value: number): void {
    const shift = (off & 3) * 8;
    this.config.hostWrite(off & ~3, value << shift, lanesOf(off, size));
    if (this.config.flrAsked) {
      this.config.flrAsked = false;
      this.config.functionReset();
      this.edma.reset();
    }
    this.#followBar();
  }

  /** Local addresses are bus addresses: move the memory to where BAR2 is now. */
  #followBar(): void {
    const at = this.config.barAddress(MEMORY_BAR);
    if (at === this.#memoryAt) return;
    if (this.#memoryAt !== 0) this.board.remove(this.#memoryAt, MEMORY_BYTES);
    if (at !== 0) this.board.add(at, MEMORY_BYTES, this.#memory, REGION_READ | REGION_WRITE);
    this.#memoryAt = at;
  }

  barSize(bar: number): number {
    return this.config.barSize(bar);
  }

  barRead(bar: number, off: number, size: number): number {
    if (!this.config.memory || off < 0 || off + size > this.barSize(bar)) return part(-1, off, size);
    if (bar === REGISTER_BAR) {
      const reg = registerOf(off);
      return reg < 0 ? 0 : part(this.edma.readReg(reg & ~3), off, size);
    }
    const ptr = this.barPointer(bar) + off;
    return size === 4 ? ld32(ptr) >>> 0 : size === 2 ? ld16(ptr) : ld8(ptr);
  }

  barWrite(bar: number, off: number, size: number, value: number): void {
    if (!this.config.memory || off < 0 || off + size > this.barSize(bar)) return;
    if (bar === REGISTER_BAR) {
      const reg = registerOf(off);
      if (reg >= 0) this.edma.writeReg(reg & ~3, value << ((off & 3) * 8), lanesOf(off, size));
      return;
    }
    const ptr = this.barPointer(bar) + off;
    if (size === 4) st32(ptr, value);
    else if (size === 2) st16(ptr, value);
    else st8(ptr, value);
  }

  barPointer(bar: number): number {
    return bar === MEMORY_BAR ? this.#memory : bar === TABLE_BAR ? this.#table : 0;
  }

  close(): void {
    if (this.#memoryAt !== 0) this.board.remove(this.#memoryAt, MEMORY_BYTES);
    this.#memoryAt = 0;
    unmap(this.#memory, MEMORY_BYTES);
    unmap(this.#table, TABLE_BYTES);
  }
}

/** Register behind a BAR0 offset, -1 for none. */
function registerOf(off: number): number {
  if (off < REGISTER_ALIAS) return off;
  return off < REGISTER_ALIAS + ALIAS_BYTES ? off - REGISTER_ALIAS : -1;
}

function part(word: number, off: number, size: number): number {
  const v = word >>> ((off & 3) * 8);
  return size === 4 ? v >>> 0 : size === 2 ? v & 0xffff : v & 0xff;
}

function lanesOf(off: number, size: number): number {
  return size === 4 ? -1 : (size === 2 ? 0xffff : 0xff) << ((off & 3) * 8);
}
