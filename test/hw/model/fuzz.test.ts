/** No access of either side, however wild, may throw, hang or touch memory that is not there. */
import { expect, test } from "bun:test";
import { EDMA } from "../../../src/hw/edma.regs.ts";
import type { Mmio } from "../../../src/hw/mmio.ts";
import type { ModelOptions } from "../../../src/hw/model/model-options.ts";
import { Random } from "../../../src/hw/model/random.ts";
import { preset } from "../../../src/hw/model/timing.ts";
import { bench, HOST_BASE } from "./bench-board.ts";

const cores: [string, Partial<ModelOptions>][] = [
  ["unrolled, live", { dmaMap: "unroll", atu: "unroll" }],
  ["viewport, live", { dmaMap: "legacy", atu: "viewport", inboundWindows: 3, modernCapable: false, msix: false }],
  [
    "unrolled, all faults",
    { faults: { lostDoorbell: 0.3, holdFetched: 0.3, notIdleDoorbell: true, rcarReadRequest: true } },
  ],
  ["in time", { timing: preset("imx8mp"), turnNs: 500 }],
];

for (const [name, options] of cores) {
  test(`random registers, lists and host accesses: ${name}`, () => {
    for (let seed = 1; seed <= 4; seed++) {
      const b = bench({ ...options, seed });
      const c = b.model.controller();
      const rnd = new Random(seed * 77);
      const interesting = [
        0,
        -1,
        1,
        b.data.bus,
        b.list.slot(0),
        b.list.slot(3),
        HOST_BASE | 0,
        0xfee00000 | 0,
        4,
        24,
        0x80000000 | 0,
      ];
      const word = (): number => (rnd.chance(0.6) ? interesting[rnd.below(interesting.length)]! : rnd.next() | 0);
      const spaces: Mmio[] = [c.dbi, c.dbi2, c.dma, c.dma, c.dma, c.window, ...(c.atu ? [c.atu] : [])];
      for (let i = 0; i < 30_000; i++) {
        const io = spaces[rnd.below(spaces.length)]!;
        const off = (rnd.next() % Math.min(io.size, 0x1400)) & ~3;
        switch (rnd.below(10)) {
          case 0:
            io.st8(off + rnd.below(4), word());
            break;
          case 1:
            io.st16(off + 2 * rnd.below(2), word());
            break;
          case 2:
          case 3:
          case 4:
            if (off + 4 <= io.size) io.st32(off, word());
            break;
          case 5:
            if (off + 4 <= io.size && !Number.isInteger(io.ld32(off))) throw new Error(`read of 0x${off.toString(16)}`);
            break;
          case 6:
            b.model.cfgWrite(rnd.below(1024) * 4, 4, word());
            b.model.cfgRead(rnd.below(1024) * 4 + 2, 2);
            break;
          case 7:
            b.model.barWrite(rnd.below(6), rnd.next() & 0xfffc, 4, word());
            b.model.barRead(rnd.below(6), rnd.next() & 0xffff, 1);
            break;
          case 8:
            b.list.region.i32[rnd.below(64)] = word();
            break;
          default:
            // keep it alive: enabled engines, a start inside the list, a bus master
            b.model.cfgWrite(4, 2, 6);
            if (rnd.chance(0.5)) {
              c.dma.st32(EDMA.WR_ENGINE_EN, 0);
              c.dma.st32(EDMA.RD_ENGINE_EN, 0);
            }
            (rnd.chance(0.5) ? b.wr : b.rd).start(b.list.slot(rnd.below(8)));
        }
        if ((i & 3) === 0) b.turns(1);
      }
      expect(b.model.stats.doorbells).toBeGreaterThan(1000);
      expect(b.model.stats.elements + b.model.stats.aborts).toBeGreaterThan(100);
      if (seed > 1) continue;
      b.host.close();
      b.model.close();
    }
  });
}
