/** Interrupts towards the host: MSI-X as list elements, masks, INTx pulses. Over the model's config space and link. */
import { describe, expect, test } from "bun:test";
import { Interrupts } from "../../src/engine/interrupts.ts";
import { findCap } from "../../src/hw/dbi.ts";
import { Iatu } from "../../src/hw/iatu.ts";
import { Intx, MsixTable } from "../../src/hw/irq.ts";
import { ld32, st32 } from "../../src/hw/mem.ts";
import { AddressSpace } from "../../src/hw/model/address-space.ts";
import { EndpointModel } from "../../src/hw/model/endpoint.ts";
import { CAP_ID_MSIX, MSIX_CTL_ENABLE, MSIX_CTL_FUNCTION_MASK } from "../../src/hw/pci.layout.ts";
import { NO_VECTOR } from "../../src/hw/virtio.layout.ts";
import { NoteChannel } from "../support/slow-fetcher.ts";

function rig(o: { msix?: boolean; hold?: number; capacity?: number } = {}) {
  const model = new EndpointModel({ boardMemory: 1 << 20 });
  const line: boolean[] = [];
  model.attach({ memory: new AddressSpace("host"), message: () => false, intx: (on) => line.push(on) });
  model.cfgWrite(4, 2, 6);
  const ctrl = model.controller();
  const region = ctrl.memory.alloc("table", 4096, 4096);
  const pba = region.ptr + 0x800;
  for (let v = 0; v < 8; v++) {
    st32(region.ptr + v * 16, (0xfee0_0000 + v * 0x1000) | 0);
    st32(region.ptr + v * 16 + 4, v);
    st32(region.ptr + v * 16 + 8, 0x5000 + v);
  }
  const control = (v: number): void => model.cfgWrite(findCap(ctrl, CAP_ID_MSIX) + 2, 2, v);
  const irq = new Interrupts(
    ctrl.memory,
    new MsixTable(ctrl, region.ptr, pba, 8),
    new Intx(ctrl, new Iatu(ctrl), 0, 1, 0),
    o.hold ?? 5,
  );
  const ch = new NoteChannel(o.capacity ?? 100);
  if (o.msix ?? true) control(MSIX_CTL_ENABLE);
  irq.attach(o.msix ?? true);
  /** what an element writes: address and data as it stands in its source now */
  const sent = () =>
    ch.puts.map((p) => ({
      addr: p.dar,
      data: ld32(ctrl.memory.regions[0]!.ptr + (p.sar - ctrl.memory.regions[0]!.bus)),
    }));
  const mask = (v: number, on: boolean): void => st32(region.ptr + v * 16 + 12, on ? 1 : 0);
  const pending = (v: number): number => (ld32(pba) >>> v) & 1;
  return { model, irq, ch, line, control, mask, pending, sent, region };
}

describe("MSI-X", () => {
  test("one element of 4 bytes with address and data of the entry", () => {
    const x = rig();
    for (const v of [0, 3, 7]) expect(x.irq.raise(x.ch, v)).toBe(1);
    expect(x.sent()).toEqual(
      [0, 3, 7].map((v) => ({ addr: v * 2 ** 32 + 0xfee0_0000 + v * 0x1000, data: 0x5000 + v })),
    );
    expect([x.irq.sent, x.irq.masked, x.irq.busy]).toEqual([3, 0, false]);
    expect(x.line).toEqual([]);
  });

  test("the data of an element stays when the entry changes behind it", () => {
    const x = rig();
    x.irq.raise(x.ch, 1);
    st32(x.region.ptr + 16 + 8, 0x9999);
    x.irq.raise(x.ch, 1);
    expect(x.sent().map((s) => s.data)).toEqual([0x5001, 0x9999]);
  });

  test("no vector, a vector outside the table, MSI-X off: nothing, and nothing is owed", () => {
    const x = rig();
    for (const v of [NO_VECTOR, 8, 100]) expect(x.irq.raise(x.ch, v)).toBe(0);
    x.control(0);
    expect(x.irq.raise(x.ch, 1)).toBe(0);
    expect([x.ch.puts.length, x.irq.sent, x.irq.busy, x.line]).toEqual([0, 0, false, []]);
  });

  test("a ring that begins anew while a message is held: the next life owes nothing", () => {
    const x = rig();
    x.mask(3, true);
    expect([x.irq.raise(x.ch, 3), x.irq.owed]).toEqual([0, true]);
    x.irq.attach(true);
    expect(x.irq.owed).toBe(false);
    x.irq.raise(x.ch, 3);
    x.mask(3, false);
    expect([x.irq.turn(x.ch), x.irq.owed, x.irq.sent]).toEqual([1, false, 1]);
  });

  test("masked entry: pending bit, held; one message when it is unmasked, however often it was raised", () => {
    const x = rig();
    x.mask(2, true);
    for (let i = 0; i < 5; i++) expect(x.irq.raise(x.ch, 2)).toBe(0);
    expect([x.pending(2), x.irq.masked, x.irq.owed, x.irq.busy]).toEqual([1, 5, true, false]);
    for (let i = 0; i < 10; i++) expect(x.irq.turn(x.ch)).toBe(0);
    expect(x.ch.puts.length).toBe(0);
    x.mask(2, false);
    expect(x.irq.turn(x.ch)).toBe(1);
    expect([x.pending(2), x.irq.owed, x.irq.sent]).toEqual([0, false, 1]);
    expect(x.sent()).toEqual([{ addr: 2 * 2 ** 32 + 0xfee0_2000, data: 0x5002 }]);
    expect(x.irq.turn(x.ch)).toBe(0);
  });

  test("masked, retargeted, unmasked: the message of the new entry", () => {
    const x = rig();
    x.mask(1, true);
    x.irq.raise(x.ch, 1);
    st32(x.region.ptr + 16, 0xfee7_0000 | 0);
    st32(x.region.ptr + 16 + 8, 0x1234);
    x.mask(1, false);
    x.irq.turn(x.ch);
    expect(x.sent()).toEqual([{ addr: 2 ** 32 + 0xfee7_0000, data: 0x1234 }]);
  });

  test("function mask: all are held, all come when it goes", () => {
    const x = rig();
    x.control(MSIX_CTL_ENABLE | MSIX_CTL_FUNCTION_MASK);
    for (const v of [0, 1, 5]) x.irq.raise(x.ch, v);
    expect([x.pending(0), x.pending(1), x.pending(5)]).toEqual([1, 1, 1]);
    x.irq.turn(x.ch);
    expect(x.ch.puts.length).toBe(0);
    x.control(MSIX_CTL_ENABLE);
    x.irq.turn(x.ch);
    expect(x.sent().map((s) => s.data)).toEqual([0x5000, 0x5001, 0x5005]);
    expect(x.irq.busy).toBe(false);
  });

  test("an unmasked message waits for room on the channel", () => {
    const x = rig({ capacity: 6 });
    x.mask(1, true);
    x.irq.raise(x.ch, 1);
    x.mask(1, false);
    for (let i = 0; i < 4; i++) x.ch.put(1, 0, 0, 0, 0);
    expect(x.irq.turn(x.ch)).toBe(0);
    expect(x.irq.owed).toBe(true);
    x.ch.land();
    expect(x.irq.turn(x.ch)).toBe(1);
    expect(x.irq.owed).toBe(false);
  });

  test("a new life owes nothing of the old one", () => {
    const x = rig();
    x.mask(1, true);
    x.irq.raise(x.ch, 1);
    x.irq.detach();
    expect([x.irq.owed, x.pending(1)]).toEqual([false, 0]);
    x.irq.attach(true);
    x.mask(1, false);
    expect(x.irq.turn(x.ch)).toBe(0);
    expect(x.ch.puts.length).toBe(0);
  });

  test("many more messages than slots: each carries its own data", () => {
    const x = rig({ capacity: 1 << 20 });
    for (let i = 0; i < 20_000; i++) {
      x.irq.raise(x.ch, i & 7);
      if ((i & 1023) === 1023) {
        const all = x.sent();
        for (let k = 0; k < all.length; k++) if (all[k]!.data !== 0x5000 + (k & 7)) throw new Error(`message ${k}`);
        x.ch.land();
        x.ch.puts.length = 0;
      }
    }
    expect(x.irq.sent).toBe(20_000);
  });
});

describe("INTx", () => {
  const turns = (x: ReturnType<typeof rig>, n: number): void => {
    for (let i = 0; i < n; i++) x.irq.turn(x.ch);
  };

  test("a pulse: asserted for the hold time, then taken back", () => {
    const x = rig({ msix: false, hold: 5 });
    expect(x.irq.raise(x.ch, NO_VECTOR)).toBe(0);
    expect(x.irq.busy).toBe(true);
    turns(x, 1);
    expect(x.line).toEqual([true]);
    turns(x, 3);
    expect(x.line).toEqual([true]);
    turns(x, 2);
    expect([x.line, x.irq.busy, x.irq.sent]).toEqual([[true, false], false, 1]);
    expect(x.ch.puts.length).toBe(0);
  });

  test("not before what was put in front of it has landed", () => {
    const x = rig({ msix: false, hold: 3 });
    x.ch.put(2, 0, 0, 0, 0);
    x.irq.raise(x.ch, 0);
    turns(x, 50);
    expect([x.line, x.irq.busy]).toEqual([[], true]);
    x.ch.put(2, 0, 0, 0, 0);
    x.irq.raise(x.ch, 0);
    x.ch.doneCount++;
    turns(x, 10);
    // the first may go, the second still waits for its own
    expect([x.line, x.irq.busy]).toEqual([[true, false], true]);
    x.ch.land();
    turns(x, 10);
    expect([x.line, x.irq.busy]).toEqual([[true, false, true, false], false]);
  });

  test("raised during a pulse: one more pulse follows, not one for each", () => {
    const x = rig({ msix: false, hold: 5 });
    x.irq.raise(x.ch, 0);
    turns(x, 1);
    for (let i = 0; i < 10; i++) x.irq.raise(x.ch, 0);
    turns(x, 40);
    expect([x.line, x.irq.busy]).toEqual([[true, false, true, false], false]);
  });

  test("Interrupt Disable: nothing is asserted, the pulse comes when the host clears the bit", () => {
    const x = rig({ msix: false, hold: 4 });
    x.model.cfgWrite(4, 2, 0x406);
    x.irq.raise(x.ch, 0);
    turns(x, 50);
    expect([x.line, x.irq.owed]).toEqual([[], true]);
    x.model.cfgWrite(4, 2, 6);
    turns(x, 20);
    expect([x.line, x.irq.owed]).toEqual([[true, false], false]);
  });

  test("the host goes while the line is asserted: it is taken back at once", () => {
    const x = rig({ msix: false });
    x.irq.raise(x.ch, 0);
    turns(x, 1);
    x.irq.raise(x.ch, 0);
    x.irq.detach();
    expect([x.line, x.irq.owed]).toEqual([[true, false], false]);
    turns(x, 20);
    expect(x.line).toEqual([true, false]);
  });

  test("10^5 pulses: every assert has its deassert", () => {
    const x = rig({ msix: false, hold: 2 });
    for (let i = 0; i < 100_000; i++) {
      x.irq.raise(x.ch, 0);
      x.irq.turn(x.ch);
    }
    turns(x, 10);
    expect(x.line.length).toBeGreaterThan(20_000);
    expect(x.line.length % 2).toBe(0);
    expect(x.line.every((on, i) => on === (i % 2 === 0))).toBe(true);
  });
});
