/**
 * The board's side over a TAP (the fallback where the kernel has no VDUSE): TapPort is the *driver* of two split rings
 * and copies frames between their buffers and the TAP by one system call each; the engine is the device.
 *
 *   board's stack -> read(tap) -> tx ring -> engine        engine -> rx ring -> write(tap) -> board's stack
 *
 * Every frame is one contiguous descriptor, header first. Transmit buffers are cut from an arena in the order of the
 * reads, so that small frames lie densely and a 64 KiB one still fits; receive buffers are all of one size.
 */
import type { DmaMemory, DmaRegion } from "./dma-memory.ts";
import { DriverRing, type Grants, ringLayout } from "./driver-ring.ts";
import { errnoName } from "./errno.ts";
import { Fault } from "./fault.ts";
import type { LocalBuffers, NetPort, PortFeatures } from "./net-port.ts";
import { TAP_AGAIN, Tap, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 } from "./tap.ts";
import { MAX_GSO_FRAME, NET_HDR_F_NEEDS_CSUM, NET_HDR_NUM_BUFFERS } from "./virtio.layout.ts";

export interface TapPortOptions {
  readonly memory: DmaMemory;
  /** netdev name, "%d" allowed */
  readonly name: string;
  readonly netns?: string;
  readonly mac?: string;
  /** initial MTU; start() sets what was agreed with the host */
  readonly mtu?: number;
  /** descriptors of each ring, a power of two, default 256 */
  readonly queueSize?: number;
  /** bytes of buffers, half for each direction; default 8.5 MiB (64 frames of 64 KiB each way), less if memory is short */
  readonly poolBytes?: number;
  /** set the netdev administratively up, default true */
  readonly up?: boolean;
  /** strict mode of the model: buffers are granted to DMA only while they are in a ring */
  readonly strict?: Grants | null;
}

/** frames moved at most per direction and turn() */
const BURST = 32;
/** turns without a read() after an empty one, at most */
const MAX_SKIP = 7;
/** Ethernet header with one VLAN tag */
const ETH_HEADER = 18;
const ETH_MIN = 14;
/** space for one frame of the largest size with the longest header */
const BIG = 65600;
const DEFAULT_POOL = 2 * 64 * (BIG + 64);
const TWO32 = 4294967296;

const align64 = (n: number): number => (n + 63) & ~63;

export class TapPort implements NetPort {
  readonly kind = "tap";
  readonly netdev: string;
  readonly rx: DriverRing;
  readonly tx: DriverRing;
  readonly buffers: LocalBuffers;
  readonly txHeaderWritable = true;
  readonly rxMergeable = false;
  readonly waitFds: readonly number[];
  ready = false;
  generation = 0;

  get copiedBytes(): number {
    return this.rxBytes + this.txBytes;
  }

  /** frames and bytes (header included) towards the board's stack */
  rxFrames = 0;
  rxBytes = 0;
  /** frames the kernel refused: bad header, netdev down */
  rxDropped = 0;
  /** frames and bytes (header included) from the board's stack */
  txFrames = 0;
  txBytes = 0;
  /** frames longer than a transmit buffer (netdev MTU raised by hand), or unreadable */
  txDropped = 0;
  /** frames that waited in the TAP from before start() and were thrown away */
  txStale = 0;
  /** negative code of driver-ring.ts that stopped the port, 0 when all is well */
  ringError = 0;
  /** the last -errno of the TAP other than EAGAIN */
  lastError = 0;

  readonly #tap: Tap;
  readonly #pool: DmaRegion;
  readonly #grants: Grants | null;
  #mtu: number;
  #hdrLen = 12;
  // receive buffers: buffer b at b * #rxStride; which one a head holds
  #rxStride = 0;
  readonly #rxBuf: Int32Array;
  // transmit arena [#txBase, #txEnd) of pool offsets: [tail, head) is in use, modulo the wrap
  readonly #txBase: number;
  readonly #txEnd: number;
  #txCap = 0;
  #txHead = 0;
  #txTail = 0;
  // transmitted frames in order of their reads: arena offset behind each, and whether the device gave it back
  readonly #entryEnd: Int32Array;
  readonly #entryDone: Uint8Array;
  readonly #entryOf: Int32Array;
  #entryHead = 0;
  #entryTail = 0;
  #skip = 0;
  #skipLeft = 0;

  /** @throws Fault of Tap (name, permission, namespace), E_MISSING when DMA memory is short */
  constructor(o: TapPortOptions) {
    const size = o.queueSize ?? 256;
    this.#grants = o.strict ?? null;
    const ringBytes = ringLayout(size, 64).bytes;
    const ring = (name: string): DriverRing => {
      const r = o.memory.alloc(name, ringBytes, 64);
      return new DriverRing({
        size,
        mem: { ptr: r.ptr, busBase: r.bus },
        align: 64,
        eventIdx: false,
        grants: this.#grants,
      });
    };
    this.rx = ring("tap-rx-ring");
    this.tx = ring("tap-tx-ring");
    this.#pool = allocPool(o.memory, o.poolBytes ?? DEFAULT_POOL);
    this.buffers = {
      base: this.#pool.bus,
      busBase: this.#pool.bus,
      u8: this.#pool.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => 0,
    };
    this.#txBase = Math.floor(this.#pool.size / 128) * 64;
    this.#txEnd = this.#pool.size & ~63;
    this.#rxBuf = new Int32Array(size);
    this.#entryEnd = new Int32Array(size);
    this.#entryDone = new Uint8Array(size);
    this.#entryOf = new Int32Array(size);
    this.#grants?.revoke(this.#pool.bus, this.#pool.size);

    this.#tap = new Tap(o.name, o.netns ?? "");
    this.netdev = this.#tap.name;
    this.waitFds = [this.#tap.fd];
    this.#mtu = o.mtu ?? 1500;
    try {
      const rc = this.#tap.setCarrier(false);
      if (rc < 0)
        throw new Fault(
          "E_MISSING",
          `the kernel's TAP driver cannot switch the carrier (${errnoName(-rc)})`,
          "Linux 5.0 or later is needed",
        );
      if (o.mac !== undefined) this.#tap.setMac(o.mac);
      this.#tap.setMtu(this.#mtu);
      // everything start() may ask for, now, while an error can still be told to somebody
      this.#tap.setHeader(24);
      this.#tap.setOffload(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6);
      if (o.up ?? true) this.#tap.setUp(true);
    } catch (e) {
      this.#tap.close();
      throw e;
    }
  }

  /** MAC of the netdev, "02:..". */
  mac(): string {
    return this.#tap.mac();
  }

  resumeIdx(): number {
    return 0;
  }

  /** Rings start over empty. The carrier stays as it is: setLink() is the engine's. */
  start(f: PortFeatures): void {
    const tap = this.#tap;
    const tso = f.toHostCsum && (f.toHostTso4 || f.toHostTso6);
    tap.setHeader(f.hdrLen);
    tap.setOffload(f.toHostCsum ? TUN_F_CSUM | (f.toHostTso4 ? TUN_F_TSO4 : 0) | (f.toHostTso6 ? TUN_F_TSO6 : 0) : 0);
    if (f.mtu !== this.#mtu && f.mtu > 0) {
      tap.setMtu(f.mtu);
      this.#mtu = f.mtu;
    }
    this.#hdrLen = f.hdrLen;
    const small = align64(f.hdrLen + ETH_HEADER + Math.max(this.#mtu, 1500));
    const big = align64(f.hdrLen + MAX_GSO_FRAME);
    this.#txCap = tso ? big : small;
    this.#rxStride = f.toBoardTso4 || f.toBoardTso6 ? big : small;

    this.rx.reset();
    this.tx.reset();
    this.rx.disableInterrupts(); // turn() polls
    this.tx.disableInterrupts();
    this.#txHead = this.#txTail = this.#txBase;
    this.#entryHead = this.#entryTail = 0;
    this.#skip = this.#skipLeft = 0;
    this.ringError = 0;
    const n = Math.min(this.rx.size, Math.floor(this.#txBase / this.#rxStride));
    for (let b = 0; b < n; b++) this.#post(b);
    this.rx.publish();
    this.#drain();
    this.generation++;
    this.ready = true;
  }

  /** Frames in the rings are dropped. The engine has stopped all DMA before. */
  stop(): void {
    this.ready = false;
    this.setLink(false);
    this.rx.release();
    this.tx.release();
  }

  turn(): number {
    if (!this.ready) return 0;
    const done = this.#deliver() + this.#reclaim();
    const read = this.#fetch();
    if (this.rx.broken !== 0 || this.tx.broken !== 0) {
      this.ringError = this.rx.broken !== 0 ? this.rx.broken : this.tx.broken;
      this.ready = false;
    }
    return done + read;
  }

  /** Nothing to do: turn() looks at both used rings anyway. */
  notify(): void {}

  isUp(): boolean {
    return this.#tap.isUp();
  }

  setLink(up: boolean): void {
    const rc = this.#tap.setCarrier(up);
    if (rc < 0) this.lastError = rc;
  }

  close(): void {
    this.ready = false;
    this.rx.release();
    this.tx.release();
    this.#tap.close();
  }

  /** Give receive buffer b to the engine. */
  #post(b: number): void {
    const bus = this.#pool.bus + b * this.#rxStride;
    const head = this.rx.addOne(bus | 0, (bus / TWO32) | 0, this.#rxStride, true);
    this.#rxBuf[head] = b;
  }

  /** Used receive buffers to the kernel, and back into the ring. @returns frames */
  #deliver(): number {
    const ring = this.rx;
    let n = 0;
    while (n < BURST) {
      const head = ring.take();
      if (head < 0) break;
      const b = this.#rxBuf[head]!;
      const len = ring.usedLen;
      if (len < this.#hdrLen + ETH_MIN) this.rxDropped++;
      else {
        const rc = this.#tap.write(this.#pool.ptr + b * this.#rxStride, len);
        if (rc < 0) {
          this.rxDropped++;
          this.lastError = rc;
        } else {
          this.rxFrames++;
          this.rxBytes += len;
        }
      }
      this.#post(b);
      n++;
    }
    if (n > 0) ring.publish();
    return n;
  }

  /** Transmitted frames that the engine gave back: advance the arena over the oldest ones. @returns frames */
  #reclaim(): number {
    const ring = this.tx;
    const mask = ring.size - 1;
    let n = 0;
    for (;;) {
      const head = ring.take();
      if (head < 0) break;
      this.#entryDone[this.#entryOf[head]! & mask] = 1;
      n++;
    }
    if (n === 0) return 0;
    while (this.#entryTail !== this.#entryHead && this.#entryDone[this.#entryTail & mask] === 1) {
      this.#txTail = this.#entryEnd[this.#entryTail & mask]!;
      this.#entryTail = (this.#entryTail + 1) | 0;
    }
    if (this.#entryTail === this.#entryHead) this.#txHead = this.#txTail = this.#txBase;
    return n;
  }

  /** Arena offset with #txCap contiguous free bytes, -1 when there is none. Never fills up completely. */
  #room(): number {
    const cap = this.#txCap;
    const head = this.#txHead;
    const tail = this.#txTail;
    if (head < tail) return tail - head > cap ? head : -1;
    if (this.#txEnd - head >= cap) return head;
    return tail - this.#txBase > cap ? this.#txBase : -1;
  }

  /** Frames of the board's stack into the ring. @returns frames */
  #fetch(): number {
    if (this.#skipLeft > 0) {
      this.#skipLeft--;
      return 0;
    }
    const ring = this.tx;
    const mask = ring.size - 1;
    let n = 0;
    while (n < BURST && ((this.#entryHead - this.#entryTail) | 0) < ring.size) {
      const at = this.#room();
      if (at < 0) break;
      const len = this.#tap.read(this.#pool.ptr + at, this.#txCap);
      if (len < 0) {
        // an empty TAP is looked at again in 1, 3, 7 turns
        if (n === 0) this.#skipLeft = this.#skip = Math.min(2 * this.#skip + 1, MAX_SKIP);
        if (len !== TAP_AGAIN) {
          this.txDropped++;
          this.lastError = len;
        }
        break;
      }
      this.#skip = 0;
      n++;
      if (len > this.#txCap || len < this.#hdrLen + ETH_MIN) {
        this.txDropped++;
        continue;
      }
      const u8 = this.#pool.u8;
      u8[at]! &= NET_HDR_F_NEEDS_CSUM; // a driver sets no DATA_VALID (5.1.6.2.1)
      for (let i = NET_HDR_NUM_BUFFERS; i < this.#hdrLen; i++) u8[at + i] = 0; // the kernel skips these bytes
      const bus = this.#pool.bus + at;
      const head = ring.addOne(bus | 0, (bus / TWO32) | 0, len, false);
      const entry = this.#entryHead;
      this.#txHead = at + align64(len);
      this.#entryEnd[entry & mask] = this.#txHead;
      this.#entryDone[entry & mask] = 0;
      this.#entryOf[head] = entry;
      this.#entryHead = (entry + 1) | 0;
      this.txFrames++;
      this.txBytes += len;
    }
    if (n > 0) ring.publish();
    return n;
  }

  /** Frames queued in the TAP under earlier offloads must not reach the host. */
  #drain(): void {
    for (let i = 0; i < 65536; i++) {
      if (this.#tap.read(this.#pool.ptr + this.#txBase, this.#txCap) < 0) return;
      this.txStale++;
    }
  }
}

/** The largest pool up to `bytes` that the memory can give in one piece; halves it down to what four big frames need. */
function allocPool(memory: DmaMemory, bytes: number): DmaRegion {
  const least = 8 * (BIG + 64);
  for (let want = Math.max(bytes, least); ; want = Math.max(want >> 1, least)) {
    try {
      return memory.alloc("tap-buffers", want & ~63, 64);
    } catch (e) {
      if (!(e instanceof Fault) || e.code !== "E_MISSING" || want === least) throw e;
    }
  }
}
