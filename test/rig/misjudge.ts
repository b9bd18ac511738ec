/** Preload of a scenario's engine: in the first life of a host's driver the header length is taken for the other one. */
import { FN_UP } from "../../src/engine/function/host-function.ts";
import { ModernFunction } from "../../src/engine/function/modern.ts";

const { poll } = ModernFunction.prototype;
let done = false;
ModernFunction.prototype.poll = function () {
  const event = poll.call(this);
  if (event === FN_UP && !done) {
    done = true;
    this.setHdrLen(this.hdrLen === 12 ? 24 : 12);
  }
  return event;
};
