import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, readlinkSync } from "node:fs";
import { Fault } from "../../src/hw/fault.ts";
import { mapAnonymous, unmap, view } from "../../src/hw/mem.ts";
import { inNetns } from "../../src/hw/netns.ts";
import { TAP_AGAIN, Tap, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 } from "../../src/hw/tap.ts";
import { ip, needTap } from "../support/netns.ts";

const NS = "h1tap";
const why = needTap();
if (why !== "") console.log(`tap.test.ts: ${why}`);

function faultOf(fn: () => void): Fault {
  try {
    fn();
  } catch (e) {
    if (e instanceof Fault) return e;
    throw e;
  }
  throw new Error("no Fault was thrown");
}

describe.skipIf(why !== "")("TAP", () => {
  const buf = mapAnonymous(1 << 17);
  const bytes = new Uint8Array(view(buf, 1 << 17));
  beforeAll(() => void ip("netns", "add", NS));
  afterAll(() => {
    ip("netns", "del", NS);
    unmap(buf, 1 << 17);
  });

  test("inNetns comes back, also after an error, and missing namespaces are named", () => {
    const here = readlinkSync("/proc/thread-self/ns/net");
    expect(inNetns(NS, () => readlinkSync("/proc/thread-self/ns/net"))).not.toBe(here);
    expect(readlinkSync("/proc/thread-self/ns/net")).toBe(here);
    expect(() =>
      inNetns(NS, () => {
        throw new Error("inside");
      }),
    ).toThrow("inside");
    expect(readlinkSync("/proc/thread-self/ns/net")).toBe(here);
    const f = faultOf(() => inNetns("h1none", () => 0));
    expect([f.code, f.hint]).toEqual(["E_MISSING", "ip netns add h1none"]);
    expect(faultOf(() => inNetns("../x", () => 0)).code).toBe("E_CONFIG");
    expect(readlinkSync("/proc/thread-self/ns/net")).toBe(here);
  });

  test("is made in its namespace with MAC, MTU, flags and carrier", () => {
    const tap = new Tap("h1t%d", NS);
    expect(tap.name).toBe("h1t0");
    tap.setMac("02:11:22:33:44:55");
    tap.setMtu(9000);
    tap.setUp(true);
    const show = () => JSON.parse(ip("-n", NS, "-j", "link", "show", "dev", tap.name))[0];
    expect([show().address, show().mtu, show().flags.includes("UP")]).toEqual(["02:11:22:33:44:55", 9000, true]);
    expect(tap.mac()).toBe("02:11:22:33:44:55");
    tap.setCarrier(false);
    expect(show().flags).toContain("NO-CARRIER");
    tap.setCarrier(true);
    expect(show().flags).toContain("LOWER_UP");
    tap.setUp(false);
    expect(show().flags).not.toContain("UP");
    expect(readFileSync("/proc/net/dev", "utf8")).not.toContain("h1t0");
    tap.close();
    expect(ip("-n", NS, "-j", "link", "show")).not.toContain("h1t0");
  });

  test("names: taken, too long, bad", () => {
    const a = new Tap("h1busy", NS);
    const f = faultOf(() => new Tap("h1busy", NS));
    expect([f.code, f.message]).toEqual(["E_BUSY", "the name h1busy is taken by another netdev"]);
    expect(faultOf(() => new Tap("lo", NS)).code).toBe("E_BUSY");
    expect(faultOf(() => new Tap("sixteen-letters-", NS)).code).toBe("E_CONFIG");
    expect(faultOf(() => new Tap("", NS)).code).toBe("E_CONFIG");
    expect(faultOf(() => new Tap("h1x", "h1none")).code).toBe("E_MISSING");
    expect(faultOf(() => a.setMac("01:00:00:00:00:00")).code).toBe("E_CONFIG");
    a.close();
  });

  test("without CAP_NET_ADMIN the error says so", () => {
    const code = `
      import { Tap } from "${import.meta.dir}/../../src/hw/tap.ts";
      import { libc } from "${import.meta.dir}/../../src/hw/libc.ts";
      libc.prctl(24, 12, 0, 0, 0);
      process.setuid(65534);
      try { new Tap("h1perm"); } catch (e) { console.log(e.code, e.message); }`;
    const run = Bun.spawnSync([process.execPath, "-e", code], { cwd: "/tmp" });
    expect(run.stdout.toString() + run.stderr.toString()).toStartWith("E_PERM ");
  });

  test("frames: what is written arrives in the namespace, what the stack sends is read, empty is TAP_AGAIN", () => {
    const tap = new Tap("h1io", NS);
    tap.setHeader(12);
    tap.setOffload(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6);
    tap.setOffload(0);
    bytes.fill(0, 0, 12 + 60);
    expect(tap.write(buf, 12 + 60)).toBeLessThan(0); // -EIO: not up
    ip("-n", NS, "addr", "add", "10.99.1.1/24", "dev", "h1io");
    tap.setUp(true);
    const mac = tap
      .mac()
      .split(":")
      .map((x) => Number.parseInt(x, 16));
    // ARP request who-has 10.99.1.1 tell 10.99.1.2
    const arp = [
      ...[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 6],
      ...[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 99, 1, 2, 0, 0, 0, 0, 0, 0, 10, 99, 1, 1],
    ];
    bytes.set(arp, 12);
    expect(tap.write(buf, 12 + arp.length)).toBe(12 + arp.length);
    let reply: Uint8Array | null = null;
    for (let i = 0; i < 200 && reply === null; i++) {
      const n = tap.read(buf + 65536, 65536);
      if (n === TAP_AGAIN) Bun.sleepSync(1);
      else {
        expect(n).toBeGreaterThan(12);
        const f = bytes.slice(65536 + 12, 65536 + n);
        if (f[12] === 8 && f[13] === 6) reply = f;
      }
    }
    expect([...reply!.subarray(0, 12)]).toEqual([2, 0, 0, 0, 0, 9, ...mac]);
    expect([...reply!.subarray(20, 32)]).toEqual([0, 2, ...mac, 10, 99, 1, 1]);
    for (let i = 0; i < 50; i++) tap.read(buf, 65536);
    expect(tap.read(buf, 65536)).toBe(TAP_AGAIN);
    tap.close();
  });
});
