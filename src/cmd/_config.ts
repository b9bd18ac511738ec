/**
 * What `run` is told: the config file (TOML) and the flags, which win, merged into one object that a valibot schema
 * checks. Every complaint names the key or the flag, the value and what was expected.
 */
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { Fault } from "../hw/fault.ts";
import { MODEL_CORES } from "./_args.ts";
import { nearest } from "./_nearest.ts";

export const DEFAULT_CONFIG = "/etc/epnic/epnic.toml";
export const MIN_QUEUE = 16;
export const MAX_QUEUE = 32768;

const between = (min: number, max: number) => {
  const expected = `an integer from ${min} to ${max}`;
  return v.pipe(v.number(expected), v.integer(expected), v.minValue(min, expected), v.maxValue(max, expected));
};
const oneOf = <const T extends readonly string[]>(values: T) => v.picklist(values, `one of ${values.join(", ")}`);
const QUEUE = `a power of two from ${MIN_QUEUE} to ${MAX_QUEUE}`;
const MAC = "a unicast MAC address such as 02:00:5e:10:00:01";
const IFNAME = "an interface name of 1 to 15 characters without blanks, slashes, colons and percent signs";
const NETNS = "the name of a network namespace (ip netns)";
const FEATURES = "default, safe, wide or a feature word in hex such as 0x130018020";

const mac = v.pipe(
  v.string(MAC),
  v.regex(/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i, MAC),
  v.check((m) => m !== "00:00:00:00:00:00", MAC),
  v.toLowerCase(),
);
const ifname = v.pipe(v.string(IFNAME), v.regex(/^(?!\.{1,2}$)[^\s/:%]{1,15}$/, IFNAME));
const netns = v.pipe(v.string(NETNS), v.regex(/^(?!\.{1,2}$)[^\s/]{1,255}$/, NETNS));

/** The file's schema; every key may be left out. */
export const ConfigSchema = v.strictObject({
  device: v.optional(v.pipe(v.string("a device name as probe prints it"), v.minLength(1, "a device name"))),
  personality: v.optional(oneOf(["auto", "modern", "legacy"]), "auto"),
  mac: v.optional(mac),
  mtu: v.optional(between(68, 65535), 1500),
  queue_size: v.optional(
    v.pipe(
      v.number(QUEUE),
      v.check((n) => Number.isInteger(n) && n >= MIN_QUEUE && n <= MAX_QUEUE && (n & (n - 1)) === 0, QUEUE),
    ),
    256,
  ),
  features: v.optional(
    v.pipe(v.string(FEATURES), v.regex(/^(default|safe|wide|0x[0-9a-f]{1,16})$/i, FEATURES)),
    "default",
  ),
  irq: v.optional(oneOf(["auto", "msix", "intx"]), "auto"),
  fetch: v.optional(oneOf(["edma", "list", "window"]), "edma"),
  strict: v.optional(v.boolean("true or false"), false),
  cpu: v.optional(between(0, 1023)),
  idle: v.optional(oneOf(["spin", "adaptive"]), "adaptive"),
  port: v.optional(
    v.strictObject({
      kind: v.optional(oneOf(["auto", "tap", "vduse"]), "auto"),
      name: v.optional(ifname, "epnic0"),
      netns: v.optional(netns),
    }),
    {},
  ),
  host: v.optional(
    v.strictObject({
      kind: v.optional(oneOf(["built-in", "vfio-user"]), "built-in"),
      tap: v.optional(ifname, "ephost0"),
      netns: v.optional(netns),
      path: v.optional(
        v.pipe(
          v.string("a socket path"),
          v.regex(/^(held:|plain:)?\//, 'an absolute socket path, "plain:" or "held:" may stand in front'),
        ),
      ),
    }),
    {},
  ),
  model: v.optional(
    v.strictObject({
      core: v.optional(oneOf(MODEL_CORES), "modern-msix"),
    }),
    {},
  ),
});
export type Config = v.InferOutput<typeof ConfigSchema>;

type Tree = { [key: string]: unknown };

/**
 * Read a config file.
 * @throws Fault E_CONFIG when it is not TOML (with the line), E_PERM or E_CONFIG when it cannot be read
 */
export function readConfig(path: string): Tree {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    const denied = code === "EACCES" || code === "EPERM";
    throw new Fault(
      denied ? "E_PERM" : "E_CONFIG",
      `the config file ${path} cannot be read: ${code}`,
      denied ? `run as root, or chmod a+r ${path}` : "name an existing file with --config",
    );
  }
  try {
    return Bun.TOML.parse(text) as Tree;
  } catch (e) {
    const why = e instanceof Error ? e.message.replace(/^TOML Parse error: /, "") : String(e);
    throw new Fault("E_CONFIG", `the config file ${path} is not TOML: line ${badLine(text)}: ${why}`);
  }
}

/** Bun tells no position: the statement after the longest beginning of the file that parses is the wrong one. */
function badLine(text: string): number {
  const lines = text.split("\n");
  let good = 0;
  for (let n = 1; n < lines.length; n++) {
    try {
      Bun.TOML.parse(lines.slice(0, n).join("\n"));
      good = n;
    } catch {
      // a statement over several lines does not parse before its last one
    }
  }
  return good + 1;
}

/** Flag of `run` -> key of the file. Flags not named here are no configuration. */
export const FLAG_KEYS: Readonly<Record<string, string>> = {
  personality: "personality",
  mac: "mac",
  mtu: "mtu",
  "queue-size": "queue_size",
  features: "features",
  irq: "irq",
  fetch: "fetch",
  strict: "strict",
  cpu: "cpu",
  idle: "idle",
  port: "port.kind",
  "port-name": "port.name",
  "port-netns": "port.netns",
  "host-tap": "host.tap",
  "host-netns": "host.netns",
  "vfio-user": "host.path",
  "model-core": "model.core",
};
const VFIO_USER = "vfio-user:";
const NUMERIC = new Set(["mtu", "queue_size", "cpu"]);

/** The keys a table may have, for suggestions. */
function keysOf(path: readonly string[]): string[] {
  let entries: Readonly<Record<string, v.GenericSchema>> = ConfigSchema.entries;
  for (const key of path) {
    const schema = entries[key] as { wrapped?: { entries?: Record<string, v.GenericSchema> } } | undefined;
    if (schema?.wrapped?.entries === undefined) return [];
    entries = schema.wrapped.entries;
  }
  return Object.keys(entries);
}

type Flags = Readonly<Record<string, unknown>>;

/**
 * --host says kind and path in one; --vfio-user says them too.
 * @returns the flags without --host, and the kind that they ask for, if any
 * @throws Fault E_USAGE for another kind, a missing path, or flags that belong to the other kind
 */
function hostFlag(flags: Flags): { others: Flags; kind?: "built-in" | "vfio-user" } {
  const { host, ...others } = flags;
  if (typeof host === "string" && host !== "built-in") {
    const path = host.startsWith(VFIO_USER) ? host.slice(VFIO_USER.length) : "";
    if (path === "") throw new Fault("E_USAGE", `--host is ${host}, expected built-in or vfio-user:PATH`);
    const other = others["vfio-user"] ?? path;
    if (other !== path) throw new Fault("E_USAGE", `--host is ${host} and --vfio-user is ${other}`, "give one of them");
    return hostFlag({ ...others, "vfio-user": path });
  }
  const path = others["vfio-user"];
  if (path === undefined) return host === undefined ? { others } : { others, kind: "built-in" };
  if (host !== undefined)
    throw new Fault("E_USAGE", `--host is built-in and --vfio-user is ${path}`, "give one of them");
  for (const flag of ["host-tap", "host-netns"]) {
    if (others[flag] !== undefined) {
      throw new Fault(
        "E_USAGE",
        `--${flag} is for the built-in host, --vfio-user ${path} is another`,
        "give one of them",
      );
    }
  }
  return { others, kind: "vfio-user" };
}

/** Flags of `run` and `bench live` that only the software controller looks at. */
const MODEL_FLAGS = ["host", "host-tap", "host-netns", "vfio-user", "model-core", "strict"];

/** @throws Fault E_USAGE for a flag of the model beside the name of a board */
export function needModel(device: string, flags: Flags): void {
  const flag = MODEL_FLAGS.find((f) => flags[f] !== undefined && flags[f] !== false);
  if (device !== "model" && flag !== undefined) {
    throw new Fault("E_USAGE", `--${flag} is for the device 'model', the device is '${device}'`, "leave it out");
  }
}

/**
 * Merge file and flags, check everything, fill in defaults.
 * @param flags values of given flags only, by flag name
 * @throws Fault E_CONFIG for a key of the file, E_USAGE for a flag: the first thing that is wrong
 */
export function resolveConfig(file: Tree, path: string, flags: Flags): Config {
  const merged = structuredClone(file);
  const fromFlag = new Map<string, string>();
  const { others, kind } = hostFlag(flags);
  if (kind !== undefined) {
    merged.host ??= {};
    if (typeof merged.host === "object") (merged.host as Tree).kind = kind;
  }
  for (const [flag, value] of Object.entries(others)) {
    const key = FLAG_KEYS[flag];
    if (key === undefined || value === undefined || value === false) continue;
    fromFlag.set(key, flag === "vfio-user" && flags["vfio-user"] === undefined ? "host" : flag);
    const [first, second] = key.split(".");
    const given = NUMERIC.has(key) && /^(\d+|0x[0-9a-f]+)$/i.test(String(value)) ? Number(value) : value;
    if (second === undefined) merged[first] = given;
    else if (merged[first] === undefined) merged[first] = { [second]: given };
    else if (typeof merged[first] === "object") (merged[first] as Tree)[second] = given;
  }
  const result = v.safeParse(ConfigSchema, merged);
  if (result.success) return result.output;
  const issue = result.issues[0];
  const key = v.getDotPath(issue) ?? "";
  const flag = fromFlag.get(key);
  // JSON has no NaN and no infinity, TOML has
  const got = typeof issue.input === "number" ? String(issue.input) : (JSON.stringify(issue.input) ?? "nothing");
  if (flag !== undefined) throw new Fault("E_USAGE", `--${flag} is ${String(issue.input)}, expected ${issue.message}`);
  if (issue.type === "strict_object") {
    const parts = key.split(".");
    if (issue.expected === "never") {
      const known = keysOf(parts.slice(0, -1));
      const guess = nearest(parts[parts.length - 1], known);
      throw new Fault(
        "E_CONFIG",
        `unknown key '${key}' in ${path}`,
        guess ? `did you mean '${guess}'?` : `the keys there are ${known.join(", ")}`,
      );
    }
    throw new Fault("E_CONFIG", `key '${key}' in ${path} is ${got}, expected a table`);
  }
  throw new Fault("E_CONFIG", `key '${key}' in ${path} is ${got}, expected ${issue.message}`);
}
