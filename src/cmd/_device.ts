/** From what a person calls a controller to the name it has here. */
import { Fault } from "../hw/fault.ts";
import { findController, listControllers, type SysfsController } from "../hw/sysfs.ts";
import { nearest } from "./_nearest.ts";

export const MODEL = "model";

/**
 * The controller that `named` means: its full name, a PCI address without domain, or the beginning of exactly one name.
 * @returns null for the model
 * @throws Fault E_NODEV with the nearest match, E_USAGE when the beginning fits several
 */
export function resolveDevice(named: string, sysfsRoot: string): SysfsController | null {
  if (named === MODEL) return null;
  const exact = findController(named, sysfsRoot);
  if (exact !== null) return exact;
  const found = listControllers(sysfsRoot);
  const begins = found.filter((c) => c.name.startsWith(named));
  const names = (list: readonly SysfsController[]): string => list.map((c) => c.name).join(", ");
  if (begins.length === 1) return begins[0];
  if (begins.length > 1) {
    throw new Fault("E_USAGE", `'${named}' is the beginning of ${begins.length} controllers: ${names(begins)}`);
  }
  const guess = nearest(named, [...found.map((c) => c.name), MODEL]);
  throw new Fault(
    "E_NODEV",
    `there is no controller '${named}': ${found.length === 0 ? "this machine has none" : `here are ${names(found)}`}`,
    guess ? `did you mean '${guess}'?` : "'epnic probe' tells why; 'model' needs no board",
  );
}
