/**
 * The local mirror of the driver's side of one of the host's virtqueues (HQ): avail ring, descriptors and indirect
 * tables, filled by a Fetcher. How chains are taken from it is host-ring.ts.
 *
 * VIRTIO 1.2 2.7.13.3: an entry or descriptor may be read only after the avail index that covers it. So there are two
 * machines. Looks (host-looks.ts) read the index, several may be under way. Rounds bring what the newest index covers:
 * entries, then the descriptors they name, then indirect tables; one is under way.
 */
import { DESC_F_INDIRECT, DESC_F_NEXT } from "../hw/virtio.layout.ts";
import { OK, R_DESC_INDEX, R_DESC_LOOP, R_INDIRECT, R_INDIRECT_NOT_NEGOTIATED } from "./codes.ts";
import { GUESS, INDIRECT_MAX } from "./host-descs.ts";
import { HostGuess } from "./host-guess.ts";
import type { RingAddresses } from "./host-used.ts";

/** descriptors that take the link as long as the engine takes to begin an element, some 100 ns */
const STRETCH = 16;
/** descriptors of a chain that are asked for with its head at the most; Linux has 2 + MAX_SKB_FRAGS */
const SPAN_MAX = 20;

/** result of needHeads() */
const FAR = 1;

const IDLE = 0;
const ENTRIES = 1;
const DESCS = 2;
const TABLES = 3;

export class HostMirror extends HostGuess {
  /** free-running u16: entries before it are complete in the mirror */
  ready = 0;

  // the round under way: entries [seen, target)
  private state = IDLE;
  private target = 0;
  private misses = 0;
  /** the whole table is on its way, and nothing will be followed */
  private whole = false;

  protected indirect = false;

  /** Begin a new life with the addresses that the host gave. Called with no DMA outstanding. */
  attach(q: RingAddresses, eventIdx: boolean, indirect: boolean): void {
    if (q.size > this.maxSize) throw new RangeError(`${this.name}: queue size ${q.size}, room for ${this.maxSize}`);
    this.attachLooks(q, eventIdx);
    this.descLo = q.descLo;
    this.descHi = q.descHi;
    this.indirect = indirect;
    this.ready = this.seen = this.target = 0;
    this.state = IDLE;
    this.attachGuess();
    this.whole = false;
    this.via = this.fetcher;
  }

  /** After attach(): not from 0 but from where this ring was, with nothing of it taken and not given back. */
  resume(idx: number): void {
    this.resumeUsed(idx);
    this.ready = this.seen = this.target = this.hostIdx = idx;
  }

  /** Entries are known that are not complete here yet. */
  get gathering(): boolean {
    return this.state !== IDLE || this.hostIdx !== this.seen;
  }

  /**
   * One step of both machines. `wanted`: look for news (an interrupt decision that waits looks in any case); `busy`:
   * the way to the host is full, so look less often. @returns 0 or a negative code with a, b
   */
  step(wanted: boolean, busy = false): number {
    let rc = this.endLooks();
    if (rc < 0) return rc;
    if (this.state !== IDLE) rc = this.goOn();
    else if (this.listening && this.hostIdx === this.seen) this.hear();
    if (this.state === IDLE && rc >= 0 && this.hostIdx !== this.seen) rc = this.beginRound(wanted, busy);
    else {
      this.lookOn(wanted && this.state === IDLE, busy);
      if (this.hearing && this.state === IDLE) this.makeReady();
    }
    return rc;
  }

  /** What the round under way asked for last is here. */
  get arrived(): boolean {
    return this.via.landed(this.mark) && (!this.split || this.spare!.landed(this.sideMark));
  }

  private goOn(): number {
    if (!this.arrived) return OK;
    this.split = false;
    if (this.state === ENTRIES) return this.onEntries();
    if (this.state === DESCS) return this.closeChains();
    this.finish();
    return OK;
  }

  // --- rounds ---

  private newRound(): void {
    this.target = this.hostIdx;
    this.round = (this.round + 1) | 0;
    this.runLo = -1;
    this.misses = 0;
  }

  private beginRound(wanted: boolean, busy: boolean): number {
    const { seen, size, spare } = this;
    const fresh = (this.hostIdx - seen) & 0xffff;
    if (spare !== null && this.isReady(fresh, spare)) {
      this.roundBegins(true);
      this.newRound();
      this.fireReady(spare);
      this.state = ENTRIES;
      return OK;
    }
    const via = spare?.idle() && !this.fetcher.idle() ? spare : this.fetcher;
    if (via.room() < 8) return OK;
    this.via = via;
    if (this.listening) this.roundBegins(this.used === seen);
    const slot = seen & this.mask;
    const first = fresh < size - slot ? fresh : size - slot;
    this.fetchAt(via, 2 * first, this.availLo, this.availHi, 4 + 2 * slot, 4 + 2 * slot);
    if (first < fresh) this.fetchAt(via, 2 * (fresh - first), this.availLo, this.availHi, 4, 4);
    this.newRound();
    this.guess(fresh, busy);
    this.state = ENTRIES;
    this.mark = via.commit();
    if (this.guessed) this.putTail(via);
    if (wanted && this.write === 0 && this.tuning.pollAhead && !this.guessed && !this.rare)
      this.look(busy ? this.tuning.busyGap : this.tuning.pollGap);
    return !this.split && via.landed(this.mark) ? this.onEntries() : OK;
  }

  private onEntries(): number {
    const fresh = (this.target - this.seen) & 0xffff;
    // Many at once: the whole table, and of receive buffers earlier, since what they cost goes the way that has room.
    if (fresh * (this.write === 0 ? 2 : 4) >= this.size || this.via.room() < fresh + 4) return this.needAll();
    // Of chains too: then none has to be followed. What was guessed may be here already.
    if (this.span > 1 && !this.guessed && fresh * this.span * 4 >= this.size) return this.needAll();
    const rc = this.span === 1 ? this.needHeads() : this.needChains();
    if (rc < 0) return rc;
    if (rc === FAR) return this.needAll();
    this.state = DESCS;
    if (this.misses === 0 && this.runLo < 0) {
      if (this.guessed) this.guessHeld(this.avail[2 + (this.seen & this.mask)]!);
      return this.closeChains();
    }
    if (this.guessed) this.guessFailed();
    return this.await();
  }

  /**
   * Ask for the heads of the entries that are new. A driver hands out what it got back last: neighbours, mostly downwards;
   * but its free list is in no order after a while. @returns FAR when the whole table costs the link less, see needAll()
   */
  private needHeads(): number {
    const { avail, mask, size, stamp, round, target } = this;
    const most = (size / STRETCH) | 0;
    let { runLo, runHi } = this;
    let misses = 0;
    let stretches = 0;
    for (let i = this.seen; i !== target; i = (i + 1) & 0xffff) {
      const head = avail[2 + (i & mask)]!;
      if (head >= size) return this.bad(R_DESC_INDEX, head, size);
      if (stamp[head] === round) continue;
      misses++;
      if (head === runHi + 1 && runLo >= 0) runHi = head;
      else if (head === runLo - 1) runLo = head;
      else {
        if (++stretches > most) return FAR;
        this.runLo = runLo;
        this.runHi = runHi;
        this.need(head);
        runLo = this.runLo;
        runHi = this.runHi;
        continue;
      }
      stamp[head] = round;
    }
    this.runLo = runLo;
    this.runHi = runHi;
    this.misses += misses;
    return OK;
  }

  /** The same for chains, as long as the one before was. */
  private needChains(): number {
    for (let i = this.seen; i !== this.target; i = (i + 1) & 0xffff) {
      const head = this.avail[2 + (i & this.mask)]!;
      if (head >= this.size) return this.bad(R_DESC_INDEX, head, this.size);
      if (this.stamp[head] !== this.round) this.misses++;
      this.needRun(head, this.span);
    }
    return OK;
  }

  /** The whole table in one element: cheaper than many small requests, or than many round trips along a chain. */
  private needAll(): number {
    if (this.via.room() < 1) return OK;
    this.fetchAt(this.via, this.size * 16, this.descLo, this.descHi, 0, this.descOff);
    this.runLo = -1;
    // Without tables nothing is left to be followed: what the chains say is checked when they are walked.
    this.state = this.indirect ? DESCS : TABLES;
    if (this.indirect) {
      this.stamp.fill(this.round, 0, this.size);
      return this.await();
    }
    this.whole = true;
    this.mark = this.via.commit();
    if (this.via.landed(this.mark)) this.finish();
    return OK;
  }

  private await(): number {
    this.flushRun();
    this.mark = this.via.commit();
    if (this.guessed) this.putTail(this.via);
    return this.via.landed(this.mark) ? this.closeChains() : OK;
  }

  /**
   * Every new chain is one descriptor, so nothing is left to be followed: a round asks for all heads first. Of use while
   * `span` is 1; closeChains() has to bring it back there.
   */
  private single(): boolean {
    const { avail, desc, mask, target } = this;
    let kinds = 0;
    for (let i = this.seen; i !== target; i = (i + 1) & 0xffff) kinds |= desc[(avail[2 + (i & mask)]! << 2) + 3]!;
    return (kinds & (DESC_F_NEXT | DESC_F_INDIRECT)) === 0;
  }

  /** Follow the chains of the new heads; fetch what links point to until every chain is complete. */
  private closeChains(): number {
    if (this.span === 1 && this.single()) {
      this.finish();
      return OK;
    }
    const { desc, mask, stamp, round, size, target } = this;
    let missing = 0;
    let tables = 0;
    let span = 1;
    // Once stamped, a descriptor must really be fetched: so begin only with room for one element a chain.
    if (this.via.room() < ((target - this.seen) & 0xffff) + 2) return OK;
    this.runLo = -1;
    for (let i = this.seen; i !== target; i = (i + 1) & 0xffff) {
      const head = this.avail[2 + (i & mask)]!;
      if (head >= size) return this.bad(R_DESC_INDEX, head, size);
      let d = head;
      let run = 1;
      for (let ttl = size; ; ttl--) {
        if (stamp[d] !== round) {
          missing++;
          // The links of a chain are mostly neighbours: take the next few with it.
          this.need(d);
          for (let n = d + 1; n < d + GUESS && n < size; n++) this.need(n);
          break;
        }
        const flagsNext = desc[(d << 2) + 3]!;
        if ((flagsNext & DESC_F_INDIRECT) !== 0) {
          tables++;
          break;
        }
        if ((flagsNext & DESC_F_NEXT) === 0) {
          span = run;
          break;
        }
        const next = flagsNext >>> 16;
        if (next >= size || ttl === 0) {
          // What was asked for in this pass is not here yet: that may be the descriptor of an earlier frame.
          if (missing > 0) break;
          return next >= size ? this.bad(R_DESC_INDEX, next, size) : this.bad(R_DESC_LOOP, head, size);
        }
        if (next === d + 1) run++;
        d = next;
      }
    }
    if (this.tuning.span && span <= SPAN_MAX) this.span = span;
    if (missing > 0) {
      // A chain that goes on and on: no more round trips for a few descriptors each.
      if (++this.misses > 3) return this.needAll();
      return this.await();
    }
    if (tables > 0) return this.fetchTables();
    this.finish();
    return OK;
  }

  private fetchTables(): number {
    for (let i = this.seen; i !== this.target; i = (i + 1) & 0xffff) {
      const head = this.avail[2 + (i & this.mask)]!;
      // closeChains() has seen the whole chain; the indirect descriptor is its last one (2.7.5.3.2).
      let d = head;
      let flagsNext = this.desc[(d << 2) + 3]!;
      while ((flagsNext & (DESC_F_INDIRECT | DESC_F_NEXT)) === DESC_F_NEXT) {
        d = flagsNext >>> 16;
        flagsNext = this.desc[(d << 2) + 3]!;
      }
      if ((flagsNext & DESC_F_INDIRECT) === 0) continue;
      if (!this.indirect) return this.bad(R_INDIRECT_NOT_NEGOTIATED, d, flagsNext & 0xffff);
      const w = d << 2;
      const len = this.desc[w + 2]!;
      if (len <= 0 || (len & 15) !== 0 || len > INDIRECT_MAX * 16) return this.bad(R_INDIRECT, head, len);
      if (this.via.room() < 1) {
        // Take what has been asked for; the rest comes with the next round.
        this.target = i;
        break;
      }
      this.via.put(len, this.desc[w]!, this.desc[w + 1]!, this.mem, this.tableOff + head * INDIRECT_MAX * 16);
    }
    this.mark = this.via.commit();
    this.state = TABLES;
    if (this.via.landed(this.mark)) this.finish();
    return OK;
  }

  private finish(): void {
    if (this.whole) this.measure();
    this.seen = this.target;
    this.ready = this.target;
    this.known = true;
    this.state = IDLE;
    if (this.guessed) this.standBack();
  }

  /** closeChains() has not followed any chain of the round: how many neighbours the last one begins with. */
  private measure(): void {
    this.whole = false;
    if (!this.tuning.span) return;
    const { desc, size } = this;
    const head = this.avail[2 + ((this.target - 1) & this.mask)]!;
    const most = size - head < SPAN_MAX ? size - head : SPAN_MAX;
    let d = head;
    let run = 1;
    const kind = DESC_F_NEXT | this.write;
    while (run < most && desc[(d << 2) + 3]! === (kind | ((d + 1) << 16))) {
      run++;
      d++;
    }
    this.span = run;
  }

  /** The channel that fetches was restarted: what was asked for is lost, ask again. */
  refetch(): void {
    this.state = IDLE;
    this.whole = false;
    this.split = false;
    this.lookAgain();
  }
}
