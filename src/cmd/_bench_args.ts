/** Which of bench's flags each measurement looks at, and where its reports go: both are looked at before it begins. */
import { accessSync, constants, existsSync, statSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { Fault } from "../hw/fault.ts";
import { commonArgs } from "./_args.ts";
import { linkArgs } from "./_link_args.ts";
import { liveArgs } from "./_live_args.ts";
import type { Out } from "./_out.ts";

const SHARED = ["device", "sizes", "all", "cpu", "output", "html"];
export const FLAGS_OF = {
  cpu: [...SHARED, "runs", "frames", "warmup", "repeats", "shape", "batch", "ablation"],
  link: [...SHARED.filter((f) => f !== "cpu"), ...Object.keys(linkArgs)],
  live: [...SHARED, "runs", ...Object.keys(liveArgs)],
  "--compare": ["compare"],
} as const satisfies Record<string, readonly string[]>;

/**
 * Refuse what the measurement would not look at.
 * @param rawArgs one canonical token a flag, as readCommandLine() makes them
 * @throws Fault E_USAGE
 */
export function needOwnFlags(what: keyof typeof FLAGS_OF, rawArgs: readonly string[]): void {
  for (const token of rawArgs.slice(0, rawArgs.indexOf("--"))) {
    const flag = token.slice(2).replace(/=.*$/s, "").replace(/^no-/, "");
    if (flag in commonArgs || (FLAGS_OF[what] as readonly string[]).includes(flag)) continue;
    const users = Object.entries(FLAGS_OF).filter(([, flags]) => (flags as readonly string[]).includes(flag));
    throw new Fault("E_USAGE", `--${flag} is for bench ${users.map(([n]) => n).join(" and ")}, this is bench ${what}`);
  }
}

/** Where reports go. */
export interface Outputs {
  output?: string | undefined;
  html?: string | undefined;
}

/** @throws Fault for a file that cannot be written: said before minutes of measuring, not after */
export function needWritable(files: Outputs): void {
  if (files.output !== undefined && files.html !== undefined && resolve(files.output) === resolve(files.html)) {
    throw new Fault("E_USAGE", `--output and --html are both '${files.output}'`, "name two files");
  }
  for (const [flag, path] of [
    ["output", files.output],
    ["html", files.html],
  ] as const) {
    if (path === undefined) continue;
    if (path === "-")
      throw new Fault("E_USAGE", `--${flag} is '-', expected a file`, "--json prints the report on stdout");
    try {
      const there = existsSync(path);
      accessSync(there ? path : dirname(path), constants.W_OK);
      if (statSync(there ? path : dirname(path)).isDirectory() === there) {
        throw Object.assign(new Error(), { code: there ? "EISDIR" : "ENOTDIR" });
      }
    } catch (e) {
      throw unwritable(flag, path, e);
    }
  }
}

function unwritable(flag: string, path: string, e: unknown): Fault {
  const code = (e as NodeJS.ErrnoException).code ?? String(e);
  const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
  return new Fault(denied ? "E_PERM" : "E_SYS", `--${flag} ${path} cannot be written: ${code}`, "name another file");
}

/**
 * Write what was asked for and print the answer: that is printed also when a file could not be written after all, since
 * it took minutes to measure.
 * @throws Fault naming the file
 */
export function publish(out: Out, files: Outputs, report: object, text: () => string, html: () => string): void {
  let failed: Fault | null = null;
  for (const [flag, path, content] of [
    ["output", files.output, () => `${JSON.stringify(report, null, 2)}\n`],
    ["html", files.html, html],
  ] as const) {
    if (path === undefined) continue;
    try {
      writeFileSync(path, content());
    } catch (e) {
      failed ??= unwritable(flag, path, e);
    }
  }
  if (out.options.json) out.json(report);
  else out.print(text());
  if (failed !== null) throw failed;
}
