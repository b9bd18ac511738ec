/**
 * Turns in which one thing alone is waited for: the ring entries of a lone frame of the host, its data, or its notification.
 * Such a turn looks at nothing else, so it is short, and what is waited for is seen sooner. Any other work ends it.
 */
import type { ChannelSet } from "./channel-set.ts";
import type { HostRing } from "./host-ring.ts";
import type { ToBoard } from "./to-board.ts";
import type { ToHost } from "./to-host.ts";

/** short turns in a row, while only a notification is waited for, and while something is under way */
const HEARING_TURNS = 16;
const AWAITING_TURNS = 64;
/** whole turns with nothing under way before the first of them: the channels must have been seen to stop, and once more */
const STILL = 3;
/** while looks go on */
const LOOKING_TURNS = 4;

export class Vigil {
  /** the read channels were looked at in this turn: a second look would take a channel for settled too early */
  progressed = false;
  /** short turns that are left; 0: keep() has nothing to say, as when frames were begun */
  left = 0;
  /** something is under way, not only a notification waited for */
  private awaits = false;
  private hears = false;
  private round = false;
  private done = 0;
  private still = 0;

  constructor(
    private readonly ch: ChannelSet,
    private readonly hqRx: HostRing,
    private readonly hqTx: HostRing,
    private readonly toHost: ToHost,
    private readonly toBoard: ToBoard,
    private readonly wanted: boolean,
  ) {}

  /** A turn has attended to everything: may the next ones be short? */
  begin(): void {
    this.left = 0;
    const { ch, hqRx, hqTx } = this;
    const { write, read, fetch } = ch;
    if (
      !this.wanted ||
      this.toHost.outstanding !== 0 ||
      write.putCount !== write.doneCount ||
      hqTx.available() !== 0 ||
      hqRx.gathering ||
      hqRx.confirm !== 0 ||
      hqTx.confirm !== 0
    )
      return;
    const round = hqTx.gathering;
    this.round = round;
    const idle = read.putCount === read.doneCount && fetch.putCount === fetch.doneCount;
    this.hears = !round && hqTx.hearing;
    if (round ? idle || this.toBoard.outstanding !== 0 : idle && !this.hears) return;
    this.awaits = !idle;
    this.still = idle ? this.still + 1 : 0;
    if (idle && this.still < STILL) return;
    this.done = (read.doneCount + fetch.doneCount) | 0;
    // Without notifications looks must go on.
    this.left = round || this.hears ? (idle ? HEARING_TURNS : AWAITING_TURNS) : LOOKING_TURNS;
  }

  /** A turn begins, and in the one before no frame was. @returns whether it may be short */
  keep(): boolean {
    this.left--;
    const { read, fetch } = this.ch;
    let over = this.hears && this.hqTx.called;
    if (this.awaits && !over) {
      // What went wrong shows again where everything is attended to.
      if (read.progress() < 0 || (fetch !== read && fetch.progress() < 0)) over = true;
      else {
        this.progressed = true;
        // One part of a round is no use without the other.
        over = this.round ? this.hqTx.arrived : ((read.doneCount + fetch.doneCount) | 0) !== this.done;
      }
    }
    if (over) this.left = 0;
    return !over;
  }
}
