/**
 * What is tried with a board and a host that are two machines (board-pair.ts). Each function starts its own pair, throws a
 * RigError with the logs of all sides when something is not as it must be, and returns what it measured.
 */
import { RigError } from "./apt.ts";
import { BOARD_IP, BOARD_NETDEV, BoardPair, HOST_IP, type PairOptions, waitFor } from "./board-pair.ts";
import { emptyFindings, type Findings } from "./checks.ts";
import type { Guest } from "./guest.ts";

interface Side {
  readonly guest: Guest;
  readonly ip: string;
  readonly name: string;
}

const boardOf = (p: BoardPair): Side => ({ guest: p.board, ip: BOARD_IP, name: "board" });
const hostOf = (p: BoardPair): Side => ({ guest: p.host, ip: HOST_IP, name: "host" });

async function ping(from: Side, to: Side, count: number): Promise<{ min: number; avg: number }> {
  const text = await from.guest.must(`ping -q -A -c ${count} -W 5 ${to.ip}`, 120_000);
  if (!/ 0% packet loss/.test(text)) throw new RigError(`ping from the ${from.name}: ${text}`);
  const m = text.match(/= ([\d.]+)\/([\d.]+)\//);
  return { min: Number(m?.[1]), avg: Number(m?.[2]) };
}

/** Random data over TCP one way; SHA-256 at both ends. */
async function checkedTcp(from: Side, to: Side, mib: number): Promise<number> {
  const port = 5400 + Math.floor(Math.random() * 1000);
  // the program's standard input is the socket
  to.guest.fire(`echo 'sha256sum > /tmp/sum' > /tmp/sum.sh; rm -f /tmp/sum; nc -l -p ${port} -e /bin/sh /tmp/sum.sh`);
  await Bun.sleep(1500);
  const sent = await from.guest.must(
    `head -c ${mib << 20} /dev/urandom > /tmp/r; sha256sum < /tmp/r; a=$(cut -d' ' -f1 /proc/uptime)
     i=0; until nc ${to.ip} ${port} < /tmp/r; do i=$((i+1)); [ $i -gt 10 ] && exit 1; sleep 1; done
     rm /tmp/r; echo $a $(cut -d' ' -f1 /proc/uptime)`,
    300_000,
  );
  const got = await to.guest.must(`${waitFor("[ -s /tmp/sum ]", 60)}; cat /tmp/sum`, 90_000);
  const [hash, times] = sent.split("\n");
  if (hash!.trim() !== got.trim())
    throw new RigError(`TCP from the ${from.name}: sent ${hash}, the ${to.name} received ${got}`);
  const [a, b] = times!.split(" ").map(Number);
  return ((mib << 20) * 8) / ((b! - a!) * 1e9);
}

interface UdpJson {
  error?: string;
  end?: { sum?: { packets: number; lost_packets: number } };
}

/** UDP one way by iperf3, checksums on; some datagrams may be lost. @returns packets and losses */
async function udp(from: Side, to: Side): Promise<string> {
  to.guest.fire("timeout 60 iperf3 -s -1 > /dev/null 2>&1");
  await Bun.sleep(3000);
  const text = await from.guest.must(`iperf3 -u -c ${to.ip} -b 500K -l 1000 -t 3 -J`, 60_000);
  const json = JSON.parse(text) as UdpJson;
  const { packets = 0, lost_packets = 0 } = json.end?.sum ?? {};
  if (json.error !== undefined || packets === 0 || lost_packets * 2 > packets)
    throw new RigError(`UDP from the ${from.name}: ${json.error ?? `${lost_packets} of ${packets} lost`}`);
  return `${packets - lost_packets} of ${packets}`;
}

async function withPair(o: PairOptions, work: (p: BoardPair, found: Findings) => Promise<void>): Promise<Findings> {
  const p = new BoardPair(o);
  const found = emptyFindings();
  try {
    await p.start();
    await work(p, found);
  } catch (e) {
    const error = await p.error((e as Error).message);
    await p.close();
    throw error;
  }
  const figures = await p.close();
  found.strictViolations = Number(figures.violations);
  found.notes.push(`model: ${JSON.stringify(figures)}`);
  if (figures.violations !== 0)
    throw new RigError(`strict mode: ${figures.first_violation} (${figures.violations} in all)`);
  return found;
}

/** Ping, TCP and UDP both ways, offloads, no byte copied, a clean stop. */
export const boardTraffic = (o: PairOptions, mib = 8): Promise<Findings> =>
  withPair(o, async (p, found) => {
    const [board, host] = [boardOf(p), hostOf(p)];
    const there = await ping(host, board, 10);
    await ping(board, host, 10);
    found.pingMinMs = there.min;
    found.pingAvgMs = there.avg;
    found.tcpToBoardGbps = await checkedTcp(host, board, mib);
    found.tcpToGuestGbps = await checkedTcp(board, host, mib);
    found.notes.push(`UDP datagrams: ${await udp(host, board)} to the board, ${await udp(board, host)} to the host`);
    for (const s of [board, host]) {
      const driver = await s.guest.must("for n in /sys/class/net/*/device/driver; do readlink $n; done");
      if (!/virtio_net/.test(driver)) throw new RigError(`the ${s.name}'s netdev is no virtio_net: ${driver}`);
    }
    const { counters, state } = await p.stat();
    if (counters.port_copied_bytes !== 0)
      throw new RigError(`epnic copied ${counters.port_copied_bytes} bytes of frames`);
    if (counters.faults !== 0) throw new RigError(`${counters.faults} faults: ${state.diagnosis}`);
    found.features = String(state.features).split(",").map(Number);
    found.header = Number(state.header_bytes);
    found.negotiations = counters.negotiations!;
    found.negotiationsRight = counters.negotiations! - counters.refusals!;
    found.notes.push(
      `frames ${counters.to_host_frames} to the host, ${counters.to_board_frames} to the board, copied bytes 0`,
    );
    found.notes.push(`epnic uses ${await idleShare(p)} % of a CPU when idle`);
    await p.board.must(`sh /etc/init.d/S45epnic stop && [ ! -e /sys/class/net/${BOARD_NETDEV} ]`, 60_000);
  });

/** CPU share of epnic over five seconds without traffic, in percent of one CPU of the board. */
export async function idleShare(p: BoardPair, seconds = 5): Promise<number> {
  const ticks = (text: string): number => {
    const f = text.trim().split(" ");
    return Number(f[13]) + Number(f[14]);
  };
  const read = "cat /proc/$(cat /run/epnic.pid)/stat; cut -d' ' -f1 /proc/uptime";
  const [a, ta] = (await p.board.must(read)).split("\n");
  await Bun.sleep(seconds * 1000);
  const [b, tb] = (await p.board.must(read)).split("\n");
  return Math.round((ticks(b!) - ticks(a!)) / (Number(tb) - Number(ta)));
}

/**
 * epnic is killed under traffic and started again by its init script: both netdevs stay, nothing is done on the host, and
 * checked data flow both ways afterwards.
 */
export const boardCrash = (o: PairOptions, times: number): Promise<Findings> =>
  withPair(o, async (p, found) => {
    const [board, host] = [boardOf(p), hostOf(p)];
    const netdevs = async (): Promise<string> =>
      `${await p.board.must(`cat /sys/class/net/${BOARD_NETDEV}/ifindex`)} ${await p.host.must("cat /sys/class/net/$(cat /tmp/netdev)/ifindex")}`;
    const index = await netdevs();
    const gaps: number[] = [];
    for (let i = 0; i < times; i++) {
      p.host.fire(`ping -q -i 0.02 -w 6 ${BOARD_IP} > /dev/null 2>&1`);
      const gap = await p.board.must(
        `sleep 1; kill -9 $(cat /run/epnic.pid); sleep 0.5; a=$(cut -d' ' -f1 /proc/uptime); : > /var/log/epnic.log
         sh /etc/init.d/S45epnic start > /dev/null
         ${waitFor(`ping -q -c 1 -W 1 ${HOST_IP} > /dev/null`, 120)}
         echo $a $(cut -d' ' -f1 /proc/uptime)`,
        180_000,
      );
      const [a, b] = gap.split(" ").map(Number);
      gaps.push(b! - a!);
      const log = await p.board.must("cat /var/log/epnic.log");
      if (!/took over the live netdev/.test(log) || !/went on with the host's driver/.test(log))
        throw new RigError(`kill ${i + 1}: not both sides were taken over\n${log}`);
      await checkedTcp(host, board, 1);
      await checkedTcp(board, host, 1);
      const now = await netdevs();
      if (now !== index) throw new RigError(`kill ${i + 1}: netdevs ${index} became ${now}`);
    }
    found.notes.push(
      `${times} kills, netdevs ${index} all the time; traffic was back after ${Math.min(...gaps).toFixed(1)} to ${Math.max(...gaps).toFixed(1)} s`,
    );
  });

const RXE = (netdev: string): string =>
  `modprobe crc32_generic 2> /dev/null; modprobe -a rdma_rxe rdma_ucm && /rig/rdma link add rxe0 type rxe netdev ${netdev} && ulimit -l unlimited`;

/** RoCE of stock kernels over the two netdevs: rping with its data check. */
export const boardRoce = (o: PairOptions): Promise<Findings> =>
  withPair({ ...o, hostTools: true }, async (p, found) => {
    await p.board.must(RXE(BOARD_NETDEV), 60_000);
    await p.host.must(RXE("$(cat /tmp/netdev)"), 60_000);
    p.board.fire(`ulimit -l unlimited; timeout 120 rping -s -a ${BOARD_IP} -v -C 20 -V -S 1000 > /tmp/rping 2>&1`);
    await Bun.sleep(2000);
    const text = await p.host.must(
      `ulimit -l unlimited; timeout 100 rping -c -a ${BOARD_IP} -v -C 20 -V -S 1000 2>&1`,
      110_000,
    );
    const pings = text.match(/ping data: /g)?.length ?? 0;
    if (pings !== 20) throw new RigError(`rping: ${pings} of 20 answered with the right data\n${text.slice(-400)}`);
    found.notes.push("rping: 20 of 20 RDMA read/write exchanges of 1000 bytes, data verified (-V)");
    for (const test of ["ib_send_bw -n 50 -s 4096", "ib_write_bw -n 50 -s 4096", "ib_read_lat -n 20 -s 256"]) {
      // -u 20: the transport's timeout is 4 s instead of 67 ms, emulated machines are slow
      const args = `${test} -d rxe0 -R -u 20 -F`;
      p.board.fire(`ulimit -l unlimited; timeout 60 ${args} > /tmp/perf 2>&1`);
      await Bun.sleep(3000);
      const out = await p.host.must(`ulimit -l unlimited; timeout 50 ${args} ${BOARD_IP} 2>&1`, 90_000);
      const row = out.split("\n").findLast((l) => /^\s*\d+\s+\d+\s+[\d.]+/.test(l));
      if (row === undefined) throw new RigError(`${test}: ${out.slice(-400)}`);
      found.notes.push(`${test}: ${row.trim().replace(/\s+/g, " ")}`);
      await Bun.sleep(500);
    }
  });
