/**
 * Both directions between one pair of board queues and one pair of host queues, one turn at a time. Knows channels and
 * rings, not registers and not who is on the other side. turn() allocates nothing and never throws.
 */
import { NO_VECTOR } from "../hw/virtio.layout.ts";
import { OK } from "./codes.ts";
import { DataPathLife } from "./datapath-life.ts";
import { HEADER_WAIT } from "./header-check.ts";
import type { ToBoard } from "./to-board.ts";
import type { ToHost } from "./to-host.ts";

export type { LifeOptions } from "./datapath-life.ts";

/** elements under way to the host from which on looks at its rings are rare: they take room on the same wire */
const BUSY = 8;

export class DataPath extends DataPathLife {
  /** the last turn was a short one, see vigil.ts */
  brief = false;

  /** frames begun in the last turn; turns and frames until channels and mirrors are attended to */
  private moved = 0;
  /** of them, frames to the host */
  private sent = 0;
  private tendWait = 0;
  /** toHost.starved as of the last turn */
  private starvedSeen = 0;

  /** @returns things done (0 = idle), or a negative code with culprit, a, b */
  turn(): number {
    const { port, irq, moved } = this;
    const wait = (this.tendWait - moved - 1) | 0;
    this.tendWait = wait;
    // While frames move every turn, what landed meanwhile can wait a little; large bursts empty a ring.
    if (
      moved === 0 ||
      wait < 0 ||
      irq.owed ||
      port.generation !== this.generation ||
      !port.ready ||
      this.checking !== null
    )
      return this.whole(moved);
    this.brief = false;
    let begun = 0;
    // While only the host sends, the board's ring is looked at when everything is: what else a frame of the board can wait
    // for comes with that too.
    if (this.sent !== 0) {
      begun = this.toHost.begin();
      if (begun < 0) return this.broken(this.toHost, begun);
      this.sent = begun;
    }
    const rc = this.toBoard.begin();
    if (rc < 0) return this.broken(this.toBoard, rc);
    begun = (begun + rc) | 0;
    this.moved = begun;
    return begun;
  }

  /** A turn that may attend to everything, or to one thing alone. @param moved frames begun in the turn before */
  private whole(moved: number): number {
    const { port, toHost } = this;
    const short = moved === 0 && this.vigil.left !== 0 && this.vigil.keep();
    const tend = (moved === 0 && !short) || this.tendWait < 0 || this.irq.owed || port.generation !== this.generation;
    this.brief = short && !tend;
    let work = 0;
    if (tend) {
      this.tendWait = this.tuning.tendAfter;
      work = this.tend();
      if (work < 0) return work;
    } else this.vigil.progressed = false;
    this.moved = 0;
    if (!port.ready) return work;
    let begun = 0;
    if (tend || moved === 0 || this.sent !== 0) {
      begun = toHost.begin();
      if (begun < 0) return this.broken(toHost, begun);
      this.sent = begun;
      // The line is shorter than before only where channels were looked at.
      if (tend) toHost.flush();
    }
    let rc = 0;
    if (this.checking !== null) {
      rc = this.checking.turn(this.hqTx, this.ch.read);
      if (rc < 0) return this.fault(rc, "hq.tx", this.hdrLen, this.checking.found);
      if (!this.checking.open) this.checking = null;
    }
    if (rc !== HEADER_WAIT) {
      rc = this.toBoard.begin();
      if (rc < 0) return this.broken(this.toBoard, rc);
      begun += rc;
      if (tend && begun === 0) this.vigil.begin();
    }
    this.moved = begun;
    if (begun !== 0) this.vigil.left = 0;
    return work + begun;
  }

  private broken(way: ToHost | ToBoard, rc: number): number {
    this.moved = 0;
    return this.fault(rc, way.culprit, way.a, way.b);
  }

  /** See what landed, give it back on both sides, and let the mirrors make a step. @returns frames finished, or a negative code */
  private tend(): number {
    const { port, toHost, toBoard } = this;
    let rc = this.vigil.progressed ? this.ch.advance(this.ch.write) : this.ch.progress();
    this.vigil.progressed = false;
    if (rc < 0) return this.channelFault(rc);
    if (port.generation !== this.generation) {
      rc = this.boardReset();
      if (rc < 0) return rc;
    }
    let work = toHost.finish();
    if (toHost.notify) {
      this.boardInterrupts++;
      port.notify(1);
    }
    const landed = toBoard.finish();
    if (landed !== 0) {
      if (toBoard.notify) {
        this.boardInterrupts++;
        port.notify(0);
      }
      toBoard.giveBack();
      work += landed;
    }
    rc = this.mirrors();
    if (rc < 0) return rc;
    if (this.configDue !== NO_VECTOR) this.configInterrupt(this.configDue);
    const write = this.ch.write;
    if (this.irq.turn(write) !== 0) write.commit();
    return work;
  }

  /** Let the mirrors of the host's rings make a step, and interrupts that wait for them. @returns 0 or a negative code */
  private mirrors(): number {
    const { hqRx, hqTx } = this;
    const write = this.ch.write;
    const busy = ((write.putCount - write.doneCount) | 0) > BUSY;
    let rc = hqTx.step(true, busy);
    if (rc < 0) return this.ringFault(rc, hqTx);
    // A frame may need more buffers than the low mark.
    const starved = this.toHost.starved;
    rc = hqRx.step(hqRx.available() <= this.rxLow || starved !== this.starvedSeen, busy);
    this.starvedSeen = starved;
    if (rc < 0) return this.ringFault(rc, hqRx);
    if (hqRx.putOwedFlags(write) || hqTx.putOwedFlags(write)) write.commit();
    if (hqRx.interruptDue(write)) this.interrupt(hqRx, this.rxVector);
    if (hqTx.interruptDue(write)) this.interrupt(hqTx, this.txVector);
    return OK;
  }

  /** One step towards drained: finish what is in flight, begin nothing. @returns 0 or a negative code */
  drain(): number {
    const rc = this.ch.progress();
    if (rc < 0) return this.channelFault(rc);
    this.toHost.finish();
    if (this.toHost.notify) this.port.notify(1);
    this.toHost.flush();
    if (this.toBoard.finish() !== 0) {
      if (this.toBoard.notify) this.port.notify(0);
      this.toBoard.giveBack();
    }
    if (this.irq.turn(this.ch.write) !== 0) this.ch.write.commit();
    return OK;
  }
}
