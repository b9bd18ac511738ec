/** Defects that the soak or a reading found once, each by its smallest case. */
import { describe, expect, test } from "bun:test";
import { WindowFetcher } from "../../src/engine/fetch.ts";
import { SLICE_IDLE, SLICE_OVER } from "../../src/engine/service.ts";
import { Iatu } from "../../src/hw/iatu.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import { HostMemory } from "../../src/hw/model/host-memory.ts";
import { EngineRig } from "../support/engine-rig.ts";

test("a frame that needs more receive buffers than the mark for fetching more of them", () => {
  const net = { rx: { least: 1536, most: 1536, align: 64, splitHeader: false, spare: 0 } };
  const rig = new EngineRig({ core: "modern-msix", host: { net, queueSize: 64 } });
  rig.up();
  rig.exchange(40, 300);
  // 43 of 64 buffers, with every number of them left from what came before
  for (let i = 0; i < 64; i++) {
    rig.port.send(rig.toHost.make(100));
    rig.port.send(rig.toHost.make(65_000));
    rig.until("65000 bytes", () => rig.toHost.received === rig.toHost.sent, 50_000);
  }
  expect(rig.engine.dp.toHost.dropped).toBe(0);
  rig.close();
});

test("turns so slow that a slice ends before enough of them were idle: the loop comes to rest all the same", () => {
  const rig = new EngineRig({ core: "modern-msix" });
  rig.up();
  rig.exchange(10);
  const { service } = rig.engine;
  const why: number[] = [];
  for (let i = 0; i < 1000 && why.at(-1) !== SLICE_IDLE; i++) {
    why.push(service.slice(20));
    service.attend(why.at(-1)!);
  }
  expect(why.at(-1)).toBe(SLICE_IDLE);
  expect(why.slice(0, -1).every((w) => w === SLICE_OVER)).toBe(true);
  rig.close();
});

test("a vector that stays masked does not keep the loop awake", () => {
  const rig = new EngineRig({ core: "modern-msix" });
  rig.up();
  rig.exchange(10);
  expect(rig.host.maskVector(1, 1_000_000)).toBe(true);
  rig.until("masked", () => !rig.host.maskVector(1, 1_000_000));
  for (let i = 0; i < 3; i++) rig.port.send(rig.toHost.make(64));
  rig.until("held", () => rig.engine.irq.owed);
  let why = SLICE_OVER;
  for (let i = 0; i < 1000 && why !== SLICE_IDLE; i++) {
    why = rig.engine.service.slice(1000);
    rig.engine.service.attend(why);
  }
  expect(why).toBe(SLICE_IDLE);
  expect(rig.engine.irq.owed).toBe(true);
  rig.close();
});

describe("one ring is reset, the other goes on", () => {
  // the wide word with bit 8, which stands for RING_RESET
  const engine = { features: "0x000199fb", mtu: 3000 };
  for (const kernel of ["6.1", "7.3"] as const) {
    for (const which of [0, 1] as const) {
      test(`${which === 0 ? "receiveq" : "transmitq"}, ${kernel} kernel: nothing wrong, nothing stuck, no new life`, () => {
        const rig = new EngineRig({ core: "modern-msix", engine, host: { kernel } });
        rig.up();
        rig.exchange(300);
        for (let i = 0; i < 20; i++) {
          rig.queue(60, 3000);
          for (let k = rig.random.below(6); k > 0; k--) rig.slice();
          expect(rig.host.resetQueue(which)).toBe(true);
          rig.until("reset", () => rig.engine.fn.stats.queueResets === i + 1 && rig.engine.fn.live);
          rig.until("quiet", () => rig.port.backlog === 0 && rig.end.backlog === 0 && rig.engine.dp.quiet);
          rig.exchange(10);
        }
        expect(rig.engine.service.resets).toBe(0);
        expect(rig.engine.service.faults).toBe(0);
        expect(rig.port.starts).toBe(1);
        // what the other direction sent has all arrived
        const other = which === 0 ? rig.toBoard : rig.toHost;
        rig.until("all of the other direction", () => other.received === other.sent);
        rig.close();
      });
    }
  }

  test("the host resets the function while a ring's reset is open", () => {
    const rig = new EngineRig({ core: "modern-msix", engine });
    rig.up();
    rig.exchange(50);
    for (let i = 0; i < 20; i++) {
      rig.queue(20);
      rig.host.resetQueue(rig.random.below(2) as 0 | 1);
      for (let k = rig.random.below(4); k > 0; k--) rig.engine.service.attend(rig.engine.service.slice(5));
      const binds = rig.host.binds;
      rig.host.reset(true);
      rig.until("bound", () => rig.host.binds > binds);
      rig.up();
      rig.until("backlog", () => rig.port.backlog === 0 && rig.end.backlog === 0);
      rig.exchange(10);
    }
    expect(rig.engine.service.faults).toBe(0);
    rig.close();
  });
});

describe("reading through the window", () => {
  function window(): { fetcher: WindowFetcher; model: EndpointModel; memory: HostMemory } {
    const model = new EndpointModel({ boardMemory: 1 << 20 });
    const memory = new HostMemory({ bytes: 16 << 20, base: 0x12_0000_0000 - 0x8000, strict: false });
    model.attach({ memory: memory.space, message: () => false, intx: () => {} });
    model.cfgWrite(4, 2, 6);
    const ctrl = model.controller();
    return { fetcher: new WindowFetcher(ctrl, new Iatu(ctrl), 2, 3, ctrl.core.windowAlign), model, memory };
  }

  test("every alignment and length of two bytes, across windows and 4 GiB", () => {
    const { fetcher, model, memory } = window();
    for (let i = 0; i < memory.u8.length; i++) memory.u8[i] = Math.imul(i, 2654435761) >>> 24;
    const to = model.controller().memory.alloc("to", 4096, 64);
    for (const around of [0x8000, 0x18000, 0x40000]) {
      for (let from = around - 10; from <= around + 4; from += 2) {
        for (let n = 2; n <= 40; n += 2) {
          for (const off of [0, 2, 6]) {
            to.u8.fill(0xee, 0, 128);
            const addr = memory.base + from;
            fetcher.put(n, addr | 0, Math.floor(addr / 2 ** 32), to, off);
            expect(Buffer.compare(to.u8.subarray(off, off + n), memory.u8.subarray(from, from + n))).toBe(0);
            expect(to.u8[off + n]).toBe(0xee);
            if (off > 0) expect(to.u8[off - 1]).toBe(0xee);
          }
        }
      }
    }
    fetcher.reset();
    memory.close();
  });

  test("an address that nobody can have reads as ones and throws nothing", () => {
    const { fetcher, model, memory } = window();
    const to = model.controller().memory.alloc("to", 4096, 64);
    for (const hi of [0xffffffff, 0x7fffffff, 0x200000, 0x1fffff]) {
      to.u8.fill(0, 0, 64);
      fetcher.put(32, 0xfffffff0 | 0, hi | 0, to, 0);
      expect([...to.u8.subarray(0, 33)]).toEqual([...new Array(32).fill(0xff), 0]);
    }
    memory.close();
  });
});
