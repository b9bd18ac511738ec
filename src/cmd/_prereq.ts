/**
 * What this machine lacks and the command that fixes it. Reads /proc, /sys and /dev only, under an injectable root.
 */
import { accessSync, constants, existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { jitHint, jitIsOn } from "./_jit.ts";

/** What cannot be done without it: `run` at all, a board's controller, the board's interface; or it is only better with it. */
export type NeededFor = "run" | "controller" | "tap" | "vduse" | "comfort";

export interface Prerequisite {
  name: string;
  neededFor: NeededFor;
  ok: boolean;
  state: string;
  /** command or step that helps; "" when ok */
  fix: string;
}

/** hugepage memory of a run (hw/open.ts) */
const DMA_BYTES = 32 << 20;
/** the size of the pages it is made of (dma-hugepage.ts) */
const HUGE_KIB = 2048;
const CAP = { NET_ADMIN: 12, SYS_RAWIO: 17, SYS_ADMIN: 21 } as const;

function text(root: string, path: string): string {
  try {
    return readFileSync(join(root, path), "utf8");
  } catch {
    return "";
  }
}

function entries(root: string, path: string): string[] {
  try {
    return readdirSync(join(root, path));
  } catch {
    return [];
  }
}

function may(root: string, path: string, mode: number): boolean {
  try {
    accessSync(join(root, path), mode);
    return true;
  } catch {
    return false;
  }
}

/** Capabilities that are missing; CapEff is a 64-bit hex mask whose low 32 bits hold all that matter here. */
function missingCaps(root: string): string[] {
  const mask = /^CapEff:\s*([0-9a-f]+)/m.exec(text(root, "proc/self/status"))?.[1];
  if (mask === undefined) return [];
  const low = Number.parseInt(mask.slice(-8), 16);
  return Object.entries(CAP)
    .filter(([, bit]) => (low & (1 << bit)) === 0)
    .map(([name]) => `CAP_${name}`);
}

const hasModule = (root: string, name: string): boolean => existsSync(join(root, "sys/module", name));

function device(name: string, neededFor: NeededFor, root: string, path: string, fix: string): Prerequisite {
  if (!existsSync(join(root, path))) return { name, neededFor, ok: false, state: `/${path} is absent`, fix };
  const ok = may(root, path, constants.R_OK | constants.W_OK);
  return { name, neededFor, ok, state: ok ? `/${path}` : `/${path} is not accessible`, fix: ok ? "" : "run as root" };
}

/** Pages of 2 MiB, which `run` takes; where the kernel's default is another size, the fix names theirs. */
function hugepages(root: string): Prerequisite {
  const info = text(root, "proc/meminfo");
  const field = (key: string): number => Number(new RegExp(`^${key}:\\s*(\\d+)`, "m").exec(info)?.[1] ?? 0);
  const base = { name: "hugepages", neededFor: "controller" as const };
  if (field("Hugepagesize") === 0)
    return { ...base, ok: false, state: "the kernel has none", fix: "use a kernel with CONFIG_HUGETLBFS" };
  const usual = field("Hugepagesize") === HUGE_KIB;
  const pool = `sys/kernel/mm/hugepages/hugepages-${HUGE_KIB}kB`;
  const count = (key: string, file: string): number => (usual ? field(key) : Number(text(root, `${pool}/${file}`)));
  const total = count("HugePages_Total", "nr_hugepages");
  const free = count("HugePages_Free", "free_hugepages") * HUGE_KIB * 1024;
  const state = `${free / 2 ** 20} MiB free of ${(total * HUGE_KIB) >> 10} MiB, ${DMA_BYTES >> 20} MiB needed`;
  const ok = free >= DMA_BYTES;
  const pages = total + Math.ceil((DMA_BYTES - free) / (HUGE_KIB * 1024));
  const knob = usual ? "/proc/sys/vm/nr_hugepages" : `/${pool}/nr_hugepages`;
  return { ...base, ok, state, fix: ok ? "" : `echo ${pages} >${knob}` };
}

function iommu(root: string): Prerequisite {
  const units = entries(root, "sys/class/iommu");
  const through = /iommu\.passthrough=1|iommu=pt/.test(text(root, "proc/cmdline"));
  const base = { name: "iommu", neededFor: "controller" as const };
  if (units.length === 0) return { ...base, ok: true, state: "none: bus addresses are physical", fix: "" };
  if (through) return { ...base, ok: true, state: `${units.length}, pass-through`, fix: "" };
  const state = `${units.length}, translating: the controller may not reach memory by physical address`;
  return {
    ...base,
    ok: false,
    state,
    fix: "boot with iommu.passthrough=1, unless probe shows the controller behind none",
  };
}

function modules(name: string, neededFor: NeededFor, root: string, wanted: readonly string[]): Prerequisite {
  const absent = wanted.filter((m) => !hasModule(root, m));
  const ok = absent.length === 0;
  return {
    name,
    neededFor,
    ok,
    state: ok ? "loaded" : `${absent.join(", ")} not loaded`,
    fix: ok ? "" : `modprobe -a ${absent.join(" ")}`,
  };
}

/** Register access that the JIT cannot reorder: libatomic, or a page of own code where it is absent (hw/mem.ts). */
async function memoryAccess(): Promise<Prerequisite> {
  const base = { name: "libatomic", neededFor: "run" as const };
  if (!jitIsOn()) return { ...base, ok: false, state: "cannot be tried while the JIT is off", fix: "" };
  try {
    const { memBackend } = await import("../hw/mem.ts");
    return {
      ...base,
      ok: true,
      state: memBackend === "libatomic" ? "found" : `absent, ${memBackend} is used`,
      fix: "",
    };
  } catch (e) {
    return { ...base, ok: false, state: (e as Error).message, fix: "apt install libatomic1" };
  }
}

/** All checks, most basic first. @param root "/" or the directory of a captured board */
export async function prerequisites(root: string): Promise<Prerequisite[]> {
  const caps = missingCaps(root);
  const jit = jitIsOn();
  const epc = existsSync(join(root, "sys/class/pci_epc"));
  const configfs = existsSync(join(root, "sys/kernel/config/pci_ep"));
  const vduse = device("vduse", "vduse", root, "dev/vduse/control", "modprobe -a vduse virtio_vdpa");
  return [
    { name: "jit", neededFor: "run", ok: jit, state: jit ? "on" : "off", fix: jit ? "" : jitHint() },
    await memoryAccess(),
    {
      name: "capabilities",
      neededFor: "run",
      ok: caps.length === 0,
      state: caps.length === 0 ? "all" : `${caps.join(", ")} missing`,
      fix: caps.length === 0 ? "" : "run as root",
    },
    device("tun", "tap", root, "dev/net/tun", "modprobe tun"),
    vduse,
    ...(vduse.ok ? [modules("vdpa bus", "vduse", root, ["virtio_vdpa"])] : []),
    {
      name: "endpoint",
      neededFor: "controller",
      ok: epc,
      state: epc ? "/sys/class/pci_epc" : "the kernel has no endpoint support, or no such controller is enabled",
      fix: epc
        ? ""
        : "use a kernel with CONFIG_PCI_ENDPOINT and the SoC's endpoint driver, and its device-tree overlay",
    },
    {
      name: "configfs",
      neededFor: "controller",
      ok: configfs,
      state: configfs ? "/sys/kernel/config/pci_ep" : "pci_ep is absent",
      fix: configfs
        ? ""
        : existsSync(join(root, "sys/kernel/config"))
          ? "modprobe pci-epf-core, or use a kernel with CONFIG_PCI_ENDPOINT_CONFIGFS"
          : "mount -t configfs none /sys/kernel/config",
    },
    device(
      "devmem",
      "controller",
      root,
      "dev/mem",
      "use a kernel with CONFIG_DEVMEM and without CONFIG_IO_STRICT_DEVMEM",
    ),
    hugepages(root),
    iommu(root),
  ];
}
