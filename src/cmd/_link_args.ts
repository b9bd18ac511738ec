/** The flags of `epnic bench link`, apart from the rest so that help needs nothing else. */
import type { ArgsDef } from "citty";

export const linkArgs = {
  preset: {
    type: "string",
    valueHint: "LIST",
    default: "rk3588,rcar-s4,imx8mp",
    description: "link: links to model, separated by commas",
  },
  set: {
    type: "string",
    valueHint: "LIST",
    description: "link: other parameters than the presets', as mps=128,round_trip_ns=600; docs/bench.md names all",
  },
  design: {
    type: "string",
    valueHint: "LIST",
    default: "epnic,epnic-vduse,edma-per-frame,memcpy-window",
    description: "link: designs to measure, separated by commas",
  },
  ablation: {
    type: "boolean",
    description: "cpu, link: also without each of the optimisations that show there",
  },
  seed: { type: "string", valueHint: "N", default: "1", description: "link: seed of everything random" },
  "turn-ns": {
    type: "string",
    valueHint: "NS",
    default: "100",
    description: "link: what a turn of the service loop costs the board's CPU",
  },
  "frame-ns": {
    type: "string",
    valueHint: "NS",
    default: "40",
    description: "link: what each frame adds to it",
  },
} as const satisfies ArgsDef;
