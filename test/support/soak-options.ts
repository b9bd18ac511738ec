/** What soak.ts varies from seed to seed: core, host, rings, layouts, faults of the DMA engine. */
import type { HostKernel } from "../../src/hw/model/host-features.ts";
import type { MODEL_CORES } from "../../src/hw/model/open-model.ts";
import type { Random } from "../../src/hw/model/random.ts";
import { PRESETS } from "../../src/hw/model/timing.ts";
import type { EngineRigOptions } from "./engine-rig.ts";

const CORES: (keyof typeof MODEL_CORES)[] = ["modern-msix", "modern-intx", "legacy-msix", "legacy-intx"];
const KERNELS: HostKernel[] = ["6.1", "6.12", "7.3"];
/** what a driver takes: all, no mergeable buffers, no indirect tables either, next to nothing */
const RESTRICTED: (number[] | null)[] = [
  null,
  null,
  [0, 1, 5, 7, 8, 11, 12, 16, 28, 29],
  [0, 1, 5, 7, 8, 11, 12, 16],
  [0, 5, 11, 12, 16, 29],
  [5, 16],
];

/** Options of one seed; draws from `r`. */
export function soakOptions(r: Random, seed: number): Partial<EngineRigOptions> {
  const pick = <T>(list: readonly T[]): T => list[r.below(list.length)]!;
  const least = pick([64, 256, 1536, 1536]);
  let queueSize = pick([16, 32, 64, 128, 256, 256, 512, 1024]);
  const core = pick(CORES);
  const timing = r.chance(0.15) ? pick(Object.values(PRESETS)) : null;
  const legacy = r.chance(0.3) || core.startsWith("legacy");
  // only a legacy function learns what a restricted driver took
  const features = legacy ? pick(RESTRICTED) : null;
  // a buffer for TSO without mergeable ones takes 19 descriptors
  if (features !== null && queueSize < 32) queueSize = 32;
  return {
    core,
    seed,
    patch: r.chance(0.5),
    portSize: pick([4, 16, 64, 128]),
    model: {
      timing,
      faults: {
        lostDoorbell: pick([0, 0, 0.3]),
        holdFetched: pick([0, 0, 0.3]),
        notIdleDoorbell: r.chance(0.3),
      },
    },
    host: {
      memory: 128 << 20,
      kernel: pick(KERNELS),
      irq: pick(["auto", "auto", "intx"] as const),
      features,
      queueSize: pick([0, 0, 16, 64]),
      memoryBase: r.chance(0.3) ? 0x12_3400_0000 : r.chance(0.2) ? 0xf000_0000 - (64 << 20) : 0x0800_0000,
      pace: { irqDelayTurns: pick([0, 0, 3, 20]), reuseDelayTurns: pick([60, 200]) },
      net: {
        rxBudget: pick([4, 64]),
        txBudget: pick([4, 32]),
        rx: {
          least,
          most: pick([least, 1536, 4000]) < least ? least : 1536,
          align: 64,
          splitHeader: r.chance(0.5),
          spare: 0,
        },
        tx: {
          layout: pick(["linear", "frags", "split", "mixed"] as const),
          piece: pick([4096, 16384, 32768]),
          linear: pick([14, 54, 192]),
          scatter: r.chance(0.4),
          align: pick([2, 1, 64]),
        },
        indirect: r.chance(0.7),
      },
    },
    engine: {
      personality: legacy ? "legacy" : "auto",
      irq: "auto",
      fetch: r.chance(0.25) ? "window" : "edma",
      // the number: wide with RING_RESET
      features: pick(["default", "safe", "wide", legacy ? "wide" : "0x000199fb"]),
      queueSize,
    },
  };
}
