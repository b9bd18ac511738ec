/** VIRTIO 1.2 4.1.4.5, 4.1.5: ISR, MSI-X vectors, interrupts for queues and for the configuration. */
import { describe, expect, test } from "bun:test";
import { MSIX_CTL_ENABLE, MSIX_CTL_FUNCTION_MASK } from "../../src/hw/pci.layout.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { CONFIG, ISR, type ManualHost, manualHosts } from "../support/manual-host.ts";
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

describe("4.1.4.5.1 ISR status", () => {
  for (const [name, core, legacy] of [
    ["modern", "modern-intx", false],
    ["legacy", "legacy-intx", true],
  ] as const) {
    const isrAt = legacy ? V.LEGACY_ISR : ISR;
    const up = (h: ManualHost): void => (legacy ? h.legacy({ vectors: null }) : h.modern({ vectors: null }));

    test(`4.1.4.5.1 the queue bit is set before a queue interrupt arrives (${name})`, () => {
      const h = host({ core });
      up(h);
      h.turns(1000);
      let bit = -1;
      h.line.length = 0;
      h.post(2000);
      h.port.send(frame(0, 100));
      for (let i = 0; i < 600 && bit < 0; i++) {
        h.turns(1);
        if (h.line.includes(true)) bit = h.model.barRead(0, isrAt, 1) & 1;
      }
      expect(bit).toBe(1);
      h.turns(400);
      expect(h.line.at(-1)).toBe(false);
      clean(h);
    });

    test(`4.1.4.5.1 the config bit is set before a config interrupt arrives (${name})`, () => {
      const h = host({ core });
      up(h);
      h.turns(1000);
      h.line.length = 0;
      let bits = -1;
      if (h.engine.fn.setLink(false) === 1) h.engine.dp.configInterrupt(h.engine.fn.configVector);
      for (let i = 0; i < 20 && bits < 0; i++) {
        h.turns(1);
        if (h.line.includes(true)) bits = h.model.barRead(0, isrAt, 1);
      }
      expect(bits & 2).toBe(2);
    });

    test(`4.1.4.5.1 instead of read-to-clear: the queue bit rests at 1, the config bit goes after a while, INTx is a pulse (${name})`, () => {
      const h = host({ core });
      up(h);
      for (let i = 0; i < 3; i++) expect(h.r(isrAt, 1) & 1).toBe(1);
      h.engine.fn.setLink(false);
      expect(h.r(isrAt, 1)).toBe(3);
      h.turns(25_000);
      expect(h.r(isrAt, 1)).toBe(1);
      h.line.length = 0;
      h.post(2000);
      h.port.send(frame(0, 100));
      h.turns(800);
      expect(h.line).toEqual([true, false]);
      clean(h);
    });
  }

  test("4.1.4.5.1 the config bit is set with MSI-X too", () => {
    const h = host();
    h.modern();
    h.turns(300);
    expect(h.engine.fn.setLink(false)).toBe(1);
    expect(h.r(ISR, 1) & 2).toBe(2);
  });

  test("4.1.4.5.1 Interrupt Disable in the command register keeps INTx down", () => {
    const h = host({ core: "modern-intx" });
    h.modern({ vectors: null });
    h.turns(1000);
    h.line.length = 0;
    h.model.cfgWrite(4, 2, 0x406);
    traffic(h);
    expect(h.line).toEqual([]);
    expect(h.rx!.pending()).toBe(true);
    clean(h);
  });
});

describe("4.1.5.1.2 MSI-X vector configuration", () => {
  test("4.1.5.1.2.1 the table has at least 2 vectors, reported in Table Size", () => {
    const h = host();
    const n = (cfg(h, h.msixCap + 2, 2) & 0x7ff) + 1;
    expect(n).toBe(h.engine.fn.vectors);
    expect(n).toBeGreaterThanOrEqual(2);
  });

  const maps: { config: number; rx: number; tx: number }[] = [
    { config: 0, rx: 1, tx: 2 },
    { config: 0, rx: 1, tx: 1 },
    { config: 3, rx: 2, tx: 1 },
    { config: 1, rx: 1, tx: 1 },
    { config: 0, rx: 0, tx: 3 },
  ];
  for (const v of maps) {
    for (const core of ["modern-msix", "legacy-msix"] as const) {
      test(`4.1.5.1.2.1 any event to any vector: config ${v.config}, receive ${v.rx}, transmit ${v.tx} (${core})`, () => {
        const h = host({ core });
        if (core === "legacy-msix") h.legacy({ vectors: v });
        else h.modern({ vectors: v });
        // legacy: the vector of queue 0 is only sure with Linux's two policies, else the life is refused, not guessed
        if (!h.live) {
          expect(core).toBe("legacy-msix");
          expect(h.engine.service.diagnosis).toMatch(/vector/);
          return;
        }
        h.turns(300);
        h.messages.length = 0;
        h.post(2000);
        h.port.send(frame(0, 100));
        h.turns(500);
        expect(h.messages).toEqual([v.rx]);
        h.messages.length = 0;
        h.send(frame(12, 100));
        h.turns(500);
        expect(h.messages).toEqual([v.tx]);
        h.messages.length = 0;
        expect(h.engine.fn.setLink(false)).toBe(1);
        h.engine.dp.configInterrupt(h.engine.fn.configVector);
        h.turns(100);
        expect(h.messages).toEqual([v.config]);
        clean(h);
      });
    }
  }

  test("4.1.5.1.2.1 the vector registers read back what was mapped, NO_VECTOR after it was unmapped", () => {
    const h = host();
    for (const v of [0, 3, V.NO_VECTOR]) {
      h.w(V.COMMON_MSIX, 2, v);
      expect(h.r(V.COMMON_MSIX, 2)).toBe(v);
      h.w(V.COMMON_Q_MSIX, 2, v);
      expect(h.r(V.COMMON_Q_MSIX, 2)).toBe(v);
    }
  });

  test("4.1.5.1.2.1 instead of the config vector as mapped: 80 in its upper byte from the first queue to DRIVER_OK", () => {
    const h = host();
    for (const config of [0, 3, V.NO_VECTOR]) {
      h.modern({ hold: true, vectors: { config, rx: 1, tx: 2 } });
      expect(h.r(V.COMMON_MSIX, 2)).toBe(0x8000 | (config & 0xff));
      h.ok();
      expect([h.live, h.r(V.COMMON_MSIX, 2), h.engine.fn.configVector]).toEqual([true, config, config]);
    }
  });

  test("4.1.5.1.2.1 all events are unmapped after a reset", () => {
    const h = host();
    expect([h.r(V.COMMON_MSIX, 2), h.r(V.COMMON_Q_MSIX, 2)]).toEqual([V.NO_VECTOR, V.NO_VECTOR]);
    h.modern();
    h.w(V.COMMON_STATUS, 1, 0);
    h.turns(20);
    h.release();
    expect([h.r(V.COMMON_MSIX, 2), h.r(V.COMMON_Q_MSIX, 2)]).toEqual([V.NO_VECTOR, V.NO_VECTOR]);
    // a driver that polls and maps nothing gets nothing
    h.modern({ vectors: { config: V.NO_VECTOR, rx: V.NO_VECTOR, tx: V.NO_VECTOR } });
    h.messages.length = 0;
    traffic(h);
    expect([h.live, h.frames.length, h.messages]).toEqual([true, 1, []]);
  });

  test("4.1.5.1.2.1 instead of NO_VECTOR for a vector that is not there: the life is refused at DRIVER_OK", () => {
    for (const v of [
      { config: 0, rx: 1, tx: 9 },
      { config: 0, rx: 9, tx: 1 },
    ]) {
      const h = host();
      h.modern({ vectors: v });
      expect([h.engine.service.link, /vector 9, the table has 4/.test(h.engine.service.diagnosis)]).toEqual([
        "refused",
        true,
      ]);
    }
  });

  test("4.1.5.3.1 a queue without a vector: no interrupt for it, the other one has its own", () => {
    const h = host();
    h.modern({ vectors: { config: 0, rx: V.NO_VECTOR, tx: 2 } });
    h.turns(300);
    h.messages.length = 0;
    h.line.length = 0;
    traffic(h);
    expect([h.live, h.frames.length, h.rx!.pending()]).toEqual([true, 1, true]);
    expect([[...new Set(h.messages)], h.line]).toEqual([[2], []]);
    clean(h);
  });

  test("4.1.5.3.1 instead of taking a vector away from the transmit queue alone: the life is refused", () => {
    // one cell serves both queues; a vector that goes away is how a torn-down attempt looks
    const h = host();
    h.modern({ vectors: { config: 0, rx: 1, tx: V.NO_VECTOR } });
    h.messages.length = 0;
    expect(h.engine.service.link).toBe("refused");
    h.turns(500);
    expect(h.messages.filter((v) => v !== 0)).toEqual([]);
  });

  test("4.1.5.4.1 no config vector: no interrupt for changes of the configuration", () => {
    const h = host();
    h.modern({ vectors: { config: V.NO_VECTOR, rx: 1, tx: 2 } });
    h.turns(300);
    h.messages.length = 0;
    expect(h.engine.fn.setLink(false)).toBe(0);
    h.turns(500);
    expect([h.messages, h.line]).toEqual([[], []]);
    expect(h.r(CONFIG + V.NET_CFG_STATUS, 2)).toBe(0);
  });

  test("4.1.5.3 with MSI-X enabled there is no INTx, with MSI-X off there is no message", () => {
    const a = host();
    a.modern();
    traffic(a);
    expect([a.messages.length > 0, a.line]).toEqual([true, []]);
    const b = host();
    b.modern({ vectors: null });
    traffic(b);
    expect([b.messages, b.line.length > 0]).toEqual([[], true]);
  });

  test("4.1.5.1.2 a masked entry holds its message back with the pending bit, one message comes on unmask", () => {
    const h = host();
    h.modern();
    h.turns(300);
    h.messages.length = 0;
    h.msixEntry(1, true);
    for (let i = 0; i < 5; i++) {
      h.post(2000);
      h.port.send(frame(0, 100));
      h.turns(200);
    }
    expect([h.messages, h.pendingBit(1)]).toEqual([[], 1]);
    h.msixEntry(1, false);
    h.turns(100);
    expect([h.messages, h.pendingBit(1)]).toEqual([[1], 0]);
    clean(h);
  });

  test("4.1.5.1.2 the function mask does the same for all", () => {
    const h = host();
    h.modern();
    h.turns(300);
    h.messages.length = 0;
    h.msixControl(MSIX_CTL_ENABLE | MSIX_CTL_FUNCTION_MASK);
    traffic(h);
    expect([h.messages, h.pendingBit(1), h.pendingBit(2)]).toEqual([[], 1, 1]);
    h.msixControl(MSIX_CTL_ENABLE);
    h.turns(100);
    expect([...h.messages].sort()).toEqual([1, 2]);
    clean(h);
  });
});

describe("4.1.5.4 configuration change", () => {
  for (const core of ["modern-msix", "modern-intx", "legacy-msix", "legacy-intx"] as const) {
    test(`4.1.5.4 a link change of the board is a config interrupt, after the status field changed (${core})`, () => {
      const h = host({ core });
      const legacy = core.startsWith("legacy");
      const vectors = core.endsWith("msix") ? undefined : null;
      const set = vectors === null ? { vectors } : {};
      if (legacy) h.legacy(set);
      else h.modern(set);
      h.turns(1000);
      h.messages.length = 0;
      h.line.length = 0;
      const statusAt = legacy
        ? (vectors === null ? V.LEGACY_CONFIG_NO_MSIX : V.LEGACY_CONFIG_MSIX) + V.NET_CFG_STATUS
        : CONFIG + V.NET_CFG_STATUS;
      expect(h.r(statusAt, 2)).toBe(1);
      h.engine.service.shutdown(50);
      expect(h.r(statusAt, 2)).toBe(0);
      if (vectors === null) expect(h.line[0]).toBe(true);
      else expect(h.messages).toEqual([0]);
    });
  }
});
