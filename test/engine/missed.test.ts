/**
 * The whole engine on the model against a host whose set-up it sees with gaps: every bind ends in checked traffic, in a
 * refusal or a probe that failed, both said in the diagnosis, or in a diagnosis behind the first traffic. None is silent,
 * and in none does DMA touch what the host did not hand over. EPNIC_MISSED_BINDS makes it larger.
 */
import { expect, test } from "bun:test";
import { fill } from "../../src/hw/mem.ts";
import type { HostBlock } from "../../src/hw/model/host-memory.ts";
import { EngineRig } from "../support/engine-rig.ts";

const BINDS = Number(process.env.EPNIC_MISSED_BINDS ?? 120);
const PACE = {
  readDelayTurns: 2,
  writeDelayTurns: 2,
  softwareDelayTurns: 6,
  sleepTurns: 6,
  accessesPerTurn: 1,
  reuseDelayTurns: 60,
};
const TURNS = 20_000;
/** real time in which a queue that was captured wrong must be found out by traffic */
const SAID_MS = 5000;

const at = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);

interface Tally {
  right: number;
  recovered: number;
  refused: number;
  failed: number;
  detected: number;
  silent: string[];
}

class MissedBinds {
  readonly tally: Tally = { right: 0, recovered: 0, refused: 0, failed: 0, detected: 0, silent: [] };
  private readonly rig: EngineRig;
  /** freed rings, the youngest is handed out first, as page allocators do */
  private readonly free: HostBlock[] = [];
  private allocs = 0;
  private failing = -1;

  constructor(core: "modern-msix" | "modern-intx" | "legacy-msix" | "legacy-intx", seed: number) {
    this.rig = new EngineRig({ core, seed, host: { pace: PACE, autoBind: false, seed } });
    const { hostMemory } = this.rig.host;
    const { allocRing } = hostMemory;
    hostMemory.allocRing = (bytes) => {
      if (this.allocs++ === this.failing) return null;
      const block = this.free.pop();
      if (block === undefined) return allocRing.call(hostMemory, bytes);
      fill(block.ptr, 0, block.bytes);
      return block;
    };
    hostMemory.freeRing = (block) => {
      this.free.push(block);
    };
    this.rig.until("enumerated", () => this.rig.host.state === "idle");
  }

  private get accesses(): number {
    const a = this.rig.host.access!;
    return a.reads + a.writes;
  }

  /** epnic does not run while the host makes `n` accesses, or to the end of what it does. DMA that was begun goes on. */
  private sleep(n: number): void {
    const { host, endpoint } = this.rig;
    const until = this.accesses + n;
    for (let t = 0; t < 40 * n && host.busy && this.accesses < until; t++) endpoint.turn();
  }

  private slices(turns: number, done: () => boolean): boolean {
    const { service } = this.rig.engine;
    const end = service.turns + turns;
    while (!done() && service.turns < end) service.attend(service.slice(1));
    return done();
  }

  bind(): void {
    const { rig, tally } = this;
    const { host, random, engine } = rig;
    const { service } = engine;
    this.slices(TURNS, () => engine.dp.quiet);
    this.allocs = 0;
    this.failing = random.below(3) === 0 ? random.below(4) : -1;
    const gaps = Array.from({ length: random.below(3) }, () => ({
      place: random.below(170),
      length: 1 + random.below(random.below(2) === 0 ? 12 : 160),
    })).sort((a, b) => a.place - b.place);
    const story = `gaps ${gaps.map((g) => `${g.length} at ${g.place}`).join(", ")}; allocation ${this.failing} fails`;
    const ends = host.binds + host.failures + 1;
    host.rebind();
    const from = this.accesses;
    for (let t = 0; t < TURNS && (host.busy || host.binds + host.failures < ends); t++) {
      const gap = gaps[0];
      if (gap !== undefined && this.accesses - from >= gap.place) {
        gaps.shift();
        this.sleep(gap.length);
      } else service.attend(service.slice(1));
    }
    this.slices(TURNS, () => service.diagnosis !== "" || service.link === "live");
    const said = service.diagnosis !== "";
    if (host.state === "failed") {
      if (said) tally.failed++;
      else tally.silent.push(`${story}: the probe failed (${host.error}), nothing was said`);
    } else if (service.link === "live" && this.isRight()) {
      const r = rig.toHost.received;
      const b = rig.toBoard.received;
      rig.queue(3);
      if (!this.slices(TURNS, () => rig.toHost.received >= r + 3 && rig.toBoard.received >= b + 3))
        tally.silent.push(`${story}: right, and no traffic; ${service.link} ${service.diagnosis}`);
      else if (host.truth!.failures.length > (this.failing < 0 ? 0 : 1)) tally.recovered++;
      else tally.right++;
    } else if (service.link === "live") {
      rig.queue(3);
      const end = Date.now() + SAID_MS;
      while (service.diagnosis === "" && Date.now() < end) this.slices(2000, () => false);
      if (service.diagnosis !== "") tally.detected++;
      else tally.silent.push(`${story}: captured wrong, not found out`);
    } else if (said) tally.refused++;
    else tally.silent.push(`${story}: host ${host.state}, link ${service.link}, nothing was said`);
  }

  private isRight(): boolean {
    const { fn } = this.rig.engine;
    return this.rig.host.truth!.queues.every((q, k) => {
      const c = fn.queues[k]!;
      return (
        c.size === q.size &&
        at(c.descLo, c.descHi) === q.desc &&
        at(c.availLo, c.availHi) === q.avail &&
        at(c.usedLo, c.usedHi) === q.used &&
        c.vector === q.entry
      );
    });
  }

  close(): void {
    this.rig.close();
  }
}

for (const [i, core] of (["modern-msix", "modern-intx", "legacy-msix", "legacy-intx"] as const).entries()) {
  test(
    `${core}: ${BINDS} binds with gaps and failing attempts, none ends in silence`,
    () => {
      const run = new MissedBinds(core, 700 + i);
      for (let n = 0; n < BINDS; n++) run.bind();
      const { right, recovered, refused, failed, detected, silent } = run.tally;
      console.log(
        `${core}: right ${right}, recovered ${recovered}, refused ${refused}, failed ${failed}, detected ${detected}`,
      );
      expect(silent).toEqual([]);
      expect(right).toBeGreaterThan(BINDS / 4);
      expect(refused + failed + recovered).toBeGreaterThan(0);
      run.close();
    },
    60_000 + BINDS * 500,
  );
}
