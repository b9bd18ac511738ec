/**
 * The `epnic` command: finds the subcommand, reads its command line strictly, runs it and turns errors into text
 * and an exit status. Subcommands are loaded only when they are called, so start-up stays flat.
 */
import { type CommandDef, runCommand } from "citty";
import pkg from "../package.json" with { type: "json" };
import { commonArgs, flagNames, readCommandLine } from "./cmd/_args.ts";
import { report } from "./cmd/_fault.ts";
import { type About, commandHelp, type Example, rootHelp } from "./cmd/_help.ts";
import { nearest } from "./cmd/_nearest.ts";
import { Out, ReaderGone } from "./cmd/_out.ts";
import { Fault } from "./hw/fault.ts";

interface Command {
  // biome-ignore lint/suspicious/noExplicitAny: citty's argument type differs from command to command
  default: CommandDef<any>;
  about: About;
}

export const COMMANDS: Readonly<Record<string, { summary: string; load: () => Promise<Command> }>> = {
  probe: { summary: "list controllers, what they can do and what is missing", load: () => import("./cmd/probe.ts") },
  bind: { summary: "give a controller to epnic, or back to the kernel", load: () => import("./cmd/bind.ts") },
  run: { summary: "be the network card, in the foreground", load: () => import("./cmd/run.ts") },
  stat: { summary: "print the counters of a run", load: () => import("./cmd/stat.ts") },
  bench: { summary: "measure, report and compare", load: () => import("./cmd/bench.ts") },
};

const EXAMPLES: readonly Example[] = [
  ["epnic probe", "what is here, and what is missing"],
  ["epnic run model --host-netns host --port-netns board", "both ends on this machine, no board needed"],
  ["epnic stat -i 1", "frames and bytes per second of the run"],
];

/** Where the subcommand stands; root flags take no values, so it is the first word that is no flag. */
const commandIndex = (argv: readonly string[]): number => argv.findIndex((a) => a === "-" || !a.startsWith("-"));

/** Whether a common flag was given, read leniently: needed before, and even if, the line turns out to be wrong. */
function given(argv: readonly string[], long: string, short: string): boolean {
  const end = argv.indexOf("--");
  return argv
    .slice(0, end < 0 ? argv.length : end)
    .some((a) => a === `--${long}` || (/^-[a-zA-Z]+$/.test(a) && a.includes(short)));
}

function printVersion(out: Out): number {
  // replaced by a constant when a binary is built (.ci/build.ts)
  const commit = process.env.EPNIC_COMMIT || null;
  if (out.options.json) out.json({ version: 1, epnic: pkg.version, commit, bun: Bun.version, arch: process.arch });
  else out.print(`epnic ${pkg.version}${commit === null ? "" : ` (${commit})`}`);
  return 0;
}

/** @returns the exit status */
export async function main(argv: readonly string[]): Promise<number> {
  // children of ourselves (hw/vdpa.ts, cmd/_bench_row.ts), not commands
  if (argv[0] === "__vdpa") return (await import("./hw/vdpa.ts")).vdpaMain(argv.slice(1));
  if (argv[0] === "__bench_row") return (await import("./cmd/_bench_row.ts")).rowMain(argv.slice(1));
  let out = new Out({
    json: given(argv, "json", "j"),
    pretty: given(argv, "pretty", "p"),
    verbose: given(argv, "verbose", "v") ? 1 : 0,
    quiet: given(argv, "quiet", "q"),
    color: !argv.includes("--no-color"),
  });
  let called = "epnic";
  try {
    const at = commandIndex(argv);
    if (at < 0) {
      const root = readCommandLine(argv, commonArgs).argv;
      if (root.includes("--version")) return printVersion(out);
      const help = rootHelp(
        Object.entries(COMMANDS).map(([n, c]) => [n, c.summary]),
        EXAMPLES,
      );
      if (root.includes("--help")) {
        out.print(help);
        return 0;
      }
      throw new Fault("E_USAGE", "no command is given", `one of ${Object.keys(COMMANDS).join(", ")}`);
    }
    const name = argv[at];
    // as vdpa(8), devlink(8) and nvme(1) have it
    if (name === "help" || name === "version") return main([...argv.slice(0, at), ...argv.slice(at + 1), `--${name}`]);
    const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
    if (command === undefined) {
      const guess = nearest(name, [...Object.keys(COMMANDS), ...flagNames(commonArgs)]);
      throw new Fault("E_USAGE", `unknown command '${name}'`, guess && `did you mean '${guess}'?`);
    }
    called = `epnic ${name}`;
    const { default: def, about } = await command.load();
    const line = readCommandLine([...argv.slice(0, at), ...argv.slice(at + 1)], about.args);
    if (line.argv.includes("--help")) {
      out.print(commandHelp(about));
      return 0;
    }
    if (line.argv.includes("--version")) return printVersion(out);
    const has = (flag: string): boolean => line.argv.indexOf(flag) >= 0;
    out = new Out({
      json: has("--json"),
      pretty: has("--pretty"),
      verbose: line.verbose,
      quiet: has("--quiet"),
      color: !has("--no-color"),
    });
    const { result } = await runCommand(def, { rawArgs: line.argv, data: out });
    return typeof result === "number" ? result : 0;
  } catch (e) {
    return e instanceof ReaderGone ? 0 : report(e, out, called);
  }
}

if (import.meta.main) process.exitCode = await main(process.argv.slice(2));
