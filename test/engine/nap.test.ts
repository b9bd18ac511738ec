/** How long the loop may sleep: never while a driver sets up its queues, briefly while one may begin. */
import { expect, test } from "bun:test";
import { EngineRig } from "../support/engine-rig.ts";

const WATCH = 50_000;
const LIVE = 1_000_000;

for (const core of ["modern-msix", "legacy-msix", "legacy-intx"] as const) {
  test(`${core}: through a bind, an unbind and a link that goes down`, () => {
    const rig = new EngineRig({ core });
    const { service, fn } = rig.engine;
    // nobody has enabled the function's memory yet
    expect(service.nap).toBe(LIVE);
    const naps: number[] = [];
    for (let i = 0; i < 100_000 && !fn.live; i++) {
      service.attend(service.slice(1));
      naps.push(service.nap);
    }
    // enumerated, then a driver, then live; what is seen last before DRIVER_OK is a driver at work
    expect(naps.indexOf(WATCH)).toBeGreaterThan(0);
    expect(naps.lastIndexOf(WATCH)).toBeLessThan(naps.indexOf(0));
    const work = naps.slice(naps.indexOf(0), naps.lastIndexOf(0) + 1);
    expect(work.every((n) => n === 0)).toBe(true);
    expect(work.length).toBeGreaterThan(50);
    rig.up();
    expect(service.nap).toBe(LIVE);
    rig.host.unbind();
    rig.until("unbound", () => rig.host.state === "idle");
    // Linux leaves ACKNOWLEDGE behind; that is no driver
    expect(service.nap).toBe(WATCH);
    rig.endpoint.setLink(false);
    expect(service.nap).toBe(LIVE);
    rig.close();
  });
}
