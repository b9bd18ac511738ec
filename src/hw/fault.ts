/**
 * The one error type of epnic. It lives in the lowest layer so that every layer can throw it; only
 * src/cmd turns it into text and an exit status. The service loop never throws: it returns negative codes.
 */

/** A code per kind of broken rule; src/cmd maps it to the exit status. */
export type FaultCode =
  /** wrong flag or argument (exit 2) */
  | "E_USAGE"
  /** unreadable or malformed configuration (exit 2) */
  | "E_CONFIG"
  /** no such device (exit 3) */
  | "E_NODEV"
  /** device busy or already bound (exit 4) */
  | "E_BUSY"
  /** a permission is missing: root, capability (exit 77) */
  | "E_PERM"
  /** a prerequisite is missing: kernel option, module, hugepages, a capability of the controller (exit 77) */
  | "E_MISSING"
  /** a rule of a virtqueue was broken by a driver */
  | "E_RING"
  /** the DMA engine reported an error or an address cannot be reached */
  | "E_DMA"
  /** the host did something the function cannot follow */
  | "E_HOST"
  /** a system call failed (the message names operation and errno) */
  | "E_SYS";

/** An error for a person: the rule that was broken with both values, and in `hint` what to do about it. */
export class Fault extends Error {
  readonly code: FaultCode;
  readonly hint: string | undefined;
  constructor(code: FaultCode, message: string, hint?: string) {
    super(message);
    this.name = "Fault";
    this.code = code;
    this.hint = hint;
  }
}
