/** Simulated time: the limit formula against published link figures, what elements take, order, determinism. */
import { describe, expect, test } from "bun:test";
import { capReadRequest } from "../../../src/hw/dbi.ts";
import { CH_ABORT, type DmaChannel } from "../../../src/hw/dma-channel.ts";
import { CAUSE_TIMEOUT, CS_HALTED, CS_STOPPED, CTL_CB, CTL_LIE, EDMA } from "../../../src/hw/edma.regs.ts";
import { Edma } from "../../../src/hw/edma.ts";
import { EventQueue } from "../../../src/hw/model/event-queue.ts";
import { Random } from "../../../src/hw/model/random.ts";
import { checkTiming, type LinkTiming, PRESETS, payloadLimit, preset, rawGbps } from "../../../src/hw/model/timing.ts";
import { WINDOW_BUS } from "../../../src/hw/model/window-mmio.ts";
import { type Bench, bench, HOST_BASE } from "./bench-board.ts";

const RK = preset("rk3588");
const quick = (over: Partial<LinkTiming> = {}): Bench => bench({ timing: { ...RK, ...over }, turnNs: 10 });

/** ns until the channel stands still */
function drain(b: Bench): number {
  const from = b.model.clock.now;
  for (let i = 0; b.model.edma.running !== 0; i++) {
    if (i > 1e6) throw new Error("does not come to rest");
    b.turns(1);
  }
  return b.model.clock.now - from;
}

describe("limits", () => {
  test("raw rate after line encoding: Gen1 x1 2 Gb/s, Gen2 x4 16, Gen3 x4 and Gen4 x2 31.5, Gen3 x1 7.88", () => {
    const raw = (gen: number, width: number) => rawGbps({ ...RK, gen, width });
    expect(raw(1, 1)).toBe(2);
    expect(raw(2, 4)).toBe(16);
    expect(raw(3, 4)).toBeCloseTo(31.508, 3);
    expect(raw(4, 2)).toBeCloseTo(31.508, 3);
    expect(raw(3, 1)).toBeCloseTo(7.877, 3);
  });
  test("payload share of writes with 64-bit addresses: 84 % at 128 bytes, 91 % at 256, 96 % at 512", () => {
    const share = (mps: number) => payloadLimit({ ...RK, mps }, "ep_to_host") / rawGbps(RK);
    expect(share(128)).toBeCloseTo(128 / 152, 6);
    expect(share(256)).toBeCloseTo(0.914, 3);
    expect(share(512)).toBeCloseTo(0.955, 3);
  });
  test("reads: completions carry 20 bytes each and the requests' DLLPs share their direction", () => {
    const t = { ...RK, mrrs: 512, completion: 64 };
    expect(payloadLimit(t, "host_to_ep") / rawGbps(t)).toBeCloseTo(1 / ((64 + 20) / 64 + 3.6 / 512), 9);
  });
  test("both directions together are less than twice one", () => {
    for (const t of Object.values(PRESETS)) {
      const both = payloadLimit(t, "both");
      const sum = payloadLimit(t, "ep_to_host") + payloadLimit(t, "host_to_ep");
      expect(both).toBeLessThan(sum);
      expect(both).toBeGreaterThan(0.8 * sum);
    }
  });
  test("presets pass their own rules; nonsense and unknown names are refused", () => {
    for (const t of Object.values(PRESETS)) checkTiming(t);
    expect(() => preset("rk3589")).toThrow(/no link preset "rk3589"/);
    expect(() => checkTiming({ ...RK, mps: 100 })).toThrow(/mps is 100/);
    expect(() => bench({ timing: { ...RK, gen: 9 } })).toThrow(/gen is 9/);
  });
});

test("event queue: in order of time, equal times in order of arrival", () => {
  const q = new EventQueue();
  const rnd = new Random(4);
  for (let i = 0; i < 5000; i++) q.push(rnd.below(500), 0, i);
  let last = -1;
  let arg = -1;
  let n = 0;
  while (q.pop()) {
    if (q.time < last || (q.time === last && q.arg < arg)) throw new Error(`order broken at event ${n}`);
    last = q.time;
    arg = q.arg;
    n++;
  }
  expect(n).toBe(5000);
  expect(q.next).toBe(Number.POSITIVE_INFINITY);
});

describe("one element", () => {
  test("a write lands half a round trip after the last byte left, its done comes earlier", () => {
    const b = quick();
    b.data.u8.fill(9, 0, 1500);
    b.list.data(0, CTL_CB | CTL_LIE, 1500, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    const from = b.model.clock.now;
    const wire = ((1500 + 6 * 24) * 8) / rawGbps(RK);
    let done = 0;
    let landed = 0;
    for (let i = 0; i < 1000 && landed === 0; i++) {
      b.turns(1);
      if (done === 0 && b.wr.status === 1) done = b.model.clock.now;
      if (landed === 0 && b.host.u8[1499] === 9) landed = b.model.clock.now;
    }
    expect(done - from).toBeGreaterThanOrEqual(RK.llFetchNs + wire);
    expect(done - from).toBeLessThan(RK.llFetchNs + wire + 21);
    expect(landed - done).toBeGreaterThanOrEqual(RK.roundTripNs / 2 - 10);
    expect(landed - done).toBeLessThan(RK.roundTripNs / 2 + 21);
  });
  test("what a write carries is read when it leaves: overwriting the source afterwards does no harm", () => {
    const b = quick();
    b.data.u8.fill(1, 0, 64);
    b.list.data(0, CTL_CB | CTL_LIE, 64, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    while (b.wr.status === 0) b.turns(1);
    expect(b.host.u8[0]).toBe(0);
    b.data.u8.fill(2, 0, 64);
    b.turns(200);
    expect(b.host.u8[63]).toBe(1);
  });
  test("a read takes one round trip, and brings what the host had when the request came", () => {
    const b = quick();
    b.host.u8.fill(1, 0, 64);
    b.list.data(0, CTL_CB | CTL_LIE, 64, HOST_BASE, b.data.bus);
    b.rd.start(b.list.slot(0));
    const from = b.model.clock.now;
    while (b.model.clock.now < from + RK.llFetchNs + RK.roundTripNs / 2 + 50) b.turns(1);
    b.host.u8.fill(2, 0, 64);
    expect(b.data.u8[0]).toBe(0);
    while (b.rd.status === 0) b.turns(1);
    const took = b.model.clock.now - from;
    expect(b.data.u8[63]).toBe(1);
    expect(took).toBeGreaterThan(RK.llFetchNs + RK.roundTripNs);
    expect(took).toBeLessThan(RK.llFetchNs + RK.roundTripNs + 100);
  });
  test("LLP and status never promise data that is not there", () => {
    const b = quick();
    b.host.u8.fill(7);
    const N = 100;
    for (let i = 0; i < N; i++)
      b.list.data(i, CTL_CB | (i === N - 1 ? CTL_LIE : 0), 700, HOST_BASE, b.data.bus + 1024 * i);
    b.rd.start(b.list.slot(0));
    for (let i = 0; i < 100_000 && b.rd.cs !== CS_STOPPED; i++) {
      b.turns(1);
      const at = (b.rd.llp - b.list.slot(0)) / 24;
      // the rule of DmaChannel: an element has landed when the engine moved past the one behind it
      for (let k = 0; k < at - 1; k++)
        if (b.data.u8[1024 * k + 699] !== 7) throw new Error(`LLP at ${at}, element ${k} is not there`);
    }
    expect(b.rd.cs).toBe(CS_STOPPED);
    expect(b.data.u8[1024 * (N - 1) + 699]).toBe(7);
    expect(b.model.violations).toEqual([]);
  });
});

describe("streams", () => {
  const rate = (t: LinkTiming, isWrite: boolean, size: number): number => {
    const b = bench({ timing: t, turnNs: 100 });
    const N = 160;
    for (let i = 0; i < N; i++) {
      const local = b.data.bus + (i % 8) * 65536;
      const remote = HOST_BASE + (i % 8) * 65536;
      b.list.data(i, CTL_CB, size, isWrite ? local : remote, isWrite ? remote : local);
    }
    (isWrite ? b.wr : b.rd).start(b.list.slot(0));
    const ns = drain(b);
    expect(b.model.violations).toEqual([]);
    expect(b.model.stats.elements).toBe(N);
    return (N * size * 8) / ns;
  };
  for (const t of Object.values(PRESETS)) {
    test(`${t.name}: large elements reach the payload limit in either direction and never pass it`, () => {
      for (const [isWrite, direction] of [
        [true, "ep_to_host"],
        [false, "host_to_ep"],
      ] as const) {
        const share = rate(t, isWrite, 32768) / payloadLimit(t, direction);
        expect(share).toBeGreaterThan(0.98);
        expect(share).toBeLessThanOrEqual(1.001);
      }
    });
  }
  test("few tags, or one read element at a time, cost read throughput", () => {
    const full = rate(RK, false, 1500);
    expect(rate({ ...RK, tags: 2 }, false, 1500)).toBeLessThan(0.5 * full);
    expect(rate({ ...RK, readElements: 1 }, false, 1500)).toBeLessThan(0.5 * full);
  });
  test("reads and writes share the link as the formula for both says", () => {
    const b = bench({ timing: RK, turnNs: 100 });
    const N = 80;
    for (let i = 0; i < N; i++) {
      const at = (i % 8) * 32768;
      b.list.data(i, CTL_CB, 32768, b.data.bus + at, HOST_BASE + at);
      b.list.data(i + 85, CTL_CB, 32768, HOST_BASE + 262144 + at, b.data.bus + 262144 + at);
    }
    b.wr.start(b.list.slot(0));
    b.rd.start(b.list.slot(85));
    const ns = drain(b);
    const share = (2 * N * 32768 * 8) / ns / payloadLimit(RK, "both");
    expect(share).toBeGreaterThan(0.95);
    expect(share).toBeLessThanOrEqual(1.001);
  });
  test("two write channels share the way up about evenly", () => {
    const b = bench({ timing: RK, turnNs: 100 });
    for (let i = 0; i < 80; i++) {
      b.list.data(i, CTL_CB, 4096, b.data.bus, HOST_BASE);
      b.list.data(i + 85, CTL_CB, 4096, b.data.bus, HOST_BASE);
    }
    b.wr.start(b.list.slot(0));
    b.channel(true, 1).start(b.list.slot(85));
    while (b.model.stats.elements < 80) b.turns(1);
    const [a, c] = b.model.edma.writeChannels;
    expect(Math.abs(a!.elements - c!.elements)).toBeLessThan(4);
  });
});

test("posted writes of a channel land in order, the message last, RIE messages too", () => {
  const b = quick();
  const { dma } = b.model.controller();
  dma.st32(EDMA.WR_DONE_IMWR_LO, 0xfee00018);
  dma.st32(EDMA.WR_IMWR_DATA_01, 7);
  b.data.u8.fill(3, 0, 9000);
  b.data.u32[0] = 5;
  let seen = "";
  b.host.message = (_a, data) => {
    seen += `${data}:${b.host.u8[8999]}:${b.host.u8[20000]} `;
    return true;
  };
  b.list.data(0, CTL_CB, 8990, b.data.bus + 10, HOST_BASE + 10);
  b.list.data(1, CTL_CB, 4, b.data.bus, 0xfee0000c);
  b.list.data(2, CTL_CB | (1 << 4), 1, b.data.bus + 10, HOST_BASE + 20000);
  b.wr.start(b.list.slot(0));
  b.turns(1000);
  expect(seen).toBe("5:3:0 7:3:3 ");
});

describe("errors and stops in time", () => {
  const one = (b: Bench, isWrite: boolean, sar: number, dar: number, size = 4096) => {
    const ch = isWrite ? b.wr : b.rd;
    b.list.data(0, CTL_CB | CTL_LIE, size, sar, dar);
    ch.start(b.list.slot(0));
    return ch;
  };
  test("an injected cause, memory that is not there on either side: halted, with the cause", () => {
    let b = quick();
    b.model.edma.injectCause = CAUSE_TIMEOUT;
    let ch = one(b, false, HOST_BASE, b.data.bus);
    drain(b);
    expect([ch.cs, b.model.controller().dma.ld32(EDMA.RD_ERR_STATUS_HI)]).toEqual([CS_HALTED, 1 << 16]);
    b = quick();
    ch = one(b, false, HOST_BASE, 0x10);
    drain(b);
    expect([ch.cs, b.model.controller().dma.ld32(EDMA.RD_ERR_STATUS_LO)]).toEqual([CS_HALTED, 1]);
    b = quick();
    ch = one(b, true, 0x10, HOST_BASE);
    drain(b);
    expect([ch.cs, b.model.controller().dma.ld32(EDMA.WR_ERR_STATUS)]).toEqual([CS_HALTED, 1]);
    b = quick();
    ch = one(b, false, 0x7000_0000, b.data.bus);
    drain(b);
    expect([ch.cs, b.model.controller().dma.ld32(EDMA.RD_ERR_STATUS_HI)]).toEqual([CS_HALTED, 1]);
  });
  test("completions of a read that was disabled are not written: their memory may be somebody else's by now", () => {
    const b = quick();
    b.host.u8.fill(5, 0, 4096);
    const ch = one(b, false, HOST_BASE, b.data.bus);
    b.turns(60);
    b.model.controller().dma.st32(EDMA.RD_ENGINE_EN, 0);
    b.turns(1000);
    expect([ch.cs, b.data.u8[0], b.model.stats.elements]).toEqual([CS_STOPPED, 0, 0]);
  });
  test("a doorbell while the channel runs is not forgotten: it looks once more before it stops", () => {
    for (const again of [true, false]) {
      const b = quick({ regWriteNs: 0 });
      b.wr.start(b.list.slot(0));
      if (again) b.wr.doorbell();
      b.turns(5);
      // too late for the first look, in time for the second
      b.list.data(0, CTL_CB, 4, b.data.bus, HOST_BASE);
      b.turns(500);
      expect(b.model.stats.elements).toBe(again ? 1 : 0);
      expect(b.model.stats.lostDoorbells).toBe(again ? 0 : 1);
    }
  });
  test("INTx messages arrive half a round trip later, in order", () => {
    const b = quick();
    const { atu, window } = b.model.controller();
    for (const [n, code] of [
      [0, 0x20],
      [1, 0x24],
    ] as const) {
      const at = n << 9;
      atu!.st32(at + 0x08, n * 65536);
      atu!.st32(at + 0x0c, WINDOW_BUS / 2 ** 32);
      atu!.st32(at + 0x10, n * 65536 + 0xffff);
      atu!.st32(at, 0x14);
      atu!.st32(at + 0x04, 0x80000000 | 0x400000 | code | 0);
    }
    window.st32(0, 0);
    window.st32(65536, 0);
    expect(b.host.intxEdges).toEqual([]);
    b.turns(Math.ceil(RK.roundTripNs / 2 / 10) + 10);
    expect(b.host.intxEdges).toEqual([true, false]);
  });
});

describe("packet sizes are those of Device Control", () => {
  const devctl = (b: Bench, mps: number, mrrs: number) =>
    b.model.cfgWrite(0x78, 2, 0x0810 | (Math.log2(mps / 128) << 5) | (Math.log2(mrrs / 128) << 12));
  test("after a reset they are the link's; the host may change them, and the packets follow", () => {
    const b = quick();
    expect(b.model.cfgRead(0x78, 2)).toBe(0x0810 | (1 << 5) | (2 << 12));
    const count = (odd = 0): [number, number] => {
      const { tlpWrites, tlpReads } = b.model.stats;
      b.list.data(0, CTL_CB, 4096, b.data.bus, HOST_BASE + odd);
      b.list.data(9, CTL_CB, 4096, HOST_BASE + odd, b.data.bus + 8192);
      b.wr.start(b.list.slot(0));
      b.rd.start(b.list.slot(9));
      drain(b);
      b.turns(100);
      return [b.model.stats.tlpWrites - tlpWrites, b.model.stats.tlpReads - tlpReads];
    };
    expect(count()).toEqual([16, 8]);
    devctl(b, 128, 128);
    expect(count()).toEqual([32, 32]);
    // an odd start is one packet more, however long the element is
    expect(count(78)).toEqual([33, 33]);
    devctl(b, 512, 4096);
    // a chunk of the model ends a packet: 2 KiB
    expect(count()).toEqual([8, 2]);
    expect(b.model.violations).toEqual([]);
    b.model.hotReset();
    expect(b.model.cfgRead(0x78, 2)).toBe(0x0810 | (1 << 5) | (2 << 12));
  });
  test("packets as large as they can be: every byte is where it belongs", () => {
    const b = quick();
    devctl(b, 4096, 4096);
    for (let i = 0; i < 65536; i++) {
      b.data.u8[i] = (i * 131) >>> 3;
      b.host.u8[0x40000 + i] = (i * 137) >>> 4;
    }
    for (let i = 0; i < 4; i++) {
      b.list.data(i, CTL_CB, 16384, b.data.bus + 16384 * i, HOST_BASE + 16384 * i);
      b.list.data(i + 9, CTL_CB, 16384, HOST_BASE + 0x40000 + 16384 * i, b.data.bus + 0x40000 + 16384 * i);
    }
    b.wr.start(b.list.slot(0));
    b.rd.start(b.list.slot(9));
    drain(b);
    b.turns(100);
    expect(Buffer.compare(b.host.u8.subarray(0, 65536), b.data.u8.subarray(0, 65536))).toBe(0);
    expect(Buffer.compare(b.data.u8.subarray(0x40000, 0x50000), b.host.u8.subarray(0x40000, 0x50000))).toBe(0);
  });
  test("R-Car's spoiled reads go away when the board caps the read request size", () => {
    const b = bench({ timing: RK, turnNs: 10, faults: { rcarReadRequest: true }, maxReadRequest: 128 });
    const ctrl = b.model.controller();
    expect(ctrl.core.maxReadRequest).toBe(128);
    b.host.u8.fill(0x11, 0, 1024);
    const bad = (): number => {
      b.list.data(0, CTL_CB, 1000, HOST_BASE, b.data.bus);
      b.rd.start(b.list.slot(0));
      drain(b);
      return b.data.u8.slice(0, 1000).filter((v) => v !== 0x11).length;
    };
    expect(bad()).toBe(3 * 32);
    expect(capReadRequest(ctrl, 128)).toBe(128);
    expect(bad()).toBe(0);
  });
});

describe("the board's CPU", () => {
  const window = (b: Bench) => {
    const c = b.model.controller();
    c.atu!.st32(0x08, 0);
    c.atu!.st32(0x0c, WINDOW_BUS / 2 ** 32);
    c.atu!.st32(0x10, 0xfffff);
    c.atu!.st32(0x14, HOST_BASE | 0);
    c.atu!.st32(0x18, 1);
    c.atu!.st32(0x04, 0x80000000 | 0);
    return c.window;
  };
  test("a read through the window stands still for a round trip, a write does not; a read sees earlier writes", () => {
    const b = quick();
    const w = window(b);
    const t0 = b.model.clock.now;
    w.st32(64, 0x1234);
    expect(b.model.clock.now - t0).toBe(RK.cpuWriteNs);
    expect(b.host.u8[64]).toBe(0);
    expect(w.ld32(64)).toBe(0x1234);
    expect(b.model.clock.now - t0).toBeGreaterThanOrEqual(RK.cpuWriteNs + RK.cpuReadNs);
  });
  test("memcpy from the window costs a stall per access: a small fraction of a gigabit", () => {
    const b = quick();
    window(b);
    b.host.u8.fill(6, 0, 65536);
    const t0 = b.model.clock.now;
    expect(b.model.window.bulk(0, b.data.ptr, 65536, false)).toBe(65536);
    const gbps = (65536 * 8) / (b.model.clock.now - t0);
    expect(b.data.u8[65535]).toBe(6);
    expect(b.model.stats.nonPostedReads).toBe(65536 / RK.cpuReadBytes);
    expect(gbps).toBeCloseTo((RK.cpuReadBytes * 8) / RK.cpuReadNs, 3);
  });
  test("memcpy to the window is posted, and bounded by the link", () => {
    const b = quick();
    window(b);
    b.data.u8.fill(8, 0, 65536);
    const t0 = b.model.clock.now;
    b.model.window.bulk(0, b.data.ptr, 65536, true);
    const gbps = (65536 * 8) / (b.model.clock.now - t0);
    b.turns(1000);
    expect(b.host.u8[65535]).toBe(8);
    expect(gbps).toBeLessThan(rawGbps(RK));
    expect(gbps).toBeCloseTo((RK.cpuWriteBytes * 8) / RK.cpuWriteNs, 1);
  });
});

describe("EdmaChannel in simulated time", () => {
  /** Random elements through Linux-like channels, both directions; what the driver takes for landed must be there. */
  const run = (seed: number): [number, number, number] => {
    const b = bench({ timing: preset("rcar-s4"), turnNs: 80, seed });
    const edma = new Edma(b.model.controller());
    const rnd = new Random(seed);
    const chans: DmaChannel[] = [edma.open(true, 0, 60), edma.open(false, 0, 60), edma.open(true, 1, 60)];
    const size = 512;
    const cells = 256;
    let total = 0;
    const put = [0, 0, 0];
    const seen = [0, 0, 0];
    for (let turn = 0; total < 6000 && turn < 200_000; turn++) {
      chans.forEach((ch, k) => {
        if (ch.progress() === CH_ABORT) throw new Error(`abort ${ch.lastError}`);
        for (; seen[k]! < ch.doneCount; seen[k]!++) {
          const n = seen[k]!;
          const at = k * cells * size + (n % cells) * size;
          // a read's data is on the board when it counts as done; a write's has at least left the board
          if (!ch.isWrite && b.data.u8[at + size - 1] !== (n & 0xff))
            throw new Error(`element ${n} of ${k} is not there`);
          if (ch.isWrite) b.data.u8[at + size - 1] = 0xee;
          total++;
        }
        let more = rnd.below(8);
        for (; more > 0 && ch.room() > 0; more--) {
          const n = put[k]!++;
          const at = k * cells * size + (n % cells) * size;
          const local = b.data.bus + at;
          const remote = HOST_BASE + at;
          if (ch.isWrite) b.data.u8[at + size - 1] = n & 0xff;
          else b.host.u8[at + size - 1] = n & 0xff;
          if (ch.isWrite) ch.put(size, local | 0, 0, remote | 0, 1);
          else ch.put(size, remote | 0, 1, local | 0, 0);
        }
        ch.commit();
      });
      b.turns(1);
    }
    b.turns(2000);
    for (const k of [0, 2]) {
      // the host has what the board held when each write left
      for (let n = put[k]! - 60; n < seen[k]!; n++)
        if (b.host.u8[k * cells * size + (n % cells) * size + size - 1] !== (n & 0xff))
          throw new Error(`write ${n} of ${k}`);
    }
    expect(b.model.violations).toEqual([]);
    return [total, b.model.clock.now, b.model.stats.doorbells];
  };
  test("data is there when the driver says so, and the same seed gives the same figures", () => {
    const first = run(3);
    expect(first[0]).toBeGreaterThanOrEqual(6000);
    expect(run(3)).toEqual(first);
    expect(run(4)).not.toEqual(first);
  });
});
