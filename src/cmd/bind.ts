/** `epnic bind`: give a controller to epnic, or back. */
import { existsSync } from "node:fs";
import { type ArgsDef, defineCommand } from "citty";
import type { BindPlan, RegisterStep } from "../engine/bind.ts";
import { Fault } from "../hw/fault.ts";
import { commonArgs, DEFAULT_CORE, deviceArgs, deviceOf, MODEL_CORES, runDirArgs, sysfsArgs } from "./_args.ts";
import type { About } from "./_help.ts";
import type { Out } from "./_out.ts";

const args = {
  ...deviceArgs,
  bind: { type: "boolean", alias: "b", description: "give it to epnic (the default)" },
  unbind: {
    type: "boolean",
    alias: "u",
    description: "give it back; a function that --force took away comes back by the undo that was printed then",
  },
  "dry-run": { type: "boolean", alias: "n", description: "print every write and do none" },
  force: {
    type: "boolean",
    alias: "f",
    description: "take it although another endpoint function is on it; that one is unlinked",
  },
  personality: {
    type: "enum",
    options: ["auto", "modern", "legacy"],
    default: "auto",
    description: "which ids the function has until run sets them",
  },
  "model-core": {
    type: "enum",
    options: [...MODEL_CORES],
    description: `model: which endpoint core to list register writes for (default ${DEFAULT_CORE})`,
  },
  ...runDirArgs,
  ...sysfsArgs,
  ...commonArgs,
} as const satisfies ArgsDef;

export const about: About = {
  name: "bind",
  summary: "give a controller to epnic, or back to the kernel",
  synopsis: "[FLAGS] [DEVICE]",
  description: [
    "Sets up an endpoint function on the controller through configfs and starts the link, so that the host finds a card; the kernel keeps clocks, PHY and link, and 'epnic run' does the rest. The function is one of the kernel's own drivers, it stays idle.",
    "Without DEVICE it is the one named in /etc/epnic/epnic.toml. What is already as wanted is not written again. The command that undoes it is printed at the end. The model needs no bind; with --dry-run its register writes are listed.",
  ],
  examples: [
    ["epnic bind --dry-run a40000000.pcie-ep", "what would be written"],
    ["epnic bind a40000000.pcie-ep", "do it; the host must look for new devices afterwards, or boot"],
    ["epnic bind --unbind a40000000.pcie-ep", "and back"],
  ],
  args,
  files: [
    ["/sys/kernel/config/pci_ep", "endpoint functions and controllers of the kernel"],
    ["/etc/epnic/epnic.toml", "names the device when the command line does not"],
    ["/run/epnic/DEVICE.lock", "held while bind or run works on DEVICE"],
  ],
};

async function modelRegisters(core: string, personality: "auto" | "modern" | "legacy"): Promise<RegisterStep[]> {
  (await import("./_jit.ts")).needJit();
  const { bareController } = await import("../hw/model/open-model.ts");
  const { registerSteps } = await import("../engine/bind.ts");
  return registerSteps(bareController(core), personality);
}

/** The command that takes the plan back; "" when it does nothing. What --force took away comes back behind ours. */
function undoText(plan: BindPlan, device: string, unbind: boolean): string {
  if (plan.steps.length === 0) return "";
  if (unbind) return `epnic bind ${device}`;
  const taken = plan.steps.filter((s) => s.kind === "unlink");
  const stopped = plan.steps.filter((s) => s.kind === "write" && s.value === "0" && s.path.endsWith("/start"));
  const back = taken.length === 0 ? [] : [...taken, ...stopped].map((s) => s.undo).filter((u) => u !== "");
  return [`epnic bind --unbind ${device}`, ...back].join(" && ");
}

export default defineCommand({
  meta: { name: "bind", description: about.summary },
  args,
  async run({ args, data }) {
    const out = data as Out;
    if (args.bind && args.unbind) throw new Fault("E_USAGE", "--bind and --unbind are both given");
    const { DEFAULT_CONFIG, readConfig, resolveConfig } = await import("./_config.ts");
    const given = deviceOf(args);
    const file = given === "" && existsSync(DEFAULT_CONFIG) ? readConfig(DEFAULT_CONFIG) : {};
    // all of it is checked: run would refuse it, after the host has seen a card
    const named = given || resolveConfig(file, DEFAULT_CONFIG, {}).device || "";
    if (named === "") throw new Fault("E_USAGE", "no device is named", "'epnic probe' lists them");
    const root = args["sysfs-root"];
    const { resolveDevice } = await import("./_device.ts");
    const controller = resolveDevice(named, root);
    const verb = args.unbind ? "unbind" : "bind";
    const dry = args["dry-run"] === true;
    if (controller === null) {
      const registers = args.unbind ? [] : await modelRegisters(args["model-core"] ?? DEFAULT_CORE, args.personality);
      if (out.options.json) {
        out.json({ version: 1, device: "model", action: verb, dry_run: dry, steps: [], registers, undo: "" });
      } else if (dry && registers.length > 0) {
        const { registerText } = await import("../engine/bind.ts");
        out.print("model: no sysfs writes; these register writes are made by run, in its own process:");
        for (const r of registers) out.print(registerText(r));
      } else out.print("model: nothing to do, the software controller lives in the process of run");
      return 0;
    }
    const device = controller.name;
    if (args["model-core"] !== undefined) {
      throw new Fault("E_USAGE", `--model-core is for the device 'model', the device is '${device}'`, "leave it out");
    }
    const { planBind, planUnbind, applyPlan, stepText } = await import("../engine/bind.ts");
    const plan = args.unbind
      ? planUnbind({ device, sysfsRoot: root })
      : planBind({ device, sysfsRoot: root, personality: args.personality, force: args.force === true });
    if (plan.steps.length > 0) for (const w of plan.warnings) out.log.warn(w);
    if (!dry && plan.steps.length > 0) {
      (await import("./_jit.ts")).needJit();
      const held = (await import("./_lock.ts")).lock(args["run-dir"], device);
      // a signal waits for the last write: nothing is left half bound
      for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(name, () => {});
      try {
        applyPlan(plan, (step) => out.log.debug(stepText(step)));
      } finally {
        held.release();
      }
    }
    const undo = undoText(plan, device, args.unbind === true);
    if (out.options.json) {
      out.json({ version: 1, device, action: verb, dry_run: dry, steps: plan.steps, undo });
      return 0;
    }
    if (plan.steps.length === 0) out.print(`${device}: already ${args.unbind ? "unbound" : "bound"}, nothing to do`);
    else {
      if (dry) for (const s of plan.steps) out.print(stepText(s));
      else out.print(`${device}: ${verb} done, ${plan.steps.length} writes`);
      out.print(`undo: ${undo}`);
    }
    return 0;
  },
});
