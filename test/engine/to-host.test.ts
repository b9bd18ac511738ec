/** Frames for the host beyond what random chains reach: frames and buffers that do not fit, and the limits of a burst. */
import { describe, expect, test } from "bun:test";
import {
  R_BUFFER_SMALL,
  R_CHAIN_TOO_LONG,
  R_DESC_DIRECTION,
  R_DESC_INDEX,
  R_FRAME_SHORT,
  R_LOCAL_ADDRESS,
} from "../../src/engine/codes.ts";
import { MAX_SEGMENTS } from "../../src/engine/segments.ts";
import { frame, RingRig, type RingRigOptions, withBuffers } from "../support/ring-rig.ts";

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
      for (const patch of [false, true]) {
        const rig = new RingRig({ boardQueue: 64, patch });
        rig.host.post([300]);
        rig.board.send(new Uint8Array(bytes), cut === undefined ? [bytes] : [...cut]);
        expect(rig.fault()).toEqual({ code: R_FRAME_SHORT, culprit: "eq.tx", a: bytes, b: 26 });
        // nothing of it reached the host
        expect(rig.usedIdx(rig.host.rx)).toBe(0);
        finish(rig);
      }
    });
  }

  test("an address outside the board's memory, a writable descriptor", () => {
    const rig = new RingRig();
    rig.host.post([300]);
    const c = rig.board.send(frame(12, 100), [112], true);
    rig.board.tx.desc[c.head * 4 + 1] = 0x55;
    rig.board.tx.publish();
    expect(rig.fault()).toMatchObject({ code: R_LOCAL_ADDRESS, culprit: "eq.tx", b: 0x55 });
    rig.close();
    const two = new RingRig();
    two.host.post([300]);
    const d = two.board.send(frame(12, 100), [112], true);
    two.board.tx.desc[d.head * 4 + 3] = 2;
    two.board.tx.publish();
    expect(two.fault()).toMatchObject({ code: R_DESC_DIRECTION, culprit: "eq.tx", a: d.head, b: 2 });
    two.close();
  });

  test("a head outside the table, of the frame and of its buffer, alone and with others", () => {
    for (const head of [16, 17, 0xffff])
      for (const frames of [1, 2])
        for (const patch of [false, true])
          for (const ring of ["eq.tx", "hq.rx"]) {
            const rig = new RingRig({ patch, hostQueue: 16 });
            for (let i = 0; i < 8; i++) rig.host.post([300], true);
            for (let i = 0; i < frames; i++) rig.board.send(frame(12, 100), [112], true);
            (ring === "eq.tx" ? rig.board.tx : rig.host.rx).avail[2] = head;
            rig.host.rx.publish();
            // Half a ring of buffers comes with the whole table, and is not looked at before it is used.
            rig.turns(20);
            rig.board.tx.publish();
            expect(rig.fault()).toEqual({ code: R_DESC_INDEX, culprit: ring, a: head, b: 16 });
            expect(rig.usedIdx(rig.host.rx)).toBe(0);
            finish(rig);
          }
  });

  test("frames in front of a bad one are delivered", () => {
    const rig = new RingRig();
    const rx = [rig.host.post([300]), rig.host.post([300]), rig.host.post([300])];
    rig.turns(20);
    for (let i = 0; i < 2; i++) rig.board.send(frame(12, 100, i), [112], true);
    rig.board.send(new Uint8Array(20), [20], true);
    rig.board.tx.publish();
    expect(rig.fault().code).toBe(R_FRAME_SHORT);
    // what was begun is on the channel; it lands when the loop lets it
    for (let i = 0; i < 20; i++) {
      rig.model.turn();
      rig.dp.drain();
    }
    expect(rig.usedIdx(rig.host.rx)).toBe(2);
    for (let i = 0; i < 2; i++) expect(rig.host.gather(rx[i]!, 112)).toEqual(withBuffers(frame(12, 100, i), 1));
    finish(rig);
  });
});

describe("a lone frame for which the host's buffers are known", () => {
  const known = (patch: boolean, buffers: readonly (readonly number[])[]) => {
    const rig = new RingRig({ patch });
    const chains = buffers.map((lens) => rig.host.post(lens));
    rig.turns(40);
    expect(rig.dp.hqRx.available()).toBe(buffers.length);
    return { rig, chains };
  };

  for (const patch of [false, true]) {
    test(`too short, or writable: the pair stops, patch ${patch}`, () => {
      const short = known(patch, [[300]]).rig;
      short.board.send(new Uint8Array(25));
      expect(short.fault()).toEqual({ code: R_FRAME_SHORT, culprit: "eq.tx", a: 25, b: 26 });
      expect(short.usedIdx(short.host.rx)).toBe(0);
      finish(short);
      const { rig } = known(patch, [[300]]);
      const c = rig.board.send(frame(12, 100), [112], true);
      rig.board.tx.desc[c.head * 4 + 3] = 2;
      rig.board.tx.publish();
      expect(rig.fault()).toMatchObject({ code: R_DESC_DIRECTION, culprit: "eq.tx", a: c.head, b: 2 });
      rig.close();
    });

    test(`a buffer that is readable: the pair stops, patch ${patch}`, () => {
      const rig = new RingRig({ patch });
      const c = rig.host.post([300], true);
      rig.host.rx.desc[c.head * 4 + 3] = 0;
      rig.host.rx.publish();
      rig.turns(40);
      rig.board.send(frame(12, 100));
      expect(rig.fault()).toMatchObject({ code: R_DESC_DIRECTION, culprit: "hq.rx", a: c.head });
      rig.close();
    });

    test(`buffers one byte too small, of two pieces, of a frame in two: nothing is written behind them, patch ${patch}`, () => {
      for (const cut of [[112], [12, 100], [50, 62]])
        for (const [buffers, used] of [
          [[[112]], 1],
          [[[111], [300]], 2],
          [[[20], [20], [72]], 3],
          [[[12, 100]], 1],
          [[[12, 99], [64]], 2],
        ] as const) {
          const { rig, chains } = known(patch, buffers);
          rig.board.send(frame(12, 100, 3), cut);
          rig.settle();
          expect(rig.usedIdx(rig.host.rx)).toBe(used);
          const got = chains.flatMap((c) => [
            ...rig.host.gather(
              c,
              c.lens.reduce((n, x) => n + x, 0),
            ),
          ]);
          expect(got.slice(0, 112)).toEqual([...withBuffers(frame(12, 100, 3), used)]);
          expect(got.slice(112).every((b) => b === 0xee)).toBe(true);
          finish(rig);
        }
    });
  }
});

describe("buffers of the host that cannot be", () => {
  test("smaller than the header: the pair stops, mergeable or not", () => {
    for (const mergeable of [true, false]) {
      for (const lens of [[11], [1], [5, 6]]) {
        const rig = new RingRig({ mergeable });
        rig.host.post(lens);
        rig.host.post([500]);
        rig.board.send(frame(12, 100));
        expect(rig.fault()).toEqual({
          code: R_BUFFER_SMALL,
          culprit: "hq.rx",
          a: lens.reduce((n, x) => n + x, 0),
          b: 12,
        });
        finish(rig);
      }
    }
  });

  test("a device-readable descriptor in the receive queue", () => {
    const rig = new RingRig();
    const c = rig.host.post([300], true);
    rig.host.rx.desc[c.head * 4 + 3] = 0;
    rig.host.rx.publish();
    rig.board.send(frame(12, 100));
    expect(rig.fault()).toMatchObject({ code: R_DESC_DIRECTION, culprit: "hq.rx", a: c.head });
    rig.close();
  });

  test("a later buffer of a frame is bad: nothing of the frame was put", () => {
    const rig = new RingRig();
    rig.host.post([100]);
    const c = rig.host.post([300], true);
    rig.host.rx.desc[c.head * 4 + 2] = 0;
    rig.host.rx.publish();
    rig.board.send(frame(12, 200));
    expect(rig.fault().culprit).toBe("hq.rx");
    for (let i = 0; i < 20; i++) rig.model.turn();
    expect(rig.trace.filter((t) => t.write && t.what === "buffer")).toEqual([]);
    finish(rig);
  });
});

describe("frames larger than what the host gives", () => {
  const kinds: [string, Partial<RingRigOptions>][] = [
    ["no mergeable buffers", { mergeable: false }],
    ["the whole ring of mergeable buffers is too little", { hostQueue: 4 }],
  ];
  for (const [name, o] of kinds) {
    test(`${name}: dropped, counted, given back; the next frame goes`, () => {
      const rig = new RingRig(o);
      const posts = Array.from({ length: 4 }, () => rig.host.post([128]));
      const big = rig.board.send(frame(12, 700));
      const small = rig.board.send(frame(12, 80, 9));
      rig.settle();
      expect(rig.dp.toHost.dropped).toBe(1);
      expect([rig.board.tx.take(), rig.board.tx.take()]).toEqual([big.head, small.head]);
      expect(rig.usedIdx(rig.host.rx)).toBe(1);
      expect(rig.host.gather(posts[0]!, 92)).toEqual(withBuffers(frame(12, 80, 9), 1));
      expect(rig.dp.toHost.frames).toBe(1);
      finish(rig);
    });
  }

  test("too few mergeable buffers for now: the frame waits and is counted as starved, then goes whole", () => {
    const rig = new RingRig();
    rig.host.post([128]);
    rig.board.send(frame(12, 300, 2));
    rig.settle();
    expect([rig.usedIdx(rig.host.rx), rig.dp.toHost.dropped]).toEqual([0, 0]);
    expect(rig.dp.toHost.starved).toBeGreaterThan(0);
    rig.host.post([128]);
    rig.host.post([128]);
    rig.settle();
    expect(rig.usedIdx(rig.host.rx)).toBe(3);
    finish(rig);
  });

  test("only drops in a burst: nothing is written to the host, the chains come back", () => {
    const rig = new RingRig({ mergeable: false });
    rig.host.post([128]);
    rig.settle();
    rig.trace.length = 0;
    for (let i = 0; i < 10; i++) rig.board.send(frame(12, 500), [512], true);
    rig.board.tx.publish();
    rig.settle();
    expect([rig.dp.toHost.dropped, rig.usedIdx(rig.board.tx)]).toEqual([10, 10]);
    expect(rig.trace.filter((t) => t.write)).toEqual([]);
    finish(rig);
  });

  test("more pieces than are handled together: dropped and counted, what is behind goes on", () => {
    // 300 pieces on either side
    const rig = new RingRig({ hostQueue: 1024, boardQueue: 1024 });
    rig.host.post(Array.from({ length: 300 }, () => 2));
    rig.board.send(frame(12, 500), [...ones(299), 213]);
    rig.turns(400);
    expect(rig.dp.toHost.dropped).toBe(1);
    const ok = rig.board.send(frame(12, 100), [112]);
    rig.turns(100);
    expect([rig.board.tx.take() >= 0, rig.board.tx.take()]).toEqual([true, ok.head]);
    expect(rig.usedIdx(rig.host.rx)).toBe(1);
    finish(rig);
  });

  test("as many pieces as are handled go, whoever makes the header; one more is dropped", () => {
    for (const patch of [false, true])
      for (const more of [0, 1]) {
        const rig = new RingRig({ boardQueue: 1024, patch });
        const to = rig.host.post([2000]);
        const pieces = MAX_SEGMENTS - 2 + more;
        const f = frame(12, 1000, 3);
        rig.board.send(f, [...ones(pieces - 1), f.length - pieces + 1]);
        rig.settle();
        expect([rig.dp.toHost.frames, rig.dp.toHost.dropped]).toEqual([1 - more, more]);
        if (more === 0) expect(rig.host.gather(to, f.length)).toEqual(withBuffers(f, 1));
        expect(rig.board.tx.take()).toBeGreaterThanOrEqual(0);
        finish(rig);
      }
  });

  test("one receive buffer of more pieces than any frame may have stops the pair", () => {
    const rig = new RingRig({ hostQueue: 1024 });
    const c = rig.host.post(ones(MAX_SEGMENTS + 1));
    rig.board.send(frame(12, 600));
    expect(rig.fault()).toMatchObject({ code: R_CHAIN_TOO_LONG, culprit: "hq.rx", a: c.head, b: MAX_SEGMENTS });
    rig.close();
  });
});

describe("bursts", () => {
  test("no more frames than the limit in one, no more bytes in flight than the limit", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64, limits: { burst: 4, inflightBytes: 1 << 20 } });
    for (let i = 0; i < 20; i++) rig.host.post([200]);
    rig.turns(30);
    for (let i = 0; i < 20; i++) rig.board.send(frame(12, 100), [112], true);
    rig.board.tx.publish();
    rig.settle();
    expect([rig.dp.toHost.frames, rig.dp.toHost.bursts]).toEqual([20, 5]);
    finish(rig);

    const few = new RingRig({ hostQueue: 64, boardQueue: 64, limits: { burst: 64, inflightBytes: 300 } });
    for (let i = 0; i < 20; i++) few.host.post([200]);
    few.turns(30);
    for (let i = 0; i < 20; i++) few.board.send(frame(12, 100), [112], true);
    few.board.tx.publish();
    // the model's DMA stands still: what is begun is what may be in flight
    for (let i = 0; i < 8; i++) few.dp.turn();
    expect(few.dp.toHost.frames).toBe(3);
    few.settle();
    expect(few.dp.toHost.frames).toBe(20);
    finish(few);
  });

  test("a channel with little room: frames wait, none is lost, order is kept", () => {
    const rig = new RingRig({ hostQueue: 1024, boardQueue: 1024 });
    for (let i = 0; i < 900; i++) rig.host.post([40]);
    rig.turns(200);
    // about 17 elements each: many more than the channel has
    const want: Uint8Array[] = [];
    for (let i = 0; i < 180; i++) {
      const f = frame(12, 180, i);
      want.push(withBuffers(f, 5));
      rig.board.send(f, [12, 60, 60, 60], true);
    }
    rig.board.tx.publish();
    for (let i = 0; i < 30; i++) rig.dp.turn();
    expect(rig.dp.toHost.frames).toBeLessThanOrEqual(180);
    rig.settle();
    expect(rig.usedIdx(rig.host.rx)).toBe(900);
    const got: number[][] = [];
    for (let i = 0; i < 900; i++) {
      const { id, len } = rig.used(rig.host.rx, i);
      const w = id * 4;
      const at = (rig.host.rx.desc[w]! >>> 0) + (rig.host.rx.desc[w + 1]! >>> 0) * 2 ** 32;
      if (i % 5 === 0) got.push([]);
      got.at(-1)!.push(...rig.host.bytes(at, len));
    }
    got.forEach((g, i) => {
      if (Buffer.compare(Uint8Array.from(g), want[i]!) !== 0) throw new Error(`frame ${i}`);
    });
    finish(rig);
  });

  test("no room for a lone frame and all that may follow it: it waits for that", () => {
    for (const patch of [false, true])
      for (const left of [0, 1, 6]) {
        const rig = new RingRig({ patch });
        const chain = rig.host.post([300]);
        rig.turns(30);
        const ch = rig.write;
        const room = ch.room;
        ch.room = () => left;
        rig.board.send(frame(12, 100, 1));
        rig.turns(30);
        expect([left, rig.dp.toHost.frames]).toEqual([left, 0]);
        ch.room = room;
        rig.settle();
        expect(rig.host.gather(chain, 112)).toEqual(withBuffers(frame(12, 100, 1), 1));
        finish(rig);
      }
  });

  test("lone frames behind a full line: a chain goes back when its own element has landed, not before", () => {
    const rig = new RingRig({ patch: true, hostQueue: 64, boardQueue: 64, limits: { burst: 64, inflightBytes: 2400 } });
    for (let i = 0; i < 50; i++) rig.host.post([300]);
    rig.turns(60);
    const { write, dp } = rig;
    const progress = write.progress.bind(write);
    write.progress = () => 0;
    const ends: number[] = [];
    for (let i = 0; i < 30; i++) {
      rig.board.send(frame(12, 100, i));
      const { frames } = dp.toHost;
      const before = write.putCount;
      expect(dp.turn()).toBeGreaterThanOrEqual(0);
      // What is announced behind a long line is not waited for.
      if (dp.toHost.frames > frames) ends.push(before - write.doneCount <= 6 ? write.putCount : before + 1);
    }
    // 112 bytes each, up to the limit
    expect(ends.length).toBe(22);
    const { begin } = dp.toHost;
    dp.toHost.begin = () => 0;
    const first = write.doneCount;
    write.progress = () => {
      if (write.doneCount !== write.putCount) write.doneCount++;
      return 0;
    };
    let back = 0;
    for (let t = 0; t < 300 && back < ends.length; t++) {
      expect(dp.turn()).toBeGreaterThanOrEqual(0);
      back = rig.usedIdx(rig.board.tx);
      expect([write.doneCount, back]).toEqual([write.doneCount, ends.filter((e) => e <= write.doneCount).length]);
    }
    expect(back).toBe(ends.length);
    Object.assign(write, { progress, doneCount: first });
    dp.toHost.begin = begin;
    rig.close();
  });

  test("a lone frame waits where the host has posted nothing, whatever its ring held a lap ago", () => {
    for (const patch of [false, true]) {
      const rig = new RingRig({ patch, hostQueue: 8 });
      for (let i = 0; i < 24; i++) {
        rig.host.post([300]);
        rig.board.send(frame(12, 100, i));
        rig.settle();
        while (rig.host.rx.take() >= 0);
        while (rig.board.tx.take() >= 0);
      }
      rig.board.send(frame(12, 100, 50));
      rig.turns(60);
      expect(rig.dp.toHost.frames).toBe(24);
      const chain = rig.host.post([300]);
      rig.settle();
      expect(rig.host.gather(chain, 112)).toEqual(withBuffers(frame(12, 100, 50), 1));
      finish(rig);
    }
  });

  test("a lone frame above the mtu that no offload cuts is dropped, one at its edge goes", () => {
    for (const patch of [false, true]) {
      const rig = new RingRig({ patch, mtu: 300 });
      for (let i = 0; i < 3; i++) rig.host.post([600]);
      rig.turns(30);
      // Ethernet header and a VLAN tag are not counted
      for (const bytes of [318, 319, 318]) {
        rig.board.send(frame(12, bytes, bytes));
        rig.settle();
      }
      expect([rig.dp.toHost.frames, rig.dp.toHost.dropped]).toEqual([2, 1]);
      finish(rig);
    }
  });
});
