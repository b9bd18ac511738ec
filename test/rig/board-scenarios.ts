/**
 * What is tried with a board and a host that are two machines (board-pair.ts): traffic, idleness, RoCE. Each function starts
 * its own pair, throws a RigError with the logs of all sides when something is not as it must be, and returns what it
 * measured. What ends and comes back is in board-life.ts.
 */
import { RigError } from "./apt.ts";
import { BOARD_IP, BOARD_NETDEV, type PairOptions } from "./board-pair.ts";
import { account, boardOf, checkedTcp, hostOf, idle, interrupt, ping, udp, withPair } from "./board-steps.ts";
import type { Findings } from "./checks.ts";

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
    const counters = await account(p, found);
    found.notes.push(
      `frames ${counters.to_host_frames} to the host, ${counters.to_board_frames} to the board, copied bytes 0`,
    );
    await idle(p, found);
    await p.board.must(`sh /etc/init.d/S45epnic stop && [ ! -e /sys/class/net/${BOARD_NETDEV} ]`, 60_000);
    found.notes.push(`interrupt of the controller, read from /dev/uio0 on the board: ${await interrupt(p)}`);
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
      // the port of the test before is free a moment after it; a client that gives up ends a server
      p.board.fire(
        `ulimit -l unlimited; i=0; until timeout 100 ${args} > /tmp/perf 2>&1 || [ $i -gt 9 ]; do i=$((i+1)); sleep 1; done`,
      );
      await Bun.sleep(3000);
      // refused as long as the server has not come up
      const out = await p.host.must(
        `ulimit -l unlimited; i=0; until timeout 50 ${args} ${BOARD_IP} > /tmp/perf 2>&1; do i=$((i+1)); [ $i -gt 4 ] && break; sleep 3; done; cat /tmp/perf`,
        260_000,
      );
      const row = out.split("\n").findLast((l) => /^\s*\d+\s+\d+\s+[\d.]+/.test(l));
      if (row === undefined) throw new RigError(`${test}: ${out.slice(-400)}`);
      found.notes.push(`${test}: ${row.trim().replace(/\s+/g, " ")}`);
      await Bun.sleep(500);
    }
    await account(p, found);
  });
