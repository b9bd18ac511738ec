/**
 * A data path over the strict model with rings that a test writes descriptor by descriptor, every DMA access on
 * record, and a listening interrupt controller. For tests that need one exact situation; pair-rig.ts is for many random ones.
 */

import { DataPath } from "../../src/engine/datapath.ts";
import { EdmaFetcher, type Fetch, type Fetcher, WindowFetcher } from "../../src/engine/fetch.ts";
import { NotifyWord } from "../../src/engine/function/notify.ts";
import { Interrupts } from "../../src/engine/interrupts.ts";
import { CHANNEL_ELEMENTS, type DirectionLimits } from "../../src/engine/tuning.ts";
import { findCap } from "../../src/hw/dbi.ts";
import type { DmaChannel } from "../../src/hw/dma-channel.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import type { DriverRing } from "../../src/hw/driver-ring.ts";
import { Edma } from "../../src/hw/edma.ts";
import { Iatu } from "../../src/hw/iatu.ts";
import { Intx, MsixTable } from "../../src/hw/irq.ts";
import { ld16, st16, st32 } from "../../src/hw/mem.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import { HostMemory } from "../../src/hw/model/host-memory.ts";
import type { Requester } from "../../src/hw/model/link.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import type { LocalBuffers, NetPort, PortFeatures } from "../../src/hw/net-port.ts";
import { CAP_ID_MSIX, MSIX_CTL_ENABLE } from "../../src/hw/pci.layout.ts";
import { StripedChannel } from "../../src/hw/striped-channel.ts";
import { addresses } from "./pair-rig.ts";
import { Side } from "./side.ts";

export type { Chain } from "./side.ts";

export interface RingRigOptions {
  hostQueue: number;
  boardQueue: number;
  hdrLen: number;
  /** header of the board's frames, 0: the same as the host's */
  boardHdrLen: number;
  mergeable: boolean;
  boardMergeable: boolean;
  /** 0: the host's driver did not take F_MTU */
  mtu: number;
  eventIdx: boolean;
  indirect: boolean;
  /** the board's header may be patched in place */
  patch: boolean;
  irq: "msix" | "intx";
  rxVector: number;
  txVector: number;
  /** turns an INTx pulse lasts */
  holdTurns: number;
  fetch: Fetch;
  /** frames to the host over two channels */
  stripe: boolean;
  limits: DirectionLimits;
  model: Partial<ModelOptions>;
  hostBase: number;
  /** where the counts of the channels begin */
  count: number;
  /** the host's driver tells its avail index, see tell() */
  notices: boolean;
}

const DEFAULTS: RingRigOptions = {
  hostQueue: 16,
  boardQueue: 16,
  hdrLen: 12,
  boardHdrLen: 0,
  mergeable: true,
  boardMergeable: true,
  mtu: 0,
  eventIdx: false,
  indirect: false,
  patch: false,
  stripe: false,
  irq: "msix",
  rxVector: 1,
  txVector: 2,
  holdTurns: 4,
  fetch: "edma",
  limits: { burst: 64, inflightBytes: 512 * 1024 },
  model: {},
  hostBase: 0x1_0000_0000,
  count: 0,
  notices: false,
};

/** One DMA access to the host, in the order it was made. `what` names the part of a ring, or "buffer". */
export interface Access {
  readonly what: string;
  readonly write: boolean;
  readonly addr: number;
  readonly len: number;
}

export const MSIX_ADDR = 0xfee0_0000;
const msixData = (v: number): number => 0x4020 + v;

export class RingRig {
  readonly model: EndpointModel;
  readonly memory: HostMemory;
  readonly host: Side;
  readonly board: Side;
  readonly dp: DataPath;
  readonly irq: Interrupts;
  readonly write: DmaChannel;
  readonly read: DmaChannel;
  readonly fetch: DmaChannel;
  readonly o: RingRigOptions;
  readonly trace: Access[] = [];
  /** MSI-X vectors in the order they arrived; INTx edges as 1 (assert) and 0 */
  readonly messages: number[] = [];
  readonly line: number[] = [];
  /** queues of the board that were notified */
  readonly notified: number[] = [];
  readonly tablePtr: number;
  readonly pbaPtr: number;
  /** changed by a test to play a restart of the board's driver */
  port: NetPort & { ready: boolean; generation: number; rx: DriverRing; tx: DriverRing };
  private readonly edma: Edma;
  private readonly bell: DmaRegion;
  private readonly names: { at: number; end: number; what: string }[] = [];

  constructor(options: Partial<RingRigOptions> = {}) {
    const o = { ...DEFAULTS, ...options };
    this.o = o;
    this.model = new EndpointModel({ strict: true, boardMemory: 32 << 20, ...o.model });
    this.memory = new HostMemory({ bytes: 32 << 20, base: o.hostBase, strict: true });
    this.model.attach({
      memory: this.memory.space,
      message: (addr, data) => {
        if (addr !== MSIX_ADDR) return false;
        this.messages.push(data - msixData(0));
        return true;
      },
      intx: (on) => this.line.push(on ? 1 : 0),
    });
    this.model.cfgWrite(4, 2, 6);
    const ctrl = this.model.controller();
    const iatu = new Iatu(ctrl);
    this.edma = new Edma(ctrl);
    const first = this.edma.open(true, 0, CHANNEL_ELEMENTS);
    this.write = o.stripe ? new StripedChannel(first, this.edma.open(true, 1, CHANNEL_ELEMENTS)) : first;
    this.read = this.edma.open(false, 0, CHANNEL_ELEMENTS);
    this.fetch = this.edma.readChannels > 1 ? this.edma.open(false, 1, CHANNEL_ELEMENTS) : this.read;
    for (const ch of new Set([this.write, this.read, this.fetch])) {
      ch.putCount = o.count;
      ch.start();
    }
    const area: DmaRegion = ctrl.memory.alloc("eq.test", 16 << 20, 4096);
    this.board = new Side(area.bus, area.u8, area.ptr, o.boardQueue, false, false, this.model.board.shadow);
    const m = this.memory;
    this.host = new Side(m.base, m.u8, m.ptr, o.hostQueue, o.eventIdx, o.indirect, m.grants);
    this.nameRing("rx", this.host.rx);
    this.nameRing("tx", this.host.tx);
    const buffers: LocalBuffers = {
      base: area.bus,
      busBase: area.bus,
      u8: area.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => -1,
    };
    this.port = {
      kind: "test",
      netdev: "",
      ready: true,
      generation: 1,
      rx: this.board.rx,
      tx: this.board.tx,
      buffers,
      txHeaderWritable: o.patch,
      rxMergeable: o.boardMergeable,
      resumeIdx: () => 0,
      start: (_: PortFeatures) => {},
      stop: () => {},
      turn: () => 0,
      copiedBytes: 0,
      notify: (q) => this.notified.push(q),
      setLink: () => {},
      waitFds: [],
      close: () => {},
    };
    const table = ctrl.memory.alloc("msix", 4096, 4096);
    this.tablePtr = table.ptr;
    this.pbaPtr = table.ptr + 0x800;
    for (let v = 0; v < 4; v++) {
      st32(table.ptr + v * 16, MSIX_ADDR | 0);
      st32(table.ptr + v * 16 + 8, msixData(v));
    }
    const msix = o.irq === "msix" ? new MsixTable(ctrl, this.tablePtr, this.pbaPtr, 4) : null;
    if (msix !== null) this.msixControl(MSIX_CTL_ENABLE);
    this.irq = new Interrupts(ctrl.memory, msix, new Intx(ctrl, iatu, 0, 1, 0), o.holdTurns);
    const fetcher: Fetcher =
      o.fetch !== "window"
        ? new EdmaFetcher(this.fetch, o.fetch === "edma")
        : new WindowFetcher(ctrl, iatu, 2, ctrl.core.outboundWindows - 2, ctrl.core.windowAlign);
    const channels = { write: this.write, read: this.read, fetch: this.fetch };
    this.dp = new DataPath(ctrl, this.port, channels, fetcher, this.irq, o.hostQueue, o.limits);
    this.bell = ctrl.memory.alloc("bell.test", 64, 64);
    this.listen();
    this.attach();
  }

  /** Begin a life with the rings as they are. @param fresh which of them are new, as in DataPathLife @param tx another one to transmit */
  attach(fresh = 3, tx = this.host.tx): void {
    const { o } = this;
    this.dp.attach(
      {
        rx: addresses(this.host.rx),
        tx: addresses(tx),
        rxVector: o.rxVector,
        txVector: o.txVector,
        hdrLen: o.hdrLen,
        ...(o.boardHdrLen > 0 ? { boardHdrLen: o.boardHdrLen } : {}),
        mergeable: o.mergeable,
        eventIdx: o.eventIdx,
        indirect: o.indirect,
        boardMergeable: o.boardMergeable,
        mtu: o.mtu,
        msix: o.irq === "msix",
        notices: o.notices ? new NotifyWord(this.bell.ptr) : null,
      },
      fresh,
    );
  }

  /** The host's notification of what it transmits. */
  tell(tx = this.host.tx): void {
    st32(this.bell.ptr, (tx.avail[1]! << 16) | 1);
  }

  private nameRing(name: string, r: DriverRing): void {
    const n = r.size;
    const part = (at: number, len: number, what: string): void => {
      this.names.push({ at, end: at + len, what: `${name}.${what}` });
    };
    part(r.descBus, 16 * n, "desc");
    part(r.availBus, 4, "avail.idx");
    part(r.availBus + 4, 2 * n, "avail.ring");
    part(r.availBus + 4 + 2 * n, 2, "used_event");
    part(r.usedBus, 2, "used.flags");
    part(r.usedBus + 2, 2, "used.idx");
    part(r.usedBus + 4, 8 * n, "used.ring");
    part(r.usedBus + 4 + 8 * n, 2, "avail_event");
  }

  private listen(): void {
    const link = this.model.link;
    const post = link.post.bind(link);
    const fetch = link.fetch.bind(link);
    const note = (write: boolean, addr: number, len: number): void => {
      const what = this.names.find((x) => addr >= x.at && addr < x.end)?.what;
      this.trace.push({ what: what ?? (addr === MSIX_ADDR ? "msix" : "buffer"), write, addr, len });
    };
    link.post = (addr: number, ptr: number, len: number, who: Requester): void => {
      note(true, addr, len);
      post(addr, ptr, len, who);
    };
    link.fetch = (addr: number, ptr: number, len: number, who: Requester): number => {
      note(false, addr, len);
      return fetch(addr, ptr, len, who);
    };
  }

  /** Write the message control word of the MSI-X capability, as the host does. */
  msixControl(value: number): void {
    const cap = findCap(this.model.controller(), CAP_ID_MSIX);
    this.model.cfgWrite(cap + 2, 2, value);
  }

  maskVector(v: number, masked: boolean): void {
    st32(this.tablePtr + v * 16 + 12, masked ? 1 : 0);
  }

  /** One turn of model and data path. @returns what the data path returned */
  step(): number {
    this.model.turn();
    return this.dp.turn();
  }

  /** `n` turns; throws on a fault. */
  turns(n: number): void {
    for (let i = 0; i < n; i++) {
      const rc = this.step();
      if (rc < 0) throw new Error(`data path: code ${rc}, ${this.dp.culprit} a=${this.dp.a} b=${this.dp.b}`);
    }
  }

  /** Turns until nothing moves any more. */
  settle(): void {
    this.turns(24);
    for (let i = 0; i < 200 && !(this.dp.quiet && this.dp.drained); i++) this.turns(1);
    this.turns(12);
  }

  /** Turns until a fault. @returns code and the two numbers */
  fault(): { code: number; culprit: string; a: number; b: number } {
    for (let i = 0; i < 500; i++) {
      const rc = this.step();
      if (rc < 0) return { code: rc, culprit: this.dp.culprit, a: this.dp.a, b: this.dp.b };
    }
    return { code: 0, culprit: "", a: 0, b: 0 };
  }

  /** used index of a ring, and its element `i` (free-running) */
  usedIdx(r: DriverRing): number {
    return ld16(r.usedPtr + 2);
  }
  used(r: DriverRing, i: number): { id: number; len: number } {
    ld16(r.usedPtr + 2);
    const w = (i & (r.size - 1)) * 2;
    return { id: r.usedElem[w]!, len: r.usedElem[w + 1]! };
  }

  /** Move an avail index without adding anything. */
  setAvailIdx(r: DriverRing, idx: number): void {
    st16(r.availPtr + 2, idx & 0xffff);
  }

  setInterruptFlag(r: DriverRing, noInterrupt: boolean): void {
    st16(r.availPtr, noInterrupt ? 1 : 0);
  }

  setUsedEvent(r: DriverRing, event: number): void {
    st16(r.availPtr + 4 + 2 * r.size, event & 0xffff);
  }

  get violations(): readonly string[] {
    return this.model.violations;
  }

  close(): void {
    this.edma.quiesce();
    if (this.model.violationCount > 0) throw new Error(`strict mode: ${this.model.violations[0]}`);
    this.memory.close();
    this.model.close();
  }
}

/** A frame with header: header bytes 0 except `set`, then `bytes` of a pattern. */
export function frame(hdrLen: number, bytes: number, seed = 1, set: Record<number, number> = {}): Uint8Array {
  const f = new Uint8Array(hdrLen + bytes);
  for (const [i, v] of Object.entries(set)) f[Number(i)] = v;
  for (let i = 0; i < bytes; i++) f[hdrLen + i] = (i * 7 + seed * 31 + (i >> 8)) & 0xff;
  return f;
}

/** What arrives on the other side: the same with num_buffers set. */
export function withBuffers(f: Uint8Array, buffers: number): Uint8Array {
  const g = f.slice();
  g[10] = buffers & 0xff;
  g[11] = buffers >>> 8;
  return g;
}
