import { describe, expect, test } from "bun:test";
import type { ArgsDef } from "citty";
import { commonArgs, deviceOf, flagNames, integer, readCommandLine, seconds } from "../../src/cmd/_args.ts";
import { nearest } from "../../src/cmd/_nearest.ts";
import { Fault } from "../../src/hw/fault.ts";

const defs = {
  name: { type: "positional", required: false },
  interval: { type: "string", alias: "i", valueHint: "SEC" },
  irq: { type: "enum", options: ["auto", "msix", "intx"] },
  ...commonArgs,
} as const satisfies ArgsDef;

const read = (...argv: string[]) => readCommandLine(argv, defs);
function fault(...argv: string[]): Fault {
  try {
    read(...argv);
  } catch (e) {
    if (e instanceof Fault) return e;
    throw e;
  }
  throw new Error(`accepted: ${argv.join(" ")}`);
}

describe("readCommandLine", () => {
  test("makes one canonical token a flag, arguments behind --", () => {
    expect(read("-jv", "model", "-i", "1", "--irq=msix").argv).toEqual([
      "--json",
      "--verbose",
      "--interval=1",
      "--irq=msix",
      "--",
      "model",
    ]);
    expect(read("-i2").argv).toEqual(["--interval=2", "--"]);
    expect(read("-ji2").argv).toEqual(["--json", "--interval=2", "--"]);
    expect(read("-i=2").argv).toEqual(["--interval=2", "--"]);
    expect(read("--no-color").argv).toEqual(["--no-color", "--"]);
  });
  test("counts -v", () => {
    expect(read("-v").verbose).toBe(1);
    expect(read("-vv", "--verbose").verbose).toBe(3);
  });
  test("takes a negative number, but no flag, as a value", () => {
    expect(read("-i", "-1").argv).toEqual(["--interval=-1", "--"]);
    expect(fault("-i", "-j").message).toBe("-i needs a value (SEC)");
  });
  test("an empty argument is none that was left out", () => {
    expect(fault("").message).toBe("an argument is empty");
    expect(fault("--", "").message).toBe("an argument is empty");
  });
  test("after -- everything is an argument", () => {
    expect(read("--", "--json").positionals).toEqual(["--json"]);
  });
  test.each([
    [["--jsno"], "unknown flag '--jsno'", "did you mean '--json'?"],
    [["--intervall", "1"], "unknown flag '--intervall'", "did you mean '--interval'?"],
    [["-x"], "unknown flag '-x'", undefined],
    [["--no-json"], "unknown flag '--no-json'", undefined],
    [["--no-colour"], "unknown flag '--no-colour'", "did you mean '--no-color'?"],
    [["--json=1"], "--json takes no value, got '1'", undefined],
    [["--no-color=1"], "--no-color takes no value, got '1'", undefined],
    [["--interval"], "--interval needs a value (SEC)", undefined],
    [["--interval="], "--interval needs a value (SEC)", undefined],
    [["-i1", "--interval=2"], "--interval is given twice: '1' and '2'", undefined],
    [["--irq", "msx"], "--irq is 'msx', expected one of auto, msix, intx", "did you mean 'msix'?"],
    [["a", "b", "c"], "unexpected argument 'b': 3 given, 1 expected at most", undefined],
  ] as const)("refuses %p", (argv, message, hint) => {
    const f = fault(...argv);
    expect(f.code).toBe("E_USAGE");
    expect(f.message).toBe(message);
    expect(f.hint ?? undefined).toBe(hint as string | undefined);
  });
  test("lists every spelling", () => {
    expect(flagNames(defs)).toContain("--no-color");
    expect(flagNames(defs)).toContain("-i");
    expect(flagNames(defs)).not.toContain("--name");
  });
});

test("a device is named once", () => {
  expect(deviceOf({ name: "model" })).toBe("model");
  expect(deviceOf({ device: "model" })).toBe("model");
  expect(deviceOf({ name: "model", device: "model" })).toBe("model");
  expect(deviceOf({})).toBe("");
  expect(() => deviceOf({ name: "a", device: "b" })).toThrow("'a' and --device 'b'");
});

test("numbers of flags", () => {
  expect(integer("count", "12", 1, 20)).toBe(12);
  for (const bad of ["0", "21", "1.5", "", "-1", "1e1", "0x10", "x", " 1"]) {
    expect(() => integer("count", bad, 1, 20)).toThrow(`--count is '${bad}', expected an integer from 1 to 20`);
  }
  expect(seconds("interval", "0.5")).toBe(0.5);
  expect(seconds("interval", ".5")).toBe(0.5);
  for (const bad of ["0", "-1", "x", "1s", "Infinity", "99999"]) {
    expect(() => seconds("interval", bad)).toThrow(`--interval is '${bad}'`);
  }
});

test("nearest", () => {
  const names = ["probe", "bind", "run", "stat", "bench"];
  expect(nearest("sta", names)).toBe("stat");
  expect(nearest("stats", names)).toBe("stat");
  expect(nearest("rnu", names)).toBe("run");
  expect(nearest("prob", names)).toBe("probe");
  expect(nearest("BIND", names)).toBe("bind");
  expect(nearest("xyzzy", names)).toBeUndefined();
  expect(nearest("", names)).toBeUndefined();
});
