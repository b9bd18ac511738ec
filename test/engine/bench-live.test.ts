import { afterEach, describe, expect, test } from "bun:test";
import { type LiveOptions, type LiveRow, measureLive } from "../../src/engine/bench/live.ts";
import { Fault } from "../../src/hw/fault.ts";
import { ip, needTap } from "../support/netns.ts";

const NS = `h12live${process.pid % 1000}`;
const TAP = "h12live0";
const why = needTap();
if (why !== "") console.log(`bench live: ${why}`);

const undo: (() => void)[] = [];
afterEach(() => {
  for (const f of undo.splice(0).reverse()) f();
});

const inside = (...cmd: string[]): string => ip("netns", "exec", NS, ...cmd);

function namespace(): void {
  ip("netns", "add", NS);
  undo.push(() => ip("netns", "del", NS));
  // nothing but what the test sends
  inside("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
}

/** one figure of the namespace's kernel: "Icmp", "InEchos" */
function snmp(table: string, name: string): number {
  const [head, values] = inside("cat", "/proc/net/snmp")
    .split("\n")
    .filter((l) => l.startsWith(`${table}:`))
    .map((l) => l.split(" "));
  return Number(values![head!.indexOf(name)]);
}

async function measure(
  more: Partial<LiveOptions>,
  stop = { stop: false },
  look: (row: LiveRow) => void = () => {},
): Promise<{ rows: LiveRow[]; log: string[] }> {
  const log: string[] = [];
  const say = (m: string): void => void log.push(m);
  const rows: LiveRow[] = [];
  const options: LiveOptions = {
    device: "model",
    sysfsRoot: "/",
    modelCore: "modern-msix",
    host: { kind: "built-in", tap: TAP, netns: NS },
    idle: "adaptive",
    address: "198.18.0.1",
    peer: "198.18.0.2",
    sizes: [60, 1514],
    seconds: 0.2,
    runs: 1,
    window: 32,
    wait: 10,
    personality: "auto",
    mac: null,
    mtu: 1500,
    queueSize: 256,
    features: "default",
    irq: "auto",
    fetch: "edma",
    ...more,
  };
  for await (const row of measureLive(options, { info: say, warn: say, error: say }, stop)) {
    rows.push(row);
    look(row);
  }
  return { rows, log };
}

async function fault(work: Promise<unknown>): Promise<Fault> {
  try {
    await work;
  } catch (e) {
    if (e instanceof Fault) return e;
    throw e;
  }
  throw new Error("no Fault came");
}

describe.skipIf(why !== "")("bench live on the model, a TAP in a namespace", () => {
  for (const modelCore of ["modern-msix", "legacy-intx"] as const)
    test(`${modelCore}: the namespace's kernel answers every echo, and gets every frame`, async () => {
      namespace();
      let answered = 0;
      let got = 0;
      const sizes = modelCore === "modern-msix" ? [60, 1514] : [1000];
      const { rows } = await measure({ modelCore, sizes }, undefined, () => {
        answered = snmp("Icmp", "OutEchoReps");
        got = Number(JSON.parse(inside("ip", "-s", "-j", "link", "show", "dev", TAP))[0].stats64.rx.packets);
      });
      expect(rows.map((r) => [r.case, r.frame_bytes, r.window])).toEqual(
        sizes.flatMap((n) => [
          ["round_trip", n, 1],
          ["to_host", n, null],
          ["both", n, 32],
        ]),
      );
      for (const r of rows) {
        expect([r.lost, r.wrong, r.dropped]).toEqual([0, 0, 0]);
        expect(r.frames_to_host).toBeGreaterThan(10);
        expect(r.cpu_ns_per_frame.median).toBeGreaterThan(0);
        expect(r.seconds).toBeLessThan(5);
        // bytes counted are those of frames, without virtio's header; an ARP answer of 60 bytes may be among them
        const mean = (r.gbps_to_host.median * 1000) / 8 / r.mpps_to_host.median;
        expect(mean).toBeLessThanOrEqual(r.frame_bytes + 0.001);
        expect(mean).toBeGreaterThan(r.frame_bytes * 0.95);
        if (r.case === "to_host") expect(r.rtt_us).toBeNull();
        else {
          expect(r.rtt_us!.min).toBeGreaterThan(0);
          expect(r.rtt_us!.p50).toBeLessThanOrEqual(r.rtt_us!.p99);
          expect(r.rtt_us!.p99).toBeLessThanOrEqual(r.rtt_us!.max);
          expect(Math.abs(r.frames_from_host - r.frames_to_host)).toBeLessThanOrEqual(33);
        }
      }
      // the kernel's own account of what was measured (it has the warm-up too)
      const echoes = rows.filter((r) => r.case !== "to_host").reduce((n, r) => n + r.frames_from_host, 0);
      expect(answered).toBeGreaterThanOrEqual(echoes - rows.length);
      expect(got).toBeGreaterThanOrEqual(rows.reduce((n, r) => n + r.frames_to_host, 0));
      // nothing is left of the host
      expect(inside("ip", "-o", "link")).not.toContain(TAP);
    }, 30_000);

  test("a host that answers no echo: lost ones are counted, the measurement ends all the same", async () => {
    namespace();
    inside("sh", "-c", "echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all");
    const { rows } = await measure({ sizes: [60], seconds: 1.5 });
    const [trip, flood, both] = rows as [LiveRow, LiveRow, LiveRow];
    expect(trip.rtt_us).toBeNull();
    expect(trip.lost).toBeGreaterThan(0);
    expect(trip.lost).toBeLessThan(10);
    expect(flood.lost).toBe(0);
    expect(both.lost % 32).toBe(0);
    expect(both.lost).toBeGreaterThan(0);
  }, 30_000);

  test("frames above 1500 bytes: the built-in host takes the MTU, and one that does not is told", async () => {
    namespace();
    const { rows } = await measure({ sizes: [9014], mtu: 9000, seconds: 0.1 });
    expect(rows.map((r) => [r.case, r.lost, r.wrong, r.dropped])).toEqual([
      ["round_trip", 0, 0, 0],
      ["to_host", 0, 0, 0],
      ["both", 0, 0, 0],
    ]);
    expect(Math.abs(rows[0]!.frames_from_host - rows[0]!.frames_to_host)).toBeLessThanOrEqual(2);
    const small = setInterval(() => {
      Bun.spawnSync(["ip", "-n", NS, "link", "set", TAP, "mtu", "1500"], { stderr: "ignore" });
    }, 50);
    try {
      const f = await fault(measure({ sizes: [9014], mtu: 9000, seconds: 0.3 }));
      expect([f.code, f.message]).toEqual([
        "E_HOST",
        "the host answers echoes of 9014 bytes in fragments: its interface has a smaller MTU than 9000",
      ]);
      expect(f.hint).toContain("mtu 9000");
    } finally {
      clearInterval(small);
    }
  }, 20_000);

  test("a host without a driver, or without the address, ends with what to do", async () => {
    namespace();
    const host = { kind: "built-in", tap: TAP, netns: NS, options: { autoBind: false } } as const;
    const none = await fault(measure({ host, wait: 0.3 }));
    expect([none.code, none.message]).toEqual([
      "E_HOST",
      "no driver of the host took the function within 0.3 s (waiting)",
    ]);
    inside("sh", "-c", "echo 8 >/proc/sys/net/ipv4/conf/all/arp_ignore");
    const mute = await fault(measure({ wait: 1 }));
    expect([mute.code, mute.message]).toEqual(["E_HOST", "the host does not answer ARP for 198.18.0.2 within 1 s"]);
    expect(mute.hint).toContain("ip addr add 198.18.0.2/24");
    expect(inside("ip", "-o", "link")).not.toContain(TAP);
  });

  test("the stop flag ends it early and cleanly; the same name can be taken again at once", async () => {
    namespace();
    const stop = { stop: false };
    setTimeout(() => {
      stop.stop = true;
    }, 700);
    const began = performance.now();
    const { rows } = await measure({ seconds: 30 }, stop);
    expect(rows).toEqual([]);
    expect(performance.now() - began).toBeLessThan(5000);
    expect((await measure({ sizes: [60], seconds: 0.05 })).rows).toHaveLength(3);
  }, 20_000);

  test("one address for both ends is refused before anything is opened", async () => {
    const f = await fault(measure({ peer: "198.18.0.1", host: null }));
    expect([f.code, f.message]).toEqual(["E_USAGE", "--address and --peer are both 198.18.0.1"]);
  });

  test("a frame size beyond the MTU is refused before anything is opened", async () => {
    const f = await fault(measure({ sizes: [60, 1515], host: null }));
    expect([f.code, f.message]).toEqual(["E_USAGE", "frames of 1515 bytes do not fit the MTU 1500: at most 1514"]);
  });
});
