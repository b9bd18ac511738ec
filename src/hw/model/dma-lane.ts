/** A channel's work in simulated time, as far as its registers do not show it. Plain state; timed-dma.ts drives it. */
import type { ChannelModel } from "./channel-model.ts";

/** elements of a channel that can be under way, a power of two above LinkTiming.readElements */
const RING = 32;

export class DmaLane {
  readonly ch: ChannelModel;
  /** write n is n, read n is 8 + n */
  readonly id: number;
  /** goes up when the channel is disabled: older events do not count */
  epoch = 0;
  /** a slot is being read */
  fetching = false;
  /** an element is fetched and waits for its turn */
  ready = false;
  readySrc = 0;
  readyDst = 0;
  readySize = 0;
  readyControl = 0;
  /** LLP behind that element */
  readyAfter = 0;
  /** the element that is being sent or asked for, what is left of it */
  busy = false;
  src = 0;
  dst = 0;
  left = 0;
  /** the next slot had the old cycle bit when it was read ahead: look again when data has come in */
  refetch = false;
  // elements whose data is not complete yet, oldest first
  readonly #control = new Int32Array(RING);
  readonly #after = new Float64Array(RING);
  readonly #dst = new Float64Array(RING);
  readonly #size = new Float64Array(RING);
  #head = 0;
  /** how many there are */
  flight = 0;

  constructor(ch: ChannelModel, id: number) {
    this.ch = ch;
    this.id = id;
  }

  /** Forget everything under way. */
  drop(): void {
    this.epoch = (this.epoch + 1) & 0xffff;
    this.fetching = this.ready = this.busy = this.refetch = false;
    this.flight = 0;
  }

  /** The fetched element goes to work. */
  launch(): void {
    this.ready = false;
    this.busy = true;
    this.src = this.readySrc;
    this.dst = this.readyDst;
    this.left = this.readySize;
    const at = (this.#head + this.flight) & (RING - 1);
    this.#control[at] = this.readyControl;
    this.#after[at] = this.readyAfter;
    this.#dst[at] = this.readyDst;
    this.#size[at] = this.readySize;
    if (this.flight++ === 0) this.ch.llpShown = this.readyAfter;
  }

  /** Destination and size of the oldest element under way. */
  get oldestDst(): number {
    return this.#dst[this.#head]!;
  }
  get oldestSize(): number {
    return this.#size[this.#head]!;
  }

  /** The oldest element is complete; LLP shows one element more than has landed. @returns its control word */
  retire(): number {
    const control = this.#control[this.#head]!;
    this.ch.llpShown = this.#after[this.#head]!;
    this.#head = (this.#head + 1) & (RING - 1);
    if (--this.flight > 0) this.ch.llpShown = this.#after[this.#head]!;
    return control;
  }
}
