/**
 * The built-in host ending in a TAP of another namespace. A function that swaps the addresses of every IPv4 packet and
 * sends it back makes the kernel talk to itself: UDP datagrams come back from the peer they were sent to, and a TCP
 * connection meets itself (simultaneous open, RFC 9293 3.5) and gets back what it sent, by TSO where it was negotiated.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { AF_INET, check, libc, SOCK_NONBLOCK } from "../../../src/hw/libc.ts";
import { BuiltInHost } from "../../../src/hw/model/host.ts";
import { HostTap } from "../../../src/hw/model/host-tap.ts";
import { inNetns } from "../../../src/hw/netns.ts";
import { ip, needTap, UdpIn } from "../../support/netns.ts";
import { TestFunction } from "../../support/virtio-function.ts";

const NETNS = `h4host${process.pid}`;
const reason = needTap();
const PACE = { readDelayTurns: 0, writeDelayTurns: 0, softwareDelayTurns: 0, reuseDelayTurns: 3, accessesPerTurn: 64 };
const SOCK_STREAM = 1;
const PEER = "10.44.0.2";

if (reason !== "") console.log(`host-tap.test.ts ${reason}`);
// everything here waits for an event; the limits are for a machine that is busy with other things
const LIMIT_MS = 30_000;
setDefaultTimeout(5 * LIMIT_MS);

async function until(what: string, done: () => boolean): Promise<void> {
  for (const end = Date.now() + LIMIT_MS; !done(); await Bun.sleep(1)) {
    if (Date.now() > end) throw new Error(`${what}: not within ${LIMIT_MS} ms`);
  }
}

beforeAll(() => {
  if (reason === "") ip("netns", "add", NETNS);
});

afterAll(() => {
  if (reason === "") ip("netns", "del", NETNS);
});

/** Sends frames back with MAC and IP addresses and UDP ports swapped, and the net header as it came. */
class Mirror extends TestFunction {
  gso = 0;
  longest = 0;
  override receive(frame: Uint8Array): boolean {
    const h = this.hdrLen;
    if (((frame[h + 12]! << 8) | frame[h + 13]!) !== 0x0800) return true;
    if (frame[1] !== 0) this.gso++;
    this.longest = Math.max(this.longest, frame.length - h);
    const out = frame.slice();
    const swap = (a: number, b: number, n: number) => {
      out.set(frame.subarray(h + a, h + a + n), h + b);
      out.set(frame.subarray(h + b, h + b + n), h + a);
    };
    swap(0, 6, 6);
    swap(14 + 12, 14 + 16, 4);
    // ports are in the first fragment only
    const first = (((frame[h + 14 + 6]! << 8) | frame[h + 14 + 7]!) & 0x1fff) === 0;
    if (first && frame[h + 14 + 9] !== 1) swap(14 + 20, 14 + 22, 2);
    return super.receive(out);
  }
}

/** 4 MiB through a TCP connection with itself. */
async function echoTcp(): Promise<void> {
  const fd = inNetns(NETNS, () => check(libc.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket"));
  try {
    const to = new Uint8Array(16);
    to.set([AF_INET, 0, 7778 >> 8, 7778 & 255, ...PEER.split(".").map(Number)]);
    libc.connect(fd, to, 16);
    const total = 4 << 20;
    const sent = new Uint8Array(total);
    for (let i = 0; i < total; i += 65536) crypto.getRandomValues(sent.subarray(i, i + 65536));
    const got = new Uint8Array(total);
    let out = 0;
    let back = 0;
    for (const end = Date.now() + LIMIT_MS; back < total && Date.now() < end; ) {
      const a = out < total ? libc.send(fd, sent.subarray(out), total - out, 0x4000) : 0;
      if (a > 0) out += a;
      const b = libc.recv(fd, got.subarray(back), total - back, 0);
      if (b > 0) back += b;
      if (a <= 0 && b <= 0) await Bun.sleep(0);
    }
    expect(back).toBe(total);
    expect(Bun.hash(got)).toBe(Bun.hash(sent));
  } finally {
    libc.close(fd);
  }
}

for (const [name, modern, features, header] of [
  ["modern, offloads", true, [0x21 | 2 | 0x180 | (3 << 11) | (1 << 15) | (1 << 16), 1, 0, 0], 12],
  ["modern, header of 24 bytes", true, [0x23 | (1 << 15) | (1 << 16), 1, 2, 0], 24],
  ["legacy, nothing offloaded, header of 10 bytes", false, [0x20 | (1 << 16), 0, 0, 0], 10],
] as const) {
  test.skipIf(reason !== "")(`ping and UDP through the TAP: ${name}`, async () => {
    const host = new BuiltInHost({
      memory: 16 << 20,
      strict: true,
      pace: PACE,
      tap: { name: `h4tap${header}`, netns: NETNS, ip: "10.44.0.1/24" },
    });
    const device = new Mirror(host, { modern, features: [...features] });
    // the mirror keeps NEEDS_CSUM and GSO: the host must have taken the guest bits for that
    device.keepHeader = true;
    host.attach(device);
    const tap = (host.end as HostTap).tap;
    let running = true;
    const loop = (async () => {
      while (running) {
        for (let i = 0; i < 200; i++) {
          host.turn();
          device.turn();
        }
        await Bun.sleep(0);
      }
    })();
    try {
      await until("the driver is bound", () => host.state === "bound");
      expect(tap.mac()).toBe("02:00:00:00:00:77");
      expect(host.truth!.hdrLen).toBe(header);
      // not "add": what TCP of the test before still sends may have made an entry already
      ip("-n", NETNS, "neigh", "replace", PEER, "lladdr", "02:00:00:00:00:99", "dev", tap.name);
      // one at a time: behind the last of several ping waits for twice the longest round trip only, not for -W
      for (let i = 0; i < 5; i++) {
        const ping = Bun.spawn(["ip", "netns", "exec", NETNS, "ping", "-c", "1", "-W", "20", PEER], {
          stdout: "pipe",
          stderr: "pipe",
        });
        expect(await new Response(ping.stdout).text()).toContain("1 packets transmitted, 1 received");
      }

      const udp = new UdpIn(NETNS, 7777);
      try {
        for (const size of [1, 100, 1400, 9000, 60000]) {
          const sent = crypto.getRandomValues(new Uint8Array(size));
          expect(udp.send(sent, PEER, 7777)).toBe(size);
          let back: Uint8Array | null = null;
          await until(`${size} bytes come back`, () => {
            back = udp.recv();
            return back !== null;
          });
          expect(back as Uint8Array | null).toEqual(sent);
        }
      } finally {
        udp.close();
      }
      await echoTcp();
      if (header !== 10) {
        expect(device.gso > 0).toBe(header === 12);
        expect(device.longest > 1514).toBe(header === 12);
      }
      expect((host.end as HostTap).refused).toBe(0);
      expect([device.violations, device.faults, host.net!.rx.badHeader, host.net!.rx.badLength]).toEqual([0, 0, 0, 0]);
      // the carrier follows the device's link
      const carrier = () => !ip("-n", NETNS, "link", "show", tap.name).includes("NO-CARRIER");
      device.setLink(false);
      await until("the carrier goes", () => !carrier());
      device.setLink(true);
      await until("the carrier comes", carrier);
      host.rebind();
      await until("the driver is bound again", () => host.removals > 0 && host.state === "bound");
    } finally {
      running = false;
      await loop;
      host.close();
    }
  });
}

test.skipIf(reason !== "")("a TAP that is not wanted by the kernel fails with a Fault, an absurd address too", () => {
  expect(() => new HostTap({ name: "h4tap", netns: "h4nosuch" })).toThrow(/does not exist/);
  const tap = new HostTap({ name: "h4bad", netns: NETNS, ip: "300.1.1.1/24" });
  const f = { hdrLen: 12, mac: new Uint8Array(6), mtu: 1500, txCsum: false, txTso4: false, txTso6: false };
  expect(() => tap.start(f)).toThrow(/is no IPv4 address/);
  tap.close();
});
