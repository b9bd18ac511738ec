/** The linked-list protocol of the model against dw-hardware.md 2 and 3 (and 14). */
import { describe, expect, test } from "bun:test";
import {
  CS_RUNNING,
  CS_STOPPED,
  CTL_CB,
  CTL_CCS,
  CTL_LIE,
  CTL_LLE,
  CTL_RIE,
  EDMA,
  EDMA_CH,
} from "../../../src/hw/edma.regs.ts";
import { bench, HOST_BASE } from "./bench-board.ts";

for (const dmaMap of ["legacy", "unroll"] as const) {
  describe(`${dmaMap} map`, () => {
    test("a write channel copies board memory to the host, bytes and odd lengths exact", () => {
      const b = bench({ dmaMap });
      for (let i = 0; i < 4096; i++) b.data.u8[i] = i * 7;
      b.list.data(0, CTL_CB, 1501, b.data.bus + 3, HOST_BASE + 77);
      b.list.data(1, CTL_CB | CTL_LIE, 1, b.data.bus + 9, HOST_BASE + 5000);
      b.wr.start(b.list.slot(0));
      expect(b.wr.cs).toBe(CS_RUNNING);
      b.turns(2);
      expect(b.wr.cs).toBe(CS_STOPPED);
      expect(b.host.u8.slice(77, 77 + 1501)).toEqual(b.data.u8.slice(3, 3 + 1501));
      expect(b.host.u8[76]).toBe(0);
      expect(b.host.u8[77 + 1501]).toBe(0);
      expect(b.host.u8[5000]).toBe(63);
      expect(b.model.violations).toEqual([]);
      expect(b.model.stats.bytesToHost).toBe(1502);
    });
    test("a read channel copies host memory to the board", () => {
      const b = bench({ dmaMap });
      for (let i = 0; i < 4096; i++) b.host.u8[i] = i * 11;
      b.list.data(0, CTL_CB | CTL_LIE, 3000, HOST_BASE + 1, b.data.bus + 2);
      b.rd.start(b.list.slot(0));
      b.turns(1);
      expect(b.data.u8.slice(2, 3002)).toEqual(b.host.u8.slice(1, 3001));
      expect(b.rd.status).toBe(1);
      expect(b.wr.status).toBe(0);
    });
  });
}
void [CTL_CCS, CTL_LLE, CTL_RIE, EDMA, EDMA_CH];
