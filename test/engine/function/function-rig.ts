/** One personality over plain memory, and a driver's writes to it with two polls after each. */
import { NetConfig } from "../../../src/engine/function/config.ts";
import { FN_NONE, type HostFunction } from "../../../src/engine/function/host-function.ts";
import { LegacyFunction } from "../../../src/engine/function/legacy.ts";
import { ModernFunction } from "../../../src/engine/function/modern.ts";
import { mapAnonymous, st8, st16, st32, unmap } from "../../../src/hw/mem.ts";
import { BAR_SIZE, FakeConfig, MSIX_CAP } from "./plain-host.ts";

export const MAC = Uint8Array.from([2, 0, 0, 1, 0, 2]);
const bars: number[] = [];
/** Give the memory of all functions back; for afterEach(). */
export function releaseFunctions(): void {
  for (const b of bars.splice(0)) unmap(b, BAR_SIZE);
}

export function make(personality: "modern" | "legacy", features: number, msix = false) {
  const bar = mapAnonymous(BAR_SIZE);
  bars.push(bar);
  const config = new FakeConfig(bar);
  const parts = {
    bar,
    msixTablePtr: 0,
    pbaPtr: 0,
    vectors: msix ? 4 : 0,
    intxPin: true,
    dbi: config,
    msixCap: msix ? MSIX_CAP : 0,
    features,
    queueSize: 256,
    config: new NetConfig(MAC, 1500),
    intact: () => true,
    program: () => {},
    onClose: () => {},
  };
  const fn: HostFunction = personality === "modern" ? new ModernFunction(parts) : new LegacyFunction(parts);
  /** what poll() said that was not FN_NONE, two polls at a time */
  const seen: number[] = [];
  const poll = (): void => {
    for (let i = 0; i < 2; i++) {
      const e = fn.poll();
      if (e !== FN_NONE) seen.push(e);
    }
  };
  const w = (off: number, size: 1 | 2 | 4, v: number): void => {
    if (size === 1) st8(bar + off, v);
    else if (size === 2) st16(bar + off, v);
    else st32(bar + off, v);
    poll();
  };
  return { bar, fn, config, seen, poll, w };
}

export type FunctionRig = ReturnType<typeof make>;

export function begin({ w }: FunctionRig, words = 4): void {
  w(0x14, 1, 0);
  w(0x14, 1, 1);
  w(0x14, 1, 3);
  for (let i = 0; i < words; i++) w(0x00, 4, i);
  for (let i = 0; i < words; i++) {
    w(0x08, 4, i);
    w(0x0c, 4, i === 1 ? 1 : 0);
  }
  w(0x14, 1, 0xb);
}

export function setQueue({ w }: FunctionRig, k: number, size: number, desc: number, avail: number, used: number): void {
  w(0x16, 2, k);
  w(0x18, 2, size);
  w(0x16, 2, k);
  let off = 0x20;
  for (const a of [desc, avail, used]) {
    w(off, 4, (a % 2 ** 32) | 0);
    w(off + 4, 4, Math.floor(a / 2 ** 32));
    off += 8;
  }
  w(0x16, 2, k);
}

export function finish({ w }: FunctionRig): void {
  for (let k = 0; k < 2; k++) {
    w(0x16, 2, k);
    w(0x1c, 2, 1);
  }
  w(0x14, 1, 0xf);
}

/** table, available and used ring of a block at `desc` as Linux lays it out */
export const block = (desc: number, size = 256): [number, number, number] => [
  desc,
  desc + 16 * size,
  Math.ceil((desc + 16 * size + 6 + 2 * size) / 64) * 64,
];

const at = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);
export const rings = (fn: HostFunction): number[][] =>
  fn.queues.map((q) => [at(q.descLo, q.descHi), at(q.availLo, q.availHi), at(q.usedLo, q.usedHi)]);
