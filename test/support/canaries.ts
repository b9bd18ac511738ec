/**
 * Was there a garbage collection? heapSize() and objectCount of bun:jsc count what a collection has found alive, so garbage
 * never shows in them. But garbage brings collections about, and one of those clears weak references to young dead
 * objects. With BUN_JSC_gcMaxHeapSize=N in the environment of a process, a collection comes after every N bytes of allocation.
 */
const COUNT = 64;

const make = (): WeakRef<object>[] => Array.from({ length: COUNT }, (_, i) => new WeakRef({ i }));
const count = (refs: readonly WeakRef<object>[]): number => refs.filter((r) => r.deref() === undefined).length;

export class Canaries {
  private refs: WeakRef<object>[] = [];

  /** From here to the end of this macrotask a collection shows. */
  async arm(): Promise<void> {
    // Between two macrotasks a timer of the collector may run: then begin again. What deref() was asked for is kept alive
    // to the end of the job, so those that tell this are others.
    let others: WeakRef<object>[] = [];
    do {
      Bun.gc(true);
      this.refs = make();
      others = make();
      await new Promise((resolve) => setImmediate(resolve));
    } while (count(others) > 0);
  }

  /** How many are dead. None: nothing was collected. */
  get dead(): number {
    return count(this.refs);
  }
}

/** Run a program in a process in which a collection comes after every 200 KB. @returns the JSON lines that it prints */
export async function underCollector<T>(program: URL): Promise<T[]> {
  const child = Bun.spawn([process.execPath, program.pathname], {
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, BUN_JSC_gcMaxHeapSize: "200000" },
  });
  const [out, said] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0) throw new Error(`${program.pathname}: status ${child.exitCode}: ${said}`);
  return out
    .trim()
    .split("\n")
    .map((l) => JSON.parse(l) as T);
}
