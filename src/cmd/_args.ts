/**
 * The flags that every subcommand takes, and the strict reading of a command line. citty parses leniently (unknown
 * flags, extra arguments and missing values pass silently), so every line is checked and normalised here first.
 */
import type { ArgDef, ArgsDef } from "citty";
import { Fault } from "../hw/fault.ts";
import { nearest } from "./_nearest.ts";

/** Accepted by the root command and by every subcommand, before or after the subcommand's name. */
export const commonArgs = {
  json: { type: "boolean", alias: "j", description: "print JSON on stdout, errors included" },
  pretty: { type: "boolean", alias: "p", description: "indent the JSON" },
  verbose: { type: "boolean", alias: "v", description: "say more on stderr; twice for registers and stack traces" },
  quiet: { type: "boolean", alias: "q", description: "say nothing on stderr but errors" },
  color: {
    type: "boolean",
    default: true,
    description: "allow colour on a terminal",
    negativeDescription: "never print colour (as with NO_COLOR in the environment)",
  },
  version: { type: "boolean", alias: "V", description: "print the version and exit" },
  help: { type: "boolean", alias: "h", description: "print this text and exit" },
} as const satisfies ArgsDef;

/** How a subcommand names its controller: as its argument, or with --device, which scripts prefer. */
export const deviceArgs = {
  name: {
    type: "positional",
    required: false,
    valueHint: "DEVICE",
    description: "the controller: a name as probe prints it, or model for the built-in software controller",
  },
  device: { type: "string", alias: "d", valueHint: "DEVICE", description: "the same as the argument" },
} as const satisfies ArgsDef;

export const runDirArgs = {
  "run-dir": {
    type: "string",
    valueHint: "DIR",
    default: "/run/epnic",
    description: "directory of locks and counter pages",
  },
} as const satisfies ArgsDef;

export const sysfsArgs = {
  "sysfs-root": {
    type: "string",
    valueHint: "DIR",
    default: "/",
    description: "look for sys/, dev/ and proc/ under this directory, for captured boards",
  },
} as const satisfies ArgsDef;

/** names of hw/model/open-model.ts; repeated here because that file needs bun:ffi, which help and --check must not */
export const MODEL_CORES = ["modern-msix", "modern-intx", "legacy-msix", "legacy-intx"] as const;
export const DEFAULT_CORE = "modern-msix";

/** The controller named by the argument or by --device; "" when neither is given. @throws Fault E_USAGE when they differ */
export function deviceOf(args: { name?: string | undefined; device?: string | undefined }): string {
  const { name, device } = args;
  if (name && device && name !== device) {
    throw new Fault("E_USAGE", `two devices are named: '${name}' and --device '${device}'`, "name one device");
  }
  return name || device || "";
}

/** A checked command line. `argv` is what citty parses: one canonical token a flag, then `--` and the arguments. */
export interface CommandLine {
  argv: string[];
  /** how often -v was given */
  verbose: number;
  positionals: string[];
}

const aliasesOf = (def: ArgDef): string[] => {
  const alias = "alias" in def ? (def.alias as string | string[] | undefined) : undefined;
  return alias === undefined ? [] : Array.isArray(alias) ? alias : [alias];
};

export const takesValue = (def: ArgDef): boolean => def.type === "string" || def.type === "enum";

/** Every spelling that `defs` accepts, for suggestions and completion. */
export function flagNames(defs: ArgsDef): string[] {
  const names: string[] = [];
  for (const [name, def] of Object.entries(defs)) {
    if (def.type === "positional") continue;
    if (def.type === "boolean" && def.default === true) names.push(`--no-${name}`);
    else names.push(`--${name}`);
    for (const alias of aliasesOf(def)) names.push(alias.length === 1 ? `-${alias}` : `--${alias}`);
  }
  return names;
}

/**
 * Read a command line strictly. Flags may stand anywhere before `--`; short ones may be grouped (-jv) and may carry
 * their value (-i1).
 * @throws Fault E_USAGE for an unknown flag, a missing, empty or needless value, a value given twice, an extra argument
 */
export function readCommandLine(argv: readonly string[], defs: ArgsDef): CommandLine {
  const byName = new Map<string, [string, ArgDef]>();
  let maxPositionals = 0;
  for (const [name, def] of Object.entries(defs)) {
    if (def.type === "positional") {
      maxPositionals++;
      continue;
    }
    byName.set(`--${name}`, [name, def]);
    for (const alias of aliasesOf(def)) byName.set(alias.length === 1 ? `-${alias}` : `--${alias}`, [name, def]);
  }
  const line: CommandLine = { argv: [], verbose: 0, positionals: [] };
  const values = new Map<string, string>();
  let i = 0;

  const take = (spelled: string, attached: string | undefined): void => {
    const found = byName.get(spelled);
    if (found === undefined) {
      const off = byName.get(`--${spelled.slice(5)}`);
      if (spelled.startsWith("--no-") && off?.[1].type === "boolean" && off[1].default === true) {
        if (attached !== undefined) throw new Fault("E_USAGE", `${spelled} takes no value, got '${attached}'`);
        line.argv.push(spelled);
        return;
      }
      const guess = nearest(spelled, flagNames(defs));
      throw new Fault("E_USAGE", `unknown flag '${spelled}'`, guess && `did you mean '${guess}'?`);
    }
    const [name, def] = found;
    if (!takesValue(def)) {
      if (attached !== undefined) throw new Fault("E_USAGE", `${spelled} takes no value, got '${attached}'`);
      if (name === "verbose") line.verbose++;
      line.argv.push(`--${name}`);
      return;
    }
    let value = attached;
    if (value === undefined && i < argv.length && !/^-[^\d]/.test(argv[i])) value = argv[i++];
    if (value === undefined || value === "") {
      throw new Fault("E_USAGE", `${spelled} needs a value${def.valueHint ? ` (${def.valueHint})` : ""}`);
    }
    const before = values.get(name);
    if (before !== undefined) throw new Fault("E_USAGE", `--${name} is given twice: '${before}' and '${value}'`);
    if (def.type === "enum" && def.options && !def.options.includes(value)) {
      const guess = nearest(value, def.options);
      throw new Fault(
        "E_USAGE",
        `--${name} is '${value}', expected one of ${def.options.join(", ")}`,
        guess && `did you mean '${guess}'?`,
      );
    }
    values.set(name, value);
    line.argv.push(`--${name}=${value}`);
  };

  while (i < argv.length) {
    const token = argv[i++];
    if (token === "--") {
      line.positionals.push(...argv.slice(i));
      break;
    }
    if (token.startsWith("--")) {
      const eq = token.indexOf("=");
      if (eq < 0) take(token, undefined);
      else take(token.slice(0, eq), token.slice(eq + 1));
    } else if (token.length > 1 && token[0] === "-") {
      for (let k = 1; k < token.length; k++) {
        const spelled = `-${token[k]}`;
        const found = byName.get(spelled);
        if (found !== undefined && takesValue(found[1]) && k + 1 < token.length) {
          take(spelled, token.slice(k + 1).replace(/^=/, ""));
          break;
        }
        take(spelled, undefined);
      }
    } else line.positionals.push(token);
  }
  // a script's variable that is not set must not mean "the default"
  if (line.positionals.includes("")) throw new Fault("E_USAGE", "an argument is empty");
  if (line.positionals.length > maxPositionals) {
    throw new Fault(
      "E_USAGE",
      `unexpected argument '${line.positionals[maxPositionals]}': ${line.positionals.length} given, ${maxPositionals} expected at most`,
    );
  }
  line.argv.push("--", ...line.positionals);
  return line;
}

/** A whole number given to a flag. @throws Fault E_USAGE with the value and the range */
export function integer(flag: string, value: string, min: number, max: number): number {
  const n = /^\d+$/.test(value) ? Number(value) : Number.NaN;
  if (!(n >= min && n <= max)) {
    throw new Fault("E_USAGE", `--${flag} is '${value}', expected an integer from ${min} to ${max}`);
  }
  return n;
}

/** A time in seconds given to a flag, fractions allowed. @throws Fault E_USAGE */
export function seconds(flag: string, value: string, min = 0.01, max = 86400): number {
  const n = /^(\d+\.?\d*|\.\d+)$/.test(value) ? Number(value) : Number.NaN;
  if (!(n >= min && n <= max)) {
    throw new Fault("E_USAGE", `--${flag} is '${value}', expected seconds from ${min} to ${max}`);
  }
  return n;
}
