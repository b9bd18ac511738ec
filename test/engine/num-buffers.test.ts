/** num_buffers (VIRTIO 1.2 5.1.6.4.1) wherever the header lies, on the short ways and the long one: it is set, nothing else is. */
import { describe, expect, test } from "bun:test";
import { type Chain, frame, RingRig, withBuffers } from "../support/ring-rig.ts";
import type { Side } from "../support/side.ts";

const BUFFER = 200;
const FENCE = 0x77;

/** The bytes in front of the pieces of a chain and behind them. */
function fences(side: Side, c: Chain): Uint8Array[] {
  return c.addr.flatMap((a, i) => [side.bytes(a - 8, 8), side.bytes(a + c.lens[i]!, 8)]);
}

/** What a receive buffer holds when `f` has come into it alone. */
function filled(f: Uint8Array): Uint8Array {
  const out = new Uint8Array(BUFFER).fill(0xee);
  out.set(f);
  return out;
}

/** Where the buffers of a frame are cut. */
const CUTS: [string, number[]][] = [
  ["one piece", [BUFFER]],
  ["cut between the two bytes", [11, BUFFER - 11]],
  ["cut in front of them", [10, BUFFER - 10]],
  ["cut behind them", [12, BUFFER - 12]],
];

/** A frame behind a header of `to` bytes, as it comes out of one buffer: what the sender's has not is zero. */
function arrived(f: Uint8Array, from: number, to: number): Uint8Array {
  const g = new Uint8Array(f.length - from + to);
  g.set(f.subarray(0, Math.min(from, to)));
  g.set(f.subarray(from), to);
  return to < 12 ? g : withBuffers(g, 1);
}

/** A frame whose header has something at num_buffers: what a sender leaves there is not for the other side. */
const dirty = (hdrLen: number, bytes: number, seed: number): Uint8Array =>
  frame(hdrLen, bytes, seed, hdrLen < 12 ? { 9: 0x99 } : { 9: 0x99, 10: 0x5a, 11: 0xa5 });

describe.each([
  [10, 10],
  [12, 12],
  [24, 24],
  [24, 12],
  [10, 12],
])("header of %d bytes on the host, %d on the board", (hdrLen, boardHdrLen) => {
  for (const [name, cuts] of CUTS)
    test.each([
      [1, false],
      [1, true],
      [3, false],
      [3, true],
    ])(`${name}: %d frames at a time, patched in place %p`, (count, patch) => {
      for (const shift of [0, 1, 2, 63]) {
        const rig = new RingRig({
          hdrLen,
          boardHdrLen,
          patch,
          mergeable: hdrLen >= 12,
          boardMergeable: boardHdrLen >= 12,
        });
        rig.host.shift = rig.board.shift = shift;
        const to = Array.from({ length: count }, () => ({ host: rig.host.post(cuts), board: rig.board.post(cuts) }));
        const lens = (f: Uint8Array): number[] => [...cuts.slice(0, -1), f.length - (BUFFER - cuts.at(-1)!)];
        const sent = to.map((_, i) => {
          const f = { host: dirty(hdrLen, 60 + i, 5 + i), board: dirty(boardHdrLen, 80 + i, 9 + i) };
          const host = rig.host.send(f.host, lens(f.host), true);
          return { f, host, board: rig.board.send(f.board, lens(f.board), true) };
        });
        const around = to.flatMap((c, i) => [
          ...fences(rig.host, c.host),
          ...fences(rig.board, c.board),
          ...fences(rig.host, sent[i]!.host),
          ...fences(rig.board, sent[i]!.board),
        ]);
        for (const bytes of around) bytes.fill(FENCE);
        rig.board.tx.publish();
        rig.host.tx.publish();
        rig.settle();
        expect(around.flatMap((bytes) => [...bytes].filter((b) => b !== FENCE))).toEqual([]);
        expect([rig.dp.toHost.frames, rig.dp.toBoard.frames]).toEqual([count, count]);
        for (const [i, c] of to.entries()) {
          const { f, board, host } = sent[i]!;
          const toHost = arrived(f.board, boardHdrLen, hdrLen);
          const toBoard = arrived(f.host, hdrLen, boardHdrLen);
          expect(rig.host.gather(c.host, BUFFER)).toEqual(filled(toHost));
          expect(rig.board.gather(c.board, BUFFER)).toEqual(filled(toBoard));
          expect(rig.used(rig.host.rx, i)).toEqual({ id: c.host.head, len: toHost.length });
          expect(rig.used(rig.board.rx, i)).toEqual({ id: c.board.head, len: toBoard.length });
          // The board's own header may be written where it said so, and only these two bytes of it.
          const left = patch && hdrLen === boardHdrLen && hdrLen >= 12 ? withBuffers(f.board, 1) : f.board;
          expect(rig.board.gather(board, left.length)).toEqual(left);
          expect(rig.host.gather(host, f.host.length)).toEqual(f.host);
        }
        rig.close();
      }
    });
});

test("what is known of frames over many buffers goes around its ring: every used length is right", () => {
  const rig = new RingRig({ boardQueue: 256, limits: { burst: 64, inflightBytes: 1 << 20 } });
  const marks = [rig.host.mark, rig.board.mark];
  // 120 buffers a frame are 122 words of 65536.
  for (let n = 0; n < 600; n++) {
    rig.host.rewind(marks[0]!);
    rig.board.rewind(marks[1]!);
    const chains = Array.from({ length: 120 }, () => rig.board.post([13]));
    const f = frame(12, 119 * 13 - 12 + 1 + (n % 13), n);
    rig.host.send(f);
    for (let i = 0; i < 500 && rig.dp.toBoard.frames === n; i++) rig.turns(1);
    rig.settle();
    const got = chains.map((c) => {
      expect(rig.board.rx.take()).toBe(c.head);
      return rig.board.rx.usedLen;
    });
    expect(got).toEqual(chains.map((_, i) => (i < 119 ? 13 : 1 + (n % 13))));
    expect(rig.host.tx.take()).toBeGreaterThanOrEqual(0);
    const bytes = new Uint8Array(f.length);
    for (const [i, c] of chains.entries()) bytes.set(rig.board.gather(c, got[i]!), 13 * i);
    expect(Buffer.compare(bytes, withBuffers(f, 120))).toBe(0);
  }
  rig.close();
}, 30_000);
