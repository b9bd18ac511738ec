/** What `probe` knows of one controller: what sysfs says to everyone, and what its registers say to whom may read them. */
import type { Controller, CoreInfo } from "../hw/controller.ts";
import { type Obstacle, obstacles, type SysfsController } from "../hw/sysfs.ts";
import { MODEL } from "./_device.ts";
import { toFault } from "./_fault.ts";
import { jitIsOn } from "./_jit.ts";

export interface Verdict {
  possible: boolean;
  /** why not, or what to know about it */
  why: string;
}

type Problem = Pick<Obstacle, "what" | "fix">;

export interface Inspected {
  name: string;
  /** title of the board table's entry; "" when it has none */
  board: string;
  compatible: string;
  /** kernel driver that holds the device; "" when none */
  driver: string;
  /** endpoint functions of the kernel on it */
  functions: readonly string[];
  /** what keeps it from being used */
  obstacles: readonly Problem[];
  notes: readonly string[];
  /** null when the registers were not read; an obstacle says why */
  core: CoreInfo | null;
  window: { bus: number; size: number } | null;
  modern: Verdict;
  legacy: Verdict;
  interrupts: string[];
  /** register dumps, only when asked for */
  registers: string[];
}

const NOT_COHERENT =
  "the device tree does not call it dma-coherent: CPU caches and DMA may disagree, and epnic maintains no caches (docs/hardware.md)";

type Known = Pick<Inspected, "name" | "board" | "compatible" | "driver" | "functions" | "obstacles" | "notes">;

/** Everything about a controller whose registers are open. */
async function fromController(ctrl: Controller, known: Known, registers: boolean): Promise<Inspected> {
  // loaded here: it needs bun:ffi, and sysfs can be told without
  const { judge } = await import("./_judge.ts");
  return {
    ...known,
    core: ctrl.core,
    window: { bus: ctrl.windowBus, size: ctrl.window.size },
    ...judge(known.name, ctrl.core),
    registers: registers ? await dumps(ctrl) : [],
  };
}

function unread(known: Known, obstacles: readonly Problem[]): Inspected {
  const unknown: Verdict = { possible: false, why: "not known: the registers were not read" };
  return {
    ...known,
    obstacles,
    core: null,
    window: null,
    modern: unknown,
    legacy: unknown,
    interrupts: [],
    registers: [],
  };
}

/** Register dumps. On a board whose core has viewports only what needs no selection: a run may be using them. */
async function dumps(ctrl: Controller): Promise<string[]> {
  if (ctrl.isModel || (ctrl.core.atuUnrolled && ctrl.core.dmaMap !== "edma-legacy")) {
    const { dumpController } = await import("../hw/dumps.ts");
    return dumpController(ctrl).trimEnd().split("\n");
  }
  const [{ dump }, { DBI_HEADER, DBI_PORT }] = await Promise.all([
    import("../hw/reg-table.ts"),
    import("../hw/dbi.regs.ts"),
  ]);
  return (dump(ctrl.dbi, DBI_HEADER) + dump(ctrl.dbi, DBI_PORT)).trimEnd().split("\n");
}

const asObstacle = (e: unknown): Problem => {
  const fault = toFault(e);
  return { what: fault.message, fix: fault.hint ?? "" };
};
const JIT_OFF: Problem = { what: "registers cannot be read while the JIT is off", fix: "" };

/** The model as `run --model-core core` would be. @throws Fault E_NODEV for an unknown core */
export async function inspectModel(core: string, registers: boolean): Promise<Inspected> {
  const known: Known = {
    name: MODEL,
    board: `software controller, core ${core}`,
    compatible: "",
    driver: "",
    functions: [],
    obstacles: [],
    notes: [],
  };
  if (!jitIsOn()) return unread(known, [JIT_OFF]);
  const { bareController } = await import("../hw/model/open-model.ts");
  const ctrl = bareController(core);
  try {
    return await fromController(ctrl, known, registers);
  } finally {
    ctrl.close();
  }
}

/** A controller of this machine: sysfs first, its registers when nothing is in the way. */
export async function inspectBoard(c: SysfsController, sysfsRoot: string, registers: boolean): Promise<Inspected> {
  const found = obstacles(c);
  const known: Known = {
    name: c.name,
    board: c.board?.title ?? "",
    compatible: c.compatible[0] ?? c.pciId ?? "",
    driver: c.driver ?? "",
    functions: c.functions,
    obstacles: found,
    notes: [...(c.board?.notes ?? []), ...(c.coherent === false ? [NOT_COHERENT] : [])],
  };
  if (found.length > 0) return unread(known, found);
  if (!jitIsOn()) return unread(known, [JIT_OFF]);
  const { openController } = await import("../hw/open.ts");
  try {
    const ctrl = openController({ device: c.name, sysfsRoot });
    try {
      return await fromController(ctrl, known, registers);
    } finally {
      ctrl.close();
    }
  } catch (e) {
    return unread(known, [asObstacle(e)]);
  }
}
