/** This very program, to be started again as a child with a hidden argument (main.ts). */
import { join } from "node:path";

/** What comes before the arguments: a compiled binary is its own script, from sources the interpreter needs main.ts. */
export function selfCommand(): string[] {
  const compiled = import.meta.path.startsWith("/$bunfs/");
  return [process.execPath, ...(compiled ? [] : [join(import.meta.dir, "../main.ts")])];
}
