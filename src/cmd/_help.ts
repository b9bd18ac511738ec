/** Help text from the citty definitions: fits 80 columns, the flags common to all commands last, examples at the end. */
import type { ArgDef, ArgsDef } from "citty";
import { commonArgs, takesValue } from "./_args.ts";

/** A command line and what it does. */
export type Example = readonly [command: string, does: string];

/** What a subcommand's module tells about itself besides its citty definition. */
export interface About {
  name: string;
  summary: string;
  /** paragraphs under the usage line */
  description: readonly string[];
  examples: readonly Example[];
  args: ArgsDef;
  /** usage line after the name, where the arguments are not simply optional */
  synopsis?: string;
  /** further files for the FILES section of the man page */
  files?: readonly (readonly [path: string, what: string])[];
}

/** How a flag is written in help and man page: `-i, --interval SEC`. */
export function spelling(name: string, def: ArgDef): string {
  const alias = "alias" in def && typeof def.alias === "string" ? `-${def.alias}, ` : "";
  if (def.type === "boolean" && def.default === true) return `--no-${name}`;
  return `${alias}--${name}${takesValue(def) ? ` ${hintOf(name, def)}` : ""}`;
}

export function hintOf(name: string, def: ArgDef): string {
  if (def.type === "enum" && def.options) return def.options.join("|");
  return def.valueHint ?? name.toUpperCase();
}

/** The text behind a flag: its description, and the default where it has one. */
export function meaning(def: ArgDef): string {
  if (def.type === "boolean" && def.default === true) return def.negativeDescription ?? def.description ?? "";
  const text = def.description ?? "";
  return def.default === undefined || def.default === false ? text : `${text} (default ${def.default})`;
}

/** Break a paragraph into lines of at most `width` columns. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    if (line && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line ? `${line} ${word}` : word;
  }
  if (line) lines.push(line);
  return lines;
}

function columns(rows: readonly (readonly [string, string])[], width = 80): string {
  const left = Math.min(28, Math.max(0, ...rows.map(([l]) => l.length)));
  const out: string[] = [];
  for (const [l, r] of rows) {
    const text = wrap(r, width - left - 4);
    if (l.length > left) out.push(`  ${l}`);
    else out.push(`  ${l.padEnd(left)}  ${text.shift() ?? ""}`.trimEnd());
    for (const t of text) out.push(`  ${"".padEnd(left)}  ${t}`);
  }
  return out.join("\n");
}

/** The arguments of `about` without the common flags: positionals, then flags. */
export function ownArgs(about: About): { positionals: [string, ArgDef][]; flags: [string, ArgDef][] } {
  const all = Object.entries(about.args).filter(([name]) => !(name in commonArgs));
  return {
    positionals: all.filter(([, d]) => d.type === "positional"),
    flags: all.filter(([, d]) => d.type !== "positional"),
  };
}

export function synopsis(about: About): string {
  if (about.synopsis !== undefined) return `epnic ${about.name} ${about.synopsis}`;
  const { positionals } = ownArgs(about);
  return `epnic ${about.name} [FLAGS]${positionals.map(([n, d]) => ` [${hintOf(n, d)}]`).join("")}`;
}

export function commandHelp(about: About): string {
  const { positionals, flags } = ownArgs(about);
  const common = Object.entries(commonArgs) as [string, ArgDef][];
  const rows = (defs: [string, ArgDef][]): [string, string][] => defs.map(([n, d]) => [spelling(n, d), meaning(d)]);
  const parts = [`Usage: ${synopsis(about)}`, ...about.description.map((p) => wrap(p, 78).join("\n"))];
  if (positionals.length > 0) {
    parts.push(`Arguments:\n${columns(positionals.map(([n, d]) => [hintOf(n, d), d.description ?? ""]))}`);
  }
  if (flags.length > 0) parts.push(`Flags:\n${columns(rows(flags))}`);
  parts.push(`Common flags:\n${columns(rows(common))}`);
  parts.push(exampleText(about.examples));
  return parts.join("\n\n");
}

export const exampleText = (examples: readonly Example[]): string =>
  `Examples:\n${examples.map(([c, does]) => `  ${c}\n      ${does}`).join("\n")}`;

export function rootHelp(commands: readonly (readonly [string, string])[], examples: readonly Example[]): string {
  return [
    "Usage: epnic [FLAGS] COMMAND [FLAGS] [DEVICE]",
    wrap(
      "Makes a PCIe endpoint board a stock virtio-net card for the host it is plugged into: pairs the virtqueues of " +
        "both sides and lets the endpoint's own DMA engine carry the frames.",
      78,
    ).join("\n"),
    `Commands:\n${columns(commands)}`,
    `Common flags, before or after the command:\n${columns(
      (Object.entries(commonArgs) as [string, ArgDef][]).map(([n, d]) => [spelling(n, d), meaning(d)]),
    )}`,
    exampleText(examples),
    "'epnic COMMAND --help' and epnic(8) tell more.",
  ].join("\n\n");
}
