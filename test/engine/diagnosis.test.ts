/** A silent dead link is the worst outcome: each known cause is named within seconds, and repaired where that is possible. */
import { describe, expect, test } from "bun:test";
import type { HostFunction } from "../../src/engine/function/function.ts";
import { judgeHeader } from "../../src/engine/header-check.ts";
import { fill } from "../../src/hw/mem.ts";
import { EngineRig } from "../support/engine-rig.ts";

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
    rig.endpoint.cfgWrite(4, 2, 6);
    rig.host.reset(true);
    rig.until("left the old life", () => rig.engine.service.link !== "stopped");
    rig.up();
    rig.exchange(20);
    rig.close();
  });

  test("bus mastering switched off inside a slice, reads under way: said as that, not as an abort or an IOMMU", () => {
    for (const frames of [0, 20]) {
      const rig = new EngineRig({ core: "modern-msix" });
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
