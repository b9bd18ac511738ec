/** A Fetcher whose copies land when the test says so, and a channel that only writes down what is put on it. */
import type { Fetcher } from "../../src/engine/fetch.ts";
import type { DmaChannel } from "../../src/hw/dma-channel.ts";
import type { DmaRegion } from "../../src/hw/dma-memory.ts";
import { copy } from "../../src/hw/mem.ts";
import { putEach } from "../../src/hw/pieces.ts";
import type { TestMemory } from "./ring-memory.ts";

export interface Copy {
  readonly bytes: number;
  readonly addr: number;
  readonly to: number;
}

export class SlowFetcher implements Fetcher {
  readonly cpuReads = 0;
  /** copies that may be outstanding */
  space = 1 << 30;
  /** land at once with commit() */
  instant = false;
  /** every copy asked for, in order */
  readonly asked: Copy[] = [];
  private done = 0;
  private committed = 0;
  /** copies that forget() dropped from the list */
  private before = 0;

  constructor(private readonly source: TestMemory) {}

  idle(): boolean {
    return this.asked.length === this.done;
  }

  room(): number {
    return this.space - (this.asked.length - this.done);
  }

  put(bytes: number, lo: number, hi: number, to: DmaRegion, off: number): void {
    if (this.room() < 1) throw new Error("more copies than there is room for");
    if (bytes <= 0 || off < 0 || off + bytes > to.size)
      throw new Error(`copy of ${bytes} bytes to ${off} of ${to.size}`);
    this.asked.push({ bytes, addr: (hi >>> 0) * 2 ** 32 + (lo >>> 0), to: to.ptr + off });
  }

  commit(): number {
    this.committed = this.asked.length;
    if (this.instant) this.land();
    return this.before + this.committed;
  }

  landed(mark: number): boolean {
    return this.before + this.done >= mark;
  }

  /** Drop the copies that landed from the list; marks stay valid. */
  forget(): void {
    this.asked.splice(0, this.done);
    this.before += this.done;
    this.committed -= this.done;
    this.done = 0;
  }

  /** Let `n` of what was committed land, all by default. */
  land(n = this.committed - this.done): void {
    for (let i = 0; i < n && this.done < this.committed; i++, this.done++) {
      const c = this.asked[this.done]!;
      if (c.addr < this.source.busBase || c.addr + c.bytes > this.source.busBase + this.source.size)
        throw new Error(`copy from 0x${c.addr.toString(16)}, outside the host's memory`);
      copy(c.to, this.source.cpu(c.addr), c.bytes);
    }
  }

  /** committed and not landed */
  get flying(): readonly Copy[] {
    return this.asked.slice(this.done, this.committed);
  }

  /** What is under way is lost, as when the channel was restarted. */
  lose(): void {
    this.done = this.committed = this.asked.length;
  }

  rests(): boolean {
    return false;
  }
  arm(): boolean {
    return false;
  }
  armed(): boolean {
    return false;
  }
  fire(): number {
    throw new Error("nothing is prepared");
  }
  alone(): boolean {
    return false;
  }
  reset(): void {}
}

export interface Put {
  readonly bytes: number;
  readonly sar: number;
  readonly dar: number;
}

const word = (lo: number, hi: number): number => (hi >>> 0) * 2 ** 32 + (lo >>> 0);

export class NoteChannel implements DmaChannel {
  readonly isWrite = true;
  readonly index = 0;
  readonly capacity: number;
  putCount: number;
  doneCount: number;
  lastError = 0;
  rerings = 0;
  commits = 0;
  readonly puts: Put[] = [];

  constructor(capacity = 2000, count = 0) {
    this.capacity = capacity;
    this.putCount = this.doneCount = count;
  }
  room(): number {
    return this.capacity - ((this.putCount - this.doneCount) | 0);
  }
  put(bytes: number, sLo: number, sHi: number, dLo: number, dHi: number): void {
    if (this.room() < 1) throw new Error("put without room");
    this.puts.push({ bytes, sar: word(sLo, sHi), dar: word(dLo, dHi) });
    this.putCount = (this.putCount + 1) | 0;
  }
  send(bytes: number, sLo: number, sHi: number, dLo: number, dHi: number): void {
    this.put(bytes, sLo, sHi, dLo, dHi);
    this.commit();
  }
  putPieces(src: Int32Array, dst: Int32Array, bytes: number): number {
    return putEach(this, src, dst, bytes);
  }
  commit(): void {
    this.commits++;
  }
  progress(): number {
    return 0;
  }
  /** Everything put so far has landed. */
  land(): void {
    this.doneCount = this.putCount;
  }
  halt(): number {
    return 0;
  }
  start(): void {
    this.doneCount = this.putCount;
  }
  recover(): number {
    this.start();
    return this.halt();
  }
  quiesce(): number {
    return 0;
  }
}
