import { expect, test } from "bun:test";
import {
  FRAME_ARP_ASK,
  FRAME_ARP_TELL,
  FRAME_ECHO_ASK,
  FRAME_ECHO_REPLY,
  FRAME_FRAGMENT,
  FRAME_OTHER,
  parseIp,
  Station,
} from "../../src/engine/bench/station.ts";

const A = new Uint8Array([2, 0, 0, 0, 0, 0xaa]);
const B = new Uint8Array([2, 0, 0, 0, 0, 0xbb]);
const IP_A = new Uint8Array([198, 18, 0, 1]);
const IP_B = new Uint8Array([198, 18, 0, 2]);

/** RFC 1071 over whole words, written in another way than the station's: 0 for a good header or message */
function verify(u8: Uint8Array, from: number, to: number): number {
  let sum = 0;
  const view = new DataView(u8.buffer, u8.byteOffset);
  for (let i = from; i < to; i += 2) sum += i + 1 < to ? view.getUint16(i) : view.getUint8(i) * 256;
  while (sum >= 0x10000) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
  return sum === 0xffff ? 0 : sum;
}

/** Two stations that know each other. */
function pair(): { a: Station; b: Station; wire: Uint8Array } {
  const a = new Station(A, IP_A, IP_B);
  const b = new Station(B, IP_B, IP_A);
  const wire = new Uint8Array(20_000);
  a.arpAsk(wire, 0);
  expect(b.classify(wire, 0, 60)).toBe(FRAME_ARP_ASK);
  b.arpTell(wire, 100, 0);
  expect(a.classify(wire, 100, 60)).toBe(FRAME_ARP_TELL);
  expect(a.known).toBe(true);
  expect([...a.peerMac]).toEqual([...B]);
  b.peerMac.set(A);
  return { a, b, wire };
}

test("ARP: asked by broadcast, answered to the asker", () => {
  const { wire } = pair();
  expect(Buffer.from(wire.subarray(0, 42)).toString("hex")).toBe(
    "ffffffffffff0200000000aa080600010800060400010200000000aac6120001000000000000c6120002",
  );
  expect(Buffer.from(wire.subarray(100, 142)).toString("hex")).toBe(
    "0200000000aa0200000000bb080600010800060400020200000000bbc61200020200000000aac6120001",
  );
});

for (const bytes of [60, 61, 999, 1514, 9014])
  test(`an echo of ${bytes} bytes has good checksums at every number, and so has its reply`, () => {
    const { a, b, wire } = pair();
    a.echoAsk(wire, 0, bytes);
    for (const seq of [0, 1, 255, 256, 0x7fff, 0xfffe, 0xffff]) {
      const frame = wire.slice(0, bytes);
      a.number(frame, 0, seq);
      expect([verify(frame, 14, 34), verify(frame, 34, bytes)]).toEqual([0, 0]);
      expect(b.classify(frame, 0, bytes)).toBe(FRAME_ECHO_ASK);
      b.echoTell(frame, 0);
      expect([verify(frame, 14, 34), verify(frame, 34, bytes)]).toEqual([0, 0]);
      expect(a.classify(frame, 0, bytes)).toBe(FRAME_ECHO_REPLY);
      expect(a.seq).toBe(seq);
      expect([...frame.subarray(0, 12)]).toEqual([...A, ...B]);
    }
  });

test("frames for others are nothing to us", () => {
  const { a, b, wire } = pair();
  a.echoAsk(wire, 0, 60);
  expect(a.classify(wire, 0, 60)).toBe(FRAME_OTHER);
  expect(b.classify(wire, 0, 41)).toBe(FRAME_OTHER);
  b.echoTell(wire, 0);
  wire[38] = 0; // somebody else's identifier
  expect(a.classify(wire, 0, 60)).toBe(FRAME_OTHER);
  a.filler(wire, 0, 60);
  expect(b.classify(wire, 0, 60)).toBe(FRAME_OTHER);
  a.arpAsk(wire, 0);
  wire[41] = 9;
  expect(b.classify(wire, 0, 60)).toBe(FRAME_OTHER);
});

test("addresses", () => {
  expect([...(parseIp("198.18.255.0") ?? [])]).toEqual([198, 18, 255, 0]);
  for (const bad of ["1.2.3", "1.2.3.256", "1.2.3.4.5", "a.b.c.d", "1.2.3.-4", ""]) expect(parseIp(bad)).toBeNull();
});

test("a piece of an echo is no echo", () => {
  const { a, b, wire } = pair();
  a.echoAsk(wire, 0, 100);
  for (const [flags, kind] of [
    [0x4000, FRAME_ECHO_ASK],
    [0x2000, FRAME_FRAGMENT],
    [0x00b9, FRAME_FRAGMENT],
  ] as const) {
    wire[20] = flags >> 8;
    wire[21] = flags & 0xff;
    expect(b.classify(wire, 0, 100)).toBe(kind);
  }
});
