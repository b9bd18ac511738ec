/** A silent dead link is the worst outcome: each known cause is named within seconds, and repaired where that is possible. */
import { describe, expect, test } from "bun:test";
import { FEATURE_SETS } from "../../src/engine/function/features.ts";
import type { HostFunction } from "../../src/engine/function/function.ts";
import { judgeHeader } from "../../src/engine/header-check.ts";
import { Fault } from "../../src/hw/fault.ts";
import { fill, ld16, st16 } from "../../src/hw/mem.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { EngineRig } from "../support/engine-rig.ts";
import { ManualHost } from "../support/manual-host.ts";

/** The function infers a header of `bytes` wrongly in its next life. */
function misjudge(fn: HostFunction, bytes: number): void {
  const poll = fn.poll.bind(fn);
  let done = false;
  fn.poll = () => {
    const event = poll();
    if (fn.live && !done) {
      done = true;
      fn.setHdrLen(bytes);
    }
    return event;
  };
}

/** In its next life the function believes that queue `k` is at `bus`. */
function misplace(fn: HostFunction, k: number, bus: number): void {
  const poll = fn.poll.bind(fn);
  let done = false;
  fn.poll = () => {
    const event = poll();
    if (fn.live && !done) {
      done = true;
      const q = fn.queues[k]!;
      q.descLo = bus;
      q.availLo = bus + 16 * q.size;
      q.usedLo = (q.availLo + 6 + 2 * q.size + 63) & ~63;
    }
    return event;
  };
}

describe("a queue that was missed", () => {
  /** all of the host's set-up falls between two polls */
  const FAST = { readDelayTurns: 0, writeDelayTurns: 0, softwareDelayTurns: 0, sleepTurns: 1, accessesPerTurn: 1000 };
  for (const core of ["modern-msix", "modern-intx", "legacy-msix", "legacy-intx"] as const) {
    test(`${core}: a host that is too fast is refused or fails, said at once, served when it is slower`, () => {
      const rig = new EngineRig({ core, host: { pace: FAST } });
      const { service } = rig.engine;
      rig.until("said", () => service.diagnosis !== "", 5000);
      expect(service.link).toBe("refused");
      expect(service.diagnosis).toMatch(
        core === "modern-intx"
          ? /queue 0 \(receive\) was never seen being set up; rebind the driver on the host/
          : /gave up its set-up \(status FAILED\).*give the service loop a core of its own/,
      );
      expect(rig.log.some((l) => l.includes(service.diagnosis))).toBe(true);
      expect(rig.endpoint.violationCount).toBe(0);
      Object.assign(rig.host.pace, {
        readDelayTurns: 3,
        writeDelayTurns: 2,
        softwareDelayTurns: 5,
        accessesPerTurn: 1,
      });
      rig.until("settled", () => !rig.host.busy);
      rig.host.rebind();
      rig.up();
      rig.exchange(20);
      expect(service.diagnosis).toBe("");
      rig.close();
    });
  }

  test("the receive queue's place is another's that was used: refused before anything is written there", () => {
    const rig = new EngineRig({ core: "modern-msix" });
    const block = rig.host.hostMemory.allocRing(16384)!;
    const used = (block.bus + 16 * 256 + 6 + 512 + 63) & ~63;
    st16(block.ptr + (used - block.bus) + 2, 17);
    rig.host.hostMemory.grants?.grant(block.bus, 16384, 1);
    misplace(rig.engine.fn, 0, block.bus);
    const { service } = rig.engine;
    rig.until("refused", () => service.link === "refused");
    expect(service.diagnosis).toMatch(
      /queue 0 \(receive\): the used ring at 0x[0-9a-f]+ has flags 0 and index 17.*rebind/,
    );
    expect(ld16(block.ptr + (used - block.bus))).toBe(0);
    expect(rig.endpoint.violationCount).toBe(0);
    rig.until("bound", () => rig.host.state === "bound" && !rig.host.busy);
    rig.host.rebind();
    rig.up();
    rig.exchange(20);
    rig.close();
  });

  test("a driver that honours DEVICE_NEEDS_RESET is served again without a person", () => {
    const rig = new EngineRig({ core: "modern-msix" });
    const block = rig.host.hostMemory.allocRing(16384)!;
    fill(block.ptr, 0x55, 16384);
    rig.host.hostMemory.grants?.grant(block.bus, 16384, 1);
    misplace(rig.engine.fn, 0, block.bus);
    rig.until("bound", () => rig.host.state === "bound" && !rig.host.busy);
    expect(rig.engine.service.link).toBe("refused");
    // its config interrupt handler: the link is down, and status has the bit
    rig.until("told", () => !rig.end.linkUp && (rig.endpoint.barRead(0, 0x14, 1) & 0x40) !== 0);
    rig.host.reset(true);
    rig.until("reset", () => rig.engine.service.link !== "refused");
    rig.up();
    rig.exchange(20);
    expect(rig.engine.service.diagnosis).toBe("");
    rig.close();
  });

  test("the receive queue's place is zeroed memory of nobody: said when the host sends and fills no buffer there", () => {
    const rig = new EngineRig({ core: "modern-msix", model: { strict: false }, host: { strict: false } });
    const block = rig.host.hostMemory.allocRing(16384)!;
    misplace(rig.engine.fn, 0, block.bus);
    rig.up();
    const { service } = rig.engine;
    const frame = rig.toBoard.make(60);
    const whole = new Uint8Array(24 + frame.length);
    whole.set(frame, 24);
    rig.end.send(whole);
    const start = Date.now();
    rig.until("stopped", () => service.link === "stopped", 500_000_000);
    expect(Date.now() - start).toBeGreaterThan(1500);
    expect(service.diagnosis).toMatch(
      /hq\.rx: the host sends, but the available ring at 0x[0-9a-f]+ never had a buffer.*rebind/,
    );
    rig.until("the host sees it", () => !rig.end.linkUp);
    rig.host.rebind();
    rig.until("left the old life", () => service.link !== "stopped");
    rig.up();
    rig.exchange(20);
    rig.close();
  }, 20_000);
});

describe("wrong header length", () => {
  for (const [kernel, right, wrong] of [
    ["6.12", 12, 24],
    ["7.3", 24, 12],
  ] as const) {
    for (const fetch of ["edma", "window"] as const) {
      test(`${wrong} for ${right} (${kernel}, ${fetch}): found on the first frame, no frame is spoiled`, () => {
        const rig = new EngineRig({ core: "modern-msix", host: { kernel }, engine: { fetch } });
        misjudge(rig.engine.fn, wrong);
        rig.up();
        expect(rig.engine.fn.hdrLen).toBe(wrong);
        const frame = rig.toBoard.make(60);
        const whole = new Uint8Array(right + frame.length);
        whole.set(frame, right);
        rig.end.send(whole);
        rig.until("first frame", () => rig.toBoard.received === 1);
        expect(rig.engine.fn.hdrLen).toBe(right);
        expect(
          rig.log.filter((l) => l.includes(`${wrong} bytes was expected`) && l.includes(`one of ${right}`)).length,
        ).toBe(1);
        rig.exchange(200);
        expect(rig.toBoard.received).toBe(rig.toBoard.sent);
        expect(rig.engine.service.faults).toBe(0);
        expect(rig.engine.service.diagnosis).toBe("");
        rig.close();
      });
    }
  }

  test("one that cannot be corrected stops the queues and is the diagnosis", () => {
    const rig = new EngineRig({ core: "modern-msix" });
    misjudge(rig.engine.fn, 12);
    rig.engine.fn.setHdrLen = () => {};
    const at = Date.now();
    rig.engine.fn.poll = ((poll) => () => {
      const event = poll();
      if (rig.engine.fn.live) (rig.engine.fn as { hdrLen: number }).hdrLen = 12;
      return event;
    })(rig.engine.fn.poll);
    rig.up();
    const frame = rig.toBoard.make(60);
    const whole = new Uint8Array(24 + frame.length);
    whole.set(frame, 24);
    rig.end.send(whole);
    rig.until("stopped", () => rig.engine.service.link === "stopped");
    expect(Date.now() - at).toBeLessThan(5000);
    expect(rig.engine.service.diagnosis).toMatch(
      /a net header of 12 bytes was expected, the host's frames have one of 24/,
    );
    expect(rig.log.some((l) => l.includes(rig.engine.service.diagnosis))).toBe(true);
    rig.close();
  });

  test("the right length is believed, and looked for in one frame only", () => {
    const rig = new EngineRig({ core: "modern-msix" });
    rig.up();
    rig.exchange(50);
    expect(rig.engine.dp.header?.found).toBe(24);
    expect(rig.engine.dp.header?.frames).toBe(1);
    rig.close();
  });

  test("judged by sender and EtherType; with neither the question stays open", () => {
    const mac = new Uint8Array([2, 0, 0, 0, 0, 1]);
    const frame = (at: number, sender: readonly number[], type: number): Uint8Array => {
      const u8 = new Uint8Array(64);
      u8.fill(0xff, at, at + 6);
      u8.set(sender, at + 6);
      u8[at + 12] = type >>> 8;
      u8[at + 13] = type & 0xff;
      return u8;
    };
    for (const [believed, other] of [
      [12, 24],
      [24, 12],
    ] as const) {
      expect(judgeHeader(frame(believed, [2, 0, 0, 0, 0, 1], 0x0800), believed, other, mac)).toBe(believed);
      expect(judgeHeader(frame(other, [2, 0, 0, 0, 0, 1], 0x9999), believed, other, mac)).toBe(other);
      expect(judgeHeader(frame(other, [6, 1, 2, 3, 4, 5], 0x86dd), believed, other, mac)).toBe(other);
      expect(judgeHeader(frame(believed, [6, 1, 2, 3, 4, 5], 0x9999), believed, other, mac)).toBe(0);
      expect(judgeHeader(new Uint8Array(64), believed, other, mac)).toBe(0);
    }
  });
});

test("host memory that reads as ones: the IOMMU is named", () => {
  const rig = new EngineRig({ core: "legacy-msix", model: { strict: false }, host: { strict: false } });
  const { link } = rig.endpoint;
  link.fetch = (_addr, ptr, len) => {
    fill(ptr, 0xff, len);
    return 0;
  };
  rig.until("stopped", () => rig.engine.service.link === "stopped");
  expect(rig.engine.service.diagnosis).toMatch(/ones in every bit.*IOMMU/);
  rig.close();
});

test("a DMA channel on which nothing moves: said after a second, served again after a reset", () => {
  const rig = new EngineRig({ core: "modern-msix" });
  rig.up();
  rig.exchange(20);
  const { edma } = rig.endpoint;
  const turn = edma.turn;
  edma.turn = () => {};
  rig.queue(10);
  const start = Date.now();
  rig.until("stopped", () => rig.engine.service.link === "stopped", 500_000_000);
  const ms = Date.now() - start;
  expect(ms).toBeGreaterThan(900);
  expect(rig.engine.service.diagnosis).toMatch(
    /DMA (read|write) channel \d does not come to rest, \d+ elements outstanding/,
  );
  edma.turn = turn;
  rig.host.reset(true);
  rig.until("left the old life", () => rig.engine.service.link !== "stopped");
  rig.up();
  rig.until("backlog", () => rig.port.backlog === 0 && rig.end.backlog === 0);
  rig.exchange(20);
  rig.close();
}, 20_000);

test("a board's side that does not start: said once, the host sees no link, tried again at its next reset", () => {
  const rig = new EngineRig({ core: "modern-msix" });
  const { port } = rig;
  const { service } = rig.engine;
  const start = port.start;
  port.start = () => {
    throw new Fault("E_SYS", "TUNSETVNETHDRSZ on tap0: EBADFD");
  };
  rig.until("stopped", () => service.link === "stopped");
  expect(service.diagnosis).toBe("the board's side does not start: TUNSETVNETHDRSZ on tap0: EBADFD");
  expect([service.faults, rig.log.filter((l) => l.includes("EBADFD")).length]).toEqual([1, 1]);
  rig.until("bound", () => rig.host.state === "bound" && !rig.host.busy);
  expect([rig.end.linkUp, rig.endpoint.barRead(0, 0x14, 1) & 0x40]).toEqual([false, 0x40]);
  port.start = start;
  rig.host.reset(true);
  rig.until("left the old life", () => service.link !== "stopped");
  rig.up();
  rig.exchange(20);
  expect([service.diagnosis, service.faults]).toEqual(["", 1]);
  rig.close();
});

test("a ring that is enabled again and is not a new one: stopped before anything is written there, served after a reset", () => {
  const word = FEATURE_SETS.wide!.modern | (1 << V.F_GUEST_TSO6);
  const setup = { features: [word, word], eventIdx: true };
  for (const k of [0, 1] as const) {
    const h = new ManualHost({ engine: { features: `0x${(word >>> 0).toString(16)}` } });
    h.modern(setup);
    expect(h.live).toBe(true);
    h.turns(100);
    expect(h.resetQueue(k)).toBeGreaterThanOrEqual(0);
    const w = h.w;
    let used = 0;
    h.w = (off, size, value) => {
      if (off === V.COMMON_Q_ENABLE) {
        used = (k === 0 ? h.rx : h.tx)!.usedPtr;
        st16(used + 2, 5);
      }
      w.call(h, off, size, value);
    };
    h.enableQueue(k, 32, 1 + k, true);
    h.w = w;
    const { service } = h.engine;
    expect([service.link, service.faults]).toEqual(["stopped", 1]);
    expect(service.diagnosis).toMatch(
      new RegExp(
        `queue ${k} \\((receive|transmit)\\): the used ring at 0x[0-9a-f]+ has flags 0 and index 5, a new one`,
      ),
    );
    expect([ld16(used), ld16(used + 2), h.r(V.COMMON_STATUS, 1) & 0x40]).toEqual([0, 5, 0x40]);
    h.w(V.COMMON_STATUS, 1, 0);
    h.turns(20);
    h.release();
    h.modern(setup);
    expect([h.live, service.diagnosis]).toEqual([true, ""]);
    h.close();
  }
});

describe("a host that goes without a word", () => {
  for (const core of ["modern-msix", "modern-intx", "legacy-msix", "legacy-intx"] as const) {
    for (const how of ["hot reset", "link down and up", "power cycle"] as const) {
      test(`${core}, ${how}: noticed, config space written again, the next driver is served`, () => {
        const rig = new EngineRig({ core, model: { strict: false } });
        rig.up();
        rig.exchange(20);
        rig.host.crash();
        rig.host.intx(false);
        if (how === "link down and up") {
          rig.endpoint.setLink(false);
          rig.until("down", () => rig.engine.service.link === "waiting");
          expect(rig.port.linkUp).toBe(false);
          rig.endpoint.setLink(true);
        }
        if (how === "power cycle") rig.endpoint.powerOnReset();
        else rig.endpoint.hotReset();
        rig.until("noticed", () => rig.engine.service.link === "waiting" && rig.engine.fn.intact());
        rig.host.bind();
        rig.until("a new kernel", () => rig.host.state === "bound");
        rig.up();
        rig.until("what was queued", () => rig.port.backlog === 0);
        rig.exchange(50);
        expect(rig.engine.service.faults).toBe(0);
        rig.close();
      });
    }
  }

  test("bus mastering switched off in use: said, stopped, no DMA, served after a reset", () => {
    const rig = new EngineRig({ core: "modern-msix" });
    rig.up();
    rig.exchange(20);
    rig.endpoint.cfgWrite(4, 2, 2);
    rig.until("stopped", () => rig.engine.service.link === "stopped");
    expect(rig.engine.service.diagnosis).toMatch(/Bus Master Enable off/);
    expect(rig.engine.service.faults).toBe(1);
    rig.endpoint.cfgWrite(4, 2, 6);
    rig.host.reset(true);
    rig.until("left the old life", () => rig.engine.service.link !== "stopped");
    rig.up();
    rig.exchange(20);
    rig.close();
  });

  test("bus mastering switched off inside a slice, reads under way: said as that, not as an abort or an IOMMU", () => {
    for (const frames of [0, 20]) {
      // without NOTIFICATION_DATA, so that looks are always under way
      const rig = new EngineRig({ core: "modern-msix", engine: { features: "safe" } });
      let turns = 0;
      rig.endpoint.addStepper({
        turn: () => {
          if (turns > 0 && --turns === 0) rig.endpoint.cfgWrite(4, 2, 2);
        },
      });
      rig.up();
      if (frames > 0) rig.exchange(frames);
      turns = 5;
      rig.until("stopped", () => rig.engine.service.link === "stopped");
      expect(rig.engine.service.faults).toBe(1);
      expect(rig.engine.service.diagnosis).toMatch(/Bus Master Enable off/);
      rig.close();
    }
  });
});
