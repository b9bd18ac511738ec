/**
 * Strict mode for a guest: derives from the guest's own rings which bytes of its memory the device may touch at this
 * moment, and grants exactly these in the host memory's shadow. It walks the rings by itself, apart from the engine, so
 * that a wrong idea of the engine about a ring shows as a violation.
 *
 * Granted: from DRIVER_OK on the descriptor table and the available ring for reading and the used ring for both; from the moment
 * an available index names it, each buffer of a chain, for reading or writing as its descriptor says. Taken back: a
 * chain's buffers when the used index passes it; a queue once its driver sees the end of its reset; everything once the driver has reset the device and read the
 * status back, because only then may it reuse the memory (VIRTIO 1.2 2.4.1).
 */
import { ld16, ld32 } from "../mem.ts";
import { availBytes, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE, usedBytes } from "../virtio.layout.ts";
import type { AddressSpace } from "./address-space.ts";
import { GRANT_READ, GRANT_WRITE, type Shadow } from "./shadow.ts";
import type { HostTruth, QueueTruth } from "./vfio-user-truth.ts";

interface Range {
  readonly addr: number;
  readonly len: number;
  readonly mode: number;
}

type Report = (text: string) => void;

/** One virtqueue as the guest's driver left it in memory. */
class QueueAudit {
  readonly #memory: AddressSpace;
  readonly #shadow: Shadow;
  readonly #q: QueueTruth;
  readonly #name: string;
  readonly #report: Report;
  readonly #chains = new Map<number, Range[]>();
  readonly #rings: Range[];
  #avail = 0;
  #used = 0;

  constructor(memory: AddressSpace, shadow: Shadow, q: QueueTruth, name: string, report: Report) {
    this.#memory = memory;
    this.#shadow = shadow;
    this.#q = { ...q };
    this.#name = name;
    this.#report = report;
    this.#rings = [
      { addr: q.desc, len: DESC_SIZE * q.size, mode: GRANT_READ },
      { addr: q.avail, len: availBytes(q.size), mode: GRANT_READ },
      // readable too: a device that starts over reads its own used index (engine/adopt.ts)
      { addr: q.used, len: usedBytes(q.size), mode: GRANT_READ | GRANT_WRITE },
    ];
    for (const r of this.#rings) this.#set(r, r.mode);
  }

  turn(): void {
    const { avail, used, size } = this.#q;
    const availPtr = this.#memory.resolve(avail, 4, false);
    const usedPtr = this.#memory.resolve(used, 4, true);
    if (availPtr === 0 || usedPtr === 0) return;
    // available index first: a head in front of it that was used before is then already behind the used index
    const a = ld16(availPtr + 2);
    const u = ld16(usedPtr + 2);
    for (; this.#used !== u; this.#used = (this.#used + 1) & 0xffff) {
      const at = this.#memory.resolve(used + 4 + 8 * (this.#used & (size - 1)), 4, true);
      if (at !== 0) this.#release(ld32(at));
    }
    for (; this.#avail !== a; this.#avail = (this.#avail + 1) & 0xffff) {
      const at = this.#memory.resolve(avail + 4 + 2 * (this.#avail & (size - 1)), 2, false);
      if (at !== 0) this.#expose(ld16(at));
    }
  }

  /** A head was made available: walk its chain. */
  #expose(head: number): void {
    const { desc, size } = this.#q;
    if (this.#chains.has(head)) this.#release(head);
    const ranges: Range[] = [];
    this.#walk(desc, size, head, ranges);
    this.#chains.set(head, ranges);
    for (const r of ranges) this.#set(r, r.mode);
  }

  #walk(table: number, entries: number, first: number, into: Range[]): void {
    let i = first;
    for (let steps = 0; steps < entries && i < entries; steps++) {
      const at = this.#memory.resolve(table + DESC_SIZE * i, DESC_SIZE, false);
      if (at === 0) return;
      const addr = ld32(at) + ld32(at + 4) * 2 ** 32;
      const len = ld32(at + 8);
      const flags = ld16(at + 12);
      if (flags & DESC_F_INDIRECT) {
        into.push({ addr, len, mode: GRANT_READ });
        this.#walk(addr, Math.floor(len / DESC_SIZE), 0, into);
      } else into.push({ addr, len, mode: flags & DESC_F_WRITE ? GRANT_WRITE : GRANT_READ });
      if (!(flags & DESC_F_NEXT)) return;
      i = ld16(at + 14);
    }
  }

  /** A head came back in the used ring. */
  #release(head: number): void {
    const ranges = this.#chains.get(head);
    if (ranges === undefined) {
      this.#report(`${this.#name}: the used ring names head ${head}, which the host has not made available`);
      return;
    }
    this.#chains.delete(head);
    for (const r of ranges) this.#set(r, 0);
    // the same bytes may be out in another chain as well: a retransmitted segment
    for (const other of this.#chains.values())
      for (const o of other)
        for (const r of ranges) if (o.addr < r.addr + r.len && r.addr < o.addr + o.len) this.#set(o, o.mode);
  }

  /** Only where memory is: behind an IOMMU the guest has often unmapped a buffer by the time it is released. */
  #set(r: Range, mode: number): void {
    for (let done = 0; done < r.len; ) {
      const at = r.addr + done;
      if (!this.#memory.holds(at)) {
        done += 4096 - (at & 4095);
        continue;
      }
      if (this.#memory.resolve(at, r.len - done, (r.mode & GRANT_WRITE) !== 0) === 0) return;
      const n = this.#memory.run;
      this.#shadow.grant(at, n, mode);
      done += n;
    }
  }

  end(): void {
    for (const ranges of this.#chains.values()) for (const r of ranges) this.#set(r, 0);
    for (const r of this.#rings) this.#set(r, 0);
    this.#chains.clear();
  }
}

export class GuestAuditor {
  readonly #memory: AddressSpace;
  readonly #shadow: Shadow;
  readonly #report: Report;
  #queues: (QueueAudit | null)[] = [];

  /** @param report gets what is wrong by itself, apart from accesses: these the link reports */
  constructor(memory: AddressSpace, shadow: Shadow, report: Report) {
    this.#memory = memory;
    this.#shadow = shadow;
    this.#report = report;
  }

  /** Have `truth` tell when queues begin and end. */
  follow(truth: HostTruth): void {
    truth.onReset = () => this.stop();
    truth.onQueueReset = (i) => this.stopQueue(i);
    truth.onQueueUp = (i) => this.startQueue(i, truth.queues[i]!);
  }

  /** The guest set DRIVER_OK with these queues. */
  start(queues: readonly QueueTruth[]): void {
    this.stop();
    for (let i = 0; i < queues.length; i++) this.startQueue(i, queues[i]!);
  }

  /** One queue begins, at DRIVER_OK or after its own reset. */
  startQueue(i: number, q: QueueTruth): void {
    this.stopQueue(i);
    this.#queues[i] = new QueueAudit(this.#memory, this.#shadow, q, `queue ${i}`, this.#report);
  }

  /** The driver may reuse this queue's memory. */
  stopQueue(i: number): void {
    this.#queues[i]?.end();
    this.#queues[i] = null;
  }

  /** Once a turn, before the DMA. */
  turn(): void {
    for (let i = 0; i < this.#queues.length; i++) this.#queues[i]?.turn();
  }

  /** The driver may reuse its memory: nothing is granted any more. */
  stop(): void {
    for (const q of this.#queues) q?.end();
    this.#queues = [];
  }
}
