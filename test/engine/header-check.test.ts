/** The look at the first frames of a host (header-check.ts); what it finds, and what is said then, is in diagnosis.test.ts. */
import { afterEach, expect, test } from "bun:test";
import { HEADER_GO, HEADER_WAIT, HeaderCheck } from "../../src/engine/header-check.ts";
import { DESC_F_NEXT } from "../../src/hw/virtio.layout.ts";
import { mirrorRig, releaseMirrors } from "../support/mirror-rig.ts";

afterEach(releaseMirrors);

test("the first bytes of a frame in pieces come to one place, and no more than is looked at", () => {
  const x = mirrorRig({ size: 16 });
  const check = new HeaderCheck(x.board, new Uint8Array(6));
  check.attach(12);
  expect(check.turn(x.hq, x.ch)).toBe(HEADER_GO);
  x.desc(0, 0x1000, 12, DESC_F_NEXT, 1);
  x.desc(1, 0x1_0000_2000, 10, DESC_F_NEXT, 2);
  x.desc(2, 0x3000, 100, DESC_F_NEXT, 3);
  x.desc(3, 0x4000, 100, 0);
  x.offer(0);
  x.run();
  expect(check.turn(x.hq, x.ch)).toBe(HEADER_WAIT);
  const at = x.board.regions.find((m) => m.name === "header-check")!.bus;
  expect(x.ch.puts).toEqual([
    { bytes: 12, sar: 0x1000, dar: at },
    { bytes: 10, sar: 0x1_0000_2000, dar: at + 12 },
    { bytes: 16, sar: 0x3000, dar: at + 22 },
  ]);
  expect([x.ch.commits, check.turn(x.hq, x.ch), x.ch.puts.length]).toEqual([1, HEADER_WAIT, 3]);
  // All of it is zero, which is no Ethernet header of any length: the next frame is looked at.
  x.ch.land();
  expect([check.turn(x.hq, x.ch), check.frames, check.found]).toEqual([HEADER_GO, 1, 0]);
});
