/**
 * What can be wrong with a ring or a chain, as negative status codes for the service loop, and their text for people.
 * A code travels with two numbers (`a`, `b` of the place that found it) so that the message can name both values.
 */
import { hex64 } from "./function/capture.ts";
import { NOT_THE_HOSTS, REBIND } from "./function/parts.ts";

export const OK = 0;
/** the avail index moved further than the queue is long: a = how far it is ahead of the used index, b = queue size */
export const R_AVAIL_JUMP = -10;
/** a descriptor index outside the table: a = index, b = queue (or indirect table) size */
export const R_DESC_INDEX = -11;
/** more links than descriptors: a = head, b = table size */
export const R_DESC_LOOP = -12;
/** device-writable where readable was due or the reverse: a = descriptor index, b = its flags */
export const R_DESC_DIRECTION = -13;
/** a descriptor of 2 GiB or more, or an empty chain: a = descriptor index, b = length */
export const R_DESC_LENGTH = -14;
/** chain has more segments than can be handled: a = head, b = limit */
export const R_CHAIN_TOO_LONG = -15;
/** malformed indirect table (nested, not a multiple of 16, empty, with NEXT): a = head, b = length */
export const R_INDIRECT = -16;
/** indirect descriptor although the feature was not accepted: a = descriptor index, b = flags */
export const R_INDIRECT_NOT_NEGOTIATED = -17;
/** frame shorter than the virtio-net header plus an Ethernet header: a = bytes, b = minimum */
export const R_FRAME_SHORT = -18;
/** a buffer address outside the memory of the board's driver: a = address low word, b = address high word */
export const R_LOCAL_ADDRESS = -19;
/** a receive buffer too small for its header: a = bytes, b = minimum */
export const R_BUFFER_SMALL = -20;
/** the host's frames make sense with another header length: a = the length believed, b = the length found */
export const R_HEADER_LENGTH = -21;
/** flags and avail index read as ones in every bit: nobody answers at that address. a = flags, b = index */
export const R_ALL_ONES = -22;
/** the host sends, and no receive buffer was ever seen: a, b = address of the available ring, low and high word */
export const R_NEVER_FILLED = -23;
/** the avail index is lower than it was: a = what it was, b = what it is */
export const R_AVAIL_BACK = -24;
/** the DMA channel halted: a = error status, b = channel (write 0.., read 8..) */
export const R_DMA_ABORT = -30;
/** the DMA channel does not come to rest: a = channel, b = outstanding elements */
export const R_DMA_STUCK = -31;

const hex = (n: number): string => `0x${(n >>> 0).toString(16)}`;

/** One line for the log: the rule that was broken, and both values. `queue` is for example "hq.tx". */
export function describe(code: number, queue: string, a: number, b: number): string {
  switch (code) {
    case R_AVAIL_JUMP:
      return `${queue}: avail index is ${a} ahead of the used index, queue size is ${b}`;
    case R_AVAIL_BACK:
      return `${queue}: avail index went back from ${a} to ${b}`;
    case R_DESC_INDEX:
      return `${queue}: descriptor index ${a} is outside the table of ${b}`;
    case R_DESC_LOOP:
      return `${queue}: the chain at head ${a} has more links than the table has descriptors (${b}): a loop`;
    case R_DESC_DIRECTION:
      return `${queue}: descriptor ${a} has flags ${hex(b)}: wrong direction (WRITE flag) for this queue`;
    case R_DESC_LENGTH:
      return `${queue}: descriptor ${a} has length ${b >>> 0}, allowed is 1 to 2147483647`;
    case R_CHAIN_TOO_LONG:
      return `${queue}: the chain at head ${a} has more than ${b} segments`;
    case R_INDIRECT:
      return `${queue}: the indirect table of head ${a} is malformed (length ${b >>> 0}, must be a multiple of 16, within the limit and not nested)`;
    case R_INDIRECT_NOT_NEGOTIATED:
      return `${queue}: descriptor ${a} is indirect (flags ${hex(b)}) but INDIRECT_DESC was not accepted`;
    case R_FRAME_SHORT:
      return `${queue}: a chain of ${a} bytes is shorter than header and Ethernet header (${b})`;
    case R_LOCAL_ADDRESS:
      return `${queue}: buffer address ${hex(b)}_${(a >>> 0).toString(16).padStart(8, "0")} is outside the memory of the board's driver`;
    case R_BUFFER_SMALL:
      return `${queue}: a receive buffer of ${a} bytes is smaller than the header (${b})`;
    case R_ALL_ONES:
      return `${queue}: the available ring reads as ones in every bit (flags ${hex(a)}, index ${hex(b)}): the host does not let us read its memory`;
    case R_NEVER_FILLED:
      return `${queue}: the host sends, but the available ring at ${hex64(a, b)} never had a buffer: ${NOT_THE_HOSTS}; ${REBIND}`;
    case R_HEADER_LENGTH:
      return `${queue}: a net header of ${a} bytes was expected, the host's frames have one of ${b}`;
    case R_DMA_ABORT:
      return `${queue}: DMA ${b < 8 ? `write channel ${b}` : `read channel ${b - 8}`} halted, error status ${hex(a)}`;
    case R_DMA_STUCK:
      return `${queue}: DMA ${a < 8 ? `write channel ${a}` : `read channel ${a - 8}`} does not come to rest, ${b} elements outstanding`;
    default:
      return `${queue}: code ${code} (${a}, ${b})`;
  }
}

/** Before the first frame of a life an address that an IOMMU blocks reads as an abort, or as ones in every bit. */
export function blockedHint(code: number): string {
  if (code !== R_DMA_ABORT && code !== R_ALL_ONES) return "";
  return (
    "; not one frame was moved: an IOMMU of the host probably blocks this device because ACCESS_PLATFORM was not negotiated" +
    " (boot the host with iommu=pt or intel_iommu=off, or use the modern personality)"
  );
}
