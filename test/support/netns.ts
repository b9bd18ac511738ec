/** Namespaces and TAPs in tests: why they cannot be used here, and the ip command. */
import { accessSync, constants } from "node:fs";

/** "" when TAPs and namespaces can be made, else the reason in words. */
export function needTap(): string {
  if (process.geteuid?.() !== 0) return "skipped: needs root";
  try {
    accessSync("/dev/net/tun", constants.R_OK | constants.W_OK);
  } catch {
    return "skipped: needs /dev/net/tun (modprobe tun)";
  }
  return Bun.which("ip") === null ? "skipped: needs the ip command (apt-get install iproute2)" : "";
}

/** Run ip(8). @returns its stdout. @throws with its stderr */
export function ip(...args: string[]): string {
  const run = Bun.spawnSync(["ip", ...args]);
  if (run.exitCode !== 0) throw new Error(`ip ${args.join(" ")}: ${run.stderr}`);
  return run.stdout.toString();
}
