/** The mirror of a host's ring over memory of the test, with fetches that land when the test says so. */
import { HostRing } from "../../src/engine/host-ring.ts";
import { Segments } from "../../src/engine/segments.ts";
import { TUNING, type Tuning } from "../../src/engine/tuning.ts";
import { DriverRing, ringLayout } from "../../src/hw/driver-ring.ts";
import { st16 } from "../../src/hw/mem.ts";
import { addresses } from "./pair-rig.ts";
import { type TestMemory, testMemory } from "./ring-memory.ts";
import { NoteChannel, SlowFetcher } from "./slow-fetcher.ts";

const memories: TestMemory[] = [];
/** Give the memory of all rigs back; for afterEach(). */
export function releaseMirrors(): void {
  for (const m of memories.splice(0)) m.release();
}

export interface MirrorOptions {
  size: number;
  write: number;
  eventIdx: boolean;
  indirect: boolean;
  base: number;
  tuning: Partial<Tuning>;
}

export function mirrorRig(o: Partial<MirrorOptions> = {}) {
  const size = o.size ?? 16;
  const host = testMemory(ringLayout(size, 4096).bytes + 65536, o.base ?? 0x3_0000_0000);
  const board = testMemory(8 << 20, 0x4000_0000);
  memories.push(host, board);
  const r = new DriverRing({
    size,
    mem: { ptr: host.ptr, busBase: host.busBase },
    align: 4096,
    eventIdx: o.eventIdx ?? false,
  });
  const fetcher = new SlowFetcher(host);
  const tuning = { ...TUNING, ...o.tuning };
  const hq = new HostRing("hq.test", o.write ?? 0, board, fetcher, size, tuning);
  hq.attach(addresses(r), o.eventIdx ?? false, o.indirect ?? false);
  const out = new Segments();
  /** Descriptor i as words. */
  const desc = (i: number, addr: number, len: number, flags: number, next = 0): void => {
    r.desc.set([addr | 0, Math.floor(addr / 2 ** 32), len, flags | (next << 16)], i * 4);
  };
  let avail = 0;
  /** Make these heads available. */
  const offer = (...heads: number[]): void => {
    for (const h of heads) {
      r.avail[2 + (avail & (size - 1))] = h;
      avail = (avail + 1) & 0xffff;
    }
    st16(r.availPtr + 2, avail);
  };
  /** Steps with everything landing at once, until nothing changes. @returns the last code */
  const run = (steps = 60): number => {
    for (let i = 0; i < steps; i++) {
      const rc = hq.step(true);
      if (rc < 0) return rc;
      fetcher.land();
    }
    return 0;
  };
  const tableAt = host.busBase + ringLayout(size, 4096).bytes;
  return { host, board, r, fetcher, hq, out, desc, offer, run, tableAt, ch: new NoteChannel() };
}

export type MirrorRig = ReturnType<typeof mirrorRig>;
