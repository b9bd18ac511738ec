import { afterEach, describe, expect, test } from "bun:test";
import { mapAnonymous, st16, st32, unmap } from "../../../src/hw/mem.ts";
import { AddressSpace } from "../../../src/hw/model/address-space.ts";
import { GuestAuditor } from "../../../src/hw/model/vfio-user-auditor.ts";
import { describeQueues, HostTruth, type TruthSource } from "../../../src/hw/model/vfio-user-truth.ts";

const BASE = 0x1_0000_0000;
const SIZE = 1 << 20;
const QUEUE = { size: 8, desc: BASE, avail: BASE + 0x1000, used: BASE + 0x2000, vector: 1 };

const undo: (() => void)[] = [];
afterEach(() => {
  for (const f of undo.splice(0).reverse()) f();
});

/** Guest memory with one queue whose driver is this test. */
function setUp() {
  const ptr = mapAnonymous(SIZE);
  const memory = new AddressSpace("host", { strict: true });
  memory.add(BASE, SIZE, ptr, 3);
  undo.push(() => {
    memory.remove(BASE, SIZE);
    unmap(ptr, SIZE);
  });
  const shadow = memory.shadow!;
  const reports: string[] = [];
  const auditor = new GuestAuditor(memory, shadow, (text) => reports.push(text));
  const at = (addr: number): number => ptr + (addr - BASE);
  const desc = (table: number, i: number, addr: number, len: number, flags: number, next = 0): void => {
    const d = at(table) + 16 * i;
    st32(d, addr % 2 ** 32);
    st32(d + 4, Math.floor(addr / 2 ** 32));
    st32(d + 8, len);
    st16(d + 12, flags);
    st16(d + 14, next);
  };
  let availIdx = 0;
  let usedIdx = 0;
  const offer = (head: number): void => {
    st16(at(QUEUE.avail) + 4 + 2 * (availIdx & 7), head);
    st16(at(QUEUE.avail) + 2, ++availIdx & 0xffff);
  };
  const use = (head: number): void => {
    st32(at(QUEUE.used) + 4 + 8 * (usedIdx & 7), head);
    st16(at(QUEUE.used) + 2, ++usedIdx & 0xffff);
  };
  const may = (addr: number, len: number, write: boolean): boolean => shadow.check(addr, len, write);
  return { memory, auditor, reports, desc, offer, use, may, at };
}

describe("what the auditor grants", () => {
  test("rings from start, with their directions, nothing beyond", () => {
    const { auditor, may } = setUp();
    expect(may(QUEUE.avail, 2, false)).toBe(false);
    auditor.start([QUEUE]);
    expect(may(QUEUE.desc, 128, false)).toBe(true);
    expect(may(QUEUE.desc, 1, true)).toBe(false);
    expect(may(QUEUE.avail, 22, false)).toBe(true);
    expect(may(QUEUE.avail + 22, 1, false)).toBe(false);
    expect(may(QUEUE.used, 70, true)).toBe(true);
    expect(may(QUEUE.used + 70, 1, true)).toBe(false);
    auditor.stop();
    expect(may(QUEUE.used, 1, true)).toBe(false);
  });

  test("a chain's buffers between available and used, each in its direction", () => {
    const { auditor, may, desc, offer, use } = setUp();
    auditor.start([QUEUE]);
    desc(QUEUE.desc, 0, BASE + 0x5000, 12, 1, 3);
    desc(QUEUE.desc, 3, BASE + 0x6001, 100, 2);
    auditor.turn();
    expect(may(BASE + 0x5000, 12, false)).toBe(false);
    offer(0);
    auditor.turn();
    expect(may(BASE + 0x5000, 12, false)).toBe(true);
    expect(may(BASE + 0x5000, 13, false)).toBe(false);
    expect(may(BASE + 0x6001, 100, true)).toBe(true);
    expect(may(BASE + 0x6001, 1, false)).toBe(false);
    use(0);
    auditor.turn();
    expect(may(BASE + 0x5000, 1, false)).toBe(false);
    expect(may(BASE + 0x6001, 1, true)).toBe(false);
  });

  test("a head that came back and went out again between two turns", () => {
    const { auditor, may, desc, offer, use, reports } = setUp();
    auditor.start([QUEUE]);
    desc(QUEUE.desc, 2, BASE + 0x5000, 64, 2);
    offer(2);
    auditor.turn();
    use(2);
    desc(QUEUE.desc, 2, BASE + 0x7000, 64, 2);
    offer(2);
    auditor.turn();
    expect(may(BASE + 0x5000, 1, true)).toBe(false);
    expect(may(BASE + 0x7000, 64, true)).toBe(true);
    expect(reports).toEqual([]);
  });

  test("bytes that are out in two chains stay granted until the second comes back", () => {
    const { auditor, may, desc, offer, use } = setUp();
    auditor.start([QUEUE]);
    desc(QUEUE.desc, 0, BASE + 0x5000, 100, 0);
    desc(QUEUE.desc, 1, BASE + 0x5020, 100, 0);
    offer(0);
    offer(1);
    auditor.turn();
    use(0);
    auditor.turn();
    expect(may(BASE + 0x5000, 1, false)).toBe(false);
    expect(may(BASE + 0x5020, 100, false)).toBe(true);
    use(1);
    auditor.turn();
    expect(may(BASE + 0x5020, 1, false)).toBe(false);
  });

  test("indirect tables, loops in a chain, and memory that is not there", () => {
    const { auditor, may, desc, offer, memory } = setUp();
    auditor.start([QUEUE]);
    desc(QUEUE.desc, 0, BASE + 0x8000, 32, 4);
    desc(BASE + 0x8000, 0, BASE + 0x9000, 10, 1, 1);
    desc(BASE + 0x8000, 1, BASE + 0xa000, 20, 2);
    desc(QUEUE.desc, 1, BASE + 0xb000, 8, 1, 1);
    desc(QUEUE.desc, 2, BASE + SIZE - 8, 64, 2);
    offer(0);
    offer(1);
    offer(2);
    auditor.turn();
    expect(may(BASE + 0x8000, 32, false)).toBe(true);
    expect(may(BASE + 0x9000, 10, false)).toBe(true);
    expect(may(BASE + 0xa000, 20, true)).toBe(true);
    expect(may(BASE + 0xb000, 8, false)).toBe(true);
    expect(may(BASE + SIZE - 8, 8, true)).toBe(true);
    memory.remove(BASE + 0x9000, 0x1000);
    auditor.stop();
  });

  test("a used element for a head that is not out is reported", () => {
    const { auditor, use, reports } = setUp();
    auditor.start([QUEUE]);
    use(5);
    auditor.turn();
    expect(reports[0]).toContain("head 5");
  });

  test("one queue stops and starts anew, the other goes on", () => {
    const { auditor, may, desc, offer, use, reports, at } = setUp();
    const other = { ...QUEUE, desc: BASE + 0x10000, avail: BASE + 0x11000, used: BASE + 0x12000 };
    auditor.start([QUEUE, other]);
    desc(QUEUE.desc, 0, BASE + 0x5000, 64, 2);
    offer(0);
    auditor.turn();
    auditor.stopQueue(0);
    expect(may(BASE + 0x5000, 1, true)).toBe(false);
    expect(may(QUEUE.avail, 2, false)).toBe(false);
    expect(may(other.used, 2, true)).toBe(true);
    use(0);
    auditor.turn();
    expect(reports).toEqual([]);
    st16(at(QUEUE.avail) + 2, 0);
    st16(at(QUEUE.used) + 2, 0);
    auditor.startQueue(0, QUEUE);
    auditor.turn();
    expect(may(BASE + 0x5000, 1, true)).toBe(false);
    st16(at(QUEUE.avail) + 2, 1);
    auditor.turn();
    expect(may(BASE + 0x5000, 64, true)).toBe(true);
  });

  test("the indices wrap at 2^16", () => {
    const { auditor, may, desc, offer, use, reports } = setUp();
    auditor.start([QUEUE]);
    desc(QUEUE.desc, 0, BASE + 0x5000, 64, 2);
    for (let i = 0; i < 70_000; i++) {
      offer(0);
      auditor.turn();
      if (i % 10_000 === 0) expect(may(BASE + 0x5000, 64, true)).toBe(true);
      use(0);
      auditor.turn();
    }
    expect(may(BASE + 0x5000, 1, true)).toBe(false);
    expect(reports).toEqual([]);
  });
});

describe("the account of the guest's writes", () => {
  const source = (modern: boolean, msix = true): TruthSource => ({
    modern: () => modern,
    common: () => 0x40,
    msixEnabled: () => msix,
    peek16: () => 256,
  });

  test("modern: features, two queues, order of events", () => {
    const t = new HostTruth(source(true));
    const events: string[] = [];
    t.onDriverOk = () => events.push("ok");
    t.onReset = () => events.push("reset");
    const w = (off: number, size: number, value: number): void => t.write(0x40 + off, size, value);
    w(0x14, 1, 0);
    t.read(0x40 + 0x14, 0);
    for (const [sel, word] of [
      [0, 0x18821],
      [1, 3],
    ]) {
      w(8, 4, sel);
      w(12, 4, word);
    }
    for (const q of [0, 1]) {
      w(0x16, 2, q);
      w(0x18, 2, 128);
      w(0x20, 4, 0x1000 + q * 0x10000);
      w(0x24, 4, 2);
      w(0x28, 4, 0x2000 + q * 0x10000);
      w(0x2c, 4, 2);
      w(0x30, 4, 0x3000 + q * 0x10000);
      w(0x34, 4, 2);
      w(0x1a, 2, q + 1);
    }
    w(0x14, 1, 0xf);
    expect(events).toEqual(["reset", "ok"]);
    expect(t.describe()).toBe(
      "features 0,5,11,15,16,32,33, rx 128 desc 0x200001000 avail 0x200002000 used 0x200003000 vector 1, tx 128 desc 0x200011000 avail 0x200012000 used 0x200013000 vector 2",
    );
    w(0x14, 1, 0);
    expect(events.length).toBe(2);
    t.read(0x40, 0);
    expect(events.length).toBe(2);
    t.read(0x40 + 0x14, 0);
    expect(events).toEqual(["reset", "ok", "reset"]);
  });

  test("modern: the reset of one queue, from the driver's point of view", () => {
    const t = new HostTruth(source(true));
    const events: string[] = [];
    t.onQueueReset = (q) => events.push(`reset ${q}`);
    t.onQueueUp = (q) => events.push(`up ${q} size ${t.queues[q]!.size}`);
    const w = (off: number, size: number, value: number): void => t.write(0x40 + off, size, value);
    for (const q of [0, 1]) {
      w(0x16, 2, q);
      w(0x18, 2, 256);
      w(0x1c, 2, 1);
    }
    w(0x14, 1, 0xf);
    expect(events).toEqual([]);
    w(0x16, 2, 1);
    w(0x3a, 2, 1);
    t.read(0x40 + 0x3a, 1);
    expect(events).toEqual([]);
    t.read(0x40 + 0x3a, 0);
    t.read(0x40 + 0x3a, 0);
    expect(events).toEqual(["reset 1"]);
    w(0x16, 2, 1);
    w(0x18, 2, 128);
    w(0x1c, 2, 1);
    expect(events).toEqual(["reset 1", "up 1 size 128"]);
  });

  test("legacy: page numbers, vectors only with MSI-X on", () => {
    for (const msix of [true, false]) {
      const t = new HostTruth(source(false, msix));
      t.write(0x12, 1, 0);
      t.write(4, 4, 0x20);
      for (const q of [0, 1]) {
        t.write(0x0e, 2, q);
        t.write(0x08, 4, 0x100 + q * 4);
        t.write(0x16, 2, q + 1);
      }
      t.write(0x12, 1, 7);
      const v = msix ? ["1", "2"] : ["none", "none"];
      expect(t.describe()).toBe(
        `features 5, rx 256 desc 0x100000 avail 0x101000 used 0x102000 vector ${v[0]}, tx 256 desc 0x104000 avail 0x105000 used 0x106000 vector ${v[1]}`,
      );
      t.write(0x0e, 2, 0);
      t.write(0x08, 4, 0);
      expect(describeQueues(t.queues)).toStartWith("rx none, tx 256");
    }
  });
});
