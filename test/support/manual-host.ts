/**
 * A host that does exactly what a test says, access by access, to the whole engine (function, service loop, data
 * path) over the strict model. host.ts of the model is for drivers that behave; this is for looking at registers.
 */
import { afterEach } from "bun:test";
import { type Assembly, type AssemblyOptions, assemble } from "../../src/engine/assemble.ts";
import { findCap } from "../../src/hw/dbi.ts";
import type { DmaMemory } from "../../src/hw/dma-memory.ts";
import { DriverRing, type Grants } from "../../src/hw/driver-ring.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import { HostMemory } from "../../src/hw/model/host-memory.ts";
import { MODEL_CORES } from "../../src/hw/model/open-model.ts";
import type { NetPort } from "../../src/hw/net-port.ts";
import { CAP_ID_MSIX, MSIX_CTL_ENABLE, PCI_BAR0, PCI_COMMAND } from "../../src/hw/pci.layout.ts";
import * as V from "../../src/hw/virtio.layout.ts";
import { TestPort } from "./test-port.ts";

/** offsets of the modern structures in BAR0, from the capabilities (see caps()) */
export const ISR = 0x1000;
export const CONFIG = 0x2000;
export const NOTIFY = 0x3000;
const MSIX_BAR = 2;
const MSG = 0xfee0_0000;

export interface ManualOptions {
  core: keyof typeof MODEL_CORES;
  engine: Partial<AssemblyOptions>;
  patch: boolean;
  /** turns of the engine after every access of the host */
  pace: number;
  /** the board's side, in place of the TestPort that `port` is */
  makePort: (memory: DmaMemory, grants: Grants | null) => NetPort;
}

export interface VendorCap {
  readonly at: number;
  readonly len: number;
  readonly type: number;
  readonly bar: number;
  readonly offset: number;
  readonly length: number;
  readonly multiplier: number;
}

export interface SetupOptions {
  size: number;
  /** MSI-X vectors: null leaves MSI-X off (INTx) */
  vectors: { config: number; rx: number; tx: number } | null;
  /** feature words by select, as the driver writes them; default: what is offered, two words */
  features: readonly number[] | null;
  eventIdx: boolean;
  /** stop before DRIVER_OK */
  hold: boolean;
}

const SETUP: SetupOptions = {
  size: 64,
  vectors: { config: 0, rx: 1, tx: 2 },
  features: null,
  eventIdx: false,
  hold: false,
};

export class ManualHost {
  readonly model: EndpointModel;
  readonly memory: HostMemory;
  readonly engine: Assembly;
  readonly port: TestPort;
  readonly log: string[] = [];
  /** vector of every message interrupt; INTx edges */
  readonly messages: number[] = [];
  readonly line: boolean[] = [];
  /** frames that arrived on the board, and their headers */
  readonly frames: { frame: Uint8Array; hdr: Uint8Array }[] = [];
  rx: DriverRing | null = null;
  tx: DriverRing | null = null;
  pace: number;
  private at: number;
  private readonly ringAt: number[] = [];

  constructor(o: Partial<ManualOptions> = {}) {
    this.pace = o.pace ?? 4;
    this.model = new EndpointModel({ ...MODEL_CORES[o.core ?? "modern-msix"], strict: true, boardMemory: 32 << 20 });
    this.memory = new HostMemory({ bytes: 16 << 20, base: 0x1000_0000, strict: true });
    this.at = 1 << 20;
    this.model.attach({
      memory: this.memory.space,
      message: (addr, data) => {
        if (addr !== MSG) return false;
        this.messages.push(data - 0x40);
        return true;
      },
      intx: (on) => this.line.push(on),
    });
    const ctrl = this.model.controller();
    const say = (m: string): void => {
      this.log.push(m);
    };
    this.port = new TestPort(
      ctrl.memory,
      this.model.board.shadow,
      (frame, hdr) => this.frames.push({ frame: frame.slice(), hdr: hdr.slice() }),
      16,
      o.patch ?? true,
    );
    this.engine = assemble(
      ctrl,
      o.makePort?.(ctrl.memory, this.model.board.shadow) ?? this.port,
      { info: say, warn: say, error: say },
      {
        personality: "auto",
        mac: "02:00:00:0a:0b:0c",
        mtu: 1500,
        queueSize: 256,
        features: "default",
        irq: "auto",
        fetch: "edma",
        ...o.engine,
      },
    );
    this.model.cfgWrite(PCI_BAR0, 4, 0xc000_0000);
    this.model.cfgWrite(PCI_BAR0 + 4 * MSIX_BAR, 4, 0xc100_0000);
    this.model.cfgWrite(PCI_COMMAND, 2, 6);
    this.turns(4);
  }

  get live(): boolean {
    return this.engine.service.link === "live";
  }

  turns(n: number): void {
    const { service } = this.engine;
    const end = service.turns + n;
    while (service.turns < end) service.attend(service.slice(end - service.turns));
  }

  /** Read BAR0. */
  r(off: number, size: 1 | 2 | 4): number {
    const v = this.model.barRead(0, off, size) >>> 0;
    this.turns(this.pace);
    return v;
  }

  /** Write BAR0. */
  w(off: number, size: 1 | 2 | 4, value: number): void {
    this.model.barWrite(0, off, size, value >>> 0);
    this.turns(this.pace);
  }

  caps(): VendorCap[] {
    const c = (off: number, n: number): number => this.model.cfgRead(off, n) >>> 0;
    const out: VendorCap[] = [];
    for (let at = c(0x34, 1); at >= 0x40 && out.length < 20; at = c(at + 1, 1)) {
      if (c(at, 1) !== 9) continue;
      const len = c(at + 2, 1);
      out.push({
        at,
        len,
        type: c(at + 3, 1),
        bar: c(at + 4, 1),
        offset: c(at + 8, 4),
        length: c(at + 12, 4),
        multiplier: len >= 20 ? c(at + 16, 4) : 0,
      });
    }
    return out;
  }

  get msixCap(): number {
    return findCap(this.model.controller(), CAP_ID_MSIX);
  }

  msixControl(value: number): void {
    this.model.cfgWrite(this.msixCap + 2, 2, value);
    this.turns(this.pace);
  }

  /** Write table entry `v` and unmask it. */
  msixEntry(v: number, masked = false): void {
    for (const [off, value] of [
      [0, MSG],
      [4, 0],
      [8, 0x40 + v],
      [12, masked ? 1 : 0],
    ] as const)
      this.model.barWrite(MSIX_BAR, v * 16 + off, 4, value);
    this.turns(this.pace);
  }

  pendingBit(v: number): number {
    return (this.model.barRead(MSIX_BAR, 0x800, 4) >>> v) & 1;
  }

  alloc(bytes: number): number {
    this.at = (this.at + 127) & ~63;
    const at = this.at;
    this.at += bytes;
    return this.memory.base + at;
  }

  bytes(bus: number, len: number): Uint8Array {
    const at = bus - this.memory.base;
    return this.memory.u8.subarray(at, at + len);
  }

  private ring(k: number, size: number, align: number, eventIdx: boolean, place = 0): DriverRing {
    const off = 65536 * (1 + 2 * k) + place;
    this.ringAt[k] = this.memory.base + off;
    return new DriverRing({
      size,
      mem: { ptr: this.memory.ptr + off, busBase: this.memory.base + off },
      align,
      eventIdx,
      grants: this.memory.grants,
    });
  }

  private enableVectors(v: SetupOptions["vectors"]): void {
    if (v === null) return;
    this.msixControl(MSIX_CTL_ENABLE);
    for (const n of new Set([v.config, v.rx, v.tx])) if (n !== V.NO_VECTOR) this.msixEntry(n);
  }

  /** The steps of 3.1.1 towards a modern function, in Linux's order. */
  modern(o: Partial<SetupOptions> = {}): void {
    const s = { ...SETUP, ...o };
    const C = (off: number): number => off;
    this.w(C(V.COMMON_STATUS), 1, 0);
    this.w(C(V.COMMON_STATUS), 1, V.STATUS_ACKNOWLEDGE);
    this.w(C(V.COMMON_STATUS), 1, V.STATUS_ACKNOWLEDGE | V.STATUS_DRIVER);
    const words: number[] = [];
    const count = s.features?.length ?? 2;
    for (let i = 0; i < count; i++) {
      this.w(C(V.COMMON_DFSELECT), 4, i);
      words.push(this.r(C(V.COMMON_DF), 4));
    }
    for (let i = 0; i < count; i++) {
      this.w(C(V.COMMON_GFSELECT), 4, i);
      this.w(C(V.COMMON_GF), 4, s.features?.[i] ?? words[i]!);
    }
    this.w(C(V.COMMON_STATUS), 1, 0xb);
    this.enableVectors(s.vectors);
    if (s.vectors !== null) this.w(C(V.COMMON_MSIX), 2, s.vectors.config);
    this.rx = this.ring(0, s.size, 64, s.eventIdx);
    this.tx = this.ring(1, s.size, 64, s.eventIdx);
    this.setQueue(0, this.rx, s.vectors?.rx ?? null);
    this.setQueue(1, this.tx, s.vectors?.tx ?? null);
    for (let k = 0; k < 2; k++) {
      this.w(C(V.COMMON_Q_SELECT), 2, k);
      this.w(C(V.COMMON_Q_ENABLE), 2, 1);
    }
    if (!s.hold) this.ok();
  }

  private setQueue(k: number, r: DriverRing, vector: number | null): void {
    this.w(V.COMMON_Q_SELECT, 2, k);
    this.w(V.COMMON_Q_SIZE, 2, r.size);
    for (const [off, bus] of [
      [V.COMMON_Q_DESCLO, r.descBus],
      [V.COMMON_Q_AVAILLO, r.availBus],
      [V.COMMON_Q_USEDLO, r.usedBus],
    ] as const) {
      this.w(off, 4, bus);
      this.w(off + 4, 4, Math.floor(bus / 2 ** 32));
    }
    if (vector !== null) this.w(V.COMMON_Q_MSIX, 2, vector);
  }

  /** 2.6.1: reset queue `k` and wait for the device. @returns polls until it said so, -1 when it did not */
  resetQueue(k: number): number {
    this.w(V.COMMON_Q_SELECT, 2, k);
    this.w(V.COMMON_Q_RESET, 2, 1);
    for (let i = 0; i < 200; i++) if (this.r(V.COMMON_Q_RESET, 2) === 0) return i;
    return -1;
  }

  /** Set queue `k` up again after resetQueue(), its ring elsewhere and of another size. */
  enableQueue(k: 0 | 1, size: number, vector: number | null, eventIdx = false): void {
    (k === 0 ? this.rx : this.tx)?.release();
    const r = this.ring(k, size, 64, eventIdx, 32768);
    if (k === 0) this.rx = r;
    else this.tx = r;
    this.setQueue(k, r, vector);
    this.w(V.COMMON_Q_ENABLE, 2, 1);
    this.turns(20);
  }

  ok(): void {
    this.w(V.COMMON_STATUS, 1, 0xf);
    this.turns(20);
  }

  /** The steps of 3.1.2 towards a legacy function, in Linux's order. */
  legacy(o: Partial<SetupOptions> = {}): void {
    const s = { ...SETUP, ...o };
    this.w(V.LEGACY_STATUS, 1, 0);
    this.w(V.LEGACY_STATUS, 1, 1);
    this.w(V.LEGACY_STATUS, 1, 3);
    const offered = this.r(V.LEGACY_HOST_FEATURES, 4);
    this.w(V.LEGACY_GUEST_FEATURES, 4, s.features?.[0] ?? offered);
    this.enableVectors(s.vectors);
    if (s.vectors !== null) this.w(V.LEGACY_MSI_CONFIG_VECTOR, 2, s.vectors.config);
    const size = this.r(V.LEGACY_QUEUE_NUM, 2);
    this.rx = this.ring(0, size, 4096, s.eventIdx);
    this.tx = this.ring(1, size, 4096, s.eventIdx);
    for (let k = 0; k < 2; k++) {
      this.w(V.LEGACY_QUEUE_SEL, 2, k);
      this.w(V.LEGACY_QUEUE_PFN, 4, this.ringAt[k]! / 4096);
      if (s.vectors !== null) this.w(V.LEGACY_MSI_QUEUE_VECTOR, 2, k === 0 ? s.vectors.rx : s.vectors.tx);
    }
    if (s.hold) return;
    this.w(V.LEGACY_STATUS, 1, 7);
    this.turns(20);
  }

  /** Post a receive buffer. @returns its address */
  post(bytes: number): number {
    const bus = this.alloc(bytes);
    this.rx!.addOne(bus | 0, Math.floor(bus / 2 ** 32), bytes, true);
    this.rx!.publish();
    return bus;
  }

  /** Transmit a frame, header first. */
  send(frame: Uint8Array): void {
    const bus = this.alloc(frame.length);
    this.bytes(bus, frame.length).set(frame);
    this.tx!.addOne(bus | 0, Math.floor(bus / 2 ** 32), frame.length, false);
    this.tx!.publish();
  }

  /** The driver gives its memory up, as after a reset. */
  release(): void {
    this.rx?.release();
    this.tx?.release();
    this.rx = this.tx = null;
  }

  close(): void {
    this.engine.service.shutdown(100);
    this.engine.edma.quiesce();
    if (this.model.violationCount > 0) throw new Error(`strict mode: ${this.model.violations[0]}`);
    this.memory.close();
    this.model.close();
  }
}

/** For a file of tests: makes hosts that are closed behind the test which asked for them. */
export function manualHosts(): (o?: Partial<ManualOptions>) => ManualHost {
  const hosts: ManualHost[] = [];
  afterEach(() => {
    for (const h of hosts.splice(0)) h.close();
  });
  return (o = {}) => {
    const h = new ManualHost(o);
    hosts.push(h);
    return h;
  };
}
