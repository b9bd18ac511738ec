/**
 * Rows of `bench cpu`, each measured by a child of ourselves: in one process the rows behind the first would find code
 * that was compiled for several data paths, which no card has (engine/bench.ts).
 */
import type { BenchCase, BenchOptions, BenchResult } from "../engine/bench.ts";
import { Fault } from "../hw/fault.ts";
import { selfCommand } from "../hw/self.ts";
import { report } from "./_fault.ts";
import type { Interrupt } from "./_interrupt.ts";
import { Out } from "./_out.ts";

/** the hidden argument: `epnic __bench_row JSON` */
const ROW_ARGUMENT = "__bench_row";

interface Job {
  readonly row: BenchCase;
  readonly options: BenchOptions;
  /** CPU to pin to */
  readonly cpu: number | null;
  /** core_calm_ns of the row before */
  readonly calm: number | null;
}

/** What the child runs: one row on stdout, or the reason on stderr. @returns exit status */
export async function rowMain(args: readonly string[]): Promise<number> {
  try {
    const { row, options, cpu, calm } = JSON.parse(args[0] ?? "") as Job;
    const { measureRow } = await import("../engine/bench.ts");
    if (cpu !== null) (await import("../hw/affinity.ts")).pinTo(cpu);
    process.stdout.write(JSON.stringify(measureRow(row, options, calm)));
    return 0;
  } catch (e) {
    return report(e, new Out({ json: false, pretty: false, verbose: 0, quiet: false, color: true }), "epnic bench");
  }
}

/**
 * Measure a row in a child. @param calm core_calm_ns of the row before, null: it is the first
 * @returns the row, or the child's exit status: it has said what is wrong, or was ended by `interrupt`
 * @throws Fault E_SYS when somebody else ended the child
 */
export async function measureApart(
  row: BenchCase,
  options: BenchOptions,
  cpu: number | null,
  calm: number | null,
  interrupt: Interrupt,
): Promise<BenchResult | number> {
  const job: Job = { row, options, cpu, calm };
  const child = Bun.spawn([...selfCommand(), ROW_ARGUMENT, JSON.stringify(job)], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  interrupt.onStop = () => child.kill();
  const text = await new Response(child.stdout).text();
  const status = await child.exited;
  if (status === 0) return JSON.parse(text) as BenchResult;
  if (child.signalCode !== null && !interrupt.stop)
    throw new Fault(
      "E_SYS",
      `the process that measured ${row.direction}, ${row.frameBytes} bytes, was ended by ${child.signalCode}`,
    );
  return status;
}
