/** Rounds of the mirror with chains whose kind changes all the time: what is complete here is what the driver wrote. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Tuning } from "../../src/engine/tuning.ts";
import { view } from "../../src/hw/mem.ts";
import { Random } from "../../src/hw/model/random.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../../src/hw/virtio.layout.ts";
import { type MirrorRig, mirrorRig, releaseMirrors } from "../support/mirror-rig.ts";
import { addresses } from "../support/pair-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

afterEach(releaseMirrors);

type Pieces = [addr: number, len: number][];

/** indirect tables of the driver: bytes of one, so that each head has its own */
const TABLE = 256;

/** A driver whose chains are of one descriptor, of several, with a table or with both; what is free holds garbage. */
class Driver {
  private readonly free: number[];
  /** chains that are offered and not used, oldest first */
  readonly open: { head: number; descs: number[]; pieces: Pieces }[] = [];
  private serial = 0;

  constructor(
    private readonly x: MirrorRig,
    private readonly r: Random,
    size: number,
    private readonly write: number,
    private readonly indirect: boolean,
  ) {
    this.free = Array.from({ length: size }, (_, i) => i);
    for (const d of this.free) this.spoil(d);
  }

  /** What nobody asked for: links to anywhere, loops, tables at addresses that nobody may read. */
  private spoil(d: number): void {
    this.x.desc(d, 0xdead_0000, 1 + this.r.below(99), this.r.below(8), this.r.below(0x10000));
  }

  private take(): number {
    const at = this.r.chance(0.6) ? this.free.length - 1 : this.r.below(this.free.length);
    return this.free.splice(at, 1)[0]!;
  }

  private piece(): [number, number] {
    this.serial++;
    return [0x1000 * this.serial, 1 + (this.serial % 4000)];
  }

  private table(d: number, n: number): Pieces {
    const { x } = this;
    const at = x.tableAt + d * TABLE;
    const cpu = new Int32Array(view(x.host.cpu(at), n * 16));
    const pieces = Array.from({ length: n }, () => this.piece());
    for (const [i, [addr, len]] of pieces.entries())
      cpu.set([addr | 0, 0, len, this.write | (i + 1 < n ? DESC_F_NEXT | ((i + 1) << 16) : 0)], i * 4);
    x.desc(d, at, n * 16, DESC_F_INDIRECT);
    return pieces;
  }

  /** Offer a chain of `links` descriptors, the last of them a table where `tabled`. @returns false when there is no room */
  offer(links: number, tabled: boolean): boolean {
    if (this.free.length < links) return false;
    const descs = Array.from({ length: links }, () => this.take());
    const pieces: Pieces = [];
    for (const [i, d] of descs.entries()) {
      const next = descs[i + 1];
      if (next === undefined && tabled && this.indirect) {
        pieces.push(...this.table(d, 1 + this.r.below(8)));
        continue;
      }
      const [addr, len] = this.piece();
      pieces.push([addr, len]);
      this.x.desc(d, addr, len, this.write | (next === undefined ? 0 : DESC_F_NEXT), next ?? 0);
    }
    this.open.push({ head: descs[0]!, descs, pieces });
    this.x.offer(descs[0]!);
    return true;
  }

  /** The oldest chain came back. */
  used(): void {
    for (const d of this.open.shift()!.descs) {
      this.spoil(d);
      this.free.push(d);
    }
  }
}

const CASES: [string, Partial<Tuning>][] = [
  ["as it is", {}],
  ["without guesses", { guess: false }],
  ["without spans", { span: false }],
  ["without either", { guess: false, span: false, pollAhead: false }],
];

describe.each(CASES)("random chains, %s", (_, tuning) => {
  test.each([
    [16, 0, true],
    [64, 0, false],
    [64, 0, true],
    [256, DESC_F_WRITE, true],
  ])("queue of %d, write %d, indirect %p: every chain is as its driver made it", (size, write, indirect) => {
    const r = new Random(size + write + (indirect ? 1 : 0));
    const x = mirrorRig({ size, write, indirect, tuning });
    const driver = new Driver(x, r, size, write, indirect);
    let checked = 0;
    let links = 1;
    let tables = 0;
    for (let i = 0; checked < 6000; i++) {
      if (i > 200_000) throw new Error(`stuck after ${checked} chains`);
      // Runs of one kind, long enough for the mirror to get used to it, and mixed ones.
      if (r.chance(0.02)) {
        links = [1, 1, 2, 5][r.below(4)]!;
        tables = [0, 0, 0.2, 1][r.below(4)]!;
      }
      if (r.chance(0.3))
        for (let n = r.chance(0.5) ? 1 : 1 + r.below(size >> 1); n > 0; n--)
          if (!driver.offer(r.chance(0.9) ? links : 1 + r.below(4), r.chance(tables))) break;
      expect(x.hq.step(true)).toBe(0);
      if (r.chance(0.7)) x.fetcher.land(r.chance(0.5) ? 1 : undefined);
      if (r.chance(0.005)) {
        x.fetcher.lose();
        x.hq.refetch();
      }
      while (x.hq.available() > 0 && r.chance(0.9)) {
        const want = driver.open[0]!;
        const head = x.hq.peek(0);
        x.out.clear();
        const rc = x.hq.segments(head, x.out);
        const got = Array.from({ length: x.out.count }, (_, k) => [x.out.lo(k) >>> 0, x.out.len(k)]);
        expect([rc, head, got]).toEqual([0, want.head, want.pieces]);
        x.hq.consume(1);
        x.hq.pushUsed(head, 0);
        x.hq.publish(x.ch);
        driver.used();
        checked++;
      }
      x.ch.land();
      x.fetcher.forget();
    }
  });
});

test("after a long chain, chains of one descriptor are asked for alone again", () => {
  const x = mirrorRig({ size: 64, tuning: { guess: false } });
  const lens = (): number[] => x.fetcher.asked.filter((c) => c.addr < x.r.availBus).map((c) => c.bytes / 16);
  const take = (): void => {
    x.run(20);
    expect(x.hq.available()).toBe(1);
    x.hq.pushUsed(x.hq.peek(0), 0);
    x.hq.consume(1);
    x.fetcher.forget();
  };
  for (let i = 0; i < 5; i++) x.desc(10 + i, 0x1000, 64, i < 4 ? DESC_F_NEXT : 0, 11 + i);
  x.offer(10);
  take();
  const counts: number[][] = [];
  for (const d of [30, 40, 50]) {
    x.desc(d, 0x1000, 64, 0);
    x.offer(d);
    x.run(20);
    counts.push(lens());
    take();
  }
  // The first is asked for as the one before it was.
  expect(counts).toEqual([[5], [1], [1]]);
});

test("many long chains: the whole table at once, and from it how long the next one will be", () => {
  const x = mirrorRig({ size: 64, tuning: { guess: false } });
  const asked = (): number[] => x.fetcher.asked.filter((c) => c.addr < x.r.availBus).map((c) => c.bytes / 16);
  const round = (...heads: number[]): number[] => {
    for (const h of heads)
      for (let i = 0; i < 5; i++) x.desc(h + i, 0x1000 * (h + i), 64 + i, i < 4 ? DESC_F_NEXT : 0, h + i + 1);
    x.offer(...heads);
    x.run(20);
    expect(x.hq.available()).toBe(heads.length);
    for (const h of heads) {
      x.out.clear();
      expect([x.hq.peek(0), x.hq.segments(h, x.out), x.out.count, x.out.total]).toEqual([h, 0, 5, 330]);
      x.hq.pushUsed(h, 0);
      x.hq.consume(1);
    }
    const got = asked();
    x.fetcher.forget();
    return got;
  };
  // Heads that are not neighbours are too many stretches: all of the table, and no chain is followed.
  expect(round(...Array.from({ length: 12 }, (_, i) => 5 * i))).toEqual([1, 1, 1, 64]);
  expect(round(30)).toEqual([5]);
  expect(round(10, 40)).toEqual([5, 5]);
  expect(round(0, 20, 40, 55)).toEqual([64]);
  expect(round(25)).toEqual([5]);
});

for (const write of [0, DESC_F_WRITE])
  test(`from the whole table: the next chain is as long as the last one was, at the end of the table too, write ${write}`, () => {
    const x = mirrorRig({ size: 64, write, tuning: { guess: false } });
    const round = (...chains: [head: number, links: number][]): number[] => {
      for (const [h, n] of chains)
        for (let i = 0; i < n; i++)
          x.desc(h + i, 0x1000, 64, write | (i < n - 1 ? DESC_F_NEXT : 0), i < n - 1 ? h + i + 1 : 0);
      x.offer(...chains.map(([h]) => h));
      expect(x.run(20)).toBe(0);
      expect(x.hq.available()).toBe(chains.length);
      for (const [h] of chains) {
        x.hq.pushUsed(h, 0);
        x.hq.consume(1);
      }
      const got = x.fetcher.asked.filter((c) => c.addr < x.r.availBus).map((c) => c.bytes / 16);
      x.fetcher.forget();
      return got;
    };
    const many = (last: [number, number]): [number, number][] => [
      ...Array.from({ length: 16 }, (_, i): [number, number] => [3 * i, 2]),
      last,
    ];
    for (const links of [3, 1, 7, 4]) {
      expect(round(...many([50, links])).at(-1)).toBe(64);
      expect(round([50, links])).toEqual([links]);
    }
    // what is behind the table is not asked for
    expect(round(...many([61, 3])).at(-1)).toBe(64);
    expect(round([62, 1])).toEqual([2]);
  });

test("neighbours among the heads are asked for together, and once, also when one of them links on", () => {
  const x = mirrorRig({ size: 64, tuning: { guess: false } });
  for (const d of [20, 21]) x.desc(d, 0x1000, 64, d === 21 ? DESC_F_NEXT : 0, 50);
  x.desc(50, 0x2000, 64, 0);
  x.offer(20, 21, 20);
  x.run(20);
  expect(x.hq.available()).toBe(3);
  const asked = x.fetcher.asked.filter((c) => c.addr < x.r.availBus);
  // 50 with the next few, as links of a chain mostly are neighbours
  expect(asked.map((c) => [(c.addr - x.r.descBus) / 16, c.bytes / 16])).toEqual([
    [20, 2],
    [50, 4],
  ]);
});

test("a ring that goes on after its neighbour was reset: the head used last is guessed as before", () => {
  const x = mirrorRig({ size: 64 });
  const lone = (d: number): number[][] => {
    x.fetcher.forget();
    x.desc(d, 0x1000, 64, 0);
    x.offer(d);
    x.run(20);
    expect(x.hq.available()).toBe(1);
    x.hq.stageUnused(0, d);
    x.hq.consume(1);
    x.hq.giveBack(1);
    x.hq.publish(x.ch);
    x.ch.land();
    const asked = x.fetcher.asked.filter((c) => c.addr < x.r.availBus);
    return asked.map((c) => [(c.addr - x.r.descBus) / 16, c.bytes / 16]);
  };
  expect([lone(20), lone(20)]).toEqual([[[20, 1]], [[20, 4]]]);
  x.hq.attach(addresses(x.r), false, false);
  x.hq.resume(2);
  expect([lone(20), lone(20)]).toEqual([[[20, 4]], [[20, 4]]]);
});

test("a ring across a boundary of 4 GiB: what is prepared carries into the upper word of its address", () => {
  const x = mirrorRig();
  const words: number[][] = [];
  const via = { arm: (...w: number[]) => words.push(w) > 0 };
  type Arming = { armAt(via: unknown, bytes: number, lo: number, hi: number, add: number, off: number): boolean };
  const hq = x.hq as unknown as Arming;
  for (const add of [0, 0x80, 0x100, 0x180])
    for (const hi of [0, 5, 0x7fff_ffff, -1]) hq.armAt(via, 16, 0xffff_ff00 | 0, hi, add, 0);
  expect(words.map((w) => w.slice(1, 3))).toEqual(
    [-0x100, -0x80, 0, 0x80].flatMap((lo, i) =>
      (i < 2 ? [0, 5, 0x7fff_ffff, -1] : [1, 6, -0x8000_0000, 0]).map((hi) => [lo, hi]),
    ),
  );
});
