/** One of the rig's programs run by itself: signals and failures undo what it did, and its status tells. */
import { RigError } from "./apt.ts";
import { handleSignals, undoAll } from "./undo.ts";

export async function runAlone(work: () => Promise<void>): Promise<never> {
  handleSignals();
  let status = 0;
  try {
    await work();
  } catch (e) {
    console.error(e instanceof RigError ? `rig: ${e.message}` : e);
    status = 1;
  }
  await undoAll();
  process.exit(status);
}
