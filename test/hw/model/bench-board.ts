/** Shared by the model's tests: an endpoint, a host with plain memory, and the smallest way to write lists. */
import type { DmaRegion } from "../../../src/hw/dma-memory.ts";
import {
  CTL_CB,
  CTL_CCS,
  CTL_CS_MASK,
  CTL_CS_SHIFT,
  CTL_LLE,
  CTL_LLP,
  CTL_TCB,
  contextOffset,
  EDMA,
  EDMA_CH,
  EDMA_VP,
  VIEWPORT_CONTEXT,
  VIEWPORT_READ,
} from "../../../src/hw/edma.regs.ts";
import { mapAnonymous, unmap, view } from "../../../src/hw/mem.ts";
import type { Mmio } from "../../../src/hw/mmio.ts";
import { AddressSpace, REGION_READ, REGION_WRITE } from "../../../src/hw/model/address-space.ts";
import { EndpointModel } from "../../../src/hw/model/endpoint.ts";
import type { HostSide } from "../../../src/hw/model/host-side.ts";
import type { ModelOptions } from "../../../src/hw/model/model-options.ts";
import { GRANT_READ, GRANT_WRITE } from "../../../src/hw/model/shadow.ts";
import { COMMAND_MASTER, COMMAND_MEMORY, PCI_COMMAND } from "../../../src/hw/pci.layout.ts";

/** where the test host has its memory: above 4 GiB, so that 32-bit address handling shows */
export const HOST_BASE = 0x1_2000_0000;
export const HOST_SIZE = 1 << 20;

export class TestHost implements HostSide {
  readonly memory: AddressSpace;
  readonly ptr = mapAnonymous(HOST_SIZE);
  readonly u8 = new Uint8Array(view(this.ptr, HOST_SIZE));
  readonly messages: [addr: number, data: number][] = [];
  readonly intxEdges: boolean[] = [];

  constructor(strict: boolean, granted = true) {
    this.memory = new AddressSpace("host", { strict });
    this.memory.add(HOST_BASE, HOST_SIZE, this.ptr, REGION_READ | REGION_WRITE);
    if (granted) this.memory.shadow?.grant(HOST_BASE, HOST_SIZE, GRANT_READ | GRANT_WRITE);
  }
  message(addr: number, data: number): boolean {
    if (addr < 0xfee00000 || addr > 0xfeefffff) return false;
    this.messages.push([addr, data]);
    return true;
  }
  intx(asserted: boolean): void {
    this.intxEdges.push(asserted);
  }
  close(): void {
    this.memory.remove(HOST_BASE, HOST_SIZE);
    unmap(this.ptr, HOST_SIZE);
  }
}

/** Registers of one channel, through whichever map the core has. */
export class TestChannel {
  readonly dma: Mmio;
  readonly isWrite: boolean;
  readonly index: number;
  readonly legacy: boolean;

  constructor(dma: Mmio, legacy: boolean, isWrite: boolean, index: number) {
    this.dma = dma;
    this.legacy = legacy;
    this.isWrite = isWrite;
    this.index = index;
  }
  #at(off: number): number {
    if (!this.legacy) return contextOffset(this.isWrite, this.index) + off;
    this.dma.st32(EDMA_VP.VIEWPORT_SEL, (this.isWrite ? 0 : VIEWPORT_READ) | this.index);
    return VIEWPORT_CONTEXT + off;
  }
  get(off: number): number {
    return this.dma.ld32(this.#at(off));
  }
  set(off: number, value: number): void {
    this.dma.st32(this.#at(off), value);
  }
  get cs(): number {
    return (this.get(EDMA_CH.CH_CONTROL1) & CTL_CS_MASK) >> CTL_CS_SHIFT;
  }
  get llp(): number {
    return this.get(EDMA_CH.CH_LLP_HI) * 2 ** 32 + this.get(EDMA_CH.CH_LLP_LO);
  }
  doorbell(): void {
    this.dma.st32(this.isWrite ? EDMA.WR_DOORBELL : EDMA.RD_DOORBELL, this.index);
  }
  /** first start of a list, in Linux's order */
  start(llp: number): void {
    this.dma.st32(this.isWrite ? EDMA.WR_ENGINE_EN : EDMA.RD_ENGINE_EN, 1);
    this.dma.st32(this.isWrite ? EDMA.WR_INT_MASK : EDMA.RD_INT_MASK, 0);
    this.set(EDMA_CH.CH_CONTROL1, CTL_CCS | CTL_LLE);
    this.set(EDMA_CH.CH_LLP_LO, llp | 0);
    this.set(EDMA_CH.CH_LLP_HI, Math.floor(llp / 2 ** 32));
    this.doorbell();
  }
  get status(): number {
    return this.dma.ld32(this.isWrite ? EDMA.WR_INT_STATUS : EDMA.RD_INT_STATUS);
  }
  clear(bits: number): void {
    this.dma.st32(this.isWrite ? EDMA.WR_INT_CLEAR : EDMA.RD_INT_CLEAR, bits);
  }
}

/** A list of n data slots and a link at the end. */
export class TestList {
  readonly region: DmaRegion;
  constructor(region: DmaRegion) {
    this.region = region;
  }
  slot(i: number): number {
    return this.region.bus + 24 * i;
  }
  data(i: number, control: number, size: number, sar: number, dar: number): void {
    const w = i * 6;
    const v = this.region.i32;
    v[w + 1] = size;
    v[w + 2] = sar | 0;
    v[w + 3] = Math.floor(sar / 2 ** 32);
    v[w + 4] = dar | 0;
    v[w + 5] = Math.floor(dar / 2 ** 32);
    v[w] = control;
  }
  link(i: number, cb: number, to = this.region.bus): void {
    const w = i * 6;
    const v = this.region.i32;
    v[w + 2] = to | 0;
    v[w + 3] = Math.floor(to / 2 ** 32);
    v[w] = CTL_LLP | CTL_TCB | (cb ? CTL_CB : 0);
  }
}

export interface Bench {
  model: EndpointModel;
  host: TestHost;
  data: DmaRegion;
  list: TestList;
  wr: TestChannel;
  rd: TestChannel;
  channel(isWrite: boolean, index: number): TestChannel;
  turns(n: number): void;
}

/** An endpoint in strict mode whose host has switched memory decoding and bus mastering on. */
export function bench(options: Partial<ModelOptions> = {}, hostGranted = true): Bench {
  const model = new EndpointModel({ strict: true, boardMemory: 4 << 20, ...options });
  const host = new TestHost(options.strict ?? true, hostGranted);
  model.attach(host);
  model.cfgWrite(PCI_COMMAND, 2, COMMAND_MEMORY | COMMAND_MASTER);
  const ctrl = model.controller();
  const legacy = model.options.dmaMap === "legacy";
  const channel = (isWrite: boolean, index: number) => new TestChannel(ctrl.dma, legacy, isWrite, index);
  const list = new TestList(ctrl.memory.alloc("list", 4096, 4096));
  return {
    model,
    host,
    data: ctrl.memory.alloc("data", 1 << 20, 4096),
    list,
    wr: channel(true, 0),
    rd: channel(false, 0),
    channel,
    turns(n) {
      for (let i = 0; i < n; i++) model.turn();
    },
  };
}
