/** The loop at rest: both drivers are asked to notify, nothing crosses the link, and either of them ends the rest at once. */
import { afterEach, expect, test } from "bun:test";
import { Pace } from "../../src/engine/pace.ts";
import { Sleeper } from "../../src/engine/sleeper.ts";
import { EngineRig } from "../support/engine-rig.ts";

let rig: EngineRig;
afterEach(() => rig.close());

/** While the loop sleeps, the model and its host go on. */
class ModelSleeper extends Sleeper {
  constructor(private readonly turns: number) {
    super(false);
  }
  override sleep(): boolean {
    this.sleeps++;
    this.dozing = true;
    for (let i = 0; i < this.turns; i++) rig.endpoint.turn();
    return false;
  }
}

const steps = (pace: Pace, most: number, done: () => boolean): number => {
  let n = 0;
  while (!done() && n < most) {
    pace.step();
    n++;
  }
  return n;
};

for (const core of ["modern-msix", "legacy-intx"] as const)
  for (const features of ["default", "wide"])
    test(`${core}, features ${features}: no look while nothing happens, frames of both sides end the rest`, () => {
      rig = new EngineRig({ core, engine: { features } });
      rig.up();
      rig.exchange(20);
      const { service, doze, dp } = rig.engine;
      const sleeper = new ModelSleeper(20);
      const pace = new Pace(service, sleeper, doze);
      for (let round = 0; round < 5; round++) {
        steps(pace, 5000, () => doze.deep);
        expect(doze.deep).toBe(true);
        // a step is a long sleep and a glance: a few looks for many sleeps
        const looks = dp.hqTx.fetches;
        const sleeps = sleeper.sleeps;
        pace.step();
        expect(doze.deep).toBe(true);
        expect(sleeper.sleeps - sleeps).toBeGreaterThan(20);
        expect(dp.hqTx.fetches - looks).toBeLessThan(10);
        if (round % 2 === 0) {
          const want = rig.toBoard.received + 1;
          const frame = rig.toBoard.make(600);
          const whole = new Uint8Array(rig.end.features!.hdrLen + 600);
          whole.set(frame, rig.end.features!.hdrLen);
          rig.end.send(whole);
          const begun = sleeper.sleeps;
          steps(pace, 50, () => rig.toBoard.received >= want);
          expect(rig.toBoard.received).toBe(want);
          expect(sleeper.sleeps - begun).toBeLessThan(20);
        } else {
          const want = rig.toHost.received + 1;
          rig.port.send(rig.toHost.make(600));
          rig.port.turn();
          steps(pace, 50, () => rig.toHost.received >= want);
          expect(rig.toHost.received).toBe(want);
        }
        expect(doze.deep).toBe(false);
      }
      rig.exchange(50);
      // the driver goes and comes back while the loop rests
      steps(pace, 5000, () => doze.deep);
      rig.host.unbind();
      steps(pace, 5000, () => service.link === "waiting");
      expect(service.link).toBe("waiting");
      expect(doze.deep).toBe(false);
      rig.host.bind();
      rig.up();
      rig.exchange(20);
    }, 20_000);
