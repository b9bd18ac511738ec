/** The whole engine against the built-in host: every core and personality, resets at any moment, broken drivers. */
import { describe, expect, test } from "bun:test";
import { EngineRig, type EngineRigOptions } from "../support/engine-rig.ts";

const KINDS: [string, Partial<EngineRigOptions>][] = [
  ["modern, MSI-X", { core: "modern-msix" }],
  ["modern, MSI-X, 6.1 kernel", { core: "modern-msix", host: { kernel: "6.1" } }],
  ["modern, INTx", { core: "modern-intx" }],
  ["modern, host takes INTx although there is MSI-X", { core: "modern-msix", host: { irq: "intx" } }],
  ["legacy, MSI-X", { core: "legacy-msix" }],
  ["legacy, INTx, viewport maps, one channel", { core: "legacy-intx" }],
  ["legacy on a core that could be modern", { core: "modern-msix", engine: { personality: "legacy" } }],
  ["rings read through the window", { core: "modern-msix", engine: { fetch: "window" } }],
  ["rings read through the window, viewport", { core: "legacy-intx", engine: { fetch: "window" } }],
  ["safe features", { core: "modern-msix", engine: { features: "safe" } }],
  ["wide features", { core: "modern-msix", engine: { features: "wide", mtu: 60_100 } }],
  ["wide features, legacy (indirect, event index)", { core: "legacy-msix", engine: { features: "wide", mtu: 60_100 } }],
  ["header as its own element", { core: "modern-msix", patch: false }],
  ["host memory above 4 GiB", { core: "modern-msix", host: { memoryBase: 0x12_3400_0000 } }],
];

describe("frames both ways", () => {
  for (const [name, options] of KINDS) {
    test(name, () => {
      const rig = new EngineRig(options);
      rig.up();
      rig.exchange(400);
      rig.exchange(40, 60_000);
      // 30 lone frames: no interrupt may be missed when nothing else is going on.
      for (let i = 0; i < 30; i++) rig.exchange(1);
      expect(rig.engine.service.faults).toBe(0);
      expect(rig.log.filter((l) => /refused|stopped/.test(l))).toEqual([]);
      rig.close();
    }, 30_000);
  }
});

describe("the host's driver goes and comes back", () => {
  for (const [name, options] of KINDS.slice(0, 8)) {
    test(`${name}: 20 rebinds with traffic after each`, () => {
      const rig = new EngineRig(options);
      rig.up();
      for (let i = 0; i < 20; i++) {
        rig.exchange(20);
        const binds = rig.host.binds;
        rig.host.rebind();
        rig.until("removed", () => rig.host.state !== "bound");
        rig.until("rebound", () => rig.host.binds > binds);
        rig.up();
      }
      rig.exchange(20);
      expect(rig.engine.service.refusals).toBe(0);
      rig.close();
    }, 60_000);
  }

  for (const core of ["modern-msix", "legacy-intx"] as const) {
    test(`${core}: 60 resets in the middle of transfers, no DMA afterwards`, () => {
      const rig = new EngineRig({ core, seed: 5 });
      rig.up();
      for (let i = 0; i < 60; i++) {
        rig.queue(30, 20_000);
        const turns = rig.engine.service.turns + rig.random.below(60);
        rig.until("some turns", () => rig.engine.service.turns >= turns);
        const binds = rig.host.binds;
        rig.host.reset(true);
        rig.until("rebound", () => rig.host.binds > binds && rig.host.state === "bound");
        rig.up();
        rig.check();
      }
      // What is still queued from before must not be in the way.
      rig.until("backlog gone", () => rig.port.backlog === 0 && rig.end.backlog === 0);
      const missing = (): number => rig.toHost.sent - rig.toHost.received;
      const before = missing();
      rig.exchange(50);
      expect(missing()).toBeLessThanOrEqual(before);
      expect(rig.engine.service.resets).toBeGreaterThanOrEqual(60);
      rig.close();
    }, 60_000);
  }
});

describe("a broken set-up", () => {
  for (const [fault, text] of [
    [{ misalignedQueue: true }, /align/],
    [{ overlappingQueue: true }, /overlap|order|distinct|ring/],
    [{ badRingSize: 100 }, /100/],
  ] as const) {
    test(`${Object.keys(fault)[0]}: refused with both values, a sane driver is served afterwards`, () => {
      const rig = new EngineRig({ core: "modern-msix", host: { faults: fault } });
      rig.until("refused", () => rig.engine.service.link === "refused");
      expect(rig.engine.service.diagnosis).toMatch(text);
      expect(rig.engine.service.refusals).toBe(1);
      Object.assign(rig.host.faults, { misalignedQueue: false, overlappingQueue: false, badRingSize: 0 });
      rig.until("host is through", () => rig.host.state === "bound" || rig.host.state === "failed");
      rig.host.reset(true);
      rig.up();
      rig.exchange(20);
      rig.close();
    }, 30_000);
  }

  test("bus mastering never enabled: diagnosed, served once it is", () => {
    const rig = new EngineRig({ core: "modern-msix", host: { faults: { noBusMaster: true } } });
    rig.until("no master", () => rig.engine.service.link === "no-bus-master");
    rig.until("diagnosed", () => rig.engine.service.diagnosis !== "", 500_000_000);
    expect(rig.engine.service.diagnosis).toMatch(/Bus Master Enable is off/);
    rig.endpoint.cfgWrite(4, 2, 6);
    rig.up();
    rig.exchange(20);
    rig.close();
  }, 30_000);

  test("an IOMMU of the host that maps nothing for us: the diagnosis names it", () => {
    // Not strict: there, DMA to where nothing is mapped is a violation of its own.
    const rig = new EngineRig({ core: "legacy-msix", model: { strict: false }, host: { strict: false } });
    Object.defineProperty(rig.host.memory, "resolve", { value: () => 0 });
    rig.until("stopped", () => rig.engine.service.link === "stopped");
    expect(rig.engine.service.diagnosis).toMatch(/IOMMU/);
    expect(rig.engine.dp.toBoard.frames).toBe(0);
    rig.close();
  }, 30_000);
});

test("a host's driver that goes in a short turn of the data path: the board's port has its turns all the same", () => {
  const rig = new EngineRig({ core: "modern-msix" });
  rig.up();
  rig.exchange(20);
  const { service, dp } = rig.engine;
  let gone = 0;
  for (let i = 0; i < 20; i++) {
    rig.until("a short turn", () => {
      service.slice(1);
      return dp.brief;
    });
    rig.host.reset(true);
    rig.until("the driver gone", () => !service.serving);
    let turns = 0;
    const { port } = rig;
    const turn = port.turn.bind(port);
    port.turn = () => {
      turns++;
      return turn();
    };
    const before = service.turns;
    service.slice(5);
    if (!service.serving) {
      expect(turns).toBe(service.turns - before);
      gone++;
    }
    port.turn = turn;
    rig.up();
  }
  expect(gone).toBeGreaterThan(5);
  rig.close();
}, 30_000);

describe("a stop in the middle of transfers", () => {
  for (const core of ["modern-msix", "legacy-intx"] as const) {
    test(`${core}: what is in flight lands, and nothing else is waited for`, () => {
      for (let seed = 1; seed <= 10; seed++) {
        const rig = new EngineRig({ core, seed });
        rig.up();
        const { service, dp } = rig.engine;
        const turns = service.turns + rig.random.below(200);
        rig.until("some turns", () => service.turns >= turns);
        rig.queue(60, 20_000);
        // nobody ends a round of fetches any more: it must not be waited for
        const turn = dp.turn.bind(dp);
        const stop = new Error("a round is half made");
        dp.turn = () => {
          const n = turn();
          if (dp.hqTx.gathering && dp.toHost.outstanding > 0) throw stop;
          return n;
        };
        expect(() => rig.until("that", () => false)).toThrow(stop.message);
        const began = performance.now();
        service.shutdown(10_000);
        expect(performance.now() - began).toBeLessThan(5000);
        expect(dp.settled).toBe(true);
        expect(service.faults).toBe(0);
        rig.close();
      }
    }, 120_000);
  }
});

test("a masked MSI-X vector is held back and sent when it is unmasked", () => {
  const rig = new EngineRig({ core: "modern-msix" });
  rig.up();
  rig.exchange(10);
  expect(rig.host.maskVector(1, 4000)).toBe(true);
  const want = rig.toHost.received + 10;
  for (let i = 0; i < 10; i++) rig.port.send(rig.toHost.make(64));
  rig.until("frames after the unmask", () => rig.toHost.received >= want);
  expect(rig.engine.irq.masked).toBeGreaterThan(0);
  rig.exchange(10);
  rig.close();
});

test("a host that hangs costs nothing but its frames", () => {
  const rig = new EngineRig({ core: "modern-msix" });
  rig.up();
  rig.exchange(10);
  rig.host.crash();
  for (let i = 0; i < 500; i++) rig.port.send(rig.toHost.make(64));
  const turns = rig.engine.service.turns + 20_000;
  rig.until("turns", () => rig.engine.service.turns > turns);
  expect(rig.engine.service.faults).toBe(0);
  rig.host.bind();
  rig.until("a new kernel", () => rig.host.state === "bound");
  rig.up();
  rig.until("backlog", () => rig.port.backlog === 0);
  rig.exchange(10);
  rig.close();
});
