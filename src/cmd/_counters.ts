/** A counter snapshot as JSON, as a line of rates and as Prometheus text exposition. */
import { COUNTERS, type CounterDef, type CounterSnapshot } from "../engine/counters.ts";

const iso = (ms: number): string => new Date(ms).toISOString();

/** Seconds between two snapshots, by the clock of the run that wrote them. */
const span = (s: CounterSnapshot, before: CounterSnapshot): number =>
  Math.max(1e-3, (s.updatedMs - before.updatedMs) / 1000);

/** Increase a second of every counter. */
function rates(s: CounterSnapshot, before: CounterSnapshot): Record<string, number> {
  const dt = span(s, before);
  return Object.fromEntries(
    Object.entries(s.counters).map(([k, n]) => [k, Math.round(((n - (before.counters[k] ?? 0)) / dt) * 1000) / 1000]),
  );
}

/** The object `stat --json` prints; keys are part of the contract. */
export function snapshotJson(s: CounterSnapshot, before: CounterSnapshot | null, device: string): object {
  return {
    version: 1,
    device,
    pid: s.pid,
    stale: s.stale,
    started: iso(s.startedMs),
    updated: iso(s.updatedMs),
    state: s.state,
    counters: s.counters,
    ...(before === null ? {} : { interval_s: span(s, before), per_second: rates(s, before) }),
  };
}

const COLUMNS: readonly (readonly [head: string, width: number, of: (r: Record<string, number>) => number])[] = [
  ["to-host/s", 10, (r) => r.to_host_frames],
  ["mbit/s", 9, (r) => (r.to_host_bytes * 8) / 1e6],
  ["drop/s", 7, (r) => r.to_host_dropped],
  ["to-board/s", 11, (r) => r.to_board_frames],
  ["mbit/s", 9, (r) => (r.to_board_bytes * 8) / 1e6],
  ["drop/s", 7, (r) => r.to_board_dropped],
  ["irq/s", 8, (r) => r.host_interrupts],
  ["batch", 6, (r) => (r.to_host_frames + r.to_board_frames) / Math.max(1, r.to_host_bursts + r.to_board_bursts)],
];

/** One line of rates, with the header above every twentieth. @param line how many lines came before */
export function rateLine(s: CounterSnapshot, before: CounterSnapshot, line: number): string {
  const r = rates(s, before);
  const cells = COLUMNS.map(([, width, of]) => {
    const n = of(r) || 0;
    return (n >= 100 || Number.isInteger(n) ? n.toFixed(0) : n.toFixed(1)).padStart(width);
  }).join(" ");
  if (line % 20 !== 0) return cells;
  return `${COLUMNS.map(([head, width]) => head.toUpperCase().padStart(width)).join(" ")}\n${cells}`;
}

/** The family of a counter: its name without the direction, which is a label. */
function familyOf(c: CounterDef): string {
  const direction = c.labels?.direction;
  return direction && c.name.startsWith(`${direction}_`) ? c.name.slice(direction.length + 1) : c.name;
}

const quote = (v: unknown): string =>
  `"${String(v).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`;
const labels = (l: Readonly<Record<string, unknown>>): string =>
  `{${Object.entries(l)
    .map(([k, v]) => `${k.replace(/[^a-zA-Z0-9_]/g, "_")}=${quote(v)}`)
    .join(",")}}`;

const UP_HELP = "1 while the run is alive";

/** The exposition when no run is there to tell more. @param device "" when not known */
export function promDown(device: string): string {
  const of = device === "" ? "" : labels({ device });
  return `# HELP epnic_up ${UP_HELP}\n# TYPE epnic_up gauge\nepnic_up${of} 0\n`;
}

/** Text exposition format 0.0.4: every sample of a family together, HELP and TYPE before them. */
export function promText(s: CounterSnapshot, device: string): string {
  const lines: string[] = [];
  const family = (name: string, type: string, help: string, samples: readonly (readonly [object, number])[]): void => {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
    for (const [l, value] of samples) lines.push(`${name}${labels({ device, ...l })} ${value}`);
  };
  family("epnic_up", "gauge", UP_HELP, [[{}, s.stale ? 0 : 1]]);
  family("epnic_start_time_seconds", "gauge", "When the run began, in seconds since 1970", [[{}, s.startedMs / 1000]]);
  family("epnic_update_time_seconds", "gauge", "When the run last wrote its counters", [[{}, s.updatedMs / 1000]]);
  const { device: _, ...state } = s.state;
  family("epnic_info", "gauge", "State of the run in labels", [[state, 1]]);
  const families = new Map<string, CounterDef[]>();
  for (const c of COUNTERS) {
    if (!(c.name in s.counters)) continue;
    const name = familyOf(c);
    const members = families.get(name);
    if (members === undefined) families.set(name, [c]);
    else members.push(c);
  }
  for (const [name, members] of families) {
    const help = [...new Set(members.map((c) => c.help))].join("; ");
    family(
      `epnic_${name}_total`,
      "counter",
      `${help} (${members[0].unit})`,
      members.map((c) => [c.labels ?? {}, s.counters[c.name]]),
    );
  }
  return `${lines.join("\n")}\n`;
}

/** How old a snapshot is, for people. */
export function age(s: CounterSnapshot): string {
  const sec = Math.max(0, Math.round((Date.now() - s.updatedMs) / 1000));
  return sec < 120 ? `${sec} s` : sec < 7200 ? `${Math.round(sec / 60)} min` : `${Math.round(sec / 3600)} h`;
}
