/** From what a person calls a controller to the name it has here. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { Fault } from "../hw/fault.ts";
import { nearest } from "./_nearest.ts";

export const MODEL = "model";

/** Names of the endpoint controllers in sysfs, in order of name. */
export function controllerNames(sysfsRoot: string): string[] {
  try {
    return readdirSync(join(sysfsRoot, "sys/class/pci_epc")).sort();
  } catch {
    return [];
  }
}

/**
 * The controller that `named` means: its full name, or the beginning of exactly one.
 * @throws Fault E_NODEV with the nearest match, E_USAGE when the beginning fits several
 */
export function resolveDevice(named: string, sysfsRoot: string): string {
  if (named === MODEL) return MODEL;
  const found = controllerNames(sysfsRoot);
  if (found.includes(named)) return named;
  const begins = found.filter((f) => f.startsWith(named));
  if (begins.length === 1) return begins[0];
  if (begins.length > 1) {
    throw new Fault("E_USAGE", `'${named}' is the beginning of ${begins.length} controllers: ${begins.join(", ")}`);
  }
  const guess = nearest(named, [...found, MODEL]);
  throw new Fault(
    "E_NODEV",
    `there is no controller '${named}': ${found.length === 0 ? "this machine has none" : `here are ${found.join(", ")}`}`,
    guess ? `did you mean '${guess}'?` : "'epnic probe' tells why; 'model' needs no board",
  );
}
