/** VIRTIO 1.2 5.1: network device. Headers, num_buffers, offloads, config fields, packet size. */
import { describe, expect, test } from "bun:test";
import { checkMtu, macBytes } from "../../src/engine/function/config.ts";
import { FEATURE_SETS } from "../../src/engine/function/features.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { CONFIG, manualHosts } from "../support/manual-host.ts";
import { type Chain, frame, RingRig, withBuffers } from "../support/ring-rig.ts";

const host = manualHosts();

const finish = (rig: RingRig): void => {
  expect(rig.violations).toEqual([]);
  rig.close();
};

const bytes = (b: readonly number[]): Uint8Array => Uint8Array.from(b);

/** Every header the other side may have written: bytes 0..9. */
const HEADERS: [string, Record<number, number>][] = [
  ["plain", {}],
  ["NEEDS_CSUM", { 0: V.NET_HDR_F_NEEDS_CSUM, 6: 34, 8: 16 }],
  ["TCPv4 segmentation", { 0: 1, 1: V.NET_HDR_GSO_TCPV4, 2: 54, 4: 0xb4, 5: 5, 6: 34, 8: 16 }],
  ["TCPv6 segmentation with ECN", { 0: 1, 1: V.NET_HDR_GSO_TCPV6 | 0x80, 2: 74, 4: 0xa0, 5: 5, 6: 54, 8: 16 }],
  ["flag bits nobody knows", { 0: 0xf8 }],
  ["a header length that is wrong", { 2: 0xff, 3: 0xff }],
  ["csum fields without NEEDS_CSUM", { 6: 0xff, 7: 0xff, 8: 0xff, 9: 0xff }],
];

describe("5.1.6 the header goes through", () => {
  for (const [name, set] of HEADERS) {
    for (const patch of [false, true]) {
      test(`5.1.6.2.2 5.1.6.4.1 ${name}: flags, gso and checksum fields reach the other driver unchanged${patch ? " (patched in place)" : ""}`, () => {
        const rig = new RingRig({ patch });
        const f = frame(12, 200, 1, set);
        const rx = rig.host.post([300]);
        const brx = rig.board.post([300]);
        rig.board.send(f);
        rig.host.send(f);
        rig.settle();
        expect(rig.host.gather(rx, f.length)).toEqual(withBuffers(f, 1));
        expect(rig.board.gather(brx, f.length)).toEqual(withBuffers(f, 1));
        finish(rig);
      });
    }
  }

  test("5.1.6.1 legacy without MRG_RXBUF: the header has 10 bytes and no num_buffers", () => {
    const rig = new RingRig({ hdrLen: 10, mergeable: false, boardMergeable: false });
    const f = frame(10, 200, 1, { 0: 1, 6: 34, 8: 16 });
    const rx = rig.host.post([300]);
    const brx = rig.board.post([300]);
    rig.board.send(f);
    rig.host.send(f);
    rig.settle();
    expect(rig.host.gather(rx, f.length)).toEqual(f);
    expect(rig.board.gather(brx, f.length)).toEqual(f);
    finish(rig);
  });

  test("5.1.6.6 legacy without ANY_LAYOUT: a descriptor for the header alone, on both queues", () => {
    const rig = new RingRig({ hdrLen: 10, mergeable: false, boardMergeable: false });
    const f = frame(10, 200);
    const rx = rig.host.post([10, 300]);
    const brx = rig.board.post([300]);
    rig.board.send(f);
    rig.host.send(f, [10, 200]);
    rig.settle();
    expect(rig.host.gather(rx, f.length)).toEqual(f);
    expect(rig.board.gather(brx, f.length)).toEqual(f);
    finish(rig);
  });
});

describe("5.1.6.3.2 and 5.1.6.4.1 receive buffers", () => {
  for (const patch of [false, true]) {
    for (const lens of [[600], [112], [60, 60], [12, 100], [13, 99, 50], [100, 5, 5, 1, 1, 500]]) {
      test(`5.1.6.4.1 num_buffers counts the buffers, all but the last are full: ${lens.join("+")}${patch ? " (patched)" : ""}`, () => {
        const rig = new RingRig({ patch });
        const f = frame(12, 100, 3);
        let left = f.length;
        const want: { id: number; len: number }[] = [];
        const chains: Chain[] = [];
        const boards: Chain[] = [];
        for (const n of lens) {
          const c = rig.host.post([n]);
          boards.push(rig.board.post([n]));
          if (left > 0) {
            chains.push(c);
            want.push({ id: c.head, len: Math.min(left, n) });
            left -= Math.min(left, n);
          }
        }
        rig.board.send(f);
        rig.host.send(f);
        rig.settle();
        for (const [side, list] of [
          [rig.host, chains],
          [rig.board, boards],
        ] as const) {
          const got: number[] = [];
          want.forEach((w, i) => {
            expect(rig.used(side.rx, i)).toEqual({ id: list[i]!.head, len: w.len });
            got.push(...side.gather(list[i]!, w.len));
          });
          expect(rig.usedIdx(side.rx)).toBe(want.length);
          expect(bytes(got)).toEqual(withBuffers(f, want.length));
        }
        finish(rig);
      });
    }
  }

  test("5.1.6.4.1 all buffers of one frame appear with one change of the used index", () => {
    const rig = new RingRig({ hostQueue: 64 });
    for (let i = 0; i < 30; i++) rig.host.post([64]);
    const seen = new Set<number>();
    const link = rig.model.link;
    const post = link.post.bind(link);
    link.post = (addr, ptr, len, who) => {
      post(addr, ptr, len, who);
      seen.add(rig.usedIdx(rig.host.rx));
    };
    // 5 buffers each
    for (let i = 0; i < 6; i++) rig.board.send(frame(12, 64 * 5 - 12 - 10, i));
    rig.settle();
    expect([...seen].every((n) => n % 5 === 0)).toBe(true);
    expect(rig.usedIdx(rig.host.rx)).toBe(30);
    finish(rig);
  });

  test("5.1.6.3.2 without MRG_RXBUF one buffer a frame, num_buffers 1; a larger frame is dropped and counted", () => {
    for (const mergeable of [false]) {
      const rig = new RingRig({ mergeable, boardMergeable: mergeable });
      const small = frame(12, 100);
      const rx = rig.host.post([200]);
      const brx = rig.board.post([200]);
      rig.host.post([200]);
      rig.board.post([200]);
      rig.board.send(frame(12, 300));
      rig.host.send(frame(12, 300));
      rig.board.send(small);
      rig.host.send(small);
      rig.settle();
      expect([rig.dp.toHost.dropped, rig.dp.toBoard.dropped]).toEqual([1, 1]);
      expect([rig.usedIdx(rig.host.rx), rig.usedIdx(rig.board.rx)]).toEqual([1, 1]);
      expect(rig.host.gather(rx, 112)).toEqual(withBuffers(small, 1));
      expect(rig.board.gather(brx, 112)).toEqual(withBuffers(small, 1));
      // both chains of both senders are given back
      expect([rig.usedIdx(rig.board.tx), rig.usedIdx(rig.host.tx)]).toEqual([2, 2]);
      finish(rig);
    }
  });

  test("5.1.6.3.2 num_buffers is set for the board's driver although it did not negotiate mergeable buffers", () => {
    const rig = new RingRig({ boardMergeable: false });
    const brx = rig.board.post([300]);
    const f = frame(12, 100, 1, { 10: 0x77, 11: 0x66 });
    rig.host.send(f);
    rig.settle();
    expect(rig.board.gather(brx, f.length)).toEqual(withBuffers(f, 1));
    finish(rig);
  });

  test("5.1.6.4.1 header of 24 bytes: num_buffers at the same place, the tunnel fields go through", () => {
    const rig = new RingRig({ hdrLen: 24 });
    const f = frame(24, 100, 1, { 12: 0xaa, 16: 0xbb, 20: 0xcc, 23: 0xdd });
    const a = rig.host.post([20]);
    const b = rig.host.post([200]);
    rig.board.send(f);
    // a receive buffer that cannot hold the header is a broken driver, see test/engine/to-host.test.ts
    expect(rig.fault().culprit).toBe("hq.rx");
    expect([a.head, b.head]).toEqual([0, 1]);
    rig.close();
    const ok = new RingRig({ hdrLen: 24 });
    const c = ok.host.post([30]);
    const d = ok.host.post([200]);
    ok.board.send(f);
    ok.settle();
    expect(bytes([...ok.host.gather(c, 30), ...ok.host.gather(d, 94)])).toEqual(withBuffers(f, 2));
    finish(ok);
  });
});

describe("5.1.6.4.1 offloads follow what the host accepted", () => {
  const word = FEATURE_SETS.wide!.legacy;
  const cases: [string, number, Record<string, boolean>][] = [
    ["nothing", 0, { toHostCsum: false, toHostTso4: false, toHostTso6: false, toBoardCsum: false, toBoardTso4: false }],
    ["GUEST_CSUM", 1 << V.F_GUEST_CSUM, { toHostCsum: true, toHostTso4: false, toHostTso6: false }],
    [
      "GUEST_CSUM and GUEST_TSO4",
      (1 << V.F_GUEST_CSUM) | (1 << V.F_GUEST_TSO4),
      { toHostCsum: true, toHostTso4: true, toHostTso6: false },
    ],
    [
      "GUEST_CSUM and GUEST_TSO6",
      (1 << V.F_GUEST_CSUM) | (1 << V.F_GUEST_TSO6),
      { toHostCsum: true, toHostTso4: false, toHostTso6: true },
    ],
    ["CSUM", 1 << V.F_CSUM, { toBoardCsum: true, toBoardTso4: false, toBoardTso6: false, toHostCsum: false }],
    [
      "CSUM and HOST_TSO4",
      (1 << V.F_CSUM) | (1 << V.F_HOST_TSO4),
      { toBoardCsum: true, toBoardTso4: true, toBoardTso6: false },
    ],
  ];
  for (const [name, accepted, want] of cases) {
    test(`5.1.6.4.1 accepted ${name}: the board's side is told before its first frame`, () => {
      const h = host({ core: "legacy-msix", engine: { features: "wide" } });
      expect(accepted & ~word).toBe(0);
      h.legacy({ features: [accepted] });
      expect(h.live).toBe(true);
      expect(h.port.features).toMatchObject(want);
    });
  }
});

describe("5.1.4.1 config fields", () => {
  test("5.1.4.1 mtu is 68 to 65535, 1500 by default; anything else is refused in the configuration", () => {
    for (const mtu of [0, 67, 65536, -1, 1500.5, Number.NaN]) expect(() => checkMtu(mtu)).toThrow(/mtu/);
    for (const mtu of [68, 1280, 1500, 9000, 65535]) {
      expect(checkMtu(mtu)).toBe(mtu);
      const h = host({ engine: { mtu, features: "wide" } });
      expect(h.r(CONFIG + V.NET_CFG_MTU, 2)).toBe(mtu);
    }
  });

  test("5.1.4.1 mtu does not change: not by link changes, resets or new lives", () => {
    const h = host({ engine: { mtu: 1400, features: "wide" } });
    const wide = FEATURE_SETS.wide!.modern;
    for (let i = 0; i < 3; i++) {
      h.modern({ features: [wide, wide], eventIdx: true });
      expect(h.live).toBe(true);
      h.engine.fn.setLink(false);
      h.engine.fn.setLink(true);
      expect(h.r(CONFIG + V.NET_CFG_MTU, 2)).toBe(1400);
      h.w(V.COMMON_STATUS, 1, 0);
      h.turns(30);
      h.release();
      expect(h.r(CONFIG + V.NET_CFG_MTU, 2)).toBe(1400);
    }
  });

  test("5.1.4.1 a packet of mtu bytes and its Ethernet header goes through unfragmented, both ways", () => {
    for (const mtu of [68, 1500, 9000]) {
      const h = host({ engine: { mtu, features: "wide" } });
      const wide = FEATURE_SETS.wide!.modern;
      h.modern({ features: [wide, wide], eventIdx: true });
      h.post(12 + 14 + mtu);
      h.port.send(frame(0, 14 + mtu, 4));
      h.send(frame(12, 14 + mtu, 5));
      h.turns(1500);
      expect(h.frames.map((x) => x.frame)).toEqual([frame(0, 14 + mtu, 5)]);
      expect([h.rx!.take() >= 0, h.rx!.usedLen]).toEqual([true, 12 + 14 + mtu]);
      expect(h.model.violations).toEqual([]);
    }
  });

  for (const patch of [true, false]) {
    test(`5.1.4.1 after F_MTU no packet above it reaches the host unless an offload cuts it (header ${patch ? "in place" : "apart"})`, () => {
      // the longest with a VLAN tag, one byte more, and the same with a type, with ECN beside it, and with ECN alone
      const cases: [bytes: number, gso: number, passes: boolean][] = [
        [1418, V.NET_HDR_GSO_NONE, true],
        [1419, V.NET_HDR_GSO_NONE, false],
        [1419, V.NET_HDR_GSO_TCPV4, true],
        [1419, V.NET_HDR_GSO_TCPV6 | V.NET_HDR_GSO_ECN, true],
        [1419, V.NET_HDR_GSO_ECN, false],
        [60, V.NET_HDR_GSO_NONE, true],
      ];
      for (const mtu of [1400, 0]) {
        for (const cuts of [[], [1], [12]]) {
          const rig = new RingRig({ hostQueue: 64, boardQueue: 64, mtu, patch });
          const want: Uint8Array[] = [];
          const posted = cases.map(() => rig.host.post([2000]));
          for (const [bytes, gso, passes] of cases) {
            const f = frame(12, bytes);
            f[V.NET_HDR_GSO_TYPE] = gso;
            rig.board.send(f, cuts.length === 0 ? [f.length] : [cuts[0]!, f.length - cuts[0]!]);
            if (mtu === 0 || passes) want.push(withBuffers(f, 1));
          }
          rig.settle();
          const { frames, dropped } = rig.dp.toHost;
          expect([mtu, cuts, frames, dropped]).toEqual([mtu, cuts, want.length, 6 - want.length]);
          for (const [i, f] of want.entries()) expect(rig.host.gather(posted[i]!, f.length)).toEqual(f);
          finish(rig);
        }
      }
    });
  }

  test("5.1.4.1 max_virtqueue_pairs is 1; speed and duplex are unknown", () => {
    const h = host();
    expect(h.r(CONFIG + V.NET_CFG_MAX_PAIRS, 2)).toBe(1);
    expect(h.r(CONFIG + V.NET_CFG_SPEED, 4)).toBe(0xffffffff);
    expect(h.r(CONFIG + V.NET_CFG_DUPLEX, 1)).toBe(0xff);
  });

  test("5.1.4 the MAC is the configured one in both personalities, unicast, never zero", () => {
    expect(macBytes("02:00:00:0a:0b:0c")).toEqual(Uint8Array.from([2, 0, 0, 0xa, 0xb, 0xc]));
    for (const bad of ["03:00:00:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00", "hello"])
      expect(() => macBytes(bad)).toThrow(/mac/);
    for (let i = 0; i < 50; i++) expect(macBytes(null)[0]! & 3).toBe(2);
    const m = host();
    expect(Array.from({ length: 6 }, (_, i) => m.r(CONFIG + i, 1))).toEqual([2, 0, 0, 0xa, 0xb, 0xc]);
    const l = host({ core: "legacy-intx" });
    expect(Array.from({ length: 6 }, (_, i) => l.r(V.LEGACY_CONFIG_NO_MSIX + i, 1))).toEqual([2, 0, 0, 0xa, 0xb, 0xc]);
  });

  test("5.1.4 link status is up only while frames can move", () => {
    const h = host();
    const up = (): number => h.model.barRead(0, CONFIG + V.NET_CFG_STATUS, 2);
    expect(up()).toBe(0);
    h.modern();
    expect([h.live, up()]).toEqual([true, 1]);
    h.send(frame(12, 100));
    h.tx!.desc[2] = 0;
    h.turns(500);
    expect([h.engine.service.link, up()]).toEqual(["stopped", 0]);
  });
});
