/**
 * Line charts as inline SVG and the page around them: self-contained, loads nothing from anywhere. The x axis has even
 * ticks, the y axis decades, or 0 to the least round number above all values.
 */
export const escapeHtml = (s: string): string =>
  s.replace(/[&<>"]/g, (c) => (c === "&" ? "&amp;" : c === "<" ? "&lt;" : c === ">" ? "&gt;" : "&quot;"));

const WIDTH = 640;
const HEIGHT = 320;
const PAD = { left: 64, right: 16, top: 16, bottom: 40 };
const HUES = [212, 20, 140, 280, 50, 330, 180, 95, 0];

export interface Series {
  name: string;
  /** place on the x axis (number of a tick), and the value, above 0 */
  points: readonly (readonly [x: number, y: number])[];
}

export interface Chart {
  title: string;
  unit: string;
  below: string;
  /** texts of the x axis, evenly spaced */
  ticks: readonly string[];
  series: readonly Series[];
  /** y axis from 0 instead of decades */
  linear?: boolean;
}

/** 1, 2 or 5 times a power of ten, not below `v`. */
function roundUp(v: number): number {
  const unit = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 5, 10].map((k) => k * unit).find((k) => k >= v * 0.999) ?? 10 * unit;
}

/** One chart as a figure. */
export function chartSvg(c: Chart): string {
  const values = c.series.flatMap((s) => s.points.map(([, y]) => y));
  if (values.length === 0) return "";
  const linear = c.linear === true;
  const low = linear ? 0 : Math.floor(Math.log10(Math.min(...values)));
  const high = linear ? roundUp(Math.max(...values)) : Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const scale = (v: number): number => ((linear ? v : Math.log10(v)) - low) / (high - low);
  const lines = linear ? [0, 1, 2, 3, 4, 5].map((k) => (k * high) / 5) : [];
  for (let d = low; !linear && d <= high; d++) lines.push(10 ** d);
  const last = Math.max(1, c.ticks.length - 1);
  const x = (i: number): string => (PAD.left + 16 + (i / last) * (WIDTH - PAD.left - PAD.right - 32)).toFixed(1);
  const y = (v: number): string => (HEIGHT - PAD.bottom - scale(v) * (HEIGHT - PAD.top - PAD.bottom)).toFixed(1);
  const parts: string[] = [];
  for (const v of lines) {
    parts.push(
      `<line class="grid" x1="${PAD.left}" x2="${WIDTH - PAD.right}" y1="${y(v)}" y2="${y(v)}"/>`,
      `<text x="${PAD.left - 6}" y="${y(v)}" dy="4" text-anchor="end">${Number(v.toPrecision(2))}</text>`,
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

/** The page: charts, the table as text, and the report itself for whoever wants to compute with it. */
export function chartPage(
  title: string,
  subtitle: string,
  charts: readonly Chart[],
  table: string,
  report: unknown,
): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escapeHtml(title)}</title>
<style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
figure{margin:1.5rem 0;max-width:${WIDTH}px}figcaption{font-weight:600}
svg text{font:12px system-ui,sans-serif;fill:currentColor}
svg polyline{fill:none;stroke-width:2}.grid{stroke:currentColor;opacity:.15}
pre{overflow-x:auto}
</style></head><body>
<h1>${escapeHtml(title)}</h1>
<p>${escapeHtml(subtitle)}</p>
${charts.length > 0 ? charts.map(chartSvg).join("\n") : "<p>no rows</p>"}
<pre>${escapeHtml(table)}</pre>
<script type="application/json" id="report">${JSON.stringify(report).replaceAll("<", "\\u003c")}</script>
</body></html>
`;
}
