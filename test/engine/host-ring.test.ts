/** The mirror of a host's ring with fetches that land when the test says so: hostile values, room, wraps, interrupts. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  R_AVAIL_BACK,
  R_AVAIL_JUMP,
  R_DESC_DIRECTION,
  R_DESC_INDEX,
  R_DESC_LENGTH,
  R_DESC_LOOP,
  R_INDIRECT,
  R_INDIRECT_NOT_NEGOTIATED,
} from "../../src/engine/codes.ts";
import { INDIRECT_MAX } from "../../src/engine/host-descs.ts";
import { st16 } from "../../src/hw/mem.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../../src/hw/virtio.layout.ts";
import { type MirrorRig as Rig, releaseMirrors, mirrorRig as rig } from "../support/mirror-rig.ts";
import { addresses } from "../support/pair-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

afterEach(releaseMirrors);

const segs = (x: Rig, head: number): [number, number][] => {
  x.out.clear();
  expect(x.hq.segments(head, x.out)).toBe(0);
  return Array.from({ length: x.out.count }, (_, i) => [
    (x.out.hi(i) >>> 0) * 2 ** 32 + (x.out.lo(i) >>> 0),
    x.out.len(i),
  ]);
};

/**
 * What is found wrong on the way from the ring to the frame: while fetching, or when the chain is walked. Where the
 * whole table is fetched at once, the second.
 */
function verdict(x: Rig): { code: number; a: number; b: number } {
  const rc = x.run();
  if (rc < 0) return { code: rc, a: x.hq.a, b: x.hq.b };
  for (let k = 0; k < x.hq.available(); k++) {
    const head = x.hq.peek(k);
    x.out.clear();
    const code = x.hq.segments(head, x.out);
    if (code < 0) return { code, a: x.out.a, b: x.out.b };
  }
  return { code: 0, a: 0, b: 0 };
}

describe("fetching", () => {
  test("one entry: index, entry, descriptor, each asked for only after the answer before it", () => {
    const x = rig({ tuning: { guess: false, pollAhead: false, polls: 1 } });
    x.desc(5, 0x1000, 64, 0);
    x.offer(5);
    const order: string[] = [];
    for (let i = 0; i < 12 && x.hq.available() === 0; i++) {
      expect(x.hq.step(true)).toBe(0);
      for (const c of x.fetcher.flying)
        order.push(c.addr === x.r.availBus ? "index" : c.addr < x.r.availBus ? "desc" : "entry");
      // one answer at a time
      x.fetcher.land();
    }
    expect(order).toEqual(["index", "entry", "desc"]);
    expect(x.hq.peek(0)).toBe(5);
    expect(segs(x, 5)).toEqual([[0x1000, 64]]);
  });

  test("a lone frame goes before the next look: none begins in the step that completes its round", () => {
    const x = rig({ tuning: { calmGap: 0, pollGap: 0 } });
    const looks = (): number => x.fetcher.asked.filter((c) => c.addr === x.r.availBus).length;
    for (let i = 0; i < 8; i++) {
      x.desc(i, 0x1000, 64, 0);
      x.offer(i);
      let before = 0;
      for (let k = 0; k < 40 && x.hq.available() === 0; k++) {
        before = looks();
        expect(x.hq.step(true)).toBe(0);
        if (x.hq.available() === 0) x.fetcher.land();
      }
      expect(x.hq.available()).toBe(1);
      // the first is not guessed: nothing was used before it
      if (i > 0) expect(looks()).toBe(before);
      x.hq.step(true);
      expect(looks()).toBeGreaterThan(before);
      x.fetcher.land();
      x.hq.pushUsed(i, 0);
      x.hq.consume(1);
    }
  });

  test("nothing is believed before it has landed", () => {
    const x = rig();
    x.desc(0, 0x1000, 64, 0);
    x.offer(0);
    for (let i = 0; i < 30; i++) {
      x.hq.step(true);
      expect(x.hq.available()).toBe(0);
    }
    x.run();
    expect(x.hq.available()).toBe(1);
  });

  test("entries across the end of the ring come in two pieces, chains over the end of the table too", () => {
    const x = rig({ size: 8 });
    for (let lap = 0; lap < 40; lap++) {
      const n = 1 + (lap % 5);
      const heads = Array.from({ length: n }, (_, i) => (lap * 3 + i) & 7);
      for (const h of heads) x.desc(h, 0x10_0000 + h * 64, 64 + h, 0);
      x.offer(...heads);
      x.run(20);
      expect(x.hq.available()).toBe(n);
      heads.forEach((h, k) => {
        expect(x.hq.peek(k)).toBe(h);
        expect(segs(x, h)).toEqual([[0x10_0000 + h * 64, 64 + h]]);
        x.hq.pushUsed(h, 0);
      });
      x.hq.consume(n);
    }
  });

  test("a ring across the 4 GiB line", () => {
    for (const back of [0x80, 0x100, 0x148, 0x1000]) {
      const base = 2 ** 32 - Math.ceil(back / 4096) * 4096;
      const x = rig({ size: 16, base });
      x.desc(15, 0x1000, 64, DESC_F_NEXT, 0);
      x.desc(0, 0x1_0000_2000, 32, 0);
      x.offer(15, 3);
      x.desc(3, 0x5000, 7, 0);
      x.run();
      expect(x.hq.available()).toBe(2);
      expect(segs(x, 15)).toEqual([
        [0x1000, 64],
        [0x1_0000_2000, 32],
      ]);
    }
  });

  test("a long chain of neighbours takes few requests, a scattered one still ends", () => {
    for (const step of [1, 7]) {
      const x = rig({ size: 64 });
      const order = Array.from({ length: 30 }, (_, i) => (i * step) & 63);
      order.forEach((d, i) => {
        x.desc(d, 0x1000 * (i + 1), 10, i + 1 < order.length ? DESC_F_NEXT : 0, order[i + 1] ?? 0);
      });
      x.offer(order[0]!);
      x.run();
      expect(segs(x, order[0]!)).toEqual(order.map((_, i) => [0x1000 * (i + 1), 10]));
      const reads = x.fetcher.asked.filter((c) => c.addr < x.r.availBus).length;
      expect(reads).toBeLessThan(step === 1 ? 12 : 30);
    }
  });

  test("descriptors that were asked for with others and are not here yet are not judged by what an earlier fetch left", () => {
    for (const bad of [21, 900]) {
      const x = rig({ size: 64, tuning: { guess: false, span: false } });
      // Free descriptors behind 20 keep what a driver left in them, and come with it.
      x.desc(21, 0x1000, 64, DESC_F_NEXT, 22);
      x.desc(22, 0x1000, 64, DESC_F_NEXT, bad);
      x.desc(10, 0x1000, 64, DESC_F_NEXT, 20);
      x.desc(20, 0x2000, 64, 0);
      x.offer(10);
      x.run();
      x.hq.pushUsed(10, 0);
      x.hq.consume(1);
      x.desc(30, 0x3000, 64, DESC_F_NEXT, 20);
      x.desc(31, 0x4000, 64, DESC_F_NEXT, 21);
      x.desc(21, 0x5000, 64, 0);
      x.offer(30, 31);
      expect(x.run()).toBeGreaterThanOrEqual(0);
      expect(x.hq.available()).toBe(2);
      expect(segs(x, 31)).toEqual([
        [0x4000, 64],
        [0x5000, 64],
      ]);
    }
  });

  test("a channel without room: nothing is put, and everything comes once there is", () => {
    for (let space = 0; space < 12; space++) {
      const x = rig({ size: 16, indirect: true });
      x.fetcher.space = space;
      for (let i = 0; i < 6; i++) x.desc(i * 2, x.tableAt + i * 32, 32, DESC_F_INDIRECT);
      x.offer(0, 2, 4, 6, 8, 10);
      // never throws: SlowFetcher refuses a put without room
      expect(x.run(100)).toBeGreaterThanOrEqual(0);
      x.fetcher.space = 1 << 20;
      x.run(100);
      expect(x.hq.available()).toBe(6);
    }
  });

  test("a restart of the channel: what was under way is asked for again", () => {
    for (let at = 0; at < 10; at++) {
      const x = rig();
      for (let i = 0; i < 3; i++) x.desc(i, 0x1000 + i, 64, 0);
      x.offer(0, 1, 2);
      for (let i = 0; i < at; i++) {
        x.hq.step(true);
        if (i + 1 < at) x.fetcher.land();
      }
      x.fetcher.lose();
      x.hq.refetch();
      x.run();
      expect(x.hq.available()).toBe(3);
      expect(segs(x, 1)).toEqual([[0x1001, 64]]);
    }
  });

  test("attach() begins at zero again, with another size", () => {
    const x = rig({ size: 16 });
    x.desc(0, 0x1000, 64, 0);
    x.offer(0);
    x.run();
    x.hq.consume(1);
    x.hq.pushUsed(0, 0);
    const small = { ...addresses(x.r), size: 8 };
    x.r.reset();
    x.hq.attach(small, false, false);
    expect([x.hq.available(), x.hq.used, x.hq.published, x.hq.size]).toEqual([0, 0, 0, 8]);
    expect(() => x.hq.attach({ ...small, size: 32 }, false, false)).toThrow(/queue size 32, room for 16/);
  });
});

describe("what a driver must not do", () => {
  test("avail index further ahead than the queue is long", () => {
    for (const jump of [17, 100, 0x7fff]) {
      const x = rig({ size: 16 });
      st16(x.r.availPtr + 2, jump);
      expect(x.run()).toBe(R_AVAIL_JUMP);
      expect([x.hq.a, x.hq.b]).toEqual([jump, 16]);
    }
    const full = rig({ size: 16 });
    for (let i = 0; i < 16; i++) full.desc(i, 0x1000, 64, 0);
    full.offer(...Array.from({ length: 16 }, (_, i) => i));
    expect(full.run()).toBe(0);
    expect(full.hq.available()).toBe(16);
  });

  test("more entries while none was used", () => {
    const x = rig({ size: 4 });
    for (let i = 0; i < 4; i++) x.desc(i, 0x1000, 64, 0);
    x.offer(0, 1, 2, 3);
    x.run();
    x.hq.consume(2);
    x.offer(0);
    expect(x.run()).toBe(R_AVAIL_JUMP);
    expect([x.hq.a, x.hq.b]).toEqual([5, 4]);
  });

  test("an avail index that goes back is a fault with both values, and nothing appears", () => {
    for (const polls of [1, 4]) {
      for (const [used, back] of [
        [0, 1],
        [0, 3],
        [3, 3],
        [4, 1],
      ] as const) {
        const x = rig({ size: 16, tuning: { polls } });
        for (let i = 0; i < 4; i++) x.desc(i, 0x1000, 64, 0);
        x.offer(0, 1, 2, 3);
        x.run();
        for (let i = 0; i < used; i++) x.hq.pushUsed(i, 0);
        x.hq.consume(used);
        st16(x.r.availPtr + 2, back);
        expect([polls, x.run(), x.hq.available()]).toEqual([polls, R_AVAIL_BACK, 4 - used]);
        expect([x.hq.a, x.hq.b]).toEqual([4, back]);
      }
    }
  });

  test("an older answer to a look that began before the newest was here is no news, however late it comes", () => {
    const x = rig({ size: 16, tuning: { polls: 4, pollGap: 0, calmGap: 0, pollAhead: false } });
    for (let i = 0; i < 4; i++) x.desc(i, 0x1000, 64, 0);
    x.offer(0, 1);
    x.run();
    // Four looks under way at once. The first finds two more; the others are made to have read memory before that.
    for (let i = 0; i < 4; i++) x.hq.step(true);
    expect(x.fetcher.flying.length).toBe(4);
    x.offer(2, 3);
    x.fetcher.land(1);
    st16(x.r.availPtr + 2, 2);
    x.fetcher.land(3);
    st16(x.r.availPtr + 2, 4);
    expect(x.run()).toBe(0);
    expect(x.hq.available()).toBe(4);
    // From here on all looks began later.
    st16(x.r.availPtr + 2, 2);
    expect(x.run()).toBe(R_AVAIL_BACK);
  });

  const size = 16;
  for (const many of [1, 8]) {
    const how = many === 1 ? "one entry" : "half the ring";
    const fill = (x: Rig, bad: number): void => {
      for (let i = 0; i < many - 1; i++) x.desc(i + 1, 0x1000, 64, 0);
      x.offer(...Array.from({ length: many - 1 }, (_, i) => i + 1), bad);
    };

    test.each([false, true])(`a head outside the table (${how}, indirect tables %p)`, (indirect) => {
      for (const head of [16, 17, 255, 0xffff]) {
        const x = rig({ size, indirect });
        fill(x, head);
        expect(verdict(x)).toEqual({ code: R_DESC_INDEX, a: head, b: 16 });
      }
    });

    test(`a link outside the table (${how})`, () => {
      const x = rig({ size });
      x.desc(12, 0x1000, 64, DESC_F_NEXT, 16);
      fill(x, 12);
      expect(verdict(x)).toEqual({ code: R_DESC_INDEX, a: 16, b: 16 });
    });

    test(`a loop: of one, of two, of the whole table (${how})`, () => {
      for (const [n, first] of [
        [1, 12],
        [2, 12],
        [16, 0],
      ] as const) {
        const x = rig({ size });
        if (many > 1 && n === 16) continue;
        fill(x, first);
        for (let i = 0; i < n; i++) x.desc(first + i, 0x1000, 64, DESC_F_NEXT, first + ((i + 1) % n));
        expect(verdict(x)).toEqual({ code: R_DESC_LOOP, a: first, b: 16 });
      }
    });

    test(`an indirect table without the feature, and of an impossible length (${how})`, () => {
      for (const [indirect, len, code] of [
        [false, 16, R_INDIRECT_NOT_NEGOTIATED],
        [true, 0, R_INDIRECT],
        [true, 8, R_INDIRECT],
        [true, 17, R_INDIRECT],
        [true, -16, R_INDIRECT],
        [true, (INDIRECT_MAX + 1) * 16, R_INDIRECT],
      ] as const) {
        const x = rig({ size, indirect });
        x.desc(12, x.tableAt, len, DESC_F_INDIRECT);
        fill(x, 12);
        expect([len, verdict(x).code]).toEqual([len, code]);
      }
    });
  }

  test("wrong direction, zero length and nested tables are found where the chain is used", () => {
    const cases: [string, number, (x: Rig) => void, number][] = [
      ["readable in a receive queue", DESC_F_WRITE, (x) => x.desc(0, 0x1000, 64, 0), R_DESC_DIRECTION],
      ["writable in a transmit queue", 0, (x) => x.desc(0, 0x1000, 64, DESC_F_WRITE), R_DESC_DIRECTION],
      ["length 0", 0, (x) => x.desc(0, 0x1000, 0, 0), R_DESC_LENGTH],
      ["length 2 GiB", 0, (x) => x.desc(0, 0x1000, -2147483648, 0), R_DESC_LENGTH],
      [
        "second of the chain",
        0,
        (x) => {
          x.desc(0, 0x1000, 8, DESC_F_NEXT, 1);
          x.desc(1, 0x1000, 8, DESC_F_WRITE);
        },
        R_DESC_DIRECTION,
      ],
    ];
    for (const [name, write, put, code] of cases) {
      const x = rig({ write });
      put(x);
      x.offer(0);
      expect(x.run()).toBe(0);
      x.out.clear();
      expect([name, x.hq.segments(0, x.out)]).toEqual([name, code]);
    }
  });
});

describe("wrap of the indexes at 65536", () => {
  for (const size of [1, 2, 3, 8].map((n) => 2 ** n)) {
    test(`70 000 entries through a ring of ${size}`, () => {
      const x = rig({ size });
      x.fetcher.instant = true;
      for (let i = 0; i < size; i++) x.desc(i, 0x1000 * (i + 1), 64, 0);
      let offered = 0;
      let taken = 0;
      while (taken < 70_000) {
        const n = Math.min(size, 1 + (taken % 7));
        const heads: number[] = [];
        for (let i = 0; i < n; i++) heads.push(offered++ % size);
        x.offer(...heads);
        for (let i = 0; i < 40 && x.hq.available() < n; i++) if (x.hq.step(true) < 0) throw new Error("fault");
        if (x.hq.available() !== n) throw new Error(`${x.hq.available()} of ${n} at ${taken}`);
        for (let k = 0; k < n; k++, taken++) {
          if (x.hq.peek(k) !== taken % size) throw new Error(`entry ${taken}`);
          x.hq.pushUsed(taken % size, 0);
        }
        x.hq.consume(n);
        x.hq.publish(x.ch);
        x.ch.land();
        x.fetcher.forget();
        x.ch.puts.length = 0;
      }
      expect(x.hq.used).toBe(taken & 0xffff);
      expect(x.hq.published).toBe(taken & 0xffff);
    });
  }
});
