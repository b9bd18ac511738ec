/**
 * Drivers that write anything into their rings at any time: the data path stops with a code or goes on, throws nothing,
 * and the life after it is as if nothing had been. What each single fault leads to is in broken-driver.test.ts.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { DriverRing } from "../../src/hw/driver-ring.ts";
import { Random } from "../../src/hw/model/random.ts";
import { Shadow } from "../../src/hw/model/shadow.ts";
import { frame, RingRig, withBuffers } from "../support/ring-rig.ts";

const LIVES = 10;
const TURNS = 400;

// What these drivers hand over and take back is often not theirs; whether DMA stays inside of it is not the question here.
const { grant } = Shadow.prototype;
beforeAll(() => {
  Shadow.prototype.grant = () => {};
});
afterAll(() => {
  Shadow.prototype.grant = grant;
});

const rings = (rig: RingRig): DriverRing[] => [rig.host.rx, rig.host.tx, rig.board.rx, rig.board.tx];

/** `n` bytes in a few pieces. */
function pieces(r: Random, n: number): number[] {
  const out: number[] = [];
  let left = n;
  while (left > 1 && out.length < 5 && r.chance(0.3)) {
    const k = 1 + r.below(left - 1);
    out.push(k);
    left -= k;
  }
  return [...out, left];
}

/** One word of a ring becomes something else. */
function spoil(r: Random, ring: DriverRing): void {
  const d = r.below(ring.size) * 4;
  const near = r.below(2 * ring.size);
  const kind = r.below(10);
  if (kind < 3) ring.avail[2 + r.below(ring.size)] = r.chance(0.5) ? near : r.below(65536);
  else if (kind < 6) ring.desc[d + 3] = r.below(8) | (near << 16);
  else if (kind < 9) ring.desc[d + 2] = [0, -1, 1, 11, 13, 0x7fffffff, r.below(5000)][r.below(7)]!;
  else ring.desc[d + r.below(2)] = r.below(1 << 20);
}

/** Something is offered where there is room. */
function offer(rig: RingRig, r: Random): void {
  for (const side of [rig.host, rig.board]) {
    if (r.chance(0.5) && side.rx.freeCount > 6) side.post(pieces(r, 100 + r.below(400)));
    if (r.chance(0.4) && side.tx.freeCount > 6) {
      const f = frame(12, 14 + r.below(500), r.below(99));
      side.send(f, pieces(r, f.length));
    }
  }
}

/** What came back is taken, as far as a driver whose ring is spoilt can. */
function reap(rig: RingRig): void {
  for (const ring of rings(rig)) while (ring.take() >= 0);
}

/** A life of both drivers in which nothing is wrong. */
function goodLife(rig: RingRig, seed: number): void {
  const { hdrLen } = rig.o;
  const boardHdrLen = rig.o.boardHdrLen || hdrLen;
  const n = 3;
  const to = Array.from({ length: n }, () => ({ host: rig.host.post([600]), board: rig.board.post([600]) }));
  for (let i = 0; i < n; i++) {
    rig.host.send(frame(hdrLen, 50 + i, seed + i));
    rig.board.send(frame(boardHdrLen, 50 + i, seed + i));
  }
  rig.settle();
  expect(rings(rig).map((x) => rig.usedIdx(x))).toEqual([n, n, n, n]);
  for (const [i, c] of to.entries()) {
    // The header is zero but for num_buffers, so each side gets what it would have sent itself.
    const own = (len: number): Uint8Array => {
      const f = frame(len, 50 + i, seed + i);
      return len < 12 ? f : withBuffers(f, 1);
    };
    expect(rig.host.gather(c.host, hdrLen + 50 + i)).toEqual(own(hdrLen));
    expect(rig.board.gather(c.board, boardHdrLen + 50 + i)).toEqual(own(boardHdrLen));
    expect([rig.used(rig.host.tx, i).len, rig.used(rig.board.tx, i).len]).toEqual([0, 0]);
  }
  reap(rig);
  expect(rings(rig).map((x) => x.broken)).toEqual([0, 0, 0, 0]);
}

const stopped = new Set<string>();

test.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])(
  "seed %i",
  (seed) => {
    const r = new Random(seed);
    const [hdrLen, boardHdrLen] = (
      [
        [10, 10],
        [12, 12],
        [24, 24],
        [24, 12],
        [10, 12],
      ] as const
    )[seed % 5]!;
    const rig = new RingRig({
      hostQueue: [4, 16, 256][r.below(3)]!,
      boardQueue: [4, 16, 128][r.below(3)]!,
      hdrLen,
      patch: r.chance(0.5),
      indirect: r.chance(0.5),
      eventIdx: r.chance(0.3),
      stripe: r.chance(0.5),
      mergeable: hdrLen >= 12,
      boardMergeable: boardHdrLen >= 12 && r.chance(0.7),
      count: [0, 0x7fff_ff80, -50][r.below(3)]!,
    });
    const marks = [rig.host.mark, rig.board.mark];
    for (let life = 0; life < LIVES; life++) {
      const from = r.below(TURNS);
      let rc = 0;
      for (let i = 0; i < TURNS && rc >= 0; i++) {
        offer(rig, r);
        if (i >= from && r.chance(0.3)) spoil(r, rings(rig)[r.below(4)]!);
        rc = rig.step();
        if (r.chance(0.2)) reap(rig);
      }
      if (rc < 0) stopped.add(`${rc} ${rig.dp.culprit}`);
      expect(rig.dp.detach()).toBe(0);
      for (const ring of rings(rig)) ring.reset();
      rig.port.generation++;
      rig.host.rewind(marks[0]!);
      rig.board.rewind(marks[1]!);
      rig.host.shift = r.below(4);
      rig.board.shift = r.below(4);
      rig.attach();
      goodLife(rig, life);
    }
    rig.memory.close();
    rig.model.close();
  },
  60_000,
);

test("they were stopped for many reasons, in all four rings", () => {
  const culprits = [...stopped].map((s) => s.split(" ")[1]);
  for (const ring of ["eq.rx", "eq.tx", "hq.rx", "hq.tx"]) expect(culprits).toContain(ring);
  expect(stopped.size).toBeGreaterThan(12);
});
