/**
 * Child process of inside.test.ts (bun --preload inside-preload.ts inside.ts): the host's accesses fall between any two
 * loads or stores of a poll, by seed. Prints one line of JSON a run.
 */
import { judged, over } from "./drive.ts";
import { Chance, PlainHost, type PlainHostOptions } from "./plain-host.ts";

const [, , json] = process.argv;
const jobs = JSON.parse(json!) as {
  name: string;
  options: PlainHostOptions;
  seed: number;
  lives: number;
  /** chance of an access of the host before each access of the poller */
  inside: number;
  /** most accesses of the host in one such place */
  most: number;
}[];

const mac = Uint8Array.from([2, 0, 0, 1, 0, 2]);
for (const job of jobs) {
  const chance = new Chance(job.seed);
  const host = new PlainHost(job.options, chance, mac);
  const fn = over(host, mac);
  const steps = host.forever();
  let inPoll = false;
  (globalThis as { accessGap?: () => void }).accessGap = () => {
    if (!inPoll || !chance.is(job.inside)) return;
    inPoll = false;
    for (let n = 1 + chance.below(job.most); n > 0; n--) steps.next();
    inPoll = true;
  };
  const wrong: string[] = [];
  let up = 0;
  let refused = 0;
  while (host.lives < job.lives) {
    const life = host.truth === null ? 0 : host.lives;
    inPoll = true;
    const e = fn.poll();
    inPoll = false;
    if (e === 1) up++;
    if (e === 3) refused++;
    // a life that began or ended inside the poll is judged at the next one
    if (fn.live && life !== 0 && host.truth !== null && life === host.lives) {
      const why = judged(fn, host);
      if (why !== "" && wrong.length < 3) wrong.push(`life ${life}: ${why}`);
    }
  }
  console.log(JSON.stringify({ name: job.name, lives: host.lives, up, refused, wrong, failed: host.failedProbes }));
}
