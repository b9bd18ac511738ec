/** `epnic run`: the appliance itself, in the foreground until SIGINT or SIGTERM. */
import { existsSync } from "node:fs";
import { type ArgsDef, defineCommand } from "citty";
import { Fault } from "../hw/fault.ts";
import { commonArgs, deviceArgs, deviceOf, MODEL_CORES, runDirArgs, sysfsArgs } from "./_args.ts";
import type { About } from "./_help.ts";
import type { Out } from "./_out.ts";

const args = {
  ...deviceArgs,
  config: {
    type: "string",
    alias: "c",
    valueHint: "FILE",
    description: "TOML file; without it /etc/epnic/epnic.toml if that exists. Flags win",
  },
  check: { type: "boolean", description: "check flags and file, print the configuration that results, and exit" },
  personality: {
    type: "enum",
    options: ["auto", "modern", "legacy"],
    description: "the virtio device the host sees; auto (the default) takes modern where the core can do it",
  },
  mac: {
    type: "string",
    valueHint: "MAC",
    description: "the host's MAC address; without it one is made of the device name",
  },
  mtu: { type: "string", valueHint: "BYTES", description: "largest packet, 68 to 65535 (default 1500)" },
  "queue-size": {
    type: "string",
    valueHint: "N",
    description: "entries of each virtqueue, a power of two from 16 to 32768 (default 256)",
  },
  features: {
    type: "string",
    valueHint: "SET",
    description: "features to offer: default, safe, wide or a word in hex",
  },
  irq: { type: "enum", options: ["auto", "msix", "intx"], description: "how to interrupt the host (default auto)" },
  fetch: {
    type: "enum",
    options: ["edma", "list", "window"],
    description:
      "read the host's rings by DMA (the default), by DMA over linked lists alone, or by CPU through the window",
  },
  port: { type: "enum", options: ["auto", "tap", "vduse"], description: "the board's side of the card (default auto)" },
  "port-name": { type: "string", valueHint: "IFNAME", description: "name of the board's interface (default epnic0)" },
  "port-netns": { type: "string", valueHint: "NAME", description: "network namespace of the board's interface" },
  host: {
    type: "string",
    valueHint: "HOST",
    description: "model: built-in (the default), or vfio-user:PATH, the same as --vfio-user",
  },
  "host-tap": {
    type: "string",
    valueHint: "IFNAME",
    description: "model: name of the simulated host's interface (default ephost0)",
  },
  "host-netns": { type: "string", valueHint: "NAME", description: "model: network namespace of the simulated host" },
  "vfio-user": {
    type: "string",
    valueHint: "PATH",
    description: "model: offer the function on this socket to a virtual machine instead",
  },
  "model-core": {
    type: "enum",
    options: [...MODEL_CORES],
    description: "model: which endpoint core to be (default modern-msix)",
  },
  strict: {
    type: "boolean",
    description: "model: record every DMA access outside memory handed over, and fail the run",
  },
  cpu: { type: "string", valueHint: "N", description: "pin the service loop to this CPU" },
  idle: {
    type: "enum",
    options: ["spin", "adaptive"],
    description: "what to do when no frame moves (default adaptive)",
  },
  ...runDirArgs,
  ...sysfsArgs,
  ...commonArgs,
} as const satisfies ArgsDef;

export const about: About = {
  name: "run",
  summary: "be the network card, in the foreground",
  description: [
    "Opens the controller, shows the host a virtio-net function and moves frames between it and the board's interface until SIGINT or SIGTERM; the DMA in flight is then drained. A second signal ends it at once.",
    "Under systemd it tells when it is ready, feeds the watchdog and logs with priorities.",
  ],
  examples: [
    ["epnic run a40000000.pcie-ep", "be the card on this controller, board's side on epnic0"],
    ["epnic run model --host-netns host --port-netns board", "both sides on this machine, each in a network namespace"],
    ["epnic run --config /etc/epnic/epnic.toml --check", "is this file right?"],
    ["epnic run a40000000.pcie-ep --mtu 9000 --check >/etc/epnic/epnic.toml", "write a configuration file"],
  ],
  args,
  files: [["/etc/epnic/epnic.toml", "the configuration; epnic.toml in the share directory lists every key"]],
};

const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;

export default defineCommand({
  meta: { name: "run", description: about.summary },
  args,
  async run({ args, data }) {
    const out = data as Out;
    const { DEFAULT_CONFIG, readConfig, resolveConfig, FLAG_KEYS, needModel } = await import("./_config.ts");
    const path = args.config ?? DEFAULT_CONFIG;
    const file = args.config !== undefined || existsSync(path) ? readConfig(path) : {};
    const flags = Object.fromEntries(["host", ...Object.keys(FLAG_KEYS)].map((k) => [k, args[k]]));
    const config = resolveConfig(file, path, flags);
    const named = deviceOf(args) || config.device || "";
    if (named === "")
      throw new Fault("E_USAGE", "no device is named", "'epnic probe' lists them; 'model' needs no board");

    const { MODEL, resolveDevice } = await import("./_device.ts");
    const device = resolveDevice(named, args["sysfs-root"])?.name ?? MODEL;
    needModel(device, flags);
    const { engineOptions, engineLog } = await import("./_engine.ts");
    const options = engineOptions(config, device, args["run-dir"], args["sysfs-root"]);
    if (args.check) {
      const resolved = Object.assign({ device }, config, { device });
      if (out.options.json) out.json({ version: 1, config: resolved });
      else out.print(Bun.TOML.stringify(resolved).trimEnd());
      return 0;
    }

    (await import("./_jit.ts")).needJit();
    const { lock } = await import("./_lock.ts");
    const { Notifier } = await import("./_notify.ts");
    const notify = new Notifier();
    const stopping = { stop: false };
    const onSignal = (name: keyof typeof SIGNALS): void => {
      if (stopping.stop) {
        out.log.warn(`${name} again: ended without draining`);
        process.exit(SIGNALS[name]);
      }
      out.log.info(`${name}: stopping`);
      notify.stopping();
      stopping.stop = true;
    };
    // before anything is opened, so that a signal never leaves something half open
    for (const name of Object.keys(SIGNALS) as (keyof typeof SIGNALS)[]) process.on(name, () => onSignal(name));
    process.on("SIGHUP", () => out.log.info("SIGHUP is ignored: restart to read the configuration again"));
    const held = lock(args["run-dir"], device);
    let summary: Record<string, number | string>;
    try {
      if (options.cpu !== null) (await import("../hw/affinity.ts")).pinTo(options.cpu);
      const { openEngine } = await import("../engine/engine.ts");
      const engine = openEngine(options, engineLog(out));
      try {
        if (!stopping.stop) notify.ready(`${device}: running`);
        await engine.run(stopping);
        summary = engine.summary();
      } finally {
        engine.close();
      }
    } finally {
      notify.close();
      held.release();
    }
    if (out.options.json) out.json({ version: 1, device, summary });
    return 0;
  },
});
