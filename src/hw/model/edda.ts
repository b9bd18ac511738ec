/**
 * Development program, no user command: serves the DMA test function 16c3:edda on a vfio-user socket, so that a
 * kernel's own dw-edma-pcie driver runs against the eDMA model (docs/edda.md).
 *
 *   bun src/hw/model/edda.ts [held:|plain:]SOCKET [--irq msi|msix|both] [--channels 1|2] [--json]
 *
 * plain: the guest maps BAR2, so its list writes reach the DMA without a message. Ends with SIGINT or SIGTERM and
 * then prints what the DMA did.
 */
import { parseArgs } from "node:util";
import { Fault } from "../fault.ts";
import { libc, POLLIN, ptrOf } from "../libc.ts";
import { EddaFunction, MEMORY_BAR } from "./edda-function.ts";
import { VfioUserHost } from "./vfio-user-host.ts";

const USAGE = "usage: bun src/hw/model/edda.ts [held:|plain:]SOCKET [--irq msi|msix|both] [--channels 1|2] [--json]";
/** turns without work before the program sleeps until QEMU says something */
const IDLE_TURNS = 400;
const SLEEP_NS = 1_000_000;

export interface EddaServer {
  readonly fn: EddaFunction;
  readonly host: VfioUserHost;
  turn(): void;
  summary(): Record<string, number>;
  close(): void;
}

/** The function behind a listening socket; the caller gives turns. @throws Fault when the socket cannot be made */
export function openEdda(o: {
  path: string;
  irq: "msi" | "msix" | "both";
  channels: number;
  log?: (level: "info" | "warn" | "error", text: string) => void;
}): EddaServer {
  const fn = new EddaFunction({ msi: o.irq !== "msix", msix: o.irq !== "msi", channels: o.channels });
  const host = new VfioUserHost({
    path: o.path,
    virtio: false,
    configBytes: 4096,
    mapped: [MEMORY_BAR],
    ...(o.log ? { log: o.log } : {}),
  });
  host.irq.takesGuestMessages = true;
  host.attach(fn);
  fn.attach(host);
  return {
    fn,
    host,
    turn() {
      host.turn();
      fn.turn();
    },
    summary: () => ({
      elements: fn.stats.elements,
      links: fn.stats.linksFollowed,
      bytes_to_host: fn.stats.bytesToHost,
      bytes_to_device: fn.stats.bytesToBoard,
      doorbells: fn.stats.doorbells,
      done_messages: fn.stats.imwrWrites,
      msi_delivered: host.msi.fired,
      msix_delivered: host.irq.fired.reduce((a, b) => a + (b ?? 0), 0),
      aborts: fn.stats.aborts,
      posted_lost: fn.stats.postedDropped,
      accesses: host.reads + host.writes,
    }),
    close() {
      host.close();
      fn.close();
    },
  };
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    args: process.argv.slice(2),
    allowPositionals: true,
    options: {
      irq: { type: "string", default: "both" },
      channels: { type: "string", default: "2" },
      json: { type: "boolean", default: false },
    },
  });
  const [path] = positionals;
  const { irq } = values;
  const channels = Number(values.channels);
  if (path === undefined || (irq !== "msi" && irq !== "msix" && irq !== "both") || (channels !== 1 && channels !== 2)) {
    console.error(USAGE);
    return 2;
  }
  const server = openEdda({ path, irq, channels });
  let over = false;
  for (const name of ["SIGINT", "SIGTERM"] as const)
    process.on(name, () => {
      over = true;
    });
  console.error(`edda: 16c3:edda is served on ${path}`);
  const fds = new Int32Array([server.host.waitFd, POLLIN]);
  const time = new Int32Array([0, 0, SLEEP_NS, 0]);
  for (let idle = 0; !over; ) {
    const before = server.host.reads + server.host.writes + server.fn.stats.elements;
    for (let i = 0; i < 100; i++) server.turn();
    idle = before === server.host.reads + server.host.writes + server.fn.stats.elements ? idle + 100 : 0;
    if (idle > IDLE_TURNS) libc.ppoll(ptrOf(fds), 1, ptrOf(time), null);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  const summary = server.summary();
  server.close();
  if (values.json) console.log(JSON.stringify(summary));
  else for (const [k, v] of Object.entries(summary)) console.log(`${k.padEnd(16)} ${v}`);
  return 0;
}

if (import.meta.main) {
  try {
    process.exit(await main());
  } catch (e) {
    console.error(e instanceof Fault || e instanceof TypeError ? `edda: ${e.message}` : e);
    process.exit(1);
  }
}
