/** VIRTIO 1.2 2.1 to 2.5 and 6: device status, feature bits, config space, reserved bits. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { checkWord, FEATURE_SETS, featureWord } from "../../src/engine/function/features.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { CONFIG, ISR, type ManualHost, manualHosts } from "../support/manual-host.ts";
import { frame } from "../support/ring-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const host = manualHosts();

const clean = (h: ManualHost): void => expect(h.model.violations).toEqual([]);

describe("2.1.2 device status", () => {
  test("2.1.2 before DRIVER_OK no buffer is consumed and nothing is notified (modern)", () => {
    const h = host();
    h.modern({ hold: true });
    h.post(2000);
    h.send(frame(12, 100));
    h.port.send(frame(0, 100));
    h.turns(3000);
    expect(h.live).toBe(false);
    expect([h.messages, h.frames.length, h.rx!.pending(), h.tx!.pending()]).toEqual([[], 0, false, false]);
    expect(h.model.stats.bytesToHost + h.model.stats.bytesToBoard).toBe(0);
    h.ok();
    h.turns(3000);
    expect([h.live, h.frames.length, h.rx!.pending(), h.tx!.pending()]).toEqual([true, 1, true, true]);
    clean(h);
  });

  test("2.1.2 before DRIVER_OK no buffer is consumed and nothing is notified (legacy)", () => {
    const h = host({ core: "legacy-msix" });
    h.legacy({ hold: true });
    h.post(2000);
    h.send(frame(12, 100));
    h.turns(3000);
    expect(h.model.stats.bytesToHost + h.model.stats.bytesToBoard).toBe(0);
    h.w(V.LEGACY_STATUS, 1, 7);
    h.turns(3000);
    expect([h.live, h.frames.length, h.tx!.pending()]).toEqual([true, 1, true]);
    clean(h);
  });

  for (const [name, o, at, legacy] of [
    ["modern, MSI-X", { core: "modern-msix" }, V.COMMON_STATUS, false],
    ["modern, INTx", { core: "modern-intx" }, V.COMMON_STATUS, false],
    ["legacy, MSI-X", { core: "legacy-msix" }, V.LEGACY_STATUS, true],
    ["legacy, INTx", { core: "legacy-intx" }, V.LEGACY_STATUS, true],
  ] as const) {
    test(`2.1.2 an error sets DEVICE_NEEDS_RESET, then notifies of a configuration change (${name})`, () => {
      const h = host(o);
      const msix = name.endsWith("MSI-X");
      const set = msix ? {} : { vectors: null };
      if (legacy) h.legacy(set);
      else h.modern(set);
      expect(h.live).toBe(true);
      h.turns(500);
      h.messages.length = 0;
      h.line.length = 0;
      // a chain of length 0: an error no device can go on from
      h.send(frame(12, 100));
      h.tx!.desc[2] = 0;
      let statusAtNotification = -1;
      const seen = (): void => {
        if (statusAtNotification < 0 && (h.messages.length > 0 || h.line.includes(true)))
          statusAtNotification = h.model.barRead(0, at, 1);
      };
      for (let i = 0; i < 800; i++) {
        h.turns(1);
        seen();
      }
      expect(h.engine.service.link).toBe("stopped");
      expect(h.model.barRead(0, at, 1) & V.STATUS_NEEDS_RESET).toBe(V.STATUS_NEEDS_RESET);
      if (msix) expect(h.messages).toEqual([0]);
      else {
        expect(h.line).toEqual([true, false]);
        expect(h.model.barRead(0, legacy ? V.LEGACY_ISR : ISR, 1) & 2).toBe(2);
      }
      expect(statusAtNotification & V.STATUS_NEEDS_RESET).toBe(V.STATUS_NEEDS_RESET);
      // the link is shown down as well, and a reset begins a life that works
      h.w(at, 1, 0);
      h.turns(50);
      h.release();
      if (legacy) h.legacy(set);
      else h.modern(set);
      h.send(frame(12, 100));
      h.turns(2000);
      expect([h.live, h.frames.length]).toEqual([true, 1]);
      clean(h);
    });
  }

  test("2.1.2 a negotiation that cannot be used is answered with NEEDS_RESET and a notification", () => {
    const h = host();
    // VERSION_1 is not among what the driver accepts
    h.modern({ hold: true, features: [0, 0] });
    h.messages.length = 0;
    h.ok();
    h.turns(500);
    expect(h.engine.service.link).toBe("refused");
    expect(h.r(V.COMMON_STATUS, 1)).toBe(0xf | V.STATUS_NEEDS_RESET);
    expect(h.messages).toEqual([0]);
    clean(h);
  });

  test("2.1.2 a masked config vector: the notification is owed, and sent when the host unmasks", () => {
    const h = host();
    h.modern();
    h.turns(200);
    h.msixEntry(0, true);
    h.messages.length = 0;
    h.send(frame(12, 100));
    h.tx!.desc[2] = 0;
    h.turns(3000);
    expect(h.engine.service.link).toBe("stopped");
    expect([h.messages, h.pendingBit(0)]).toEqual([[], 1]);
    h.msixEntry(0, false);
    h.turns(3000);
    expect([h.messages, h.pendingBit(0)]).toEqual([[0], 0]);
    clean(h);
  });
});

describe("2.2.2 feature bits", () => {
  const needs: [string, number, number[]][] = [
    ["GUEST_TSO4", V.F_GUEST_TSO4, [V.F_GUEST_CSUM]],
    ["GUEST_TSO6", V.F_GUEST_TSO6, [V.F_GUEST_CSUM]],
    ["GUEST_UFO", V.F_GUEST_UFO, [V.F_GUEST_CSUM]],
    ["HOST_TSO4", V.F_HOST_TSO4, [V.F_CSUM]],
    ["HOST_TSO6", V.F_HOST_TSO6, [V.F_CSUM]],
    ["HOST_UFO", V.F_HOST_UFO, [V.F_CSUM]],
  ];
  test("2.2.2 5.1.3.1 nothing is offered without the feature it needs, in every named set", () => {
    for (const [name, set] of Object.entries(FEATURE_SETS)) {
      for (const personality of ["modern", "legacy"] as const) {
        const word = set[personality];
        const has = (b: number): boolean => ((word >>> b) & 1) === 1;
        for (const [bit, at, all] of needs)
          if (has(at)) expect([name, personality, bit, all.every(has)]).toEqual([name, personality, bit, true]);
        expect([name, personality, has(V.F_CTRL_VQ), has(V.F_MQ)]).toEqual([name, personality, false, false]);
      }
    }
  });

  for (const [name, bit] of needs) {
    test(`2.2.2 5.1.3.1 ${name} without what it needs is refused in the configuration`, () => {
      // CSUM is VERSION_1's place in a modern word and cannot be left out there
      const base = (1 << V.F_MAC) | (1 << bit);
      expect(() => checkWord(base, "legacy")).toThrow(/without bit/);
    });
  }

  test("2.2.2 5.1.3.1 ECN without a TSO of its direction, and RSC_EXT's shadow without HOST_TSO, are refused", () => {
    const csum = (1 << V.F_CSUM) | (1 << V.F_GUEST_CSUM);
    for (const personality of ["modern", "legacy"] as const) {
      expect(() => checkWord(csum | (1 << V.F_HOST_ECN), personality)).toThrow(/without bit 11 or 12/);
      expect(() => checkWord(csum | (1 << V.F_HOST_ECN) | (1 << V.F_HOST_TSO6), personality)).not.toThrow();
    }
    expect(() => checkWord(csum | (1 << V.F_GUEST_ECN), "legacy")).toThrow(/without bit 7 or 8/);
    expect(() => checkWord(csum | (1 << V.F_GUEST_ECN) | (1 << V.F_GUEST_TSO4), "legacy")).not.toThrow();
    // bit 29 is EVENT_IDX alone where there are no features above 31
    expect(() => checkWord(csum | (1 << V.F_EVENT_IDX), "modern")).toThrow(/without bit 11 or 12/);
    expect(() => checkWord(csum | (1 << V.F_EVENT_IDX), "legacy")).not.toThrow();
  });

  test("2.2.2 5.1.3.1 bits that need a control queue are refused in the configuration", () => {
    for (const bit of [V.F_CTRL_VQ, 18, 19, 21, V.F_MQ, 23]) {
      const word = `0x${((1 << bit) | 0x21).toString(16)}`;
      for (const personality of ["modern", "legacy"] as const) expect(() => featureWord(word, personality)).toThrow();
    }
  });

  test("2.2.2 any subset that the driver accepts is served (legacy: the word is exact)", () => {
    for (const pick of [0, 0x21, 0x8021, 0x18021, 0x18821]) {
      const h = host({ core: "legacy-msix" });
      h.legacy({ features: [pick] });
      const hdr = (pick >>> V.F_MRG_RXBUF) & 1 ? 12 : 10;
      expect([pick, h.live, h.engine.fn.hdrLen, h.engine.fn.featuresLo]).toEqual([pick, true, hdr, pick]);
      h.post(2000);
      h.send(frame(hdr, 100));
      h.port.send(frame(0, 90));
      h.turns(2000);
      expect([h.frames.length, h.rx!.take() >= 0, h.rx!.usedLen]).toEqual([1, true, hdr + 90]);
      clean(h);
    }
  });

  test("2.2.2 instead of a refusal of FEATURES_OK: bits that were not offered are refused at DRIVER_OK", () => {
    for (const [name, features] of [
      ["no VERSION_1", [0x20, 0]],
      ["a bit that was not offered", [0x21, 0x8000_0001]],
    ] as const) {
      const h = host();
      h.modern({ features });
      // the register is plain memory: FEATURES_OK reads back as written
      expect(h.r(V.COMMON_STATUS, 1) & V.STATUS_FEATURES_OK).toBe(V.STATUS_FEATURES_OK);
      expect([name, h.engine.service.link]).toEqual([name, "refused"]);
      h.post(2000);
      h.send(frame(12, 100));
      h.turns(500);
      expect(h.tx!.pending()).toBe(false);
    }
  });

  test("2.2.2 the same set is accepted again after a reset", () => {
    const h = host();
    for (let i = 0; i < 5; i++) {
      h.modern();
      expect(h.live).toBe(true);
      h.w(V.COMMON_STATUS, 1, 0);
      h.turns(50);
      h.release();
    }
    expect(h.engine.service.refusals).toBe(0);
    clean(h);
  });

  test("2.2.3 a driver that uses the legacy interface is taken as one that acknowledged no bit above 31", () => {
    const h = host({ core: "legacy-msix" });
    h.legacy();
    expect(h.live).toBe(true);
    expect(h.engine.fn.featuresHi).toBe(0);
    expect(h.r(V.LEGACY_HOST_FEATURES, 4)).toBe(FEATURE_SETS.default!.legacy >>> 0);
  });

  test("2.2.3 3.1.2 legacy: config space may be written and read before any feature bit", () => {
    const h = host({ core: "legacy-intx" });
    h.w(V.LEGACY_STATUS, 1, 0);
    expect(h.r(V.LEGACY_CONFIG_NO_MSIX, 1)).toBe(2);
    h.w(V.LEGACY_CONFIG_NO_MSIX + 5, 1, 0x77);
    expect(h.r(V.LEGACY_CONFIG_NO_MSIX + 5, 1)).toBe(0x77);
    h.legacy({ vectors: null });
    expect(h.live).toBe(true);
  });
});

describe("2.5.2 device configuration space", () => {
  test("2.5.2 every field of an offered feature can be read before FEATURES_OK", () => {
    const h = host({ engine: { features: "wide", mtu: 1400 } });
    const mac = Array.from({ length: 6 }, (_, i) => h.r(CONFIG + i, 1));
    expect(mac).toEqual([2, 0, 0, 0xa, 0xb, 0xc]);
    expect(h.r(CONFIG + V.NET_CFG_MTU, 2)).toBe(1400);
    expect(h.r(CONFIG + V.NET_CFG_STATUS, 2)).toBe(0);
    expect(h.r(CONFIG + V.NET_CFG_MAX_PAIRS, 2)).toBe(1);
    expect(h.r(CONFIG + V.NET_CFG_SPEED, 4)).toBe(0xffffffff);
    expect(h.r(CONFIG + V.NET_CFG_DUPLEX, 1)).toBe(0xff);
  });

  test("2.5 4.1.4.3.1 the generation changes with every change of the fields, after them", () => {
    const h = host();
    h.modern();
    let last = h.r(V.COMMON_CFGGENERATION, 1);
    for (let i = 0; i < 300; i++) {
      const up = i % 2 === 1;
      h.engine.fn.setLink(up);
      const now = h.model.barRead(0, V.COMMON_CFGGENERATION, 1);
      expect(now).not.toBe(last);
      expect(h.model.barRead(0, CONFIG + V.NET_CFG_STATUS, 2)).toBe(up ? 1 : 0);
      last = now;
      h.engine.fn.setLink(up);
      expect(h.model.barRead(0, V.COMMON_CFGGENERATION, 1)).toBe(now);
    }
  });
});

describe("6.2 reserved feature bits", () => {
  test("6.2 VERSION_1 is offered by every modern set, ACCESS_PLATFORM and ORDER_PLATFORM by the default one", () => {
    // one constant word for every select: bit b is offered as b, b + 32, ...
    for (const set of Object.values(FEATURE_SETS)) expect(set.modern & 1).toBe(1);
    const word = FEATURE_SETS.default!.modern;
    expect([(word >>> (V.F_ACCESS_PLATFORM - 32)) & 1, (word >>> (V.F_ORDER_PLATFORM - 32)) & 1]).toEqual([1, 1]);
  });

  test("6.3 ANY_LAYOUT is offered by every legacy set; bit 30 is not, nor NOTIFY_ON_EMPTY", () => {
    for (const set of Object.values(FEATURE_SETS)) {
      expect((set.legacy >>> V.F_ANY_LAYOUT) & 1).toBe(1);
      for (const bit of [24, 30]) expect((set.legacy >>> bit) & 1).toBe(0);
    }
  });

  test("6.2 never offered: packed rings, SR-IOV's shadow aside, no bit that a stock driver would stumble over", () => {
    for (const set of Object.values(FEATURE_SETS)) {
      for (const bit of [V.F_RING_PACKED - 32, 9, V.F_INDIRECT_DESC, 25, 30]) expect((set.modern >>> bit) & 1).toBe(0);
    }
  });
});
