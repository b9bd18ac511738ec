/**
 * Steps that the scenarios with a board and a host as two machines (board-pair.ts) are made of. Each throws a RigError when
 * something is not as it must be.
 */
import { PCI_CONTROLLERS } from "../../src/hw/boards.ts";
import { EDMA } from "../../src/hw/edma.regs.ts";
import { RigError } from "./apt.ts";
import { BOARD_IP, BoardPair, HOST_IP, type PairOptions, waitFor } from "./board-pair.ts";
import { emptyFindings, type Findings } from "./checks.ts";
import type { Guest } from "./guest.ts";

const EDMA_AT = PCI_CONTROLLERS[0]!.ranges.dma!.offset;

export interface Side {
  readonly guest: Guest;
  readonly ip: string;
  readonly name: string;
}

export const boardOf = (p: BoardPair): Side => ({ guest: p.board, ip: BOARD_IP, name: "board" });
export const hostOf = (p: BoardPair): Side => ({ guest: p.host, ip: HOST_IP, name: "host" });

export async function ping(from: Side, to: Side, count: number): Promise<{ min: number; avg: number; max: number }> {
  const text = await from.guest.must(`ping -q -A -c ${count} -W 5 ${to.ip}`, 120_000);
  if (!/ 0% packet loss/.test(text)) throw new RigError(`ping from the ${from.name}: ${text}`);
  const m = text.match(/= ([\d.]+)\/([\d.]+)\/([\d.]+)/);
  return { min: Number(m?.[1]), avg: Number(m?.[2]), max: Number(m?.[3]) };
}

/** Random data over TCP one way; SHA-256 at both ends. */
export async function checkedTcp(from: Side, to: Side, mib: number): Promise<number> {
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
export async function udp(from: Side, to: Side): Promise<string> {
  to.guest.fire("timeout 60 iperf3 -s -1 > /dev/null 2>&1");
  await Bun.sleep(3000);
  const text = await from.guest.must(`iperf3 -u -c ${to.ip} -b 500K -l 1000 -t 3 -J`, 60_000);
  const json = JSON.parse(text) as UdpJson;
  const { packets = 0, lost_packets = 0 } = json.end?.sum ?? {};
  if (json.error !== undefined || packets === 0 || lost_packets * 2 > packets)
    throw new RigError(`UDP from the ${from.name}: ${json.error ?? `${lost_packets} of ${packets} lost`}`);
  return `${packets - lost_packets} of ${packets}`;
}

export async function withPair(
  o: PairOptions,
  work: (p: BoardPair, found: Findings) => Promise<void>,
): Promise<Findings> {
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

/** CPU time of epnic and time since boot, both in hundredths of a second. */
async function used(p: BoardPair): Promise<[cpu: number, up: number]> {
  const [stat, up] = (await p.board.must("cat /proc/$(cat /run/epnic.pid)/stat; cut -d' ' -f1 /proc/uptime")).split(
    "\n",
  );
  const f = stat!.slice(stat!.lastIndexOf(")") + 2).split(" ");
  return [Number(f[11]) + Number(f[12]), Number(up) * 100];
}

/** What epnic costs while nothing moves, and how soon the first frame after that is answered. */
export async function idle(p: BoardPair, found: Findings, seconds = 10): Promise<void> {
  // neighbour discovery and what the test left behind come to an end
  await Bun.sleep(5000);
  const before = (await p.stat()).counters;
  const [cpu, up] = await used(p);
  await Bun.sleep(seconds * 1000);
  const [cpuEnd, upEnd] = await used(p);
  const after = (await p.stat()).counters;
  found.figures.idle_cpu_percent = Number(((100 * (cpuEnd - cpu)) / (upEnd - up)).toFixed(1));
  found.figures.idle_looks_per_s = Math.round((100 * (after.fetches! - before.fetches!)) / (upEnd - up));
  const steady = await ping(hostOf(p), boardOf(p), 20);
  const first: number[] = [];
  for (let i = 0; i < 3; i++) {
    await Bun.sleep(5000);
    first.push((await ping(hostOf(p), boardOf(p), 1)).avg);
  }
  found.figures.ping_after_idle_ms = first.map((t) => t.toFixed(1)).join(", ");
  found.figures.ping_busy_ms = `${steady.min} to ${steady.max}, mean ${steady.avg}`;
}

/**
 * The controller's interrupt on the board: the DMA engine's line is asserted (dw-hardware.md 6: a write to an interrupt status
 * register), and a process that waits on /dev/uio0 gets it. epnic polls and leaves every cause masked.
 */
export async function interrupt(p: BoardPair): Promise<string> {
  const dma = `$((base + ${EDMA_AT}`;
  return p.board.must(
    `base=$(sed -n '1s/ .*//p' /sys/bus/pci/devices/${p.device}/resource)
     rm -f /tmp/uio; (dd if=/dev/uio0 of=/tmp/uio bs=4 count=1 2> /dev/null &) ; sleep 1
     [ -s /tmp/uio ] && { echo 'an interrupt that nobody raised'; exit 1; }
     devmem ${dma} + ${EDMA.RD_INT_STATUS})) 32 1
     ${waitFor("[ -s /tmp/uio ]", 20)}
     devmem ${dma} + ${EDMA.WR_INT_CLEAR})) 32 0; devmem ${dma} + ${EDMA.RD_INT_CLEAR})) 32 0
     grep uio /proc/interrupts | tr -s ' '`,
    60_000,
  );
}

/** What epnic on the board says of itself: nothing copied, no fault, what was negotiated. @returns its counters */
export async function account(p: BoardPair, found: Findings): Promise<Record<string, number>> {
  const { counters, state } = await p.stat();
  if (counters.port_copied_bytes !== 0)
    throw new RigError(`epnic copied ${counters.port_copied_bytes} bytes of frames`);
  if (counters.faults !== 0) throw new RigError(`${counters.faults} faults: ${state.diagnosis}`);
  found.features = String(state.features).split(",").map(Number);
  found.header = Number(state.header_bytes);
  found.negotiations = counters.negotiations! + counters.refusals!;
  found.negotiationsRight = counters.negotiations!;
  return counters;
}
