import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cstring, libc, MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from "../../../src/hw/libc.ts";
import { ld32, st32, unmap } from "../../../src/hw/mem.ts";
import type { HostBus } from "../../../src/hw/model/host-side.ts";
import { VfioUserHost, type VfioUserOptions } from "../../../src/hw/model/vfio-user-host.ts";
import { LEGACY_STATUS } from "../../../src/hw/virtio.layout.ts";
import { VfioUserClient, words } from "../../support/vfio-user-client.ts";

const BAR0 = 0x4000;
const BAR2 = 0x1000;

/** A function with memory BARs and an MSI-X capability, enough to be described and accessed. */
class StandInBus implements HostBus {
  readonly cfg = new DataView(new ArrayBuffer(256));
  readonly fd = libc.memfd_create(cstring("standin"), 1);
  readonly ptr: number;
  ready = true;
  constructor() {
    libc.ftruncate(this.fd, BAR0 + BAR2);
    this.ptr = mmap("stand-in", BAR0 + BAR2, PROT_READ | PROT_WRITE, MAP_SHARED, this.fd);
    this.cfg.setUint16(0, 0x1af4, true);
    this.cfg.setUint16(2, 0x1041, true);
    this.cfg.setUint16(6, 0x10, true);
    this.cfg.setUint8(0x34, 0x40);
    this.cfg.setUint8(0x3d, 1);
    this.cfg.setUint8(0x40, 0x10);
    this.cfg.setUint8(0x41, 0x80);
    this.cfg.setUint8(0x80, 0x11);
    this.cfg.setUint16(0x82, 3, true);
    this.cfg.setUint32(0x84, 2, true);
  }
  cfgRead(off: number, size: number): number {
    return size === 4
      ? this.cfg.getUint32(off, true)
      : size === 2
        ? this.cfg.getUint16(off, true)
        : this.cfg.getUint8(off);
  }
  cfgWrite(off: number, size: number, value: number): void {
    if (size === 4) this.cfg.setUint32(off, value, true);
    else if (size === 2) this.cfg.setUint16(off, value, true);
    else this.cfg.setUint8(off, value);
  }
  barSize(bar: number): number {
    return !this.ready ? 0 : bar === 0 ? BAR0 : bar === 2 ? BAR2 : 0;
  }
  #at(bar: number, off: number): DataView {
    const word = new DataView(new ArrayBuffer(4));
    word.setUint32(0, ld32(this.barPointer(bar) + (off & ~3)), true);
    return word;
  }
  barRead(bar: number, off: number, size: number): number {
    const w = this.#at(bar, off);
    return size === 4 ? w.getUint32(0, true) : size === 2 ? w.getUint16(off & 3, true) : w.getUint8(off & 3);
  }
  barWrite(bar: number, off: number, size: number, value: number): void {
    const w = this.#at(bar, off);
    if (size === 4) w.setUint32(0, value, true);
    else if (size === 2) w.setUint16(off & 3, value, true);
    else w.setUint8(off & 3, value);
    st32(this.barPointer(bar) + (off & ~3), w.getUint32(0, true));
  }
  barPointer(bar: number): number {
    return bar === 0 ? this.ptr : this.ptr + BAR0;
  }
  close(): void {
    unmap(this.ptr, BAR0 + BAR2);
    libc.close(this.fd);
  }
}

const undo: (() => void)[] = [];
afterEach(() => {
  for (const f of undo.splice(0).reverse()) f();
});

function setUp(options: Partial<VfioUserOptions> = {}) {
  const dir = mkdtempSync(join(tmpdir(), "epnic-vfu-"));
  const path = join(dir, "s");
  const log: string[] = [];
  const bus = new StandInBus();
  const host = new VfioUserHost({
    path,
    mode: "held",
    log: (level, text) => log.push(`${level}: ${text}`),
    ...options,
  });
  host.attach(bus);
  const client = new VfioUserClient(path, () => host.turn());
  undo.push(() => {
    client.close();
    host.close();
    bus.close();
    rmSync(dir, { recursive: true });
  });
  return { host, bus, client, log, path, dir };
}

const openFds = (): number => readdirSync("/proc/self/fd").length;

function ram(size: number): { fd: number; ptr: number } {
  const fd = libc.memfd_create(cstring("ram"), 1);
  libc.ftruncate(fd, size);
  const ptr = mmap("ram", Math.min(size, 1 << 20), PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  undo.push(() => {
    unmap(ptr, Math.min(size, 1 << 20));
    libc.close(fd);
  });
  return { fd, ptr };
}

describe("handshake and description", () => {
  test("VERSION is answered in at most QEMU's own size, NUL at the end", () => {
    const { client } = setUp();
    const r = client.version();
    expect(r.body.byteLength).toBeLessThanOrEqual(198);
    const json = new TextDecoder().decode(new Uint8Array(r.body.buffer, 4, r.body.byteLength - 5));
    expect(r.body.getUint8(r.body.byteLength - 1)).toBe(0);
    expect(JSON.parse(json).capabilities.max_msg_fds).toBe(8);
  });

  test("device, regions and interrupts", () => {
    const { client } = setUp();
    client.version();
    const info = client.ask(4, words([16, 0, 0, 0], []));
    expect([info.body.getUint32(4, true), info.body.getUint32(8, true), info.body.getUint32(12, true)]).toEqual([
      3, 9, 5,
    ]);
    const size = (region: number): number =>
      Number(client.ask(5, words([32, 0, region, 0], [0, 0])).body.getBigUint64(16, true));
    expect([0, 1, 2, 3, 7].map(size)).toEqual([BAR0, 0, BAR2, 0, 256]);
    const count = (index: number): number => client.ask(7, words([16, 0, index, 0], [])).body.getUint32(12, true);
    expect([0, 1, 2, 3].map(count)).toEqual([1, 0, 4, 0]);
  });

  test("nothing is accepted before the endpoint has a BAR", () => {
    const { bus, client, host } = setUp();
    bus.ready = false;
    const id = client.send(1, new Uint8Array([0, 0, 0, 0]));
    expect(client.receive(500)).toBeNull();
    expect(host.connected).toBe(false);
    bus.ready = true;
    expect(client.receive()?.id).toBe(id);
  });
});

describe("guest memory", () => {
  test("RAM file mapped once, windows by offset, unmapped by range, above 4 GiB", () => {
    const { client, host } = setUp();
    client.version();
    const { fd, ptr } = ram(6 * 2 ** 30);
    st32(ptr + 0x2000, 0x1234);
    expect(client.map(0, 2 ** 31, fd).error).toBe(0);
    expect(client.map(2 ** 32, 4 * 2 ** 30, fd, 2 ** 31).error).toBe(0);
    const low = host.memory.resolve(0x2000, 4, false);
    expect(ld32(low)).toBe(0x1234);
    const high = host.memory.resolve(2 ** 32 + 3 * 2 ** 30, 4, true);
    expect(high - low).toBe(2 ** 31 + 3 * 2 ** 30 - 0x2000);
    expect(client.unmap(0, 2 ** 31).error).toBe(0);
    expect(host.memory.resolve(0x2000, 4, false)).toBe(0);
    // pieces as SeaBIOS leaves them: one read-only, and a hole
    expect(client.map(0, 0xc3000, fd).error).toBe(0);
    expect(client.map(0xc3000, 0x1000, fd, 0xc3000, 1).error).toBe(0);
    expect(host.memory.resolve(0xc3000, 4, false)).not.toBe(0);
    expect(host.memory.resolve(0xc3000, 4, true)).toBe(0);
    expect(host.memory.resolve(0xd0000, 4, false)).toBe(0);
  });

  test("ranges without a descriptor are taken and cannot be reached", () => {
    const { client, host } = setUp();
    client.version();
    expect(client.map(0xfffc0000, 0x40000, -1, 0, 1).error).toBe(0);
    expect(host.memory.resolve(0xfffc0000, 4, false)).toBe(0);
    expect(client.unmap(0xfffc0000, 0x40000).error).toBe(0);
  });

  test("page by page as behind an IOMMU: no descriptor is left open, one unmap takes several", () => {
    const { client, host } = setUp();
    client.version();
    const { fd } = ram(1 << 20);
    client.map(0, 4096, fd);
    const before = openFds();
    for (let i = 1; i < 200; i++) expect(client.map(i * 8192, 4096, fd, i * 4096).error).toBe(0);
    expect(openFds()).toBe(before);
    expect(host.memory.count).toBe(200);
    expect(client.unmap(8192, 100 * 8192).error).toBe(0);
    expect(host.memory.count).toBe(100);
    expect(client.unmap(0, 0, 2).error).toBe(0);
    expect(host.memory.count).toBe(0);
  });

  test("wrong ranges are refused with a word and change nothing", () => {
    const { client, host, log } = setUp();
    client.version();
    const { fd } = ram(1 << 20);
    client.map(0, 1 << 20, fd);
    expect(client.map(0x1000, 0x1000, fd).error).toBe(22);
    expect(client.map(1 << 20, 4096, fd, 1 << 20).error).toBe(27);
    expect(client.unmap(0x1000, 0x1000).error).toBe(22);
    expect(host.memory.count).toBe(1);
    expect(log.filter((l) => l.startsWith("warn: refused")).length).toBe(3);
  });
});

describe("accesses", () => {
  test("held: a read ends only after more turns, and shows what the endpoint wrote meanwhile", () => {
    const { client, host, bus } = setUp();
    client.version();
    client.write(0, 0x14, 1, 0);
    client.send(9, words([], [0x14], [0, 1]));
    for (let i = 0; i < 64 && host.reads === 0; i++) host.turn();
    expect(host.reads).toBe(1);
    bus.barWrite(0, 0x14, 1, 0x5a);
    let turns = 0;
    let r = null;
    while (r === null) {
      turns++;
      r = client.receive(1);
    }
    expect(turns).toBeGreaterThanOrEqual(2);
    expect(r.body.getUint8(16)).toBe(0x5a);
  });

  test("held: the access after a posted write waits until the endpoint could see that write", () => {
    const { client, host, bus } = setUp();
    client.version();
    client.write(0, 0x100, 4, 0x1111, true);
    client.write(0, 0x100, 4, 0x2222, true);
    const seen: number[] = [];
    for (let i = 0; i < 200 && host.writes < 2; i++) {
      host.turn();
      seen.push(bus.barRead(0, 0x100, 4));
    }
    expect(seen.filter((v) => v === 0x1111).length).toBeGreaterThanOrEqual(2);
  });

  test("a read of config space is not held, a write is", () => {
    const { client, host } = setUp();
    client.version();
    const turns = (ask: () => void): number => {
      ask();
      for (let n = 1; ; n++) if (client.receive(1) !== null) return n;
    };
    const read = turns(() => client.send(9, words([], [0], [7, 4])));
    const write = turns(() => client.send(10, words([], [4], [7, 4, 0])));
    expect([read, write > read]).toEqual([1, true]);
    expect(host.writes).toBe(1);
  });

  test("with a hold in time: accesses of a driver that negotiates are held, those of one at DRIVER_OK are not", () => {
    const HOLD = 40;
    const { client, host } = setUp({ holdMs: HOLD });
    client.version();
    const ms = (off: number, value: number): number => {
      const since = performance.now();
      client.send(10, words([], [off], [0, 1, value]));
      expect(client.receive(50_000_000)?.error).toBe(0);
      return performance.now() - since;
    };
    expect(ms(LEGACY_STATUS, 3)).toBeGreaterThanOrEqual(HOLD);
    // the write that sets it is the last one that is held
    expect(ms(LEGACY_STATUS, 0xf)).toBeGreaterThanOrEqual(HOLD);
    expect(host.truth!.driverOk).toBe(true);
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 5; i++) least = Math.min(least, ms(LEGACY_STATUS, 0xf));
    expect(least).toBeLessThan(HOLD);
    // and so is the one that takes it back
    expect(ms(LEGACY_STATUS, 0)).toBeGreaterThanOrEqual(HOLD);
  });

  test("plain: BAR0 comes as a descriptor of the board's memory", () => {
    const { client, bus } = setUp({ mode: "plain" });
    client.version();
    const r = client.ask(5, words([32, 0, 0, 0], [0, 0]));
    expect(r.body.getUint32(4, true)).toBe(7);
    expect(r.fds.length).toBe(1);
    const offset = Number(r.body.getBigUint64(24, true));
    const ptr = mmap("BAR0", BAR0, PROT_READ | PROT_WRITE, MAP_SHARED, r.fds[0], offset);
    st32(ptr + 8, 0xfeed);
    expect(bus.barRead(0, 8, 4)).toBe(0xfeed);
    unmap(ptr, BAR0);
    libc.close(r.fds[0]);
  });

  test("config space in one piece, odd widths, and outside: refused", () => {
    const { client } = setUp();
    client.version();
    const all = client.ask(9, words([], [0], [7, 256]));
    expect(all.body.getUint16(16, true)).toBe(0x1af4);
    expect(client.read(7, 0x3d, 1)).toBe(1);
    expect(client.ask(9, words([], [BAR0], [0, 4])).error).toBe(22);
    expect(client.ask(9, words([], [254], [7, 4])).error).toBe(22);
    expect(client.ask(9, words([], [0], [5, 4])).error).toBe(22);
  });

  test("RESET takes command, MSI-X enable and BAR addresses away", () => {
    const { client, bus } = setUp();
    client.version();
    client.write(7, 4, 2, 6);
    client.write(7, 0x82, 2, 0x8003);
    client.write(7, 0x10, 4, 0xfe000000);
    expect(client.ask(13, new Uint8Array(0)).error).toBe(0);
    expect(bus.cfgRead(4, 2)).toBe(0);
    expect(bus.cfgRead(0x82, 2)).toBe(3);
    expect(bus.cfgRead(0x10, 4)).toBe(0);
  });
});

describe("interrupts", () => {
  const eventfd = (): number => {
    const fd = libc.eventfd(0, 0o4000);
    undo.push(() => libc.close(fd));
    return fd;
  };
  const count = (fd: number): number => {
    const n = new BigUint64Array(1);
    return libc.read(fd, n, 8) === 8 ? Number(n[0]) : 0;
  };
  const entry = (bus: StandInBus, v: number) => ({
    addr: bus.barRead(2, v * 16, 4) + bus.barRead(2, v * 16 + 4, 4) * 2 ** 32,
    data: bus.barRead(2, v * 16 + 8, 4),
    masked: bus.barRead(2, v * 16 + 12, 4) & 1,
  });

  test("MSI-X: the entry in the BAR is the only write that fires", () => {
    const { client, bus, host, log } = setUp();
    client.version();
    const fd = eventfd();
    expect(client.setIrqs(2, 0x24, 0, 1).error).toBe(0);
    expect(entry(bus, 0).masked).toBe(1);
    expect(client.setIrqs(2, 0x24, 1, 1, fd).error).toBe(0);
    const e = entry(bus, 1);
    expect(e.masked).toBe(0);
    expect(host.message(e.addr, e.data)).toBe(true);
    expect(count(fd)).toBe(1);
    host.message(e.addr, e.data ^ 1);
    expect(count(fd)).toBe(0);
    expect(host.irq.stray).toBe(1);
    expect(log.some((l) => l.includes("vector 1 with data"))).toBe(true);
    expect(host.message(0x1000, 1)).toBe(false);
    host.irq.maskVector(1, true);
    expect(entry(bus, 1).masked).toBe(1);
    host.message(e.addr, e.data);
    expect(count(fd)).toBe(0);
    expect(client.setIrqs(2, 0x21, 0, 0).error).toBe(0);
    expect(entry(bus, 1).masked).toBe(1);
    expect(client.setIrqs(2, 0x24, 4, 1, fd).error).toBe(22);
  });

  test("MSI-X: a message that was under way while the guest moved the vector arrives, one that comes long after does not", () => {
    const { client, bus, host } = setUp();
    client.version();
    const before = eventfd();
    const after = eventfd();
    client.setIrqs(2, 0x24, 1, 1, before);
    const old = entry(bus, 1);
    client.setIrqs(2, 0x24, 1, 1, after);
    expect(entry(bus, 1).data).not.toBe(old.data);
    host.message(old.addr, old.data);
    expect([count(before), count(after), host.irq.late, host.irq.stray]).toEqual([0, 1, 1, 0]);
    for (let i = 0; i < 256; i++) host.turn();
    host.message(old.addr, old.data);
    expect([count(after), host.irq.late, host.irq.stray]).toEqual([0, 1, 1]);
    // what was masked was not live: nothing of it may be under way
    host.irq.maskVector(1, true);
    const masked = entry(bus, 1);
    client.setIrqs(2, 0x24, 1, 1, after);
    host.message(masked.addr, masked.data);
    expect([count(after), host.irq.stray]).toEqual([0, 2]);
  });

  test("INTx: once until UNMASK, again while the level stays", () => {
    const { client, host } = setUp();
    client.version();
    const fd = eventfd();
    expect(client.setIrqs(0, 0x24, 0, 1, fd).error).toBe(0);
    host.intx(true);
    host.intx(false);
    host.intx(true);
    expect(count(fd)).toBe(1);
    client.setIrqs(0, 0x11, 0, 1);
    expect(count(fd)).toBe(1);
    host.intx(false);
    client.setIrqs(0, 0x11, 0, 1);
    expect(count(fd)).toBe(0);
    host.intx(true);
    expect(count(fd)).toBe(1);
  });
});

describe("broken and vanished peers", () => {
  const cases: [string, (c: VfioUserClient) => void, string][] = [
    ["a header that is too small", (c) => c.raw(new Uint8Array(16)), "size 0"],
    ["a command before VERSION", (c) => c.send(9, words([], [0], [7, 4])), "before VERSION"],
    [
      "a short body",
      (c) => {
        c.version();
        c.send(2, new Uint8Array(8));
      },
      "DMA_MAP with 8 bytes",
    ],
    ["another major version", (c) => c.send(1, new Uint8Array([1, 0, 0, 0])), "vfio-user 1.0"],
    [
      "a reply",
      (c) => {
        c.version();
        c.send(9, words([], [0], [7, 4]), -1, 1);
      },
      "a reply to REGION_READ",
    ],
  ];
  for (const [name, act, text] of cases)
    test(`${name}: reported, dropped, and the next QEMU is served`, () => {
      const { client, host, log, path, bus } = setUp();
      act(client);
      for (let i = 0; i < 3000 && !log.some((l) => l.startsWith("error")); i++) host.turn();
      expect(log.find((l) => l.startsWith("error"))).toContain(text);
      const next = new VfioUserClient(path, () => host.turn());
      next.version();
      expect(next.read(7, 0, 2)).toBe(0x1af4);
      next.close();
      expect(bus.cfgRead(4, 2)).toBe(0);
    });

  test("an unknown command is answered with an error, the connection stays", () => {
    const { client } = setUp();
    client.version();
    expect(client.ask(15, new Uint8Array(8)).error).toBe(95);
    expect(client.read(7, 0, 2)).toBe(0x1af4);
  });

  test("a QEMU that vanishes: memory, descriptors and bus mastering are taken back", () => {
    const { client, host, log, bus, path } = setUp();
    const before = openFds();
    client.version();
    const { fd } = ram(1 << 20);
    client.map(0, 1 << 20, fd);
    client.write(7, 4, 2, 6);
    const ev = libc.eventfd(0, 0);
    client.setIrqs(2, 0x24, 0, 1, ev);
    libc.close(ev);
    client.close();
    for (let i = 0; i < 100; i++) host.turn();
    expect(log.some((l) => l.includes("QEMU closed the connection"))).toBe(true);
    expect(host.memory.count).toBe(0);
    expect(bus.cfgRead(4, 2)).toBe(0);
    expect(openFds()).toBe(before); // the client's end is gone, ram's descriptor is new
    const again = new VfioUserClient(path, () => host.turn());
    again.version();
    expect(host.attaches).toBe(2);
    again.close();
  });

  test("a message whose rest does not come ends the connection", async () => {
    const { client, host, log } = setUp();
    client.version();
    const half = new Uint8Array(20);
    new DataView(half.buffer).setUint16(2, 2, true);
    new DataView(half.buffer).setUint32(4, 48, true);
    client.raw(half);
    const end = performance.now() + 4000;
    while (host.connected && performance.now() < end) {
      host.turn();
      await Bun.sleep(5);
    }
    expect(log.join()).toContain("only 20 bytes of a message");
  });

  test("socket paths: stale file replaced, live server refused, other files left alone", () => {
    const { path, dir, host } = setUp();
    expect(() => new VfioUserHost({ path })).toThrow(/another process/);
    host.close();
    expect(existsSync(path)).toBe(false);
    const fd = libc.socket(1, 1, 0);
    const addr = new Uint8Array([1, 0, ...cstring(path)]);
    libc.bind(fd, addr, addr.length);
    libc.close(fd);
    expect(existsSync(path)).toBe(true);
    new VfioUserHost({ path: `plain:${path}` }).close();
    writeFileSync(join(dir, "file"), "x");
    expect(() => new VfioUserHost({ path: join(dir, "file") })).toThrow();
    expect(existsSync(join(dir, "file"))).toBe(true);
    expect(() => new VfioUserHost({ path: `/tmp/${"x".repeat(120)}` })).toThrow(/at most 107/);
  });
});
