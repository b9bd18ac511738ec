/**
 * Child process of heap.test.ts: the service loop of the whole engine with 10^6 frames each way, then once more with one
 * allocation a turn. Prints one line of JSON a run.
 */
import { Canaries } from "../support/canaries.ts";
import { ManualHost, type ManualOptions, type SetupOptions } from "../support/manual-host.ts";
import { type Moved, STEADY_BYTES, SteadySide, steady } from "../support/steady.ts";
import { SteadyPort } from "../support/steady-port.ts";

const FRAMES = 1_000_000;
/** Optimising compiles allocate; so many frames are behind us before we look. */
const WARM = 200_000;
const BYTES = 128;
/** stretches of frames of which one has to be without a collection */
const ATTEMPTS = 3;

const LOOPS: [string, Partial<ManualOptions>, Partial<SetupOptions>, boolean][] = [
  ["modern, MSI-X, header patched in place", { core: "modern-msix" }, { size: 256 }, true],
  ["legacy, INTx, one channel each way, header as its own element", { core: "legacy-intx" }, { vectors: null }, false],
  ["legacy, MSI-X, event index", { core: "legacy-msix", engine: { features: "wide" } }, { eventIdx: true }, true],
];

let leak: object | null = null;

async function run(
  name: string,
  options: Partial<ManualOptions>,
  setup: Partial<SetupOptions>,
  patch: boolean,
  frames: number,
  spoil: boolean,
): Promise<void> {
  const ports: SteadyPort[] = [];
  const h = new ManualHost({
    ...options,
    makePort: (memory, grants) => {
      ports.push(new SteadyPort(memory, grants, patch, STEADY_BYTES));
      return ports[0]!;
    },
  });
  if (h.engine.fn.personality === "modern") h.modern(setup);
  else h.legacy(setup);
  const { service } = h.engine;
  // what the test notes of interrupts is not the engine's
  h.messages.push = () => 0;
  h.line.push = () => 0;
  const turn = (): void => {
    service.attend(service.slice(1));
    if (spoil) leak = { turns: service.turns };
  };
  const host = new SteadySide(h.rx!, h.tx!, h.alloc(STEADY_BYTES));
  const board = new SteadySide(ports[0]!.rx, ports[0]!.tx, ports[0]!.base);
  const moved: Moved = { toHost: 0, toBoard: 0 };
  const canaries = new Canaries();
  steady(turn, host, board, WARM, BYTES, moved);
  let turns = 0;
  let dead = 0;
  // A late compile brings one collection about, what the loop allocates one in every attempt.
  for (let k = 0; k < ATTEMPTS; k++) {
    await canaries.arm();
    turns = service.turns;
    steady(turn, host, board, frames, BYTES, moved);
    dead = canaries.dead;
    if (dead === 0) break;
  }
  console.log(
    JSON.stringify({
      name,
      ...moved,
      turns: service.turns - turns,
      dead,
      link: service.link,
      faults: service.faults,
      violations: h.model.violationCount,
      leak,
    }),
  );
  h.close();
}

for (const loop of LOOPS) await run(...loop, FRAMES, false);
await run("with one small object a turn", LOOPS[0]![1], LOOPS[0]![2], true, FRAMES / 4, true);
