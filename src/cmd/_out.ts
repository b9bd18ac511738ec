/**
 * What a command says and where: the answer on stdout as text, table or JSON, everything else on stderr through
 * consola. No colour unless stderr is a terminal and NO_COLOR is unset; syslog prefixes when systemd reads stderr.
 */
import { fstatSync, writeSync } from "node:fs";
import Table from "cli-table3";
import { type ConsolaInstance, type ConsolaReporter, createConsola, type LogObject } from "consola";

export interface OutOptions {
  json: boolean;
  pretty: boolean;
  verbose: number;
  quiet: boolean;
  /** false with --no-color */
  color: boolean;
}

export type Cell = string | number | boolean | null | undefined;

/** systemd sets JOURNAL_STREAM to device:inode of the stream it gave us; it is ours only if stderr still is that stream. */
function stderrIsJournal(): boolean {
  const want = process.env.JOURNAL_STREAM;
  if (!want) return false;
  try {
    const st = fstatSync(2);
    return want === `${st.dev}:${st.ino}`;
  } catch {
    return false;
  }
}

/** Nobody reads stdout any more (EPIPE). No failure: what was begun is closed in order, and the status stays. */
export class ReaderGone extends Error {}

/** how long a log line waits for a reader that does not read */
const LOG_PATIENCE_MS = 1000;

/**
 * Write all of `text`, also to a pipe that is full or non-blocking.
 * @param patienceMs how long a full pipe is tried again
 * @throws ReaderGone for EPIPE, else the error of write(2)
 */
function writeAll(fd: number, text: string, patienceMs = Number.POSITIVE_INFINITY): void {
  let rest = Buffer.from(text);
  for (let waited = 0; rest.length > 0; ) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (e) {
      const code = (e as NodeJS.ErrnoException).code;
      if (code === "EPIPE") throw new ReaderGone("nobody reads the output");
      if (code !== "EAGAIN" || waited++ >= patienceMs) throw e;
      Bun.sleepSync(1);
    }
  }
}

let logIsStuck = false;

/** A line for the log. A log that nobody takes must neither end the card nor hold it up: lines are lost then. */
function say(text: string): void {
  try {
    writeAll(2, text, logIsStuck ? 0 : LOG_PATIENCE_MS);
    logIsStuck = false;
  } catch {
    // there is nowhere to tell it, and no second wait for a reader that did not come
    logIsStuck = true;
  }
}

const RED = 31;
const YELLOW = 33;
const GREY = 90;

/** One line a message on stderr: `epnic: warning: ...`, or `<4>...` for the journal (sd-daemon(3)). */
function reporter(color: boolean, journal: boolean): ConsolaReporter {
  const paint = (text: string, sgr: number): string => (color ? `\u001b[${sgr}m${text}\u001b[0m` : text);
  return {
    log(entry: LogObject) {
      const text = entry.args.map(String).join(" ");
      let prefix: string;
      if (journal) prefix = `<${entry.level <= 0 ? 3 : entry.level === 1 ? 4 : entry.level <= 3 ? 6 : 7}>`;
      else if (entry.level <= 0) prefix = `epnic: ${paint("error:", RED)} `;
      else if (entry.level === 1) prefix = `epnic: ${paint("warning:", YELLOW)} `;
      else prefix = entry.level > 3 ? `epnic: ${paint("debug:", GREY)} ` : "epnic: ";
      const lines = text.split("\n");
      say(`${lines.map((l, i) => (i === 0 || journal ? prefix : "  ") + l).join("\n")}\n`);
    },
  };
}

export class Out {
  readonly options: OutOptions;
  readonly log: ConsolaInstance;

  constructor(options: OutOptions) {
    this.options = options;
    const color =
      options.color && process.stderr.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
    this.log = createConsola({
      level: options.quiet ? 0 : 3 + options.verbose,
      stdout: process.stderr,
      stderr: process.stderr,
      reporters: [reporter(color, stderrIsJournal())],
    });
  }

  /** One line, or several, of the answer. @throws ReaderGone */
  print(text: string): void {
    writeAll(1, `${text}\n`);
  }

  /** The answer as one JSON object; one line unless --pretty. */
  json(value: object): void {
    this.print(this.options.pretty ? JSON.stringify(value, null, 2) : JSON.stringify(value));
  }

  /** `name: value` lines in the manner of ethtool -S. */
  pairs(record: Record<string, Cell>): void {
    this.print(
      Object.entries(record)
        .map(([k, v]) => `${k}: ${cell(v)}`)
        .join("\n"),
    );
  }

  table(head: readonly string[], rows: readonly (readonly Cell[])[]): void {
    this.print(tableText(head, rows));
  }
}

const cell = (v: Cell): string => (v === null || v === undefined || v === "" ? "-" : String(v));

/**
 * A table without boxes: header in upper case, two spaces between columns, `-` for what is absent. Columns that hold
 * nothing but numbers are aligned to the right.
 */
export function tableText(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const isNumber = (v: Cell): boolean => typeof v === "number" || /^-?[\d.]+$/.test(cell(v)) || cell(v) === "-";
  const right = head.map((_, i) => rows.length > 0 && rows.every((r) => isNumber(r[i])));
  const none = Object.fromEntries(
    "top top-mid top-left top-right bottom bottom-mid bottom-left bottom-right left left-mid mid mid-mid right right-mid"
      .split(" ")
      .map((k) => [k, ""]),
  );
  const table = new Table({
    head: head.map((h) => h.toUpperCase()),
    chars: { ...none, middle: "  " },
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
    colAligns: right.map((r) => (r ? "right" : "left")),
  });
  for (const r of rows) table.push(head.map((_, i) => cell(r[i])));
  return table
    .toString()
    .split("\n")
    .map((l) => l.trimEnd())
    .join("\n");
}
