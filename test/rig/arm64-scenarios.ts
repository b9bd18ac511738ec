/** Scenarios on arm64: the whole board, tests of src/hw on an arm64 machine, and the program alone under user emulation. */
import { ARM64 } from "./arch.ts";
import { arm64Unit } from "./arm64-unit.ts";
import { arm64User } from "./arm64-user.ts";
import { boardTraffic } from "./board-scenarios.ts";
import type { Combination, Scenario } from "./scenario.ts";

/** kernels with VDUSE; what the host would vary does not matter */
const fits = (c: Combination): boolean =>
  c.mode === "held" && c.personality === "modern" && c.irq === "msix" && c.kernel !== "6.1";

export const ARM64_SCENARIOS: readonly Scenario[] = [
  {
    name: "board-arm64",
    about: "as board-amd64 with an arm64 machine as the board: Debian's arm64 kernel and epnic-arm64",
    fits,
    run: (c) =>
      boardTraffic({
        name: "board-arm64",
        boardKernel: c.kernel,
        boardArch: ARM64,
        hostKernel: c.kernel,
        holdMs: 120,
      }),
  },
  {
    name: "arm64-unit",
    about: "tests of src/hw inside an arm64 machine: access widths, wait loops, structures, hugepages",
    fits,
    run: (c) => arm64Unit(c.kernel),
  },
  {
    name: "arm64-user",
    about: "epnic-arm64 under user emulation: both personalities and back ends, checked TCP, no machine",
    fits: (c) => fits(c) && c.kernel === "newest",
    run: () => arm64User(),
  },
];
