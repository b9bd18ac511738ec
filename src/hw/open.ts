/**
 * From a name to a Controller: sysfs and the board table say where the registers are, resource.ts maps them, the
 * core is asked what it is. Nothing here writes to a register, so probing a running controller is safe. The model has
 * its own way in (model/open-model.ts).
 */
import { join } from "node:path";
import { type BarRanges, type Board, boardByName, type RangeName } from "./boards.ts";
import type { Controller, CoreInfo } from "./controller.ts";
import { CONFIG_LIMIT_MASK, DBI, DBI2_DEFAULT, TARGET_ABOVE_MASK } from "./dbi.regs.ts";
import { findCapIn, linkOf, rebarOffset } from "./dbi.ts";
import { HUGE_2M, HugepageMemory } from "./dma-hugepage.ts";
import type { DmaMemory } from "./dma-memory.ts";
import { EDMA_LEGACY_DBI, EDMA_LEGACY_SIZE, EDMA_UNROLL_ATU, EDMA_UNROLL_SIZE } from "./edma.regs.ts";
import { channelCounts, detectDmaMap, versionText } from "./edma.ts";
import { Fault } from "./fault.ts";
import { ATU_DBI_DEFAULT, ATU_VIEWPORT } from "./iatu.regs.ts";
import { MappedMmio } from "./mapped-mmio.ts";
import type { Mmio } from "./mmio.ts";
import { CAP_ID_MSI, CAP_ID_MSIX } from "./pci.layout.ts";
import { type Mapping, mapPhysical, mapResource } from "./resource.ts";
import { findController, listControllers, obstacles, rangeOf, type SysfsController } from "./sysfs.ts";

export interface OpenSpec {
  /** sysfs name of a platform endpoint, or a PCI address together with `ranges` */
  readonly device: string;
  /** directory that holds sys/ and dev/, "/" by default */
  readonly sysfsRoot?: string;
  /** board table entry to use instead of the one found by compatible */
  readonly board?: string;
  /** bytes of hugepage memory, taken at the first use of `memory`; 32 MiB by default */
  readonly memoryBytes?: number;
  /** memory to use instead of hugepages */
  readonly memory?: DmaMemory;
  /** where the blocks are inside a PCI function's BARs; `busWindow` is the AXI address of addr_space */
  readonly ranges?: BarRanges;
}

const DEFAULT_MEMORY = 32 * 1024 * 1024;
/** regions that every DesignWare core with an endpoint has at least, when no table tells */
const FALLBACK_WINDOWS = 4;
const DBI_BYTES = 0x1000;
const ALL_ONES = 0xffffffff;

const hex = (v: number): string => `0x${v.toString(16)}`;

/** Part of a mapped block as a block of its own. */
function part(whole: MappedMmio, off: number, size: number): MappedMmio {
  return new MappedMmio(whole.ptr + off, size);
}

/** Blocks of a core before it is known what it is. */
export interface CoreBlocks {
  readonly dbi: Mmio;
  /** unrolled iATU, if there is a place for one */
  readonly atu: Mmio | null;
  /** unrolled eDMA, if there is a place for one */
  readonly dma: Mmio | null;
  /** the legacy eDMA inside DBI */
  readonly legacyDma: Mmio;
}

/** A resizable BAR has at least 1 MiB (PCIe 7.8.6); what is off or fixed only the board table knows. */
function barRange(dbi: Mmio, bar: number, board: Board | null): { least: number; most: number } {
  const rule = board?.bars[bar] ?? "free";
  if (rule === "off") return { least: 0, most: 0 };
  if (typeof rule === "object") return { least: 0, most: rule.fixed };
  return { least: rule === "resizable" || rebarOffset(dbi, bar) !== 0 ? 2 ** 20 : 0, most: Number.POSITIVE_INFINITY };
}

/**
 * Ask the registers what the core is (dw-hardware.md 8, 10, 11), by reading only. Window counts and alignment cannot be
 * read without destroying the configuration; they come from the board table.
 */
export function inspectCore(b: CoreBlocks, board: Board | null): CoreInfo {
  const dmaMap = detectDmaMap(b.dbi, b.dma, board?.glueMap);
  const dma = dmaMap === "edma-legacy" ? b.legacyDma : b.dma;
  const counts = dmaMap === "none" || dmaMap === "hdma-native" || dma === null ? null : channelCounts(dma);
  const misc = b.dbi.ld32(DBI.MISC_CONTROL_1);
  const link = linkOf(b.dbi);
  return {
    version: versionText(b.dbi.ld32(DBI.VERSION)),
    atuUnrolled: b.dbi.ld32(ATU_VIEWPORT) === ALL_ONES,
    inboundWindows: board?.inboundWindows ?? FALLBACK_WINDOWS,
    outboundWindows: board?.outboundWindows ?? FALLBACK_WINDOWS,
    windowAlign: board?.windowAlign ?? 0x10000,
    dmaMap: counts === null && dmaMap !== "hdma-native" ? "none" : dmaMap,
    writeChannels: counts?.write ?? 0,
    readChannels: counts?.read ?? 0,
    // with the option the limit rests at its maximum; without it these bits read zero
    configLimit: (misc & (CONFIG_LIMIT_MASK | TARGET_ABOVE_MASK)) !== 0,
    msix: findCapIn(b.dbi, CAP_ID_MSIX) !== 0,
    msi: findCapIn(b.dbi, CAP_ID_MSI) !== 0,
    linkGen: link.gen,
    linkWidth: link.width,
    bars: [0, 1, 2, 3, 4, 5].map((bar) => barRange(b.dbi, bar, board)),
    ...(board?.maxReadRequest === undefined ? {} : { maxReadRequest: board.maxReadRequest }),
  };
}

class BoardController implements Controller {
  readonly name: string;
  readonly isModel = false;
  readonly dbi: Mmio;
  readonly dbi2: Mmio;
  readonly atu: Mmio | null;
  readonly dma: Mmio;
  readonly window: Mmio;
  readonly windowBus: number;
  readonly core: CoreInfo;
  private readonly mappings: readonly Mapping[];
  private readonly makeMemory: () => DmaMemory;
  private made: DmaMemory | null = null;

  constructor(
    name: string,
    b: { dbi: Mmio; dbi2: Mmio; atu: Mmio | null; dma: Mmio; window: Mmio; windowBus: number },
    core: CoreInfo,
    mappings: readonly Mapping[],
    makeMemory: () => DmaMemory,
  ) {
    this.name = name;
    this.dbi = b.dbi;
    this.dbi2 = b.dbi2;
    this.atu = b.atu;
    this.dma = b.dma;
    this.window = b.window;
    this.windowBus = b.windowBus;
    this.core = core;
    this.mappings = mappings;
    this.makeMemory = makeMemory;
  }

  /** Taken at the first use, so that probing needs no hugepages. */
  get memory(): DmaMemory {
    this.made ??= this.makeMemory();
    return this.made;
  }

  turn(): void {}

  close(): void {
    if (this.made instanceof HugepageMemory) this.made.close();
    for (const m of this.mappings) m.close();
  }
}

type Mapper = (name: RangeName) => { mapping: Mapping; bus: number } | null;

/** Ranges of a platform controller come from /dev/mem, those of a PCI function from its resource files. */
function mapperFor(c: SysfsController, spec: OpenSpec, board: Board | null, root: string): Mapper {
  const ranges = spec.ranges ?? c.barRanges;
  if (c.kind === "pci")
    return (name) => {
      const r = ranges?.[name];
      if (r === undefined) return null;
      const bus = name === "addr_space" ? (ranges?.busWindow ?? 0) : 0;
      return { mapping: mapResource(c.path, r.bar, r.offset, r.size), bus };
    };
  return (name) => {
    const known = board?.controllers[c.name]?.[name];
    const r = rangeOf(c, name) ?? (known ? { name, base: known[0], size: known[1] } : null);
    if (r === null) return null;
    return { mapping: mapPhysical(r.base, r.size, `${c.name} ${name}`, join(root, "dev/mem")), bus: r.base };
  };
}

/**
 * Open a controller by name. Registers stay as they are.
 * @throws Fault E_NODEV no such controller, E_MISSING something is not there (with the step that helps), E_PERM
 */
export function openController(spec: OpenSpec): Controller {
  const root = spec.sysfsRoot ?? "/";
  const c = findController(spec.device, root);
  if (c === null) {
    const names = listControllers(root).map((x) => x.name);
    throw new Fault(
      "E_NODEV",
      `there is no controller "${spec.device}": ${names.length ? `here are ${names.join(", ")}` : "this machine has none"}`,
      "epnic probe lists what is here; the device model needs no board",
    );
  }
  const board = spec.board === undefined ? c.board : boardByName(spec.board);
  if (spec.board !== undefined && board === null) throw new Fault("E_USAGE", `the board table has no "${spec.board}"`);
  if (!(c.kind === "pci" && spec.ranges)) {
    const first = obstacles(c).find((o) => !(board !== null && o.kind === "board"));
    if (first) throw new Fault("E_MISSING", first.what, first.fix);
  }

  const mappings: Mapping[] = [];
  const mapper = mapperFor(c, spec, board, root);
  const take = (name: RangeName): { io: MappedMmio; bus: number } | null => {
    const m = mapper(name);
    if (m === null) return null;
    mappings.push(m.mapping);
    return { io: new MappedMmio(m.mapping.ptr, m.mapping.size), bus: m.bus };
  };
  const need = (name: RangeName): { io: MappedMmio; bus: number } => {
    const r = take(name);
    if (r === null) throw new Fault("E_MISSING", `${c.name} has no range "${name}"`, "name it in the configuration");
    return r;
  };

  try {
    const dbi = need("dbi").io;
    if (dbi.size < DBI_BYTES)
      throw new Fault("E_CONFIG", `dbi has ${hex(dbi.size)} bytes, ${hex(DBI_BYTES)} are needed`);
    if (dbi.ld32(DBI.ID) === ALL_ONES)
      throw new Fault(
        "E_MISSING",
        `${c.name}: DBI reads all ones, the core has no clock or is in reset`,
        `start the link through the kernel driver: echo 1 >/sys/kernel/config/pci_ep/controllers/${c.name}/start`,
      );
    const dbi2 = take("dbi2")?.io ?? inside(dbi, DBI2_DEFAULT, DBI_BYTES, "dbi2");
    const atu = take("atu")?.io ?? partOrNull(dbi, ATU_DBI_DEFAULT);
    const dma = take("dma")?.io ?? (atu && partOrNull(atu, EDMA_UNROLL_ATU));
    const legacyDma = part(dbi, EDMA_LEGACY_DBI, EDMA_LEGACY_SIZE);
    const core = inspectCore({ dbi, atu, dma, legacyDma }, board);
    if (core.atuUnrolled && atu === null)
      throw new Fault("E_MISSING", `${c.name} has an unrolled iATU but no range "atu"`, "name it in the configuration");
    const window = need("addr_space");
    const block = core.dmaMap === "edma-legacy" || dma === null ? legacyDma : dma;
    const unrolledAtu = core.atuUnrolled ? atu : null;
    const make = (): DmaMemory =>
      spec.memory ?? HugepageMemory.open(spec.memoryBytes ?? DEFAULT_MEMORY, HUGE_2M, c.name);
    const blocks = { dbi, dbi2, atu: unrolledAtu, dma: block, window: window.io, windowBus: window.bus };
    return new BoardController(c.name, blocks, core, mappings, make);
  } catch (e) {
    for (const m of mappings) m.close();
    throw e;
  }
}

function inside(whole: MappedMmio, off: number, size: number, name: string): MappedMmio {
  if (whole.size < off + size)
    throw new Fault(
      "E_MISSING",
      `no range "${name}", and dbi with ${hex(whole.size)} bytes ends before ${hex(off + size)}`,
    );
  return part(whole, off, size);
}

/** What lies at the default place behind a block, if the block is long enough to hold it. */
function partOrNull(whole: MappedMmio, off: number): MappedMmio | null {
  return whole.size >= off + EDMA_UNROLL_SIZE ? part(whole, off, whole.size - off) : null;
}
