import { describe, expect, test } from "bun:test";
import type { PortFeatures } from "../../src/hw/net-port.ts";
import { attributeU16, genlMessage } from "../../src/hw/vdpa.ts";
import { vduseMissing } from "../../src/hw/vduse.ts";
import { boardFeatures } from "../../src/hw/vduse-features.ts";
import { VdusePort } from "../../src/hw/vduse-port.ts";
import {
  F_ACCESS_PLATFORM,
  F_CSUM,
  F_GUEST_CSUM,
  F_GUEST_TSO4,
  F_GUEST_TSO6,
  F_HOST_TSO4,
  F_HOST_TSO6,
  F_MRG_RXBUF,
} from "../../src/hw/virtio.layout.ts";

const NONE: PortFeatures = {
  hdrLen: 12,
  toHostCsum: false,
  toHostTso4: false,
  toHostTso6: false,
  toBoardCsum: false,
  toBoardTso4: false,
  toBoardTso6: false,
  mtu: 1500,
};
const has = (word: number, bit: number): boolean => ((word >>> bit) & 1) === 1;

describe("features offered to the board follow the host", () => {
  test("a host without offloads gives a board without offloads", () => {
    const w = boardFeatures(NONE);
    for (const b of [F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_HOST_TSO4, F_HOST_TSO6])
      expect(has(w, b)).toBe(false);
    expect(has(w, F_MRG_RXBUF)).toBe(true);
  });

  test("directions are crossed: what the host takes, the board may send", () => {
    const w = boardFeatures({ ...NONE, toHostCsum: true, toHostTso4: true });
    expect([has(w, F_CSUM), has(w, F_HOST_TSO4), has(w, F_HOST_TSO6)]).toEqual([true, true, false]);
    expect([has(w, F_GUEST_CSUM), has(w, F_GUEST_TSO4)]).toEqual([false, false]);
    const v = boardFeatures({ ...NONE, toBoardCsum: true, toBoardTso6: true });
    expect([has(v, F_GUEST_CSUM), has(v, F_GUEST_TSO4), has(v, F_GUEST_TSO6)]).toEqual([true, false, true]);
    expect(has(v, F_CSUM)).toBe(false);
  });

  test("segmentation is never offered without checksums (5.1.3.1)", () => {
    const w = boardFeatures({ ...NONE, toHostTso4: true, toHostTso6: true, toBoardTso4: true, toBoardTso6: true });
    for (const b of [F_GUEST_TSO4, F_GUEST_TSO6, F_HOST_TSO4, F_HOST_TSO6]) expect(has(w, b)).toBe(false);
  });

  test("ACCESS_PLATFORM is above the low word", () => expect(F_ACCESS_PLATFORM).toBe(33));
});

test("a generic netlink message has its length, type and command in place", () => {
  const m = genlMessage(0x1c, 5, 7, 3, [Buffer.from([8, 0, 4, 0, 0x61, 0x62, 0x63, 0])]);
  expect(m.readUInt32LE(0)).toBe(28);
  expect(m.readUInt16LE(4)).toBe(0x1c);
  expect(m.readUInt16LE(6)).toBe(5);
  expect(m.readUInt32LE(8)).toBe(7);
  expect([m[16], m[17]]).toEqual([3, 1]);
  expect(m.subarray(20).toString("latin1")).toBe("\x08\0\x04\0abc\0");
});

test("an attribute is found behind others of odd length, and a torn list ends", () => {
  const reply = Buffer.alloc(20 + 8 + 8);
  reply.writeUInt16LE(7, 20); // 3 bytes of value, padded to 8
  reply.writeUInt16LE(2, 22);
  reply.writeUInt16LE(6, 28);
  reply.writeUInt16LE(1, 30);
  reply.writeUInt16LE(0x1234, 32);
  expect(attributeU16(reply, 1)).toBe(0x1234);
  expect(attributeU16(reply, 9)).toBe(-1);
  reply.writeUInt16LE(0, 20);
  expect(attributeU16(reply, 1)).toBe(-1);
});

test("without VDUSE the port says what to load; a name that cannot be is refused first", () => {
  const port = (name: string): VdusePort => new VdusePort({ name, mac: "02:00:00:00:00:01", mtu: 1500, log: () => {} });
  expect(() => port("a/b")).toThrow(/cannot name a VDUSE device/);
  expect(() => port("control")).toThrow(/cannot name a VDUSE device/);
  if (vduseMissing() === "") console.log("not tried: this kernel has VDUSE, bun run rig board-vduse uses it");
  else expect(() => port("brdtest0")).toThrow(/modprobe/);
});
