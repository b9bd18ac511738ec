/** The built-in host's driver against a trapping function: order of accesses, negotiation, policies, life cycle. */
import { afterEach, expect, test } from "bun:test";
import { BuiltInHost } from "../../../src/hw/model/host.ts";
import { CallbackEnd } from "../../../src/hw/model/host-end.ts";
import { bitsOf, type HostKernel } from "../../../src/hw/model/host-features.ts";
import type { HostOptions } from "../../../src/hw/model/host-options.ts";
import { type FunctionOptions, TestFunction } from "../../support/virtio-function.ts";

const FAST = { readDelayTurns: 0, writeDelayTurns: 0, softwareDelayTurns: 0, sleepTurns: 1, accessesPerTurn: 64 };
const open: BuiltInHost[] = [];

afterEach(() => {
  for (const host of open.splice(0)) host.close();
});

function rig(options: Partial<HostOptions> = {}, fn: Partial<FunctionOptions> = {}) {
  const host = new BuiltInHost({ memory: 16 << 20, strict: true, pace: { ...FAST }, ...options });
  open.push(host);
  const device = new TestFunction(host, fn);
  host.attach(device);
  const run = (until: () => boolean, limit = 20000) => {
    for (let i = 0; i < limit && !until(); i++) {
      host.turn();
      device.turn();
    }
    return until();
  };
  return { host, device, run };
}

/** Trace without config space and MSI-X table, spelled like the facts: r14=0, w8/4=... sizes only where not obvious. */
function virtioTrace(host: BuiltInHost): string[] {
  return host.access!.trace!.filter((l) => l[1] === "0").map((l) => l.replace(/^(.)0:/, "$1"));
}

function traced(options: Partial<HostOptions>, fn: Partial<FunctionOptions>) {
  const r = rig({ autoBind: false, ...options }, fn);
  r.run(() => r.host.state === "idle");
  r.host.access!.trace = [];
  r.host.bind();
  expect(r.run(() => r.host.state === "bound" || r.host.state === "failed")).toBe(true);
  expect(r.host.error).toBe("");
  const trace = virtioTrace(r.host);
  return { ...r, trace, all: r.host.access!.trace };
}

const hex = (v: number) => v.toString(16);

/** The ring set-up of one queue as the facts give it, with the addresses the driver chose. */
function modernQueue(host: BuiltInHost, k: number, entry: number | null): string[] {
  const q = host.truth!.queues[k]!;
  return [
    "r12/2=2",
    `w16/2=${k}`,
    "r18/2=100",
    `w16/2=${k}`,
    "r1c/2=0",
    `w16/2=${k}`,
    "w18/2=100",
    `w16/2=${k}`,
    `w20/4=${hex(q.desc)}`,
    "w24/4=0",
    `w28/4=${hex(q.avail)}`,
    "w2c/4=0",
    `w30/4=${hex(q.used)}`,
    "w34/4=0",
    ...(entry === null ? [] : [`w16/2=${k}`, `w1a/2=${entry}`, `r1a/2=${entry}`]),
    `w16/2=${k}`,
    `r1e/2=${k}`,
  ];
}

const MAC_READS = [0x2, 0, 0, 0, 0, 0x77].map((b, i) => `r${hex(0x2000 + i)}/1=${hex(b)}`);

test("modern, MSI-X: accesses in the order of virtio_pci_modern and virtnet_probe", () => {
  const { host, trace } = traced({}, {});
  expect(trace).toEqual([
    "w14/1=0",
    "r14/1=0",
    ...["r14/1=0", "w14/1=1", "r14/1=1", "w14/1=3"],
    ...["w0/4=0", "r4/4=18021", "w0/4=1", "r4/4=1", "w0/4=2", "r4/4=0", "w0/4=3", "r4/4=0"],
    ...["w8/4=0", "wc/4=18021", "w8/4=1", "wc/4=1", "w8/4=2", "wc/4=0", "w8/4=3", "wc/4=0"],
    ...["r14/1=3", "w14/1=b", "r14/1=b"],
    ...["r15/1=0", ...MAC_READS, "r15/1=0"],
    ...["w10/2=0", "r10/2=0"],
    ...modernQueue(host, 0, 1),
    ...modernQueue(host, 1, 2),
    ...["w16/2=0", "w1c/2=1", "w16/2=1", "w1c/2=1"],
    ...["r14/1=b", "w14/1=f"],
    ...["r15/1=0", "r2006/2=1", "r15/1=0"],
  ]);
});

test("modern, INTx only: no vector register is touched", () => {
  const { host, trace } = traced({}, { msix: 0 });
  expect(host.truth!.policy).toBe("intx");
  const start = trace.indexOf("r12/2=2");
  const want = [...modernQueue(host, 0, null), ...modernQueue(host, 1, null)];
  expect(trace.slice(start, start + want.length)).toEqual(want);
  expect(trace.some((l) => /^[rw](10|1a)\//.test(l))).toBe(false);
});

test("modern, older kernel: two feature words and nothing above", () => {
  const { trace } = traced({ kernel: "6.1" }, {});
  expect(trace.filter((l) => l.startsWith("w0/") || l.startsWith("w8/"))).toEqual([
    "w0/4=0",
    "w0/4=1",
    "w8/4=0",
    "w8/4=1",
  ]);
});

test("modern: config space in the order of a host, bus master after the transport probe, table before unmask", () => {
  const { all } = traced({}, {});
  const at = (line: string) => {
    const i = all!.indexOf(line);
    expect(i).toBeGreaterThanOrEqual(0);
    return i;
  };
  const memory = at("wc:4/2=2");
  const master = at("wc:4/2=6");
  const reset = at("w0:14/1=0");
  const enable = at("wc:4a/2=c002");
  const unmaskAll = at("wc:4a/2=8002");
  expect([memory, master, reset, enable, unmaskAll]).toEqual(
    [memory, master, reset, enable, unmaskAll].sort((a, b) => a - b),
  );
  // per entry: data written and read back before control 0; entry 0 before the config vector, entry 2 after vector 2
  for (const [entry, after] of [
    [0, null],
    [1, "w0:1a/2=1"],
    [2, "w0:1a/2=2"],
  ] as const) {
    const off = entry * 16;
    const unmask = at(`w2:${hex(off + 12)}/4=0`);
    const before = all!.slice(0, unmask);
    expect(before.at(-1)).toMatch(new RegExp(`^r2:${hex(off + 8)}/4=`));
    expect(before.lastIndexOf(before.findLast((l) => l.startsWith(`w2:${hex(off)}/4=fee`))!)).toBeGreaterThan(
      unmaskAll,
    );
    if (after !== null) expect(unmask).toBeGreaterThan(at(after));
    else expect(unmask).toBeLessThan(at("w0:10/2=0"));
  }
});

const LEGACY_WORD = 0x21 | (1 << 15) | (1 << 16);

function legacyQueue(host: BuiltInHost, k: number, entry: number | null): string[] {
  const q = host.truth!.queues[k]!;
  return [
    ...[`we/2=${k}`, "rc/2=100", `we/2=${k}`, "r8/4=0", `we/2=${k}`, `w8/4=${hex(q.desc / 4096)}`],
    ...(entry === null ? [] : [`we/2=${k}`, `w16/2=${entry}`, `r16/2=${entry}`]),
  ];
}

const legacyStart = (word: number) => [
  ...["w12/1=0", "r12/1=0", "r12/1=0", "w12/1=1", "r12/1=1", "w12/1=3"],
  ...[`r0/4=${hex(word)}`, `w4/4=${hex(word)}`],
  ...[2, 0, 0, 0, 0, 0x77].map((b, i) => `r${hex(0x14 + i)}/1=${hex(b)}`),
];

test("legacy, MSI-X: the order seen from Linux, MAC before MSI-X is enabled", () => {
  const { host, trace, device } = traced({}, { modern: false, features: [LEGACY_WORD] });
  expect(trace).toEqual([
    ...legacyStart(LEGACY_WORD),
    ...["w14/2=0", "r14/2=0"],
    ...legacyQueue(host, 0, 1),
    ...legacyQueue(host, 1, 2),
    ...["r12/1=3", "w12/1=7"],
    "r1e/2=1",
  ]);
  expect(device.broken).toEqual([]);
});

test("legacy, INTx: only rc and r8 lie between PFN of queue 0 and the look at PFN of queue 1", () => {
  const { host, trace } = traced({ irq: "intx" }, { modern: false, features: [LEGACY_WORD] });
  expect(trace).toEqual([
    ...legacyStart(LEGACY_WORD),
    ...legacyQueue(host, 0, null),
    ...legacyQueue(host, 1, null),
    ...["r12/1=3", "w12/1=7"],
    "r1a/2=1",
  ]);
});

test("removal: legacy and modern, both interrupt kinds", () => {
  const cases = [
    {
      modern: true,
      irq: "auto",
      want: [
        ...["w14/1=0", "r14/1=0"],
        ...["w16/2=0", "w1a/2=ffff", "r1a/2=ffff", "w16/2=1", "w1a/2=ffff", "r1a/2=ffff"],
        ...["w10/2=ffff", "r10/2=ffff", "r14/1=0", "r14/1=0", "w14/1=1"],
      ],
    },
    { modern: true, irq: "intx", want: ["w14/1=0", "r14/1=0", "r14/1=0", "r14/1=0", "w14/1=1"] },
    {
      modern: false,
      irq: "auto",
      want: [
        ...["r12/1=7", "w12/1=0", "r12/1=0"],
        ...["we/2=0", "w16/2=ffff", "r16/2=ffff", "r13/1=0", "we/2=0", "w8/4=0"],
        ...["we/2=1", "w16/2=ffff", "r16/2=ffff", "r13/1=0", "we/2=1", "w8/4=0"],
        ...["w14/2=ffff", "r14/2=ffff", "r12/1=0", "r12/1=0", "w12/1=1"],
      ],
    },
    {
      modern: false,
      irq: "intx",
      want: [
        ...["r12/1=7", "w12/1=0", "r12/1=0", "we/2=0", "w8/4=0", "we/2=1", "w8/4=0"],
        ...["r12/1=0", "r12/1=0", "w12/1=1"],
      ],
    },
  ] as const;
  for (const c of cases) {
    const { host, device, run } = traced({ irq: c.irq }, { modern: c.modern, features: [LEGACY_WORD, 1, 0, 0] });
    run(() => host.net!.rx.ring.inFlight > 0);
    host.access!.trace = [];
    host.unbind();
    expect(run(() => host.state === "idle")).toBe(true);
    expect(virtioTrace(host)).toEqual([...c.want]);
    expect(device.msixOn).toBe(false);
    expect(device.command & 4).toBe(0);
    expect(device.broken).toEqual([]);
  }
});

test("features: what each kernel takes of the words of facts/vfio-user-2.md section 7", () => {
  const base = [0, 5, 11, 12, 15, 16];
  const always = [...base, 32];
  const cases: [HostKernel, number[], number[], number][] = [
    ["6.1", [1], [1, 33], 12],
    ["6.12", [1], [1, 33], 12],
    ["7.3", [1], [1, 33, 65], 24],
    ["6.1", [1, 7], [1, 7, 33], 12],
    ["7.3", [1, 7], [1, 7, 33, 65], 24],
    ["6.12", [1, 7, 8], [1, 7, 8, 33, 40], 12],
    ["7.3", [1, 7, 8], [1, 7, 8, 33, 40, 65], 24],
    ["6.1", [29], [29], 12],
    ["7.3", [29], [29], 12],
    ["6.1", [6], [], 12],
    ["6.12", [6], [38], 12],
    ["7.3", [6], [38], 12],
    ["6.12", [3], [3], 12],
    ["7.3", [3], [3, 35, 67], 24],
    ["6.1", [4], [36], 12],
    ["7.3", [4], [36, 68], 12],
    ["6.12", [1, 4, 6, 7, 29], [1, 7, 29, 33, 36, 38], 12],
    ["7.3", [1, 4, 6, 7, 29], [1, 7, 29, 33, 36, 38, 65, 68], 24],
    ["6.1", [1, 3, 4, 6, 7, 8, 29], [1, 3, 7, 8, 29, 33, 36, 40], 12],
    ["7.3", [1, 3, 4, 6, 7, 8, 29], [1, 3, 7, 8, 29, 33, 35, 36, 38, 40, 65, 67, 68], 24],
  ];
  for (const [kernel, added, want, header] of cases) {
    let word = 0;
    for (const bit of [...base, ...added]) word |= 1 << bit;
    const { host, device } = traced({ kernel }, { features: [word, word, word, word] });
    const got = bitsOf(host.truth!.accepted);
    expect({ kernel, added, got }).toEqual({ kernel, added, got: [...always, ...want].sort((a, b) => a - b) });
    expect(host.truth!.hdrLen).toBe(header);
    expect(device.accepted.map((w) => w >>> 0)).toEqual([...host.truth!.accepted]);
    host.close();
    open.splice(0);
  }
});

test("features: bit 28 in a constant word fails the probe, in legacy it is taken", () => {
  const word = LEGACY_WORD | (1 << 28);
  const bad = rig({}, { features: [word, word, word, word] });
  expect(bad.run(() => bad.host.state === "failed")).toBe(true);
  expect(bad.host.errno).toBe(-22);
  expect(bad.host.error).toContain("feature bit 60");
  expect(bad.device.status & 0x80).toBe(0x80);
  const good = traced({}, { modern: false, features: [word | 0x2000_0000] });
  expect(bitsOf(good.host.truth!.accepted)).toEqual([0, 5, 15, 16, 28, 29]);
});

test("features: VERSION_1 missing, packed rings and an absurd MTU", () => {
  const none = rig({}, { features: [LEGACY_WORD, 0, 0, 0] });
  none.run(() => none.host.state === "failed");
  expect(none.host.error).toContain("VERSION_1");
  const packed = rig({}, { features: [LEGACY_WORD, 5, 0, 0] });
  packed.run(() => packed.host.state === "failed");
  expect(packed.host.error).toContain("RING_PACKED");
  const mtu = traced({}, { features: [LEGACY_WORD | 8, 1, 0, 0], mtu: 20 });
  expect(bitsOf(mtu.host.truth!.accepted)).not.toContain(3);
  // finalize_features runs a second time with the bit gone
  expect(mtu.trace.filter((l) => l.startsWith("wc/4="))).toEqual([
    "wc/4=18029",
    "wc/4=1",
    "wc/4=0",
    "wc/4=0",
    "wc/4=18021",
    "wc/4=1",
    "wc/4=0",
    "wc/4=0",
  ]);
});

test("features: a mask makes a driver that takes fewer bits", () => {
  const { host } = traced({ features: [5, 32] }, {});
  expect(bitsOf(host.truth!.accepted)).toEqual([5, 32]);
});

test("interrupt policies: shared vector with 2 entries, INTx with 1, failure without a pin", () => {
  const two = traced({}, { msix: 2 });
  expect(two.host.truth!.policy).toBe("shared");
  expect(two.device.queues.map((q) => q.vector)).toEqual([1, 1]);
  expect(two.host.truth!.failures).toEqual(["each: -28 the MSI-X table has 2 entries, 3 are needed"]);
  const one = traced({}, { msix: 1 });
  expect(one.host.truth!.policy).toBe("intx");
  const none = rig({}, { msix: 1, pin: 0 });
  expect(none.run(() => none.host.state === "failed")).toBe(true);
  expect(none.host.errno).toBe(-28);
  const refused = traced({}, { refuseVector: 2 });
  expect(refused.host.truth!.policy).toBe("shared");
  expect(refused.host.truth!.failures[0]).toContain("refused vector 2");
  expect(refused.device.broken).toEqual([]);
});

test("legacy: a PFN that still reads non-zero costs one policy; without MSI-X the probe fails with -ENOENT", () => {
  const retry = traced({}, { modern: false, features: [LEGACY_WORD], latePfn: 1 });
  expect(retry.host.truth!.policy).toBe("shared");
  expect(retry.host.truth!.failures[0]).toContain("-2 queue 1 has PFN 0x1234");
  const fail = rig({ irq: "intx" }, { modern: false, features: [LEGACY_WORD], latePfn: 1 });
  expect(fail.run(() => fail.host.state === "failed")).toBe(true);
  expect(fail.host.errno).toBe(-2);
  expect(fail.device.queues.map((q) => q.desc)).toEqual([0, 0]);
  fail.host.bind();
  expect(fail.run(() => fail.host.state === "bound")).toBe(true);
});

test("enumeration: 64-bit BAR, BAR address, a capability loop ends", () => {
  const wide = traced({}, { bar64: true });
  expect(wide.host.fn!.bars.map((b) => [b.index, b.size, b.is64])).toEqual([
    [0, 0x10000, true],
    [2, 0x1000, false],
  ]);
  expect(wide.device.cfgRead(0x10, 4) & ~0xf).toBe(wide.host.fn!.bars[0]!.address | 0);
  const loop = rig({}, { capLoop: true });
  loop.run(() => loop.host.state === "bound" || loop.host.state === "failed");
  expect(loop.host.fn!.caps.broken).toBe(true);
});

test("auto personality: legacy when the vendor capabilities are not there", () => {
  const { host } = traced({}, { modern: false, features: [LEGACY_WORD] });
  expect(host.truth!.personality).toBe("legacy");
  const wrong = rig({ personality: "legacy" }, {});
  wrong.run(() => wrong.host.state === "failed");
  expect(wrong.host.error).toContain("is not a legacy function");
  expect(wrong.device.status).toBe(0);
});

test("a function that comes later is found by the rescan", () => {
  const { host, device, run } = rig({ rescanTurns: 10 });
  const id = device.cfg[0];
  device.cfg[0] = 0;
  expect(run(() => host.state !== "scanning", 200)).toBe(false);
  expect(host.error).toContain("is not virtio's");
  device.cfg[0] = id!;
  expect(run(() => host.state === "bound", 400)).toBe(true);
});

test("pace: turns between accesses are as asked, and at most accessesPerTurn happen in one", () => {
  const { host, run } = rig({ pace: { ...FAST, readDelayTurns: 7, writeDelayTurns: 2, accessesPerTurn: 3 } });
  let last = 0;
  let worst = 0;
  run(() => {
    const n = host.access!.reads + host.access!.writes;
    worst = Math.max(worst, n - last);
    last = n;
    return host.state === "bound";
  });
  expect(host.state).toBe("bound");
  expect(worst).toBe(1);
  expect(host.turns).toBeGreaterThanOrEqual(host.access!.reads * 7 + host.access!.writes * 2 - 9);
  const fast = rig({ pace: { ...FAST, accessesPerTurn: 3 } });
  last = 0;
  worst = 0;
  fast.run(() => {
    const n = fast.host.access!.reads + fast.host.access!.writes;
    worst = Math.max(worst, n - last);
    last = n;
    return fast.host.state === "bound";
  });
  expect(worst).toBe(3);
});

test("a modern reset waits for status 0", () => {
  const { host, run } = rig({ autoBind: false }, { slowReset: 5 });
  run(() => host.state === "idle");
  host.access!.trace = [];
  host.bind();
  run(() => host.state === "bound");
  expect(virtioTrace(host).slice(0, 7)).toEqual(["w14/1=0", ...Array(5).fill("r14/1=f"), "r14/1=0"]);
});

test("life cycle: 300 rebinds, resets at any turn, crashes; the device never sees a broken rule or stale memory", () => {
  for (const modern of [true, false]) {
    const end = new CallbackEnd(() => {});
    const { host, device, run } = rig(
      { end, pace: { ...FAST, writeDelayTurns: 1, reuseDelayTurns: 3 }, seed: 7 },
      { modern, features: [LEGACY_WORD, 1, 0, 0] },
    );
    let x = 12345;
    const rnd = (n: number) => {
      x = (Math.imul(x, 1103515245) + 12345) & 0x7fffffff;
      return (x >>> 8) % n;
    };
    expect(run(() => host.state === "bound")).toBe(true);
    const addresses = new Set<number>();
    for (let round = 0; round < 300; round++) {
      addresses.add(host.truth!.queues[0]!.desc);
      const frame = new Uint8Array(100 + rnd(1400));
      for (let i = rnd(20); i > 0; i--) end.send(frame);
      const stop = host.turns + rnd(200);
      run(() => host.turns >= stop);
      const how = rnd(3);
      if (how === 0) host.rebind();
      else if (how === 1) {
        // in the middle of a removal, a probe or traffic
        host.rebind();
        const at = host.turns + rnd(120);
        run(() => host.turns >= at);
        host.reset(true);
      } else {
        host.crash();
        const at = host.turns + rnd(20);
        run(() => host.turns >= at);
        host.bind();
      }
      const binds = host.binds;
      expect(run(() => host.state === "bound" && host.binds >= binds, 5000)).toBe(true);
      if (how !== 2) expect(run(() => !host.busy && host.state === "bound", 5000)).toBe(true);
    }
    expect(device.broken).toEqual([]);
    expect(device.violations).toBe(0);
    expect(device.faults).toBe(0);
    expect(host.failures).toBe(0);
    expect(addresses.size).toBeGreaterThan(50);
    expect(device.queues.map((q) => q.desc)).toEqual(host.truth!.queues.map((q) => q.desc));
    expect(device.echoed).toBeGreaterThan(500);
  }
});
