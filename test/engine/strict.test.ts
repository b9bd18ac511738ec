/** Strict mode of a whole run: DMA outside memory that was handed over is counted, said, and fails the run. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type EngineOptions, openEngine } from "../../src/engine/engine.ts";
import { Fault } from "../../src/hw/fault.ts";
import { GRANT_READ, Shadow } from "../../src/hw/model/shadow.ts";
import { ip, needTap } from "../support/netns.ts";

const why = needTap();
if (why !== "") console.log(`strict run: ${why}`);
const NETNS = `epstrict${process.pid}`;
const dir = mkdtempSync(join(tmpdir(), "epnic-strict-"));

const OPTIONS: EngineOptions = {
  device: "model",
  personality: "modern",
  mac: null,
  mtu: 1500,
  queueSize: 64,
  features: "default",
  irq: "auto",
  fetch: "edma",
  port: { kind: "tap", name: "epstrb", netns: NETNS },
  host: { kind: "built-in", tap: "epstrh", netns: NETNS },
  modelCore: "modern-msix",
  strict: true,
  cpu: null,
  idle: "adaptive",
  counters: join(dir, "counters"),
};

/** Serve until the host's driver is at work, and a little longer. @returns what run() failed with, and the summary */
async function served(
  afterOpen: () => void,
): Promise<{ fault: unknown; live: boolean; summary: Record<string, number | string> }> {
  const said: string[] = [];
  const note = (text: string): void => {
    said.push(text);
  };
  const engine = openEngine(OPTIONS, { info: note, warn: note, error: note });
  try {
    afterOpen();
    const signal = { stop: false };
    const end = Date.now() + 15_000;
    let live = false;
    const timer = setInterval(() => {
      live ||= engine.summary().link === "live";
      if (live || Number(engine.summary().strict_violations) > 0 || Date.now() > end)
        setTimeout(() => engine.requestStop(), 200);
    }, 20);
    const fault = await engine.run(signal).then(
      () => null,
      (e: unknown) => e,
    );
    clearInterval(timer);
    const summary = engine.summary();
    if (Number(summary.strict_violations) > 0) expect(said.join("\n")).toContain("strict mode: dma ");
    return { fault, live, summary };
  } finally {
    engine.close();
  }
}

describe.skipIf(why !== "")("run --strict", () => {
  beforeAll(() => {
    ip("netns", "add", NETNS);
  });
  afterAll(() => {
    ip("netns", "del", NETNS);
    rmSync(dir, { recursive: true });
  });

  test("drivers that hand over what they post: a clean stop", async () => {
    const { fault, live, summary } = await served(() => {});
    expect([fault, live, summary.strict_violations]).toEqual([null, true, 0]);
  }, 30_000);

  test("a host whose rings and buffers may not be read: the run fails and says what was touched", async () => {
    const { grant } = Shadow.prototype;
    try {
      const { fault, summary } = await served(() => {
        Shadow.prototype.grant = function (addr, len, mode) {
          grant.call(this, addr, len, mode & ~GRANT_READ);
        };
      });
      expect(fault).toBeInstanceOf(Fault);
      expect((fault as Fault).code).toBe("E_DMA");
      expect((fault as Fault).message).toMatch(
        /^strict mode: \d+ DMA accesses outside memory that was handed over; the first: dma read channel \d .* reads host memory 0x[0-9a-f]+ \+\d+, byte 0x[0-9a-f]+ is not granted for it$/,
      );
      expect(Number(summary.strict_violations)).toBeGreaterThan(0);
    } finally {
      Shadow.prototype.grant = grant;
    }
  }, 30_000);
});
