/**
 * The eDMA and the link in simulated time. An element goes through: fetch of its slot, data in chunks over the link
 * (the two directions of the link are two resources; read requests compete with writes for the way up), arrival after
 * half a round trip, progress and done. Deterministic: events in order of time, nothing random but the faults.
 *
 * Not cycle accurate: credits and replay are left out, DLLPs are a mean share. What an element holds is read when it
 * leaves (writes) or when the request reaches the host (reads), and seen by the other side when it arrives.
 */
import { CAUSE_LOCAL } from "../edma.regs.ts";
import { copy, mapAnonymous } from "../mem.ts";
import { type ChannelModel, FETCHED, FOLLOWED, IDLE, SETTLING, STALE } from "./channel-model.ts";
import type { Clock } from "./clock.ts";
import { DmaLane } from "./dma-lane.ts";
import type { EdmaModel } from "./edma-model.ts";
import { EventQueue } from "./event-queue.ts";
import type { Requester } from "./link.ts";
import { type LinkTiming, TLP_REQUEST } from "./timing.ts";
import { Wire } from "./wire.ts";

/** bytes that a read element asks for at once */
const CHUNK = 2048;
/** packets that a write element sends before other channels have their turn on the link */
const WRITE_PACKETS = 2;
const SLOTS = 1024;
/** slotLane of what the board's CPU sent */
const CPU_LANE = -1;
/** bytes of posted writes that may queue before the CPU's next store waits (assumption) */
const CPU_BUFFER = 4096;

// kinds of events; the argument is a channel number (write n, 8 + read n) with its epoch above, or a slot
const FETCH = 0;
const START = 1;
const PIECE = 2;
const SENT = 3;
const NEXT = 4;
const STOP = 5;
const SAMPLE = 6;
const LAND_READ = 7;
const LAND_WRITE = 8;
const LAND_INTX = 9;

export class TimedDma {
  readonly timing: LinkTiming;
  readonly events = new EventQueue();
  readonly #edma: EdmaModel;
  readonly #clock: Clock;
  readonly wire: Wire;
  readonly #lanes: DmaLane[];
  // chunks under way
  readonly #staging = mapAnonymous(SLOTS * CHUNK);
  readonly #slotRemote = new Float64Array(SLOTS);
  readonly #slotLocal = new Float64Array(SLOTS);
  readonly #slotLen = new Int32Array(SLOTS);
  readonly #slotLane = new Int32Array(SLOTS);
  readonly #slotEpoch = new Int32Array(SLOTS);
  readonly #slotLast = new Uint8Array(SLOTS);
  readonly #slotCause = new Int32Array(SLOTS);
  readonly #freeSlots = new Int32Array(SLOTS);
  #freeCount = SLOTS;
  readonly #cpu: Requester;

  constructor(edma: EdmaModel, clock: Clock, timing: LinkTiming, cpu: Requester) {
    this.timing = timing;
    this.#edma = edma;
    this.#clock = clock;
    this.#cpu = cpu;
    this.#lanes = [];
    for (const ch of edma.writeChannels) this.#lanes[ch.index] = new DmaLane(ch, ch.index);
    for (const ch of edma.readChannels) this.#lanes[8 + ch.index] = new DmaLane(ch, 8 + ch.index);
    this.wire = new Wire(timing, edma.link.config);
    for (let i = 0; i < SLOTS; i++) this.#freeSlots[i] = i;
  }

  /** A doorbell has set the channel going. */
  kick(ch: ChannelModel): void {
    const lane = this.#lane(ch);
    lane.refetch = false;
    this.#fetchSoon(lane, this.#clock.now);
  }

  /** The channel was disabled or reset: what it had under way no longer counts (writes on the wire still arrive). */
  drop(ch: ChannelModel): void {
    this.#lane(ch).drop();
  }

  /** Let everything happen that is due until `time`; the clock ends there. */
  runTo(time: number): void {
    const q = this.events;
    while (q.next <= time) {
      q.pop();
      this.#clock.reach(q.time);
      this.#dispatch(q.kind, q.arg);
    }
    this.#clock.reach(time);
  }

  /**
   * The board's CPU writes through the window: its time passes, the bytes arrive later and in order. `addr` is a PCI
   * address, `len` at most 2048.
   */
  cpuWrite(addr: number, ptr: number, len: number): void {
    this.#cpuTime();
    this.#postSmall(addr, ptr, len, CPU_LANE);
  }

  /** An INTx message from the board's CPU. */
  cpuIntx(asserted: boolean): void {
    this.#cpuTime();
    const end = this.wire.sendUp(this.#clock.now, TLP_REQUEST, 1);
    this.events.push(end + this.wire.oneWayNs, LAND_INTX, asserted ? 1 : 0);
  }

  /** A message write of a channel ("done", "abort"), behind what the channel has sent. */
  message(ch: ChannelModel, addr: number, ptr: number): void {
    this.#postSmall(addr, ptr, 4, this.#lane(ch).id);
  }

  /** The CPU's time for a store to one of the eDMA's registers. */
  cpuRegister(): void {
    const ns = this.timing.regWriteNs;
    if (ns > 0) this.runTo(this.#clock.now + ns);
  }

  /** The CPU's time for a store; it waits while the way up has more than a full buffer in front of it. */
  #cpuTime(): void {
    this.runTo(Math.max(this.#clock.now + this.timing.cpuWriteNs, this.wire.upFree - CPU_BUFFER * this.wire.nsPerByte));
    while (this.#freeCount === 0) this.runTo(this.events.next);
  }

  #postSmall(addr: number, ptr: number, len: number, lane: number): void {
    const slot = this.#takeSlot();
    if (slot < 0) {
      this.#edma.link.write(addr, ptr, len, this.#cpu);
      return;
    }
    copy(this.#staging + slot * CHUNK, ptr, len);
    this.#slotRemote[slot] = addr;
    this.#slotLen[slot] = len;
    this.#slotLane[slot] = lane;
    const end = this.wire.sendUp(this.#clock.now, TLP_REQUEST + len, 1);
    this.events.push(end + this.wire.oneWayNs, LAND_WRITE, slot);
  }

  /** The board's CPU reads through the window and stands still meanwhile; the read pushes earlier writes ahead of it. */
  cpuRead(addr: number, ptr: number, len: number): number {
    const asked = this.wire.sendUp(this.#clock.now, TLP_REQUEST, 1);
    const back = Math.max(this.#clock.now + this.timing.cpuReadNs, asked + this.timing.roundTripNs);
    this.runTo(asked + this.wire.oneWayNs);
    const cause = this.#edma.link.fetch(addr, ptr, len, this.#cpu);
    this.runTo(back);
    return cause;
  }

  #lane(ch: ChannelModel): DmaLane {
    return this.#lanes[ch.isWrite ? ch.index : 8 + ch.index]!;
  }

  #push(time: number, kind: number, lane: DmaLane): void {
    this.events.push(time, kind, lane.id | (lane.epoch << 8));
  }

  #dispatch(kind: number, arg: number): void {
    if (kind === LAND_WRITE) this.#landWrite(arg);
    else if (kind === SAMPLE) this.#sample(arg);
    else if (kind === LAND_READ) this.#landRead(arg);
    else if (kind === LAND_INTX) this.#edma.link.host?.intx(arg === 1);
    else {
      const lane = this.#lanes[arg & 0xff]!;
      if (arg >> 8 !== lane.epoch) return;
      if (kind === FETCH) this.#fetch(lane);
      else if (kind === START) this.#start(lane);
      else if (kind === PIECE) this.#piece(lane);
      else if (kind === SENT) this.#complete(lane);
      else if (kind === NEXT) {
        lane.busy = false;
        this.#begin(lane);
      } else this.#stop(lane);
    }
  }

  // --- linked list ---

  #fetchSoon(lane: DmaLane, time: number): void {
    if (lane.fetching || lane.ready) return;
    lane.fetching = true;
    this.#push(time, FETCH, lane);
  }

  /** The slot is read now; what it says counts llFetchNs later. */
  #fetch(lane: DmaLane): void {
    const ch = lane.ch;
    ch.deferStop = lane.flight > 0;
    const got = ch.fetch();
    // A single transfer is in the registers already.
    const known = this.#clock.now + (ch.lle !== 0 ? this.timing.llFetchNs : 0);
    if (got === FETCHED) {
      lane.readySrc = (ch.sarHi >>> 0) * 4294967296 + (ch.sarLo >>> 0);
      lane.readyDst = (ch.darHi >>> 0) * 4294967296 + (ch.darLo >>> 0);
      lane.readySize = ch.size >>> 0;
      lane.readyControl = ch.control;
      lane.readyAfter = ch.llp;
      this.#push(known, START, lane);
    } else if (got === FOLLOWED) {
      this.#push(known, FETCH, lane);
    } else {
      lane.fetching = false;
      if (ch.state === STALE || ch.state === SETTLING) this.#push(known, STOP, lane);
      else if (ch.state === IDLE) this.drop(ch);
      else lane.refetch = true;
    }
  }

  #start(lane: DmaLane): void {
    lane.fetching = false;
    lane.ready = true;
    this.#begin(lane);
  }

  /** Take the fetched element into work when the channel has room for it, and read ahead. */
  #begin(lane: DmaLane): void {
    if (!lane.ready || lane.busy) return;
    if (!lane.ch.isWrite && lane.flight >= this.timing.readElements) return;
    lane.launch();
    this.#push(this.#clock.now, PIECE, lane);
    this.#fetchSoon(lane, this.#clock.now);
  }

  /** The control word said stop, and by now the channel does. */
  #stop(lane: DmaLane): void {
    lane.ch.beginTurn();
    if (lane.ch.state !== IDLE) this.#push(this.#clock.now + this.timing.llFetchNs, STOP, lane);
  }

  /** The oldest element under way is complete. */
  #complete(lane: DmaLane): void {
    const ch = lane.ch;
    if (!ch.isWrite && this.#edma.readsSpoil) this.#edma.spoil(lane.oldestDst, lane.oldestSize);
    const control = lane.retire();
    this.#edma.link.stats.elements++;
    ch.finish(control);
    this.#begin(lane);
    if (lane.refetch) {
      lane.refetch = false;
      this.#fetchSoon(lane, this.#clock.now);
    }
  }

  // --- data ---

  /** Send or ask for the next chunk of the element in work. */
  #piece(lane: DmaLane): void {
    const now = this.#clock.now;
    if (lane.left === 0) {
      // nothing to move: complete when what was asked for before is there
      if (!lane.ch.isWrite && lane.flight > 1) {
        this.#push(Math.max(now + 1, this.wire.downFree), PIECE, lane);
        return;
      }
      this.#push(now, SENT, lane);
      this.#push(now + this.timing.elementNs, NEXT, lane);
      return;
    }
    const { wire } = this;
    // An odd start costs one packet more, not one a chunk: chunks end where a packet does.
    const most = lane.ch.isWrite
      ? Math.min(WRITE_PACKETS * wire.mps, CHUNK) - (lane.dst % Math.min(wire.mps, CHUNK))
      : CHUNK - (lane.src % Math.min(wire.mrrs, CHUNK));
    let size = lane.left < most ? lane.left : most;
    if (!lane.ch.isWrite) {
      size = this.wire.requestable(lane.src, size, now);
      if (size === 0) {
        this.#push(this.wire.tagFree, PIECE, lane);
        return;
      }
    }
    const slot = this.#takeSlot();
    if (slot < 0) {
      this.#push(this.events.next, PIECE, lane);
      return;
    }
    this.#slotLen[slot] = size;
    this.#slotLane[slot] = lane.id;
    this.#slotEpoch[slot] = lane.epoch;
    this.#slotCause[slot] = 0;
    const last = size === lane.left;
    this.#slotLast[slot] = last ? 1 : 0;
    if (lane.ch.isWrite) this.#sendWrite(lane, slot, size, last);
    else this.#sendRead(lane, slot, size, last);
    lane.src += size;
    lane.dst += size;
    lane.left -= size;
  }

  #sendWrite(lane: DmaLane, slot: number, size: number, last: boolean): void {
    const { stats } = this.#edma.link;
    if (!this.#gather(slot, lane.src, size, lane.ch)) {
      this.#giveSlot(slot);
      this.#fail(lane, CAUSE_LOCAL);
      return;
    }
    this.#slotRemote[slot] = lane.dst;
    const tlps = this.wire.writeTlps(lane.dst, size);
    stats.tlpWrites += tlps;
    stats.bytesToHost += size;
    const end = this.wire.sendUp(this.#clock.now, size + tlps * TLP_REQUEST, tlps);
    this.events.push(end + this.wire.oneWayNs, LAND_WRITE, slot);
    if (last) {
      this.#push(end, SENT, lane);
      this.#push(end + this.timing.elementNs, NEXT, lane);
    } else this.#push(end, PIECE, lane);
  }

  #sendRead(lane: DmaLane, slot: number, size: number, last: boolean): void {
    const { stats } = this.#edma.link;
    const wire = this.wire;
    this.#slotRemote[slot] = lane.src;
    this.#slotLocal[slot] = lane.dst;
    stats.bytesToBoard += size;
    stats.tlpReads += wire.request(lane.src, size, this.#clock.now);
    this.events.push(wire.asked + wire.oneWayNs, SAMPLE, slot);
    this.events.push(wire.landed, LAND_READ, slot);
    this.#push(last ? wire.asked + this.timing.elementNs : wire.asked, last ? NEXT : PIECE, lane);
  }

  #gather(slot: number, addr: number, len: number, ch: ChannelModel): boolean {
    const link = this.#edma.link;
    for (let done = 0; done < len; ) {
      const ptr = link.local(addr + done, len - done, false, ch);
      if (ptr === 0) return false;
      copy(this.#staging + slot * CHUNK + done, ptr, link.board.run);
      done += link.board.run;
    }
    return true;
  }

  #landWrite(slot: number): void {
    const id = this.#slotLane[slot]!;
    const who: Requester = id === CPU_LANE ? this.#cpu : this.#lanes[id]!.ch;
    const link = this.#edma.link;
    const ptr = this.#staging + slot * CHUNK;
    if (id === CPU_LANE) link.post(this.#slotRemote[slot]!, ptr, this.#slotLen[slot]!, who);
    else link.write(this.#slotRemote[slot]!, ptr, this.#slotLen[slot]!, who);
    this.#giveSlot(slot);
  }

  /** The requests have reached the host: its memory answers with what it holds now. */
  #sample(slot: number): void {
    const lane = this.#lanes[this.#slotLane[slot]!]!;
    if (lane.epoch !== this.#slotEpoch[slot]) return;
    const ptr = this.#staging + slot * CHUNK;
    const injected = this.#edma.takeInjected(lane.ch);
    this.#slotCause[slot] =
      injected !== 0 ? injected : this.#edma.link.read(this.#slotRemote[slot]!, ptr, this.#slotLen[slot]!, lane.ch);
  }

  #landRead(slot: number): void {
    const lane = this.#lanes[this.#slotLane[slot]!]!;
    const len = this.#slotLen[slot]!;
    const last = this.#slotLast[slot] === 1;
    if (lane.epoch === this.#slotEpoch[slot]) {
      let cause = this.#slotCause[slot]!;
      const link = this.#edma.link;
      for (let done = 0; cause === 0 && done < len; ) {
        const ptr = link.local(this.#slotLocal[slot]! + done, len - done, true, lane.ch);
        if (ptr === 0) cause = CAUSE_LOCAL;
        else {
          copy(ptr, this.#staging + slot * CHUNK + done, link.board.run);
          done += link.board.run;
        }
      }
      if (cause !== 0) this.#fail(lane, cause);
      else if (last) this.#complete(lane);
    }
    this.#giveSlot(slot);
  }

  #fail(lane: DmaLane, cause: number): void {
    lane.ch.abort(cause);
    this.drop(lane.ch);
  }

  #takeSlot(): number {
    return this.#freeCount === 0 ? -1 : this.#freeSlots[--this.#freeCount]!;
  }

  #giveSlot(slot: number): void {
    this.#freeSlots[this.#freeCount++] = slot;
  }
}
