/** VIRTIO 1.2 4.1.4.10 and 2.7.2: the legacy interface. */
import { describe, expect, test } from "bun:test";
import { FEATURE_SETS } from "../../src/engine/function/features.ts";
import { MSIX_CTL_ENABLE } from "../../src/hw/pci.layout.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { type ManualHost, manualHosts } from "../support/manual-host.ts";
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

describe("4.1.4.10 legacy interface", () => {
  test("4.1.4.10 register block at the start of BAR0: features, queue size, select, status, ISR", () => {
    const h = host({ core: "legacy-msix" });
    expect(h.r(V.LEGACY_HOST_FEATURES, 4)).toBe(FEATURE_SETS.default!.legacy >>> 0);
    expect(h.r(V.LEGACY_QUEUE_NUM, 2)).toBe(256);
    expect(h.r(V.LEGACY_QUEUE_PFN, 4)).toBe(0);
    expect(h.r(V.LEGACY_STATUS, 1)).toBe(0);
    expect(h.r(V.LEGACY_ISR, 1)).toBe(1);
  });

  test("4.1.4.10 device config follows the header: at 20, at 24 while MSI-X is enabled, and back", () => {
    const h = host({ core: "legacy-msix" });
    const mac = (at: number): number[] => Array.from({ length: 6 }, (_, i) => h.r(at + i, 1));
    const want = [2, 0, 0, 0xa, 0xb, 0xc];
    expect(mac(20)).toEqual(want);
    h.msixControl(MSIX_CTL_ENABLE);
    h.turns(20);
    expect(mac(24)).toEqual(want);
    h.msixControl(0);
    h.turns(20);
    expect(mac(20)).toEqual(want);
  });

  test("4.1.4.10 device config may be read with any width", () => {
    const h = host({ core: "legacy-intx" });
    expect(h.r(20, 4)).toBe(0x0a000002);
    expect(h.r(24, 2)).toBe(0x0c0b);
    expect(h.r(22, 2)).toBe(0x0a00);
  });

  test("2.7.2 4.1.5.1.3.1 the ring is where the page number says, used ring on the next page", () => {
    const h = host({ core: "legacy-msix" });
    h.legacy();
    const [rx, tx] = h.engine.fn.queues;
    const at = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);
    for (const [q, r] of [
      [rx!, h.rx!],
      [tx!, h.tx!],
    ] as const)
      expect([at(q.descLo, q.descHi), at(q.availLo, q.availHi), at(q.usedLo, q.usedHi)]).toEqual([
        r.descBus,
        r.availBus,
        r.usedBus,
      ]);
    traffic(h);
    expect(h.frames.length).toBe(1);
    clean(h);
  });

  test("4.1.5.1.1.1 instead of an I/O BAR: BAR0 is memory (drivers map either kind), no vendor capability", () => {
    const h = host({ core: "legacy-msix" });
    expect(cfg(h, 0x10, 4) & 1).toBe(0);
    expect(h.caps()).toEqual([]);
  });

  test("5.1.4.3 instead of a MAC that the driver may set: a write stays until the next change, the board ignores it", () => {
    const h = host({ core: "legacy-msix" });
    h.w(20, 1, 0x66);
    expect(h.r(20, 1)).toBe(0x66);
    h.legacy();
    traffic(h);
    expect([h.live, h.frames.length]).toEqual([true, 1]);
  });
});
