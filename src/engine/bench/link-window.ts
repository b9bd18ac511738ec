/**
 * The designs that `bench link` compares with. Both walk the host's rings by CPU accesses through the outbound window,
 * as every published endpoint function does.
 * edma-per-frame (the vnet function of 2023): payload by eDMA, one submission and doorbell per segment, completions by
 * CPU. memcpy-window (virtnet of 2019, vNTB): payload by CPU copies through the window.
 *
 * In their favour: no interrupt latency, reads overlap with DMA, several frames under way, a 16-byte descriptor is one
 * read.
 */

import type { DmaChannel } from "../../hw/dma-channel.ts";
import { Edma } from "../../hw/edma.ts";
import { Iatu } from "../../hw/iatu.ts";
import { ld16, ptrOf } from "../../hw/mem.ts";
import { DESC_F_NEXT, DESC_F_WRITE } from "../../hw/virtio.layout.ts";
import { BoardRing } from "../board-ring.ts";
import type { RingAddresses } from "../host-ring.ts";
import { Segments } from "../segments.ts";
import { CHANNEL_ELEMENTS } from "../tuning.ts";
import { LinkRig, type LinkRigOptions } from "./link-rig.ts";
import { addresses } from "./side.ts";

const TWO32 = 4294967296;
const MESSAGE_ADDRESS = 0xfee0_0000;
/** frames under way in one direction */
const DEPTH = 32;

/** Both directions' worth of host memory, seen through outbound region 0. */
class HostWindow {
  private readonly word = new Int32Array(4);
  private readonly ptr = ptrOf(this.word);
  constructor(
    private readonly rig: LinkRig,
    private readonly base: number,
  ) {}

  /** Load `len` (2 or 16) bytes at bus address `addr` into word[]. */
  private load(addr: number, len: number): void {
    this.rig.model.endpoint.window.bulk(addr - this.base, this.ptr, len, false);
  }
  read16(addr: number): number {
    this.load(addr, 2);
    return ld16(this.ptr);
  }
  /** a descriptor in words 0..3 */
  descriptor(addr: number): Int32Array {
    this.load(addr, 16);
    ld16(this.ptr);
    return this.word;
  }
  write(addr: number, a: number, b: number, len: number): void {
    this.word[0] = a;
    this.word[1] = b;
    this.rig.model.endpoint.window.bulk(addr - this.base, this.ptr, len, true);
  }
}

/** The device's side of a host queue, by window accesses only. */
class WindowQueue {
  next = 0;
  used = 0;
  published = 0;
  private idx = 0;
  private readonly desc: number;
  private readonly avail: number;
  private readonly usedBus: number;
  constructor(
    private readonly w: HostWindow,
    private readonly q: RingAddresses,
    private readonly write: number,
  ) {
    const bus = (lo: number, hi: number): number => (hi >>> 0) * TWO32 + (lo >>> 0);
    this.desc = bus(q.descLo, q.descHi);
    this.avail = bus(q.availLo, q.availHi);
    this.usedBus = bus(q.usedLo, q.usedHi);
  }

  /** One look at the avail index, only when nothing known is left. */
  available(): number {
    const n = (this.idx - this.next) & 0xffff;
    if (n > 0) return n;
    this.idx = this.w.read16(this.avail + 2);
    return (this.idx - this.next) & 0xffff;
  }

  /** Append the chain of the next entry. @returns its head */
  take(out: Segments): number {
    const head = this.w.read16(this.avail + 4 + 2 * (this.next & (this.q.size - 1)));
    this.next = (this.next + 1) & 0xffff;
    let d = head;
    for (;;) {
      const word = this.w.descriptor(this.desc + 16 * d);
      const flagsNext = word[3]!;
      if ((flagsNext & DESC_F_WRITE) !== this.write) throw new Error("bench: a descriptor of the wrong direction");
      out.append(word[0]!, word[1]!, word[2]!);
      if ((flagsNext & DESC_F_NEXT) === 0) return head;
      d = flagsNext >>> 16;
    }
  }

  pushUsed(head: number, len: number): void {
    this.w.write(this.usedBus + 4 + 8 * (this.used & (this.q.size - 1)), head, len, 8);
    this.used = (this.used + 1) & 0xffff;
  }

  /** Index, and an interrupt when the driver's flags (one more read) ask for it. */
  publish(messageAddress: number): void {
    this.w.write(this.usedBus + 2, this.used, 0, 2);
    if ((this.w.read16(this.avail) & 1) === 0) this.w.write(messageAddress, 0x41, 0, 4);
  }
}

/** A frame under way: list position behind it, what to complete on both sides. */
interface Flight {
  mark: number;
  source: number;
  heads: number[];
  lens: number[];
}

export class WindowRig extends LinkRig {
  private readonly byDma: boolean;
  private readonly wr: DmaChannel;
  private readonly rd: DmaChannel;
  private readonly hqRx: WindowQueue;
  private readonly hqTx: WindowQueue;
  private readonly eqRx: BoardRing;
  private readonly eqTx: BoardRing;
  private readonly toHost: Flight[] = [];
  private readonly toBoard: Flight[] = [];
  private readonly src = new Segments();
  private readonly dst = new Segments();
  private readonly message: number;
  private readonly boardBus: number;
  private readonly boardPtr: number;

  constructor(o: LinkRigOptions, byDma: boolean) {
    super(o);
    this.byDma = byDma;
    const { controller: ctrl, endpoint, host } = this.model;
    const edma = new Edma(ctrl);
    this.wr = edma.open(true, 0, CHANNEL_ELEMENTS);
    this.rd = edma.open(false, 0, CHANNEL_ELEMENTS);
    const iatu = new Iatu(ctrl);
    const align = ctrl.core.windowAlign;
    const size = Math.ceil(host.bytes / align) * align;
    iatu.outboundMem(0, ctrl.windowBus, host.base, size);
    iatu.outboundMem(1, ctrl.windowBus + size, MESSAGE_ADDRESS, align);
    this.message = host.base + size;
    const window = new HostWindow(this, host.base);
    this.hqRx = new WindowQueue(window, addresses(this.host.rx), DESC_F_WRITE);
    this.hqTx = new WindowQueue(window, addresses(this.host.tx), 0);
    const scratch = new Segments();
    this.eqRx = new BoardRing("eq.rx", DESC_F_WRITE, this.port.rx, this.port.buffers, scratch);
    this.eqTx = new BoardRing("eq.tx", 0, this.port.tx, this.port.buffers, scratch);
    this.boardBus = endpoint.memory.bus;
    this.boardPtr = endpoint.memory.ptr;
  }

  protected step(): void {
    this.pass();
    if (this.wr.progress() < 0 || this.rd.progress() < 0) throw new Error("bench: a DMA channel halted");
    const { direction, frameNs } = this.o;
    if (direction !== "host_to_ep") {
      this.finishToHost();
      if (this.beginToHost()) this.spend(frameNs);
    }
    if (direction !== "ep_to_host") {
      this.finishToBoard();
      if (this.beginToBoard()) this.spend(frameNs);
    }
  }

  /** Move the frame in src to dst: by one submission a segment pair, or by the CPU. */
  private move(total: number, toHost: boolean): number {
    const { src, dst } = this;
    const ch = toHost ? this.wr : this.rd;
    let [si, di, so, d0, left] = [0, 0, 0, 0, total];
    while (left > 0) {
      const n = Math.min(left, src.len(si) - so, dst.len(di) - d0);
      const s = bus(src, si) + so;
      const d = bus(dst, di) + d0;
      if (this.byDma) {
        ch.put(n, s | 0, Math.floor(s / TWO32), d | 0, Math.floor(d / TWO32));
        ch.commit();
      } else this.copy(toHost ? d : s, toHost ? s : d, n, toHost);
      left -= n;
      so += n;
      d0 += n;
      if (so === src.len(si)) {
        si++;
        so = 0;
      }
      if (d0 === dst.len(di)) {
        di++;
        d0 = 0;
      }
    }
    return ch.putCount;
  }

  private copy(remote: number, local: number, len: number, toHost: boolean): void {
    const { endpoint, host } = this.model;
    const ptr = this.boardPtr + (local - this.boardBus);
    if (endpoint.window.bulk(remote - host.base, ptr, len, toHost) !== len) throw new Error("bench: window refused");
  }

  private beginToHost(): boolean {
    const { eqTx, hqRx, src, dst } = this;
    if (this.toHost.length >= DEPTH || eqTx.available() <= 0 || this.wr.room() < 100) return false;
    src.clear();
    dst.clear();
    const source = eqTx.peek(0);
    if (eqTx.segments(source, src) < 0) throw new Error("bench: a chain of the board is broken");
    const f: Flight = { mark: 0, source, heads: [], lens: [] };
    // Nobody gives a buffer back: enough for the frame must be there before the first is taken.
    while (dst.total < src.total) {
      if (hqRx.available() === 0) {
        hqRx.next = (hqRx.next - f.heads.length) & 0xffff;
        return false;
      }
      const was = dst.total;
      f.heads.push(hqRx.take(dst));
      f.lens.push(Math.min(src.total, dst.total) - was);
    }
    eqTx.consume(1);
    f.mark = this.move(src.total, true);
    this.toHost.push(f);
    return true;
  }

  private finishToHost(): void {
    const f = this.toHost[0];
    if (f === undefined || ((this.wr.doneCount - f.mark) | 0) < 0) return;
    this.toHost.shift();
    for (let i = 0; i < f.heads.length; i++) this.hqRx.pushUsed(f.heads[i]!, f.lens[i]!);
    this.hqRx.publish(this.message);
    this.eqTx.pushUsed(f.source, 0);
    this.eqTx.publish();
  }

  private beginToBoard(): boolean {
    const { eqRx, hqTx, src, dst } = this;
    if (this.toBoard.length >= DEPTH || this.rd.room() < 100 || eqRx.look() < 20 || hqTx.available() === 0)
      return false;
    src.clear();
    dst.clear();
    const f: Flight = { mark: 0, source: hqTx.take(src), heads: [], lens: [] };
    while (dst.total < src.total) {
      const was = dst.total;
      const head = eqRx.peek(0);
      if (eqRx.segments(head, dst) < 0) throw new Error("bench: a chain of the board is broken");
      eqRx.consume(1);
      f.heads.push(head);
      f.lens.push(Math.min(src.total, dst.total) - was);
    }
    f.mark = this.move(src.total, false);
    this.toBoard.push(f);
    return true;
  }

  private finishToBoard(): void {
    const f = this.toBoard[0];
    if (f === undefined || ((this.rd.doneCount - f.mark) | 0) < 0) return;
    this.toBoard.shift();
    for (let i = 0; i < f.heads.length; i++) this.eqRx.pushUsed(f.heads[i]!, f.lens[i]!);
    this.eqRx.publish();
    // A frame's CPU time was spent when it was begun.
    this.tellBoard(0);
    this.hqTx.pushUsed(f.source, 0);
    this.hqTx.publish(this.message);
  }
}

const bus = (s: Segments, i: number): number => (s.hi(i) >>> 0) * TWO32 + (s.lo(i) >>> 0);
