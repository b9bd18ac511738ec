/**
 * Plain BAR memory: no access of the host is held or seen, as on silicon. Whether a capture is right shows in traffic;
 * what is not right must be said: a negotiation that ends in neither traffic nor a diagnosis in `epnic stat` is a failure.
 * And, held, an engine that was made to be wrong about the header.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as check from "./checks.ts";
import { type Context, failure } from "./checks.ts";
import { type Combination, type Scenario, withGuest } from "./scenario.ts";
import { undoLater } from "./undo.ts";

const DRIVER = "/sys/bus/virtio/drivers/virtio_net";
/** most that a diagnosis may take once traffic was tried */
const SAID_MS = 5000;

/** unbind what is bound, bind, give an address; status 2: the guest's own probe failed */
const REBIND = `
  cd ${DRIVER} || exit 1
  v=$(ls -d virtio* 2>/dev/null | head -n 1)
  [ -n "$v" ] && echo $v > unbind
  v=$(ls /sys/bus/virtio/devices | head -n 1)
  echo $v > bind || exit 2
  n=$(ls $v/net | head -n 1) && ip link set dev $n up && ip addr replace 10.99.0.2/24 dev $n`;

/** runs while the guest binds, until `done()` */
type Disturb = (done: () => boolean) => Promise<void>;

interface Tally {
  /** right at the first attempt of the guest's driver */
  right: number;
  /** the guest's driver was made to repeat its set-up, and traffic flows: shared vector or INTx */
  recovered: number;
  /** no traffic, and `epnic stat` says why */
  reported: number;
  /** of those: the guest's probe failed, so that the guest knows too */
  failedProbes: number;
  silent: string[];
  /** diagnoses by how often they were seen */
  said: Map<string, number>;
}

/** One unbind and bind. */
async function cycle(c: Context, irq: Combination["irq"], t: Tally, disturb: Disturb | null): Promise<void> {
  let over = false;
  const bind = c.guest.sh(REBIND, 60_000).finally(() => {
    over = true;
  });
  if (disturb !== null) await disturb(() => over);
  const bound = await bind;
  const served = bound.status === 0 && !["refused", "stopped"].includes(String(c.board.stat().state.link));
  if (served && (await check.flows(c))) {
    const up =
      c.board
        .log()
        .match(/host driver is up: .*$/gm)
        ?.at(-1) ?? "";
    const first = /INTx/.test(up) ? irq === "intx" : !/vector 1, .*vector 1$/.test(up);
    if (first) t.right++;
    else t.recovered++;
    return;
  }
  if (bound.status === 2) t.failedProbes++;
  let why = "";
  try {
    await c.board.until(
      () => {
        why = String(c.board.stat().state.diagnosis ?? "");
        return why !== "";
      },
      SAID_MS,
      "a diagnosis",
    );
    t.reported++;
    const rule = why.replace(/0x[0-9a-f]+/g, "0x..").split(";")[0]!;
    t.said.set(rule, (t.said.get(rule) ?? 0) + 1);
  } catch (e) {
    c.board.mustRun();
    t.silent.push(`status ${bound.status} ${bound.text.slice(0, 200)}: ${(e as Error).message.split("\n")[0]}`);
  }
}

async function cycles(c: Context, irq: Combination["irq"], disturb: Disturb | null): Promise<void> {
  const total = Number(process.env.EPNIC_RIG_CYCLES ?? 50);
  const t: Tally = { right: 0, recovered: 0, reported: 0, failedProbes: 0, silent: [], said: new Map() };
  for (let i = 0; i < total; i++) await cycle(c, irq, t, disturb);
  c.found.negotiations = total;
  c.found.negotiationsRight = t.right + t.recovered;
  c.found.refused = t.reported;
  c.found.notes.push(
    `right ${t.right}, recovered ${t.recovered}, reported ${t.reported} (probe failed in the guest ${t.failedProbes}), silent ${t.silent.length}`,
  );
  for (const [rule, n] of t.said) c.found.notes.push(`${n}x ${rule}`);
  if (t.silent.length > 0)
    throw failure(
      c,
      `${t.silent.length} of ${total} negotiations failed without a word: ${t.silent[0]}; ${c.found.notes[0]}`,
    );
  // and the next one undisturbed is a good one again
  for (let i = 0; i < 3 && !(await check.flows(c)); i++) await c.guest.sh(REBIND, 60_000);
  if (!(await check.flows(c))) throw failure(c, `no traffic after ${total} negotiations and three more`);
  await check.features(c);
}

/** Nothing traps, the poller has to keep up with the host's CPU. */
const plain: Scenario = {
  name: "plain",
  about: "no trapped access, poller at real-time priority: 50 negotiations; what is missed must be reported",
  fits: (c) => c.mode === "plain" && !(c.personality === "legacy" && c.irq === "intx"),
  run: (combination) =>
    withGuest("plain", combination, { board: { realtime: 40, args: ["--idle", "spin"] } }, async (c) => {
      // else the kernel stops a spinning real-time process for 50 ms of every second
      const limit = "/proc/sys/kernel/sched_rt_runtime_us";
      const before = readFileSync(limit, "utf8");
      writeFileSync(limit, "-1");
      const restore = undoLater(limit, () => writeFileSync(limit, before));
      try {
        await cycles(c, combination.irq, null);
      } finally {
        await restore();
      }
    }),
};

/** Stop epnic for a moment, again and again, while the guest binds: both lengths are drawn anew each time. */
async function stutter(c: Context, done: () => boolean): Promise<void> {
  const draw = (most: number): number => Math.random() ** 2 * most;
  while (!done()) {
    await Bun.sleep(draw(6));
    if (done()) return;
    c.board.signal("SIGSTOP");
    try {
      Bun.sleepSync(0.05 + draw(4));
    } finally {
      c.board.signal("SIGCONT");
    }
  }
}

/** Every combination, also the one that cannot be right every time: silence is allowed in none. */
const missed: Scenario = {
  name: "plain-missed",
  about:
    "no trapped access, poller stopped at random while the guest binds: 50 negotiations end in traffic or a diagnosis",
  fits: (c: Combination) => c.mode === "plain",
  run: (combination) =>
    withGuest("plain-missed", combination, { board: { args: ["--idle", "spin"] } }, (c) =>
      cycles(c, combination.irq, (done) => stutter(c, done)),
    ),
};

/** The engine is made to believe in the wrong header length: it must notice by the guest's first frame. */
const wrongHeader: Scenario = {
  name: "wrong-header",
  about: "header length taken for the other one: said in the log and corrected before a frame is spoiled",
  fits: (c) => c.mode === "held" && c.personality === "modern" && c.irq === "msix",
  run: (combination) =>
    withGuest("wrong-header", combination, { board: { preload: join(import.meta.dir, "misjudge.ts") } }, async (c) => {
      await check.bringUp(c);
      await check.ping(c, 5);
      const said = c.board.log().match(/a net header of \d+ bytes was expected, the host's frames have one of \d+.*$/m);
      if (said === null) throw failure(c, "the wrong header length was not said");
      c.found.notes.push(said[0]);
      await check.checksums(c, 4);
      const { state } = c.board.stat();
      if (state.diagnosis !== "") throw failure(c, `corrected, and still: ${state.diagnosis}`);
      c.found.header = Number(state.header_bytes);
      await check.features(c);
    }),
};

export const PLAIN_SCENARIOS: readonly Scenario[] = [plain, missed, wrongHeader];
