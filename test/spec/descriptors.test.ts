/** VIRTIO 1.2 2.7.4, 2.7.5: message framing, descriptor tables, indirect tables. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { R_CHAIN_TOO_LONG, R_DESC_LOOP, R_INDIRECT, R_INDIRECT_NOT_NEGOTIATED } from "../../src/engine/codes.ts";
import { INDIRECT_MAX } from "../../src/engine/host-descs.ts";
import { st16 } from "../../src/hw/mem.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../../src/hw/virtio.layout.ts";
import { frame, RingRig, withBuffers } from "../support/ring-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const done = (rig: RingRig): void => {
  rig.settle();
  expect(rig.violations).toEqual([]);
  rig.close();
};

/** One frame each way; returns what arrived. */
function exchange(rig: RingRig, toHost: readonly number[], toBoard: readonly number[], bytes = 400): void {
  const f = frame(rig.o.hdrLen, bytes, 3);
  const rx = rig.host.post([2048]);
  const tx = rig.board.send(f, toHost);
  const brx = rig.board.post([2048]);
  const htx = rig.host.send(f, toBoard);
  rig.settle();
  expect(rig.host.rx.take()).toBe(rx.head);
  expect(rig.board.tx.take()).toBe(tx.head);
  expect(rig.board.rx.take()).toBe(brx.head);
  expect(rig.host.tx.take()).toBe(htx.head);
  const want = rig.o.hdrLen >= 12 ? withBuffers(f, 1) : f;
  expect(rig.host.gather(rx, f.length)).toEqual(want);
  expect(rig.board.gather(brx, f.length)).toEqual(want);
}

describe("2.7.4.1 message framing", () => {
  const total = 12 + 400;
  const cuts: [string, number[]][] = [
    ["one piece", [total]],
    ["header apart", [12, 400]],
    ["header cut in three", [1, 9, 2, 400]],
    ["header and data mixed", [5, 100, 7, 300]],
    ["single bytes first", [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 400]],
  ];
  for (const [name, cut] of cuts) {
    for (const patch of [false, true]) {
      test(`2.7.4.1 no assumption about the arrangement of descriptors: ${name}${patch ? ", header patched in place" : ""}`, () => {
        const rig = new RingRig({ patch });
        exchange(rig, cut, cut);
        done(rig);
      });
    }
  }

  test("2.7.4.1 receive buffers of any arrangement, one byte pieces and a header that spans pieces", () => {
    const rig = new RingRig();
    const f = frame(12, 300, 5);
    const a = rig.host.post([1, 3, 60, 1, 7, 400]);
    const b = rig.board.post([2, 11, 500]);
    rig.board.send(f);
    rig.host.send(f);
    rig.settle();
    expect(rig.host.gather(a, f.length)).toEqual(withBuffers(f, 1));
    expect(rig.board.gather(b, f.length)).toEqual(withBuffers(f, 1));
    done(rig);
  });
});

describe("2.7.5.1 descriptor table", () => {
  test("2.7.5.1 a device-readable buffer is never written: the host's, with the header in any place", () => {
    const rig = new RingRig();
    const f = frame(12, 600, 9);
    const chains = [[612], [12, 600], [6, 6, 600]].map((cut) => rig.host.send(f, cut));
    for (let i = 0; i < 3; i++) rig.board.post([700]);
    rig.settle();
    for (const c of chains) {
      expect(rig.host.tx.take()).toBe(c.head);
      expect(rig.host.gather(c, f.length)).toEqual(f);
    }
    expect(rig.trace.filter((t) => t.write && t.what === "buffer")).toEqual([]);
    done(rig);
  });

  test("2.7.5.1 a device-readable buffer is never written: the board's, unless its driver is ourselves (patch)", () => {
    const f = frame(12, 600, 9);
    for (const patch of [false, true]) {
      const rig = new RingRig({ patch });
      for (let i = 0; i < 3; i++) rig.host.post([700]);
      const chains = [[612], [12, 600], [11, 601]].map((cut) => rig.board.send(f, cut));
      rig.settle();
      for (const c of chains) expect(rig.board.gather(c, f.length)).toEqual(patch ? withBuffers(f, 1) : f);
      done(rig);
    }
  });

  test("2.7.5.1 a device-writable buffer is not read, and nothing behind the used length is written", () => {
    const rig = new RingRig();
    const f = frame(12, 100, 2);
    const a = rig.host.post([64, 500]);
    const b = rig.board.post([64, 500]);
    rig.board.send(f);
    rig.host.send(f);
    rig.settle();
    const inside = (addr: number): boolean => a.addr.some((x, i) => addr >= x && addr < x + a.lens[i]!);
    expect(rig.trace.filter((t) => !t.write && inside(t.addr))).toEqual([]);
    for (const [side, c] of [
      [rig.host, a],
      [rig.board, b],
    ] as const) {
      expect([...side.gather(c, 564).subarray(112)].every((x) => x === 0xee)).toBe(true);
    }
    // strict mode has the same rule for every byte: device-writable memory is granted for writing only
    done(rig);
  });

  test("2.7.5.1 no descriptor table entry is written", () => {
    const rig = new RingRig({ indirect: true });
    for (let i = 0; i < 8; i++) {
      rig.host.post([100, 400]);
      rig.board.post([100, 400]);
      rig.board.send(frame(12, 200, i), [12, 200]);
      rig.host.send(frame(12, 200, i), [12, 200]);
    }
    const tables = [rig.host.rx, rig.host.tx, rig.board.rx, rig.board.tx].map((r) => r.desc.slice());
    rig.settle();
    expect(rig.host.rx.pending() && rig.board.rx.pending()).toBe(true);
    expect([rig.host.rx, rig.host.tx, rig.board.rx, rig.board.tx].map((r) => r.desc.slice())).toEqual(tables);
    expect(rig.trace.filter((t) => t.write && t.what.endsWith("desc"))).toEqual([]);
    done(rig);
  });
});

describe("2.7.5.2 descriptor chains", () => {
  test("2.7.5.2 a loop in a chain is found and ends the queue pair", () => {
    const rig = new RingRig();
    rig.board.post([500]);
    const c = rig.host.send(frame(12, 100), [12, 50, 50], true);
    const next = rig.host.tx.desc[c.head * 4 + 3]! >>> 16;
    rig.host.tx.desc[next * 4 + 3] = DESC_F_NEXT | (c.head << 16);
    rig.host.tx.publish();
    expect(rig.fault()).toEqual({ code: R_DESC_LOOP, culprit: "hq.tx", a: c.head, b: 16 });
    rig.close();
  });

  test("2.7.4.1 a limit on descriptors in a chain is allowed: more than 512 pieces stop the pair, 512 do not", () => {
    const big = { hostQueue: 1024, model: {} } as const;
    const rig = new RingRig(big);
    rig.board.post([2048]);
    const cut = Array.from({ length: 500 }, () => 1);
    rig.host.send(frame(12, 488, 1), cut);
    rig.turns(300);
    expect(rig.host.tx.take()).toBeGreaterThanOrEqual(0);
    expect(rig.board.rx.take()).toBeGreaterThanOrEqual(0);
    rig.board.post([2048]);
    const c = rig.host.send(
      frame(12, 501, 1),
      Array.from({ length: 513 }, () => 1),
    );
    expect(rig.fault()).toMatchObject({ code: R_CHAIN_TOO_LONG, culprit: "hq.tx", a: c.head });
    rig.close();
  });
});

/** Write an indirect table of the host by hand. */
function table(rig: RingRig, rows: [addr: number, len: number, flags: number, next: number][]): number {
  const at = rig.host.alloc(rows.length * 16);
  const words = new Int32Array(rig.host.u8.buffer, rig.host.u8.byteOffset + (at - rig.host.base), rows.length * 4);
  rows.forEach(([addr, len, flags, next], i) => {
    words.set([addr | 0, Math.floor(addr / 2 ** 32), len, flags | (next << 16)], i * 4);
    if (addr !== 0) rig.host.grants?.grant(addr, len, (flags & DESC_F_WRITE) !== 0 ? 2 : 1);
  });
  rig.host.grants?.grant(at, rows.length * 16, 1);
  return at;
}

/** Put one hand-made descriptor chain into a ring of the host. Rows are consecutive descriptors from 0. */
function direct(
  rig: RingRig,
  queue: "rx" | "tx",
  rows: [addr: number, len: number, flags: number, next: number][],
): void {
  const r = rig.host[queue];
  rows.forEach(([addr, len, flags, next], i) => {
    r.desc.set([addr | 0, Math.floor(addr / 2 ** 32), len, flags | (next << 16)], i * 4);
    if ((flags & DESC_F_INDIRECT) === 0) rig.host.grants?.grant(addr, len, (flags & DESC_F_WRITE) !== 0 ? 2 : 1);
  });
  r.avail[2] = 0;
  st16(r.availPtr + 2, 1);
}

describe("2.7.5.3.2 indirect descriptors", () => {
  test("2.7.5.3.2 a table of descriptors is followed in the order of its next fields, both ways", () => {
    const rig = new RingRig({ indirect: true });
    exchange(rig, [412], [12, 100, 300]);
    done(rig);
  });

  test("2.7.5.3.2 the WRITE flag of the descriptor that refers to a table is ignored", () => {
    for (const queue of ["tx", "rx"] as const) {
      for (const flag of [0, DESC_F_WRITE]) {
        const rig = new RingRig({ indirect: true });
        const w = queue === "rx" ? DESC_F_WRITE : 0;
        const buf = rig.host.alloc(500);
        const f = frame(12, 300, 4);
        if (queue === "tx") rig.host.bytes(buf, f.length).set(f);
        const t = table(rig, [[buf, queue === "tx" ? f.length : 500, w, 0]]);
        const brx = rig.board.post([600]);
        if (queue === "rx") rig.board.send(f);
        direct(rig, queue, [[t, 16, DESC_F_INDIRECT | flag, 0]]);
        rig.settle();
        expect(rig.usedIdx(rig.host[queue])).toBe(1);
        expect(rig.used(rig.host[queue], 0)).toEqual({ id: 0, len: queue === "rx" ? f.length : 0 });
        if (queue === "tx") expect(rig.board.gather(brx, f.length)).toEqual(withBuffers(f, 1));
        else expect(rig.host.bytes(buf, f.length)).toEqual(withBuffers(f, 1));
        expect(rig.violations).toEqual([]);
        rig.close();
      }
    }
  });

  for (const front of [1, 2, 5]) {
    test(`2.7.5.3.2 ${front} normal descriptors followed by an indirect one`, () => {
      for (const queue of ["tx", "rx"] as const) {
        const rig = new RingRig({ indirect: true });
        const w = queue === "rx" ? DESC_F_WRITE : 0;
        const f = frame(12, 300, 6);
        // pieces of 20 bytes in front, the rest through a table of two
        const pieces: [number, number][] = [];
        let at = 0;
        for (let i = 0; i < front; i++, at += 20) pieces.push([rig.host.alloc(20), 20]);
        pieces.push([rig.host.alloc(100), 100], [rig.host.alloc(f.length), f.length - at - 100]);
        if (queue === "tx") {
          let from = 0;
          for (const [addr, n] of pieces) {
            rig.host.bytes(addr, n).set(f.subarray(from, from + n));
            from += n;
          }
        }
        const [p, q] = pieces.slice(front) as [[number, number], [number, number]];
        const t = table(rig, [
          [p[0], p[1], DESC_F_NEXT | w, 1],
          [q[0], q[1], w, 0],
        ]);
        const rows = pieces
          .slice(0, front)
          .map(([addr, n], i): [number, number, number, number] => [addr, n, DESC_F_NEXT | w, i + 1]);
        rows.push([t, 32, DESC_F_INDIRECT, 0]);
        const brx = rig.board.post([600]);
        if (queue === "rx") rig.board.send(f);
        direct(rig, queue, rows);
        rig.settle();
        expect(rig.used(rig.host[queue], 0)).toEqual({ id: 0, len: queue === "rx" ? f.length : 0 });
        if (queue === "tx") expect(rig.board.gather(brx, f.length)).toEqual(withBuffers(f, 1));
        else {
          const got: Uint8Array = new Uint8Array(f.length);
          let to = 0;
          for (const [addr, n] of pieces) {
            got.set(rig.host.bytes(addr, n), to);
            to += n;
          }
          expect(got).toEqual(withBuffers(f, 1));
        }
        expect(rig.violations).toEqual([]);
        rig.close();
      }
    });
  }

  test("2.7.5.3.1 broken by the driver: INDIRECT without the feature, nested, with NEXT, a length that is no table", () => {
    const cases: [string, boolean, (rig: RingRig) => void, number][] = [
      [
        "not negotiated",
        false,
        (r) => direct(r, "tx", [[r.host.alloc(16), 16, DESC_F_INDIRECT, 0]]),
        R_INDIRECT_NOT_NEGOTIATED,
      ],
      [
        "nested",
        true,
        (r) => direct(r, "tx", [[table(r, [[0, 16, DESC_F_INDIRECT, 0]]), 16, DESC_F_INDIRECT, 0]]),
        R_INDIRECT,
      ],
      [
        "with NEXT",
        true,
        (r) =>
          direct(r, "tx", [
            [table(r, [[0, 16, 0, 0]]), 16, DESC_F_INDIRECT | DESC_F_NEXT, 1],
            [r.host.alloc(64), 64, 0, 0],
          ]),
        R_INDIRECT,
      ],
      ["empty", true, (r) => direct(r, "tx", [[r.host.alloc(16), 0, DESC_F_INDIRECT, 0]]), R_INDIRECT],
      ["no multiple of 16", true, (r) => direct(r, "tx", [[r.host.alloc(32), 24, DESC_F_INDIRECT, 0]]), R_INDIRECT],
      [
        "longer than is mirrored",
        true,
        (r) => direct(r, "tx", [[r.host.alloc(16), (INDIRECT_MAX + 1) * 16, DESC_F_INDIRECT, 0]]),
        R_INDIRECT,
      ],
    ];
    for (const [name, indirect, put, code] of cases) {
      const rig = new RingRig({ indirect });
      rig.board.post([500]);
      put(rig);
      expect([name, rig.fault().code]).toEqual([name, code]);
      rig.close();
    }
  });
});
