/**
 * One side ends and comes back while the other goes on: epnic killed under load, the host rebooted, the board rebooted.
 * Machines and helpers are those of board-pair.ts and board-steps.ts.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { RigError } from "./apt.ts";
import { BOARD_IP, BOARD_NETDEV, type BoardPair, HOST_IP, type PairOptions, waitFor } from "./board-pair.ts";
import { account, boardOf, checkedTcp, hostOf, interrupt, ping, type Side, withPair } from "./board-steps.ts";
import { repoDir } from "./cache.ts";
import type { Findings } from "./checks.ts";

/** bytes that must have moved in a direction before and after the kill */
const SOME = 128 << 10;
const MIB = 2;

const netdevs = async (p: BoardPair): Promise<string> =>
  `${await p.board.must(`cat /sys/class/net/${BOARD_NETDEV}/ifindex`)} ${await p.host.must("cat /sys/class/net/$(cat /tmp/netdev)/ifindex")}`;

/** Take one stream into a file, then its SHA-256 beside it; in the background. */
const sink = (port: number): string =>
  `rm -f /tmp/got /tmp/got.sum; : > /tmp/got; echo 'cat > /tmp/got; sha256sum < /tmp/got > /tmp/got.part; mv /tmp/got.part /tmp/got.sum' > /tmp/sink.sh
   (nc -l -p ${port} -e /bin/sh /tmp/sink.sh > /dev/null 2>&1 &)`;

/** Random data into a file and, in the background, to the other side. The answer is their SHA-256. */
const source = (ip: string, port: number): string =>
  `head -c ${MIB << 20} /dev/urandom > /tmp/sent; (nc ${ip} ${port} < /tmp/sent > /dev/null 2>&1 &); sha256sum < /tmp/sent`;

interface Kill {
  /** seconds from the kill until data of the running stream arrive at the board again */
  readonly gap: number;
  readonly twice: boolean;
}

/**
 * Checked streams run both ways; in the middle of both epnic gets SIGKILL, now and then its successor too while it starts. The
 * init script starts it again; the same streams must come to their end, complete and right.
 */
async function killOnce(p: BoardPair, round: number, twice: boolean): Promise<Kill> {
  const port = 6000 + 2 * round;
  await p.board.must(sink(port));
  await p.host.must(sink(port + 1));
  const toBoard = await p.host.must(source(BOARD_IP, port), 60_000);
  const toHost = await p.board.must(source(HOST_IP, port + 1), 60_000);
  const sent = `/sys/class/net/${BOARD_NETDEV}/statistics/tx_bytes`;
  const got = "$(stat -c %s /tmp/got)";
  const text = await p.board.must(
    `t0=$(cat ${sent})
     ${waitFor(`[ ${got} -ge ${SOME} ] && [ $(($(cat ${sent}) - t0)) -ge ${SOME} ]`, 120).replace("sleep 0.2", "sleep 0.02")}
     old=$(cat /run/epnic.pid); kill -9 $old; a=$(cut -d' ' -f1 /proc/uptime); at=${got}; out=$(($(cat ${sent}) - t0))
     ${waitFor(`[ -s /run/epnic.pid ] && [ $(cat /run/epnic.pid) != $old ]`, 60)}
     ${twice ? `sleep ${(Math.random() * 6).toFixed(2)}; kill -9 $(cat /run/epnic.pid);` : ""}
     ${waitFor(`[ ${got} -gt $((at + 65536)) ]`, 240)}
     echo $a $(cut -d' ' -f1 /proc/uptime) $at $out`,
    400_000,
  );
  const [a, b, at, out] = text.split("\n").at(-1)!.split(" ").map(Number);
  if (at! >= MIB << 20 || out! >= MIB << 20)
    throw new RigError(`kill ${round + 1}: a stream had ended before the kill (${at}, ${out} bytes)`);
  const end = `${waitFor("[ -s /tmp/got.sum ]", 240)}; cat /tmp/got.sum`;
  const [atBoard, atHost] = [await p.board.must(end, 260_000), await p.host.must(end, 260_000)];
  if (atBoard !== toBoard) throw new RigError(`kill ${round + 1}: the host sent ${toBoard}, the board got ${atBoard}`);
  if (atHost !== toHost) throw new RigError(`kill ${round + 1}: the board sent ${toHost}, the host got ${atHost}`);
  return { gap: b! - a!, twice };
}

/** @param times kills in a row; every fourth is followed by another one while epnic starts */
export const boardCrash = (o: PairOptions, times: number): Promise<Findings> =>
  withPair(o, async (p, found) => {
    const index = await netdevs(p);
    const kills: Kill[] = [];
    for (let i = 0; i < times; i++) {
      kills.push(await killOnce(p, i, i % 4 === 3));
      const now = await netdevs(p);
      if (now !== index) throw new RigError(`kill ${i + 1}: netdevs ${index} became ${now}`);
      console.error(`rig: kill ${i + 1} of ${times}: data again after ${kills.at(-1)!.gap.toFixed(1)} s`);
    }
    const log = await p.board.must("cat /var/log/epnic.log");
    const count = (re: RegExp): number => log.match(re)?.length ?? 0;
    const [board, host] = [count(/took over the live netdev/g), count(/went on with the host's driver/g)];
    if (board < times || host < times)
      throw new RigError(
        `${times} kills: ${board} starts took the board's netdev over, ${host} went on with the host\n${log}`,
      );
    const { counters } = await p.stat();
    if (counters.negotiations !== 1 || counters.host_resets !== 0)
      throw new RigError(
        `the host's driver began anew: ${counters.negotiations} lives, ${counters.host_resets} resets`,
      );
    const gaps = kills.map((k) => k.gap);
    found.figures.kills = times;
    found.figures.kills_again_while_starting = kills.filter((k) => k.twice).length;
    found.figures.data_again_s = `${Math.min(...gaps).toFixed(1)} to ${Math.max(...gaps).toFixed(1)}`;
    found.notes.push(`netdevs ${index} all the time, every stream of ${MIB} MiB complete and right across its kill`);
  });

/** The least that shows the whole path, for `bun run test`: ping, one kill in the middle of checked streams, a clean stop. */
export const boardShort = (o: PairOptions): Promise<Findings> =>
  withPair(o, async (p, found) => {
    const there = await ping(hostOf(p), boardOf(p), 10);
    found.pingMinMs = there.min;
    found.pingAvgMs = there.avg;
    const index = await netdevs(p);
    found.figures.data_again_s = (await killOnce(p, 0, false)).gap.toFixed(1);
    const now = await netdevs(p);
    if (now !== index) throw new RigError(`netdevs ${index} became ${now}`);
    await account(p, found);
    await p.board.must(`sh /etc/init.d/S45epnic stop && [ ! -e /sys/class/net/${BOARD_NETDEV} ]`, 60_000);
    found.notes.push(await interrupt(p));
  });

/** Both directions work. */
async function traffic(p: BoardPair): Promise<void> {
  const [board, host] = [boardOf(p), hostOf(p)];
  await ping(host, board, 3);
  await checkedTcp(host, board, 1);
  await checkedTcp(board, host, 1);
}

const pidOf = (s: Side): Promise<string> => s.guest.must("cat /run/epnic.pid");

/** What docs/board.md tells to do on the host when the board has come back. */
const rescan = (): string =>
  `cat > /tmp/epnic-rescan <<'EOT'\n${readFileSync(join(repoDir, "fixtures/host/epnic-rescan"), "utf8")}EOT\nsh /tmp/epnic-rescan`;

/** The host reboots, twice: an orderly reboot and one without warning. Then the board does. */
export const boardReboot = (o: PairOptions): Promise<Findings> =>
  withPair({ ...o, hostReboots: true }, async (p, found) => {
    await traffic(p);
    const pid = await pidOf(boardOf(p));
    const index = await p.board.must(`cat /sys/class/net/${BOARD_NETDEV}/ifindex`);
    for (const how of ["reboot -f", "echo b > /proc/sysrq-trigger"]) {
      const begun = performance.now();
      p.host.fire(how);
      await p.host.rebooted(300_000);
      await p.hostUp();
      found.notes.push(
        `host, ${how}: traffic again without a person, ${((performance.now() - begun) / 1000).toFixed(0)} s with the boot`,
      );
      await traffic(p);
    }
    if ((await pidOf(boardOf(p))) !== pid) throw new RigError("epnic did not live through the host's reboots");
    if ((await p.board.must(`cat /sys/class/net/${BOARD_NETDEV}/ifindex`)) !== index)
      throw new RigError("the board's netdev was made again");

    const begun = performance.now();
    p.board.fire("reboot -f");
    await p.board.rebooted(300_000);
    await p.startEpnic();
    await p.host.must(rescan(), 120_000);
    await p.hostUp();
    found.notes.push(
      `board, reboot -f: traffic again after epnic-rescan on the host, ${((performance.now() - begun) / 1000).toFixed(0)} s with the boot`,
    );
    await traffic(p);
  });
