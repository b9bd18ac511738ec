/**
 * The door to the model: makes an endpoint controller of a named core, plugs it into a host (the built-in one or a
 * QEMU guest by vfio-user), and hands out what a board's software may see. Nothing else outside this folder is
 * imported by src/engine or src/cmd.
 */
import type { BufferBus } from "../bounce-pages.ts";
import type { Controller } from "../controller.ts";
import type { Grants } from "../driver-ring.ts";
import { Fault } from "../fault.ts";
import { REGION_READ, REGION_WRITE } from "./address-space.ts";
import { EndpointModel } from "./endpoint.ts";
import { BuiltInHost } from "./host.ts";
import { HostMemory } from "./host-memory.ts";
import type { HostOptions } from "./host-options.ts";
import type { ModelOptions } from "./model-options.ts";
import { GRANT_READ, GRANT_WRITE } from "./shadow.ts";
import type { LinkTiming } from "./timing.ts";
import { VfioUserHost } from "./vfio-user-host.ts";

export { checkTiming, type Direction, type LinkTiming, PRESETS, payloadLimit, preset } from "./timing.ts";

/** Cores by name: what the databook options of real controllers amount to (dw-hardware.md 10 to 13). */
export const MODEL_CORES = {
  /** config-limit option and MSI-X: both personalities */
  "modern-msix": { modernCapable: true, msix: true },
  "modern-intx": { modernCapable: true, msix: false },
  /** like RK3588: unrolled, MSI-X, no config limit */
  "legacy-msix": { modernCapable: false, msix: true, writeChannels: 2, readChannels: 2 },
  /** like i.MX8 and R-Car: no MSI-X; here also the viewport maps of older cores, and few windows */
  "legacy-intx": {
    modernCapable: false,
    msix: false,
    dmaMap: "legacy",
    atu: "viewport",
    inboundWindows: 4,
    outboundWindows: 4,
    writeChannels: 1,
    readChannels: 1,
    version: "480a",
  },
} as const satisfies Record<string, Partial<ModelOptions>>;

export type ModelHostOptions =
  | { kind: "built-in"; tap: string; netns: string | null; options?: Partial<HostOptions> }
  | { kind: "vfio-user"; path: string };

export interface ModelSpec {
  /** name of MODEL_CORES */
  core: string;
  strict: boolean;
  host: ModelHostOptions;
  /** which driver the built-in host binds; auto takes modern when it is offered */
  log: (level: "info" | "warn" | "error", text: string) => void;
}

export interface ModelHandle {
  readonly controller: Controller;
  readonly endpoint: EndpointModel;
  /** the built-in host, null with vfio-user */
  readonly host: BuiltInHost | null;
  /** strict mode: the board's side grants its buffers here, null otherwise */
  readonly grants: Grants | null;
  /** the board's bus, for buffers that a port has outside board memory (VDUSE) */
  readonly buffers: BufferBus;
  readonly waitFds: readonly number[];
  violationCount(): number;
  violations(): readonly string[];
  close(): void;
}

/** @throws Fault E_NODEV for an unknown core, and what the host side needs (TAP, socket) */
export function openModel(spec: ModelSpec): ModelHandle {
  const core = MODEL_CORES[spec.core as keyof typeof MODEL_CORES];
  if (core === undefined) {
    throw new Fault(
      "E_NODEV",
      `there is no model core "${spec.core}"`,
      `choose one of ${Object.keys(MODEL_CORES).join(", ")}`,
    );
  }
  const endpoint = new EndpointModel({ ...core, strict: spec.strict });
  const common = {
    controller: endpoint.controller(),
    endpoint,
    grants: endpoint.board.shadow,
    buffers: bufferBus(endpoint),
    violationCount: () => endpoint.violationCount,
    violations: () => endpoint.violations,
  };
  if (spec.host.kind === "vfio-user") {
    const guest = new VfioUserHost({ path: spec.host.path, strict: spec.strict, log: spec.log });
    guest.attach(endpoint);
    endpoint.attach(guest);
    endpoint.addStepper(guest);
    return {
      ...common,
      host: null,
      waitFds: [guest.waitFd],
      violationCount: () => endpoint.violationCount + guest.audit.count,
      violations: () => [...endpoint.violations, ...guest.audit.lines],
      close: () => guest.close(),
    };
  }
  const host = new BuiltInHost({
    strict: spec.strict,
    clock: endpoint.clock,
    tap: { name: spec.host.tap, netns: spec.host.netns ?? "" },
    ...spec.host.options,
  });
  host.attach(endpoint);
  endpoint.attach(host);
  endpoint.addStepper(host);
  return { ...common, host, waitFds: host.waitFds, close: () => host.close() };
}

/** Where buffers of another process's making appear on the board's bus: above board memory, below the outbound window. */
const BUFFER_BUS = 0x8_0000_0000;

function bufferBus({ board }: EndpointModel): BufferBus {
  return {
    map(ptr, size) {
      board.add(BUFFER_BUS, size, ptr, REGION_READ | REGION_WRITE);
      return BUFFER_BUS;
    },
    grant: (bus, len) => board.shadow?.grant(bus, len, GRANT_READ | GRANT_WRITE),
    unmap: (bus, size) => board.remove(bus, size),
  };
}

/** A core by itself, with nobody at the other end of its link: what `probe` looks at. @throws Fault E_NODEV for an unknown core */
export function bareController(core: string): Controller {
  if (!Object.hasOwn(MODEL_CORES, core)) {
    throw new Fault(
      "E_NODEV",
      `there is no model core "${core}"`,
      `choose one of ${Object.keys(MODEL_CORES).join(", ")}`,
    );
  }
  return new EndpointModel({ ...MODEL_CORES[core as keyof typeof MODEL_CORES], boardMemory: 65536 }).controller();
}

/** A timed link with a host that is nothing but memory and a place for MSI-X messages: what `bench link` measures on. */
export interface LinkModel {
  readonly controller: Controller;
  readonly endpoint: EndpointModel;
  readonly host: HostMemory;
  readonly timing: LinkTiming;
  /** message interrupts that arrived, and when the last one did (ns of the model's clock) */
  readonly messages: { count: number; at: number };
  close(): void;
}

/** Bus master on, MSI-X enabled. `turnNs`: simulated time of one turn of the service loop. @throws Fault E_CONFIG for a link that makes no sense */
export function openLink(
  timing: LinkTiming,
  seed: number,
  turnNs: number,
  boardMemory: number,
  hostMemory: number,
): LinkModel {
  const endpoint = new EndpointModel({ seed, timing, turnNs, boardMemory, readChannels: 2, writeChannels: 2 });
  const host = new HostMemory({ bytes: hostMemory, base: 0x1_0000_0000, strict: false });
  const messages = { count: 0, at: 0 };
  endpoint.attach({
    memory: host.space,
    message: () => {
      messages.count++;
      messages.at = endpoint.clock.now;
      return true;
    },
    intx: () => {},
  });
  // memory decoding and bus master on, as after the host's probe
  endpoint.cfgWrite(4, 2, 6);
  return {
    controller: endpoint.controller(),
    endpoint,
    host,
    timing,
    messages,
    close: () => {
      host.close();
      endpoint.close();
    },
  };
}
