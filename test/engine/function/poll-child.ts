/** Child process of poll.test.ts: 5 * 10^6 quiet polls of a live function of each kind. Prints one line of JSON for each. */
import { Canaries } from "../../support/canaries.ts";
import { begin, block, finish, make, setQueue } from "./function-rig.ts";

const N = 1_000_000;
let leak: object | null = null;

for (const [personality, spoil] of [
  ["modern", false],
  ["legacy", false],
  ["modern", true],
] as const) {
  const r = make(personality, personality === "modern" ? 0x19823 : 0x19821);
  if (personality === "modern") {
    begin(r);
    setQueue(r, 0, 256, ...block(0x100000));
    setQueue(r, 1, 256, ...block(0x110000));
    finish(r);
  } else {
    r.w(0x12, 1, 3);
    for (const k of [0, 1]) {
      r.w(0x0e, 2, k);
      r.w(8, 4, 0x100 + 0x100 * k);
    }
    r.w(0x12, 1, 7);
  }
  const { fn } = r;
  const spin = (): number => {
    let sum = 0;
    for (let i = 0; i < N; i++) sum += fn.poll();
    return sum;
  };
  let events = spin();
  const canaries = new Canaries();
  await canaries.arm();
  let best = Number.POSITIVE_INFINITY;
  for (let k = 0; k < 5; k++) {
    const t = Bun.nanoseconds();
    events += spin();
    best = Math.min(best, (Bun.nanoseconds() - t) / N);
    if (spoil) for (let i = 0; i < 20_000; i++) leak = { i };
  }
  const { dead } = canaries;
  console.log(JSON.stringify({ personality, spoil, live: fn.live, events, best, dead, leak }));
}
