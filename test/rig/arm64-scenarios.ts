/** Scenarios on arm64: the whole board, tests of src/hw on an arm64 machine, and the program alone under user emulation. */
import { RigError } from "./apt.ts";
import { ARM64, ARM64_16K, type Arch } from "./arch.ts";
import { arm64Unit } from "./arm64-unit.ts";
import { arm64User } from "./arm64-user.ts";
import { boardTraffic } from "./board-scenarios.ts";
import type { Findings } from "./checks.ts";
import type { Combination, Scenario } from "./scenario.ts";

/** kernels with VDUSE; what the host would vary does not matter */
const fits = (c: Combination): boolean =>
  c.mode === "held" && c.personality === "modern" && c.irq === "msix" && c.kernel !== "6.1";

/** emulated arm64 is slow, and two machines share this one's CPUs with whatever else runs: two minutes were seen, and five */
const LIMIT_MS = 8 * 60_000;

/** The rig takes everything down after a failure, so what still runs here comes to its end by itself. */
async function bounded(name: string, work: Promise<Findings>): Promise<Findings> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new RigError(`${name}: not done within ${LIMIT_MS / 60_000} minutes`)), LIMIT_MS);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}

const board = (name: string, about: string, boardArch: Arch): Scenario => ({
  name,
  about,
  fits,
  run: async (c) => {
    const pair = { name, boardKernel: c.kernel, boardArch, hostKernel: c.kernel, holdMs: 120 };
    const found = await bounded(name, boardTraffic(pair));
    // the JSON names the host's kernel
    found.notes.unshift(`the board's kernel: ${await boardArch.fetchBoard(c.kernel, () => {})}`);
    return found;
  },
});
const unit = (name: string, about: string, arch: Arch): Scenario => ({
  name,
  about,
  fits,
  run: (c) => bounded(name, arm64Unit(c.kernel, arch)),
});

export const ARM64_SCENARIOS: readonly Scenario[] = [
  board("board-arm64", "as board-amd64, the board an arm64 machine with Debian's arm64 kernel and epnic-arm64", ARM64),
  board("board-arm64-16k", "as board-arm64 with the kernel whose pages have 16 KiB", ARM64_16K),
  unit("arm64-unit", "tests of src/hw inside an arm64 machine: access widths, wait loops, structures", ARM64),
  unit("arm64-unit-16k", "the same with pages of 16 KiB", ARM64_16K),
  {
    name: "arm64-user",
    about: "epnic-arm64 under user emulation: both personalities and back ends, checked TCP, no machine",
    fits: (c) => fits(c) && c.kernel === "newest",
    run: () => arm64User(),
  },
];
