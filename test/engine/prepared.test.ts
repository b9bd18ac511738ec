/** A round prepared in the registers of the read channels (host-guess.ts), or just begun, when something ends or starts over. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { DriverRing } from "../../src/hw/driver-ring.ts";
import { type Chain, frame, RingRig, type RingRigOptions, withBuffers } from "../support/ring-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const KINDS: [string, Partial<RingRigOptions>][] = [
  ["two read channels", {}],
  ["event index", { eventIdx: true }],
  ["viewport maps", { model: { dmaMap: "legacy", atu: "viewport" } }],
  ["lost doorbells, data in pieces", { model: { faults: { lostDoorbell: 0.3, splitData: 0.5 } } }],
  ["registers are lost", { model: { faults: { contextLost: true } } }],
  ["doorbells only for the idle", { model: { faults: { notIdleDoorbell: true } } }],
];
/** turns from a notification until its frame has landed, and some */
const MOMENTS = 14;

const rigOf = (o: Partial<RingRigOptions>): RingRig => new RingRig({ notices: true, ...o });

/** Frames until the driver is heard and both channels have the next round. */
function prepare(rig: RingRig): void {
  // Where less than half of the ring is filled, looks at it go on.
  while (rig.host.rx.freeCount > 4) rig.host.post([300]);
  for (let i = 0; i < 3; i++) deliver(rig, i);
  for (let t = 0; t < 400 && !(rig.fetch.armed && rig.read.armed); t++) rig.turns(1);
  expect([rig.fetch.armed, rig.read.armed, rig.dp.hqTx.hearing]).toEqual([true, true, true]);
}

/** One frame of the host, told, byte by byte. */
function deliver(rig: RingRig, seed: number, tx = rig.host.tx): void {
  const at = rig.usedIdx(rig.board.rx);
  const buffer = rig.board.post([300]);
  rig.host.send(frame(12, 100, seed));
  rig.tell(tx);
  rig.settle();
  expect(rig.usedIdx(rig.board.rx)).toBe((at + 1) & 0xffff);
  expect(rig.board.gather(buffer, 112)).toEqual(withBuffers(frame(12, 100, seed), 1));
  while (rig.board.rx.take() >= 0);
  while (tx.take() >= 0);
}

for (const [name, o] of KINDS) {
  test(`lone frames go by it, each with the bytes of its own (${name})`, () => {
    const rig = rigOf(o);
    prepare(rig);
    for (let i = 0; i < 40; i++) {
      deliver(rig, i);
      rig.turns(30);
    }
    expect(rig.dp.hqTx.prepared).toBeGreaterThan(20);
    rig.close();
  });

  test(`the host's life ends at every moment: nothing is read any more, the next one works (${name})`, () => {
    for (let at = 0; at < MOMENTS; at++) {
      const rig = rigOf(o);
      prepare(rig);
      rig.board.post([300]);
      rig.host.send(frame(12, 200, 7));
      if (at > 0) rig.tell();
      rig.turns(at);
      expect(rig.dp.detach()).toBe(0);
      expect([rig.fetch.armed, rig.read.armed]).toEqual([false, false]);
      rig.trace.length = 0;
      for (let i = 0; i < 20; i++) rig.model.turn();
      expect(rig.trace).toEqual([]);
      for (const r of [rig.host.rx, rig.host.tx, rig.board.rx, rig.board.tx]) r.reset();
      rig.port.generation++;
      rig.attach();
      prepare(rig);
      for (let i = 0; i < 5; i++) deliver(rig, 50 + i);
      rig.close();
    }
  });

  test(`the host's transmit ring is reset and lies elsewhere: the old one is not read any more (${name})`, () => {
    const rig = rigOf(o);
    prepare(rig);
    for (let i = 0; i < 200 && !rig.dp.settled; i++) {
      rig.model.turn();
      expect(rig.dp.drain()).toBe(0);
    }
    expect([rig.dp.settled, rig.fetch.armed]).toEqual([true, true]);
    const { host, memory } = rig;
    const bus = Math.ceil(host.alloc(65536 + 4096) / 4096) * 4096;
    const tx = new DriverRing({
      size: rig.o.hostQueue,
      mem: { ptr: memory.ptr + (bus - memory.base), busBase: bus },
      align: 4096,
      eventIdx: rig.o.eventIdx,
      indirect: undefined,
      grants: memory.grants,
    });
    (host as { tx: DriverRing }).tx = tx;
    rig.trace.length = 0;
    rig.attach(2, tx);
    for (let i = 0; i < 12; i++) {
      deliver(rig, 80 + i, tx);
      rig.turns(60);
    }
    expect(rig.trace.filter((x) => x.what.startsWith("tx."))).toEqual([]);
    rig.close();
  });

  test(`the board's driver starts over at every moment: the frame is lost or goes whole, the next ones go (${name})`, () => {
    for (let at = 0; at < MOMENTS; at++) {
      const rig = rigOf(o);
      prepare(rig);
      rig.board.post([300]);
      const reaped = rig.usedIdx(rig.host.tx);
      rig.host.send(frame(12, 200, 7));
      rig.tell();
      rig.turns(at);
      rig.board.rx.reset();
      rig.board.tx.reset();
      rig.port.generation++;
      const old = rig.board.u8.slice(131072, rig.board.mark);
      const buffer: Chain = rig.board.post([300]);
      expect(rig.dp.turn()).toBeGreaterThanOrEqual(0);
      rig.settle();
      for (let t = 0; t < 200 && rig.usedIdx(rig.host.tx) === reaped; t++) rig.turns(1);
      expect([at, rig.usedIdx(rig.host.tx)]).toEqual([at, reaped + 1]);
      while (rig.host.tx.take() >= 0);
      if (rig.usedIdx(rig.board.rx) === 1) {
        expect(rig.board.gather(buffer, 212)).toEqual(withBuffers(frame(12, 200, 7), 1));
        while (rig.board.rx.take() >= 0);
      } else {
        rig.host.send(frame(12, 210, 8));
        rig.tell();
        rig.settle();
        expect(rig.board.gather(buffer, 222)).toEqual(withBuffers(frame(12, 210, 8), 1));
        while (rig.board.rx.take() >= 0);
        while (rig.host.tx.take() >= 0);
      }
      // what the old driver had is as it was
      const mark = old.length;
      expect(Buffer.compare(rig.board.u8.subarray(131072, 131072 + mark), old)).toBe(0);
      for (let i = 0; i < 5; i++) deliver(rig, 20 + i);
      rig.close();
    }
  });
}

test("more frames than one was prepared for, at even and odd places and at the end of the ring: all go, in order", () => {
  for (let before = 0; before < 17; before++)
    for (const n of [2, 3]) {
      const rig = rigOf({});
      prepare(rig);
      for (let i = 0; i < before; i++) deliver(rig, i);
      for (let t = 0; t < 200 && !(rig.fetch.armed && rig.read.armed); t++) rig.turns(1);
      const begun = rig.dp.hqTx.prepared;
      const at = rig.usedIdx(rig.board.rx);
      const buffers: Chain[] = [];
      for (let k = 0; k < n; k++) {
        buffers.push(rig.board.post([300]));
        rig.host.send(frame(12, 100 + k, k), undefined, true);
      }
      rig.host.tx.publish();
      rig.tell();
      rig.settle();
      expect(rig.usedIdx(rig.board.rx)).toBe(at + n);
      buffers.forEach((b, k) => {
        expect(rig.board.gather(b, 112 + k)).toEqual(withBuffers(frame(12, 100 + k, k), 1));
      });
      // two entries are one double word where the first is at an even place
      expect([before, n, rig.dp.hqTx.prepared - begun]).toEqual([before, n, n === 2 && (at & 1) === 0 ? 1 : 0]);
      rig.close();
    }
});

test("receive buffers are fetched at every moment around a lone frame: it is read from its own ring", () => {
  for (let at = 0; at < 24; at++)
    for (const [, o] of KINDS) {
      const rig = rigOf(o);
      prepare(rig);
      // less than half of the ring is left, so looks at it begin, and what they find is fetched
      const filled: Chain[] = [];
      for (let i = 0; i < 9; i++) rig.board.send(frame(12, 60 + i, i));
      rig.settle();
      while (rig.host.rx.take() >= 0);
      while (rig.board.tx.take() >= 0);
      for (let t = 0; t < 40; t++) rig.turns(1);
      for (let i = 0; i < 6; i++) filled.push(rig.host.post([300]));
      rig.turns(at >> 1);
      const buffer = rig.board.post([300]);
      const got = rig.usedIdx(rig.board.rx);
      rig.host.send(frame(12, 150, at));
      if ((at & 1) === 0) for (let i = 0; i < 6; i++) filled.push(rig.host.post([300]));
      rig.tell();
      rig.settle();
      for (let t = 0; t < 100 && rig.usedIdx(rig.board.rx) === got; t++) rig.turns(1);
      expect(rig.board.gather(buffer, 162)).toEqual(withBuffers(frame(12, 150, at), 1));
      while (rig.board.rx.take() >= 0);
      while (rig.host.tx.take() >= 0);
      // the buffers of the first 12 that are left, then the new ones
      for (let i = 0; i < 3 + filled.length; i++) rig.board.send(frame(12, 200 + i, i));
      rig.settle();
      filled.forEach((c, i) => {
        expect(rig.host.gather(c, 215 + i)).toEqual(withBuffers(frame(12, 203 + i, 3 + i), 1));
      });
      while (rig.host.rx.take() >= 0);
      while (rig.board.tx.take() >= 0);
      prepare(rig);
      for (let i = 0; i < 4; i++) deliver(rig, 70 + i);
      rig.close();
    }
});

test("a round is here when both of its parts are, whatever the one before went over", () => {
  for (const late of ["read", "fetch"] as const) {
    const rig = rigOf({});
    prepare(rig);
    const hq = rig.dp.hqTx as unknown as { via: unknown; spare: unknown };
    hq.via = hq.spare;
    const ch = rig[late];
    const progress = ch.progress.bind(ch);
    ch.progress = () => 0;
    rig.board.post([300]);
    rig.host.send(frame(12, 100, 1));
    rig.tell();
    let short = 0;
    let most = 0;
    for (let t = 0; t < 300; t++) {
      rig.turns(1);
      expect([late, t, rig.dp.hqTx.available()]).toEqual([late, t, 0]);
      short = rig.dp.brief ? short + 1 : 0;
      if (short > most) most = short;
    }
    // everything else has its turn all the same
    expect(most).toBe(64);
    expect(rig.dp.hqTx.gathering).toBe(true);
    const { frames } = rig.dp.toBoard;
    ch.progress = progress;
    rig.settle();
    expect(rig.dp.toBoard.frames).toBe(frames + 1);
    rig.close();
  }
});

test("behind the last descriptor of the table nothing is guessed", () => {
  const rig = rigOf({});
  while (rig.host.rx.freeCount > 4) rig.host.post([300]);
  const { tx } = rig.host;
  for (let i = 0; i < 16; i++) rig.board.post([300]);
  for (let i = 0; i < 16; i++) rig.host.send(frame(12, 100, i), undefined, true);
  tx.publish();
  rig.settle();
  while (rig.board.rx.take() >= 0);
  // given back in order, so the last is handed out first
  while (tx.take() >= 0);
  rig.trace.length = 0;
  prepare(rig);
  for (let i = 0; i < 5; i++) deliver(rig, i);
  expect(rig.dp.hqTx.prepared).toBeGreaterThan(1);
  const reads = rig.trace.filter((x) => x.what === "tx.desc");
  const end = tx.descBus + 16 * tx.size;
  expect(Math.max(...reads.map((x) => x.addr + x.len))).toBe(end);
  rig.close();
});

test("nothing is prepared for a driver that is not heard", () => {
  const rig = new RingRig({ notices: false });
  while (rig.host.rx.freeCount > 4) rig.host.post([300]);
  for (let i = 0; i < 3; i++) deliver(rig, i);
  rig.turns(400);
  expect([rig.fetch.armed, rig.read.armed, rig.dp.hqTx.prepared]).toEqual([false, false, 0]);
  rig.close();
});

test("one descriptor is asked for behind eight guesses in a row whose first was right, two behind one where it was not; a pause is made behind two that were wrong", () => {
  const rig = rigOf({});
  prepare(rig);
  const { tx } = rig.host;
  const heads: number[] = [];
  /** A lone frame's round that was prepared. @returns bytes of descriptors that it read at once, and reads behind them */
  const round = (): number[] => {
    for (let t = 0; t < 400 && !(rig.fetch.armed && rig.read.armed); t++) rig.turns(1);
    const { prepared } = rig.dp.hqTx;
    rig.trace.length = 0;
    const buffer = rig.board.post([300]);
    const f = frame(12, 100, heads.length);
    heads.push(rig.host.send(f).head);
    rig.tell();
    rig.settle();
    expect(rig.board.gather(buffer, 112)).toEqual(withBuffers(f, 1));
    while (rig.board.rx.take() >= 0);
    const lens = rig.trace.filter((x) => x.what === "tx.desc").map((x) => x.len);
    return [rig.dp.hqTx.prepared - prepared, ...lens];
  };
  const again = (): number[] => {
    const r = round();
    while (tx.take() >= 0);
    return r;
  };
  /** Rounds of the same head until one descriptor is asked for. */
  const narrows = (): number => {
    for (let n = 0; n < 20; n++) {
      const r = again();
      if (r[1] === 16) return n;
      expect(r).toEqual([1, 32]);
    }
    return -1;
  };
  // The driver hands out what it got back last. Where it has not taken that back yet it uses the next one: right, but not by
  // the first.
  for (let n = 0; n < 3; n++) expect(again()).toEqual([1, 32]);
  expect([round(), round()]).toEqual([
    [1, 32],
    [1, 32],
  ]);
  expect(heads.slice(-3)).toEqual([0, 0, 1]);
  while (tx.take() >= 0);
  expect(narrows()).toBe(8);
  for (let n = 0; n < 20; n++) expect(again()).toEqual([1, 16]);
  // Another one is asked for on its own, and then two again.
  const other = (least: number): void => {
    expect([round(), round()]).toEqual([
      [1, least],
      [1, least, 16],
    ]);
    expect(heads.at(-1)).not.toBe(heads.at(-2)!);
    while (tx.take() >= 0);
  };
  other(16);
  expect(narrows()).toBe(8);
  other(16);
  expect(heads.at(-1)).toBe(1);
  // Nor was one of the two: nothing is guessed for a while.
  other(32);
  for (let n = 0; n < 64; n++) expect([n, ...again()]).toEqual([n, 0, 16]);
  expect(again()).toEqual([1, 32]);
  // A new life begins with two.
  while (narrows() < 0);
  expect(rig.dp.detach()).toBe(0);
  for (const r of [rig.host.rx, tx, rig.board.rx, rig.board.tx]) r.reset();
  rig.port.generation++;
  rig.attach();
  prepare(rig);
  expect(again()).toEqual([1, 32]);
  rig.close();
});
