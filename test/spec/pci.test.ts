/** VIRTIO 1.2 4.1: PCI discovery, capabilities, common configuration, notify. */
import { describe, expect, test } from "bun:test";
import { FEATURE_SETS } from "../../src/engine/function/features.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { type ManualHost, manualHosts, NOTIFY } from "../support/manual-host.ts";
import { frame } from "../support/ring-rig.ts";

const host = manualHosts();

const clean = (h: ManualHost): void => expect(h.model.violations).toEqual([]);
const cfg = (h: ManualHost, off: number, size: number): number => h.model.cfgRead(off, size) >>> 0;

/** One frame for the host and one from it; the receive buffer is posted. */
function traffic(h: ManualHost): void {
  h.post(2000);
  h.port.send(frame(0, 100));
  h.send(frame(12, 100));
  h.turns(1500);
}

describe("4.1.2.1 PCI device discovery", () => {
  test("4.1.2.1 modern: vendor 0x1af4, device 0x1040 + 1, revision 1 or higher, subsystem id 0x40 or higher", () => {
    const h = host();
    expect([cfg(h, 0, 2), cfg(h, 2, 2)]).toEqual([0x1af4, 0x1041]);
    expect(cfg(h, 8, 1)).toBeGreaterThanOrEqual(1);
    expect(cfg(h, 0x2e, 2)).toBeGreaterThanOrEqual(0x40);
    expect(cfg(h, 8, 4) >>> 8).toBe(0x020000);
  });

  test("4.1.2.3 legacy: transitional id 0x1000, revision 0, subsystem id is the device id 1", () => {
    for (const core of ["legacy-msix", "legacy-intx"] as const) {
      const h = host({ core });
      expect([cfg(h, 0, 2), cfg(h, 2, 2), cfg(h, 8, 1), cfg(h, 0x2e, 2)]).toEqual([0x1af4, 0x1000, 0, 1]);
    }
  });
});

describe("4.1.3.2 and 4.1.4 device layout and capabilities", () => {
  test("4.1.3.2 both halves of a 64-bit field are accessed on their own, in any order", () => {
    const h = host();
    for (const off of [V.COMMON_Q_DESCLO, V.COMMON_Q_AVAILLO, V.COMMON_Q_USEDLO]) {
      h.model.barWrite(0, off + 4, 4, 0x12);
      h.model.barWrite(0, off, 4, 0x3456_7000);
      expect([h.model.barRead(0, off, 4), h.model.barRead(0, off + 4, 4)]).toEqual([0x3456_7000, 0x12]);
    }
  });

  test("4.1.4.2 cap_len covers all of the structure, the list stays in config space and ends", () => {
    const h = host();
    const caps = h.caps();
    expect(caps.map((c) => [c.type, c.len])).toEqual([
      [V.CAP_COMMON_CFG, 16],
      [V.CAP_ISR_CFG, 16],
      [V.CAP_DEVICE_CFG, 16],
      [V.CAP_NOTIFY_CFG, 20],
    ]);
    for (const c of caps) expect(c.at + c.len).toBeLessThanOrEqual(256);
    const sorted = [...caps].sort((a, b) => a.at - b.at);
    for (let i = 1; i < sorted.length; i++)
      expect(sorted[i]!.at).toBeGreaterThanOrEqual(sorted[i - 1]!.at + sorted[i - 1]!.len);
  });

  test("4.1.4.3.1 4.1.4.4.1 4.1.4.5.1 4.1.4.6.1 one of each, inside BAR0, aligned, not overlapping", () => {
    for (const features of ["default", "wide"]) {
      const h = host({ engine: { features } });
      const caps = h.caps();
      const barSize = h.model.barSize(0);
      for (const c of caps) {
        expect(c.bar).toBe(0);
        expect(c.offset + c.length).toBeLessThanOrEqual(barSize);
        expect(c.offset % 4).toBe(0);
      }
      const by = [...caps].sort((a, b) => a.offset - b.offset);
      for (let i = 1; i < by.length; i++)
        expect(by[i]!.offset).toBeGreaterThanOrEqual(by[i - 1]!.offset + by[i - 1]!.length);
      const common = caps.find((c) => c.type === V.CAP_COMMON_CFG)!;
      // the fields of RING_RESET are inside
      expect(common.length).toBeGreaterThanOrEqual(V.COMMON_Q_RESET + 2);
      expect(caps.find((c) => c.type === V.CAP_DEVICE_CFG)!.length).toBeGreaterThanOrEqual(0x11);
    }
  });

  test("4.1.4.4.1 the notify multiplier is 0 or a power of two and of 4, the length covers every queue with 4 bytes", () => {
    const h = host({ engine: { features: "wide" } });
    const c = h.caps().find((x) => x.type === V.CAP_NOTIFY_CFG)!;
    const m = c.multiplier;
    expect(m === 0 || ((m & (m - 1)) === 0 && m % 4 === 0)).toBe(true);
    for (let q = 0; q < 2; q++) {
      h.w(V.COMMON_Q_SELECT, 2, q);
      expect(c.length).toBeGreaterThanOrEqual(h.r(V.COMMON_Q_NOFF, 2) * m + 4);
    }
  });

  test("4.1.4.9.1 no PCI_CFG capability: its data register would have to trap; the BAR is the only way in", () => {
    expect(
      host()
        .caps()
        .some((c) => c.type === V.CAP_PCI_CFG),
    ).toBe(false);
  });
});

describe("4.1.4.3.1 common configuration", () => {
  test("4.1.4.3.1 instead of a window by select: every device_feature_select shows the same constant word", () => {
    const h = host();
    for (const select of [0, 1, 2, 3, 7, 0xffff_ffff]) {
      h.w(V.COMMON_DFSELECT, 4, select);
      expect(h.r(V.COMMON_DF, 4)).toBe(FEATURE_SETS.default!.modern >>> 0);
    }
    // so that a driver which asks for 32..63 finds VERSION_1 (6.2)
    expect(FEATURE_SETS.default!.modern & 1).toBe(1);
  });

  test("4.1.4.3.1 driver_feature reads back what was written", () => {
    const h = host();
    for (const value of [0, 0x21, 0xffff_ffff]) {
      h.w(V.COMMON_GFSELECT, 4, 1);
      h.w(V.COMMON_GF, 4, value);
      expect(h.r(V.COMMON_GF, 4)).toBe(value);
    }
  });

  test("4.1.4.3.1 queue_enable and queue_reset read 0 after a reset, whatever was there", () => {
    const h = host({ engine: { features: "wide" } });
    for (let i = 0; i < 3; i++) {
      h.modern({ features: [FEATURE_SETS.wide!.modern, FEATURE_SETS.wide!.modern, 0, 0], eventIdx: true });
      // written and reset before anybody has looked
      for (const off of [V.COMMON_Q_ENABLE, V.COMMON_Q_RESET]) h.model.barWrite(0, off, 2, 1);
      h.model.barWrite(0, V.COMMON_STATUS, 1, 0);
      h.turns(20);
      for (let q = 0; q < 2; q++) {
        h.w(V.COMMON_Q_SELECT, 2, q);
        expect([h.r(V.COMMON_Q_ENABLE, 2), h.r(V.COMMON_Q_RESET, 2)]).toEqual([0, 0]);
      }
      h.release();
    }
    expect(h.engine.service.refusals).toBe(0);
  });

  test("4.1.4.3.1 queue_size is a power of two, the same for both queues, and the maximum again after a reset", () => {
    for (const queueSize of [64, 256, 1024]) {
      const h = host({ engine: { queueSize } });
      const sizes = (): number[] =>
        [0, 1].map((q) => {
          h.w(V.COMMON_Q_SELECT, 2, q);
          return h.r(V.COMMON_Q_SIZE, 2);
        });
      expect(sizes()).toEqual([queueSize, queueSize]);
      h.modern({ size: 32 });
      expect([h.live, h.engine.fn.queues[0]!.size, h.engine.fn.queues[1]!.size]).toEqual([true, 32, 32]);
      h.w(V.COMMON_STATUS, 1, 0);
      h.turns(20);
      h.release();
      expect(sizes()).toEqual([queueSize, queueSize]);
    }
  });

  test("4.1.4.3.1 instead of queue_size 0 for a queue that is not there: num_queues says 2", () => {
    const h = host({ core: "modern-intx" });
    expect(h.r(V.COMMON_NUMQ, 2)).toBe(2);
    h.w(V.COMMON_Q_SELECT, 2, 2);
    expect(h.r(V.COMMON_Q_SIZE, 2)).toBe(256);
  });

  test("4.1.4.3.1 instead of a constant num_queues: 1 until the first queue is captured, where MSI-X may be used", () => {
    const h = host();
    const reset = (): number => {
      h.w(V.COMMON_STATUS, 1, 0);
      h.turns(20);
      h.release();
      return h.r(V.COMMON_NUMQ, 2);
    };
    expect(h.r(V.COMMON_NUMQ, 2)).toBe(1);
    // a driver that does not use it is the last that is kept waiting
    h.modern({ vectors: null });
    expect([h.live, h.r(V.COMMON_NUMQ, 2), reset()]).toEqual([true, 2, 2]);
    h.modern();
    expect([h.live, h.r(V.COMMON_NUMQ, 2), reset()]).toEqual([true, 2, 1]);
  });

  test("4.1.4.3.1 a queue size the driver wrote that is no power of two is refused", () => {
    const h = host();
    h.modern({ hold: true });
    h.w(V.COMMON_STATUS, 1, 0);
    h.turns(20);
    h.release();
    h.modern({ hold: true });
    // set up queue 0 once more with a size no ring has
    h.w(V.COMMON_STATUS, 1, 0);
    h.turns(20);
    h.w(V.COMMON_STATUS, 1, 3);
    h.w(V.COMMON_STATUS, 1, 0xb);
    for (let q = 0; q < 2; q++) {
      h.w(V.COMMON_Q_SELECT, 2, q);
      h.w(V.COMMON_Q_SIZE, 2, 100);
      for (const [off, at] of [
        [V.COMMON_Q_DESCLO, 0x1001_0000],
        [V.COMMON_Q_AVAILLO, 0x1001_0640],
        [V.COMMON_Q_USEDLO, 0x1001_0740],
      ] as const) {
        h.w(off, 4, at + q * 0x10000);
        h.w(off + 4, 4, 0);
      }
    }
    h.w(V.COMMON_STATUS, 1, 0xf);
    h.turns(50);
    expect([h.engine.service.link, /power of two/.test(h.engine.service.diagnosis)]).toEqual(["refused", true]);
  });
});

describe("4.1.5.2 available buffer notifications", () => {
  for (const [name, features, bytes] of [
    ["16-bit queue index", "default", 2],
    ["32-bit with NOTIFICATION_DATA", "wide", 4],
  ] as const) {
    test(`4.1.5.2 ${name}: a notification at the address of the capability is taken as a hint, spurious ones are harmless`, () => {
      const h = host({ engine: { features } });
      const words = features === "wide" ? [FEATURE_SETS.wide!.modern, FEATURE_SETS.wide!.modern] : null;
      h.modern({ features: words, eventIdx: features === "wide" });
      // Nothing new, an index of before, and the other queue's; an index that is ahead of the ring is no notification.
      const spurious = (idx: number): void => {
        for (let i = 0; i < 20; i++) {
          h.w(NOTIFY, bytes, i & 1);
          h.w(NOTIFY, bytes, bytes === 4 ? ((((idx - (i % 3)) & 0xffff) << 16) | 1) >>> 0 : 1);
        }
      };
      spurious(0);
      for (let n = 1; n < 5; n++) {
        traffic(h);
        expect([h.live, h.frames.length, h.rx!.take() >= 0, h.tx!.take() >= 0]).toEqual([true, n, true, true]);
        spurious(n);
      }
      clean(h);
    });
  }

  test("2.7.10.2 notifications for queues that do not exist and before DRIVER_OK are harmless", () => {
    const h = host();
    for (const v of [2, 77, 0xffff]) h.w(NOTIFY, 2, v);
    h.modern();
    for (const v of [2, 77, 0xffff]) h.w(NOTIFY, 2, v);
    traffic(h);
    expect([h.live, h.frames.length]).toEqual([true, 1]);
    clean(h);
  });
});
