/**
 * A life of the host's driver that outlives this process. The host does not notice that epnic was killed: its driver waits for
 * used buffers, and the registers it wrote are in BAR memory. When that memory is kept (a file on hugetlbfs), a
 * record in its first pages says how the life was captured, and the next epnic goes on with it.
 *
 * What is known of the rings is in the host's memory: everything committed before the end was carried out by the DMA
 * engine, so the used index says where to go on. Frames that were taken but not given back are carried a second time.
 *
 * A process may be killed at any instruction, also this one while it starts. So the record of a life and the registers that
 * belong to it are never erased while the life may still be the host's, and a new record takes effect with one store.
 */
import type { Controller } from "../hw/controller.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { ld16, ld32, st32, wmb } from "../hw/mem.ts";
import type { Assembly } from "./assemble.ts";
import type { FrozenLife, HostFunction } from "./function/host-function.ts";

interface Part {
  readonly name: string;
  /** offset from the store, bus address, bytes */
  readonly off: number;
  readonly bus: number;
  readonly size: number;
}

interface Record extends FrozenLife {
  /** what the function was made of, and where memory is; anything else cannot go on with it */
  readonly key: string;
  /** regions whose contents are part of the life */
  readonly parts: readonly Part[];
}

/** Head: which slot counts. Slots: bytes and CRC of the text, the text. */
const HEAD_BYTES = 4096;
const SLOT_BYTES = 4096;
const TEXT = 8;
/** the head's word is this plus the slot's number */
const MAGIC = 0x65706c30;
/** bumped when regions move or the record changes */
const FORMAT = 2;
/** regions that the host reads and writes */
const PARTS = ["bar0", "msix-table", "config"];
const STATUS_OFF = 0x14;
const FETCH_TURNS = 2_000_000;

/** Memory that may hold what an earlier process left. */
export interface KeptMemory extends DmaMemory {
  /** something of an earlier process may be in it */
  readonly kept: boolean;
  /** which bus addresses it has, as text */
  readonly layout: string;
  /** all of it to zero, as alloc() promises, but for these stretches of CPU addresses */
  clear(except: readonly { readonly ptr: number; readonly size: number }[]): void;
  /** close() must not take it away */
  keep(): void;
}

export const isKept = (m: DmaMemory): m is KeptMemory => "kept" in m;

export class LifeStore {
  private readonly memory: KeptMemory;
  private readonly region: DmaRegion;
  private readonly key: string;
  private readonly found: Record | null;
  /** negotiation on record, -1 none; -2 as the process before left it */
  private saved = -2;

  /**
   * Must be the first to allocate. Memory is zeroed, except where it holds a life.
   * @param key configuration that the record must agree with
   * @param rested no DMA of the earlier process is under way any more; without that its life cannot be gone on with
   */
  constructor(memory: KeptMemory, key: string, rested: boolean) {
    this.memory = memory;
    this.key = `${FORMAT} ${memory.layout} ${key}`;
    this.region = memory.alloc("life", HEAD_BYTES + 2 * SLOT_BYTES, HEAD_BYTES);
    this.found = memory.kept && rested ? this.load() : null;
    if (!memory.kept) return;
    const base = this.region.ptr;
    const except = this.found === null ? [] : this.found.parts.map((p) => ({ ptr: base + p.off, size: p.size }));
    memory.clear(this.found === null ? [] : [this.region, ...except]);
  }

  /** The life that was found; the function is made with it, and may find that it is the host's no more. */
  get life(): FrozenLife | null {
    return this.found;
  }

  private slot(k: number): number {
    return HEAD_BYTES + k * SLOT_BYTES;
  }

  private load(): Record | null {
    const k = ld32(this.region.ptr) - MAGIC;
    if (k !== 0 && k !== 1) return null;
    const { u8 } = this.region;
    const at = this.slot(k);
    const length = ld32(this.region.ptr + at);
    if (length > SLOT_BYTES - TEXT) return null;
    const text = u8.slice(at + TEXT, at + TEXT + length);
    if (Bun.hash.crc32(text) !== ld32(this.region.ptr + at + 4)) return null;
    const record = JSON.parse(Buffer.from(text).toString()) as Record;
    return record.key === this.key ? record : null;
  }

  /** Follow the service: a life that is served is on record, any other is not. `life` counts negotiations. */
  follow(live: boolean, life: number, fn: HostFunction, memory: DmaMemory): void {
    const now = live && fn.resumable ? life : -1;
    if (now === this.saved) return;
    this.saved = now;
    if (now < 0) {
      this.forget();
      return;
    }
    const at = this.region.ptr;
    const regions = memory.regions.filter((r) => PARTS.includes(r.name));
    const bar = regions.find((r) => r.name === "bar0")!;
    const record: Record = {
      key: this.key,
      featuresLo: fn.featuresLo,
      featuresHi: fn.featuresHi,
      hdrLen: fn.hdrLen,
      inOrder: fn.inOrder,
      msix: fn.msix,
      configVector: fn.configVector,
      status: bar.u8[STATUS_OFF]!,
      queues: fn.queues.map((q) => ({ ...q })),
      parts: regions.map((r) => ({ name: r.name, off: r.ptr - at, bus: r.bus, size: r.size })),
    };
    const text = Buffer.from(JSON.stringify(record));
    if (text.length > SLOT_BYTES - TEXT) {
      this.forget();
      return;
    }
    // The slot that counts stays as it is until the other one is whole.
    const k = ld32(at) === MAGIC ? 1 : 0;
    const slot = this.slot(k);
    this.region.u8.set(text, slot + TEXT);
    st32(at + slot, text.length);
    st32(at + slot + 4, Bun.hash.crc32(text));
    wmb();
    st32(at, MAGIC + k);
  }

  /**
   * Go on with the life that was found, if the function did.
   * @returns used indices of both queues, null when there is nothing to go on with; the function then waits for a driver
   */
  adopt(ctrl: Controller, parts: Pick<Assembly, "fn" | "fetcher" | "channels">): readonly [number, number] | null {
    const { fn } = parts;
    const used = fn.live ? this.usedIndices(ctrl, parts) : null;
    if (used !== null) return used;
    this.forget();
    if (fn.live) fn.hostGone();
    return null;
  }

  private usedIndices(
    ctrl: Controller,
    parts: Pick<Assembly, "fn" | "fetcher" | "channels">,
  ): readonly [number, number] | null {
    for (const p of this.found!.parts) {
      const r = ctrl.memory.regions.find((x) => x.name === p.name);
      if (r === undefined || r.bus !== p.bus || r.size !== p.size) return null;
    }
    const staging = ctrl.memory.alloc("adopt", 64, 64);
    const marks = parts.fn.queues.map((q, i) => {
      parts.fetcher.put(4, q.usedLo, q.usedHi, staging, 8 * i);
      return parts.fetcher.commit();
    });
    for (let t = 0; t < FETCH_TURNS; t++) {
      ctrl.turn();
      if (parts.channels.fetch.progress() < 0) return null;
      if (marks.every((mark) => parts.fetcher.landed(mark))) return [ld16(staging.ptr + 2), ld16(staging.ptr + 8 + 2)];
    }
    return null;
  }

  /** No life is on record any more. */
  forget(): void {
    st32(this.region.ptr, 0);
  }

  /** The process ends before it served anything: what is on record is the next one's. */
  leave(): void {
    if (ld32(this.region.ptr) !== 0) this.memory.keep();
  }
}
