/** The function over a PlainHost's memory, and the judgement of what it captured. */
import { NetConfig } from "../../../src/engine/function/config.ts";
import { featureWord } from "../../../src/engine/function/features.ts";
import type { HostFunction } from "../../../src/engine/function/host-function.ts";
import { LegacyFunction } from "../../../src/engine/function/legacy.ts";
import { ModernFunction } from "../../../src/engine/function/modern.ts";
import { MSIX_CAP, type PlainHost } from "./plain-host.ts";

export function over(host: PlainHost, mac: Uint8Array): HostFunction {
  const { personality, msix } = host.o;
  const parts = {
    bar: host.bar,
    msixTablePtr: 0,
    pbaPtr: 0,
    vectors: msix ? 4 : 0,
    intxPin: true,
    dbi: host.config,
    msixCap: msix ? MSIX_CAP : 0,
    features: featureWord("default", personality),
    queueSize: 256,
    config: new NetConfig(mac, 1500),
    intact: () => true,
    program: () => {},
    onClose: () => {},
  };
  return personality === "modern" ? new ModernFunction(parts) : new LegacyFunction(parts);
}

const at = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);

/** "" when the function may be live with what it holds. */
export function judged(fn: HostFunction, host: PlainHost): string {
  const t = host.truth;
  if (t === null) return "live without a driver";
  if (fn.msix !== t.msix) return `MSI-X ${fn.msix}, host ${t.msix}`;
  for (let k = 0; k < 2; k++) {
    const c = fn.queues[k]!;
    const q = t.rings[k]!;
    const got = [c.size, at(c.descLo, c.descHi), at(c.availLo, c.availHi), at(c.usedLo, c.usedHi), c.vector];
    const want = [q.size, q.desc, q.avail, q.used, q.vector];
    for (let i = 0; i < 5; i++)
      if (got[i] !== want[i])
        return `queue ${k}: ${got.map((v) => v.toString(16))} for ${want.map((v) => v.toString(16))}`;
  }
  const hdr = host.o.personality === "legacy" ? 12 : host.o.words === 4 ? 24 : 12;
  if (fn.hdrLen !== hdr) return `header ${fn.hdrLen} for ${hdr}`;
  return "";
}
