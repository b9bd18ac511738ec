/** VIRTIO 1.2 2.4: device reset. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { TURN_BUDGET } from "../../src/hw/model/edma-model.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { type ManualHost, manualHosts } from "../support/manual-host.ts";
import { frame } from "../support/ring-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const host = manualHosts();

const clean = (h: ManualHost): void => expect(h.model.violations).toEqual([]);

describe("2.4.1 device reset", () => {
  for (const [name, o, at, legacy] of [
    ["modern", { core: "modern-msix" }, V.COMMON_STATUS, false],
    ["legacy", { core: "legacy-msix" }, V.LEGACY_STATUS, true],
  ] as const) {
    test(`2.4.1 status reads 0 after 0 was written, and stays 0 (${name})`, () => {
      const h = host(o);
      if (legacy) h.legacy();
      else h.modern();
      h.w(at, 1, 0);
      expect(h.r(at, 1)).toBe(0);
      h.turns(500);
      expect(h.r(at, 1)).toBe(0);
      expect(h.engine.service.resets).toBe(1);
    });

    test(`2.4.1 after a reset nothing is notified and no ring is touched until the driver is back (${name})`, () => {
      const h = host(o);
      if (legacy) h.legacy();
      else h.modern();
      h.post(2000);
      h.send(frame(12, 100));
      h.turns(500);
      h.port.send(frame(0, 100));
      h.w(at, 1, 0);
      h.turns(4);
      // the driver frees everything: strict mode sees any access from here on
      h.release();
      const { bytesToBoard, bytesToHost } = h.model.stats;
      h.messages.length = 0;
      for (let i = 0; i < 20; i++) {
        h.port.send(frame(0, 100));
        h.turns(100);
      }
      expect([h.model.stats.bytesToBoard, h.model.stats.bytesToHost]).toEqual([bytesToBoard, bytesToHost]);
      expect(h.messages).toEqual([]);
      clean(h);
    });
  }

  for (const [name, core, at] of [
    ["modern", "modern-msix", V.COMMON_STATUS],
    ["legacy", "legacy-intx", V.LEGACY_STATUS],
  ] as const) {
    test(`2.4.1 status is looked at again right before a burst: a reset behind the poll of a turn begins nothing (${name})`, () => {
      const h = host({ core });
      if (name === "modern") h.modern();
      else h.legacy({ vectors: null });
      h.post(2000);
      h.turns(500);
      const { write, read, fetch } = h.engine.channels;
      const put = (): number[] => [write, read, fetch].map((c) => c.putCount);
      // The port has its turn between the function's and the data path's.
      const { port } = h;
      const turn = port.turn;
      let before: number[] = [];
      port.turn = () => {
        port.turn = turn;
        port.send(frame(0, 100));
        const work = turn.call(port);
        h.model.barWrite(0, at, 1, 0);
        before = put();
        return work;
      };
      for (let i = 0; i < 100 && before.length === 0; i++) h.turns(1);
      expect(before.length).toBe(3);
      expect(put()).toEqual(before);
      h.release();
      h.turns(500);
      expect([put(), h.engine.service.link]).toEqual([before, "waiting"]);
      clean(h);
    });
  }

  test("2.4.1 a reset in the middle of a transfer: the list is cut, nothing lands after the loop has seen it", () => {
    let cut = 0;
    // An idle loop may take 16 short turns (vigil.ts) before it looks at the port again.
    for (let delay = 0; delay < 30; delay += 2) {
      const h = host({ engine: { queueSize: 1024 } });
      h.modern({ size: 1024 });
      // buffers so small that a frame is a list of many elements: the model moves TURN_BUDGET of them in a turn
      for (let i = 0; i < 1000; i++) h.post(1000);
      h.turns(300);
      for (let i = 0; i < 14; i++) {
        h.port.send(frame(0, 60_000));
        h.send(frame(12, 60_000));
      }
      const { write } = h.engine.channels;
      const put = write.putCount;
      for (let i = 0; i < 200 && write.putCount === put; i++) h.turns(1);
      h.turns(delay);
      write.progress();
      // what is left behind the turn in which the loop finds out
      if (((write.putCount - write.doneCount) | 0) > TURN_BUDGET) cut++;
      h.pace = 0;
      h.w(V.COMMON_STATUS, 1, 0);
      h.turns(1);
      const before = h.model.stats.elements;
      h.release();
      h.turns(500);
      expect(h.model.stats.elements).toBe(before);
      expect([delay, h.model.violations]).toEqual([delay, []]);
      expect(h.engine.service.link).toBe("waiting");
    }
    expect(cut).toBeGreaterThan(2);
  }, 30_000);
});
