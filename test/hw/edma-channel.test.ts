import { describe, expect, test } from "bun:test";
import { CH_ABORT, CH_STUCK } from "../../src/hw/dma-channel.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import {
  CAUSE_CA,
  CAUSE_GONE,
  CAUSE_POSITION,
  CS_HALTED,
  CS_RUNNING,
  CS_STOPPED,
  CTL_CB,
  CTL_CCS,
  CTL_CS_MASK,
  CTL_CS_SHIFT,
  CTL_LIE,
  CTL_LLE,
  CTL_LLP,
  CTL_TCB,
  causeText,
  contextOffset,
  DOORBELL_STOP,
  EDMA,
  EDMA_CH,
  EDMA_UN,
  EDMA_VP,
  LL_BYTES,
  VIEWPORT_CONTEXT,
} from "../../src/hw/edma.regs.ts";
import { EdmaChannel } from "../../src/hw/edma-channel.ts";
import type { Mmio } from "../../src/hw/mmio.ts";

function region(bus: number, slots: number): DmaRegion {
  const buf = new ArrayBuffer(slots * LL_BYTES);
  return {
    name: "ll",
    ptr: 0,
    bus,
    size: buf.byteLength,
    u8: new Uint8Array(buf),
    u16: new Uint16Array(buf),
    u32: new Uint32Array(buf),
    i32: new Int32Array(buf),
  };
}

interface Done {
  size: number;
  sar: number;
  dar: number;
}

/**
 * A stand-in for one channel, small enough to be checked by eye: it fetches elements by LLP, follows the cycle bit
 * rules of dw-hardware.md 3 and nothing else. step() does one thing: fetch, execute, or stop.
 */
class StandIn implements Mmio {
  readonly size = 0x1200;
  readonly regs = new Map<number, number>();
  readonly done: Done[] = [];
  readonly ll: DmaRegion;
  readonly viewport: boolean;
  readonly context: number;
  readonly isWrite: boolean;
  readonly index: number;
  cs = 0;
  ccs = 0;
  llp = 0;
  executing: Done | null = null;
  /** the CB was read and did not match: it stops with the next step (the lost-doorbell window) */
  stopping = false;
  doorbells = 0;
  doorbellsWhileRunning = 0;
  loseDoorbells = 0;
  failAt = -1;
  dead = false;
  writes: [number, number][] = [];

  constructor(ll: DmaRegion, map: "edma-legacy" | "edma-unroll", isWrite: boolean, index: number) {
    this.ll = ll;
    this.viewport = map === "edma-legacy";
    this.context = this.viewport ? VIEWPORT_CONTEXT : contextOffset(isWrite, index);
    this.isWrite = isWrite;
    this.index = index;
  }
  private selected(): boolean {
    const want = (this.isWrite ? 0 : 0x80000000) + this.index;
    return !this.viewport || (this.regs.get(EDMA_VP.VIEWPORT_SEL) ?? 0) >>> 0 === want;
  }
  ld32(off: number): number {
    if (this.dead) return 0xffffffff;
    if (off === this.context + EDMA_CH.CH_CONTROL1) {
      if (!this.selected()) throw new Error("context read without selecting the channel");
      return CTL_LLE | (this.ccs ? CTL_CCS : 0) | (this.cs << CTL_CS_SHIFT);
    }
    if (off === this.context + EDMA_CH.CH_LLP_LO) {
      if (!this.selected()) throw new Error("context read without selecting the channel");
      return this.llp >>> 0;
    }
    return (this.regs.get(off) ?? 0) >>> 0;
  }
  st32(off: number, value: number): void {
    this.writes.push([off, value >>> 0]);
    if (off === this.context + EDMA_CH.CH_CONTROL1) {
      expect(this.selected()).toBe(true);
      this.ccs = value & CTL_CCS ? 1 : 0;
      this.cs = (value & CTL_CS_MASK) >>> CTL_CS_SHIFT;
    } else if (off === this.context + EDMA_CH.CH_LLP_LO) this.llp = value | 0;
    else if (off === (this.isWrite ? EDMA.WR_DOORBELL : EDMA.RD_DOORBELL)) {
      if (value & DOORBELL_STOP) this.cs = CS_STOPPED;
      else {
        expect(value).toBe(this.index);
        this.doorbells++;
        if (this.cs === CS_RUNNING) this.doorbellsWhileRunning++;
        else if (this.loseDoorbells > 0) this.loseDoorbells--;
        else this.pendingStart = true;
      }
    } else if (off === (this.isWrite ? EDMA.WR_ENGINE_EN : EDMA.RD_ENGINE_EN) && !(value & 1)) {
      if (!this.stuck) this.cs = CS_STOPPED;
      this.executing = null;
      this.stopping = false;
      this.pendingStart = false;
    } else if (off === (this.isWrite ? EDMA.WR_INT_CLEAR : EDMA.RD_INT_CLEAR)) {
      const status = this.isWrite ? EDMA.WR_INT_STATUS : EDMA.RD_INT_STATUS;
      this.regs.set(status, (this.regs.get(status) ?? 0) & ~value);
    } else this.regs.set(off, value);
  }
  pendingStart = false;
  stuck = false;
  step(): void {
    if (this.pendingStart) {
      this.pendingStart = false;
      this.cs = CS_RUNNING;
      return;
    }
    if (this.cs !== CS_RUNNING) return;
    if (this.executing) {
      if (this.done.length === this.failAt) {
        this.cs = CS_HALTED;
        return;
      }
      this.done.push(this.executing);
      this.executing = null;
      return;
    }
    if (this.stopping) {
      this.stopping = false;
      this.cs = CS_STOPPED;
      return;
    }
    const w = ((this.llp - (this.ll.bus | 0)) | 0) >> 2;
    const i32 = this.ll.i32;
    const control = i32[w]!;
    if (control & CTL_LLP) {
      if (control & CTL_TCB) this.ccs ^= 1;
      if ((control & CTL_CB) !== this.ccs) throw new Error("link CB does not match the CCS after the toggle");
      this.llp = i32[w + 2]!;
      return;
    }
    if ((control & CTL_CB) !== this.ccs) {
      this.stopping = true;
      return;
    }
    if (control & CTL_LIE) {
      const status = this.isWrite ? EDMA.WR_INT_STATUS : EDMA.RD_INT_STATUS;
      this.regs.set(status, (this.regs.get(status) ?? 0) | (1 << this.index));
    }
    this.executing = { size: i32[w + 1]!, sar: i32[w + 2]!, dar: i32[w + 4]! };
    this.llp = (this.llp + LL_BYTES) | 0;
  }
  ld8 = (): number => Number.NaN;
  ld16 = (): number => Number.NaN;
  st8 = (): void => {};
  st16 = (): void => {};
}

function rng(seed: number): () => number {
  let s = seed | 0;
  return () => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return (s >>> 0) / 2 ** 32;
  };
}

const MAPS = ["edma-legacy", "edma-unroll"] as const;
const BUS = 0x1_ffff_ff80; // crosses a 4 GiB boundary on purpose: LLP arithmetic is modulo 2^32

describe.each(MAPS)("EdmaChannel %s", (map) => {
  const make = (slots: number, opts: { isWrite?: boolean; index?: number; lie?: boolean } = {}) => {
    const ll = region(BUS, slots);
    const isWrite = opts.isWrite ?? true;
    const index = opts.index ?? 1;
    const io = new StandIn(ll, map, isWrite, index);
    const ch = new EdmaChannel(io, { map, isWrite, index, lie: opts.lie ?? false }, ll);
    ch.start();
    return { ll, io, ch };
  };

  test("start writes engine, mask, error enable, control, LLP in Linux's order and rings nothing", () => {
    const { io } = make(8, { isWrite: false, index: 2 });
    const c = io.context;
    const vp = (): [number, number][] => (map === "edma-legacy" ? [[EDMA_VP.VIEWPORT_SEL, 0x80000002]] : []);
    expect(io.writes).toEqual([
      [EDMA.RD_ENGINE_EN, 1],
      [EDMA.RD_INT_MASK, 0x00040004],
      [EDMA.RD_LL_ERR_EN, 4],
      ...vp(),
      [c + EDMA_CH.CH_CONTROL1, CTL_CCS | CTL_LLE],
      [c + EDMA_CH.CH_LLP_LO, 0xffffff80],
      [c + EDMA_CH.CH_LLP_HI, 1],
    ]);
  });

  test("the HDMA-compatible map has a power switch a channel, set after the engine and before the list", () => {
    for (const isWrite of [true, false]) {
      const ll = region(BUS, 8);
      const io = new StandIn(ll, map, isWrite, 3);
      const compat = map === "edma-unroll" ? "hdma-compat" : map;
      new EdmaChannel(io, { map: compat, isWrite, index: 3 }, ll).start();
      const power = (isWrite ? EDMA_UN.WR_CH_POWER : EDMA_UN.RD_CH_POWER) + 4 * 3;
      const at = io.writes.findIndex(([off]) => off === power);
      if (compat !== "hdma-compat") expect(at).toBe(-1);
      else expect([at, io.writes[at]![1]]).toEqual([1, 1]);
    }
  });

  test("shared mask and error enable keep the other channels' bits", () => {
    const ll = region(BUS, 8);
    const io = new StandIn(ll, map, true, 1);
    io.regs.set(EDMA.WR_INT_MASK, 0x00020003);
    io.regs.set(EDMA.WR_LL_ERR_EN, 0x00000081);
    new EdmaChannel(io, { map, isWrite: true, index: 1, interrupts: true }, ll).start();
    expect(io.regs.get(EDMA.WR_INT_MASK)).toBe(0x00000001);
    expect(io.regs.get(EDMA.WR_LL_ERR_EN)).toBe(0x00000083);
  });

  test("nothing is visible before commit, and the first control word is the last to appear", () => {
    const { ll, io, ch } = make(8);
    ch.put(10, 1, 0, 2, 0);
    ch.put(11, 3, 0, 4, 0);
    expect(ll.i32[0]! & CTL_CB).toBe(0);
    expect(io.doorbells).toBe(0);
    ch.commit();
    expect([...ll.i32.slice(0, 12)]).toEqual([1, 10, 1, 0, 2, 0, 1, 11, 3, 0, 4, 0]);
    expect(io.doorbells).toBe(1);
    ch.commit();
    expect(io.doorbells).toBe(1);
  });

  test("send is put and commit: alone, behind what is held back, and at the end of a lap", () => {
    for (const lie of [false, true]) {
      const { ll, io, ch } = make(5, { lie });
      const twin = make(5, { lie });
      for (let lap = 0; lap < 6; lap++) {
        for (let i = 0; i < 2; i++) {
          for (const c of [ch, twin.ch]) if (i === 1 && lap % 3 === 2) c.put(7, 1, 2, 3, 4);
          const n = 10 * lap + i;
          ch.send(n, n + 1, n + 2, n + 3, n + 4);
          twin.ch.put(n, n + 1, n + 2, n + 3, n + 4);
          twin.ch.commit();
          expect([...ll.i32]).toEqual([...twin.ll.i32]);
          for (const x of [{ io, ch }, twin])
            for (let k = 0; k < 12; k++) {
              x.io.step();
              expect(x.ch.progress()).toBe(0);
            }
          expect([ch.putCount, ch.doneCount, ch.rings]).toEqual([twin.ch.putCount, twin.ch.putCount, twin.ch.rings]);
          expect(io.done).toEqual(twin.io.done);
        }
      }
      expect(io.done.length).toBe(ch.putCount);
    }
  });

  test("an element counts as landed only when the engine moved past the one behind it, or stopped", () => {
    const { io, ch } = make(16);
    for (let i = 0; i < 3; i++) ch.put(1, i, 0, 0, 0);
    ch.commit();
    const seen: [number, number][] = [];
    for (let i = 0; i < 20; i++) {
      expect(ch.progress()).toBe(0);
      expect(ch.doneCount).toBeLessThanOrEqual(io.done.length);
      seen.push([io.done.length, ch.doneCount]);
      io.step();
    }
    expect(seen).toContainEqual([1, 0]);
    expect(seen).toContainEqual([2, 1]);
    expect(ch.doneCount).toBe(3);
    expect(ch.rerings).toBe(0);
  });

  test("room, capacity and the three reserved slots", () => {
    const { ch } = make(16);
    expect(ch.capacity).toBe(13);
    for (let i = 0; i < 13; i++) ch.put(1, 0, 0, 0, 0);
    expect(ch.room()).toBe(0);
  });

  test("counts wrap through the int32 range", () => {
    const { io, ch } = make(8);
    ch.putCount = 0x7ffffffe;
    ch.recover();
    for (let i = 0; i < 40; i++) {
      ch.put(1, i, 0, 0, 0);
      ch.commit();
      for (let k = 0; k < 6; k++) {
        io.step();
        expect(ch.progress()).toBe(0);
      }
    }
    for (let k = 0; k < 6; k++) {
      io.step();
      expect(ch.progress()).toBe(0);
    }
    expect(io.done.length).toBe(40);
    expect(ch.putCount).toBe((0x7ffffffe + 40) | 0);
    expect(ch.doneCount).toBe(ch.putCount);
  });

  for (const lie of [false, true])
    test(`10^5 random appends around a small ring, lie=${lie}: order and content kept, doorbell never while running`, () => {
      const { io, ch } = make(11, { lie, isWrite: lie });
      const r = rng(lie ? 7 : 42);
      const total = 100_000;
      let put = 0;
      for (let turn = 0; ch.doneCount < total; turn++) {
        if (turn > 50 * total) throw new Error(`stalled at ${ch.doneCount} of ${put}, cs ${io.cs}`);
        if (put < total && r() < 0.4) {
          let k = Math.min(ch.room(), 1 + Math.floor(r() * 8), total - put);
          const some = k > 0;
          const alone = r() < 0.3;
          for (; k > 0; k--, put++) {
            if (alone || (k === 1 && r() < 0.3)) ch.send((put % 65536) + 1, put, 0, ~put, 0);
            else ch.put((put % 65536) + 1, put, 0, ~put, 0);
          }
          if (some) ch.commit();
        }
        for (let s = Math.floor(r() * 12); s > 0; s--) io.step();
        if (ch.progress() !== 0) throw new Error(`abort: ${causeText(ch.lastError)}`);
        if (ch.doneCount > io.done.length) throw new Error("claimed an element that has not landed");
      }
      expect(io.done.length).toBe(total);
      for (let i = 0; i < total; i++) {
        const e = io.done[i]!;
        if (e.size !== (i % 65536) + 1 || e.sar !== i || e.dar !== ~i) throw new Error(`element ${i} is wrong`);
      }
      expect(io.doorbellsWhileRunning).toBe(0);
      expect(ch.rerings).toBeGreaterThan(0);
    });

  test("an append between the fetch of the next CB and the stop is found and rung again, once", () => {
    const { io, ch } = make(8);
    ch.put(1, 0, 0, 0, 0);
    ch.commit();
    while (!io.stopping) io.step();
    ch.put(1, 1, 0, 0, 0);
    ch.commit();
    expect(io.doorbells).toBe(1);
    io.step();
    expect(io.cs).toBe(CS_STOPPED);
    for (let i = 0; i < 10; i++) ch.progress();
    expect(io.doorbells).toBe(2);
    expect(ch.rerings).toBe(1);
    for (let i = 0; i < 6; i++) io.step();
    ch.progress();
    expect(ch.doneCount).toBe(2);
  });

  test("a channel that says stopped for the first time is not rung yet: it may not be idle inside", () => {
    const { io, ch } = make(8);
    ch.put(1, 0, 0, 0, 0);
    ch.commit();
    while (io.cs !== CS_STOPPED) io.step();
    expect(ch.progress()).toBe(0);
    expect(ch.doneCount).toBe(1);
    ch.put(1, 1, 0, 0, 0);
    ch.commit();
    expect(io.doorbells).toBe(1);
    ch.progress();
    expect(io.doorbells).toBe(2);
    expect(ch.rerings).toBe(0);
  });

  test("a doorbell that has not been taken up yet is not doubled, one that was lost is rung again", () => {
    const { io, ch } = make(8);
    io.loseDoorbells = 1;
    ch.put(1, 0, 0, 0, 0);
    ch.commit();
    for (let i = 0; i < 63; i++) expect(ch.progress()).toBe(0);
    expect(io.doorbells).toBe(1);
    ch.progress();
    expect(io.doorbells).toBe(2);
    for (let i = 0; i < 6; i++) io.step();
    ch.progress();
    expect(ch.doneCount).toBe(1);
    expect(ch.rerings).toBe(1);
  });

  test("rest at the end of a lap: LLP at slot 0, and the next lap is followed", () => {
    const { io, ch } = make(8);
    for (let lap = 0; lap < 6; lap++) {
      for (let i = 0; i < 7; i++) {
        if (i === 4 || i === 0) {
          while (ch.progress() === 0 && ch.room() < 5) io.step();
        }
        ch.put(1, lap * 7 + i, 0, 0, 0);
        ch.commit();
        for (let s = 0; s < 8; s++) io.step();
        ch.progress();
      }
      for (let s = 0; s < 8; s++) {
        io.step();
        ch.progress();
      }
      expect(io.llp).toBe(BUS | 0);
      expect(ch.doneCount).toBe((lap + 1) * 7);
    }
    expect(io.done.map((e) => e.sar)).toEqual([...Array(42).keys()]);
  });

  test("abort is reported with its cause; recover starts an empty list that works", () => {
    const { io, ch } = make(8, { isWrite: false, index: 3 });
    io.failAt = 2;
    for (let i = 0; i < 5; i++) ch.put(1, i, 0, 0, 0);
    ch.commit();
    io.regs.set(EDMA.RD_ERR_STATUS_HI, 1 << (8 + 3));
    let rc = 0;
    for (let i = 0; i < 20 && rc === 0; i++) {
      io.step();
      rc = ch.progress();
    }
    expect(rc).toBe(CH_ABORT);
    expect(ch.lastError).toBe(CAUSE_CA);
    expect(causeText(ch.lastError)).toBe("completer abort");
    expect(ch.progress()).toBe(CH_ABORT);
    io.failAt = -1;
    io.done.length = 0;
    io.regs.set(EDMA.RD_INT_STATUS, 0x000f000f);
    expect(ch.recover()).toBe(0);
    // its own done and abort bits are cleared, the other channels' are theirs
    expect(io.regs.get(EDMA.RD_INT_STATUS)).toBe(0x00070007);
    expect(ch.doneCount).toBe(ch.putCount);
    expect(ch.room()).toBe(ch.capacity);
    for (let i = 10; i < 20; i++) {
      ch.put(1, i, 0, 0, 0);
      ch.commit();
      for (let k = 0; k < 8; k++) {
        io.step();
        expect(ch.progress()).toBe(0);
      }
    }
    expect(io.done.map((e) => e.sar)).toEqual([10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
  });

  test("a read channel that halts with LLP ahead of what landed: nothing of that counts as landed", () => {
    const { io, ch } = make(16, { isWrite: false });
    for (let i = 0; i < 8; i++) ch.put(1, i, 0, 0, 0);
    ch.commit();
    io.step();
    expect(ch.progress()).toBe(0);
    const landed = ch.doneCount;
    io.llp += 5 * LL_BYTES;
    io.cs = CS_HALTED;
    expect(ch.progress()).toBe(CH_ABORT);
    expect(ch.doneCount).toBe(landed);
  });

  test("a channel that says stopped but has an abort status is not rung again", () => {
    const { io, ch } = make(8);
    for (let i = 0; i < 3; i++) ch.put(1, i, 0, 0, 0);
    ch.commit();
    for (let i = 0; i < 3; i++) io.step();
    ch.progress();
    io.cs = CS_STOPPED;
    io.executing = null;
    io.regs.set(EDMA.WR_INT_STATUS, 1 << (16 + 1));
    let rc = 0;
    for (let i = 0; i < 100 && rc === 0; i++) rc = ch.progress();
    expect([rc, io.doorbells]).toEqual([CH_ABORT, 1]);
  });

  test("recover gives up on an engine that stays busy", () => {
    const { io, ch } = make(8);
    ch.put(1, 0, 0, 0, 0);
    ch.commit();
    io.step();
    io.stuck = true;
    expect(ch.recover()).toBe(CH_STUCK);
    io.stuck = false;
    expect(ch.recover()).toBe(0);
  });

  test("dead registers and a position outside the list are aborts", () => {
    const a = make(8);
    a.ch.put(1, 0, 0, 0, 0);
    a.ch.commit();
    a.io.dead = true;
    expect(a.ch.progress()).toBe(CH_ABORT);
    expect(a.ch.lastError).toBe(CAUSE_GONE);
    const b = make(8);
    b.ch.put(1, 0, 0, 0, 0);
    b.ch.commit();
    b.io.cs = CS_STOPPED;
    b.io.llp = (BUS + 8 * LL_BYTES) | 0;
    expect(b.ch.progress()).toBe(CH_ABORT);
    expect(b.ch.lastError).toBe(CAUSE_POSITION);
  });

  test("quiesce lets elements finish, or stops the channel", () => {
    const { io, ch } = make(8);
    expect(ch.quiesce()).toBe(0);
    ch.put(1, 0, 0, 0, 0);
    ch.commit();
    io.step();
    expect(ch.quiesce()).toBe(CH_STUCK);
    expect(io.cs).toBe(CS_STOPPED);
  });

  test("quiesce masks the channel's interrupts and no other's", () => {
    const ll = region(BUS, 8);
    const io = new StandIn(ll, map, false, 2);
    const ch = new EdmaChannel(io, { map, isWrite: false, index: 2, interrupts: true }, ll);
    io.regs.set(EDMA.RD_INT_MASK, 0x00ff00ff);
    ch.start();
    expect(io.regs.get(EDMA.RD_INT_MASK)).toBe(0x00fb00fb);
    io.regs.set(EDMA.RD_INT_MASK, 0);
    ch.quiesce();
    expect(io.regs.get(EDMA.RD_INT_MASK)).toBe(0x00040004);
  });
});

test("channel and list that cannot be are refused with the numbers", () => {
  const io = new StandIn(region(0, 8), "edma-unroll", true, 0);
  expect(() => new EdmaChannel(io, { map: "edma-unroll", isWrite: true, index: 8 }, region(0, 8))).toThrow("channel 8");
  expect(() => new EdmaChannel(io, { map: "edma-unroll", isWrite: true, index: 0 }, region(0, 3))).toThrow("3 slots");
});

test("put and commit stay right when optimised, and a warm put is cheap", () => {
  const ll = region(0x4000_0000, 1024);
  const io: Mmio = {
    size: 0,
    ld8: () => 0,
    ld16: () => 0,
    // always stopped at the producer: everything landed
    ld32: (off) => (off === contextOffset(true, 0) + EDMA_CH.CH_LLP_LO ? llp : CS_STOPPED << CTL_CS_SHIFT),
    st8: () => {},
    st16: () => {},
    st32: () => {},
  };
  const ch = new EdmaChannel(io, { map: "edma-unroll", isWrite: true, index: 0 }, ll);
  ch.start();
  let slot = 0;
  let llp = 0x4000_0000;
  const batch = 32;
  const run = (batches: number) => {
    const t = Bun.nanoseconds();
    for (let b = 0; b < batches; b++) {
      for (let i = 0; i < batch; i++) ch.put(i, b, 1, i, 2);
      ch.commit();
      slot = (slot + batch) % 1023;
      llp = 0x4000_0000 + slot * LL_BYTES;
      if (ch.progress() !== 0) throw new Error("abort");
    }
    return (Bun.nanoseconds() - t) / (batches * batch);
  };
  run(20_000);
  // the best of many short runs: other load on the machine is not what is measured
  let ns = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 40; i++) ns = Math.min(ns, run(1000));
  console.log(`edma-channel: ${ns.toFixed(2)} ns per element at batch ${batch}, commit and progress included`);
  // the element before LLP takes a second look
  expect(ch.progress()).toBe(0);
  expect(ch.doneCount).toBe(ch.putCount);
  expect(ns).toBeLessThan(60);
});
