/**
 * The board's buffers as VDUSE has them: contiguous for the CPU and by the addresses in descriptors, while their 4 KiB
 * pages lie anywhere on the board's bus, no two of them side by side, known only after learn(). The model's bus has
 * nothing between the pages, so an element that leaves one is a strict violation.
 */
import type { Grants } from "../../src/hw/driver-ring.ts";
import { mapAnonymous, unmap, view } from "../../src/hw/mem.ts";
import { type AddressSpace, REGION_READ, REGION_WRITE } from "../../src/hw/model/address-space.ts";
import type { Random } from "../../src/hw/model/random.ts";
import type { LocalBuffers } from "../../src/hw/net-port.ts";

const PAGE = 4096;
const TWO32 = 2 ** 32;
/** half the addresses below 4 GiB, half above, as the pages' are */
const IOVA = TWO32;
const BUS = 0x17_fff0_0000;

export class ScatteredBuffers implements LocalBuffers, Grants {
  readonly ptr: number;
  readonly base: number;
  readonly busBase = 0;
  readonly u8: Uint8Array;
  readonly pageBusLo: Int32Array;
  readonly pageBusHi: Int32Array;
  /** pages learnt so far */
  learnt = 0;
  private readonly bus: Float64Array;

  constructor(
    private readonly space: AddressSpace,
    readonly bytes: number,
    random: Random,
  ) {
    const pages = bytes / PAGE;
    this.ptr = mapAnonymous(bytes);
    this.base = IOVA - (pages >> 1) * PAGE;
    this.u8 = new Uint8Array(view(this.ptr, bytes));
    this.pageBusLo = new Int32Array(pages);
    this.pageBusHi = new Int32Array(pages);
    this.bus = new Float64Array(pages);
    const places = Array.from({ length: pages }, (_, i) => i);
    for (let i = pages - 1; i > 0; i--) {
      const k = random.below(i + 1);
      [places[i], places[k]] = [places[k]!, places[i]!];
    }
    places.forEach((place, page) => {
      this.bus[page] = BUS + place * 2 * PAGE;
      space.add(this.bus[page]!, PAGE, this.ptr + page * PAGE, REGION_READ | REGION_WRITE);
    });
  }

  learn(page: number): number {
    if (page < 0 || page >= this.bus.length) return -1;
    const at = this.bus[page]!;
    this.pageBusHi[page] = Math.floor(at / TWO32);
    this.pageBusLo[page] = at | 0;
    this.learnt++;
    return 0;
  }

  grant(addr: number, len: number, mode: number): void {
    for (let at = addr - this.base, left = len; left > 0; ) {
      const n = Math.min(left, PAGE - (at % PAGE));
      this.space.shadow?.grant(this.bus[Math.floor(at / PAGE)]! + (at % PAGE), n, mode);
      at += n;
      left -= n;
    }
  }

  revoke(addr: number, len: number): void {
    this.grant(addr, len, 0);
  }

  close(): void {
    for (const at of this.bus) this.space.remove(at, PAGE);
    unmap(this.ptr, this.bytes);
  }
}
