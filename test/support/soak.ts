/**
 * One seeded life of the whole engine under everything that can happen to it: random core, host and rings, traffic both
 * ways, and events in the middle of it. After each storm the host's driver is bound anew and every frame that is then
 * sent must arrive: a lost wake-up, a stuck channel or a record that is never freed shows there.
 */

import { SLICE_IDLE } from "../../src/engine/service.ts";
import type { RingFault } from "../../src/hw/model/host-faults.ts";
import { Random } from "../../src/hw/model/random.ts";
import { EngineRig } from "./engine-rig.ts";
import { soakOptions } from "./soak-options.ts";

const FAULTS: RingFault[] = [
  "desc-loop",
  "next-out-of-range",
  "head-out-of-range",
  "long-chain",
  "bad-address",
  "zero-length",
  "write-before-read",
  "avail-jump",
  "indirect-length",
  "indirect-nested",
];
/** violations that a host vanishing under running DMA must cause */
const VANISHED = /is lost: (bus mastering off|no host|no memory there)/;

/** and those of a driver that hands over what it does not own */
const GARBAGE = /reads host memory|is lost: no memory there/;

export interface SoakResult {
  frames: number;
  events: Record<string, number>;
}

export class Soak {
  readonly random: Random;
  readonly rig: EngineRig;
  readonly events: Record<string, number> = {};
  readonly text: string;
  /** frames of at most this many bytes always fit */
  readonly most: number;
  private excused = 0;

  constructor(readonly seed: number) {
    const r = new Random(seed);
    this.random = r;
    const o = soakOptions(r, seed);
    this.text = JSON.stringify(o, (_k, v) => (typeof v === "number" && v > 2 ** 32 ? `0x${v.toString(16)}` : v));
    this.rig = new EngineRig(o);
    // with simulated time the request size is the preset's
    if (o.model?.timing === null && r.chance(0.2)) {
      Object.assign(this.rig.endpoint.controller().core, { maxReadRequest: 128 });
      this.rig.endpoint.faults.rcarReadRequest = true;
    }
    this.most = 1514;
  }

  /** @throws Error with everything needed to run it again */
  run(storms: number): SoakResult {
    try {
      this.up("first bind");
      this.clean("first");
      for (let i = 0; i < storms; i++) {
        this.storm();
        this.recover();
        this.clean(`after storm ${i}`);
      }
      this.finish();
    } catch (e) {
      const last = this.rig.log.slice(-5).join("\n    ");
      throw new Error(
        `soak seed ${this.seed}: ${(e as Error).stack}\n  options ${this.text}\n  events ${JSON.stringify(this.trail.slice(-12))}\n  log ${last}`,
      );
    }
    return { frames: this.rig.toHost.received + this.rig.toBoard.received, events: this.events };
  }

  private readonly trail: string[] = [];

  private note(what: string): void {
    this.events[what.split(" ")[0]!] = (this.events[what.split(" ")[0]!] ?? 0) + 1;
    this.trail.push(`${this.rig.engine.service.turns}:${what}`);
  }

  private turns(n: number): void {
    const until = this.rig.engine.service.turns + n;
    while (this.rig.engine.service.turns < until) this.slice();
  }

  private slice(): void {
    this.rig.slice();
    this.lookAtViolations();
  }

  private lookAtViolations(): void {
    const { endpoint } = this.rig;
    if (endpoint.violationCount === this.excused) return;
    const fresh = endpoint.violations.slice(this.excused);
    const excuse = this.vanishing > 0 ? VANISHED : this.broken ? GARBAGE : null;
    if (excuse !== null && fresh.every((v) => excuse.test(v))) {
      this.excused = endpoint.violationCount;
      return;
    }
    throw new Error(`strict mode: ${fresh[0] ?? endpoint.violations.at(-1)}`);
  }

  private vanishing = 0;
  /** the host's driver was made to hand over chains of garbage: what they point at may be read */
  private broken = false;

  private until(what: string, done: () => boolean, turns = 400_000): void {
    const { service, dp, irq } = this.rig.engine;
    const end = service.turns + turns;
    while (!done()) {
      this.slice();
      if (service.turns > end) {
        const { host, toHost, toBoard, port, end: e } = this.rig;
        throw new Error(
          `${what}: not within ${turns} turns; link ${service.link} "${service.diagnosis}", host ${host.state} "${host.error}", ` +
            `to host ${toHost.received}/${toHost.sent} waiting ${port.backlog} starved ${dp.toHost.starved}, to board ${toBoard.received}/${toBoard.sent} waiting ${e.backlog}, ` +
            `outstanding ${dp.toHost.outstanding}/${dp.toBoard.outstanding}, irq sent ${irq.sent} masked ${irq.masked}, ` +
            `tx in flight ${host.net?.tx.ring.inFlight} rx in flight ${host.net?.rx.ring.inFlight} rx pending ${host.net?.rx.ring.pending()}`,
        );
      }
    }
  }

  private up(what: string): void {
    const { engine, host, end } = this.rig;
    this.until(`${what}: up`, () => engine.service.link === "live" && host.state === "bound" && end.linkUp);
  }

  private sizes(): number {
    const r = this.random;
    return r.chance(0.5) ? 100 : this.big && r.chance(0.2) ? this.largest : this.most;
  }

  /** frames above the MTU: only when both sides take them */
  private get big(): boolean {
    const f = this.rig.end.features;
    const p = this.rig.port.features;
    return f !== null && p !== null && f.txTso4 && p.toHostTso4;
  }

  private get largest(): number {
    const size = Math.min(this.rig.engine.fn.queues[0]!.size, this.rig.engine.fn.queues[1]!.size);
    return size >= 64 ? 65_000 : 1514;
  }

  private send(frames: number): void {
    const { rig, random: r } = this;
    const features = rig.end.features;
    if (features === null) return;
    for (let i = 0; i < frames; i++) {
      if (r.chance(0.6) && rig.port.backlog < 300) rig.port.send(rig.toHost.make(22 + r.below(this.sizes() - 22)));
      if (r.chance(0.6) && rig.end.backlog < 300) {
        const frame = rig.toBoard.make(22 + r.below(this.sizes() - 22));
        const whole = new Uint8Array(features.hdrLen + frame.length);
        whole.set(frame, features.hdrLen);
        rig.end.send(whole);
      }
    }
  }

  private storm(): void {
    const r = this.random;
    const steps = 3 + r.below(12);
    for (let i = 0; i < steps; i++) {
      this.send(r.below(40));
      this.turns(r.chance(0.5) ? r.below(30) : r.below(600));
      if (r.chance(0.5)) this.event();
    }
  }

  private event(): void {
    const { rig, random: r } = this;
    const { host, endpoint, port } = rig;
    switch (r.below(18)) {
      case 0:
        this.note("rebind");
        host.rebind();
        break;
      case 1:
      case 2:
        this.note("reset");
        host.reset(true);
        break;
      case 3:
        this.note("crash");
        // A kernel that finds the function as the last one left it switches bus mastering off while it sizes the BARs.
        this.vanish(() => {}, r.below(2000));
        break;
      case 4:
      case 5:
        if (host.resetQueue(r.below(2) as 0 | 1)) this.note("resetQueue");
        break;
      case 6:
      case 7:
        if (host.maskVector(r.below(3), r.below(3000))) this.note("mask");
        break;
      case 8:
        if (host.retargetVector(r.below(3))) this.note("retarget");
        break;
      case 9: {
        const fault = FAULTS[r.below(FAULTS.length)]!;
        const queue = r.below(2) as 0 | 1;
        if (host.inject(fault, queue) >= 0) this.note(`inject ${fault} ${queue}`);
        this.broken = rig.toBoard.lenient = true;
        this.turns(r.below(3000));
        host.reset(true);
        this.turns(1);
        this.broken = rig.toBoard.lenient = false;
        break;
      }
      case 10:
        this.note("carrier");
        port.up = !port.up;
        rig.engine.service.followBoard();
        break;
      case 11:
      case 12:
        this.note("dma");
        endpoint.faults.lostDoorbell = r.chance(0.5) ? 0 : 0.5;
        endpoint.faults.holdFetched = r.chance(0.5) ? 0 : 0.5;
        endpoint.faults.notIdleDoorbell = r.chance(0.5);
        break;
      case 13: {
        this.note("boardRestart");
        const { write } = rig.engine.channels;
        const last = write.putCount;
        port.restart(() => {
          this.turns(1);
          return ((write.doneCount - last) | 0) >= 0;
        });
        break;
      }
      case 14:
        this.note("boardDry");
        port.refilling = false;
        this.send(80);
        this.turns(2000);
        port.refilling = true;
        break;
      case 15: {
        const net = host.net;
        if (net === null || host.state !== "bound") break;
        this.note("hostDry");
        const fill = net.rx.fill;
        net.rx.fill = () => false;
        this.send(80);
        this.turns(2000);
        net.rx.fill = fill;
        if (host.net === net) net.resume(0);
        break;
      }
      case 16:
        this.note("hotReset");
        this.vanish(() => endpoint.hotReset());
        break;
      case 17:
        this.note("linkDown");
        this.vanish(() => {
          endpoint.setLink(false);
          this.turns(r.below(4000));
          endpoint.setLink(true);
          endpoint.hotReset();
        });
        break;
    }
  }

  /** The host goes away without a word and a new kernel comes up on the same board. */
  private vanish(how: () => void, turns = 20_000): void {
    const { host } = this.rig;
    host.crash();
    this.vanishing++;
    how();
    this.turns(turns + this.random.below(2000));
    host.bind();
    this.until("the next kernel", () => host.state === "bound");
    this.vanishing--;
  }

  /** End whatever the storm left: everything may be down, then a new driver comes up. */
  private recover(): void {
    const { rig } = this;
    const { host, endpoint, port } = rig;
    Object.assign(endpoint.faults, { notIdleDoorbell: false });
    port.refilling = true;
    port.up = true;
    rig.engine.service.followBoard();
    this.until("host settles", () => host.state === "bound" || host.state === "failed" || host.state === "idle");
    this.note("recover");
    const binds = host.binds;
    if (host.state === "bound" && this.random.chance(0.5)) host.rebind();
    else if (host.state === "bound") host.reset(true);
    else host.bind();
    this.until("recovered", () => host.binds > binds);
    this.up("recover");
  }

  /** No event: every frame must arrive, in the right number, and then nothing moves any more. */
  private clean(what: string): void {
    const { rig } = this;
    const { dp, service } = rig.engine;
    const { toHost, toBoard, port, end } = rig;
    const quiet = (): boolean => port.backlog === 0 && end.backlog === 0 && port.sending === 0 && dp.quiet;
    this.until(`${what}: backlog`, () => quiet() && rig.host.net!.tx.ring.inFlight === rig.engineHolds());
    // what is on its way behind the last element, and what a driver has not looked at yet
    this.turns(500);
    const faults = service.faults;
    const before = [toHost.received - toHost.sent, toBoard.received - toBoard.sent];
    const counted = [dp.toHost.frames + dp.toHost.dropped, dp.toBoard.frames + dp.toBoard.dropped];
    const sent = [toHost.sent, toBoard.sent];
    const dropped = [dp.toHost.dropped, dp.toBoard.dropped];
    for (let i = 0; i < 5; i++) {
      this.send(1 + this.random.below(30));
      if (this.random.chance(0.5)) this.turns(this.random.below(400));
      const due = (): boolean =>
        toHost.received - toHost.sent + dp.toHost.dropped - dropped[0]! === before[0] &&
        toBoard.received - toBoard.sent + dp.toBoard.dropped - dropped[1]! === before[1];
      this.until(`${what}: all frames`, due);
    }
    if (service.faults !== faults) throw new Error(`${what}: fault ${service.diagnosis}`);
    const count = [
      dp.toHost.frames + dp.toHost.dropped - counted[0]!,
      dp.toBoard.frames + dp.toBoard.dropped - counted[1]!,
    ];
    if (count[0] !== toHost.sent - sent[0]! || count[1] !== toBoard.sent - sent[1]!)
      throw new Error(`${what}: counters ${count}, sent ${toHost.sent - sent[0]!},${toBoard.sent - sent[1]!}`);
    this.idle(what);
  }

  /** With nothing to do, the loop must say so. */
  private idle(what: string): void {
    const { service, dp } = this.rig.engine;
    for (const end = service.turns + 100_000; service.turns < end; ) {
      const why = service.slice(20_000);
      service.attend(why);
      if (why !== SLICE_IDLE) continue;
      if (dp.toHost.outstanding !== 0 || dp.toBoard.outstanding !== 0) throw new Error(`${what}: idle with records`);
      return;
    }
    throw new Error(`${what}: the loop never comes to rest`);
  }

  private finish(): void {
    const { rig } = this;
    rig.engine.service.shutdown(100);
    this.lookAtViolations();
    rig.engine.edma.quiesce();
    rig.host.close();
    rig.endpoint.close();
  }
}
