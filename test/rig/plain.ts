/**
 * Plain BAR memory: no access of the host is held or seen, as on silicon; what the poller captures is judged by traffic.
 */
import { readFileSync, writeFileSync } from "node:fs";
import * as check from "./checks.ts";
import { type Context, failure } from "./checks.ts";
import { type Scenario, withGuest } from "./scenario.ts";
import { undoLater } from "./undo.ts";

/** Plain BAR memory: nothing traps, the poller has to keep up with the host's CPU. */
const plain: Scenario = {
  name: "plain",
  about: "no trapped access, poller at real-time priority: 50 negotiations; a missed capture must be reported",
  fits: (c) => c.mode === "plain" && !(c.personality === "legacy" && c.irq === "intx"),
  run: (combination) =>
    withGuest("plain", combination, { board: { realtime: 40, args: ["--idle", "spin"] } }, async (c) => {
      // else the kernel stops a spinning real-time process for 50 ms of every second
      const limit = "/proc/sys/kernel/sched_rt_runtime_us";
      const before = readFileSync(limit, "utf8");
      writeFileSync(limit, "-1");
      const restore = undoLater(limit, () => writeFileSync(limit, before));
      try {
        await plainCycles(c, Number(process.env.EPNIC_RIG_CYCLES ?? 50));
      } finally {
        await restore();
      }
    }),
};

async function plainCycles(c: Context, total: number): Promise<void> {
  let right = 0;
  let reported = 0;
  const silent: string[] = [];
  for (let i = 0; i < total; i++) {
    const before = c.board.stat().counters;
    const bound = await c.guest.sh(
      `cd /sys/bus/virtio/drivers/virtio_net || exit 1
           v=$(ls -d virtio* | head -n 1)
           [ -n "$v" ] && echo $v > unbind
           v=$(ls /sys/bus/virtio/devices | head -n 1)
           echo $v > bind || exit 2
           n=$(ls $v/net | head -n 1) && ip link set dev $n up && ip addr replace 10.99.0.2/24 dev $n`,
    );
    const works = bound.status === 0 && (await check.flows(c));
    const after = c.board.stat().counters;
    if (works) right++;
    else if (bound.status === 2 || after.refusals > before.refusals || after.faults > before.faults) reported++;
    else silent.push(`${i + 1}: status ${bound.status} ${bound.text.slice(0, 100)}`);
  }
  c.found.negotiations = total;
  c.found.negotiationsRight = right;
  c.found.refused = reported;
  if (silent.length > 0)
    throw failure(c, `${silent.length} of ${total} negotiations failed without a word: ${silent[0]}`);
  if (!(await check.flows(c))) await check.rebind(c, 1);
  await check.features(c);
}

export const PLAIN_SCENARIOS: readonly Scenario[] = [plain];
