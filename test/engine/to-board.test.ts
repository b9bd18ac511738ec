/** Frames of the host for the board beyond what random chains reach. */
import { describe, expect, test } from "bun:test";
import {
  R_BUFFER_SMALL,
  R_DESC_DIRECTION,
  R_DESC_INDEX,
  R_DMA_ABORT,
  R_FRAME_SHORT,
  R_LOCAL_ADDRESS,
} from "../../src/engine/codes.ts";
import { MAX_SEGMENTS } from "../../src/engine/segments.ts";
import { frame, RingRig, withBuffers } from "../support/ring-rig.ts";

const finish = (rig: RingRig): void => {
  expect(rig.violations).toEqual([]);
  rig.close();
};
const ones = (n: number): number[] => Array.from({ length: n }, () => 1);

describe("frames that cannot be", () => {
  for (const [name, bytes, cut] of [
    ["shorter than the header", 5, undefined],
    ["the header alone", 12, [12]],
    ["one byte less than an Ethernet header", 25, undefined],
    ["in pieces of one byte", 25, ones(25)],
  ] as const) {
    test(`${name}: the pair stops with both numbers`, () => {
      const rig = new RingRig({ hostQueue: 64 });
      rig.board.post([300]);
      rig.host.send(new Uint8Array(bytes), cut === undefined ? [bytes] : [...cut]);
      expect(rig.fault()).toEqual({ code: R_FRAME_SHORT, culprit: "hq.tx", a: bytes, b: 26 });
      expect(rig.usedIdx(rig.board.rx)).toBe(0);
      finish(rig);
    });
  }

  test("a head outside the table, alone in a ring so short that its whole table is fetched at once", () => {
    for (const head of [2, 3, 0xffff]) {
      const rig = new RingRig({ hostQueue: 2 });
      rig.board.post([300]);
      rig.host.send(frame(12, 100), [112], true);
      rig.host.tx.avail[2] = head;
      rig.host.tx.publish();
      expect(rig.fault()).toEqual({ code: R_DESC_INDEX, culprit: "hq.tx", a: head, b: 2 });
      finish(rig);
    }
  });

  test("a buffer where the host has no memory: the read aborts, the channel recovers in the next life", () => {
    const rig = new RingRig();
    rig.board.post([300]);
    const c = rig.host.send(frame(12, 100), [112], true);
    rig.host.tx.desc[c.head * 4 + 1] = 0x7f;
    rig.host.tx.publish();
    expect(rig.fault()).toMatchObject({ code: R_DMA_ABORT, culprit: "dma.read" });
    expect(rig.dp.detach()).toBe(0);
    rig.host.rx.reset();
    rig.host.tx.reset();
    rig.attach();
    const f = frame(12, 100, 4);
    rig.host.send(f);
    rig.settle();
    expect([rig.usedIdx(rig.host.tx), rig.usedIdx(rig.board.rx)]).toEqual([1, 1]);
    finish(rig);
  });

  test("a device-writable descriptor in the transmit queue, also as the last of many", () => {
    for (const k of [0, 2]) {
      const rig = new RingRig();
      rig.board.post([300]);
      const c = rig.host.send(frame(12, 100), [12, 50, 50], true);
      let d = c.head;
      for (let i = 0; i < k; i++) d = rig.host.tx.desc[d * 4 + 3]! >>> 16;
      rig.host.tx.desc[d * 4 + 3] = rig.host.tx.desc[d * 4 + 3]! | 2;
      rig.host.tx.publish();
      expect(rig.fault()).toMatchObject({ code: R_DESC_DIRECTION, culprit: "hq.tx", a: d });
      rig.close();
    }
  });
});

describe("buffers of the board that cannot be", () => {
  test("smaller than the header, outside its memory", () => {
    const rig = new RingRig();
    rig.board.post([11]);
    rig.host.send(frame(12, 100));
    expect(rig.fault()).toEqual({ code: R_BUFFER_SMALL, culprit: "eq.rx", a: 11, b: 12 });
    rig.close();
    const far = new RingRig();
    const c = far.board.post([300], true);
    far.board.rx.desc[c.head * 4 + 1] = 0x55;
    far.board.rx.publish();
    far.host.send(frame(12, 100));
    expect(far.fault()).toMatchObject({ code: R_LOCAL_ADDRESS, culprit: "eq.rx" });
    far.close();
  });
});

test("a receive buffer of the board whose head is outside the table, for a lone frame and for several", () => {
  for (const head of [16, 17, 0xffff])
    for (const frames of [1, 2]) {
      const rig = new RingRig();
      rig.board.post([300]);
      rig.board.post([300], true);
      rig.board.rx.avail[2] = head;
      rig.board.rx.publish();
      for (let i = 0; i < frames; i++) rig.host.send(frame(12, 100), [112], true);
      rig.host.tx.publish();
      expect(rig.fault()).toEqual({ code: R_DESC_INDEX, culprit: "eq.rx", a: head, b: 16 });
      finish(rig);
    }
});

describe("frames larger than what the board gives", () => {
  test("no mergeable buffers: dropped and counted, the host's chain comes back in its place, the next frame goes", () => {
    const rig = new RingRig({ boardMergeable: false });
    const brx = rig.board.post([128]);
    rig.board.post([128]);
    const big = rig.host.send(frame(12, 700));
    const small = rig.host.send(frame(12, 80, 9));
    rig.settle();
    expect([rig.dp.toBoard.dropped, rig.dp.toBoard.frames]).toEqual([1, 1]);
    expect([rig.host.tx.take(), rig.host.tx.take()]).toEqual([big.head, small.head]);
    expect(rig.board.gather(brx, 92)).toEqual(withBuffers(frame(12, 80, 9), 1));
    finish(rig);
  });

  test("the whole ring of mergeable buffers is too little", () => {
    const rig = new RingRig({ boardQueue: 4 });
    for (let i = 0; i < 4; i++) rig.board.post([100]);
    rig.host.send(frame(12, 700));
    rig.host.send(frame(12, 50, 3));
    rig.settle();
    expect([rig.dp.toBoard.dropped, rig.usedIdx(rig.host.tx), rig.usedIdx(rig.board.rx)]).toEqual([1, 2, 1]);
    finish(rig);
  });

  test("only drops: the host gets its chains back with an interrupt", () => {
    const rig = new RingRig({ boardMergeable: false });
    rig.board.post([100]);
    rig.settle();
    rig.messages.length = 0;
    for (let i = 0; i < 5; i++) rig.host.send(frame(12, 500));
    rig.settle();
    expect([rig.dp.toBoard.dropped, rig.usedIdx(rig.host.tx), rig.messages.includes(2)]).toEqual([5, 5, true]);
    finish(rig);
  });

  test("too few buffers for now: waits, starved is counted, then goes whole", () => {
    const rig = new RingRig();
    rig.board.post([128]);
    rig.host.send(frame(12, 300, 2));
    rig.settle();
    expect([rig.usedIdx(rig.host.tx), rig.dp.toBoard.dropped]).toEqual([0, 0]);
    expect(rig.dp.toBoard.starved).toBeGreaterThan(0);
    rig.board.post([128]);
    rig.board.post([128]);
    rig.settle();
    expect([rig.usedIdx(rig.host.tx), rig.usedIdx(rig.board.rx)]).toEqual([1, 3]);
    finish(rig);
  });

  test("more pieces than are handled together: dropped, what is behind goes on", () => {
    const rig = new RingRig({ hostQueue: 1024, boardQueue: 1024 });
    rig.board.post(Array.from({ length: 300 }, () => 2));
    rig.host.send(frame(12, 500), [...ones(299), 213]);
    rig.turns(500);
    expect(rig.dp.toBoard.dropped).toBe(1);
    rig.host.send(frame(12, 100), [112]);
    rig.turns(100);
    expect([rig.usedIdx(rig.host.tx), rig.usedIdx(rig.board.rx)]).toEqual([2, 1]);
    finish(rig);
  });

  test("as many pieces as are handled go, one more is dropped", () => {
    for (const more of [0, 1]) {
      const rig = new RingRig({ hostQueue: 1024 });
      const to = rig.board.post([2000]);
      const pieces = MAX_SEGMENTS - 3 + more;
      const f = frame(12, 1000, 3);
      rig.host.send(f, [...ones(pieces - 1), f.length - pieces + 1]);
      rig.settle();
      expect([rig.dp.toBoard.frames, rig.dp.toBoard.dropped]).toEqual([1 - more, more]);
      if (more === 0) expect(rig.board.gather(to, f.length)).toEqual(withBuffers(f, 1));
      expect(rig.usedIdx(rig.host.tx)).toBe(1);
      finish(rig);
    }
  });

  test("a lone frame in pieces, buffers one byte too small or of two pieces: whole, and nothing behind it", () => {
    for (const cut of [[112], [12, 100], [50, 62]])
      for (const [buffers, used] of [
        [[[112]], 1],
        [[[111], [300]], 2],
        [[[20], [20], [72]], 3],
        [[[12, 100]], 1],
        [[[12, 99], [64]], 2],
      ] as const) {
        const rig = new RingRig();
        const chains = buffers.map((lens) => rig.board.post(lens));
        rig.host.send(frame(12, 100, 3), cut);
        rig.settle();
        expect(rig.usedIdx(rig.board.rx)).toBe(used);
        const got = chains.flatMap((c) => [
          ...rig.board.gather(
            c,
            c.lens.reduce((n, x) => n + x, 0),
          ),
        ]);
        expect(got.slice(0, 112)).toEqual([...withBuffers(frame(12, 100, 3), used)]);
        expect(got.slice(112).every((b) => b === 0xee)).toBe(true);
        finish(rig);
      }
  });

  test("a lone frame whose buffer of the board is readable: the pair stops", () => {
    const rig = new RingRig();
    const c = rig.board.post([300], true);
    rig.board.rx.desc[c.head * 4 + 3] = 0;
    rig.board.rx.publish();
    rig.host.send(frame(12, 100));
    expect(rig.fault()).toMatchObject({ code: R_DESC_DIRECTION, culprit: "eq.rx", a: c.head });
    rig.close();
  });

  test("no room for a lone frame and one that is counted behind it: it waits for that", () => {
    for (const left of [0, 1]) {
      const rig = new RingRig();
      rig.host.send(frame(12, 100, 1));
      rig.turns(30);
      const { read } = rig;
      const { room } = read;
      read.room = () => left;
      const chain = rig.board.post([300]);
      rig.turns(40);
      expect([left, rig.dp.hqTx.available(), rig.dp.toBoard.frames]).toEqual([left, 1, 0]);
      read.room = room;
      rig.settle();
      expect(rig.board.gather(chain, 112)).toEqual(withBuffers(frame(12, 100, 1), 1));
      finish(rig);
    }
  });

  test("the receive ring of the board is empty: frames of the host wait, none is lost", () => {
    const rig = new RingRig();
    for (let i = 0; i < 5; i++) rig.host.send(frame(12, 100, i));
    rig.settle();
    expect(rig.usedIdx(rig.host.tx)).toBe(0);
    const chains = Array.from({ length: 5 }, () => rig.board.post([300]));
    rig.settle();
    chains.forEach((c, i) => {
      expect(rig.board.gather(c, 112)).toEqual(withBuffers(frame(12, 100, i), 1));
    });
    finish(rig);
  });
});

describe("what landed: the board's driver is told before anything for the host is put", () => {
  const cases = [
    ["a lone frame", 1, false],
    ["several", 5, false],
    ["while the pair drains", 5, true],
  ] as const;
  for (const [name, frames, draining] of cases)
    test(name, () => {
      const rig = new RingRig();
      for (let i = 0; i < frames; i++) rig.board.post([300]);
      rig.turns(30);
      for (let i = 0; i < frames; i++) rig.host.send(frame(12, 100, i), undefined, true);
      rig.host.tx.publish();
      // everything is on its way over the read channel
      for (let t = 0; t < 100 && rig.dp.toBoard.frames < frames; t++) rig.turns(1);
      const { write, dp, port, host, board } = rig;
      /** [elements put in the turn so far, the board's used index, the host's] at each notification */
      const told: number[][] = [];
      let before = write.putCount;
      port.notify = (queue) => {
        expect(queue).toBe(0);
        told.push([write.putCount - before, rig.usedIdx(board.rx), rig.usedIdx(host.tx)]);
      };
      let put = 0;
      let rc = 0;
      for (let t = 0; t < 100 && told.length === 0; t++) {
        rig.model.turn();
        before = write.putCount;
        rc = draining ? dp.drain() : dp.turn();
        expect(rc).toBeGreaterThanOrEqual(0);
        put = write.putCount - before;
      }
      if (!draining) expect(rc).toBe(frames);
      expect(told).toEqual([[0, frames, 0]]);
      // used elements, index and interrupt, in the same turn
      expect(put).toBe(3);
      for (let t = 0; t < 40; t++) {
        rig.model.turn();
        expect(draining ? dp.drain() : dp.turn()).toBeGreaterThanOrEqual(0);
      }
      expect([told.length, rig.usedIdx(host.tx), dp.toBoard.outstanding]).toEqual([1, frames, 0]);
      finish(rig);
    });

  test("it is not told where it does not want to be, the host gets its chains all the same", () => {
    for (const draining of [false, true]) {
      const rig = new RingRig();
      rig.board.post([300]);
      rig.setInterruptFlag(rig.board.rx, true);
      rig.host.send(frame(12, 100));
      for (let t = 0; t < 100 && rig.dp.toBoard.frames < 1; t++) rig.turns(1);
      for (let t = 0; t < 60; t++) {
        rig.model.turn();
        expect(draining ? rig.dp.drain() : rig.dp.turn()).toBeGreaterThanOrEqual(0);
      }
      expect([rig.notified, rig.usedIdx(rig.board.rx), rig.usedIdx(rig.host.tx)]).toEqual([[], 1, 1]);
      expect([rig.dp.boardInterrupts, rig.dp.toBoard.outstanding]).toEqual([0, 0]);
      finish(rig);
    }
  });
});

test("while more is under way the host's chains go back together: 64, or 192 KiB of them", () => {
  for (const [bytes, most] of [
    [100, 63],
    [6000, 32],
    [12000, 16],
  ] as const) {
    const rig = new RingRig({
      hostQueue: 256,
      boardQueue: 256,
      limits: { burst: 8, inflightBytes: 4 << 20 },
      // one frame or so lands in a turn
      model: { faults: { holdFetched: 0.9, splitData: 0.8 } },
    });
    for (let i = 0; i < 200; i++) rig.board.post([12100]);
    rig.turns(40);
    for (let i = 0; i < 200; i++) rig.host.send(frame(12, bytes, i), undefined, true);
    rig.host.tx.publish();
    const { hqTx } = rig.dp;
    let seen = 0;
    let groups = 0;
    for (let t = 0; t < 4000; t++) {
      const before = hqTx.published;
      rig.turns(1);
      if (hqTx.staged > seen) seen = hqTx.staged;
      if (hqTx.published !== before) groups++;
    }
    expect([bytes, seen, rig.usedIdx(rig.board.rx), rig.usedIdx(rig.host.tx)]).toEqual([bytes, most, 200, 200]);
    expect(groups).toBeLessThanOrEqual(200 / (most + 1) + 1);
    finish(rig);
  }
});
