/**
 * Things to undo when a scenario ends, fails or is interrupted: processes, files. Children also die with the rig
 * (parent death signal), and namespaces and TAPs live only as long as the processes in them, so that even SIGKILL
 * of the rig leaves nothing behind but the files of its run folder.
 */
import type { Subprocess } from "bun";

type Undo = () => void | Promise<void>;

const stack: { what: string; undo: Undo }[] = [];
let interrupted = false;

/** Register something; the returned function undoes it now and forgets it. */
export function undoLater(what: string, undo: Undo): () => Promise<void> {
  const entry = { what, undo };
  stack.push(entry);
  return async () => {
    const i = stack.indexOf(entry);
    if (i < 0) return;
    stack.splice(i, 1);
    await undo();
  };
}

/** Undo everything, youngest first; a failure is told and does not stop the rest. */
export async function undoAll(): Promise<void> {
  for (let e = stack.pop(); e !== undefined; e = stack.pop()) {
    try {
      await e.undo();
    } catch (err) {
      console.error(`rig: could not undo ${e.what}: ${(err as Error).message}`);
    }
  }
}

/** Ask a process to end, then make it. */
export async function stop(child: Subprocess, graceMs = 2000): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  const done = await Promise.race([child.exited.then(() => true), Bun.sleep(graceMs).then(() => false)]);
  if (!done) {
    child.kill("SIGKILL");
    await child.exited;
  }
}

/** Prefix of every child: it is killed when the rig dies, however that happens. */
export const dieWithRig = ["setpriv", "--pdeathsig", "KILL"];

/** SIGINT, SIGTERM and SIGHUP end the rig, cleanly. */
export function handleSignals(): void {
  for (const [name, status] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const)
    process.on(name, () => {
      if (interrupted) return;
      interrupted = true;
      console.error(`rig: ${name}, cleaning up`);
      undoAll().then(() => process.exit(status));
    });
}
