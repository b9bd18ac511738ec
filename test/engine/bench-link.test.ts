/** bench link: the limit formula against published figures, determinism, and what each optimisation is for. No timed assertions: all time here is simulated. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  ALL_WITHOUT,
  DESIGNS,
  type LinkBenchOptions,
  type LinkRow,
  linksOf,
  measureLink,
  type Without,
} from "../../src/engine/bench/link.ts";
import { type LinkTiming, PRESETS, payloadLimit } from "../../src/hw/model/open-model.ts";

const OPTIONS: LinkBenchOptions = {
  links: linksOf(["rk3588"], {}),
  designs: ["epnic"],
  sizes: [64],
  without: [],
  seed: 1,
  turnNs: 100,
  frameNs: 40,
};
const rows = (o: Partial<LinkBenchOptions>): LinkRow[] => [...measureLink({ ...OPTIONS, ...o })];
const pick = (all: readonly LinkRow[], want: Partial<LinkRow>): LinkRow => {
  const found = all.filter((r) => Object.entries(want).every(([k, v]) => r[k as keyof LinkRow] === v));
  expect(found).toHaveLength(1);
  return found[0]!;
};

// Published for full-sized packets, as a share of the rate after line encoding. TLP overhead 20 to 28 bytes is what
// the sources differ in (3 or 4 double words, ECRC), so the figures bound ours.
test.each([
  // Xilinx WP350 "Understanding Performance of PCI Express Systems", MPS 128 and 256: 86 % and 92 %
  [128, 0.84, 0.88],
  [256, 0.9, 0.93],
  [512, 0.95, 0.965],
])("payload limit at MPS %i is the published share", (mps, low, high) => {
  const t: LinkTiming = { ...PRESETS.rk3588!, mps };
  const raw = 8 * 4 * (128 / 130);
  const share = payloadLimit(t, "ep_to_host") / raw;
  expect(share).toBeGreaterThan(low);
  expect(share).toBeLessThan(high);
});

test("raw rates are those of the PCIe generations", () => {
  // Gen2 x8 carries 32 Gb/s after 8b/10b, Gen3 x8 63.0 Gb/s after 128b/130b (PCIe Base 3.0)
  const full = (gen: number, width: number): number => {
    const t: LinkTiming = { ...PRESETS.rk3588!, gen, width, mps: 4096 };
    return payloadLimit(t, "ep_to_host") / (4096 / (4096 + 24));
  };
  expect(full(2, 8)).toBeCloseTo(32, 6);
  expect(full(3, 8)).toBeCloseTo(63.015, 2);
  // the 31.5 Gb/s of R-Car S4 that prior art quotes: Gen4 x2
  expect(full(4, 2)).toBeCloseTo(31.5, 1);
});

test("reads are limited by completions, and both directions by what they share", () => {
  for (const t of Object.values(PRESETS)) {
    const up = payloadLimit(t, "ep_to_host");
    const down = payloadLimit(t, "host_to_ep");
    const both = payloadLimit(t, "both");
    expect(both).toBeLessThan(up + down);
    expect(both).toBeGreaterThan(0.9 * (up + down));
  }
});

test("reads: what was measured on real links lies closely under the limit", () => {
  // Microchip, PolarFire "PCIe AXI Master IF Throughput", PC to LSRAM: memory reads of the endpoint's DMA, packets of 128
  // bytes, MB/s. Of four lanes of Gen2 that document reached 59 %, its DMA's limit.
  for (const [gen, width, measured] of [
    [1, 1, 206],
    [2, 1, 411],
    [1, 2, 410],
    [2, 2, 814],
    [1, 4, 811],
  ] as const) {
    const t: LinkTiming = { ...PRESETS.imx8mp!, gen, width, mps: 128, mrrs: 128, completion: 128 };
    const share = (measured * 8) / 1000 / payloadLimit(t, "host_to_ep");
    expect(share).toBeGreaterThan(0.95);
    expect(share).toBeLessThan(1);
  }
  // Intel AN 690, "Peak Throughput", Gen3 x8, completions of 256 bytes: 6.986 GB/s
  const t: LinkTiming = { ...PRESETS.rk3588!, gen: 3, width: 8, mps: 256, mrrs: 512, completion: 256 };
  const share = (6.986 * 8) / payloadLimit(t, "host_to_ep");
  expect(share).toBeGreaterThan(0.95);
  expect(share).toBeLessThan(1);
});

test("the table of limits in docs/bench.md is what the formula gives", () => {
  const text = readFileSync(join(import.meta.dir, "../../docs/bench.md"), "utf8");
  for (const [name, t] of Object.entries(PRESETS)) {
    const [, ...cells] = new RegExp(
      `^\\| ${name}, .*?\\| ([\\d.]+) \\| ([\\d.]+) \\| ([\\d.]+) \\| ([\\d.]+) \\|$`,
      "m",
    ).exec(text)!;
    const raw = payloadLimit({ ...t, mps: 4096 }, "ep_to_host") * ((4096 + 24) / 4096);
    const limits = (["ep_to_host", "host_to_ep", "both"] as const).map((d) => payloadLimit(t, d));
    expect(cells.map(Number)).toEqual([raw, ...limits].map((x) => Number(x.toPrecision(3))));
  }
});

test("the table of parameters in docs/bench.md names all of them, with the values of the presets", () => {
  const text = readFileSync(join(import.meta.dir, "../../docs/bench.md"), "utf8");
  const snake = (name: string) => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
  const documented: Record<string, number[]> = {};
  for (const [, names, ...cells] of text.matchAll(
    /^\| (`\w+`.*?) \| ([\d, ]+) \| ([\d, ]+) \| ([\d, ]+) \| .* \|$/gm,
  )) {
    const values = cells.slice(0, 3).map((c) => c!.split(",").map(Number));
    [...names!.matchAll(/`(\w+)`/g)].forEach(([, name], i) => {
      documented[name!] = values.map((v) => v[i]!);
    });
  }
  const links = ["rk3588", "rcar-s4", "imx8mp"].map((n) => PRESETS[n]!);
  const keys = (Object.keys(links[0]!) as (keyof LinkTiming)[]).filter((k) => k !== "name");
  expect(documented).toEqual(Object.fromEntries(keys.map((k) => [snake(k), links.map((l) => l[k] as number)])));
});

test("the same seed gives the same figures of every design, another seed others", () => {
  const all = { designs: DESIGNS, sizes: [64] };
  const first = rows(all);
  expect(rows(all)).toEqual(first);
  const other = rows({ ...all, seed: 2 });
  for (const design of DESIGNS) {
    const lone = (of: readonly LinkRow[]) => of.filter((r) => r.design === design).map((r) => r.latency_steps_us);
    expect(lone(other)).not.toEqual(lone(first));
  }
}, 60_000);

const full = rows({ designs: ["epnic", "edma-per-frame", "memcpy-window"], sizes: [64, 1500] });

test("no row is over the limit of its link, and nothing stands still", () => {
  for (const r of full) {
    expect(r.share_of_limit).toBeLessThanOrEqual(1.001);
    expect(r.frames).toBeGreaterThan(10);
  }
});

test("every link is full at 1500 and 65000 bytes, with a TAP and with VDUSE, and no CPU read crosses it", () => {
  const all = rows({
    links: linksOf(Object.keys(PRESETS), {}),
    designs: ["epnic", "epnic-vduse"],
    sizes: [1500, 65000],
  });
  expect(all).toHaveLength(3 * 2 * 3 * 2);
  for (const r of all) {
    expect(r.cpu_reads_per_frame).toBe(0);
    const least = { ep_to_host: 0.95, host_to_ep: 0.9, both: 0.85 }[r.direction];
    expect([r.preset, r.design, r.direction, r.frame_bytes, r.share_of_limit >= least]).toEqual([
      r.preset,
      r.design,
      r.direction,
      r.frame_bytes,
      true,
    ]);
  }
}, 60_000);

test("small frames: at least five times what one submission a frame reaches", () => {
  for (const direction of ["ep_to_host", "host_to_ep", "both"] as const) {
    const ours = pick(full, { design: "epnic", direction, frame_bytes: 64 });
    const theirs = pick(full, { design: "edma-per-frame", direction, frame_bytes: 64 });
    expect(ours.mframes_per_s / theirs.mframes_per_s).toBeGreaterThan(5);
    expect(theirs.cpu_reads_per_frame).toBeGreaterThanOrEqual(3);
  }
});

test("a lone frame to the host takes less than two round trips, interrupt included", () => {
  expect(pick(full, { design: "epnic", direction: "ep_to_host", frame_bytes: 64 }).latency_round_trips).toBeLessThan(2);
});

test("a lone frame from the host: two and a half round trips, its bytes, six stores to registers, and less than a tenth for the rest: three in all", () => {
  for (const preset of Object.keys(PRESETS)) {
    const t = PRESETS[preset]!;
    const row = pick(rows({ links: linksOf([preset], {}) }), { direction: "host_to_ep", frame_bytes: 64 });
    const perByte = 8 / (payloadLimit({ ...t, mps: 4096 }, "ep_to_host") / (4096 / (4096 + 24)));
    // notification, request and guess with entry, request and frame: headers, then payload
    const wire = (24 + 24 + (20 + 16 + 20 + 4) + 24 + (20 + 76)) * perByte;
    const least = 2.5 * t.roundTripNs + t.hostNotifyNs + 6 * t.regWriteNs + wire;
    expect(row.latency_us!.p50 * 1000).toBeGreaterThan(least);
    expect(row.latency_us!.p50 * 1000).toBeLessThan(least + t.roundTripNs / 10);
    expect([preset, row.latency_round_trips! < 3]).toEqual([preset, true]);
  }
});

test("a lone frame's CPU time is in its latency once where all of it comes before the board's driver is told", () => {
  const least = (frameNs: number): number =>
    pick(rows({ designs: ["memcpy-window"], frameNs }), { direction: "host_to_ep" }).latency_steps_us![0]! * 1000;
  expect(Math.abs(least(1000) - least(0) - 1000)).toBeLessThan(100);
});

test("a lone frame from the host finds the payload's channel at rest, or running, however slow the board's CPU is", () => {
  for (const [turnNs, us] of [
    [60, 2.36],
    [150, 2.46],
    [300, 2.55],
  ] as const) {
    const all = rows({ turnNs, without: ["single-transfers"], sizes: [64] });
    const of = (without: Without | null) => pick(all, { without, direction: "host_to_ep" }).latency_us!.p50;
    expect([turnNs, of(null) < us, of("single-transfers") - of(null) > 0.03]).toEqual([turnNs, true, true]);
  }
});

test("neighbours of a chain's head come with it: large frames to the board", () => {
  const all = rows({ without: ["chain-span"], sizes: [65000] });
  const of = (without: Without | null) => pick(all, { without, direction: "host_to_ep" }).mframes_per_s;
  expect(of("chain-span") / of(null)).toBeLessThan(0.95);
}, 60_000);

test("notifications while the ring rests cost nothing while it does not: rates and elements a frame", () => {
  const all = rows({ without: ["notify-data"], sizes: [64, 1500] });
  for (const direction of ["ep_to_host", "host_to_ep"] as const)
    for (const frame_bytes of [64, 1500]) {
      const on = pick(all, { without: null, direction, frame_bytes });
      const off = pick(all, { without: "notify-data", direction, frame_bytes });
      expect(on.mframes_per_s / off.mframes_per_s).toBeGreaterThan(0.995);
      expect(on.elements_per_frame / off.elements_per_frame).toBeLessThan(1.01);
    }
}, 60_000);

test("every optimisation has an off switch, and the report shows what it costs to be without", () => {
  const off = rows({ without: ALL_WITHOUT, designs: ["epnic", "epnic-vduse"], sizes: [64, 1500] });
  const both = (without: Without, direction: "ep_to_host" | "host_to_ep", frame_bytes: number): [LinkRow, LinkRow] => [
    pick(off, { design: "epnic", without: null, direction, frame_bytes }),
    pick(off, { without, direction, frame_bytes }),
  ];
  for (const without of ALL_WITHOUT) expect(off.filter((r) => r.without === without)).toHaveLength(4);
  const slower = (without: Without, direction: "ep_to_host" | "host_to_ep", bytes: number, by: number): void => {
    const [on, without_] = both(without, direction, bytes);
    expect(on.mframes_per_s / without_.mframes_per_s).toBeGreaterThan(by);
  };
  /** A switch of looks is beside a host that does not tell its index, as all of them are. */
  const later = (without: Without, by: number, beside: Without | null = null): void => {
    const on = pick(off, { design: "epnic", without: beside, direction: "host_to_ep", frame_bytes: 64 });
    const without_ = pick(off, { without, direction: "host_to_ep", frame_bytes: 64 });
    expect(without_.latency_us!.p50 - on.latency_us!.p50).toBeGreaterThan(by);
  };
  slower("batching", "ep_to_host", 64, 1.2);
  slower("coalescing", "ep_to_host", 1500, 1.001);
  const calm = pick(off, { without: "notify-data", direction: "ep_to_host", frame_bytes: 1500 });
  const eager = pick(off, { without: "busy-gap", direction: "ep_to_host", frame_bytes: 1500 });
  expect(eager.elements_per_frame - calm.elements_per_frame).toBeGreaterThan(0.3);
  slower("dma-fetch", "host_to_ep", 64, 5);
  slower("header-in-place", "ep_to_host", 64, 1.5);
  for (const [without, frame_bytes, by] of [
    ["second-channel", 64, 1.2],
    ["second-channel", 1500, 1.015],
    ["equal-headers", 64, 1.2],
    ["equal-headers", 1500, 1.03],
  ] as const) {
    const on = pick(off, { design: "epnic-vduse", without: null, direction: "ep_to_host", frame_bytes });
    const without_ = pick(off, { without, direction: "ep_to_host", frame_bytes });
    expect(on.mframes_per_s / without_.mframes_per_s).toBeGreaterThan(by);
  }
  // what is for frames from the host must not hold up those to it
  for (const without of ["notify-data", "both-channels"] as const) {
    const [on, without_] = both(without, "ep_to_host", 64);
    expect(Math.abs(without_.latency_us!.p50 - on.latency_us!.p50)).toBeLessThan(0.06);
  }
  // descriptors come in larger pieces or not at all a round later: fewer or more elements, the rate within a hundredth
  for (const [without, direction, bytes] of [
    ["prefetch", "ep_to_host", 1500],
    ["look-ahead", "host_to_ep", 64],
  ] as const) {
    const [on, without_] = both(without, direction, bytes);
    expect([without, on.elements_per_frame === without_.elements_per_frame]).toEqual([without, false]);
    expect(Math.abs(without_.mframes_per_s / on.mframes_per_s - 1)).toBeLessThan(0.01);
  }
  later("guess", 0.5);
  later("notify-data", 0.1);
  later("single-transfers", 0.1);
  later("tail", 0.05, "single-transfers");
  later("short-turns", 0.03);
  later("both-channels", 0.01);
  later("several-looks", 0.2, "notify-data");
  later("idle-channel", 0.2, "notify-data");
  later("calm-looks", 0.05, "notify-data");
}, 60_000);
