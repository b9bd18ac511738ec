/**
 * The built-in host against the endpoint model with the engine's function behind it: nothing traps here, the function
 * polls once a turn. What it captured is compared with what the driver wrote.
 */
import { expect, test } from "bun:test";
import { createFunction, FN_DOWN, FN_REFUSED, FN_UP } from "../../../src/engine/function/function.ts";
import { Iatu } from "../../../src/hw/iatu.ts";
import { EndpointModel } from "../../../src/hw/model/endpoint.ts";
import { BuiltInHost } from "../../../src/hw/model/host.ts";
import type { HostKernel } from "../../../src/hw/model/host-features.ts";
import type { HostOptions } from "../../../src/hw/model/host-options.ts";
import type { ModelOptions } from "../../../src/hw/model/model-options.ts";

function rig(
  personality: "modern" | "legacy",
  features: string,
  host: Partial<HostOptions>,
  core: Partial<ModelOptions>,
) {
  const model = new EndpointModel({ strict: true, boardMemory: 4 << 20, ...core });
  const controller = model.controller();
  const fn = createFunction({
    controller,
    iatu: new Iatu(controller),
    personality,
    mac: "02:00:00:00:00:42",
    mtu: 1500,
    queueSize: 256,
    features,
  });
  const side = new BuiltInHost({ memory: 16 << 20, strict: true, clock: model.clock, ...host });
  model.attach(side);
  side.attach(model);
  model.addStepper(side);
  const events = { up: 0, down: 0, refused: 0 };
  const run = (until: () => boolean, limit = 100000) => {
    for (let i = 0; i < limit; i++) {
      controller.turn();
      const e = fn.poll();
      if (e === FN_UP) events.up++;
      else if (e === FN_DOWN) events.down++;
      else if (e === FN_REFUSED) events.refused++;
      if (until()) return true;
    }
    return false;
  };
  return { model, fn, side, events, run };
}

const u64 = (lo: number, hi: number) => (hi >>> 0) * 2 ** 32 + (lo >>> 0);

const CASES: {
  p: "modern" | "legacy";
  core: Partial<ModelOptions>;
  irq: "auto" | "intx";
  features: string;
  kernel: HostKernel;
}[] = [
  { p: "modern", core: {}, irq: "auto", features: "default", kernel: "7.3" },
  { p: "modern", core: {}, irq: "auto", features: "default", kernel: "6.1" },
  { p: "modern", core: {}, irq: "auto", features: "safe", kernel: "6.12" },
  { p: "modern", core: {}, irq: "auto", features: "wide", kernel: "7.3" },
  { p: "modern", core: {}, irq: "auto", features: "wide", kernel: "6.1" },
  { p: "modern", core: { msix: false }, irq: "auto", features: "default", kernel: "7.3" },
  { p: "legacy", core: {}, irq: "auto", features: "default", kernel: "7.3" },
  { p: "legacy", core: { modernCapable: false }, irq: "intx", features: "default", kernel: "6.1" },
  { p: "legacy", core: { modernCapable: false, msix: false }, irq: "auto", features: "default", kernel: "6.12" },
];

for (const c of CASES) {
  test(`captures are the truth over 60 rebinds: ${c.p} ${c.core.msix === false ? "no MSI-X " : ""}${c.irq} ${c.features} ${c.kernel}`, () => {
    const r = rig(c.p, c.features, { irq: c.irq, kernel: c.kernel, memoryBase: 0x1_4000_0000, seed: 5 }, c.core);
    for (let round = 0; round < 60; round++) {
      expect(r.run(() => r.side.state === "bound" && r.fn.live)).toBe(true);
      const truth = r.side.truth!;
      expect(truth.personality).toBe(c.p);
      expect([...truth.mac]).toEqual([2, 0, 0, 0, 0, 0x42]);
      truth.queues.forEach((q, k) => {
        const seen = r.fn.queues[k]!;
        expect([
          seen.size,
          u64(seen.descLo, seen.descHi),
          u64(seen.availLo, seen.availHi),
          u64(seen.usedLo, seen.usedHi),
          seen.vector,
        ]).toEqual([q.size, q.desc, q.avail, q.used, q.entry]);
      });
      expect(r.fn.hdrLen).toBe(truth.hdrLen);
      expect(r.fn.msix).toBe(truth.policy !== "intx");
      const failures = truth.failures.filter((f) => !f.includes("MSI-X table"));
      expect(failures).toEqual([]);
      r.side.rebind();
      expect(r.run(() => !r.fn.live)).toBe(true);
    }
    expect(r.events).toEqual({ up: 60, down: 60, refused: 0 });
    expect(r.side.failures).toBe(0);
    expect(r.model.violationCount).toBe(0);
    r.side.close();
  });
}

test("the smallest spacing at which every bind is captured: legacy INTx needs one poll between two reads", () => {
  const pace = { readDelayTurns: 1, writeDelayTurns: 0, softwareDelayTurns: 0, sleepTurns: 1, reuseDelayTurns: 1 };
  const r = rig("legacy", "default", { pace, irq: "intx" }, { modernCapable: false, msix: false });
  for (let round = 0; round < 50; round++) {
    expect(r.run(() => r.side.state === "bound" && r.fn.live)).toBe(true);
    expect(u64(r.fn.queues[1]!.descLo, r.fn.queues[1]!.descHi)).toBe(r.side.truth!.queues[1]!.desc);
    r.side.rebind();
    expect(r.run(() => !r.fn.live)).toBe(true);
  }
  expect(r.side.failures).toBe(0);
  r.side.close();
});

test("set-up faults of the host are refused by the function, and the next bind is taken", () => {
  for (const fault of ["misalignedQueue", "overlappingQueue", "badRingSize"] as const) {
    const r = rig("modern", "default", { faults: { [fault]: fault === "badRingSize" ? 100 : true } }, {});
    expect(r.run(() => r.events.refused > 0, 20000)).toBe(true);
    expect(r.fn.live).toBe(false);
    Object.assign(r.side.faults, { [fault]: fault === "badRingSize" ? 0 : false });
    r.run(() => r.side.state === "bound");
    r.side.rebind();
    expect(r.run(() => r.fn.live)).toBe(true);
    r.side.close();
  }
});

test("ring resets of a live function: down, up again with the one queue fresh, captures right", () => {
  // the wide set and bit 8, which brings RING_RESET
  const r = rig("modern", "0x200199fb", {}, {});
  expect(r.run(() => r.side.state === "bound" && r.fn.live)).toBe(true);
  for (let round = 0; round < 10; round++) {
    const which = (round & 1) as 0 | 1;
    expect(r.side.resetQueue(which)).toBe(true);
    expect(r.run(() => !r.fn.live, 1000)).toBe(true);
    expect(r.run(() => r.fn.live && !r.side.busy, 5000)).toBe(true);
    expect(r.fn.freshQueues).toBe(1 << which);
    expect(r.side.error).toBe("");
    r.side.truth!.queues.forEach((q, k) => {
      const seen = r.fn.queues[k]!;
      expect([seen.size, u64(seen.descLo, seen.descHi), seen.vector]).toEqual([q.size, q.desc, q.entry]);
    });
  }
  expect(r.events.refused).toBe(0);
  r.side.close();
});

test("resets and crashes at any moment: the function follows, and never lives with a queue the host does not have", () => {
  const r = rig("modern", "default", { pace: { reuseDelayTurns: 50 } }, {});
  let x = 99;
  for (let round = 0; round < 200; round++) {
    x = (Math.imul(x, 1103515245) + 12345) & 0x7fffffff;
    const wait = (x >>> 8) % 900;
    const stop = r.side.turns + wait;
    r.run(() => r.side.turns >= stop);
    if (x & 0x80) {
      r.side.crash();
      r.side.bind();
    } else if (r.side.driver !== null) r.side.reset(true);
    else r.side.bind();
  }
  expect(r.run(() => r.side.state === "bound" && !r.side.busy && r.fn.live)).toBe(true);
  expect(u64(r.fn.queues[0]!.descLo, r.fn.queues[0]!.descHi)).toBe(r.side.truth!.queues[0]!.desc);
  expect(r.side.failures).toBe(0);
  expect(r.events.refused).toBe(0);
  r.side.close();
});
