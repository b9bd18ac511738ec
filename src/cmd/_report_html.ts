/** A bench report as one self-contained HTML page: curves over the frame size as inline SVG, and the table. */
import { type Chart, chartSvg } from "./_chart.ts";
import type { BenchReport, BenchRow } from "./_report.ts";
import { machineLine, reportTable } from "./_report.ts";

const escapeHtml = (s: string): string =>
  s.replace(/[&<>"]/g, (c) => (c === "&" ? "&amp;" : c === "<" ? "&lt;" : c === ">" ? "&gt;" : "&quot;"));

const WIDTH = 640;
const HEIGHT = 320;
const PAD = { left: 64, right: 16, top: 16, bottom: 40 };
const HUES = [212, 20, 140, 280, 50, 330];

/** 1, 2, 5 steps that cover 0..max with at most six lines */
function ticks(max: number): number[] {
  const raw = max / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw) ?? 10 * unit;
  const out: number[] = [];
  for (let t = 0; t <= max + step * 0.999; t += step) out.push(Number(t.toPrecision(6)));
  return out;
}

interface Plot {
  title: string;
  unit: string;
  of: (r: BenchRow) => { min: number; median: number; max: number };
}

const PLOTS: readonly Plot[] = [
  { title: "CPU time of the engine a frame", unit: "ns/frame", of: (r) => r.ns_per_frame },
  { title: "Data rate", unit: "Gb/s", of: (r) => r.gbps },
];

/** What one curve is of: the direction, the batch when there are several, and what was left out. */
function seriesName(r: BenchRow, rows: readonly BenchRow[]): string {
  const batch = rows.some((x) => x.batch !== r.batch) && r.batch !== null ? `, batch ${r.batch}` : "";
  return `${r.direction}${batch}${r.without === null ? "" : ` without ${r.without}`}`;
}

function svg(rows: readonly BenchRow[], plot: Plot): string {
  const sizes = [...new Set(rows.map((r) => r.frame_bytes))].sort((a, b) => a - b);
  const yTicks = ticks(Math.max(...rows.map((r) => plot.of(r).max)));
  const top = yTicks[yTicks.length - 1];
  const [lo, hi] = [Math.log2(sizes[0]), Math.log2(sizes[sizes.length - 1])];
  const x = (bytes: number): number =>
    hi === lo
      ? (PAD.left + WIDTH - PAD.right) / 2
      : PAD.left + ((Math.log2(bytes) - lo) / (hi - lo)) * (WIDTH - PAD.left - PAD.right);
  const y = (n: number): number => HEIGHT - PAD.bottom - (n / top) * (HEIGHT - PAD.top - PAD.bottom);
  const at = (n: number): string => n.toFixed(1);
  const parts: string[] = [];
  for (const t of yTicks) {
    parts.push(
      `<line class="grid" x1="${PAD.left}" x2="${WIDTH - PAD.right}" y1="${at(y(t))}" y2="${at(y(t))}"/>`,
      `<text x="${PAD.left - 6}" y="${at(y(t) + 4)}" text-anchor="end">${t}</text>`,
    );
  }
  for (const s of sizes) {
    parts.push(`<text x="${at(x(s))}" y="${HEIGHT - PAD.bottom + 16}" text-anchor="middle">${s}</text>`);
  }
  parts.push(`<text x="${WIDTH / 2}" y="${HEIGHT - 6}" text-anchor="middle">bytes a frame</text>`);
  parts.push(
    `<text transform="translate(14 ${HEIGHT / 2}) rotate(-90)" text-anchor="middle">${escapeHtml(plot.unit)}</text>`,
  );
  [...new Set(rows.map((r) => seriesName(r, rows)))].forEach((name, i) => {
    const color = `hsl(${HUES[i % HUES.length]} 70% 45%)`;
    const series = rows.filter((r) => seriesName(r, rows) === name).sort((a, b) => a.frame_bytes - b.frame_bytes);
    const points = series.map((r) => `${at(x(r.frame_bytes))},${at(y(plot.of(r).median))}`).join(" ");
    parts.push(`<polyline points="${points}" stroke="${color}"/>`);
    for (const r of series) {
      const s = plot.of(r);
      const px = at(x(r.frame_bytes));
      parts.push(
        `<line x1="${px}" x2="${px}" y1="${at(y(s.min))}" y2="${at(y(s.max))}" stroke="${color}"/>`,
        `<circle cx="${px}" cy="${at(y(s.median))}" r="3" fill="${color}"><title>${escapeHtml(name)}, ${r.frame_bytes} B: ${s.median.toPrecision(4)} ${escapeHtml(plot.unit)}</title></circle>`,
      );
    }
    parts.push(
      `<text x="${PAD.left + 12}" y="${PAD.top + 14 + i * 16}" style="fill:${color}">${escapeHtml(name)}</text>`,
    );
  });
  return `<figure><figcaption>${escapeHtml(plot.title)}</figcaption><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeHtml(plot.title)}">${parts.join("")}</svg></figure>`;
}

const QUANTILES = ["least", "10", "25", "50", "75", "90", "99", "99.9", "greatest"];

/** How long blocks of the least and the greatest frames took, spread over their frames. */
function blockTimes(r: BenchReport): Chart[] {
  const sizes = [...new Set(r.rows.map((x) => x.frame_bytes))].sort((a, b) => a - b);
  return [...new Set([sizes[0], sizes[sizes.length - 1]])].map((bytes) => {
    const rows = r.rows.filter((x) => x.frame_bytes === bytes && x.block_steps_ns !== null && x.block_frames !== null);
    return {
      title: `Distribution of block times, ${bytes} bytes a frame`,
      unit: "ns/frame",
      below: "percentile",
      ticks: QUANTILES,
      series: rows.map((x) => ({
        name: seriesName(x, r.rows),
        points: (x.block_steps_ns ?? []).map((ns, i) => [i, Math.max(ns / (x.block_frames ?? 1), 0.1)] as const),
      })),
    };
  });
}

/** The page; it loads nothing from anywhere. */
export function reportHtml(r: BenchReport): string {
  const charts =
    r.rows.length > 0
      ? [...PLOTS.map((p) => svg(r.rows, p)), ...blockTimes(r).map(chartSvg)].join("\n")
      : "<p>no rows</p>";
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>epnic bench ${escapeHtml(r.mode)}</title>
<style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
figure{margin:1.5rem 0;max-width:${WIDTH}px}figcaption{font-weight:600}
svg text{font:12px system-ui,sans-serif;fill:currentColor}
svg polyline{fill:none;stroke-width:2}.grid{stroke:currentColor;opacity:.15}
pre{overflow-x:auto}
</style></head><body>
<h1>epnic bench ${escapeHtml(r.mode)}</h1>
<p>${escapeHtml(machineLine(r).slice(2))}, ${escapeHtml(r.started)}</p>
${charts}
<pre>${escapeHtml(reportTable(r).split("\n").slice(1).join("\n"))}</pre>
<script type="application/json" id="report">${JSON.stringify(r).replaceAll("<", "\\u003c")}</script>
</body></html>
`;
}
