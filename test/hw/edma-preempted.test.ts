/**
 * Single transfers and lists in turn while the driver is preempted behind any store or load, memory lies in several stretches of
 * 4 GiB and across their borders, and another channel of the direction is started over: every byte is compared. Not during a
 * stretch of list: what that cuts off there is asked for again by datapath-life.ts, whatever the list says.
 */
import { expect, test } from "bun:test";
import { dumpController } from "../../src/hw/dumps.ts";
import { causeText } from "../../src/hw/edma.regs.ts";
import { Edma } from "../../src/hw/edma.ts";
import type { EdmaChannel } from "../../src/hw/edma-channel.ts";
import type { Mmio } from "../../src/hw/mmio.ts";
import { REGION_READ, REGION_WRITE } from "../../src/hw/model/address-space.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { plug, rng } from "../support/mover.ts";
import { HOST_BASE, HOST_SIZE } from "./model/bench-board.ts";

const TWO32 = 2 ** 32;
const SLOT = 64;
const SLOTS = 32;
const ROUNDS = 4000;
/** where the host's memory is, too: across borders of 4 GiB, and elsewhere */
const MORE = [0x2_0000_0000 - HOST_SIZE / 2, 0x6_2000_0000, 0xf_0000_0000 - 3 * SLOT];
/** bytes up to the border in the board's memory */
const BORDER = 1 << 20;

const KINDS: [string, Partial<ModelOptions>][] = [
  ["unrolled map", { dmaMap: "unroll" }],
  ["legacy map", { dmaMap: "legacy", atu: "viewport" }],
  ["registers are lost", { faults: { contextLost: true } }],
  ["doorbells lost, data in pieces", { faults: { lostDoorbell: 0.4, holdFetched: 0.3, splitData: 0.3 } }],
  ["doorbells only for the idle", { faults: { notIdleDoorbell: true, splitData: 0.3 } }],
];

/** Time that passes behind accesses: mostly none, now and then more than a transfer takes. */
function preempted(dma: Mmio, r: () => number, turn: () => void): { io: Mmio; on: boolean } {
  const p = {
    on: false,
    io: {
      size: dma.size,
      ld8: (off: number) => dma.ld8(off),
      ld16: (off: number) => dma.ld16(off),
      st8: (off: number, v: number) => dma.st8(off, v),
      st16: (off: number, v: number) => dma.st16(off, v),
      ld32: (off: number) => {
        const v = dma.ld32(off);
        pass();
        return v;
      },
      st32: (off: number, v: number) => {
        dma.st32(off, v);
        pass();
      },
    },
  };
  const pass = (): void => {
    if (p.on && r() < 0.03) for (let n = Math.floor(r() * 12); n > 0; n--) turn();
  };
  return p;
}

for (const [name, options] of KINDS)
  for (const lie of [false, true])
    test(`${name}, lie=${lie}`, () => {
      const r = rng(11);
      const { model, ctrl, host } = plug({ ...options, boardBase: 9 * TWO32 - BORDER, seed: 5 });
      for (const at of MORE) host.memory.add(at, HOST_SIZE, host.ptr, REGION_READ | REGION_WRITE);
      const p = preempted(ctrl.dma, r, () => ctrl.turn());
      const edma = new Edma(Object.assign(Object.create(ctrl), { dma: p.io }));
      const other = edma.open(false, 0, 8, { lie }) as EdmaChannel;
      const ch = edma.open(false, 1, 7, { lie }) as EdmaChannel;
      const mem = ctrl.memory.alloc("data", 2 << 20, 4096);
      const near = 9 * TWO32 - mem.bus;
      expect(near > 0 && near < mem.size).toBe(true);
      for (let i = 0; i < HOST_SIZE; i++) host.u8[i] = r() * 256;
      // of the slots on the board the middle ones are across the border
      const first = near - SLOT * (SLOTS / 2) - SLOT / 2;
      const from = new Int32Array(SLOTS);
      const len = new Int32Array(SLOTS);
      let put = 0;
      let checked = 0;
      let base = HOST_BASE;
      let fired = 0;
      const next = (use: (size: number, sLo: number, sHi: number, dLo: number, dHi: number) => void): void => {
        const k = put % SLOTS;
        if (r() < 0.05) base = r() < 0.4 ? HOST_BASE : MORE[Math.floor(r() * MORE.length)]!;
        const n = 1 + Math.floor(r() * SLOT);
        // near the border of the stretch that has one
        const border = TWO32 * Math.ceil(base / TWO32) - base;
        const at =
          border < HOST_SIZE ? Math.max(0, border - 4 * SLOT) + Math.floor(r() * 8 * SLOT) : Math.floor(r() * 1000);
        from[k] = at;
        len[k] = n;
        const sar = base + at;
        const dar = mem.bus + first + k * SLOT;
        mem.u8.fill(0xee, first + k * SLOT, first + (k + 1) * SLOT);
        use(n, sar | 0, Math.floor(sar / TWO32), dar | 0, Math.floor(dar / TWO32));
        put++;
      };
      const check = (): void => {
        for (; checked < ch.doneCount; checked++) {
          const k = checked % SLOTS;
          const [at, to, n] = [from[k]!, first + k * SLOT, len[k]!];
          for (let i = 0; i < n; i++)
            if (mem.u8[to + i] !== host.u8[at + i]) throw new Error(`element ${checked}, byte ${i} of ${n} differs`);
          if (n < SLOT && mem.u8[to + n] !== 0xee) throw new Error(`element ${checked}: written past its ${n} bytes`);
        }
      };
      // Where registers are lost with the engine's switch, channels are halted together.
      const switched = options.faults?.contextLost === true ? 0 : 0.002;
      p.on = true;
      for (let turn = 0; fired < ROUNDS; turn++) {
        if (turn > 400 * ROUNDS) throw new Error(`stands still at ${checked}\n${dumpController(ctrl, true)}`);
        ctrl.turn();
        if (ch.progress() !== 0) throw new Error(`abort: ${causeText(ch.lastError)}`);
        check();
        const q = r();
        if (r() < switched && (ch.alone || ch.rests)) expect(other.recover()).toBe(0);
        else if (ch.armed && q < 0.5) {
          ch.fire();
          put++;
          fired++;
          if (q < 0.1) {
            for (let n = 1 + Math.floor(r() * 3); n > 0 && ch.room() > 0; n--) next((...e) => ch.put(...e));
            ch.commit();
          }
        } else if (q < 0.6) {
          const before = put;
          next((...e) => {
            if (ch.rests) ch.arm(...e);
          });
          put = before;
        } else if (q < 0.72 && ch.room() > 0) {
          if (ch.rests) fired++;
          next((...e) => ch.put(...e));
          ch.commit();
        } else if (q < 0.74) {
          for (let n = 1 + Math.floor(r() * 4); n > 0 && ch.room() > 0; n--) next((...e) => ch.put(...e));
          ch.commit();
        }
      }
      p.on = false;
      for (let i = 0; i < 2000 && ch.doneCount !== ch.putCount; i++) {
        ctrl.turn();
        expect(ch.progress()).toBe(0);
        check();
      }
      expect([ch.doneCount, checked]).toEqual([put, put]);
      expect(ch.rerings).toBeGreaterThan(0);
      expect(model.edma.contextWritesWhileBusy).toBe(0);
      expect(model.stats.aborts).toBe(0);
    });
