/**
 * A live report as one self-contained HTML page: rates against the frame size, round trips against their percentile
 * (both axes that span decades are logarithmic), and the table. It loads nothing from anywhere.
 */
import type { LiveRow } from "../engine/bench/live.ts";
import { type LiveReport, liveTable } from "./_bench_live.ts";
import { type Chart, chartPage, type Series } from "./_chart.ts";

/** One curve a case and direction over the sizes. */
function rates(rows: readonly LiveRow[], title: string, unit: string, what: "mpps" | "gbps"): Chart {
  const sizes = [...new Set(rows.map((r) => r.frame_bytes))].sort((a, b) => a - b);
  const curve = (name: string, kind: LiveRow["case"], of: (r: LiveRow) => number): Series => ({
    name,
    points: rows
      .filter((r) => r.case === kind && of(r) > 0)
      .sort((a, b) => a.frame_bytes - b.frame_bytes)
      .map((r) => [sizes.indexOf(r.frame_bytes), of(r)] as const),
  });
  return {
    title,
    unit,
    below: "bytes a frame",
    ticks: sizes.map(String),
    series: [
      curve("to the host, nothing back", "to_host", (r) => r[`${what}_to_host`].median),
      curve("both: to the host", "both", (r) => r[`${what}_to_host`].median),
      curve("both: from the host", "both", (r) => r[`${what}_from_host`].median),
    ],
  };
}

const PERCENTILES = ["min", "p10", "p50", "p90", "p99", "p999", "max"] as const;

function roundTrips(rows: readonly LiveRow[]): Chart {
  return {
    title: "Round trip of an echo",
    unit: "us",
    below: "percentile",
    ticks: ["least", "10", "50", "90", "99", "99.9", "greatest"],
    series: rows.flatMap((r) =>
      r.rtt_us === null
        ? []
        : [
            {
              name: `${r.frame_bytes} B, ${r.window} under way`,
              points: PERCENTILES.map((p, i) => [i, (r.rtt_us as NonNullable<LiveRow["rtt_us"]>)[p]] as const),
            },
          ],
    ),
  };
}

export function liveHtml(r: LiveReport): string {
  const [machine, ...table] = liveTable(r).split("\n");
  const charts = [
    rates(r.rows, "Frames", "million a second", "mpps"),
    rates(r.rows, "Data", "Gb/s", "gbps"),
    roundTrips(r.rows),
  ];
  return chartPage(
    `epnic bench live: ${String(r.options.device)}`,
    `${machine!.slice(2)}, ${r.started}`,
    r.rows.length > 0 ? charts : [],
    table.join("\n"),
    r,
  );
}
