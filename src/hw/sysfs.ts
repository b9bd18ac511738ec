/**
 * Endpoint controllers as sysfs shows them: the class pci_epc, platform devices with an endpoint node, PCI functions
 * that carry a DMA block. Reads only, maps nothing, works unprivileged as far as sysfs allows. The root is
 * injectable: `root` is the directory that holds sys/ and dev/, "/" on a board.
 */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import {
  type BarRanges,
  type Board,
  boardByCompatible,
  PCI_CONTROLLERS,
  type Range,
  type RangeName,
  REMOTE_DMA,
} from "./boards.ts";
import { EXT_CAP_FIRST, EXT_CAP_VSEC, SYNOPSYS_VENDOR, VSEC_DMA_ID } from "./dbi.regs.ts";

export interface NamedRange {
  /** device-tree reg-name, or BAR<n> */
  readonly name: string;
  readonly base: number;
  readonly size: number;
}

export interface SysfsController {
  /** sysfs name: "a40000000.pcie-ep" or "0000:01:00.0" */
  readonly name: string;
  readonly kind: "platform" | "pci";
  /** directory of the device */
  readonly path: string;
  readonly compatible: readonly string[];
  readonly board: Board | null;
  readonly ranges: readonly NamedRange[];
  /** bound kernel driver, null when none */
  readonly driver: string | null;
  /** interrupts of the node: "dma0: SPI 271" */
  readonly irqs: readonly string[];
  /** registered with the kernel's endpoint framework */
  readonly epc: boolean;
  /** configfs: the link has been started; null when unknown (no configfs, not readable) */
  readonly started: boolean | null;
  /** endpoint functions linked to it in configfs */
  readonly functions: readonly string[];
  readonly iommuGroup: string | null;
  /** the device tree says that its DMA is coherent with the CPU's caches; null for what has no node */
  readonly coherent: boolean | null;
  /** PCI only: vendor:device and what the function is */
  readonly pciId: string | null;
  /** true: this is the host's end of a DMA block (EDDA, MDB, VSEC 6), not an endpoint of this machine */
  readonly remote: boolean;
  /** PCI only: where the blocks of an endpoint controller of this board are */
  readonly barRanges: BarRanges | null;
}

const EP_NAME = /\.pcie[-_]ep$/;

function text(path: string): string | null {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return null;
  }
}

function bytes(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch {
    return null;
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path).sort();
  } catch {
    return [];
  }
}

function linkName(path: string): string | null {
  try {
    return basename(realpathSync(path));
  } catch {
    return null;
  }
}

/** A device-tree string list property. */
const strings = (path: string): string[] => (bytes(path)?.toString("latin1") ?? "").split("\0").filter((s) => s !== "");

/** A device-tree property of 32-bit big-endian cells. */
function cells(path: string): number[] {
  const b = bytes(path);
  if (b === null) return [];
  const out: number[] = [];
  for (let i = 0; i + 4 <= b.length; i += 4) out.push(b.readUInt32BE(i));
  return out;
}

const number = (words: readonly number[]): number => words.reduce((v, w) => v * 2 ** 32 + w, 0);

/**
 * `reg` of a node with its `reg-names`, sized by the parent's cell counts (2 and 1 when absent, DT spec 2.3.5).
 * Addresses are taken as CPU addresses: the endpoint nodes of all boards in the table sit below an identity `ranges`.
 */
export function nodeRanges(node: string): NamedRange[] {
  let dir: string;
  try {
    dir = realpathSync(node);
  } catch {
    return [];
  }
  const parent = dirname(dir);
  const na = cells(join(parent, "#address-cells"))[0] ?? 2;
  const ns = cells(join(parent, "#size-cells"))[0] ?? 1;
  const reg = cells(join(dir, "reg"));
  const names = strings(join(dir, "reg-names"));
  const out: NamedRange[] = [];
  for (let i = 0, n = 0; i + na + ns <= reg.length; i += na + ns, n++)
    out.push({
      name: names[n] ?? `reg${n}`,
      base: number(reg.slice(i, i + na)),
      size: number(reg.slice(i + na, i + na + ns)),
    });
  return out;
}

/** `interrupts` of a GIC child: three cells each, 0 is SPI and 1 is PPI. */
function nodeIrqs(node: string): string[] {
  const words = cells(join(node, "interrupts"));
  const names = strings(join(node, "interrupt-names"));
  const out: string[] = [];
  for (let i = 0, n = 0; i + 3 <= words.length; i += 3, n++)
    out.push(`${names[n] ?? `irq${n}`}: ${words[i] === 0 ? "SPI" : words[i] === 1 ? "PPI" : "?"} ${words[i + 1]}`);
  return out;
}

/** `dma-coherent` of a node or of a bus above it, as Linux inherits it. */
function isCoherent(node: string): boolean | null {
  let at: string;
  try {
    at = realpathSync(node);
  } catch {
    return null;
  }
  for (; existsSync(join(at, "name")) || at.endsWith("of_node"); at = dirname(at))
    if (existsSync(join(at, "dma-coherent"))) return true;
  return false;
}

function platform(root: string, name: string, epcs: readonly string[]): SysfsController {
  const path = join(root, "sys/bus/platform/devices", name);
  const node = join(path, "of_node");
  const compatible = strings(join(node, "compatible"));
  const board = boardByCompatible(compatible);
  const config = join(root, "sys/kernel/config/pci_ep/controllers", name);
  const start = text(join(config, "start"));
  return {
    name,
    kind: "platform",
    path,
    compatible,
    board,
    ranges: withBoard(nodeRanges(node), board, name),
    driver: linkName(join(path, "driver")),
    irqs: nodeIrqs(node),
    epc: epcs.includes(name),
    started: start === null ? null : start === "1",
    functions: list(config).filter((f) => f !== "start" && existsSync(join(config, f, "vendorid"))),
    iommuGroup: linkName(join(path, "iommu_group")),
    coherent: isCoherent(node),
    pciId: null,
    remote: false,
    barRanges: null,
  };
}

/** Ranges of the device tree, completed by the board table where the tree is silent. */
function withBoard(found: NamedRange[], board: Board | null, name: string): NamedRange[] {
  const known = board?.controllers[name];
  if (known === undefined) return found;
  const out = [...found];
  for (const key of Object.keys(known) as RangeName[]) {
    const [base, size] = known[key] as Range;
    if (!out.some((r) => r.name === key)) out.push({ name: key, base, size });
  }
  return out;
}

/** The Synopsys VSEC that describes a DMA block (Linux dw-edma-pcie.c), in a config space image. */
export function hasDmaVsec(config: Buffer): boolean {
  let off = EXT_CAP_FIRST;
  for (let i = 0; i < 256 && off >= EXT_CAP_FIRST && off + 8 <= config.length; i++) {
    const head = config.readUInt32LE(off);
    if (head === 0 || head === 0xffffffff) return false;
    if ((head & 0xffff) === EXT_CAP_VSEC && (config.readUInt32LE(off + 4) & 0xffff) === VSEC_DMA_ID) return true;
    off = (head >>> 20) & 0xffc;
  }
  return false;
}

function pciFunction(root: string, name: string): SysfsController | null {
  const path = join(root, "sys/bus/pci/devices", name);
  const id = `${text(join(path, "vendor"))?.slice(2) ?? ""}:${text(join(path, "device"))?.slice(2) ?? ""}`;
  const ours = PCI_CONTROLLERS.find((p) => p.id === id) ?? null;
  const known = REMOTE_DMA.some((r) => r.id === id);
  const synopsys = id.startsWith(SYNOPSYS_VENDOR.toString(16));
  const vsec = !known && ours === null && synopsys && hasDmaVsec(bytes(join(path, "config")) ?? Buffer.alloc(0));
  if (!known && !vsec && ours === null) return null;
  const ranges: NamedRange[] = [];
  (text(join(path, "resource")) ?? "").split("\n").forEach((line, n) => {
    const [start, end] = line.split(/\s+/).map(Number);
    if (n < 6 && start !== undefined && end !== undefined && end > start)
      ranges.push({ name: `BAR${n}`, base: start, size: end - start + 1 });
  });
  const irq = text(join(path, "irq"));
  return {
    name,
    kind: "pci",
    path,
    compatible: [],
    board: ours?.board ?? null,
    ranges,
    driver: linkName(join(path, "driver")),
    irqs: irq && irq !== "0" ? [`irq: ${irq}`] : [],
    epc: false,
    started: null,
    functions: [],
    iommuGroup: linkName(join(path, "iommu_group")),
    coherent: null,
    pciId: id,
    remote: ours === null,
    barRanges: ours?.ranges ?? null,
  };
}

/** Every controller of this machine, endpoint controllers first, in order of name. */
export function listControllers(root = "/"): SysfsController[] {
  const epcs = list(join(root, "sys/class/pci_epc"));
  const names = new Set(epcs);
  for (const name of list(join(root, "sys/bus/platform/devices"))) if (EP_NAME.test(name)) names.add(name);
  const found = [...names].sort().map((name) => platform(root, name, epcs));
  for (const name of list(join(root, "sys/bus/pci/devices"))) {
    const f = pciFunction(root, name);
    if (f !== null) found.push(f);
  }
  return found;
}

/** The controller of that name (PCI addresses with or without domain), or null. */
export function findController(name: string, root = "/"): SysfsController | null {
  const full = /^[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/i.test(name) ? `0000:${name}` : name;
  return listControllers(root).find((c) => c.name === full.toLowerCase() || c.name === full) ?? null;
}

/** The range of that name, or null. */
export const rangeOf = (c: SysfsController, name: string): NamedRange | null =>
  c.ranges.find((r) => r.name === name) ?? null;

/** Something that keeps a controller from being used, and the step that helps. */
export interface Obstacle {
  readonly kind: "remote" | "driver" | "endpoint" | "range" | "board";
  readonly what: string;
  readonly fix: string;
}

/** Why this controller cannot be opened as it is, as far as sysfs tells; empty when nothing is in the way. */
export function obstacles(c: SysfsController): Obstacle[] {
  const out: Obstacle[] = [];
  if (c.remote) {
    out.push({
      kind: "remote",
      what: `${c.name} (${c.pciId}) is the host's end of a board's DMA engine, not an endpoint of this machine`,
      fix: "run epnic on the board that is plugged in there",
    });
    return out;
  }
  if (c.kind === "pci") {
    if (c.driver === null)
      out.push({ kind: "driver", what: `no kernel driver has enabled ${c.name}`, fix: `epnic bind ${c.name}` });
    return out;
  }
  if (c.driver === null)
    out.push({
      kind: "driver",
      what: `no kernel driver has powered and clocked ${c.name}`,
      fix: `load the endpoint driver${c.board ? ` for ${c.board.title}` : ""}, then: echo ${c.name} >/sys/bus/platform/drivers/<driver>/bind`,
    });
  else if (!c.epc)
    out.push({
      kind: "endpoint",
      what: `driver ${c.driver} did not register ${c.name} as an endpoint controller`,
      fix: "use the device-tree overlay that switches the controller to endpoint mode, and a kernel with CONFIG_PCI_ENDPOINT",
    });
  for (const need of ["dbi", "addr_space"])
    if (rangeOf(c, need) === null)
      out.push({
        kind: "range",
        what: `the device tree of ${c.name} names no range "${need}"`,
        fix: "name it in the configuration or choose a board",
      });
  if (c.board === null)
    out.push({
      kind: "board",
      what: `${c.compatible[0] ?? c.name} is not in the board table`,
      fix: "choose the most similar board by hand",
    });
  return out;
}
