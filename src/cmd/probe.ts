/** `epnic probe`: what is here, what it can do, what is missing. Changes nothing. */
import { type ArgsDef, defineCommand } from "citty";
import { Fault } from "../hw/fault.ts";
import { commonArgs, DEFAULT_CORE, deviceArgs, deviceOf, MODEL_CORES, sysfsArgs } from "./_args.ts";
import type { About } from "./_help.ts";
import type { Inspected } from "./_inspect.ts";
import type { Cell, Out } from "./_out.ts";
import type { Prerequisite } from "./_prereq.ts";

const args = {
  ...deviceArgs,
  "model-core": {
    type: "enum",
    options: [...MODEL_CORES],
    description: `with the device model: which endpoint core it is (default ${DEFAULT_CORE})`,
  },
  ...sysfsArgs,
  ...commonArgs,
} as const satisfies ArgsDef;

export const about: About = {
  name: "probe",
  summary: "list controllers, what they can do and what is missing",
  description: [
    "Lists the endpoint controllers of this machine: core, DMA channels, address windows, link, and which virtio devices they can show the host and why not. Then what this machine lacks, with the command that fixes it.",
    "It only reads. Without root it tells what sysfs tells. With -v every prerequisite is listed, with -vv the registers of DEVICE as well.",
  ],
  examples: [
    ["epnic probe", "all controllers, and what is missing"],
    ["epnic probe a40000000.pcie-ep -vv", "one controller with its registers, as root"],
    ["epnic probe model --model-core legacy-intx", "the software controller as another core"],
    ["epnic probe -j | jq '.prerequisites[] | select(.ok | not)'", "for a script: what is missing"],
  ],
  args,
};

const hex = (n: number): string => `0x${n.toString(16)}`;
const MIB = 2 ** 20;

/** JSON of one controller; addresses are strings, sizes numbers with the unit in the key. */
function controllerJson(c: Inspected): object {
  const k = c.core;
  return {
    name: c.name,
    board: c.board || null,
    compatible: c.compatible,
    driver: c.driver || null,
    functions: c.functions,
    readable: k !== null,
    obstacles: c.obstacles,
    notes: c.notes,
    ...(k === null
      ? {}
      : {
          core_version: k.version,
          dma: {
            map: k.dmaMap,
            write_channels: k.writeChannels,
            read_channels: k.readChannels,
          },
          windows: {
            inbound: k.inboundWindows,
            outbound: k.outboundWindows,
            align_bytes: k.windowAlign,
            unrolled: k.atuUnrolled,
          },
          outbound_base: c.window === null ? null : hex(c.window.bus),
          outbound_bytes: c.window === null ? null : c.window.size,
          link: k.linkGen === 0 ? null : { generation: k.linkGen, lanes: k.linkWidth },
        }),
    personalities: { modern: c.modern, legacy: c.legacy },
    interrupts: c.interrupts,
    ...(c.registers.length > 0 ? { registers: c.registers } : {}),
  };
}

const prerequisiteJson = (p: Prerequisite): object => ({
  name: p.name,
  needed_for: p.neededFor,
  ok: p.ok,
  state: p.state,
  fix: p.fix,
});

function row(c: Inspected): Cell[] {
  const k = c.core;
  const can = (v: { possible: boolean }): string => (k === null ? "?" : v.possible ? "yes" : "no");
  return [
    c.name,
    k?.version,
    k && (k.dmaMap === "none" ? "none" : `${k.dmaMap.slice(0, 4)} ${k.writeChannels}w+${k.readChannels}r`),
    k && `${k.inboundWindows}+${k.outboundWindows}`,
    k && (k.linkGen === 0 ? "down" : `gen${k.linkGen} x${k.linkWidth}`),
    can(c.modern),
    can(c.legacy),
    c.interrupts.join(","),
  ];
}

/** The lines under the table: what the yes and no are about. */
function notes(c: Inspected): string[] {
  const lines = [
    `${c.name}: ${[c.board || c.compatible, c.driver && `driver ${c.driver}`].filter(Boolean).join(", ")}`,
  ];
  if (c.functions.length > 0) lines.push(`    endpoint functions in configfs: ${c.functions.join(", ")}`);
  for (const n of c.notes) lines.push(`    note: ${n}`);
  for (const o of c.obstacles) lines.push(`    not usable: ${o.what}`, ...(o.fix ? [`        fix: ${o.fix}`] : []));
  if (c.core === null) return lines;
  const k = c.core;
  lines.push(
    `    DMA: ${k.dmaMap}, ${k.writeChannels} write and ${k.readChannels} read channels`,
    `    iATU: ${k.atuUnrolled ? "unrolled" : "viewport"}, ${k.inboundWindows} inbound and ${k.outboundWindows} outbound windows`,
  );
  const w = c.window;
  if (w)
    lines.push(`    outbound window: ${hex(w.bus)}, ${w.size / MIB} MiB, in steps of ${c.core.windowAlign / 1024} KiB`);
  lines.push(`    modern: ${c.modern.possible ? "yes" : "no"}: ${c.modern.why}`);
  lines.push(`    legacy: ${c.legacy.possible ? "yes" : "no"}: ${c.legacy.why}`);
  return lines;
}

function prerequisiteLines(all: readonly Prerequisite[], everything: boolean): string[] {
  const shown = everything ? all : all.filter((p) => !p.ok);
  if (shown.length === 0) return ["nothing is missing"];
  const lines = [everything ? "prerequisites:" : "missing:"];
  for (const p of shown) {
    lines.push(`  ${p.name} (for ${p.neededFor}): ${p.state}`);
    if (p.fix) lines.push(`      fix: ${p.fix}`);
  }
  return lines;
}

export default defineCommand({
  meta: { name: "probe", description: about.summary },
  args,
  async run({ args, data }) {
    const out = data as Out;
    const root = args["sysfs-root"];
    const registers = out.options.verbose > 1;
    const [{ resolveDevice }, { inspectModel, inspectBoard }, { prerequisites }, { listControllers }] =
      await Promise.all([
        import("./_device.ts"),
        import("./_inspect.ts"),
        import("./_prereq.ts"),
        import("../hw/sysfs.ts"),
      ]);
    const named = deviceOf(args);
    const one = named === "" ? undefined : resolveDevice(named, root);
    const forModel = one === null;
    const core = args["model-core"];
    if (core !== undefined && !forModel) {
      throw new Fault(
        "E_USAGE",
        `--model-core is ${core}, and the device is not 'model'`,
        `epnic probe model --model-core ${core}`,
      );
    }
    const controllers: Inspected[] = [];
    if (one === null) controllers.push(await inspectModel(core ?? DEFAULT_CORE, registers));
    else for (const c of one ? [one] : listControllers(root)) controllers.push(await inspectBoard(c, root, registers));
    const needs = (await prerequisites(root)).filter((p) => !forModel || ["run", "tap"].includes(p.neededFor));
    if (out.options.json) {
      out.json({
        version: 1,
        controllers: controllers.map(controllerJson),
        prerequisites: needs.map(prerequisiteJson),
      });
      return 0;
    }
    if (controllers.length === 0) out.print("no endpoint controller here; 'epnic probe model' shows the software one");
    else {
      out.table(["controller", "core", "dma", "in+out", "link", "modern", "legacy", "irq"], controllers.map(row));
      for (const c of controllers) {
        out.print(["", ...notes(c)].join("\n"));
        if (c.registers.length > 0) out.print(c.registers.join("\n"));
      }
    }
    out.print(["", ...prerequisiteLines(needs, out.options.verbose > 0)].join("\n"));
    return 0;
  },
});
