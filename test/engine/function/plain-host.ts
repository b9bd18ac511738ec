/**
 * A host for capture tests: Linux's order of accesses as a generator over a BAR in plain memory, one yield an access, so
 * that a test can put polls anywhere between. Unlike the model's host it fails at random places, retries with the next
 * interrupt policy, removes, resets and frees rings so that addresses come back in other roles.
 * Orders: facts/virtio-host-sequence.md 2 and 3, facts/vfio-user-2.md 2.
 */
import { ld8, ld16, ld32, mapAnonymous, st8, st16, st32 } from "../../../src/hw/mem.ts";
import type { Mmio } from "../../../src/hw/mmio.ts";

export const BAR_SIZE = 0x10000;
export const MSIX_CAP = 0xb0;
const NONE = 0xffff;

/** unused place in the BAR for MSI-X Enable */
const MSIX_ON = 0xf000;

/** Config space of which only the MSI-X control word matters. */
export class FakeConfig implements Mmio {
  readonly size = 0x1000;
  constructor(private readonly bar: number) {}
  get msixOn(): boolean {
    return ld32(this.bar + MSIX_ON) !== 0;
  }
  set msixOn(on: boolean) {
    st32(this.bar + MSIX_ON, on ? 1 : 0);
  }
  ld8(): number {
    throw new Error("DBI is read 32 bits wide");
  }
  ld16(): number {
    throw new Error("DBI is read 32 bits wide");
  }
  ld32(off: number): number {
    return off === MSIX_CAP ? (0x11 | (3 << 16) | (this.msixOn ? 0x80000000 : 0)) >>> 0 : 0;
  }
  st8(): void {}
  st16(): void {}
  st32(): void {}
}

export class Chance {
  constructor(private s: number) {}
  next(): number {
    this.s = (this.s + 0x6d2b79f5) | 0;
    let t = Math.imul(this.s ^ (this.s >>> 15), 1 | this.s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }
  below(n: number): number {
    return Math.floor(this.next() * n);
  }
  is(p: number): boolean {
    return this.next() < p;
  }
}

export interface RingTruth {
  size: number;
  desc: number;
  avail: number;
  used: number;
  vector: number;
}

export interface PlainHostOptions {
  personality: "modern" | "legacy";
  /** feature words the kernel reads: 2 up to 6.16, 4 from 6.17 on */
  words: 2 | 4;
  msix: boolean;
  /** chance that an interrupt policy fails, at a random place in it */
  retry: number;
  /** chance that a life is cut by a reset at a random access */
  cut: number;
}

type Step = Generator<undefined, boolean, undefined>;

export class PlainHost {
  readonly config: FakeConfig;
  /** DRIVER_OK is written: what the function may go live with; null in every other moment */
  truth: { rings: RingTruth[]; msix: boolean; configVector: number } | null = null;
  /** accesses made, and lives that got to DRIVER_OK */
  accesses = 0;
  lives = 0;
  /** lives begun */
  begun = 0;
  /** probes that failed because the plain memory did not behave in time */
  failedProbes = 0;
  retries = 0;
  macWrong = 0;
  private readonly pages: number[] = [];
  private rings: RingTruth[] = [];
  private configVector = NONE;
  private crashed = false;

  constructor(
    readonly o: PlainHostOptions,
    readonly chance: Chance,
    private readonly mac: Uint8Array,
    readonly bar: number = mapAnonymous(BAR_SIZE),
  ) {
    this.config = new FakeConfig(bar);
    // few places, some above 4 GiB with equal low words, so that torn and stale words look plausible
    for (let i = 0; i < 6; i++) this.pages.push(0x10000000 + i * 0x10000);
    if (o.personality === "modern") for (let i = 0; i < 4; i++) this.pages.push(0x3_10000000 + i * 0x10000);
    else for (let i = 0; i < 4; i++) this.pages.push(0xf_10000000 + i * 0x10000);
  }

  /** One access done, the rest of the world may run. */
  private *w(off: number, size: number, v: number): Generator<undefined, void, undefined> {
    if (size === 1) st8(this.bar + off, v);
    else if (size === 2) st16(this.bar + off, v);
    else st32(this.bar + off, v);
    this.accesses++;
    yield;
  }
  private *r(off: number, size: number): Generator<undefined, number, undefined> {
    const v = size === 1 ? ld8(this.bar + off) : size === 2 ? ld16(this.bar + off) : ld32(this.bar + off);
    this.accesses++;
    yield;
    return v;
  }

  private alloc(): number {
    // the page freed last mostly comes back first, as in a page allocator's per-CPU list
    const i = this.chance.is(0.7) ? this.pages.length - 1 : this.chance.below(this.pages.length);
    return this.pages.splice(i, 1)[0]!;
  }
  private freeRings(): void {
    if (this.chance.is(0.5)) this.rings.reverse();
    for (const q of this.rings) this.pages.push(q.desc);
    this.rings = [];
  }

  /** Lives without end; each returns to an unbound function. */
  *forever(): Generator<undefined, never, undefined> {
    for (;;) {
      const cutAt = this.chance.is(this.o.cut) ? 5 + this.chance.below(110) : -1;
      const before = this.accesses;
      const life = this.life();
      let cut = false;
      for (;;) {
        const s = life.next();
        if (s.done === true) break;
        yield;
        if (cutAt >= 0 && this.accesses - before >= cutAt) {
          cut = true;
          break;
        }
      }
      if (cut) {
        // a kernel that is replaced at once: rings given back, nothing torn down; the truth stays until status is written
        this.freeRings();
        this.configVector = NONE;
        this.crashed = true;
        yield;
      }
    }
  }

  private *life(): Step {
    const { o, chance } = this;
    this.begun++;
    const st = o.personality === "modern" ? 0x14 : 0x12;
    st8(this.bar + st, 0);
    this.truth = null;
    this.accesses++;
    yield;
    if (this.crashed) {
      this.crashed = false;
      this.config.msixOn = false;
      yield;
    }
    if (o.personality === "modern") while ((yield* this.r(st, 1)) !== 0);
    else yield* this.r(st, 1);
    yield* this.status(st, 1);
    yield* this.status(st, 2);
    if (o.personality === "modern") yield* this.modernFeatures();
    else yield* this.legacyFeatures();
    let ok = false;
    const policies = o.msix ? ["each", "shared", "intx"] : ["intx"];
    for (const policy of policies) {
      // the last policy has no successor, so its failure is the probe's
      const failAt = chance.is(o.retry) ? chance.below(7) : -1;
      ok =
        o.personality === "modern"
          ? yield* this.modernQueues(policy, failAt)
          : yield* this.legacyQueues(policy, failAt);
      if (ok) break;
      yield* this.delQueues();
      this.retries++;
    }
    if (!ok) {
      this.failedProbes++;
      yield* this.status(st, 0x80);
      return false;
    }
    if (o.personality === "modern")
      for (let k = 0; k < 2; k++) {
        yield* this.w(0x16, 2, k);
        yield* this.w(0x1c, 2, 1);
      }
    const s = yield* this.r(st, 1);
    st8(this.bar + st, s | 4);
    this.accesses++;
    this.lives++;
    this.truth = {
      rings: this.rings.map((q) => ({ ...q })),
      msix: this.config.msixOn,
      configVector: this.config.msixOn ? this.configVector : NONE,
    };
    yield;
    for (let i = chance.below(30); i > 0; i--) {
      if (chance.is(0.3)) yield* this.w(o.personality === "modern" ? 0x3000 : 0x10, 2, chance.below(2));
      else yield;
    }
    // removal: reset, then the queues are torn down, or the next life begins at once
    st8(this.bar + st, 0);
    this.accesses++;
    this.truth = null;
    yield;
    yield* this.r(st, 1);
    yield* this.delQueues();
    yield* this.r(st, 1);
    if (chance.is(0.7)) yield* this.status(st, 1);
    return true;
  }

  private *status(off: number, bits: number): Generator<undefined, void, undefined> {
    const s = yield* this.r(off, 1);
    yield* this.w(off, 1, s | bits);
  }

  private *modernFeatures(): Generator<undefined, void, undefined> {
    const offered: number[] = [];
    for (let i = 0; i < this.o.words; i++) {
      yield* this.w(0x00, 4, i);
      offered.push(yield* this.r(0x04, 4));
    }
    for (let i = 0; i < this.o.words; i++) {
      yield* this.w(0x08, 4, i);
      yield* this.w(0x0c, 4, i < 2 ? offered[i]! : 0);
    }
    yield* this.status(0x14, 8);
    yield* this.r(0x14, 1);
    yield* this.r(0x15, 1);
    for (let i = 0; i < 6; i++) if ((yield* this.r(0x2000 + i, 1)) !== this.mac[i]) this.macWrong++;
    yield* this.r(0x15, 1);
  }

  private *legacyFeatures(): Generator<undefined, void, undefined> {
    const offered = yield* this.r(0x00, 4);
    yield* this.w(0x04, 4, offered);
    for (let i = 0; i < 6; i++) if ((yield* this.r(0x14 + i, 1)) !== this.mac[i]) this.macWrong++;
  }

  private *modernQueues(policy: string, failAt: number): Step {
    if (policy !== "intx") {
      if (failAt === 0) return false;
      this.config.msixOn = true;
      yield;
      yield* this.w(0x10, 2, 0);
      if ((yield* this.r(0x10, 2)) === NONE) return false;
      this.configVector = 0;
      if (failAt === 1) return false;
    }
    for (let k = 0; k < 2; k++) {
      if ((yield* this.r(0x12, 2)) <= k) return false;
      yield* this.w(0x16, 2, k);
      const size = yield* this.r(0x18, 2);
      yield* this.w(0x16, 2, k);
      if ((yield* this.r(0x1c, 2)) !== 0) return false;
      if (failAt === 2 + 2 * k) return false;
      const desc = this.alloc();
      const avail = desc + 16 * size;
      const used = Math.ceil((avail + 6 + 2 * size) / 64) * 64;
      const q: RingTruth = { size, desc, avail, used, vector: NONE };
      this.rings.push(q);
      yield* this.w(0x16, 2, k);
      yield* this.w(0x18, 2, size);
      yield* this.w(0x16, 2, k);
      let off = 0x20;
      for (const a of [desc, avail, used]) {
        yield* this.w(off, 4, (a % 2 ** 32) | 0);
        yield* this.w(off + 4, 4, Math.floor(a / 2 ** 32));
        off += 8;
      }
      if (policy !== "intx") {
        const v = policy === "each" ? 1 + k : 1;
        yield* this.w(0x16, 2, k);
        yield* this.w(0x1a, 2, v);
        if ((yield* this.r(0x1a, 2)) !== v) return false;
        q.vector = v;
      }
      yield* this.w(0x16, 2, k);
      yield* this.r(0x1e, 2);
      if (failAt === 3 + 2 * k) return false;
    }
    return failAt !== 6;
  }

  private *legacyQueues(policy: string, failAt: number): Step {
    if (policy !== "intx") {
      if (failAt === 0) return false;
      this.config.msixOn = true;
      yield;
      yield* this.w(0x14, 2, 0);
      if ((yield* this.r(0x14, 2)) === NONE) return false;
      this.configVector = 0;
      if (failAt === 1) return false;
    }
    for (let k = 0; k < 2; k++) {
      yield* this.w(0x0e, 2, k);
      const size = yield* this.r(0x0c, 2);
      yield* this.w(0x0e, 2, k);
      if ((yield* this.r(0x08, 4)) !== 0) return false;
      if (failAt === 2 + 2 * k) return false;
      const desc = this.alloc();
      const avail = desc + 16 * size;
      const used = Math.ceil((avail + 6 + 2 * size) / 4096) * 4096;
      const q: RingTruth = { size, desc, avail, used, vector: NONE };
      this.rings.push(q);
      yield* this.w(0x0e, 2, k);
      yield* this.w(0x08, 4, desc / 4096);
      if (policy !== "intx") {
        const v = policy === "each" ? 1 + k : 1;
        yield* this.w(0x0e, 2, k);
        yield* this.w(0x16, 2, v);
        if ((yield* this.r(0x16, 2)) !== v) return false;
        q.vector = v;
      }
      if (failAt === 3 + 2 * k) return false;
    }
    return failAt !== 6;
  }

  private *delQueues(): Generator<undefined, void, undefined> {
    const modern = this.o.personality === "modern";
    for (let k = 0; k < this.rings.length; k++) {
      if (modern) {
        yield* this.w(0x16, 2, k);
        yield* this.w(0x1a, 2, NONE);
        yield* this.r(0x1a, 2);
      } else {
        yield* this.w(0x0e, 2, k);
        if (this.config.msixOn) {
          yield* this.w(0x16, 2, NONE);
          yield* this.r(0x16, 2);
          yield* this.r(0x13, 1);
        }
        yield* this.w(0x0e, 2, k);
        yield* this.w(0x08, 4, 0);
      }
    }
    this.freeRings();
    if (this.config.msixOn) {
      yield* this.w(modern ? 0x10 : 0x14, 2, NONE);
      yield* this.r(modern ? 0x10 : 0x14, 2);
      this.config.msixOn = false;
      this.configVector = NONE;
      yield;
    }
  }
}
