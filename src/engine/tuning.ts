/** Choices of the data path that trade latency, link and CPU; each can be switched off, for `bench link` to show what it brings. */
export interface Tuning {
  /** looks at one avail index that may be under way at the same time; 1: the next look waits for the last one's answer */
  readonly polls: number;
  /** turns from one look at a ring without news to the next, at least; and while the way to the host is full */
  readonly pollGap: number;
  readonly busyGap: number;
  /** the same when there was no news for some time */
  readonly calmGap: number;
  /** ask a driver that can tell its avail index (NOTIFICATION_DATA) to notify while its ring rests */
  readonly notices: boolean;
  /** turns from one look to the next while every addition is notified */
  readonly rareGap: number;
  /** turns in which a lone frame of the host is waited for look at nothing else */
  readonly vigil: boolean;
  /** a small read behind a lone frame, or what is fetched for it: it is known to be here without the channel's stop */
  readonly tail: boolean;
  /** fetch what a look found on the payload's read channel while that rests: looks do not stand in its way there */
  readonly idleChannel: boolean;
  /** fetch the guessed descriptors on the payload's read channel while that rests, the entries beside them on the other one */
  readonly bothChannels: boolean;
  /** what a lone frame needs is prepared in the channels' registers while its ring rests, and goes without their lists */
  readonly single: boolean;
  /** fetch as many neighbours of a chain's head as the chain before had */
  readonly span: boolean;
  /** frames whose used elements go to the host together while the channel is busy with others; 1: none wait */
  readonly coalesce: number;
  /** ask for the next avail index together with the entries of this round, so that a busy ring takes two round trips, not three */
  readonly pollAhead: boolean;
  /** fetch the descriptors that the driver will likely reuse together with the entries: one round trip less for a lone frame */
  readonly guess: boolean;
  /** while frames move every turn: turns and frames, added up, until what landed and the host's rings are attended to; 0: none */
  readonly tendAfter: number;
  /** fetch receive buffers when half of the ring is left; off: when none is left */
  readonly prefetch: boolean;
}

export const TUNING: Tuning = {
  polls: 5,
  pollGap: 2,
  busyGap: 32,
  calmGap: 0,
  notices: true,
  rareGap: 256,
  vigil: true,
  tail: true,
  idleChannel: true,
  bothChannels: true,
  single: true,
  span: true,
  coalesce: 64,
  pollAhead: true,
  guess: true,
  tendAfter: 64,
  prefetch: true,
};

/**
 * Elements a channel may have outstanding. What may be under way of large frames takes some 300, of small ones as many as a ring has
 * buffers; a longer list only takes room in the CPU's caches (with 4000, 25 ns a frame of 65000 bytes in 17 pieces).
 */
export const CHANNEL_ELEMENTS = 1000;

/** How much of one direction may be under way. */
export interface DirectionLimits {
  /** frames of one burst */
  burst: number;
  /** bytes in flight after which no more is begun: what the host may see written after it reset us */
  inflightBytes: number;
}
