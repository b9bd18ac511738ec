/**
 * The software endpoint controller: puts config space, iATU, eDMA, board memory and the link together and shows them
 * twice, as a Controller to the board's software and as a HostBus to the host. One of each per process, in one thread:
 * nothing moves except inside turn() and inside accesses.
 */
import type { Controller, CoreInfo } from "../controller.ts";
import { DBI_SIZE, TARGET_ABOVE_TRGT1 } from "../dbi.regs.ts";
import { EDMA_LEGACY_DBI, EDMA_LEGACY_SIZE } from "../edma.regs.ts";
import { ATU_REGION_BYTES, ATU_VIEWPORT, ATU_VIEWPORT_WINDOW } from "../iatu.regs.ts";
import { ld8, ld16, ld32, st8, st16, st32 } from "../mem.ts";
import { AddressSpace } from "./address-space.ts";
import { BoardMemory } from "./board-memory.ts";
import { Clock } from "./clock.ts";
import { ConfigModel } from "./config-model.ts";
import { type DmaFaults, NO_FAULTS } from "./dma-faults.ts";
import { EdmaModel } from "./edma-model.ts";
import type { HostBus, HostSide } from "./host-side.ts";
import { IatuModel, MATCH_NONE } from "./iatu-model.ts";
import { Link } from "./link.ts";
import { ModelMmio, type WordSpace } from "./model-mmio.ts";
import { type ModelOptions, modelOptions } from "./model-options.ts";
import { Random } from "./random.ts";
import { ModelStats, ViolationLog } from "./stats.ts";
import { TimedDma } from "./timed-dma.ts";
import { WINDOW_BUS, WindowMmio } from "./window-mmio.ts";

/** What is stepped with the model, once a turn: the built-in host. */
export interface Stepper {
  turn(): void;
}

const ALL_ONES = [0, 0xff, 0xffff, 0, 0xffffffff];
const ATU_WORDS_SIZE = 0x8000;
const DMA_MAPS = { legacy: "edma-legacy", unroll: "edma-unroll", compat: "hdma-compat" } as const;

export class EndpointModel implements HostBus {
  readonly options: ModelOptions;
  readonly board: AddressSpace;
  readonly memory: BoardMemory;
  readonly clock = new Clock();
  readonly random: Random;
  readonly stats = new ModelStats();
  readonly config: ConfigModel;
  readonly iatu: IatuModel;
  readonly edma: EdmaModel;
  readonly link: Link;
  /** switches of misbehaviour; may be changed at any time */
  readonly faults: DmaFaults;
  readonly #violations = new ViolationLog();
  readonly #steppers: Stepper[] = [];
  /** the CPU's outbound window; bulk() copies through it */
  readonly window: WindowMmio;
  /** simulated time, null in live mode */
  readonly timed: TimedDma | null;
  #controller: Controller | null = null;
  // CPU pointer of offset 0 per BAR when one stretch of memory is behind all of it; valid while #cacheKey holds
  readonly #barPtr = [0, 0, 0, 0, 0, 0];
  readonly #barSize = [0, 0, 0, 0, 0, 0];
  #cacheKey = -1;

  /** @throws Fault E_CONFIG for an option out of range */
  constructor(options: Partial<ModelOptions> = {}) {
    const o = modelOptions(options);
    this.options = o;
    this.board = new AddressSpace("board", { strict: o.strict });
    this.memory = new BoardMemory(this.board, o.boardMemory, o.boardBase);
    this.random = new Random(o.seed);
    this.faults = { ...NO_FAULTS, ...o.faults };
    const ascii = o.version.charCodeAt(0) * 2 ** 24 + (o.version.charCodeAt(1) << 16) + (o.version.charCodeAt(2) << 8);
    this.config = new ConfigModel({
      msi: o.msi,
      msix: o.msix,
      linkGen: o.linkGen,
      linkWidth: o.linkWidth,
      mps: o.timing?.mps ?? 128,
      mrrs: o.timing?.mrrs ?? 512,
      configLimit: o.modernCapable,
      version: (ascii + 0x2a) | 0,
      versionType: (0x67 << 24) | (0x61 << 16) | 0x2a2a | 0,
    });
    this.iatu = new IatuModel(o.inboundWindows, o.outboundWindows, o.windowAlign);
    this.iatu.onChangeUnderWrite = (region) => this.#changedUnderWrite(region);
    this.link = new Link(this.board, this.iatu, this.config, this.stats, this.#violations);
    const shape = {
      map: o.dmaMap,
      writeChannels: o.writeChannels,
      readChannels: o.readChannels,
    };
    const { words } = this.memory;
    this.edma = new EdmaModel(shape, this.link, this.random, this.faults, words, this.memory.bus);
    this.window = new WindowMmio(this.link, o.windowSize);
    if (o.timing !== null) {
      this.timed = new TimedDma(this.edma, this.clock, o.timing, this.window);
      this.edma.timed = this.timed;
      this.window.timed = this.timed;
    } else this.timed = null;
  }

  /** Plug the endpoint into a host. */
  attach(host: HostSide): void {
    this.link.host = host;
  }

  /** Give board memory back. Every DmaRegion and Controller of this model is void then. */
  close(): void {
    this.memory.close();
  }

  /** Have `stepper` run in every turn, before the DMA. */
  addStepper(stepper: Stepper): void {
    this.#steppers.push(stepper);
  }

  /** strict mode: what was touched without permission, the first of them in words */
  get violations(): string[] {
    return this.#violations.lines;
  }

  get violationCount(): number {
    return this.#violations.count;
  }

  /** One turn of everything on the other side of the registers. Allocates nothing. */
  turn(): void {
    for (let i = 0; i < this.#steppers.length; i++) this.#steppers[i]!.turn();
    if (this.config.flrAsked) this.#functionReset();
    this.config.turn();
    this.iatu.posted = 0;
    if (this.timed !== null) this.timed.runTo(this.clock.now + this.options.turnNs);
    else {
      this.clock.now += this.options.turnNs;
      this.edma.turn();
    }
  }

  /** Hot reset from the host: non-sticky config fields are lost, running DMA finds no bus master. */
  hotReset(): void {
    this.stats.hotResets++;
    this.config.hotReset();
  }

  /** PERST#: config space, BAR masks, iATU and eDMA at power-on values. Board memory stays. */
  powerOnReset(): void {
    this.config.powerOn();
    this.iatu.reset();
    this.edma.reset();
  }

  #functionReset(): void {
    this.config.flrAsked = false;
    this.stats.functionResets++;
    this.config.functionReset();
  }

  #changedUnderWrite(region: number): void {
    this.stats.changedUnderWrite++;
    if (this.board.shadow !== null)
      this.#violations.add(`outbound region ${region} was changed while a write of the CPU was on its way through it`);
  }

  /** The link goes down or comes up; down is what the board's software sees of a host that is off. */
  setLink(up: boolean): void {
    this.config.linkUp = up;
  }

  // --- the board's view ---

  controller(): Controller {
    this.#controller ??= this.#makeController();
    return this.#controller;
  }

  #makeController(): Controller {
    const o = this.options;
    const { config, edma, iatu } = this;
    const dma: WordSpace = {
      readWord: (off) => edma.readReg(off),
      writeWord: (off, value, lanes) => edma.store(off, value, lanes),
    };
    const atu: WordSpace = {
      readWord: (off) => iatu.readUnrolled(off),
      writeWord: (off, value, lanes) => iatu.writeUnrolled(off, value, lanes),
    };
    const dbi2: WordSpace = {
      readWord: () => 0,
      writeWord: (off, value, lanes) => config.dbi2Write(off, value, lanes),
    };
    const core: CoreInfo = {
      version: `${o.version[0]}.${o.version.slice(1)}`,
      atuUnrolled: o.atu === "unroll",
      inboundWindows: o.inboundWindows,
      outboundWindows: o.outboundWindows,
      windowAlign: o.windowAlign,
      dmaMap: DMA_MAPS[o.dmaMap],
      writeChannels: o.writeChannels,
      readChannels: o.readChannels,
      configLimit: o.modernCapable,
      msix: o.msix,
      msi: o.msi,
      linkGen: o.linkGen,
      linkWidth: o.linkWidth,
      ...(o.maxReadRequest === 0 ? {} : { maxReadRequest: o.maxReadRequest }),
    };
    return {
      name: o.name,
      isModel: true,
      dbi: new ModelMmio(this.#dbiSpace(), DBI_SIZE),
      dbi2: new ModelMmio(dbi2, DBI_SIZE),
      atu: o.atu === "unroll" ? new ModelMmio(atu, ATU_WORDS_SIZE) : null,
      dma: new ModelMmio(dma, edma.size),
      window: this.window,
      windowBus: WINDOW_BUS,
      memory: this.memory,
      core,
      turn: () => this.turn(),
      close: () => {},
    };
  }

  /** DBI: config space and port logic, with the iATU viewport and the legacy eDMA in it where the core has them. */
  #dbiSpace(): WordSpace {
    const { config, edma, iatu } = this;
    const viewport = this.options.atu === "viewport";
    const legacy = this.options.dmaMap === "legacy";
    const windowEnd = ATU_VIEWPORT_WINDOW + ATU_REGION_BYTES;
    const dmaEnd = EDMA_LEGACY_DBI + EDMA_LEGACY_SIZE;
    return {
      readWord(off) {
        if (off >= ATU_VIEWPORT && off < windowEnd) {
          if (!viewport) return -1;
          return off === ATU_VIEWPORT ? iatu.viewport : iatu.readViewport(off - ATU_VIEWPORT_WINDOW);
        }
        if (off >= EDMA_LEGACY_DBI && off < dmaEnd) return legacy ? edma.readReg(off - EDMA_LEGACY_DBI) : -1;
        return config.dbiRead(off);
      },
      writeWord(off, value, lanes) {
        if (off >= ATU_VIEWPORT && off < windowEnd) {
          if (!viewport) return;
          if (off === ATU_VIEWPORT) iatu.selectViewport((iatu.viewport & ~lanes) | (value & lanes));
          else iatu.writeViewport(off - ATU_VIEWPORT_WINDOW, value, lanes);
        } else if (off >= EDMA_LEGACY_DBI && off < dmaEnd) {
          if (legacy) edma.store(off - EDMA_LEGACY_DBI, value, lanes);
        } else config.dbiWrite(off, value, lanes);
      },
    };
  }

  // --- the host's view ---

  cfgRead(off: number, size: number): number {
    if (!this.config.linkUp || off < 0 || off + size > 4096) return ALL_ONES[size]!;
    if (this.config.aboveLimit(off)) {
      const ptr = this.#configMemory(off, size, false);
      return ptr === 0 ? ALL_ONES[size]! : load(ptr, size);
    }
    const word = this.config.hostRead(off & ~3) >>> ((off & 3) * 8);
    return size === 4 ? word >>> 0 : size === 2 ? word & 0xffff : word & 0xff;
  }

  cfgWrite(off: number, size: number, value: number): void {
    if (!this.config.linkUp || off < 0 || off + size > 4096) return;
    if (this.config.aboveLimit(off)) {
      const ptr = this.#configMemory(off, size, true);
      if (ptr !== 0) store(ptr, size, value);
      return;
    }
    const shift = (off & 3) * 8;
    const lanes = size === 4 ? -1 : (size === 2 ? 0xffff : 0xff) << shift;
    this.config.hostWrite(off & ~3, value << shift, lanes);
  }

  /** A config request above the limit comes out of the AXI master, when TRGT1 and a CFG0 region say so. */
  #configMemory(off: number, size: number, write: boolean): number {
    if (this.config.targetAbove === TARGET_ABOVE_TRGT1 && this.iatu.matchConfig(off) !== MATCH_NONE) {
      const ptr = this.board.resolve(this.iatu.address, size, write);
      if (ptr !== 0 && this.board.run === size) return ptr;
    }
    this.stats.configMisses++;
    return 0;
  }

  barSize(bar: number): number {
    return this.config.barSize(bar);
  }

  barRead(bar: number, off: number, size: number): number {
    const ptr = this.#barMemory(bar, off, size, false);
    return ptr === 0 ? ALL_ONES[size]! : load(ptr, size);
  }

  barWrite(bar: number, off: number, size: number, value: number): void {
    const ptr = this.#barMemory(bar, off, size, true);
    if (ptr !== 0) store(ptr, size, value);
  }

  barPointer(bar: number): number {
    this.#refreshBars();
    return this.#barPtr[bar]!;
  }

  #barMemory(bar: number, off: number, size: number, write: boolean): number {
    if (!this.config.memory || !this.config.linkUp) return 0;
    this.#refreshBars();
    const barSize = this.#barSize[bar]!;
    if (off < 0 || off + size > barSize) return 0;
    const base = this.#barPtr[bar]!;
    if (base !== 0) return base + off;
    if (this.iatu.matchBar(bar, off, this.config.barAddress(bar), barSize) !== MATCH_NONE) {
      const ptr = this.board.resolve(this.iatu.address, size, write);
      if (ptr !== 0 && this.board.run === size && this.iatu.run >= size) return ptr;
    }
    this.stats.inboundMisses++;
    return 0;
  }

  #refreshBars(): void {
    const key = this.config.generation + this.iatu.generation + this.board.generation;
    if (key === this.#cacheKey) return;
    this.#cacheKey = key;
    for (let bar = 0; bar < 6; bar++) {
      const size = this.config.barSize(bar);
      this.#barSize[bar] = size;
      this.#barPtr[bar] = 0;
      if (size === 0) continue;
      if (this.iatu.matchBar(bar, 0, this.config.barAddress(bar), size) === MATCH_NONE) continue;
      if (this.iatu.run < size) continue;
      const ptr = this.board.resolve(this.iatu.address, size, true);
      if (ptr !== 0 && this.board.run === size) this.#barPtr[bar] = ptr;
    }
  }
}

function load(ptr: number, size: number): number {
  return size === 4 ? ld32(ptr) : size === 2 ? ld16(ptr) : ld8(ptr);
}

function store(ptr: number, size: number, value: number): void {
  if (size === 4) st32(ptr, value);
  else if (size === 2) st16(ptr, value);
  else st8(ptr, value);
}
