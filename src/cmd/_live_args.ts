/** The flags of `epnic bench live`, apart from the rest so that help needs nothing else. */
import type { ArgsDef } from "citty";
import { MODEL_CORES, runDirArgs, sysfsArgs } from "./_args.ts";

/** Flags of `bench` that only live looks at; the names and meanings are those of `run` where it has them too. */
export const liveArgs = {
  seconds: { type: "string", valueHint: "SEC", default: "1", description: "live: length of one measurement" },
  window: { type: "string", valueHint: "N", default: "64", description: "live: echoes under way in the case both" },
  address: {
    type: "string",
    valueHint: "IP",
    default: "198.18.0.1",
    description: "live: IPv4 address of the measuring station, in the network of --peer",
  },
  peer: {
    type: "string",
    valueHint: "IP",
    default: "198.18.0.2",
    description: "live: address of the host's interface; the built-in host gets it, a real one must have it",
  },
  wait: {
    type: "string",
    valueHint: "SEC",
    default: "30",
    description: "live: how long the host may take to bind its driver and to answer ARP",
  },
  mtu: { type: "string", valueHint: "BYTES", description: "live: largest packet, 68 to 65535 (default 1500)" },
  personality: {
    type: "enum",
    options: ["auto", "modern", "legacy"],
    description: "live: the virtio device the host sees",
  },
  features: { type: "string", valueHint: "SET", description: "live: features to offer, as for run" },
  irq: { type: "enum", options: ["auto", "msix", "intx"], description: "live: how to interrupt the host" },
  fetch: { type: "enum", options: ["edma", "list", "window"], description: "live: how to read the host's rings" },
  idle: { type: "enum", options: ["spin", "adaptive"], description: "live: what to do when no frame moves" },
  "host-tap": { type: "string", valueHint: "IFNAME", description: "live, model: name of the host's interface" },
  "host-netns": { type: "string", valueHint: "NAME", description: "live, model: network namespace of the host" },
  "vfio-user": {
    type: "string",
    valueHint: "PATH",
    description: "live, model: wait on this socket for a virtual machine",
  },
  "model-core": {
    type: "enum",
    options: [...MODEL_CORES],
    description: "live, model: which endpoint core to be (default modern-msix)",
  },
  ...runDirArgs,
  ...sysfsArgs,
} as const satisfies ArgsDef;
