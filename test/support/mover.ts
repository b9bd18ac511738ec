/** A board model with a host's plain memory, and pieces that are moved over one channel and compared byte by byte. */
import { afterEach } from "bun:test";
import type { Controller } from "../../src/hw/controller.ts";
import type { DmaChannel } from "../../src/hw/dma-channel.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import type { ModelOptions } from "../../src/hw/model/model-options.ts";
import { COMMAND_MASTER, PCI_COMMAND } from "../../src/hw/pci.layout.ts";
import { HOST_BASE, TestHost } from "../hw/model/bench-board.ts";

const open: { host: TestHost; model: EndpointModel }[] = [];
afterEach(() => {
  for (const { host, model } of open.splice(0)) {
    host.close();
    model.memory.close();
  }
});

export function plug(options: Partial<ModelOptions>): { model: EndpointModel; ctrl: Controller; host: TestHost } {
  const model = new EndpointModel({ boardMemory: 4 << 20, ...options });
  const host = new TestHost(options.strict ?? false);
  model.attach(host);
  model.cfgWrite(PCI_COMMAND, 2, COMMAND_MASTER);
  open.push({ host, model });
  return { model, ctrl: model.controller(), host };
}

export function rng(seed: number): () => number {
  let s = seed | 0;
  return () => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return (s >>> 0) / 2 ** 32;
  };
}

const SLOT = 64;

/** Moves random pieces over one channel and compares every byte when the channel says that it landed. */
export class Mover {
  checked = 0;
  private put = 0;
  private readonly slots: number;
  private readonly len: Int32Array;
  private readonly src: Int32Array;
  private readonly board: { u8: Uint8Array; bus: number };

  constructor(
    private readonly ch: DmaChannel,
    ctrl: Controller,
    private readonly host: TestHost,
    private readonly hostOff: number,
    private readonly r: () => number,
  ) {
    this.slots = ch.capacity + 1;
    this.len = new Int32Array(this.slots);
    this.src = new Int32Array(this.slots);
    this.board = ctrl.memory.alloc(`data-${ch.isWrite}`, this.slots * SLOT, 64);
    const from = ch.isWrite ? this.board.u8 : host.u8.subarray(hostOff, hostOff + this.slots * SLOT);
    for (let i = 0; i < from.length; i++) from[i] = r() * 256;
  }

  /** Put and commit up to `most` pieces. */
  append(most: number): void {
    const { ch } = this;
    let k = Math.min(most, ch.room());
    if (k === 0) return;
    if (most === 1) {
      this.next((size, sLo, sHi, dLo, dHi) => ch.send(size, sLo, sHi, dLo, dHi));
      return;
    }
    for (; k > 0; k--) this.next((size, sLo, sHi, dLo, dHi) => ch.put(size, sLo, sHi, dLo, dHi));
    ch.commit();
  }

  /** Prepare the next piece as a single transfer, where the channel rests. @returns whether it is; then fire(), or anything else */
  arm(): boolean {
    const { ch } = this;
    let armed = false;
    const before = this.put;
    this.next((size, sLo, sHi, dLo, dHi) => {
      armed = ch.arm!(size, sLo, sHi, dLo, dHi);
    });
    this.put = before;
    return armed;
  }

  /** Begin what was prepared. */
  fire(): void {
    this.ch.fire!();
    this.put++;
  }

  private next(use: (size: number, sLo: number, sHi: number, dLo: number, dHi: number) => void): void {
    const { ch, r, slots } = this;
    const slot = this.put % slots;
    const len = 1 + Math.floor(r() * SLOT);
    const src = Math.floor(r() * (slots * SLOT - len));
    this.len[slot] = len;
    this.src[slot] = src;
    const dst = slot * SLOT;
    const board = this.board.bus;
    const host = HOST_BASE + this.hostOff;
    const to = ch.isWrite ? this.host.u8 : this.board.u8;
    const at = ch.isWrite ? this.hostOff + dst : dst;
    to.fill(0xee, at, at + SLOT);
    const sar = ch.isWrite ? board + src : host + src;
    const dar = ch.isWrite ? host + dst : board + dst;
    use(len, sar | 0, Math.floor(sar / 2 ** 32), dar | 0, Math.floor(dar / 2 ** 32));
    this.put++;
  }

  /** Compare what the channel says has landed since the last time. @throws Error at the first byte that differs */
  check(): void {
    const done = this.ch.doneCount;
    for (; this.checked < done; this.checked++) {
      const slot = this.checked % this.slots;
      const from = this.ch.isWrite ? this.board.u8 : this.host.u8;
      const to = this.ch.isWrite ? this.host.u8 : this.board.u8;
      const f = this.src[slot]! + (this.ch.isWrite ? 0 : this.hostOff);
      const t = slot * SLOT + (this.ch.isWrite ? this.hostOff : 0);
      const len = this.len[slot]!;
      for (let i = 0; i < len; i++)
        if (to[t + i] !== from[f + i]) throw new Error(`element ${this.checked}, byte ${i} of ${len} differs`);
      if (len < SLOT && to[t + len] !== 0xee) throw new Error(`element ${this.checked}: written past its ${len} bytes`);
    }
  }
}
