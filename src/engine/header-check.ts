/**
 * Is the length of the host's net header what we take it for? A modern function has to infer it (features.ts), and a
 * wrong guess turns every frame to garbage in silence. So the first frames of a life are looked at before they are
 * moved: with the right length, the Ethernet header behind it makes sense.
 */
import type { DmaChannel } from "../hw/dma-channel.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { busHi, busLo } from "./bus.ts";
import { R_HEADER_LENGTH } from "./codes.ts";
import type { HostRing } from "./host-ring.ts";
import { Segments } from "./segments.ts";

/** 24 bytes of header and an Ethernet header */
const LOOK = 38;
const SRC_MAC = 6;
const ETHERTYPE = 12;
/** frames that are looked at before the question is left open */
const MOST_FRAMES = 8;

/** turn(): go on */
export const HEADER_GO = 0;
/** turn(): the answer is under way, begin no frame yet */
export const HEADER_WAIT = 1;

/** IPv4, ARP, IPv6, VLAN tags, PPPoE, MPLS, 802.1X, LLDP, the local experimental types */
const TYPES = [0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x8863, 0x8864, 0x8847, 0x8848, 0x888e, 0x88cc, 0x88b5, 0x88b6];

/** How much the bytes at `at` look like an Ethernet header: 3 at the most, below 0 when they cannot be one. */
function score(u8: Uint8Array, at: number, mac: Uint8Array): number {
  let own = true;
  let any = 0;
  for (let i = 0; i < 6; i++) {
    const b = u8[at + SRC_MAC + i]!;
    any |= b;
    if (b !== mac[i]) own = false;
  }
  // no sender is a group address, and none is all zero
  if (any === 0 || (u8[at + SRC_MAC]! & 1) === 1) return -1;
  const type = (u8[at + ETHERTYPE]! << 8) | u8[at + ETHERTYPE + 1]!;
  return (own ? 2 : 0) + (TYPES.includes(type) ? 1 : 0);
}

/**
 * Judge the first LOOK bytes of a frame of the host.
 * @param mac the address that the function gave the host's netdev
 * @returns `believed`, `other`, or 0 when both or neither make sense
 */
export function judgeHeader(u8: Uint8Array, believed: number, other: number, mac: Uint8Array): number {
  const here = score(u8, believed, mac);
  const there = score(u8, other, mac);
  if (here > 0 && here >= there) return believed;
  return there > 0 && there > here ? other : 0;
}

export class HeaderCheck {
  /** frames looked at in this life, and what was found: 0 nothing yet */
  frames = 0;
  found = 0;
  private readonly mem: DmaRegion;
  private readonly segs = new Segments();
  private believed = 0;
  /** frames are still to be looked at */
  open = false;
  private asked = false;
  private mark = 0;

  constructor(
    memory: DmaMemory,
    private readonly mac: Uint8Array,
  ) {
    this.mem = memory.alloc("header-check", 64, 64);
  }

  /** A new life; `hdrLen` 10 is not a guess and needs no look. */
  attach(hdrLen: number): void {
    this.believed = hdrLen;
    this.open = hdrLen === 12 || hdrLen === 24;
    this.asked = false;
    this.frames = this.found = 0;
  }

  /** Before frames are begun. @returns HEADER_GO, HEADER_WAIT, or R_HEADER_LENGTH: believed is wrong, found is right */
  turn(hq: HostRing, read: DmaChannel): number {
    if (!this.open) return HEADER_GO;
    if (!this.asked) return hq.available() > 0 ? this.ask(hq, read) : HEADER_GO;
    if (((read.doneCount - this.mark) | 0) < 0) return HEADER_WAIT;
    this.asked = false;
    this.frames++;
    this.found = judgeHeader(this.mem.u8, this.believed, this.believed === 12 ? 24 : 12, this.mac);
    if (this.found !== 0 || this.frames === MOST_FRAMES) this.open = false;
    return this.found === 0 || this.found === this.believed ? HEADER_GO : R_HEADER_LENGTH;
  }

  /** Bring the first bytes of the next frame here. What is wrong with its chain is for others to say. */
  private ask(hq: HostRing, read: DmaChannel): number {
    const { segs, mem } = this;
    segs.clear();
    if (hq.segments(hq.peek(0), segs) < 0 || segs.total < LOOK) return HEADER_GO;
    if (read.room() < LOOK) return HEADER_WAIT;
    let at = 0;
    for (let i = 0; at < LOOK; i++) {
      const n = Math.min(segs.len(i), LOOK - at);
      read.put(n, segs.lo(i), segs.hi(i), busLo(mem.bus + at), busHi(mem.bus + at));
      at += n;
    }
    read.commit();
    this.mark = read.putCount;
    this.asked = true;
    return HEADER_WAIT;
  }

  /** The read channel was restarted: ask again. */
  lost(): void {
    this.asked = false;
  }
}
