/**
 * Steps that scenarios are made of: each does one thing with a guest and a board and throws a RigError with both
 * sides' logs when it does not come out right.
 */
import { join } from "node:path";
import { RigError } from "./apt.ts";
import { BOARD_IP, type Board, GUEST_IP, NETDEV } from "./board.ts";
import type { Guest } from "./guest.ts";

/** What a scenario measures; printed as one JSON object. */
export interface Findings {
  features: number[];
  header: number;
  /** engine's captures that agree with what the guest wrote / captures in all; in plain mode those that carried traffic */
  negotiationsRight: number;
  negotiations: number;
  /** negotiations that the engine itself reported as unusable */
  refused: number;
  pingMinMs: number;
  pingAvgMs: number;
  tcpToBoardGbps: number;
  tcpToGuestGbps: number;
  strictViolations: number;
  /** what only some scenarios measure, printed as it is */
  figures: Record<string, number | string>;
  notes: string[];
}

export function emptyFindings(): Findings {
  return {
    features: [],
    header: 0,
    negotiationsRight: 0,
    negotiations: 0,
    refused: 0,
    pingMinMs: Number.NaN,
    pingAvgMs: Number.NaN,
    tcpToBoardGbps: Number.NaN,
    tcpToGuestGbps: Number.NaN,
    strictViolations: 0,
    figures: {},
    notes: [],
  };
}

export interface Context {
  guest: Guest;
  board: Board;
  found: Findings;
}

/** between two looks at `epnic stat`, a process of its own, ms */
export const STAT_MS = 200;

const DRIVER = "/sys/bus/virtio/drivers/virtio_net";

/** A failure with the logs of both sides and the engine's counters. */
export function failure(c: Context, text: string): RigError {
  let stat = "";
  try {
    const s = c.board.stat();
    stat = JSON.stringify({ ...s.state, ...Object.fromEntries(Object.entries(s.counters).filter(([, v]) => v !== 0)) });
  } catch (e) {
    stat = (e as Error).message;
  }
  const log = c.board.log().trimEnd().split("\n").slice(-15).join("\n");
  return new RigError(`${text}\n--- guest\n${c.guest.tail(15)}\n--- ${c.board.logPath}\n${log}\n--- stat\n${stat}`);
}

/** Wait for the netdev in the guest, give it an address, bring it up; wait until the engine serves it. */
export async function bringUp(c: Context, mtu = 0): Promise<void> {
  const script = `
    i=0
    while :; do
      v=$(cd ${DRIVER} 2>/dev/null && ls -d virtio* 2>/dev/null | head -n 1)
      [ -n "$v" ] && n=$(ls ${DRIVER}/$v/net 2>/dev/null | head -n 1) && [ -n "$n" ] && break
      i=$((i+1)); [ $i -gt 600 ] && { echo "no net device: driver has [$(ls ${DRIVER} 2>&1 | tr '\\n' ' ')], pci $(cat /sys/bus/pci/devices/*/vendor | tr '\\n' ' ')"; exit 1; }
      sleep 0.1
    done
    ${mtu ? `ip link set dev $n mtu ${mtu} || exit 1` : ""}
    ip link set dev $n up && ip addr replace ${GUEST_IP}/24 dev $n && echo $v $n`;
  const r = await c.guest.sh(script, 120_000);
  if (r.status !== 0) throw failure(c, `virtio_net did not bind: ${r.text}`);
}

/** Feature bits the guest's driver accepted, as the guest itself shows them. */
export async function features(c: Context): Promise<number[]> {
  const text = await c.guest.must(`cat ${DRIVER}/virtio*/features`);
  const bits = [...text.trim()].flatMap((b, i) => (b === "1" ? [i] : []));
  c.found.features = bits;
  return bits;
}

interface PingResult {
  got: number;
  min: number;
  avg: number;
}

function pingResult(text: string): PingResult {
  const n = text.match(/packets transmitted, (\d+) (?:packets )?received/);
  const t = text.match(/= ([\d.]+)\/([\d.]+)\/([\d.]+)/);
  return {
    got: Number(n?.[1] ?? 0),
    min: Number(t?.[1] ?? Number.NaN),
    avg: Number(t?.[2] ?? Number.NaN),
  };
}

/**
 * Ping both ways; nothing may be lost. busybox waits for the last answer as long as two of the others took, one second
 * at least: a machine that paused for longer gets a second try, and a note.
 */
export async function ping(c: Context, count = 10, size = 56): Promise<void> {
  const args = `ping -q -A -c ${count} -s ${size} -W 10`;
  const board = c.board.busybox(...args.split(" "), GUEST_IP);
  const once = async (from: string, run: () => Promise<string> | string): Promise<PingResult> => {
    for (let attempt = 1; ; attempt++) {
      const text = await run();
      const r = pingResult(text);
      if (r.got === count) return r;
      if (r.got !== count - 1 || attempt > 1)
        throw failure(c, `ping from the ${from}: ${r.got} of ${count} answered\n${text}`);
      c.found.notes.push(`ping from the ${from}: the last of ${count} came late`);
    }
  };
  const a = await once("guest", async () => (await c.guest.sh(`${args} ${BOARD_IP}`, 120_000)).text);
  await once("board", () => c.board.inside(board).out);
  if (size === 56) {
    c.found.pingMinMs = Math.min(a.min, Number.isNaN(c.found.pingMinMs) ? a.min : c.found.pingMinMs);
    c.found.pingAvgMs = a.avg;
  }
}

/** One quick ping from the guest: does traffic flow at all? */
export async function flows(c: Context): Promise<boolean> {
  const r = await c.guest.sh(`ping -q -A -c 1 -W 2 ${BOARD_IP} || ping -q -A -c 3 -W 2 ${BOARD_IP}`, 30_000);
  return pingResult(r.text).got >= 1;
}

interface IperfJson {
  error?: string;
  end?: { sum_received?: { bits_per_second: number; bytes: number } };
}

/** TCP both ways by iperf3. */
export async function tcp(c: Context, seconds = 3): Promise<void> {
  const server = c.board.background(c.board.iperf3("-s", "-B", BOARD_IP));
  try {
    for (const reverse of [false, true]) {
      let text = "";
      for (let attempt = 0; attempt < 50; attempt++) {
        text = (
          await c.guest.sh(`iperf3 -c ${BOARD_IP} -t ${seconds} -J ${reverse ? "-R" : ""}`, (seconds + 90) * 1000)
        ).text;
        if (!text.includes("Connection refused")) break;
        await Bun.sleep(200);
      }
      let json: IperfJson;
      try {
        json = JSON.parse(text) as IperfJson;
      } catch {
        throw failure(c, `iperf3: ${text.slice(0, 400)}`);
      }
      const rate = json.end?.sum_received?.bits_per_second ?? 0;
      if (json.error || rate === 0)
        throw failure(c, `iperf3 ${reverse ? "to the guest" : "to the board"}: ${json.error ?? "nothing arrived"}`);
      if (reverse) c.found.tcpToGuestGbps = rate / 1e9;
      else c.found.tcpToBoardGbps = rate / 1e9;
    }
  } finally {
    await server.end();
  }
}

/**
 * TCP both ways in the background, under way when this returns.
 * @returns ends it; with `false` only the board's part, for a guest that is gone
 */
export async function traffic(c: Context): Promise<(guestLives?: boolean) => Promise<void>> {
  const bytes = (): number => c.board.stat().counters.to_board_bytes;
  const before = bytes();
  const server = c.board.background(c.board.iperf3("-s", "-B", BOARD_IP));
  // again and again: the server may not listen yet
  await c.guest.must(
    `(while :; do iperf3 -c ${BOARD_IP} -t 600 --bidir; sleep 0.2; done) > /dev/null 2>&1 & echo $! > /tmp/traffic`,
  );
  await c.board.until(() => bytes() > before + 2 ** 20, 60_000, "TCP in the background", STAT_MS);
  return async (guestLives = true) => {
    await server.end();
    if (guestLives) await c.guest.must("kill -9 $(cat /tmp/traffic); killall -q -9 iperf3; true");
  };
}

/** Data that repeat nowhere, both ways over TCP; SHA-256 at both ends must agree. */
export async function checksums(c: Context, mib = 16): Promise<void> {
  const { board, guest } = c;
  const port = 5300 + Math.floor(Math.random() * 1000);
  const transfer = [process.execPath, join(import.meta.dir, "transfer.ts")];
  const sum = (json: string): { bytes: number; sha256: string } => JSON.parse(json);

  const listener = board.background([...transfer, "recv", String(port)], "pipe");
  const sent = await guest.must(
    `head -c ${mib << 20} /dev/urandom > /tmp/r && sha256sum < /tmp/r
     i=0; until nc ${BOARD_IP} ${port} < /tmp/r; do i=$((i+1)); [ $i -gt 100 ] && exit 1; sleep 0.2; done; rm /tmp/r`,
    240_000,
  );
  const got = sum(await new Response(listener.child.stdout as ReadableStream).text());
  await listener.end();
  if (got.bytes !== mib << 20 || !sent.startsWith(got.sha256))
    throw failure(
      c,
      `towards the board: sent ${mib << 20} bytes ${sent.trim()}, received ${got.bytes} bytes ${got.sha256}`,
    );

  // the program's standard input is the socket
  guest.fire(`echo 'sha256sum > /tmp/sum' > /tmp/sum.sh; nc -l -p ${port} -e /bin/sh /tmp/sum.sh`);
  const mine = sum(await board.run([...transfer, "send", GUEST_IP, String(port), String(mib), String(port)], 240_000));
  const theirs = await guest.must("cat /tmp/sum; rm -f /tmp/sum");
  if (!theirs.startsWith(mine.sha256))
    throw failure(c, `towards the guest: sent ${mine.bytes} bytes ${mine.sha256}, the guest received ${theirs.trim()}`);
}

/** ethtool must make sense: driver, link, offloads that follow from the features. */
export async function ethtool(c: Context): Promise<void> {
  const n = (await c.guest.must(`ls ${DRIVER}/virtio*/net | head -n 1`)).trim();
  const info = await c.guest.must(`ethtool -i ${n}`);
  if (!/^driver: virtio_net$/m.test(info)) throw failure(c, `ethtool -i: ${info}`);
  const stats = await c.guest.must(`ethtool -S ${n}`);
  const drops = [...stats.matchAll(/^\s*\w*(?:drops|timeouts): (\d+)$/gm)];
  if (drops.length === 0 || drops.some((m) => m[1] !== "0")) throw failure(c, `ethtool -S: ${stats}`);
  const moved = await c.guest.must(
    `cat /sys/class/net/${n}/statistics/rx_packets /sys/class/net/${n}/statistics/tx_packets`,
  );
  if (moved.split("\n").some((v) => Number(v) === 0)) throw failure(c, `packets received, sent: ${moved}`);
  const offloads = await c.guest.must(`ethtool -k ${n}`);
  const tso = /^tcp-segmentation-offload: (on|off)/m.exec(offloads)?.[1];
  const want = c.found.features.includes(11) ? "on" : "off";
  if (tso !== want) throw failure(c, `ethtool -k: tcp-segmentation-offload is ${tso}, HOST_TSO4 says ${want}`);
  const link = await c.guest.must(`ethtool ${n}`);
  if (!/Link detected: yes/.test(link)) throw failure(c, `ethtool: ${link}`);
}

/** Carrier as the guest sees it. */
export async function carrier(c: Context): Promise<string> {
  return (await c.guest.must(`cat ${DRIVER}/virtio*/net/*/carrier 2>/dev/null || echo none`)).trim();
}

const TRUTH = /the guest set DRIVER_OK: features ([\d,]*), (rx .*)$/;
const CAPTURE = /host driver is up: .*features ([\d,]*), header (\d+), (rx .*)$/;
const REFUSED = /negotiation refused/;

export interface Negotiation {
  truth: string;
  capture: string;
  /** why they differ, "" when they agree */
  fault: string;
}

/**
 * Compare the engine's captures with the model's account of the guest's writes (held mode), from epnic's log. The
 * engine must have every queue right and must not believe in a feature that the guest did not accept and that
 * changes what a frame looks like (header, mergeable buffers, checksum and segmentation offloads).
 */
export function negotiations(log: string): { list: Negotiation[]; refused: number; header: number } {
  const list: Negotiation[] = [];
  let truth: RegExpMatchArray | null = null;
  let refused = 0;
  let header = 0;
  for (const line of log.split("\n")) {
    const t = line.match(TRUTH);
    if (t) {
      if (truth) list.push({ truth: truth[0], capture: "", fault: "the engine did not take it" });
      truth = t;
      continue;
    }
    if (REFUSED.test(line)) {
      refused++;
      if (truth) list.push({ truth: truth[0], capture: line, fault: "refused" });
      truth = null;
      continue;
    }
    const m = line.match(CAPTURE);
    if (!m) continue;
    header = Number(m[2]);
    if (truth) list.push({ truth: truth[0], capture: m[0], fault: differs(truth, m) });
    truth = null;
  }
  if (truth) list.push({ truth: truth[0], capture: "", fault: "the engine did not take it" });
  return { list, refused, header };
}

/** bits that shape a frame: CSUM, GUEST_CSUM, GUEST_TSO, HOST_TSO, MRG_RXBUF, INDIRECT, EVENT_IDX */
const SHAPING = [0, 1, 7, 8, 11, 12, 15, 28, 29];

function differs(truth: RegExpMatchArray, capture: RegExpMatchArray): string {
  if (truth[2].trim() !== capture[3].trim()) return `queues: guest ${truth[2]}, engine ${capture[3]}`;
  const real = new Set(truth[1].split(",").map(Number));
  const taken = new Set(capture[1].split(",").map(Number));
  const wrong = SHAPING.filter((b) => real.has(b) !== taken.has(b));
  return wrong.length ? `features ${wrong.join(",")}: guest ${truth[1]}, engine ${capture[1]}` : "";
}

/** Put the account of negotiations into the findings. @throws RigError when one is wrong */
export function judgeNegotiations(c: Context, mayRefuse = false): void {
  const { list, refused, header } = negotiations(c.board.log());
  c.found.negotiations = list.length;
  c.found.negotiationsRight = list.filter((n) => n.fault === "").length;
  c.found.refused = refused;
  c.found.header = header;
  const bad = list.find((n) => n.fault !== "" && !(mayRefuse && n.fault === "refused"));
  if (bad) throw failure(c, `negotiation ${list.indexOf(bad) + 1} of ${list.length}: ${bad.fault}`);
}

/** Unbind and bind `times` times, traffic after each. */
export async function rebind(c: Context, times: number): Promise<void> {
  for (let i = 0; i < times; i++) {
    const r = await c.guest.sh(
      `cd ${DRIVER} && v=$(ls -d virtio* | head -n 1) && echo $v > unbind && echo $v > bind && n=$(ls $v/net | head -n 1) &&
       ip link set dev $n up && ip addr replace ${GUEST_IP}/24 dev $n && ping -q -A -c 2 -W 10 ${BOARD_IP}`,
      120_000,
    );
    if (r.status !== 0) throw failure(c, `rebind ${i + 1} of ${times}: status ${r.status}\n${r.text}`);
  }
}

/** The board's netdev and route are still there after a change on the other side. */
export function boardUp(c: Context): void {
  c.board.ip(`link set ${NETDEV} up`);
}
