/**
 * Scenario `board-vduse`: one machine is both ends. In a QEMU guest the compiled epnic runs with the built-in model:
 * host side a TAP in a namespace, board side a netdev of the kernel's own virtio_net over VDUSE. Pings and checked TCP
 * both ways, epnic killed and started again under traffic, clean stop.
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { RigError } from "./apt.ts";
import { boardBinary, boardImage } from "./board-image.ts";
import { logDir } from "./cache.ts";
import { emptyFindings, type Findings } from "./checks.ts";
import { Guest } from "./guest.ts";
import { fetchAll, type KernelName } from "./packages.ts";

const BOARD = "10.98.0.1";
const HOST = "10.98.0.2";
export const BOARD_MODULES = "vduse virtio_vdpa virtio_net tun";

const RUN =
  "NO_COLOR=1 epnic run model --port vduse --port-name brd0 --host-tap brdh0 --host-netns host --run-dir /run/epnic";

/** ok when it exits 0 within the time */
const waitFor = (condition: string, seconds: number): string =>
  `i=0; until ${condition}; do i=$((i+1)); [ $i -gt ${seconds * 4} ] && { echo "not: ${condition.replaceAll('"', "'")}"; tail -n 5 /tmp/epnic.log; exit 1; }; sleep 0.25; done`;

/** Random data over TCP one way, SHA-256 at both ends. `from`, `to`: prefixes that enter a namespace. */
const checkedTcp = (from: string, to: string, address: string, mib: number): string => `
  head -c ${mib << 20} /dev/urandom > /tmp/r
  (sleep 300 | ${to} nc -l -p 5400 > /tmp/got) & l=$!
  sleep 0.5
  ${from} nc -w 30 ${address} 5400 < /tmp/r
  i=0; while [ "$(stat -c %s /tmp/got)" -lt ${mib << 20} ]; do i=$((i+1)); [ $i -gt 300 ] && break; sleep 0.1; done
  kill $l; pkill -f "nc -l -p 5400"
  a=$(sha256sum < /tmp/r); b=$(sha256sum < /tmp/got); rm -f /tmp/r /tmp/got
  [ "$a" = "$b" ] || { echo "sent $a, received $b"; exit 1; }`;

async function steps(guest: Guest, kills: number, found: Findings): Promise<void> {
  await guest.must(`modprobe -a ${BOARD_MODULES}`, 60_000);
  await guest.must("mkdir -p /run/netns && /rig/ip netns add host && /rig/ip -n host link set lo up");
  const start = `${RUN} --strict >> /tmp/epnic.log 2>&1 & echo $! > /tmp/pid`;
  await guest.must(start);
  await guest.must(
    waitFor("[ -e /sys/class/net/brd0 ] && /rig/ip -n host link show brdh0 > /dev/null 2>&1", 60),
    90_000,
  );
  found.notes.push(`driver ${await guest.must("ethtool -i brd0 | head -n 1")}`);
  const hostUp = `/rig/ip -n host link set brdh0 up && /rig/ip -n host addr replace ${HOST}/24 dev brdh0`;
  await guest.must(`/rig/ip addr replace ${BOARD}/24 dev brd0 && /rig/ip link set brd0 up && ${hostUp}`);
  await guest.must(waitFor(`ping -q -c 1 -W 1 ${HOST} > /dev/null`, 30), 60_000);
  const ping = await guest.must(
    `ping -q -A -c 20 -W 3 ${HOST} && /rig/ip netns exec host ping -q -A -c 20 -W 3 ${BOARD}`,
    60_000,
  );
  if (ping.match(/ 0% packet loss/g)?.length !== 2) throw new RigError(`board-vduse: ping\n${ping}`);
  const times = ping.match(/= ([\d.]+)\/([\d.]+)\//);
  found.pingMinMs = Number(times?.[1]);
  found.pingAvgMs = Number(times?.[2]);
  await guest.must(checkedTcp("", "/rig/ip netns exec host", HOST, 16), 180_000);
  await guest.must(checkedTcp("/rig/ip netns exec host", "", BOARD, 16), 180_000);

  const index = await guest.must("cat /sys/class/net/brd0/ifindex");
  for (let i = 0; i < kills; i++) {
    // Traffic runs while epnic dies: ping from the board goes on through the gap.
    await guest.must(
      `ping -q -i 0.02 -w 6 ${HOST} > /tmp/ping 2>&1 & sleep 1; kill -9 $(cat /tmp/pid); sleep 0.3; ${start}`,
    );
    await guest.must(`${waitFor("/rig/ip -n host link show brdh0 > /dev/null 2>&1", 60)}; ${hostUp}`, 90_000);
    await guest.must(waitFor(`ping -q -c 1 -W 1 ${HOST} > /dev/null`, 60), 90_000);
    await guest.must(checkedTcp("", "/rig/ip netns exec host", HOST, 2), 120_000);
    await guest.must(checkedTcp("/rig/ip netns exec host", "", BOARD, 2), 120_000);
    const now = await guest.must("cat /sys/class/net/brd0/ifindex");
    if (now !== index)
      throw new RigError(`board-vduse: the netdev was made again (index ${index}, then ${now}) at kill ${i + 1}`);
  }
  found.notes.push(`${kills} kills, netdev index ${index} all the time`);
  const stat = JSON.parse(await guest.must("epnic stat model --json --run-dir /run/epnic"));
  found.strictViolations = stat.counters.strict_violations;
  if (stat.counters.strict_violations !== 0)
    throw new RigError(`board-vduse: ${stat.counters.strict_violations} strict violations`);
  if (stat.counters.port_copied_bytes !== 0) throw new RigError("board-vduse: the port copied frames");
  found.notes.push(`features ${stat.state.features}, header ${stat.state.header_bytes}, copied bytes 0`);
  const log = await guest.must("cat /tmp/epnic.log");
  const took = log.match(/took over the live netdev/g)?.length ?? 0;
  if (took !== kills) throw new RigError(`board-vduse: ${took} of ${kills} starts took the netdev over\n${log}`);
  const end = waitFor("! kill -0 $(cat /tmp/pid) 2> /dev/null", 20);
  await guest.must(
    `kill -TERM $(cat /tmp/pid); ${end}; [ ! -e /sys/class/net/brd0 ] && [ ! -e /dev/vduse/brd0 ]`,
    40_000,
  );
}

/** @throws RigError with the guest's logs */
export async function boardVduse(kernel: KernelName, kills = 5): Promise<Findings> {
  const found = emptyFindings();
  const say = (text: string): void => console.error(`rig: ${text}`);
  const releases = await fetchAll([kernel], { say });
  const dir = join(logDir(), `board-vduse-${kernel}-${process.pid}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const files = { "usr/bin/epnic": { copy: await boardBinary() } };
  const initrd = await boardImage(kernel, releases[kernel]!, files, join(dir, "board.cpio"), say);
  const guest = new Guest({
    kernel,
    dir,
    socket: null,
    memoryMiB: 1536,
    load: [],
    qemu: ["-smp", "2", "-initrd", initrd],
  });
  try {
    await guest.start();
    await guest.must("ln -s /usr/bin/epnic /bin/epnic");
    await steps(guest, kills, found);
  } catch (e) {
    let log = "";
    if (guest.running)
      log = (await guest.sh("tail -n 30 /tmp/epnic.log; dmesg | tail -n 15").catch(() => ({ text: "" }))).text;
    throw new RigError(`${(e as Error).message}\n--- epnic in the guest\n${log}`);
  } finally {
    await guest.close();
    rmSync(join(dir, "board.cpio"), { force: true });
  }
  rmSync(dir, { recursive: true, force: true });
  return found;
}
