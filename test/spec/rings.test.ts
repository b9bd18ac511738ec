/** VIRTIO 1.2 2.7.6, 2.7.8, 2.7.9: available and used rings, the order of everything around them. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { frame, RingRig, type RingRigOptions, withBuffers } from "../support/ring-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const done = (rig: RingRig): void => {
  rig.settle();
  expect(rig.violations).toEqual([]);
  rig.close();
};

describe("2.7.6 and 2.7.13 available ring", () => {
  for (const fetch of ["edma", "window"] as const) {
    test(`2.7.13.3 an entry is read after the index that covers it, a descriptor after its entry, a buffer after its descriptor (${fetch})`, () => {
      const rig = new RingRig({ fetch });
      rig.turns(20);
      rig.trace.length = 0;
      const f = frame(12, 300, 7);
      rig.board.post([400]);
      const c = rig.host.send(f, [12, 300]);
      rig.settle();
      const reads = rig.trace.filter((t) => !t.write && (t.what.startsWith("tx.") || c.addr.includes(t.addr)));
      const first = (what: string): number => reads.findIndex((t) => t.what === what);
      const idx = first("tx.avail.idx");
      expect(idx).toBeGreaterThanOrEqual(0);
      expect(first("tx.avail.ring")).toBeGreaterThan(idx);
      expect(first("tx.desc")).toBeGreaterThan(first("tx.avail.ring"));
      expect(reads.findIndex((t) => t.addr === c.addr[0])).toBeGreaterThan(first("tx.desc"));
      done(rig);
    });

    test(`2.7.13.3 nothing of an entry, descriptor or buffer is touched while the index does not cover it (${fetch})`, () => {
      const rig = new RingRig({ fetch });
      rig.host.post([400], true);
      rig.host.send(frame(12, 100), [112], true);
      rig.board.send(frame(12, 100));
      rig.board.post([400]);
      rig.turns(200);
      const touched = new Set(rig.trace.filter((t) => !t.write).map((t) => t.what));
      expect([...touched].sort()).toEqual(["rx.avail.idx", "tx.avail.idx"]);
      expect(rig.trace.filter((t) => t.write && t.what === "buffer")).toEqual([]);
      rig.host.rx.publish();
      rig.host.tx.publish();
      rig.settle();
      expect(rig.usedIdx(rig.host.rx)).toBe(1);
      expect(rig.usedIdx(rig.host.tx)).toBe(1);
      done(rig);
    });
  }

  test("2.7.13.3 only the entries that are new are read, each once", () => {
    const rig = new RingRig({ hostQueue: 64 });
    for (let round = 0; round < 5; round++) {
      rig.trace.length = 0;
      for (let i = 0; i < 3; i++) {
        rig.board.post([400]);
        rig.host.send(frame(12, 100), [112], true);
      }
      rig.host.tx.publish();
      rig.settle();
      const ring = rig.trace.filter((t) => t.what === "tx.avail.ring");
      expect(ring.map((t) => t.len).reduce((a, b) => a + b, 0)).toBe(6);
      while (rig.host.tx.take() >= 0);
      while (rig.board.rx.take() >= 0);
    }
    done(rig);
  });

  test("2.7.13.3 the index wraps at 65536, and at every lap of a small ring", () => {
    for (const size of [2, 8] as const) {
      const rig = new RingRig({ hostQueue: size, boardQueue: 8, limits: { burst: 8, inflightBytes: 1 << 20 } });
      const marks = [rig.host.mark, rig.board.mark];
      const f = frame(12, 60, 1);
      let sent = 0;
      let got = 0;
      while (got < 66_000) {
        if (rig.host.rx.inFlight === 0 && rig.host.tx.inFlight === 0) rig.host.rewind(marks[0]!);
        if (rig.board.rx.inFlight === 0 && rig.board.tx.inFlight === 0) rig.board.rewind(marks[1]!);
        if (rig.host.tx.inFlight === 0 && rig.board.rx.inFlight === 0) {
          for (let i = 0; i < size && sent < 66_000; i++, sent++) {
            rig.board.post([72], true);
            f[12] = sent;
            f[13] = sent >> 8;
            rig.host.send(f, [72], true);
          }
          rig.board.rx.publish();
          rig.host.tx.publish();
        }
        rig.turns(1);
        while (rig.host.tx.take() >= 0);
        for (let head = rig.board.rx.take(); head >= 0; head = rig.board.rx.take()) {
          const w = head * 4;
          const at = (rig.board.rx.desc[w]! >>> 0) + (rig.board.rx.desc[w + 1]! >>> 0) * 2 ** 32;
          const b = rig.board.bytes(at, 72);
          if ((b[12]! | (b[13]! << 8)) !== (got & 0xffff)) throw new Error(`frame ${got} carries ${b[12]} ${b[13]}`);
          got++;
        }
      }
      rig.settle();
      while (rig.host.tx.take() >= 0);
      expect(rig.host.tx.inFlight).toBe(0);
      expect(rig.usedIdx(rig.host.tx)).toBe(66_000 & 0xffff);
      done(rig);
    }
  }, 30_000);
});

describe("2.7.8.2 used ring", () => {
  const bursts: [string, Partial<RingRigOptions>][] = [
    ["one channel each way", { model: { readChannels: 1, writeChannels: 1 } }],
    ["several channels", {}],
    ["lost doorbells", { model: { faults: { lostDoorbell: 0.3 } } }],
  ];
  for (const [name, o] of bursts) {
    test(`2.7.8.2 data, then used elements, then the index, then the interrupt (${name})`, () => {
      const rig = new RingRig(o);
      rig.settle();
      rig.trace.length = 0;
      for (let i = 0; i < 6; i++) rig.host.post([400], true);
      rig.host.rx.publish();
      rig.settle();
      rig.trace.length = 0;
      for (let i = 0; i < 6; i++) rig.board.send(frame(12, 200, i), [212], true);
      rig.board.tx.publish();
      rig.settle();
      const writes = rig.trace.filter((t) => t.write).map((t) => t.what);
      const last = (what: string): number => writes.lastIndexOf(what);
      expect(writes.indexOf("rx.used.ring")).toBeGreaterThan(last("buffer"));
      expect(writes.indexOf("rx.used.idx")).toBeGreaterThan(last("rx.used.ring"));
      expect(writes.indexOf("msix")).toBeGreaterThan(last("rx.used.idx"));
      done(rig);
    });
  }

  for (const irq of ["msix", "intx"] as const) {
    test(`2.7.8.2 a lone frame's interrupt arrives when its used index is there, both queues (${irq})`, () => {
      const rig = new RingRig({ irq, holdTurns: 2 });
      rig.settle();
      const { rx, tx } = rig.host;
      const seen: number[] = [];
      const note = (): void => {
        seen.push(rig.usedIdx(rx) + rig.usedIdx(tx));
      };
      const host = rig.model.link.host!;
      rig.model.link.host = {
        memory: host.memory,
        message: (addr, data) => {
          note();
          return host.message(addr, data);
        },
        intx: (on) => {
          if (on) note();
          host.intx(on);
        },
      };
      for (let i = 0; i < 10; i++) {
        seen.length = 0;
        if (i % 2 === 0) {
          rig.host.post([400]);
          rig.board.send(frame(12, 200, i));
        } else {
          rig.board.post([400]);
          rig.host.send(frame(12, 200, i));
        }
        rig.settle();
        expect(seen).toEqual([i + 1]);
        while (rx.take() >= 0 || tx.take() >= 0);
      }
      done(rig);
    });
  }

  test("2.7.8.2 at every moment the used index covers only elements and data that are there", () => {
    const rig = new RingRig({ hostQueue: 64, boardQueue: 64 });
    const heads: number[] = [];
    const chains = new Map<number, ReturnType<RingRig["host"]["post"]>>();
    for (let i = 0; i < 40; i++) {
      const c = rig.host.post([300]);
      heads.push(c.head);
      chains.set(c.head, c);
    }
    let seen = 0;
    const link = rig.model.link;
    const post = link.post.bind(link);
    link.post = (addr, ptr, len, who) => {
      post(addr, ptr, len, who);
      // after every single write, as the fastest driver could look
      const idx = rig.usedIdx(rig.host.rx);
      for (; seen !== idx; seen++) {
        const e = rig.used(rig.host.rx, seen);
        expect(e).toEqual({ id: heads[seen]!, len: 212 });
        expect(rig.host.gather(chains.get(e.id)!, 212)).toEqual(withBuffers(frame(12, 200, seen), 1));
      }
    };
    for (let i = 0; i < 40; i++) {
      rig.board.send(frame(12, 200, i));
      if (i % 7 === 0) rig.turns(2);
    }
    rig.settle();
    expect(seen).toBe(40);
    done(rig);
  });

  test("2.7.8.2 len is what was written: the frame with its header in receive buffers, 0 for transmit buffers", () => {
    const rig = new RingRig();
    for (const [bytes, lens] of [
      [100, [500]],
      [100, [112]],
      [500, [200, 400]],
    ] as const) {
      rig.host.post(lens);
      rig.board.post(lens);
      rig.board.send(frame(12, bytes));
      rig.host.send(frame(12, bytes));
      rig.settle();
      expect(rig.host.rx.take()).toBeGreaterThanOrEqual(0);
      expect(rig.host.rx.usedLen).toBe(12 + bytes);
      expect(rig.board.rx.take()).toBeGreaterThanOrEqual(0);
      expect(rig.board.rx.usedLen).toBe(12 + bytes);
      expect(rig.host.tx.take()).toBeGreaterThanOrEqual(0);
      expect(rig.host.tx.usedLen).toBe(0);
      expect(rig.board.tx.take()).toBeGreaterThanOrEqual(0);
      expect(rig.board.tx.usedLen).toBe(0);
    }
    done(rig);
  });

  test("2.7.8.2 nothing is written in front of or behind a buffer, at every length around the buffer's", () => {
    for (const size of [64, 112, 113]) {
      for (let bytes = 50; bytes <= size - 12; bytes++) {
        const rig = new RingRig({ hostQueue: 4, boardQueue: 4 });
        const guardBefore = rig.host.alloc(64);
        const c = rig.host.post([size]);
        const guardAfter = rig.host.alloc(64);
        rig.host.bytes(guardBefore, guardAfter + 64 - guardBefore).fill(0xee);
        rig.board.send(frame(12, bytes));
        rig.settle();
        expect(rig.used(rig.host.rx, 0)).toEqual({ id: c.head, len: 12 + bytes });
        const area = rig.host.bytes(guardBefore, guardAfter + 64 - guardBefore);
        const at = c.addr[0]! - guardBefore;
        expect([...area].filter((x, i) => (i < at || i >= at + 12 + bytes) && x !== 0xee)).toEqual([]);
        expect(rig.violations).toEqual([]);
        rig.close();
      }
    }
  });
});

describe("2.7.9 and 6.2 in-order use", () => {
  test("6.2 buffers are used in the order in which they were made available, also around dropped frames", () => {
    const rig = new RingRig({ hostQueue: 32, boardQueue: 32, boardMergeable: false });
    const rx: number[] = [];
    const tx: number[] = [];
    for (let round = 0; round < 30; round++) {
      for (let i = 0; i < 5; i++) {
        if (rig.host.rx.freeCount > 2) rx.push(rig.host.post(i % 2 === 0 ? [300] : [100, 200]).head);
        if (rig.board.rx.freeCount > 0) rig.board.post([300]);
      }
      for (let i = 0; i < 3; i++) {
        // every third frame of the host is larger than any buffer of the board
        if (rig.host.tx.freeCount > 3)
          tx.push(rig.host.send(frame(12, i === 1 ? 500 : 100, i), i === 2 ? [12, 100] : undefined).head);
        if (rig.board.tx.freeCount > 3) rig.board.send(frame(12, 100 + 60 * i, i));
      }
      rig.turns(1 + (round % 4));
      for (let h = rig.host.rx.take(); h >= 0; h = rig.host.rx.take()) expect(h).toBe(rx.shift()!);
      for (let h = rig.host.tx.take(); h >= 0; h = rig.host.tx.take()) expect(h).toBe(tx.shift()!);
      while (rig.board.tx.take() >= 0);
      while (rig.board.rx.take() >= 0);
    }
    rig.settle();
    for (let h = rig.host.tx.take(); h >= 0; h = rig.host.tx.take()) expect(h).toBe(tx.shift()!);
    expect(tx).toEqual([]);
    expect(rig.dp.toBoard.dropped).toBeGreaterThan(10);
    done(rig);
  });
});
