/** Single transfers of a channel between stretches of its list: against the model, bytes compared, and register by register. */
import { describe, expect, test } from "bun:test";
import { CH_ABORT, type DmaChannel } from "../../src/hw/dma-channel.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import { dumpController } from "../../src/hw/dumps.ts";
import {
  CAUSE_GONE,
  CAUSE_UR,
  CS_HALTED,
  CS_RUNNING,
  CS_STOPPED,
  CTL_CCS,
  CTL_CS_SHIFT,
  CTL_LIE,
  CTL_LLE,
  causeText,
  contextOffset,
  EDMA,
  EDMA_CH,
  EDMA_VP,
  LL_BYTES,
  VIEWPORT_CONTEXT,
  VIEWPORT_READ,
} from "../../src/hw/edma.regs.ts";
import { Edma } from "../../src/hw/edma.ts";
import { EdmaChannel } from "../../src/hw/edma-channel.ts";
import type { Mmio } from "../../src/hw/mmio.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { preset } from "../../src/hw/model/timing.ts";
import { Mover, plug, rng } from "../support/mover.ts";
import { HOST_SIZE } from "./model/bench-board.ts";

const ROUNDS = 30_000;
const cases: { name: string; options: Partial<ModelOptions>; rounds?: number }[] = [
  { name: "unrolled map", options: { dmaMap: "unroll" } },
  { name: "legacy map", options: { dmaMap: "legacy", atu: "viewport" } },
  { name: "HDMA-compatible map, memory above 4 GiB", options: { dmaMap: "compat", boardBase: 0x8_ffff_f000 } },
  { name: "registers that are lost with every transfer", options: { faults: { contextLost: true } } },
  {
    name: "doorbells lost, data held and split, a doorbell to a channel that is not idle wedges it, strict",
    options: {
      faults: { lostDoorbell: 0.4, holdFetched: 0.3, splitData: 0.3, notIdleDoorbell: true },
      strict: true,
    },
  },
  { name: "simulated time", options: { timing: preset("rk3588"), turnNs: 50 }, rounds: 4000 },
  {
    name: "simulated time, a doorbell to a channel that is not idle wedges it",
    // not idle for the fetch of an element, 100 ns
    options: { timing: preset("imx8mp"), turnNs: 120, faults: { notIdleDoorbell: true } },
    rounds: 4000,
  },
];

describe("lists and single transfers in turn on two channels of a model, every byte compared", () => {
  for (const { name, options, rounds = ROUNDS } of cases)
    for (const lie of [false, true])
      test(`${name}, lie=${lie}`, () => {
        const { model, ctrl, host } = plug({ ...options, seed: 3 });
        const edma = new Edma(ctrl);
        const r = rng(9);
        const movers = [
          // With time a write is done when it has left, half a round trip before its bytes are in the host's memory.
          new Mover(edma.open(options.timing === undefined, 0, 13, { lie }), ctrl, host, 0, r),
          new Mover(edma.open(false, 1, 7, { lie }), ctrl, host, HOST_SIZE / 2, r),
        ];
        const channels = edma.channels as EdmaChannel[];
        const fired = [0, 0];
        for (let turn = 0; Math.min(...fired) < rounds; turn++) {
          if (turn > 4000 * rounds)
            throw new Error(`stalled at ${movers.map((m) => m.checked)}\n${dumpController(ctrl, true)}`);
          ctrl.turn();
          for (let i = 0; i < 2; i++) {
            const ch = channels[i]!;
            if (ch.progress() !== 0) throw new Error(`abort: ${causeText(ch.lastError)}`);
            movers[i]!.check();
            const p = r();
            if (ch.armed && p < 0.5) {
              movers[i]!.fire();
              fired[i]!++;
              // what comes while it is under way waits on the list
              if (p < 0.1) movers[i]!.append(1 + Math.floor(r() * 6));
            } else if (p < 0.7) movers[i]!.arm();
            else if (p < 0.72) movers[i]!.append(1 + Math.floor(r() * 12));
            else if (p < 0.75) movers[i]!.append(1);
          }
        }
        for (let k = 0; k < 2; k++) expect(movers[k]!.checked).toBeGreaterThan(1.3 * rounds);
        expect(model.stats.busyDoorbells).toBe(0);
        expect(model.stats.deadDoorbells).toBe(0);
        expect(model.edma.contextWritesWhileBusy).toBe(0);
        expect(model.stats.linksFollowed).toBeGreaterThan(rounds / 20);
        expect(model.violations).toEqual([]);
      });
});

test("arm() is refused while the channel is busy or something is put; the next commit undoes it", () => {
  const { model, ctrl } = plug({});
  const ch = new Edma(ctrl).open(false, 0, 16) as EdmaChannel;
  const mem = ctrl.memory.alloc("m", 64, 64);
  const put = () => ch.put(4, 0x2000_0000, 1, mem.bus | 0, 0);
  const arm = () => ch.arm(4, 0x2000_0000, 1, mem.bus | 0, 0);
  put();
  expect([arm(), ch.armed]).toEqual([false, false]);
  ch.commit();
  expect([arm(), ch.rests]).toEqual([false, false]);
  const settle = () => {
    for (let i = 0; i < 8; i++) {
      ctrl.turn();
      ch.progress();
    }
  };
  settle();
  expect([arm(), ch.armed, ch.rests]).toEqual([true, true, true]);
  expect(model.edma.running).toBe(0);
  // one element goes without the list, two go over it
  put();
  ch.commit();
  expect([ch.armed, ch.alone, ch.room()]).toEqual([false, true, 15]);
  expect([arm(), ch.rests]).toEqual([false, false]);
  settle();
  expect([ch.alone, ch.rests, model.stats.elements]).toEqual([false, true, 2]);
  put();
  put();
  ch.commit();
  expect([ch.alone, ch.rests]).toEqual([false, false]);
  settle();
  expect([ch.doneCount, ch.putCount, model.stats.elements]).toEqual([4, 4, 4]);
});

test("an address that nobody answers: the cause is told, the list that waited is started over empty", () => {
  for (const dmaMap of ["unroll", "legacy"] as const) {
    const { ctrl } = plug({ dmaMap, strict: false });
    const ch = new Edma(ctrl).open(false, 1, 16) as EdmaChannel;
    const mem = ctrl.memory.alloc("m", 64, 64);
    expect(ch.arm(4, 0x7000_0000, 0, mem.bus | 0, 0)).toBe(true);
    ch.fire();
    ch.put(4, 0x2000_0000, 1, mem.bus | 0, 0);
    ch.commit();
    ctrl.turn();
    expect([ch.progress(), ch.lastError]).toEqual([CH_ABORT, CAUSE_UR]);
    expect([ch.recover(), ch.rests, ch.putCount - ch.doneCount]).toEqual([0, true, 0]);
    ch.put(4, 0x2000_0000, 1, mem.bus | 0, 0);
    ch.commit();
    for (let i = 0; i < 8; i++) {
      ctrl.turn();
      expect(ch.progress()).toBe(0);
    }
    expect(ch.doneCount).toBe(3);
  }
});

/** Registers of one channel that do only what a test tells them. */
class Registers implements Mmio {
  readonly size = 0x1200;
  readonly writes: [number, number][] = [];
  /** what is in the channel's context */
  readonly kept = new Map<number, number>();
  cs = 0;
  done = false;
  dead = false;
  constructor(
    private readonly context: number,
    private readonly index: number,
  ) {}
  ld32(off: number): number {
    if (this.dead) return 0xffffffff;
    if (off === this.context) return this.cs << CTL_CS_SHIFT;
    if (off === EDMA.RD_INT_STATUS) return this.done ? 1 << this.index : 0;
    return this.kept.get(off) ?? 0;
  }
  st32(off: number, value: number): void {
    this.writes.push([off, value >>> 0]);
    this.kept.set(off, value >>> 0);
    if (off === EDMA.RD_INT_CLEAR && (value & (1 << this.index)) !== 0) this.done = false;
  }
  ld8 = this.ld32;
  ld16 = this.ld32;
  st8 = this.st32;
  st16 = this.st32;
}

function listOf(slots: number, bus: number): DmaRegion {
  const buf = new ArrayBuffer(slots * LL_BYTES);
  const size = buf.byteLength;
  return {
    name: "ll",
    ptr: 0,
    bus,
    size,
    u8: new Uint8Array(buf),
    u16: new Uint16Array(buf),
    u32: new Uint32Array(buf),
    i32: new Int32Array(buf),
  };
}

function bare(
  map: "edma-unroll" | "edma-legacy" = "edma-unroll",
  lie = false,
): { io: Registers; ch: EdmaChannel; at: number; ll: DmaRegion } {
  const at = map === "edma-legacy" ? VIEWPORT_CONTEXT : contextOffset(false, 2);
  const io = new Registers(at, 2);
  const ll = listOf(8, 0x5_ffff_ffa0);
  const ch = new EdmaChannel(io, { map, isWrite: false, index: 2, lie }, ll);
  ch.start();
  io.writes.length = 0;
  return { io, ch, at, ll };
}

const polls = (ch: DmaChannel, n: number): number => {
  for (let i = 0; i < n; i++) if (ch.progress() !== 0) throw new Error("abort");
  return ch.doneCount;
};

test("registers: done is cleared and LLE off before the addresses; the doorbell is all that fire() writes; the list begins where it was", () => {
  const { io, ch, at } = bare();
  ch.arm(76, 1, 2, 3, 4);
  const transfer = [
    [at + EDMA_CH.CH_SIZE, 76],
    [at + EDMA_CH.CH_SAR_LO, 1],
    [at + EDMA_CH.CH_SAR_HI, 2],
    [at + EDMA_CH.CH_DAR_LO, 3],
    [at + EDMA_CH.CH_DAR_HI, 4],
  ];
  expect(io.writes.splice(0)).toEqual([[EDMA.RD_INT_CLEAR, 4], [at, CTL_LIE], ...transfer] as [number, number][]);
  ch.fire();
  expect(io.writes.splice(0)).toEqual([[EDMA.RD_DOORBELL, 2]]);
  io.cs = CS_STOPPED;
  io.done = true;
  expect(polls(ch, 1)).toBe(1);
  // LLE is off already
  ch.put(76, 1, 2, 3, 4);
  ch.commit();
  // done of the one before is cleared behind the doorbell
  expect(io.writes.splice(0)).toEqual([...transfer, [EDMA.RD_DOORBELL, 2], [EDMA.RD_INT_CLEAR, 4]] as [
    number,
    number,
  ][]);
  expect([io.done, polls(ch, 1)]).toEqual([false, 1]);
  io.done = true;
  expect(polls(ch, 1)).toBe(2);
  // no slot was used so far; the list lies across 4 GiB, its first lap has cycle bit 1
  for (let k = 0; k < 2; k++) ch.put(8, 1, 2, 3, 4);
  ch.commit();
  expect(io.writes.splice(0)).toEqual([
    [at, CTL_LLE | CTL_CCS],
    [at + EDMA_CH.CH_LLP_LO, 0xffff_ffa0],
    [at + EDMA_CH.CH_LLP_HI, 5],
    [EDMA.RD_DOORBELL, 2],
  ]);
});

test("upper halves that were seen to stay are left out, until the list or a new start put others there", () => {
  const { io, ch, at } = bare();
  io.cs = CS_STOPPED;
  const single = (): number[] => {
    io.writes.length = 0;
    ch.put(8, 1, 2, 3, 4);
    ch.commit();
    io.done = true;
    ch.progress();
    return io.writes.map(([off]) => off - at).filter((off) => off === EDMA_CH.CH_SAR_HI || off === EDMA_CH.CH_DAR_HI);
  };
  const both: number[] = [EDMA_CH.CH_SAR_HI, EDMA_CH.CH_DAR_HI];
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  io.done = true;
  polls(ch, 1);
  for (let k = 0; k < 3; k++) expect(single()).toEqual(both);
  for (let k = 0; k < 3; k++) expect(single()).toEqual([]);
  // a transfer that was cut off
  ch.put(8, 1, 2, 3, 4);
  ch.commit();
  io.writes.length = 0;
  polls(ch, 64);
  expect(io.writes.map(([off]) => off - at)).toContain(EDMA_CH.CH_SAR_HI);
  io.done = true;
  polls(ch, 1);
  expect(single()).toEqual([]);
  // what is prepared is written whole, whatever is known
  io.writes.length = 0;
  ch.arm(8, 1, 2, 3, 4);
  expect(io.writes.map(([off]) => off - at)).toEqual(expect.arrayContaining(both));
  expect(single()).toEqual([]);
  // a start over
  expect(ch.recover()).toBe(0);
  ch.arm(8, 1, 2, 3, 4);
  expect(io.writes.slice(-1)).toEqual([[at + EDMA_CH.CH_DAR_HI, 4]]);
  ch.fire();
  io.done = true;
  polls(ch, 1);
  expect(single()).toEqual([]);
  // a stretch of list
  for (let k = 0; k < 2; k++) ch.put(8, 1, 2, 3, 4);
  ch.commit();
  const ld32 = io.ld32.bind(io);
  io.ld32 = (off) => (off === at + EDMA_CH.CH_LLP_LO ? (0xffff_ffa0 + 2 * LL_BYTES) >>> 0 : ld32(off));
  polls(ch, 64);
  expect(ch.rests).toBe(true);
  io.writes.length = 0;
  ch.arm(8, 1, 2, 3, 4);
  expect(io.writes.slice(-1)).toEqual([[at + EDMA_CH.CH_DAR_HI, 4]]);
});

test("a transfer across 4 GiB of one side: that side's upper half is written for the next one", () => {
  const { io, ch, at } = bare();
  io.cs = CS_STOPPED;
  const single = (sar: number, dar: number): number[] => {
    io.writes.length = 0;
    ch.put(8, sar, 2, dar, 4);
    ch.commit();
    io.done = true;
    ch.progress();
    return io.writes.map(([off]) => off - at).filter((off) => off === EDMA_CH.CH_SAR_HI || off === EDMA_CH.CH_DAR_HI);
  };
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  io.done = true;
  polls(ch, 1);
  for (let k = 0; k < 4; k++) single(1, 3);
  const [below, across] = [-8, -4];
  for (const [sar, dar, next] of [
    [1, 3, []],
    [across, 3, [EDMA_CH.CH_SAR_HI]],
    [1, across, [EDMA_CH.CH_DAR_HI]],
    // up to the border is across: the next address is behind it
    [below, below - 1, [EDMA_CH.CH_SAR_HI]],
    [across, below, [EDMA_CH.CH_SAR_HI, EDMA_CH.CH_DAR_HI]],
  ] as const) {
    expect([sar, dar, single(sar, dar)]).toEqual([sar, dar, []]);
    expect([sar, dar, single(1, 3)]).toEqual([sar, dar, [...next]]);
  }
});

test("the model's registers behind a single transfer: the next addresses across 4 GiB, or nothing where they are lost", () => {
  for (const contextLost of [false, true]) {
    const { model, ctrl } = plug({ dmaMap: "compat", boardBase: 0x8_fff0_0000, faults: { contextLost } });
    const edma = new Edma(ctrl);
    // something that has the border in it
    const mem = ctrl.memory.alloc("m", 2 << 20, 4096);
    const at = 0x9_0000_0000 - mem.bus;
    expect(at >= 16 && at + 16 <= mem.size).toBe(true);
    for (const isWrite of [false, true]) {
      const ch = edma.open(isWrite, 0, 16) as EdmaChannel;
      if (isWrite) ch.arm(8, -4, 8, 0x2000_0000, 1);
      else ch.arm(8, 0x2000_0000, 1, -4, 8);
      ch.fire();
      for (let i = 0; i < 8; i++) {
        ctrl.turn();
        expect(ch.progress()).toBe(0);
      }
      expect(ch.doneCount).toBe(1);
      const c = (isWrite ? model.edma.writeChannels : model.edma.readChannels)[0]!;
      const [host, board] = contextLost ? [0, 0] : [0x1_2000_0008, 0x9_0000_0004];
      const bus = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);
      expect([bus(c.sarLo, c.sarHi), bus(c.darLo, c.darHi), c.size]).toEqual(
        isWrite ? [board, host, 0] : [host, board, 0],
      );
    }
  }
});

test("back on the list behind its link and across 4 GiB: LLP is the next slot, CCS that of its lap", () => {
  const { io, ch, at } = bare();
  // five elements by the list: engine and driver are at slot 5 of 7
  for (let k = 0; k < 5; k++) ch.put(8, 1, 2, 3, 4);
  ch.commit();
  io.cs = CS_STOPPED;
  const ld32 = io.ld32.bind(io);
  io.ld32 = (off) => (off === at + EDMA_CH.CH_LLP_LO ? (0xffff_ffa0 + 5 * LL_BYTES) >>> 0 : ld32(off));
  polls(ch, 64);
  expect([ch.doneCount, ch.rests]).toEqual([5, true]);
  io.writes.length = 0;
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  // three more wait on the list: slots 5, 6 and, on the next lap, 0
  for (let k = 0; k < 3; k++) ch.put(8, 1, 2, 3, 4);
  ch.commit();
  io.done = true;
  ch.progress();
  expect(ch.doneCount).toBe(6);
  expect(io.writes.slice(-4)).toEqual([
    [at, CTL_LLE | CTL_CCS],
    [at + EDMA_CH.CH_LLP_LO, 0x18],
    [at + EDMA_CH.CH_LLP_HI, 6],
    [EDMA.RD_DOORBELL, 2],
  ]);
});

test("stopped with no done status is not the end: not before it was seen running, then once more", () => {
  const { io, ch } = bare();
  io.cs = CS_STOPPED;
  io.done = true;
  ch.arm(8, 1, 2, 3, 4);
  expect(io.done).toBe(false);
  ch.fire();
  expect(polls(ch, 63)).toBe(0);
  io.cs = CS_RUNNING;
  expect(polls(ch, 1)).toBe(0);
  // Done may come before the channel is idle.
  io.done = true;
  expect(polls(ch, 5)).toBe(0);
  io.cs = CS_STOPPED;
  expect(polls(ch, 1)).toBe(1);
});

test("a core that shows no done status with the interrupt masked: it has to stand still for a while", () => {
  const { io, ch } = bare();
  io.cs = CS_STOPPED;
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  expect([polls(ch, 63), polls(ch, 1)]).toEqual([0, 1]);
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  io.cs = CS_RUNNING;
  polls(ch, 1);
  io.cs = CS_STOPPED;
  expect([polls(ch, 1), polls(ch, 1)]).toEqual([1, 2]);
  // what it stood still before it was seen running does not count
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  polls(ch, 5);
  io.cs = CS_RUNNING;
  polls(ch, 1);
  io.cs = CS_STOPPED;
  expect([polls(ch, 1), polls(ch, 1)]).toEqual([2, 3]);
  expect(ch.rerings).toBe(0);
});

test("a core that shows done: a transfer that never began, or was cut off, is rung again and not taken for landed", () => {
  const { io, ch, at } = bare();
  const single = (): void => {
    ch.arm(8, 1, 2, 3, 4);
    ch.fire();
    io.writes.length = 0;
  };
  io.cs = CS_STOPPED;
  single();
  io.done = true;
  expect(polls(ch, 1)).toBe(1);
  single();
  expect([polls(ch, 63), io.writes.length]).toEqual([1, 0]);
  expect([polls(ch, 1), ch.alone, ch.rerings, ch.rings]).toEqual([1, true, 1, 3]);
  // How far it had moved on in the registers is not known.
  expect(io.writes).toEqual([
    [EDMA.RD_INT_CLEAR, 4],
    [at + EDMA_CH.CH_SIZE, 8],
    [at + EDMA_CH.CH_SAR_LO, 1],
    [at + EDMA_CH.CH_SAR_HI, 2],
    [at + EDMA_CH.CH_DAR_LO, 3],
    [at + EDMA_CH.CH_DAR_HI, 4],
    [EDMA.RD_DOORBELL, 2],
  ]);
  io.cs = CS_RUNNING;
  polls(ch, 1);
  io.cs = CS_STOPPED;
  expect([polls(ch, 63), ch.rerings]).toEqual([1, 1]);
  expect([polls(ch, 1), ch.rerings]).toEqual([1, 2]);
  io.done = true;
  expect([polls(ch, 1), ch.rests]).toEqual([2, true]);
});

test("one channel of a direction is recovered: a single transfer of the other one is not lost", () => {
  for (const dmaMap of ["unroll", "legacy"] as const) {
    const { model, ctrl, host } = plug({ dmaMap, ...(dmaMap === "legacy" ? { atu: "viewport" } : {}) });
    const edma = new Edma(ctrl);
    const [a, b] = [edma.open(false, 0, 16), edma.open(false, 1, 16)] as EdmaChannel[];
    const mem = ctrl.memory.alloc("m", 64, 64);
    const turn = (): void => {
      ctrl.turn();
      expect(a!.progress() + b!.progress()).toBe(0);
    };
    const fire = (): void => {
      expect(b!.arm(4, 0x2000_0000, 1, mem.bus | 0, 0)).toBe(true);
      b!.fire();
    };
    fire();
    for (let i = 0; i < 4; i++) turn();
    expect(b!.doneCount).toBe(1);
    host.u8.set([1, 2, 3, 4]);
    mem.u8.fill(0);
    fire();
    expect(a!.recover()).toBe(0);
    for (let i = 0; i < 80; i++) {
      turn();
      if (b!.doneCount === 2) break;
    }
    expect([b!.doneCount, ...mem.u8.subarray(0, 4)]).toEqual([2, 1, 2, 3, 4]);
    expect(model.violations).toEqual([]);
  }
});

test("what waits on the list behind a single transfer asks for done at its end, where a doorbell demands that", () => {
  for (const lie of [false, true]) {
    const { io, ch, ll } = bare("edma-unroll", lie);
    ch.arm(8, 1, 2, 3, 4);
    ch.fire();
    for (let k = 0; k < 2; k++) ch.put(8, 1, 2, 3, 4);
    ch.commit();
    expect([ll.i32[0]! & CTL_LIE, ll.i32[LL_BYTES / 4]! & CTL_LIE]).toEqual([0, lie ? CTL_LIE : 0]);
    io.cs = CS_STOPPED;
    io.done = true;
    ch.progress();
    expect([ch.doneCount, ch.rests]).toEqual([1, false]);
  }
});

test("done that came before it was cleared behind the doorbell is lost: the transfer is not taken for landed, it goes once more", () => {
  const { io, ch, at } = bare();
  io.cs = CS_STOPPED;
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  io.done = true;
  expect(polls(ch, 1)).toBe(1);
  // this thread stands still between the two stores for as long as a transfer takes
  const st32 = io.st32.bind(io);
  io.st32 = (off, value) => {
    st32(off, value);
    if (off === EDMA.RD_DOORBELL) io.done = true;
  };
  ch.put(8, 5, 6, 7, 8);
  ch.commit();
  io.st32 = st32;
  io.writes.length = 0;
  expect([io.done, polls(ch, 63), ch.rerings]).toEqual([false, 1, 0]);
  expect([polls(ch, 1), ch.rerings]).toEqual([1, 1]);
  expect(io.writes).toEqual([
    [EDMA.RD_INT_CLEAR, 4],
    [at + EDMA_CH.CH_SIZE, 8],
    [at + EDMA_CH.CH_SAR_LO, 5],
    [at + EDMA_CH.CH_SAR_HI, 6],
    [at + EDMA_CH.CH_DAR_LO, 7],
    [at + EDMA_CH.CH_DAR_HI, 8],
    [EDMA.RD_DOORBELL, 2],
  ]);
  io.done = true;
  expect([polls(ch, 1), ch.rests]).toEqual([2, true]);
});

test("halted, and registers that are gone, are aborts", () => {
  const { io, ch } = bare();
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  io.cs = CS_HALTED;
  expect([ch.progress(), ch.doneCount]).toEqual([CH_ABORT, 0]);
  io.dead = true;
  expect([ch.progress(), ch.lastError]).toEqual([CH_ABORT, CAUSE_GONE]);
});

test("registers that go between the look at the channel and at done: nothing has landed, and the core is not taken for one that tells", () => {
  const { io, ch } = bare();
  io.cs = CS_STOPPED;
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  const ld32 = io.ld32.bind(io);
  io.ld32 = (off) => (off === EDMA.RD_INT_STATUS ? 0xffffffff : ld32(off));
  expect([ch.progress(), ch.lastError, ch.doneCount]).toEqual([CH_ABORT, CAUSE_GONE, 0]);
  io.ld32 = ld32;
  expect(ch.recover()).toBe(0);
  const before = ch.doneCount;
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  // on this one done is never shown, so it has to stand still
  expect([polls(ch, 64) - before, ch.rerings]).toEqual([1, 0]);
});

test("legacy map: the channel is selected before its context is written or read", () => {
  const { io, ch } = bare("edma-legacy");
  ch.arm(8, 1, 2, 3, 4);
  ch.fire();
  io.writes.push([0, 0]);
  ch.progress();
  const select = [EDMA_VP.VIEWPORT_SEL, (VIEWPORT_READ | 2) >>> 0];
  const names = io.writes.map(([off]) => off);
  expect(io.writes[names.indexOf(VIEWPORT_CONTEXT) - 1]).toEqual(select as [number, number]);
  expect(io.writes.at(-1)).toEqual(select as [number, number]);
});
