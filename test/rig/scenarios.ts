/**
 * The register of scenarios, by name. Those with a guest alone are in host-, life- and plain files; a board of their own
 * have those of the board-* files.
 */
import { ARM64_SCENARIOS } from "./arm64-scenarios.ts";
import { boardCrash, boardReboot, boardShort } from "./board-life.ts";
import type { PairOptions } from "./board-pair.ts";
import { boardRoce, boardTraffic } from "./board-scenarios.ts";
import { boardSystemd } from "./board-systemd.ts";
import { boardVduse } from "./board-vduse.ts";
import type { Findings } from "./checks.ts";
import { EDDA_SCENARIOS } from "./edda.ts";
import { HOST_SCENARIOS } from "./host-scenarios.ts";
import { LIFE_SCENARIOS } from "./life-scenarios.ts";
import { LIVE_SCENARIOS } from "./live.ts";
import { PLAIN_SCENARIOS } from "./plain.ts";
import type { Combination, Scenario } from "./scenario.ts";

/** Scenarios with a board of their own (board-*.ts): modern with MSI-X, on kernels that have VDUSE. */
const board = (name: string, about: string, run: (c: Combination) => Promise<Findings>): Scenario => ({
  name,
  about,
  fits: (c) => c.mode === "held" && c.personality === "modern" && c.irq === "msix" && c.kernel !== "6.1",
  run,
});
const pairOf = (name: string, c: Combination): PairOptions => ({ name, boardKernel: c.kernel, hostKernel: c.kernel });

export const SCENARIOS: readonly Scenario[] = [
  ...HOST_SCENARIOS,
  ...LIFE_SCENARIOS,
  ...PLAIN_SCENARIOS,
  ...EDDA_SCENARIOS,
  ...LIVE_SCENARIOS,
  board("board-vduse", "one machine: model and VDUSE, checked TCP both ways, epnic killed 5 times", (c) =>
    boardVduse(c.kernel),
  ),
  board("board-short", "two machines: ping, epnic killed in the middle of checked streams, clean stop", (c) =>
    boardShort(pairOf("board-short", c)),
  ),
  board("board-amd64", "board and host as two machines: ping, TCP and UDP both ways, idle CPU share", (c) =>
    boardTraffic(pairOf("board-amd64", c)),
  ),
  board("board-crash", "two machines: epnic killed 20 times in the middle of checked streams both ways", (c) =>
    boardCrash(pairOf("board-crash", c), 20),
  ),
  board("board-reboot", "two machines: the host reboots while the board runs, the board while the host runs", (c) =>
    boardReboot(pairOf("board-reboot", c)),
  ),
  board("board-systemd", "two machines: the board's epnic as a unit of systemd", (c) =>
    boardSystemd(pairOf("board-systemd", c)),
  ),
  board("board-roce", "two machines: RoCE of both kernels over the card, rping with checked data", (c) =>
    boardRoce(pairOf("board-roce", c)),
  ),
  ...ARM64_SCENARIOS,
];
