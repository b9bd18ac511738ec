import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MODEL_CORES } from "../../src/cmd/_args.ts";
import { FLAG_KEYS, needModel, readConfig, resolveConfig } from "../../src/cmd/_config.ts";
import { engineOptions } from "../../src/cmd/_engine.ts";
import { about } from "../../src/cmd/run.ts";
import { Fault } from "../../src/hw/fault.ts";
import { MODEL_CORES as CORES } from "../../src/hw/model/open-model.ts";
import { FIXTURES } from "./_cli.ts";

const resolve = (toml: string, flags: Record<string, unknown> = {}) =>
  resolveConfig(Bun.TOML.parse(toml) as Record<string, unknown>, "x.toml", flags);

function fault(fn: () => unknown): Fault {
  try {
    fn();
  } catch (e) {
    if (e instanceof Fault) return e;
    throw e;
  }
  throw new Error("accepted");
}

describe("resolveConfig", () => {
  test("nothing at all gives the defaults", () => {
    expect(resolve("")).toMatchObject({
      personality: "auto",
      mtu: 1500,
      queue_size: 256,
      port: { kind: "auto", name: "epnic0" },
      host: { kind: "built-in", tap: "ephost0" },
      model: { core: "modern-msix" },
    });
  });
  test("flags win over the file", () => {
    const c = resolve('mtu = 9000\n[port]\nname = "a"\nnetns = "n"', { mtu: "1400", "port-name": "b" });
    expect(c.mtu).toBe(1400);
    expect(c.port).toMatchObject({ name: "b", netns: "n" });
  });
  test("--host says kind and path in one", () => {
    expect(resolve("", { host: "vfio-user:/tmp/s" }).host).toMatchObject({ kind: "vfio-user", path: "/tmp/s" });
    expect(resolve("", { host: "vfio-user:plain:/tmp/s", "vfio-user": "plain:/tmp/s" }).host.path).toBe("plain:/tmp/s");
    expect(resolve("", { host: "built-in" }).host.kind).toBe("built-in");
    for (const host of ["vfio-user", "vfio-user:", "qemu"])
      expect(() => resolve("", { host })).toThrow(`--host is ${host}, expected built-in or vfio-user:PATH`);
    expect(() => resolve("", { host: "vfio-user:/a", "vfio-user": "/b" })).toThrow("--vfio-user is /b");
  });
  test("--vfio-user chooses the kind of host", () => {
    expect(resolve("", { "vfio-user": "/tmp/s" }).host).toMatchObject({ kind: "vfio-user", path: "/tmp/s" });
  });
  test.each([
    ['mtu = "big"', "key 'mtu' in x.toml is \"big\", expected an integer from 68 to 65535", undefined],
    ["mtu = 67", "key 'mtu' in x.toml is 67, expected an integer from 68 to 65535", undefined],
    ["queue_size = 300", "key 'queue_size' in x.toml is 300, expected a power of two from 16 to 32768", undefined],
    ["queue_size = 65536", "key 'queue_size' in x.toml is 65536, expected a power of two from 16 to 32768", undefined],
    ["queue_size = 8.5", "key 'queue_size' in x.toml is 8.5, expected a power of two from 16 to 32768", undefined],
    ['irq = "msi"', "key 'irq' in x.toml is \"msi\", expected one of auto, msix, intx", undefined],
    [
      'mac = "01:00:5e:00:00:01"',
      "key 'mac' in x.toml is \"01:00:5e:00:00:01\", expected a unicast MAC address",
      undefined,
    ],
    ['mac = "00:00:00:00:00:00"', "expected a unicast MAC address", undefined],
    ['features = "0x"', "expected default, safe, wide or a feature word", undefined],
    ["cpu = -1", "key 'cpu' in x.toml is -1, expected an integer from 0 to 1023", undefined],
    ["strict = 1", "key 'strict' in x.toml is 1, expected true or false", undefined],
    ["device = 1", "key 'device' in x.toml is 1, expected a device name", undefined],
    ['[port]\nname = "much-too-long-for-it"', "key 'port.name' in x.toml", undefined],
    ['[port]\nname = "a/b"', "key 'port.name' in x.toml", undefined],
    ['[port]\nkimd = "tap"', "unknown key 'port.kimd' in x.toml", "did you mean 'kind'?"],
    ["quue_size = 256", "unknown key 'quue_size' in x.toml", "did you mean 'queue_size'?"],
    ["zzz = 256", "unknown key 'zzz' in x.toml", "the keys there are device, personality"],
    ["port = 1", "key 'port' in x.toml is 1, expected a table", undefined],
    [
      '[host]\npath = "relative"',
      "key 'host.path' in x.toml is \"relative\", expected an absolute socket path",
      undefined,
    ],
  ])("refuses %j", (toml, message, hint) => {
    const f = fault(() => resolve(toml));
    expect(f.code).toBe("E_CONFIG");
    expect(f.message).toContain(message);
    if (hint !== undefined) expect(f.hint).toContain(hint);
  });
  test.each([
    [{ mtu: "70000" }, "--mtu is 70000, expected an integer from 68 to 65535"],
    [{ mtu: "abc" }, "--mtu is abc, expected an integer from 68 to 65535"],
    [{ "queue-size": "100" }, "--queue-size is 100, expected a power of two from 16 to 32768"],
    [{ mac: "zz" }, "--mac is zz, expected a unicast MAC address"],
    [{ "vfio-user": "sock" }, "--vfio-user is sock, expected an absolute socket path"],
    [{ features: "all" }, "--features is all, expected default, safe, wide or a feature word in hex"],
  ])("names the flag in %j", (flags, message) => {
    const f = fault(() => resolve("", flags));
    expect(f.code).toBe("E_USAGE");
    expect(f.message).toContain(message);
  });
  test("every configuration flag is a flag of run, and the sample file names every key", () => {
    for (const flag of Object.keys(FLAG_KEYS)) expect(Object.keys(about.args)).toContain(flag);
    const sample = Bun.TOML.parse(
      require("node:fs")
        .readFileSync(join(FIXTURES, "init/epnic.toml"), "utf8")
        .replace(/^#(?=[a-z_]+ = )/gm, ""),
    ) as Record<string, Record<string, unknown>>;
    for (const key of Object.values(FLAG_KEYS)) {
      const [a, b] = key.split(".");
      expect(b === undefined ? sample[a] : sample[a]?.[b], key).toBeDefined();
    }
    resolveConfig(sample, "sample", {});
  });
});

describe("readConfig", () => {
  const dir = mkdtempSync(join(tmpdir(), "epnic-config-"));
  const path = join(dir, "c.toml");
  test("tells the line of a syntax error", () => {
    writeFileSync(path, 'mtu = 1500\n\n[port]\nname = "a\nkind = "tap"\n');
    const f = fault(() => readConfig(path));
    expect(f.code).toBe("E_CONFIG");
    expect(f.message).toContain(`${path} is not TOML: line 4:`);
  });
  test("an absent file", () => {
    expect(fault(() => readConfig(join(dir, "none.toml"))).message).toContain("cannot be read: ENOENT");
  });
  test("done", () => rmSync(dir, { recursive: true }));
});

describe("whose host", () => {
  test("--host wins over the file, either way", () => {
    const file = '[host]\nkind = "vfio-user"\npath = "/run/s"';
    expect(resolve(file).host.kind).toBe("vfio-user");
    expect(resolve(file, { host: "built-in" }).host.kind).toBe("built-in");
    expect(resolve('[host]\ntap = "t0"', { host: "vfio-user:/a" }).host).toMatchObject({
      kind: "vfio-user",
      path: "/a",
    });
    expect(resolve("", { "vfio-user": "plain:/a" }).host).toMatchObject({ kind: "vfio-user", path: "plain:/a" });
    expect(resolve("", { host: "vfio-user:/a", "vfio-user": "/a" }).host.path).toBe("/a");
  });
  test.each([
    [{ host: "built-in", "vfio-user": "/a" }, "--host is built-in and --vfio-user is /a"],
    [{ host: "vfio-user:/a", "vfio-user": "/b" }, "--host is vfio-user:/a and --vfio-user is /b"],
    [{ "vfio-user": "/a", "host-tap": "t" }, "--host-tap is for the built-in host, --vfio-user /a is another"],
    [{ host: "vfio-user:/a", "host-netns": "n" }, "--host-netns is for the built-in host, --vfio-user /a is another"],
    [{ host: "vfio-user:rel" }, "--host is rel, expected an absolute socket path"],
    [{ host: "vfio-user:" }, "--host is vfio-user:, expected built-in or vfio-user:PATH"],
    [{ host: "qemu" }, "--host is qemu, expected built-in or vfio-user:PATH"],
  ])("%p is refused", (flags, message) => {
    const f = fault(() => resolve("", flags));
    expect(f.code).toBe("E_USAGE");
    expect(f.message).toStartWith(message);
  });
  test("a table that is none is said to be none", () => {
    expect(fault(() => resolve("host = 3", { host: "built-in" })).message).toContain("key 'host' in");
  });
  test("flags of the model are not for a board", () => {
    for (const flags of [
      { strict: true },
      { "host-tap": "t" },
      { "model-core": "legacy-intx" },
      { host: "built-in" },
    ]) {
      expect(fault(() => needModel("a4.pcie-ep", flags)).message).toEndWith("the device is 'a4.pcie-ep'");
      needModel("model", flags);
    }
    needModel("a4.pcie-ep", { strict: false, mtu: "9000" });
  });
});

test("a number that JSON does not have is told as it is", () => {
  expect(fault(() => resolve("mtu = nan")).message).toContain("is NaN, expected an integer from 68 to 65535");
});

describe("engineOptions", () => {
  test("the model has a built-in host, a board has none", () => {
    const c = resolve('[host]\ntap = "t0"');
    expect(engineOptions(c, "model", "/run/epnic", "/").host).toEqual({ kind: "built-in", tap: "t0", netns: null });
    expect(engineOptions(c, "a40000000.pcie-ep", "/r", "/").host).toBeNull();
    expect(engineOptions(c, "a40000000.pcie-ep", "/r", "/").counters).toBe("/r/a40000000.pcie-ep.counters");
  });
  test("host options of the model are refused for a board", () => {
    const c = resolve("", { "vfio-user": "/tmp/s" });
    expect(fault(() => engineOptions(c, "a.pcie-ep", "/r", "/")).code).toBe("E_USAGE");
  });
});

test("the names of the model's cores are the model's", () => {
  expect([...MODEL_CORES] as string[]).toEqual(Object.keys(CORES));
  expect(fault(() => resolve("", { "model-core": "x" })).message).toContain(
    "--model-core is x, expected one of modern-msix",
  );
});
