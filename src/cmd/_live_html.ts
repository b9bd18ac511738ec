/**
 * A live report as one self-contained HTML page: rates against the frame size, round trips against their percentile
 * (both axes that span decades are logarithmic), and the table. It loads nothing from anywhere.
 */
import type { LiveRow } from "../engine/bench/live.ts";
import { type LiveReport, liveTable } from "./_bench_live.ts";

const escapeHtml = (s: string): string =>
  s.replace(/[&<>"]/g, (c) => (c === "&" ? "&amp;" : c === "<" ? "&lt;" : c === ">" ? "&gt;" : "&quot;"));

const WIDTH = 640;
const HEIGHT = 320;
const PAD = { left: 64, right: 16, top: 16, bottom: 40 };
const HUES = [212, 20, 140, 280, 50, 330];

interface Series {
  name: string;
  /** place on the x axis (number of a tick), and the value, above 0 */
  points: readonly (readonly [x: number, y: number])[];
}

interface Chart {
  title: string;
  unit: string;
  below: string;
  /** texts of the x axis, evenly spaced */
  ticks: readonly string[];
  series: readonly Series[];
}

/** Lines over even ticks, decades upwards. */
function svg(c: Chart): string {
  const values = c.series.flatMap((s) => s.points.map(([, y]) => y));
  if (values.length === 0) return "";
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const last = Math.max(1, c.ticks.length - 1);
  const x = (i: number): string => (PAD.left + 16 + (i / last) * (WIDTH - PAD.left - PAD.right - 32)).toFixed(1);
  const y = (v: number): string =>
    (HEIGHT - PAD.bottom - ((Math.log10(v) - low) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom)).toFixed(1);
  const parts: string[] = [];
  for (let d = low; d <= high; d++) {
    const v = 10 ** d;
    parts.push(
      `<line class="grid" x1="${PAD.left}" x2="${WIDTH - PAD.right}" y1="${y(v)}" y2="${y(v)}"/>`,
      `<text x="${PAD.left - 6}" y="${y(v)}" dy="4" text-anchor="end">${Number(v.toPrecision(1))}</text>`,
    );
  }
  c.ticks.forEach((t, i) => {
    parts.push(`<text x="${x(i)}" y="${HEIGHT - PAD.bottom + 16}" text-anchor="middle">${escapeHtml(t)}</text>`);
  });
  parts.push(
    `<text x="${WIDTH / 2}" y="${HEIGHT - 6}" text-anchor="middle">${escapeHtml(c.below)}</text>`,
    `<text transform="translate(14 ${HEIGHT / 2}) rotate(-90)" text-anchor="middle">${escapeHtml(c.unit)}</text>`,
  );
  c.series.forEach((s, i) => {
    const color = `hsl(${HUES[i % HUES.length]} 70% 45%)`;
    const points = s.points.map(([px, v]) => `${x(px)},${y(v)}`).join(" ");
    parts.push(`<polyline points="${points}" stroke="${color}"/>`);
    for (const [px, v] of s.points) {
      const text = `${s.name}, ${c.ticks[px]}: ${v.toPrecision(3)} ${c.unit}`;
      parts.push(
        `<circle cx="${x(px)}" cy="${y(v)}" r="3" fill="${color}"><title>${escapeHtml(text)}</title></circle>`,
      );
    }
    const top = PAD.top + 14 + i * 16;
    parts.push(`<text x="${PAD.left + 12}" y="${top}" style="fill:${color}">${escapeHtml(s.name)}</text>`);
  });
  return `<figure><figcaption>${escapeHtml(c.title)}</figcaption><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeHtml(c.title)}">${parts.join("")}</svg></figure>`;
}

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
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>epnic bench live</title>
<style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
figure{margin:1.5rem 0;max-width:${WIDTH}px}figcaption{font-weight:600}
svg text{font:12px system-ui,sans-serif;fill:currentColor}
svg polyline{fill:none;stroke-width:2}.grid{stroke:currentColor;opacity:.15}
pre{overflow-x:auto}
</style></head><body>
<h1>epnic bench live: ${escapeHtml(String(r.options.device))}</h1>
<p>${escapeHtml(machine!.slice(2))}, ${escapeHtml(r.started)}</p>
${r.rows.length > 0 ? charts.map(svg).join("\n") : "<p>no rows</p>"}
<pre>${escapeHtml(table.join("\n"))}</pre>
<script type="application/json" id="report">${JSON.stringify(r).replaceAll("<", "\\u003c")}</script>
</body></html>
`;
}
