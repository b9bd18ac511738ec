/** From an error to what a person, a script and the shell get to see of it. */
import { Fault, type FaultCode } from "../hw/fault.ts";
import type { Out } from "./_out.ts";

/** Exit status of each kind of error; documented in every man page under EXIT STATUS. */
export const EXIT_STATUS: Readonly<Record<FaultCode, number>> = {
  E_USAGE: 2,
  E_CONFIG: 2,
  E_NODEV: 3,
  E_BUSY: 4,
  E_PERM: 77,
  E_MISSING: 77,
  E_RING: 1,
  E_DMA: 1,
  E_HOST: 1,
  E_SYS: 1,
};

export const EXIT_STATUS_TEXT: readonly (readonly [number, string])[] = [
  [0, "done; run: stopped cleanly, also by SIGINT or SIGTERM"],
  [1, "the operation failed"],
  [2, "wrong flag, argument or configuration"],
  [3, "no such device, or no run that could be asked"],
  [4, "the device is busy or already bound"],
  [77, "a permission or a prerequisite is missing (root, kernel option, memory, capability of the controller)"],
  [130, "ended by SIGINT; run: only by a second signal, without draining"],
  [143, "ended by SIGTERM; run: only by a second signal, without draining"],
];

const SYSTEM_CODES: Readonly<Record<string, FaultCode>> = { EACCES: "E_PERM", EPERM: "E_PERM", EBUSY: "E_BUSY" };

/** Any thrown value as a Fault; system errors of node:fs keep their errno name and path in the text. */
export function toFault(e: unknown): Fault {
  if (e instanceof Fault) return e;
  const err = e instanceof Error ? e : new Error(String(e));
  const { code, syscall, path } = err as NodeJS.ErrnoException;
  if (code !== undefined && syscall !== undefined) {
    const fault = SYSTEM_CODES[code] ?? "E_SYS";
    return new Fault(
      fault,
      `${syscall}${path ? ` ${path}` : ""} failed: ${code}`,
      fault === "E_PERM" ? "run as root" : undefined,
    );
  }
  return new Fault("E_SYS", err.message || err.name);
}

/**
 * Tell what went wrong: text on stderr, with --json also one object on stdout.
 * @returns the exit status
 */
export function report(e: unknown, out: Out, command: string): number {
  const fault = toFault(e);
  const hint = fault.hint ?? (fault.code === "E_USAGE" ? `try '${command} --help'` : undefined);
  const text = [fault.message];
  if (hint) text.push(`hint: ${hint}`);
  if (fault.code === "E_USAGE" && fault.hint) text.push(`try '${command} --help'`);
  if (out.options.verbose > 1 && e instanceof Error && e.stack) text.push(e.stack.replace(/^[^\n]*\n/, ""));
  out.log.error(text.join("\n"));
  if (out.options.json) {
    try {
      out.json({ error: { code: fault.code, message: fault.message, ...(hint ? { hint } : {}) } });
    } catch {
      // stdout is full or closed, which may be what went wrong
    }
  }
  return EXIT_STATUS[fault.code];
}
