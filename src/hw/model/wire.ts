/**
 * The two directions of the link as resources in time: who occupies them until when, and the tags of read requests.
 * Times are ns of the model's clock. No data here; no credits, no replay, DLLPs as a mean share (timing.ts).
 */
import { DLLP_PER_TLP, type LinkTiming, rawGbps, TLP_COMPLETION, TLP_REQUEST } from "./timing.ts";

/** Packet sizes in force, as Device Control has them: the host may change them at any time. Log2 of bytes. */
export interface PacketSizes {
  readonly mpsShift: number;
  readonly mrrsShift: number;
}

export class Wire {
  readonly timing: LinkTiming;
  readonly nsPerByte: number;
  /** ns from one end to the other: half a round trip, the host's memory counted in */
  readonly oneWayNs: number;
  /** when each direction is free again: up is board to host */
  upFree = 0;
  downFree = 0;
  /** ns each direction was busy with TLPs and DLLPs so far */
  upBusyNs = 0;
  downBusyNs = 0;
  /** result of request(): when the last request was out, when the last completion is in */
  asked = 0;
  landed = 0;
  readonly #dllpNs: number;
  readonly #sizes: PacketSizes;
  /** when each tag is free again, used in turn: completions come in the order of requests */
  readonly #tags: Float64Array;
  #tag = 0;

  constructor(timing: LinkTiming, sizes: PacketSizes) {
    this.timing = timing;
    this.#sizes = sizes;
    this.nsPerByte = 8 / rawGbps(timing);
    this.oneWayNs = timing.roundTripNs / 2;
    this.#dllpNs = DLLP_PER_TLP * this.nsPerByte;
    this.#tags = new Float64Array(timing.tags);
  }

  /** Max_Payload_Size and Max_Read_Request_Size in bytes. */
  get mps(): number {
    return 1 << this.#sizes.mpsShift;
  }
  get mrrs(): number {
    return 1 << this.#sizes.mrrsShift;
  }

  /** Send `tlps` packets of `bytes` in all, headers included, up from `time` on. @returns when the last byte is out */
  sendUp(time: number, bytes: number, tlps: number): number {
    const start = time > this.upFree ? time : this.upFree;
    const busy = bytes * this.nsPerByte;
    this.upFree = start + busy;
    this.upBusyNs += busy;
    const dllps = tlps * this.#dllpNs;
    this.downFree = (time > this.downFree ? time : this.downFree) + dllps;
    this.downBusyNs += dllps;
    return this.upFree;
  }

  /** The same for a posted write of the host with `bytes` of payload and a 32-bit address. */
  sendDown(time: number, bytes: number): number {
    const start = time > this.downFree ? time : this.downFree;
    const busy = (TLP_COMPLETION + bytes) * this.nsPerByte;
    this.downFree = start + busy;
    this.downBusyNs += busy;
    this.upFree = (time > this.upFree ? time : this.upFree) + this.#dllpNs;
    this.upBusyNs += this.#dllpNs;
    return this.downFree;
  }

  /** Memory write TLPs for `size` bytes at `addr`: none crosses a multiple of the maximum payload. */
  writeTlps(addr: number, size: number): number {
    const mps = this.mps;
    return Math.ceil(((addr % mps) + size) / mps);
  }

  /** As many of `size` bytes from `src` on as there are free tags for at `now`; 0 when there is none. */
  requestable(src: number, size: number, now: number): number {
    const mrrs = this.mrrs;
    let bytes = 0;
    let tag = this.#tag;
    for (let n = 0; n < this.#tags.length && bytes < size && this.#tags[tag]! <= now; n++) {
      bytes += mrrs - ((src + bytes) % mrrs);
      tag = tag + 1 === this.#tags.length ? 0 : tag + 1;
    }
    return bytes < size ? bytes : size;
  }

  /** When the next tag is free. */
  get tagFree(): number {
    return this.#tags[this.#tag]!;
  }

  /**
   * Ask for `size` bytes from `src` on, one read request after the other from `now` on; the completions of each occupy
   * the way down when they come. `asked` and `landed` are the result. @returns number of requests
   */
  request(src: number, size: number, now: number): number {
    const { roundTripNs, completion } = this.timing;
    const mrrs = this.mrrs;
    const most = completion < mrrs ? completion : mrrs;
    let requests = 0;
    this.asked = now;
    for (let done = 0; done < size; requests++) {
      const at = src + done;
      const n = Math.min(mrrs - (at % mrrs), size - done);
      this.asked = this.sendUp(this.asked, TLP_REQUEST, 1);
      // the first completion ends at a multiple of what the host returns at most, and so do all but the last
      const completions = Math.ceil(((at % most) + n) / most);
      const busy = (n + completions * TLP_COMPLETION) * this.nsPerByte;
      this.landed = this.downFree = Math.max(this.asked + roundTripNs, this.downFree) + busy;
      this.downBusyNs += busy;
      this.upFree += completions * this.#dllpNs;
      this.upBusyNs += completions * this.#dllpNs;
      this.#tags[this.#tag] = this.landed;
      this.#tag = this.#tag + 1 === this.#tags.length ? 0 : this.#tag + 1;
      done += n;
    }
    return requests;
  }
}
