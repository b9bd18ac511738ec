import { heapStats } from "bun:jsc";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { Grants } from "../../src/hw/driver-ring.ts";
import { RING_BAD_ID } from "../../src/hw/driver-ring.ts";
import { copy } from "../../src/hw/mem.ts";
import type { PortFeatures } from "../../src/hw/net-port.ts";
import { TapPort, type TapPortOptions } from "../../src/hw/tap-port.ts";
import { ip, needTap, UdpIn } from "../support/netns.ts";
import { RingDevice } from "../support/ring-device.ts";
import { type TestMemory, testMemory } from "../support/ring-memory.ts";

const A = "h1pa";
const B = "h1pb";
const why = needTap();
if (why !== "") console.log(`tap-port.test.ts: ${why}`);

const PLAIN: PortFeatures = {
  hdrLen: 12,
  toHostTso4: false,
  toHostTso6: false,
  toHostCsum: false,
  toBoardTso4: false,
  toBoardTso6: false,
  toBoardCsum: false,
  mtu: 1500,
};
const TSO: PortFeatures = {
  ...PLAIN,
  toHostTso4: true,
  toHostTso6: true,
  toHostCsum: true,
  toBoardTso4: true,
  toBoardTso6: true,
  toBoardCsum: true,
};

/** A port and the device of its two rings, which forwards tx chains of one port to rx buffers of the other. */
class End {
  readonly memory: TestMemory;
  readonly port: TapPort;
  rx: RingDevice;
  tx: RingDevice;
  largest = 0;
  flags = 0;
  constructor(bus: number, o: Omit<TapPortOptions, "memory">) {
    this.memory = testMemory(16 << 20, bus);
    this.port = new TapPort({ memory: this.memory, ...o });
    this.rx = new RingDevice(this.port.rx, false, this.memory.cpu);
    this.tx = new RingDevice(this.port.tx, false, this.memory.cpu);
  }
  start(f: PortFeatures): void {
    this.port.start(f);
    this.port.setLink(true);
    this.rx = new RingDevice(this.port.rx, false, this.memory.cpu);
    this.tx = new RingDevice(this.port.tx, false, this.memory.cpu);
  }
  forward(to: End): void {
    let n = 0;
    for (let h = this.tx.pop(); h >= 0; h = this.tx.pop()) {
      const chain = this.tx.chain(h);
      const into = to.rx.pop();
      if (into < 0) {
        this.tx.put(h, 0);
        n++;
        continue; // dropped, as a device without receive buffers does
      }
      const dst = to.rx.chain(into)[0]!;
      const src = chain[0]!;
      if (chain.length !== 1 || src.write || !dst.write || src.len > dst.len) throw new Error("unexpected chain");
      const at = src.addr - this.port.buffers.busBase;
      this.flags |= this.port.buffers.u8[at]!;
      this.largest = Math.max(this.largest, src.len);
      copy(to.memory.cpu(dst.addr), this.memory.cpu(src.addr), src.len);
      to.rx.put(into, src.len);
      this.tx.put(h, 0);
      n++;
    }
    if (n === 0) return;
    this.tx.show();
    to.rx.show();
  }
  close(): void {
    this.port.close();
    this.memory.release();
  }
}

function step(a: End, b: End): void {
  a.port.turn();
  b.port.turn();
  a.forward(b);
  b.forward(a);
}

/** Turn both ends until `until` settles. */
async function run<T>(a: End, b: End, until: Promise<T>): Promise<T> {
  let open = true;
  const end = until.finally(() => {
    open = false;
  });
  while (open) {
    const slice = Bun.nanoseconds() + 1e6;
    while (Bun.nanoseconds() < slice) {
      step(a, b);
    }
    await new Promise((r) => setImmediate(r));
  }
  return end;
}

const text = async (cmd: string[]): Promise<{ out: string; code: number }> => {
  const p = Bun.spawn(cmd, { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([p.stdout.text(), p.stderr.text(), p.exited]);
  return { out: out + err, code };
};

async function tcp(a: End, b: End, bytes: number): Promise<void> {
  const peer = join(import.meta.dir, "../support/tcp-peer.ts");
  const server = Bun.spawn(["ip", "netns", "exec", B, process.execPath, peer, "serve", "5001"], { stdout: "pipe" });
  const reader = server.stdout.getReader();
  const word = async () => new TextDecoder().decode((await reader.read()).value).trim();
  expect(await word()).toBe("ready");
  const send = ["ip", "netns", "exec", A, process.execPath, peer, "send", "10.98.0.2", "5001", String(bytes)];
  const [sent, got] = await run(a, b, Promise.all([text(send), word()]));
  expect(sent.code).toBe(0);
  expect(got).toBe(sent.out.trim());
  expect(got).toEndWith(` ${bytes}`);
  await server.exited;
}

describe.skipIf(why !== "")("TapPort", () => {
  beforeAll(() => {
    for (const ns of [A, B]) ip("netns", "add", ns);
  });
  afterAll(() => {
    for (const ns of [A, B]) ip("netns", "del", ns);
  });
  const open: End[] = [];
  afterEach(() => {
    for (const e of open.splice(0)) e.close();
  });
  /** n broadcast datagrams from the board's stack in A, `size` bytes of payload */
  const broadcast = (n: number, size: number): void => {
    const s = new UdpIn(A);
    const data = new Uint8Array(size);
    for (let i = 0; i < n; i++) {
      data.fill(i);
      expect(s.send(data, "10.98.0.255", 9)).toBe(size);
    }
    s.close();
  };
  /** The kernel starts a netdev's queue some time after its carrier came. */
  const waitUp = (ns = A, dev = "h1a0"): void => {
    for (let i = 0; i < 1000 && !ip("-n", ns, "link", "show", "dev", dev).includes("state UP"); i++) Bun.sleepSync(3);
  };
  const pair = (o: Partial<TapPortOptions> = {}): [End, End] => {
    for (const e of open.splice(0)) e.close();
    const a = new End(0x4000_0000, { name: "h1a0", netns: A, mac: "02:00:00:00:01:01", ...o });
    const b = new End(0x9_c000_0000, { name: "h1b0", netns: B, mac: "02:00:00:00:01:02", ...o });
    ip("-n", A, "addr", "add", "10.98.0.1/24", "dev", "h1a0");
    ip("-n", B, "addr", "add", "10.98.0.2/24", "dev", "h1b0");
    open.push(a, b);
    return [a, b];
  };

  test("before start nothing moves and the carrier is off", () => {
    const [a] = pair();
    expect([a.port.ready, a.port.generation, a.port.kind, a.port.netdev]).toEqual([false, 0, "tap", "h1a0"]);
    expect(a.port.turn()).toBe(0);
    expect(ip("-n", A, "link", "show", "dev", "h1a0")).toContain("NO-CARRIER");
  });

  test("UDP and TCP without offloads, then with them after a restart; carrier and generation follow", async () => {
    const [a, b] = pair();
    a.start(PLAIN);
    b.start(PLAIN);
    waitUp();
    waitUp(B, "h1b0");
    const [ua, ub] = [new UdpIn(A, 7), new UdpIn(B, 7)];
    for (let size = 1; size <= 1472; size += 31) {
      const data = new Uint8Array(size).fill(size);
      ua.send(data, "10.98.0.2", 7);
      let got: Uint8Array | null = null;
      for (let i = 0; i < 100_000 && got === null; i++) {
        step(a, b);
        got = ub.recv();
      }
      expect(got).toEqual(data);
    }
    ua.close();
    ub.close();
    const before = a.port.txFrames;
    await tcp(a, b, 2_000_000);
    expect(a.port.txFrames - before).toBeGreaterThan(2_000_000 / 1514);
    expect(a.largest).toBeLessThanOrEqual(12 + 1514);
    expect(a.flags & 1).toBe(0); // no partial checksums were asked for

    a.port.stop();
    b.port.stop();
    expect(ip("-n", A, "link", "show", "dev", "h1a0")).toContain("NO-CARRIER");
    expect(a.port.turn()).toBe(0);
    a.start({ ...TSO, hdrLen: 24, mtu: 4000 });
    b.start({ ...TSO, hdrLen: 24, mtu: 4000 });
    expect(a.port.generation).toBe(2);
    expect(ip("-n", A, "link", "show", "dev", "h1a0")).toContain("mtu 4000");
    await tcp(a, b, 64_000_000);
    expect(a.largest).toBeGreaterThan(20_000);
    expect(a.flags).toBe(1);
    expect([a.port.rxDropped, b.port.rxDropped, a.port.txDropped, a.port.ringError]).toEqual([0, 0, 0, 0]);
  }, 30_000);

  test("a small pool and a small ring wrap and stay correct", async () => {
    const [a, b] = pair({ queueSize: 16, poolBytes: 8 * 65664 });
    a.start(TSO);
    b.start(TSO);
    await tcp(a, b, 16_000_000);
    expect(a.largest).toBeGreaterThan(10_000);
  }, 30_000);

  test("chains given back out of order, one kept for long: the arena neither overwrites nor leaks", () => {
    const [a] = pair({ queueSize: 16, poolBytes: 8 * 65664 });
    a.start(PLAIN);
    waitUp();
    const bufs = a.port.buffers;
    const held: { head: number; at: number; sum: string }[] = [];
    const sum = (at: number, len: number) => Bun.hash(bufs.u8.subarray(at, at + len)).toString();
    let frames = 0;
    for (let round = 0; round < 3; round++) {
      broadcast(40, 900);
      for (let i = 0; i < 2000; i++) {
        a.port.turn();
        for (let h = a.tx.pop(); h >= 0; h = a.tx.pop()) {
          const c = a.tx.chain(h)[0]!;
          held.push({ head: h, at: c.addr - bufs.base, sum: `${c.len}:${sum(c.addr - bufs.base, c.len)}` });
          frames++;
        }
        // the newest first; the oldest, which holds the arena's tail, only now and then
        const k = i % 50 === 49 && held.length > 0 ? 0 : held.length > 3 ? held.length - 1 : -1;
        if (k >= 0) {
          const [x] = held.splice(k, 1);
          const len = Number(x!.sum.split(":")[0]);
          expect(`${len}:${sum(x!.at, len)}`).toBe(x!.sum);
          a.tx.put(x!.head, 0);
          a.tx.show();
        }
      }
    }
    expect(frames).toBeGreaterThanOrEqual(120);
    expect(a.port.ringError).toBe(0);
  }, 20_000);

  test("a header longer than ten bytes is zeroed behind them, also over old contents", () => {
    const [a] = pair();
    a.start({ ...PLAIN, hdrLen: 24 });
    waitUp();
    a.port.buffers.u8.fill(0xee);
    broadcast(3, 100);
    for (let i = 0; i < 100; i++) a.port.turn();
    let seen = 0;
    for (let h = a.tx.pop(); h >= 0; h = a.tx.pop()) {
      const c = a.tx.chain(h)[0]!;
      const at = c.addr - a.port.buffers.base;
      expect([...a.port.buffers.u8.subarray(at, at + 24)]).toEqual(new Array(24).fill(0));
      seen++;
    }
    expect(seen).toBeGreaterThan(0);
  });

  test("an engine that returns nonsense stops the port with a code; start() heals it", () => {
    const [a] = pair();
    a.start(PLAIN);
    a.rx.put(0xffff, 10);
    a.rx.show();
    a.port.turn();
    expect([a.port.ready, a.port.ringError]).toEqual([false, RING_BAD_ID]);
    a.start(PLAIN);
    expect([a.port.ready, a.port.ringError, a.port.generation]).toEqual([true, 0, 2]);
    const h = a.rx.pop();
    a.rx.put(h, 3); // shorter than a header
    a.rx.show();
    a.port.turn();
    expect([a.port.ready, a.port.rxDropped]).toEqual([true, 1]);
  });

  test("a netdev deleted under the port: no exception in the loop, the error is kept", () => {
    const [a] = pair();
    a.start(PLAIN);
    ip("-n", A, "link", "del", "h1a0");
    for (let i = 0; i < 20; i++) a.port.turn();
    a.port.setLink(true);
    a.port.stop();
    expect(a.port.lastError).toBe(-77); // EBADFD
    const gone = () => a.port.start(PLAIN);
    expect(gone).toThrow("EBADFD");
  });

  test("frames from before start() are thrown away", () => {
    const [a] = pair();
    a.port.setLink(true);
    waitUp();
    broadcast(3, 100);
    a.start(PLAIN);
    expect(a.port.txStale).toBeGreaterThanOrEqual(3);
  });

  test("strict mode: exactly the posted receive buffers and frames in flight are granted", () => {
    const rights = new Map<number, [number, number]>();
    const strict: Grants = {
      grant: (at, len, mode) => void rights.set(at, [len, mode]),
      revoke: (at) => void rights.delete(at),
    };
    const memory = testMemory(16 << 20, 0x4000_0000);
    const port = new TapPort({ memory, name: "h1s0", netns: A, strict, queueSize: 64 });
    port.start(TSO);
    const inPool = () =>
      [...rights].filter(([at]) => at >= port.buffers.base && at < port.buffers.base + port.buffers.u8.length);
    expect(inPool().length).toBe(64);
    expect(new Set(inPool().map(([, [len, mode]]) => `${len}:${mode}`))).toEqual(new Set(["65600:2"]));
    port.stop();
    expect(rights.size).toBe(0);
    port.close();
    memory.release();
  });

  test("a million idle turns allocate nothing and cost little", () => {
    const [a] = pair();
    a.start(PLAIN);
    for (let i = 0; i < 200_000; i++) a.port.turn();
    Bun.gc(true);
    const objects = heapStats().objectCount;
    const t = Bun.nanoseconds();
    for (let i = 0; i < 1_000_000; i++) a.port.turn();
    const ns = (Bun.nanoseconds() - t) / 1e6;
    expect(heapStats().objectCount - objects).toBeLessThan(1000);
    expect(ns).toBeLessThan(2000);
    console.log(`idle turn of a TapPort: ${ns.toFixed(0)} ns`);
  });
});
