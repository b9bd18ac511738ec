/**
 * A life of the host's driver that outlives this process. The host does not notice that epnic was killed: its driver waits for
 * used buffers, and the registers it wrote are in BAR memory. When that memory is kept (a file on hugetlbfs), a
 * record in its first page says how the life was captured, and the next epnic goes on with it.
 *
 * What is known of the rings is in the host's memory: everything committed before the end was carried out by the DMA
 * engine, so the used index says where to go on. Frames that were taken but not given back are carried a second time.
 */
import type { Controller } from "../hw/controller.ts";
import type { DmaMemory, DmaRegion } from "../hw/dma-memory.ts";
import { copy, fill, ld8, ld16, ld32, ptrOf, st32, wmb } from "../hw/mem.ts";
import type { Assembly } from "./assemble.ts";
import type { AdoptedLife, HostFunction } from "./function/host-function.ts";

interface Record extends AdoptedLife {
  /** what the function was made of; another configuration cannot go on with it */
  readonly key: string;
  /** offsets from the record, bus addresses and bytes of the regions whose contents are part of the life */
  readonly parts: readonly {
    readonly name: string;
    readonly off: number;
    readonly bus: number;
    readonly size: number;
  }[];
}

const RECORD_BYTES = 4096;
const MAGIC = 0x65706c66;
const TEXT = 8;
/** regions that the host reads and writes */
const PARTS = ["bar0", "msix-table"];
const STATUS_OFF = 0x14;
const FETCH_TURNS = 2_000_000;

/** Memory that may hold what an earlier process left. */
export interface KeptMemory extends DmaMemory {
  readonly kept: boolean;
  /** all of it to zero, as alloc() promises */
  clear(): void;
}

export const isKept = (m: DmaMemory): m is KeptMemory => "kept" in m;

export class LifeStore {
  private readonly region: DmaRegion;
  private readonly key: string;
  private readonly found: { readonly record: Record; readonly bytes: readonly Uint8Array[] } | null;
  private saved = -1;

  /**
   * Must be the first to allocate. What an earlier process left is copied, then the memory is zeroed.
   * @param key configuration that the record must agree with
   */
  constructor(memory: KeptMemory, key: string) {
    this.key = key;
    this.region = memory.alloc("life", RECORD_BYTES, RECORD_BYTES);
    this.found = memory.kept ? this.load() : null;
    if (memory.kept) memory.clear();
  }

  private load(): { record: Record; bytes: Uint8Array[] } | null {
    const at = this.region.ptr;
    if (ld32(at) !== MAGIC) return null;
    const length = ld32(at + 4);
    if (length > RECORD_BYTES - TEXT) return null;
    try {
      const record = JSON.parse(Buffer.from(this.region.u8.subarray(TEXT, TEXT + length)).toString()) as Record;
      if (record.key !== this.key) return null;
      const bytes = record.parts.map((p) => {
        const b = new Uint8Array(p.size);
        copy(ptrOf(b), at + p.off, p.size);
        return b;
      });
      return { record, bytes };
    } catch {
      return null;
    }
  }

  /** Follow the service: a life that is served is on record, any other is not. `life` counts negotiations. */
  follow(live: boolean, life: number, fn: HostFunction, memory: DmaMemory): void {
    const now = live ? life : -1;
    if (now === this.saved) return;
    this.saved = now;
    const at = this.region.ptr;
    st32(at, 0);
    if (!live || fn.adopt === undefined) return;
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
      status: ld8(bar.ptr + STATUS_OFF),
      queues: fn.queues.map((q) => ({ ...q })),
      parts: regions.map((r) => ({ name: r.name, off: r.ptr - at, bus: r.bus, size: r.size })),
    };
    const text = Buffer.from(JSON.stringify(record));
    if (text.length > RECORD_BYTES - TEXT) return;
    this.region.u8.set(text, TEXT);
    st32(at + 4, text.length);
    wmb();
    st32(at, MAGIC);
  }

  /**
   * Go on with the life that was found, if it is still the host's.
   * @returns used indices of both queues when the function is live again, null when there is nothing to adopt
   */
  adopt(ctrl: Controller, parts: Pick<Assembly, "fn" | "fetcher" | "channels">): readonly [number, number] | null {
    const { found } = this;
    const { fn } = parts;
    if (found === null || fn.adopt === undefined) return null;
    const { record, bytes } = found;
    const regions = record.parts.map((p) => ctrl.memory.regions.find((r) => r.name === p.name));
    for (let i = 0; i < regions.length; i++) {
      const r = regions[i];
      const p = record.parts[i]!;
      if (r === undefined || r.bus !== p.bus || r.size !== p.size) return null;
    }
    const bar = record.parts.findIndex((p) => p.name === "bar0");
    // The registers must be those of the record: a host that reset the function meanwhile began another life.
    if (bar < 0 || bytes[bar]![STATUS_OFF] !== record.status) return null;
    for (let i = 0; i < bytes.length; i++) copy(regions[i]!.ptr, ptrOf(bytes[i]!), bytes[i]!.length);
    fn.adopt(record);
    const staging = ctrl.memory.alloc("adopt", 64, 64);
    const used = record.queues.map((q, i) => {
      parts.fetcher.put(4, q.usedLo, q.usedHi, staging, 8 * i);
      return parts.fetcher.commit();
    });
    for (let t = 0; t < FETCH_TURNS; t++) {
      ctrl.turn();
      if (parts.channels.fetch.progress() < 0) return null;
      if (used.every((mark) => parts.fetcher.landed(mark))) return [ld16(staging.ptr + 2), ld16(staging.ptr + 8 + 2)];
    }
    return null;
  }

  /** The life ends with this process: nothing to go on with. */
  forget(): void {
    fill(this.region.ptr, 0, 4);
  }
}
