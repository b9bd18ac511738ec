/** Whether JavaScriptCore may compile. Without its JIT loops run about 50 times slower and bun:ffi refuses to work at all. */
import { readFileSync } from "node:fs";
import { Fault } from "../hw/fault.ts";

/** The JIT's executable pool is one writable and executable mapping; it is absent when the JIT is off. */
export function jitIsOn(maps = readFileSync("/proc/self/maps", "utf8")): boolean {
  return /^[0-9a-f]+-[0-9a-f]+ rwx/m.test(maps);
}

/** The likely reason, for the hint. */
export function jitHint(env: NodeJS.ProcessEnv = process.env): string {
  const set = Object.keys(env).find((k) => /^(BUN_JSC_|JSC_)useJIT$/.test(k));
  if (set) return `unset ${set}`;
  return "remove MemoryDenyWriteExecute=yes from the unit, or whatever else sets PR_SET_MDWE or denies executable memory";
}

/** @throws Fault E_MISSING when the JIT is off. Call it before the first import of hw/libc.ts. */
export function needJit(): void {
  if (!jitIsOn()) {
    throw new Fault(
      "E_MISSING",
      "the JIT compiler is off: this process may not map memory that is writable and executable, and bun:ffi needs that",
      jitHint(),
    );
  }
}
