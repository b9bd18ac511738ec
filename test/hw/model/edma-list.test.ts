/** The linked-list protocol of the model against dw-hardware.md 2 and 3 (and 14). */
import { describe, expect, test } from "bun:test";
import {
  CS_RUNNING,
  CS_STOPPED,
  CTL_CB,
  CTL_CCS,
  CTL_LIE,
  CTL_LLE,
  CTL_LLP,
  CTL_RIE,
  CTL_TCB,
  EDMA,
  EDMA_CH,
} from "../../../src/hw/edma.regs.ts";
import { bench, HOST_BASE } from "./bench-board.ts";

for (const dmaMap of ["legacy", "unroll"] as const) {
  describe(`${dmaMap} map`, () => {
    test("a write channel copies board memory to the host, bytes and odd lengths exact", () => {
      const b = bench({ dmaMap });
      for (let i = 0; i < 4096; i++) b.data.u8[i] = i * 7;
      b.list.data(0, CTL_CB, 1501, b.data.bus + 3, HOST_BASE + 77);
      b.list.data(1, CTL_CB | CTL_LIE, 1, b.data.bus + 9, HOST_BASE + 5000);
      b.wr.start(b.list.slot(0));
      expect(b.wr.cs).toBe(CS_RUNNING);
      b.turns(2);
      expect(b.wr.cs).toBe(CS_STOPPED);
      expect(b.host.u8.slice(77, 77 + 1501)).toEqual(b.data.u8.slice(3, 3 + 1501));
      expect(b.host.u8[76]).toBe(0);
      expect(b.host.u8[77 + 1501]).toBe(0);
      expect(b.host.u8[5000]).toBe(63);
      expect(b.model.violations).toEqual([]);
      expect(b.model.stats.bytesToHost).toBe(1502);
    });
    test("a read channel copies host memory to the board", () => {
      const b = bench({ dmaMap });
      for (let i = 0; i < 4096; i++) b.host.u8[i] = i * 11;
      b.list.data(0, CTL_CB | CTL_LIE, 3000, HOST_BASE + 1, b.data.bus + 2);
      b.rd.start(b.list.slot(0));
      b.turns(1);
      expect(b.data.u8.slice(2, 3002)).toEqual(b.host.u8.slice(1, 3001));
      expect(b.rd.status).toBe(1);
      expect(b.wr.status).toBe(0);
      expect(b.model.violations).toEqual([]);
    });
    test("CS goes 0 (never started), 1 (running), 3 (stopped); LLP rests behind the last element", () => {
      const b = bench({ dmaMap });
      expect(b.wr.cs).toBe(0);
      b.list.data(0, CTL_CB, 4, b.data.bus, HOST_BASE);
      b.wr.start(b.list.slot(0));
      expect(b.wr.cs).toBe(CS_RUNNING);
      expect(b.wr.llp).toBe(b.list.slot(0));
      b.turns(1);
      expect(b.wr.cs).toBe(CS_STOPPED);
      expect(b.wr.llp).toBe(b.list.slot(1));
    });
  });
}

describe("cycle bit", () => {
  test("an element with the other CB is not executed, the stop sets done", () => {
    const b = bench();
    b.list.data(0, 0, 4, b.data.bus, HOST_BASE);
    b.data.u32[0] = 7;
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.wr.cs).toBe(CS_STOPPED);
    expect(b.host.u8[0]).toBe(0);
    expect(b.wr.status).toBe(1);
    expect(b.wr.llp).toBe(b.list.slot(0));
    expect(b.model.stats.elements).toBe(0);
  });
  test("Linux's chunks: link with CB = !c is followed, the engine rests at slot 0, the next chunk needs a doorbell only", () => {
    const b = bench();
    const N = 20;
    let c = 1;
    for (let chunk = 0; chunk < 5; chunk++) {
      for (let i = 0; i < N; i++) {
        b.data.u32[i] = chunk * 100 + i;
        b.list.data(i, c | (i === N - 1 ? CTL_LIE : 0), 4, b.data.bus + 4 * i, HOST_BASE + 4 * i);
      }
      b.list.link(N, c ^ 1);
      if (chunk === 0) b.wr.start(b.list.slot(0));
      else b.wr.doorbell();
      b.turns(1);
      expect(b.wr.cs).toBe(CS_STOPPED);
      expect(b.wr.llp).toBe(b.list.slot(0));
      expect(b.wr.status).toBe(1);
      b.wr.clear(1);
      expect(new Uint32Array(b.host.u8.buffer, 4 * (N - 1), 1)[0]).toBe(chunk * 100 + N - 1);
      c ^= 1;
    }
    expect(b.model.stats.linksFollowed).toBe(5);
    expect(b.model.stats.elements).toBe(100);
  });
  test("a link whose CB is neither the new CCS stops the channel in front of it", () => {
    const b = bench();
    b.list.data(0, CTL_CB, 4, b.data.bus, HOST_BASE);
    b.list.link(1, 1);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.wr.llp).toBe(b.list.slot(1));
    expect(b.model.stats.linksFollowed).toBe(0);
    // the fact says "or not at all": the switch
    b.model.edma.checkLinkCycle = false;
    b.wr.doorbell();
    b.turns(1);
    expect(b.wr.llp).toBe(b.list.slot(0));
    expect(b.model.stats.linksFollowed).toBe(1);
  });
  test("a link without TCB keeps CCS", () => {
    const b = bench();
    const w = b.list.region.i32;
    b.list.data(0, CTL_CB, 4, b.data.bus, HOST_BASE);
    w[6] = CTL_LLP | CTL_CB;
    w[8] = b.list.slot(10);
    w[9] = 0;
    b.list.data(10, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE + 4);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.model.stats.elements).toBe(2);
    expect(b.wr.llp).toBe(b.list.slot(11));
  });
  test("restart: doorbell alone continues with the retained CCS and LLP", () => {
    const b = bench();
    b.list.data(0, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    b.wr.clear(1);
    b.list.data(1, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE + 4);
    b.turns(5);
    expect(b.model.stats.elements).toBe(1);
    b.wr.doorbell();
    b.turns(1);
    expect(b.model.stats.elements).toBe(2);
    expect(b.wr.status).toBe(1);
  });
  test("CONTROL1 = CCS | LLE and LLP set the start also when an earlier list left CCS = 0", () => {
    const b = bench();
    b.list.data(0, CTL_CB, 4, b.data.bus, HOST_BASE);
    b.list.link(1, 0);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.wr.get(EDMA_CH.CH_CONTROL1) & CTL_CCS).toBe(0);
    b.list.data(5, CTL_CB, 4, b.data.bus, HOST_BASE + 8);
    b.data.u32[0] = 9;
    b.wr.start(b.list.slot(5));
    b.turns(1);
    expect(b.host.u8[8]).toBe(9);
  });
  test("an element appended while the channel runs is taken without a doorbell", () => {
    const b = bench({ faults: { holdFetched: 1 } });
    b.list.data(0, CTL_CB, 4, b.data.bus, HOST_BASE);
    b.list.data(1, CTL_CB, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(b.wr.cs).toBe(CS_RUNNING);
    b.list.data(2, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE + 12);
    b.turns(4);
    expect(b.model.stats.elements).toBe(3);
    expect(b.model.stats.doorbells).toBe(1);
  });
  test("a doorbell while running is not forgotten: the channel looks once more before it stops", () => {
    const b = bench({ faults: { holdFetched: 1 } });
    b.list.data(0, CTL_CB, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    b.wr.doorbell();
    expect(b.model.stats.busyDoorbells).toBe(1);
    b.turns(3);
    expect(b.wr.cs).toBe(CS_STOPPED);
    expect(b.model.stats.elements).toBe(1);
  });
  test("many laps of a ring with one doorbell each, compared byte by byte", () => {
    const b = bench({ seed: 7, faults: { holdFetched: 0.2 } });
    const N = 11;
    let slot = 0;
    let c = 1;
    let put = 0;
    for (let round = 0; round < 2000; round++) {
      const n = 1 + (round % 7);
      for (let k = 0; k < n; k++, put++) {
        b.data.u32[put & 1023] = put * 2654435761;
        b.list.data(slot, c, 4, b.data.bus + 4 * (put & 1023), HOST_BASE + 4 * (put & 4095));
        if (++slot === N) {
          b.list.link(N, c ^ 1);
          slot = 0;
          c ^= 1;
        }
      }
      if (round === 0) b.wr.start(b.list.slot(0));
      else if (b.wr.cs !== CS_RUNNING) b.wr.doorbell();
      for (let i = 0; i < 1000 && b.wr.cs === CS_RUNNING; i++) b.turns(1);
    }
    expect(b.model.stats.elements).toBe(put);
    const host = new Uint32Array(b.host.u8.buffer);
    for (let i = put - 1000; i < put; i++) expect(host[i & 4095]).toBe((i * 2654435761) >>> 0);
    expect(b.model.violations).toEqual([]);
  });
});

describe("done status", () => {
  test("LIE while running: status shows, the channel goes on", () => {
    const b = bench({ faults: { holdFetched: 1 } });
    for (let i = 0; i < 4; i++) b.list.data(i, CTL_CB | (i === 0 ? CTL_LIE : 0), 4, b.data.bus, HOST_BASE + 4 * i);
    b.wr.start(b.list.slot(0));
    for (let i = 0; i < 10 && b.wr.status === 0; i++) b.turns(1);
    expect(b.wr.status).toBe(1);
    expect(b.wr.cs).toBe(CS_RUNNING);
    b.turns(10);
    expect(b.wr.cs).toBe(CS_STOPPED);
    expect(b.model.stats.elements).toBe(4);
  });
  test("done is set once per LIE element and not again by the stop", () => {
    // the link behind the element is followed, so done shows while the channel has not stopped yet
    const b = bench({ faults: { lostDoorbell: 1 } });
    b.list.data(0, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.list.link(1, 0);
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect([b.wr.cs, b.wr.status]).toEqual([CS_RUNNING, 1]);
    b.wr.clear(1);
    b.turns(10);
    expect([b.wr.cs, b.wr.status]).toEqual([CS_STOPPED, 0]);
  });
  test("LIE alone sends no message", () => {
    const b = bench();
    b.model.controller().dma.st32(EDMA.WR_DONE_IMWR_LO, 0xfee00018);
    b.list.data(0, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(2);
    expect(b.wr.status).toBe(1);
    expect(b.host.messages).toEqual([]);
  });
  test("when done of the last data element shows, the link behind it has been fetched and may be overwritten", () => {
    const b = bench({ faults: { holdFetched: 0.5 }, seed: 3 });
    for (let round = 0; round < 50; round++) {
      const c = (round & 1) ^ 1;
      b.list.data(0, c | CTL_LIE, 4, b.data.bus, HOST_BASE);
      b.list.link(1, c ^ 1);
      if (round === 0) b.wr.start(b.list.slot(0));
      else b.wr.doorbell();
      for (let i = 0; i < 100 && b.wr.status === 0; i++) b.turns(1);
      expect(b.wr.status).toBe(1);
      b.list.region.i32.fill(-1, 6, 12);
      b.wr.clear(1);
      for (let i = 0; i < 100 && b.wr.cs === CS_RUNNING; i++) b.turns(1);
      expect(b.wr.cs).toBe(CS_STOPPED);
      expect(b.wr.llp).toBe(b.list.slot(0));
    }
    expect(b.model.stats.aborts).toBe(0);
  });
  test("RIE: exactly one message per element, behind its data, with the channel's 16 bits", () => {
    const b = bench();
    const { dma } = b.model.controller();
    dma.st32(EDMA.WR_DONE_IMWR_LO, 0xfee00018);
    dma.st32(EDMA.WR_IMWR_DATA_01, (0x4022 << 16) | 0x4021);
    b.list.data(0, CTL_CB | CTL_RIE | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.list.data(1, CTL_CB, 4, b.data.bus, HOST_BASE);
    b.list.data(2, CTL_CB | CTL_RIE, 4, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(2);
    expect(b.host.messages).toEqual([
      [0xfee00018, 0x4021],
      [0xfee00018, 0x4021],
    ]);
    b.list.data(40, CTL_CB | CTL_RIE, 4, b.data.bus, HOST_BASE);
    b.channel(true, 1).start(b.list.slot(40));
    b.turns(1);
    expect(b.host.messages[2]).toEqual([0xfee00018, 0x4022]);
    expect(b.model.stats.imwrWrites).toBe(3);
  });
  test("RIE: the data word of every channel, two in a register, on both sides", () => {
    const b = bench({ writeChannels: 8, readChannels: 8 });
    const { dma } = b.model.controller();
    for (const [isWrite, data, done] of [
      [true, EDMA.WR_IMWR_DATA_01, EDMA.WR_DONE_IMWR_LO],
      [false, EDMA.RD_IMWR_DATA_01, EDMA.RD_DONE_IMWR_LO],
    ] as const) {
      dma.st32(done, isWrite ? 0xfee01000 : 0xfee02000);
      for (let k = 0; k < 4; k++) dma.st32(data + 4 * k, ((2 * k + 1) << 16) | (2 * k));
      for (let n = 0; n < 8; n++) {
        const [sar, dar] = isWrite ? [b.data.bus, HOST_BASE] : [HOST_BASE, b.data.bus];
        b.list.data(n * 2, CTL_CB | CTL_RIE, 4, sar, dar);
        b.channel(isWrite, n).start(b.list.slot(n * 2));
        b.turns(1);
      }
    }
    expect(b.host.messages).toEqual(
      [0xfee01000, 0xfee02000].flatMap((at) => [0, 1, 2, 3, 4, 5, 6, 7].map((n): [number, number] => [at, n])),
    );
  });
  test("RIE to host memory: a 32-bit write of the 16-bit data", () => {
    const b = bench();
    const { dma } = b.model.controller();
    b.host.u8.fill(0xff, 0x1000, 0x1010);
    dma.st32(EDMA.RD_DONE_IMWR_LO, (HOST_BASE + 0x1004) | 0);
    dma.st32(EDMA.RD_DONE_IMWR_HI, 1);
    dma.st32(EDMA.RD_IMWR_DATA_01, 0x1234);
    b.list.data(0, CTL_CB | CTL_RIE, 4, HOST_BASE, b.data.bus);
    b.rd.start(b.list.slot(0));
    b.turns(1);
    expect([...b.host.u8.slice(0x1003, 0x1009)]).toEqual([0xff, 0x34, 0x12, 0, 0, 0xff]);
  });
});

describe("order", () => {
  test("posted writes of one channel land in the order of the list, with the message last", () => {
    const b = bench({ seed: 11 });
    b.data.u32[0] = 0x4021;
    b.list.data(0, CTL_CB, 2000, b.data.bus, HOST_BASE);
    b.list.data(1, CTL_CB, 4, b.data.bus, 0xfee0000c);
    let landed = -1;
    b.data.u8.fill(0x77, 4, 2000);
    b.host.message = (_addr, data) => {
      landed = data === 0x4021 ? b.host.u8[1999]! : -2;
      return true;
    };
    b.wr.start(b.list.slot(0));
    b.turns(1);
    expect(landed).toBe(0x77);
  });
  test("no order between channels: the seed decides which runs first", () => {
    const firsts = new Set<number>();
    for (let seed = 1; seed < 12; seed++) {
      const b = bench({ seed });
      for (const ch of [0, 1]) {
        b.list.data(20 * ch, CTL_CB, 4, b.data.bus + 4 * ch, HOST_BASE);
        b.data.u32[ch] = ch + 1;
      }
      b.wr.start(b.list.slot(0));
      b.channel(true, 1).start(b.list.slot(20));
      b.turns(1);
      firsts.add(b.host.u8[0]!);
    }
    expect([...firsts].sort()).toEqual([1, 2]);
  });
  test("the same seed gives the same run", () => {
    const run = (seed: number): number[] => {
      const b = bench({ seed, faults: { holdFetched: 0.3, lostDoorbell: 0.3 } });
      const order: number[] = [];
      b.host.message = (_a, data) => {
        order.push(data);
        return true;
      };
      for (const ch of [0, 1])
        for (let i = 0; i < 30; i++) {
          b.data.u32[ch * 30 + i] = ch * 30 + i;
          b.list.data(ch * 40 + i, CTL_CB, 4, b.data.bus + 4 * (ch * 30 + i), 0xfee00000);
        }
      b.wr.start(b.list.slot(0));
      b.channel(true, 1).start(b.list.slot(40));
      b.turns(100);
      return order;
    };
    expect(run(5)).toEqual(run(5));
    expect(run(5)).not.toEqual(run(6));
    expect(run(5).length).toBe(60);
  });
});

describe("packets (splitData)", () => {
  /** bytes that have arrived, looked at once a turn */
  const arrivals = (isWrite: boolean, size: number, off: number, devctl: number, lnkctl = 0): number[] => {
    const b = bench({ faults: { splitData: 1 } });
    b.model.cfgWrite(0x78, 2, devctl);
    b.model.cfgWrite(0x80, 2, lnkctl);
    const [from, to] = isWrite ? [b.data.u8, b.host.u8] : [b.host.u8, b.data.u8];
    from.fill(7, off, off + size);
    const [sar, dar] = isWrite ? [b.data.bus + off, HOST_BASE + off] : [HOST_BASE + off, b.data.bus + off];
    b.list.data(0, CTL_CB | CTL_LIE, size, sar, dar);
    const ch = isWrite ? b.wr : b.rd;
    ch.start(b.list.slot(0));
    const seen: number[] = [];
    for (let i = 0; i < 100 && ch.status === 0; i++) {
      b.turns(1);
      let n = 0;
      while (to[off + n] === 7) n++;
      seen.push(n);
    }
    expect(ch.cs).toBe(CS_STOPPED);
    expect(b.model.violations).toEqual([]);
    expect(b.model.stats.elements).toBe(1);
    expect(b.model.stats.bytesToHost + b.model.stats.bytesToBoard).toBe(size);
    return seen;
  };
  test("a write lands in order, cut at multiples of Max_Payload_Size", () => {
    expect(arrivals(true, 500, 100, 0x2810)).toEqual([28, 156, 284, 412, 500]);
    expect(arrivals(true, 500, 100, 0x2830)).toEqual([156, 412, 500]);
  });
  test("a read comes in completions cut at the read completion boundary, 64 or 128 bytes", () => {
    expect(arrivals(false, 200, 40, 0x2810)).toEqual([24, 88, 152, 200]);
    expect(arrivals(false, 200, 40, 0x2810, 8)).toEqual([88, 200]);
  });
  test("a channel that is stopped between packets leaves the rest where it is, and a new list begins at its start", () => {
    const b = bench({ faults: { splitData: 1 } });
    b.data.u8.fill(7, 0, 4096);
    b.list.data(0, CTL_CB, 1000, b.data.bus, HOST_BASE);
    b.wr.start(b.list.slot(0));
    b.turns(2);
    b.model.controller().dma.st32(EDMA.WR_ENGINE_EN, 0);
    b.turns(5);
    expect([b.host.u8[255], b.host.u8[256]]).toEqual([7, 0]);
    b.list.data(4, CTL_CB, 300, b.data.bus, HOST_BASE + 8192);
    b.wr.start(b.list.slot(4));
    b.turns(5);
    expect([b.host.u8[8192], b.host.u8[8192 + 299], b.host.u8[8192 + 300], b.host.u8[256]]).toEqual([7, 7, 0, 0]);
  });
});

describe("addresses", () => {
  test("list, data and registers above 4 GiB on the board's side", () => {
    const b = bench({ boardBase: 0x12_ffff_f000 });
    b.data.u32[0] = 0x1234;
    b.list.data(0, CTL_CB | CTL_LIE, 4, b.data.bus, HOST_BASE);
    b.list.link(1, 0);
    b.wr.start(b.list.slot(0));
    b.turns(2);
    expect(b.wr.get(EDMA_CH.CH_LLP_HI)).toBe(0x12);
    expect(b.wr.get(EDMA_CH.CH_SAR_HI)).toBe(0x13);
    expect(b.wr.llp).toBe(b.list.slot(0));
    expect(b.host.u8[0]).toBe(0x34);
    expect(b.model.violations).toEqual([]);
  });
});

describe("no list", () => {
  test("without LLE the context registers are one transfer", () => {
    const b = bench();
    const { dma } = b.model.controller();
    b.data.u8.fill(3, 0, 64);
    dma.st32(EDMA.WR_ENGINE_EN, 1);
    b.wr.set(EDMA_CH.CH_CONTROL1, CTL_LIE);
    b.wr.set(EDMA_CH.CH_SIZE, 64);
    b.wr.set(EDMA_CH.CH_SAR_LO, b.data.bus);
    b.wr.set(EDMA_CH.CH_SAR_HI, 0);
    b.wr.set(EDMA_CH.CH_DAR_LO, HOST_BASE | 0);
    b.wr.set(EDMA_CH.CH_DAR_HI, 1);
    b.wr.doorbell();
    b.turns(1);
    expect(b.host.u8[63]).toBe(3);
    expect(b.wr.cs).toBe(CS_STOPPED);
    expect(b.wr.status).toBe(1);
    expect(b.model.stats.elements).toBe(1);
  });
  test("CH_CONTROL1 reads back CCS and LLE, CS is read only", () => {
    const b = bench();
    b.wr.set(EDMA_CH.CH_CONTROL1, -1);
    expect(b.wr.cs).toBe(0);
    expect(b.wr.get(EDMA_CH.CH_CONTROL1) & (CTL_CCS | CTL_LLE)).toBe(CTL_CCS | CTL_LLE);
    expect(b.wr.get(EDMA_CH.CH_CONTROL1) & CTL_TCB).toBe(CTL_TCB);
  });
});
