/**
 * A station on the wire for `bench live`: the ARP and ICMP that a stock kernel answers, and nothing else. Builds frames
 * in place and says what a received one is; where frames lie and when they go is generator-port.ts.
 */

/** what classify() finds */
export const FRAME_OTHER = 0;
/** somebody asks for our address */
export const FRAME_ARP_ASK = 1;
/** the peer says where it is; its MAC is kept */
export const FRAME_ARP_TELL = 2;
/** an answer to an echo of ours: `seq` is its number */
export const FRAME_ECHO_REPLY = 3;
/** somebody pings us */
export const FRAME_ECHO_ASK = 4;

/** a piece of a packet to us: the peer's interface has a smaller MTU than ours */
export const FRAME_FRAGMENT = 5;

export const ETH_BYTES = 14;
const IP_BYTES = 20;
const ICMP_BYTES = 8;
/** from the frame's start to the payload of an echo */
export const ECHO_PAYLOAD = ETH_BYTES + IP_BYTES + ICMP_BYTES;
const ICMP_AT = ETH_BYTES + IP_BYTES;
export const ARP_BYTES = 60;
/** shortest Ethernet frame without its FCS */
export const MIN_FRAME = 60;

const TYPE_IP = 0x0800;
const TYPE_ARP = 0x0806;
/** IEEE 802 local experimental ethertype 1: a kernel has no handler for it and drops the frame */
const TYPE_NOBODY = 0x88b5;
const PROTO_ICMP = 1;
const ECHO_ASK = 8;
const TTL = 64;
/** identifier of our echoes */
const IDENT = 0xe91c;

const get16 = (u8: Uint8Array, at: number): number => (u8[at]! << 8) | u8[at + 1]!;

function put16(u8: Uint8Array, at: number, v: number): void {
  u8[at] = v >>> 8;
  u8[at + 1] = v & 0xff;
}

/** Sum of 16-bit words (RFC 1071), not folded. */
function sum16(u8: Uint8Array, at: number, len: number): number {
  let sum = 0;
  for (let i = 0; i + 1 < len; i += 2) sum += get16(u8, at + i);
  return (len & 1) === 1 ? sum + (u8[at + len - 1]! << 8) : sum;
}

/** The Internet checksum of a sum: folded and complemented. */
function checksum(sum: number): number {
  let s = sum;
  while (s > 0xffff) s = (s & 0xffff) + Math.floor(s / 65536);
  return ~s & 0xffff;
}

/** "198.18.0.1" as four bytes; null when it is no address. */
export function parseIp(text: string): Uint8Array | null {
  const parts = text.split(".");
  if (parts.length !== 4 || parts.some((p) => !/^\d{1,3}$/.test(p) || Number(p) > 255)) return null;
  return new Uint8Array(parts.map(Number));
}

export class Station {
  readonly mac: Uint8Array;
  readonly ip: Uint8Array;
  readonly peerIp: Uint8Array;
  readonly peerMac = new Uint8Array(6);
  /** the peer has answered our ARP */
  known = false;
  /** number of the echo that classify() found */
  seq = 0;
  /** unfolded sum over an echo of length #echoLen with number 0 */
  #echoSum = 0;

  constructor(mac: Uint8Array, ip: Uint8Array, peerIp: Uint8Array) {
    this.mac = mac;
    this.ip = ip;
    this.peerIp = peerIp;
  }

  #ethernet(u8: Uint8Array, at: number, type: number): void {
    u8.set(this.peerMac, at);
    u8.set(this.mac, at + 6);
    put16(u8, at + 12, type);
  }

  /** Who has the peer's address? ARP_BYTES at `at`. */
  arpAsk(u8: Uint8Array, at: number): void {
    u8.fill(0, at, at + ARP_BYTES);
    u8.fill(0xff, at, at + 6);
    u8.set(this.mac, at + 6);
    put16(u8, at + 12, TYPE_ARP);
    this.#arp(u8, at + ETH_BYTES, 1);
    u8.set(this.peerIp, at + ETH_BYTES + 24);
  }

  /** The answer to the question at `from`. */
  arpTell(u8: Uint8Array, at: number, from: number): void {
    u8.fill(0, at, at + ARP_BYTES);
    u8.copyWithin(at, from + 6, from + 12);
    u8.set(this.mac, at + 6);
    put16(u8, at + 12, TYPE_ARP);
    this.#arp(u8, at + ETH_BYTES, 2);
    u8.copyWithin(at + ETH_BYTES + 18, from + ETH_BYTES + 8, from + ETH_BYTES + 18);
  }

  #arp(u8: Uint8Array, a: number, op: number): void {
    put16(u8, a, 1);
    put16(u8, a + 2, TYPE_IP);
    u8[a + 4] = 6;
    u8[a + 5] = 4;
    put16(u8, a + 6, op);
    u8.set(this.mac, a + 8);
    u8.set(this.ip, a + 14);
  }

  /** A frame of `bytes` that every kernel takes and throws away. */
  filler(u8: Uint8Array, at: number, bytes: number): void {
    this.#ethernet(u8, at, TYPE_NOBODY);
    for (let i = ETH_BYTES; i < bytes; i++) u8[at + i] = i & 0xff;
  }

  /** An echo request of `bytes` in all with number 0; number() makes others of it. */
  echoAsk(u8: Uint8Array, at: number, bytes: number): void {
    this.#ethernet(u8, at, TYPE_IP);
    const ip = at + ETH_BYTES;
    u8.fill(0, ip, ip + IP_BYTES + ICMP_BYTES);
    u8[ip] = 0x45;
    put16(u8, ip + 2, bytes - ETH_BYTES);
    put16(u8, ip + 6, 0x4000);
    u8[ip + 8] = TTL;
    u8[ip + 9] = PROTO_ICMP;
    u8.set(this.ip, ip + 12);
    u8.set(this.peerIp, ip + 16);
    put16(u8, ip + 10, checksum(sum16(u8, ip, IP_BYTES)));
    const icmp = at + ICMP_AT;
    u8[icmp] = ECHO_ASK;
    put16(u8, icmp + 4, IDENT);
    for (let i = ECHO_PAYLOAD; i < bytes; i++) u8[at + i] = (i * 7 + (i >> 8)) & 0xff;
    this.#echoSum = sum16(u8, icmp, bytes - ICMP_AT);
    this.number(u8, at, 0);
  }

  /** Give the echo at `at`, a copy of what echoAsk() built last, the number `seq`. */
  number(u8: Uint8Array, at: number, seq: number): void {
    put16(u8, at + ICMP_AT + 6, seq);
    put16(u8, at + ICMP_AT + 2, checksum(this.#echoSum + seq));
  }

  /** Turn the echo request at `at`, `len` bytes, into its reply. */
  echoTell(u8: Uint8Array, at: number): void {
    u8.copyWithin(at, at + 6, at + 12);
    u8.set(this.mac, at + 6);
    const ip = at + ETH_BYTES;
    u8.copyWithin(ip + 16, ip + 12, ip + 16);
    u8.set(this.ip, ip + 12);
    const icmp = at + ICMP_AT;
    u8[icmp] = 0;
    // the type went from 8 to 0: the checksum grows by 0x0800 in one's complement
    put16(u8, icmp + 2, checksum((~get16(u8, icmp + 2) & 0xffff) + 0xf7ff));
  }

  /** What the frame of `len` bytes at `at` is to us. */
  classify(u8: Uint8Array, at: number, len: number): number {
    if (len < ECHO_PAYLOAD) return FRAME_OTHER;
    const type = get16(u8, at + 12);
    if (type === TYPE_ARP) return this.#classifyArp(u8, at + ETH_BYTES);
    if (type !== TYPE_IP || u8[at + ETH_BYTES] !== 0x45 || u8[at + ETH_BYTES + 9] !== PROTO_ICMP) return FRAME_OTHER;
    if (!this.#is(u8, at + ETH_BYTES + 16, this.ip)) return FRAME_OTHER;
    // more fragments, or not the first one; a whole packet has at most "don't fragment" here
    if ((get16(u8, at + ETH_BYTES + 6) & 0x3fff) !== 0) return FRAME_FRAGMENT;
    const icmp = at + ICMP_AT;
    if (u8[icmp] === ECHO_ASK) return FRAME_ECHO_ASK;
    if (u8[icmp] !== 0 || get16(u8, icmp + 4) !== IDENT) return FRAME_OTHER;
    this.seq = get16(u8, icmp + 6);
    return FRAME_ECHO_REPLY;
  }

  #classifyArp(u8: Uint8Array, a: number): number {
    if (!this.#is(u8, a + 24, this.ip)) return FRAME_OTHER;
    const op = get16(u8, a + 6);
    if (op === 1) return FRAME_ARP_ASK;
    if (op !== 2 || !this.#is(u8, a + 14, this.peerIp)) return FRAME_OTHER;
    for (let i = 0; i < 6; i++) this.peerMac[i] = u8[a + 8 + i]!;
    this.known = true;
    return FRAME_ARP_TELL;
  }

  #is(u8: Uint8Array, at: number, ip: Uint8Array): boolean {
    return u8[at] === ip[0] && u8[at + 1] === ip[1] && u8[at + 2] === ip[2] && u8[at + 3] === ip[3];
  }
}
