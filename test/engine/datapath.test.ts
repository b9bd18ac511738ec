/** Lives of the data path: counts that wrap, ends in mid-transfer, restarts of either driver, aborts, interrupts held. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { R_DMA_ABORT } from "../../src/engine/codes.ts";
import { HEADER_WAIT, type HeaderCheck } from "../../src/engine/header-check.ts";
import { CAUSE_UR } from "../../src/hw/edma.regs.ts";
import { ld16 } from "../../src/hw/mem.ts";
import { type Chain, frame, RingRig, type RingRigOptions, withBuffers } from "../support/ring-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const KINDS: [string, Partial<RingRigOptions>][] = [
  ["several channels", {}],
  ["one channel each way", { model: { readChannels: 1, writeChannels: 1 } }],
  ["viewport maps", { model: { readChannels: 1, writeChannels: 1, dmaMap: "legacy", atu: "viewport" } }],
  ["lost doorbells", { model: { faults: { lostDoorbell: 0.3 } } }],
  ["fetched elements held", { model: { faults: { holdFetched: 0.3 } } }],
  ["data packet by packet", { model: { faults: { splitData: 0.5 } } }],
  ["HDMA-compatible map", { model: { dmaMap: "compat" } }],
  ["window fetch", { fetch: "window" }],
  ["two write channels", { stripe: true, hostQueue: 64, boardQueue: 64 }],
  [
    "two write channels, lost doorbells",
    { stripe: true, hostQueue: 64, boardQueue: 64, model: { faults: { lostDoorbell: 0.3 } } },
  ],
  ["header in place", { patch: true }],
  ["header in place, two write channels", { patch: true, stripe: true, hostQueue: 64, boardQueue: 64 }],
  ["header in place, INTx", { patch: true, irq: "intx" }],
];

const checked = (rig: RingRig): void => expect(rig.violations).toEqual([]);

/** `n` frames each way, every byte checked. */
function exchange(rig: RingRig, n: number, seed = 0): void {
  const rx: Chain[] = [];
  const brx: Chain[] = [];
  const first = [rig.usedIdx(rig.host.rx), rig.usedIdx(rig.board.rx)];
  for (let i = 0; i < n; i++) {
    rx.push(rig.host.post([300]));
    brx.push(rig.board.post([300]));
    rig.board.send(frame(12, 100 + i, seed + i));
    rig.host.send(frame(12, 150 + i, seed + i));
  }
  rig.settle();
  expect([rig.usedIdx(rig.host.rx), rig.usedIdx(rig.board.rx)]).toEqual(first.map((x) => (x + n) & 0xffff));
  for (let i = 0; i < n; i++) {
    expect(rig.host.gather(rx[i]!, 112 + i)).toEqual(withBuffers(frame(12, 100 + i, seed + i), 1));
    expect(rig.board.gather(brx[i]!, 162 + i)).toEqual(withBuffers(frame(12, 150 + i, seed + i), 1));
  }
  for (const r of [rig.host.rx, rig.host.tx, rig.board.rx, rig.board.tx]) while (r.take() >= 0);
}

/** What a host does that resets the function: everything is taken back, rings start over. */
function hostStartsOver(rig: RingRig): void {
  rig.host.rx.reset();
  rig.host.tx.reset();
}

describe("free-running counts of the channels", () => {
  for (const count of [0x7fff_ff00, -200, 0x7fff_ffff]) {
    for (const [name, o] of KINDS.slice(0, 4)) {
      test(`wrap through ${count} (${name})`, () => {
        const rig = new RingRig({ ...o, count });
        for (let i = 0; i < 60; i++) exchange(rig, 5, i);
        expect(rig.write.putCount - count).not.toBe(0);
        if (count > 0) expect(rig.write.putCount).toBeLessThan(0);
        checked(rig);
        rig.close();
      });
    }
  }
});

describe("turns in which frames move", () => {
  /** One frame of the board a turn, `n` turns long. */
  function stream(rig: RingRig, n: number, each: (turn: number) => void): void {
    for (let i = 0; i < 40; i++) rig.host.post([300]);
    rig.turns(40);
    rig.messages.length = 0;
    for (let t = 0; t < n; t++) {
      rig.board.send(frame(12, 100, t));
      const before = rig.dp.toHost.frames;
      rig.turns(1);
      expect([t, rig.dp.toHost.frames - before]).toEqual([t, 1]);
      each(t);
    }
  }

  test("each carries one, and is no short turn whatever the one before was", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64 });
    stream(rig, 30, (t) => {
      if (t > 0) expect(rig.dp.brief).toBe(false);
      rig.dp.brief = true;
    });
    checked(rig);
    rig.close();
  });

  test("a frame of the host waits for the look at its header all the same", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64 });
    let looks = 0;
    const check = { open: true, attach: () => {}, turn: () => HEADER_WAIT };
    check.turn = () => {
      looks++;
      return check.open ? HEADER_WAIT : 0;
    };
    rig.dp.header = check as unknown as HeaderCheck;
    rig.attach();
    rig.board.post([300]);
    rig.host.send(frame(12, 100, 1));
    stream(rig, 20, () => expect(rig.dp.toBoard.frames).toBe(0));
    check.open = false;
    rig.settle();
    expect(rig.dp.toBoard.frames).toBe(1);
    // and nobody asks any more in this life
    looks = 0;
    rig.turns(5);
    expect(looks).toBe(0);
    rig.close();
  });

  // With the header patched in place a lone frame takes the shortest way.
  for (const [bytes, most, inflight] of [
    [100, 63, 1024],
    [3000, 63, 1024],
    [6000, 43, 1024],
    // half of what may be under way
    [3000, 32, 192],
  ] as const)
    for (const patch of [false, true])
      test(`behind a full line no more than ${most} frames of ${bytes} bytes wait to be announced, ${inflight} KiB under way, patch ${patch}`, () => {
        const limits = { burst: 64, inflightBytes: inflight << 10 };
        const rig = new RingRig({ hostQueue: 256, boardQueue: 256, patch, limits });
        for (let i = 0; i < 150; i++) rig.host.post([6100]);
        rig.turns(60);
        let seen = 0;
        // the link stands still: only the data path has turns
        for (let t = 0; t < 140; t++) {
          rig.board.send(frame(12, bytes, t));
          const rc = rig.dp.turn();
          expect(rc).toBeGreaterThanOrEqual(t * (bytes + 12) < limits.inflightBytes ? 1 : 0);
          seen = Math.max(seen, rig.dp.hqRx.staged);
        }
        expect(seen).toBe(most);
        rig.settle();
        expect(rig.usedIdx(rig.host.rx)).toBe(140);
        checked(rig);
        rig.close();
      });

  test("a port that is not ready any more gets nothing from that turn on", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64, patch: true });
    for (let i = 0; i < 20; i++) rig.board.post([300]);
    stream(rig, 10, () => {});
    rig.port.ready = false;
    const { frames } = rig.dp.toHost;
    rig.board.send(frame(12, 100, 1));
    rig.host.send(frame(12, 100, 1));
    rig.turns(20);
    expect([rig.dp.toHost.frames, rig.dp.toBoard.frames]).toEqual([frames, 0]);
    rig.port.ready = true;
    rig.settle();
    expect([rig.dp.toHost.frames, rig.dp.toBoard.frames]).toEqual([frames + 1, 1]);
    checked(rig);
    rig.close();
  });

  // A channel is known to have stopped at the second look.
  for (const [batch, turns] of [
    [1, 66],
    [16, 8],
  ] as const)
    test(`with ${batch} frames in each, what landed is given back after ${turns} of them at the latest`, () => {
      const rig = new RingRig({ hostQueue: 256, boardQueue: 256, patch: true });
      for (let i = 0; i < 200; i++) rig.host.post([300]);
      rig.turns(60);
      let still = 0;
      let most = 0;
      let seen = rig.usedIdx(rig.board.tx);
      for (let t = 0; t * batch < 180; t++) {
        for (let i = 0; i < batch; i++) rig.board.send(frame(12, 100, i), undefined, true);
        rig.board.tx.publish();
        rig.turns(1);
        const used = rig.usedIdx(rig.board.tx);
        still = used === seen ? still + 1 : 0;
        seen = used;
        if (still > most) most = still;
      }
      expect(most).toBeGreaterThan(turns >> 1);
      expect(most).toBeLessThanOrEqual(turns);
      rig.settle();
      checked(rig);
      rig.close();
    });

  test("a configuration change behind a mask is told soon after the mask is gone", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64 });
    rig.maskVector(3, true);
    const told: number[] = [];
    stream(rig, 30, (t) => {
      if (t === 4) rig.dp.configInterrupt(3);
      if (t === 8) rig.maskVector(3, false);
      if (rig.messages.includes(3)) told.push(t);
    });
    expect(told[0]).toBeGreaterThanOrEqual(8);
    expect(told[0]).toBeLessThan(12);
    rig.close();
  });

  test("a frame of the host waits where the board has posted nothing, whatever its ring held a lap ago", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 8 });
    for (let i = 0; i < 8; i++) exchange(rig, 4, i);
    const { frames } = rig.dp.toBoard;
    rig.host.send(frame(12, 100, 9));
    rig.turns(60);
    expect(rig.dp.toBoard.frames).toBe(frames);
    rig.board.post([300]);
    rig.settle();
    expect(rig.dp.toBoard.frames).toBe(frames + 1);
    checked(rig);
    rig.close();
  });
});

describe("the end of a life in mid-transfer", () => {
  for (const [name, o] of KINDS) {
    test(`at every turn: nothing of the host is touched afterwards, the board's chains come back (${name})`, () => {
      for (let at = 0; at < 20; at++) {
        const rig = new RingRig({ ...o, hostQueue: 64, boardQueue: 64 });
        for (let i = 0; i < 10; i++) {
          rig.host.post([4000]);
          rig.board.post([4000]);
        }
        rig.turns(20);
        for (let i = 0; i < 10; i++) {
          rig.board.send(frame(12, 3000, i), [12, 1000, 2000], true);
          rig.host.send(frame(12, 3000, i), [12, 1000, 2000], true);
        }
        rig.board.tx.publish();
        rig.host.tx.publish();
        rig.turns(at);
        expect(rig.dp.detach()).toBe(0);
        const moved = rig.model.stats.elements;
        rig.trace.length = 0;
        hostStartsOver(rig);
        const board = [ld16(rig.board.tx.usedPtr + 2), ld16(rig.board.rx.usedPtr + 2)];
        for (let i = 0; i < 50; i++) rig.model.turn();
        expect([rig.model.stats.elements, rig.trace.length]).toEqual([moved, 0]);
        checked(rig);
        expect([rig.dp.toHost.outstanding, rig.dp.toBoard.outstanding, rig.dp.drained]).toEqual([0, 0, true]);
        // every chain of the board that was taken is back; receive buffers that were not filled are not
        let back = 0;
        while (rig.board.tx.take() >= 0) back++;
        expect(rig.board.tx.broken).toBe(0);
        expect(back).toBe(board[0]!);
        expect(rig.dp.eqTx.used).toBe(rig.dp.eqTx.next);
        while (rig.board.rx.take() >= 0);
        expect([rig.board.rx.broken, rig.dp.eqRx.used]).toEqual([0, rig.dp.eqRx.next]);

        // and a new life works, with what the board still has queued
        for (const r of [rig.board.rx, rig.board.tx]) r.reset();
        rig.attach();
        exchange(rig, 8, at);
        checked(rig);
        rig.close();
      }
    }, 30_000);
  }

  test("30 lives one after the other, each cut somewhere", () => {
    const rig = new RingRig({ hostQueue: 32, boardQueue: 32 });
    const marks = [rig.host.mark, rig.board.mark];
    for (let life = 0; life < 30; life++) {
      exchange(rig, 6, life);
      for (let i = 0; i < 10; i++) {
        rig.host.post([2000]);
        rig.board.send(frame(12, 1500, i));
        rig.board.post([2000]);
        rig.host.send(frame(12, 1500, i));
      }
      rig.turns(life % 7);
      expect(rig.dp.detach()).toBe(0);
      hostStartsOver(rig);
      rig.board.rx.reset();
      rig.board.tx.reset();
      rig.host.rewind(marks[0]!);
      rig.board.rewind(marks[1]!);
      rig.attach();
    }
    exchange(rig, 6);
    checked(rig);
    rig.close();
  });

  test("bytes are those of the frames begun, headers left out, at every turn of lives with headers of two lengths", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64 });
    const { toHost, toBoard } = rig.dp;
    const { o } = rig as { o: { hdrLen: number; boardHdrLen: number } };
    o.boardHdrLen = 12;
    for (let life = 0; life < 40; life++) {
      o.hdrLen = life % 2 === 0 ? 12 : 24;
      if (life > 0) {
        hostStartsOver(rig);
        rig.board.rx.reset();
        rig.board.tx.reset();
        rig.attach();
      }
      for (let i = 0; i < 6; i++) {
        rig.host.post([300]);
        rig.board.post([300]);
        rig.board.send(frame(12, 100, i), i === 4 ? [12, 100] : undefined);
        rig.host.send(frame(o.hdrLen, 100, i), i === 5 ? [o.hdrLen, 100] : undefined);
      }
      const before = [toHost.frames, toBoard.frames];
      for (let t = 0; t < life; t++) {
        rig.turns(1);
        expect([life, t, toHost.bytes, toBoard.bytes]).toEqual([life, t, toHost.frames * 100, toBoard.frames * 100]);
      }
      if (life > 30) expect([toHost.frames, toBoard.frames]).toEqual(before.map((n) => n + 6));
      expect(rig.dp.detach()).toBe(0);
      expect([toHost.bytes, toBoard.bytes]).toEqual([toHost.frames * 100, toBoard.frames * 100]);
    }
    expect(toHost.bursts).toBeGreaterThan(20);
    checked(rig);
    rig.close();
  });

  test("detach with nothing in flight, and twice", () => {
    const rig = new RingRig();
    exchange(rig, 3);
    expect([rig.dp.detach(), rig.dp.detach()]).toEqual([0, 0]);
    expect(rig.dp.abandoned).toBe(0);
    rig.close();
  });

  test("drain: what is begun is finished and nothing new is begun", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64 });
    for (let i = 0; i < 20; i++) {
      rig.host.post([300]);
      rig.board.post([300]);
      rig.board.send(frame(12, 100, i));
      rig.host.send(frame(12, 100, i));
    }
    while (rig.dp.toHost.frames === 0 || rig.dp.toBoard.frames === 0) rig.turns(1);
    const begun = [rig.dp.toHost.frames, rig.dp.toBoard.frames];
    for (let i = 0; i < 10; i++) {
      rig.host.send(frame(12, 100, i));
      rig.board.send(frame(12, 100, i));
    }
    for (let i = 0; i < 60 && !(rig.dp.drained && rig.dp.toBoard.outstanding === 0); i++) {
      rig.model.turn();
      expect(rig.dp.drain()).toBe(0);
    }
    expect([rig.dp.toHost.frames, rig.dp.toBoard.frames]).toEqual(begun);
    expect([rig.usedIdx(rig.host.rx), rig.usedIdx(rig.host.tx)]).toEqual(begun);
    checked(rig);
    rig.close();
  });
});

describe("the board's driver starts over", () => {
  for (const [name, o] of KINDS) {
    test(`at every turn: its old buffers are not written, the host gets its chains back, traffic goes on (${name})`, () => {
      for (let at = 0; at < 16; at++) {
        const rig = new RingRig({ ...o, hostQueue: 64, boardQueue: 64 });
        exchange(rig, 3);
        const hostUsed = [rig.usedIdx(rig.host.rx), rig.usedIdx(rig.host.tx)];
        for (let i = 0; i < 10; i++) {
          rig.host.post([2000]);
          rig.board.post([2000]);
        }
        rig.turns(20);
        for (let i = 0; i < 10; i++) rig.host.send(frame(12, 1500, i), [12, 1500], true);
        rig.host.tx.publish();
        rig.turns(at);
        // the restart: rings zeroed, buffers taken back (strict mode sees every later write)
        rig.board.rx.reset();
        rig.board.tx.reset();
        const before = rig.board.u8.slice(0, rig.board.mark);
        // a port changes its generation in its turn, right in front of the data path's
        rig.port.generation++;
        expect(rig.dp.turn()).toBeGreaterThanOrEqual(0);
        expect([ld16(rig.board.tx.usedPtr + 2), ld16(rig.board.rx.usedPtr + 2)]).toEqual([0, 0]);
        rig.turns(60);
        // every chain of the host that was taken is given back
        expect(rig.dp.toBoard.outstanding).toBe(0);
        expect(rig.usedIdx(rig.host.tx)).toBe(hostUsed[1]! + rig.dp.toBoard.frames - 3);
        // the old buffers are as they were at the restart (behind the rings, where used flags are written)
        const buffers = 131072;
        expect(Buffer.compare(rig.board.u8.subarray(buffers, before.length), before.subarray(buffers))).toBe(0);
        expect([at, rig.violations]).toEqual([at, []]);
        for (const r of [rig.host.rx, rig.host.tx]) while (r.take() >= 0);
        expect([rig.host.rx.broken, rig.host.tx.broken]).toEqual([0, 0]);
        // frames of the host that were still queued go to the new driver first
        const left = 10 - (rig.usedIdx(rig.host.tx) - hostUsed[1]!);
        for (let i = 0; i < left; i++) rig.board.post([2000]);
        rig.settle();
        while (rig.board.rx.take() >= 0);
        expect(rig.host.tx.inFlight - rig.host.tx.freeCount).toBeLessThanOrEqual(0);
        rig.board.send(frame(12, 100, 3));
        rig.settle();
        expect(rig.usedIdx(rig.host.rx)).toBe(hostUsed[0]! + 1);
        expect([rig.board.rx.broken, rig.board.tx.take() >= 0]).toEqual([0, true]);
        rig.close();
      }
    }, 30_000);
  }

  test("at every turn, with frames over several buffers under way: of the next ones every used length is right", () => {
    let lost = 0;
    for (let at = 0; at < 16; at++) {
      const rig = new RingRig({ hostQueue: 64, boardQueue: 64 });
      for (let i = 0; i < 12; i++) rig.board.post([600]);
      rig.turns(20);
      for (let i = 0; i < 4; i++) rig.host.send(frame(12, 1500, i), [1512], true);
      rig.host.tx.publish();
      rig.turns(at);
      const landed = rig.usedIdx(rig.board.rx) / 3;
      rig.board.rx.reset();
      rig.board.tx.reset();
      rig.port.generation++;
      expect(rig.dp.turn()).toBeGreaterThanOrEqual(0);
      rig.turns(60);
      lost += rig.dp.abandoned;
      // what was not begun yet goes to the new driver
      const left = 4 - landed - rig.dp.abandoned;
      const chains = Array.from({ length: 5 * (left + 2) }, () => rig.board.post([310]));
      for (let i = 4; i < 6; i++) rig.host.send(frame(12, 1500, i));
      rig.settle();
      for (let i = 0; i < left + 2; i++) {
        const five = chains.slice(5 * i, 5 * i + 5);
        const lens = five.map((c) => (rig.board.rx.take() === c.head ? rig.board.rx.usedLen : -1));
        expect([at, lens]).toEqual([at, [310, 310, 310, 310, 272]]);
        const got = Buffer.concat(five.map((c, k) => rig.board.gather(c, lens[k]!)));
        expect(Buffer.compare(got, withBuffers(frame(12, 1500, 6 - left - 2 + i), 5))).toBe(0);
      }
      expect(rig.usedIdx(rig.host.tx)).toBe(6);
      checked(rig);
      rig.close();
    }
    expect(lost).toBeGreaterThan(4);
  });

  test("frames to the host that were under way do not touch the new rings", () => {
    for (let at = 0; at < 8; at++) {
      const rig = new RingRig({ hostQueue: 64, boardQueue: 64, model: { strict: false } });
      for (let i = 0; i < 12; i++) rig.host.post([2000]);
      rig.turns(20);
      for (let i = 0; i < 10; i++) rig.board.send(frame(12, 1500, i), [1512], true);
      rig.board.tx.publish();
      rig.turns(at);
      rig.board.rx.reset();
      rig.board.tx.reset();
      rig.port.generation++;
      rig.turns(40);
      expect(ld16(rig.board.tx.usedPtr + 2)).toBe(0);
      const c = rig.board.send(frame(12, 100, 9));
      rig.settle();
      expect([ld16(rig.board.tx.usedPtr + 2), rig.board.tx.take()]).toEqual([1, c.head]);
      rig.close();
    }
  });

  test("a port that is not ready: nothing is begun, the host's rings are still served", () => {
    const rig = new RingRig();
    rig.port.ready = false;
    rig.host.post([300]);
    rig.host.send(frame(12, 100));
    rig.turns(100);
    expect([rig.dp.toHost.frames, rig.dp.toBoard.frames, rig.usedIdx(rig.host.tx)]).toEqual([0, 0, 0]);
    rig.board.post([300]);
    rig.port.ready = true;
    rig.settle();
    expect([rig.dp.toBoard.frames, rig.usedIdx(rig.host.tx)]).toEqual([1, 1]);
    checked(rig);
    rig.close();
  });

  test("the end of the host's life while the board's driver starts over: the new rings stay untouched", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64 });
    for (let i = 0; i < 60; i++) {
      rig.host.post([300]);
      rig.board.post([300]);
    }
    // One frame a turn each way until both directions have something under way in the same moment.
    const both = (): boolean => rig.dp.toHost.outstanding > 0 && rig.dp.toBoard.outstanding > 0;
    for (let i = 0; i < 50 && !both(); i++) {
      rig.board.send(frame(12, 200, i));
      rig.host.send(frame(12, 200, i));
      rig.turns(1);
    }
    expect(both()).toBe(true);
    rig.board.rx.reset();
    rig.board.tx.reset();
    rig.port.generation++;
    expect(rig.dp.detach()).toBe(0);
    expect([ld16(rig.board.rx.usedPtr + 2), ld16(rig.board.tx.usedPtr + 2)]).toEqual([0, 0]);
    hostStartsOver(rig);
    rig.attach();
    exchange(rig, 4);
    checked(rig);
    rig.close();
  });
});

describe("interrupts of the data path", () => {
  test("masked entry: frames flow, one message on unmask, then as before", () => {
    const rig = new RingRig();
    exchange(rig, 2);
    rig.maskVector(1, true);
    rig.messages.length = 0;
    exchange(rig, 5);
    expect(rig.messages.filter((v) => v === 1)).toEqual([]);
    expect(rig.irq.owed).toBe(true);
    rig.maskVector(1, false);
    rig.settle();
    expect(rig.messages.filter((v) => v === 1)).toEqual([1]);
    rig.messages.length = 0;
    exchange(rig, 1);
    expect(rig.messages.filter((v) => v === 1)).toEqual([1]);
    checked(rig);
    rig.close();
  });

  test("INTx: a pulse behind the used index, both queues share it", () => {
    const rig = new RingRig({ irq: "intx", holdTurns: 6 });
    rig.settle();
    rig.line.length = 0;
    const link = rig.model.link;
    const host = link.host!;
    const at: number[] = [];
    link.host = {
      ...host,
      memory: host.memory,
      message: (a, d) => host.message(a, d),
      intx: (on) => {
        if (on) at.push(rig.usedIdx(rig.host.rx) + rig.usedIdx(rig.host.tx));
        host.intx(on);
      },
    };
    for (let i = 0; i < 5; i++) {
      exchange(rig, 1, i);
      rig.turns(30);
    }
    expect(rig.line.length % 2).toBe(0);
    expect(rig.line.every((v, i) => v === (i % 2 === 0 ? 1 : 0))).toBe(true);
    // the index was there before the line; at most one pulse for each queue
    expect(at[0]).toBeGreaterThan(0);
    expect(at.at(-1)).toBe(10);
    expect(at.length).toBeLessThanOrEqual(10);
    expect(rig.messages).toEqual([]);
    checked(rig);
    rig.close();
  });

  test("MSI-X switched off by the host in mid-life: nothing is sent, nothing is asserted, frames flow", () => {
    const rig = new RingRig();
    exchange(rig, 2);
    rig.msixControl(0);
    rig.messages.length = 0;
    exchange(rig, 3);
    expect([rig.messages, rig.line]).toEqual([[], []]);
    rig.close();
  });
});

describe("a DMA abort", () => {
  for (const ch of [0, 1]) {
    test(`on read channel ${ch}: a code with the cause, and a new life after it`, () => {
      const rig = new RingRig();
      exchange(rig, 2);
      rig.model.edma.injectCause = CAUSE_UR;
      rig.model.edma.injectChannel = ch;
      rig.board.post([300]);
      rig.host.send(frame(12, 100));
      expect(rig.fault()).toMatchObject({ code: R_DMA_ABORT, culprit: "dma.read", b: 8 + ch });
      expect(rig.dp.detach()).toBe(0);
      hostStartsOver(rig);
      for (const r of [rig.board.rx, rig.board.tx]) r.reset();
      rig.attach();
      exchange(rig, 5);
      checked(rig);
      rig.close();
    });
  }
});
