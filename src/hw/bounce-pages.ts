/**
 * The packet buffers of a VDUSE device as DMA memory: IOVAs [0, bounce size), a shared mapping of the kernel's bounce
 * pages, and a table from IOVA page to bus address that is filled when a page is first met. A page keeps its frame
 * for the life of the device.
 *
 * On a board the bus address is the physical one of /proc/self/pagemap (needs CAP_SYS_ADMIN). The model's DMA reaches
 * process memory instead: it lays the mapping somewhere on its board bus (BufferBus).
 *
 * Hazard: touching a page that the kernel has not mapped yet is a SIGBUS; pages named in descriptors always are.
 */
import { check, cstring, libc, O_CLOEXEC, O_RDONLY, PAGE_SIZE, ptrOf } from "./libc.ts";
import { ld8, unmap, view } from "./mem.ts";
import type { LocalBuffers } from "./net-port.ts";

/** A simulated board bus that can take process memory in. */
export interface BufferBus {
  /** Lay `size` bytes at `ptr` on the bus. @returns bus address of the first byte */
  map(ptr: number, size: number): number;
  /** strict mode: DMA may touch these bytes from now on */
  grant(bus: number, len: number): void;
  unmap(bus: number, size: number): void;
}

/** what learn() returns when there is no physical address */
export const PAGE_UNREACHABLE = -1;

/** bytes of an entry of the table, whatever the kernel's page size is: the engine cuts elements at these */
const PAGE = 4096;
const PAGE_SHIFT = Math.log2(PAGE_SIZE);
const TWO32 = 4294967296;
const PRESENT = 31;

export class BouncePages implements LocalBuffers {
  readonly base = 0;
  readonly busBase = 0;
  readonly u8: Uint8Array;
  readonly pageBusLo: Int32Array;
  readonly pageBusHi: Int32Array;
  /** pages learnt so far */
  learnt = 0;
  readonly #ptr: number;
  readonly #size: number;
  readonly #bus: BufferBus | null;
  readonly #busBase: number;
  readonly #pagemap: number;
  readonly #entry = new Uint32Array(2);
  readonly #entryPtr: number;

  /**
   * @param ptr mapping of IOVA 0 on; owned from here on
   * @param bus the model's bus, null on a board
   */
  constructor(ptr: number, size: number, bus: BufferBus | null) {
    this.#ptr = ptr;
    this.#size = size;
    this.#bus = bus;
    this.u8 = new Uint8Array(view(ptr, size));
    this.pageBusLo = new Int32Array(size / PAGE);
    this.pageBusHi = new Int32Array(size / PAGE);
    this.#entryPtr = ptrOf(this.#entry);
    this.#busBase = bus === null ? 0 : bus.map(ptr, size);
    this.#pagemap =
      bus === null
        ? check(libc.open(cstring("/proc/self/pagemap"), O_RDONLY | O_CLOEXEC, 0), "open /proc/self/pagemap")
        : -1;
  }

  /** Fill the entry of a page. @returns 0 or PAGE_UNREACHABLE */
  learn(page: number): number {
    if (this.#bus !== null) {
      const at = this.#busBase + page * PAGE;
      this.#bus.grant(at, PAGE);
      this.pageBusHi[page] = Math.floor(at / TWO32);
      this.pageBusLo[page] = at | 0;
      this.learnt++;
      return 0;
    }
    const at = this.#ptr + page * PAGE;
    // The frame shows only after the page was touched by this process.
    ld8(at);
    if (libc.pread(this.#pagemap, this.#entryPtr, 8, Math.floor(at / PAGE_SIZE) * 8) !== 8) return PAGE_UNREACHABLE;
    const lo = this.#entry[0]!;
    const hi = this.#entry[1]!;
    const frameHi = hi & 0x7fffff;
    if (hi >>> PRESENT === 0 || (lo === 0 && frameHi === 0)) return PAGE_UNREACHABLE;
    this.pageBusLo[page] = (lo << PAGE_SHIFT) | (at % PAGE_SIZE);
    this.pageBusHi[page] = (frameHi << PAGE_SHIFT) | (lo >>> (32 - PAGE_SHIFT));
    this.learnt++;
    return 0;
  }

  /** Unmap; nobody may use the views afterwards. */
  close(): void {
    if (this.#bus !== null) this.#bus.unmap(this.#busBase, this.#size);
    else libc.close(this.#pagemap);
    unmap(this.#ptr, this.#size);
  }
}
