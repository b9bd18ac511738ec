/** A link report as one page: share of the limit and rate against the frame size per design, latency of lone frames. */
import type { Direction, LinkRow } from "../engine/bench/link.ts";
import { type LinkReport, linkTable } from "./_bench_link.ts";
import { type Chart, chartPage, type Series } from "./_chart.ts";

const WAYS: Record<Direction, string> = {
  ep_to_host: "board to host",
  host_to_ep: "host to board",
  both: "both directions",
};

function bySize(rows: readonly LinkRow[], of: (r: LinkRow) => number): { ticks: string[]; series: Series[] } {
  const sizes = [...new Set(rows.map((r) => r.frame_bytes))].sort((a, b) => a - b);
  const series = [...new Set(rows.map((r) => r.design))].map((name) => ({
    name,
    points: rows
      .filter((r) => r.design === name && of(r) > 0)
      .sort((a, b) => a.frame_bytes - b.frame_bytes)
      .map((r) => [sizes.indexOf(r.frame_bytes), of(r)] as const),
  }));
  return { ticks: sizes.map(String), series };
}

function chartsOf(rows: readonly LinkRow[], preset: string, direction: Direction): Chart[] {
  const mine = rows.filter((r) => r.preset === preset && r.direction === direction);
  const full = mine.filter((r) => r.without === null);
  if (full.length === 0) return [];
  const where = `${preset}, ${WAYS[direction]}`;
  const out: Chart[] = [
    {
      title: `${where}: share of what the link can carry`,
      unit: "share",
      below: "bytes a frame",
      linear: true,
      ...bySize(full, (r) => r.share_of_limit),
    },
    {
      title: `${where}: frames`,
      unit: "million a second",
      below: "bytes a frame",
      ...bySize(full, (r) => r.mframes_per_s),
    },
  ];
  const least = Math.min(...full.map((r) => r.frame_bytes));
  const lone = mine.filter((r) => r.frame_bytes === least && r.latency_steps_us !== null);
  if (lone.length > 0)
    out.push({
      title: `${where}: a lone frame of ${least} bytes`,
      unit: "us",
      below: "percentile",
      ticks: Array.from({ length: 21 }, (_, i) => (i % 2 === 0 ? String(i * 5) : "")),
      series: lone
        .filter((r) => r.without === null || r.without === "guess" || r.without === "several-looks")
        .map((r) => ({
          name: r.without === null ? r.design : `epnic without ${r.without}`,
          points: (r.latency_steps_us as number[]).map((us, i) => [i, us] as const),
        })),
    });
  return out;
}

/** The page; it loads nothing from anywhere. */
export function linkHtml(r: LinkReport): string {
  const [machine, ...table] = linkTable(r).split("\n");
  const presets = [...new Set(r.rows.map((x) => x.preset))];
  const charts = presets.flatMap((p) => (Object.keys(WAYS) as Direction[]).flatMap((d) => chartsOf(r.rows, p, d)));
  return chartPage("epnic bench link", `${machine!.slice(2)}, ${r.started}`, charts, table.join("\n"), r);
}
