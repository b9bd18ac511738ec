/**
 * The scenarios by name. Each starts its own engine and guest for one combination of kernel, personality, interrupt
 * kind and access mode, and returns what it found; anything that is not as it must be throws.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { RigError } from "./apt.ts";
import { BOARD_IP, Board, type BoardOptions, NETDEV } from "./board.ts";
import type { PairOptions } from "./board-pair.ts";
import { boardCrash, boardRoce, boardTraffic } from "./board-scenarios.ts";
import { boardVduse } from "./board-vduse.ts";
import { logDir } from "./cache.ts";
import * as check from "./checks.ts";
import { type Context, emptyFindings, type Findings, failure } from "./checks.ts";
import { Guest, type GuestOptions, NET_MODULES } from "./guest.ts";
import type { KernelName } from "./packages.ts";
import { undoLater } from "./undo.ts";

export interface Combination {
  kernel: KernelName;
  personality: "modern" | "legacy";
  irq: "msix" | "intx";
  mode: "held" | "plain";
  strict: boolean;
}

export interface Scenario {
  name: string;
  /** one line for the list */
  about: string;
  /** whether the combination exists for this scenario */
  fits(c: Combination): boolean;
  run(c: Combination): Promise<Findings>;
}

interface SetUp {
  board?: Partial<BoardOptions>;
  guest?: Partial<GuestOptions>;
}

let serial = 0;

/** Engine and guest, up to a netdev with an address; taken down afterwards whatever happens. */
async function withGuest(
  name: string,
  c: Combination,
  options: SetUp,
  work: (ctx: Context, boot: () => Promise<void>) => Promise<void>,
): Promise<Findings> {
  const dir = join(logDir(), `${name}-${c.kernel}-${c.personality}-${c.irq}-${c.mode}-${process.pid}-${++serial}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const board = new Board({
    dir,
    personality: c.personality,
    irq: c.irq,
    mode: c.mode,
    strict: c.strict,
    ...options.board,
  });
  const guestOptions: GuestOptions = { kernel: c.kernel, dir, socket: board.socket, ...options.guest };
  const ctx: Context = { board, guest: new Guest(guestOptions), found: emptyFindings() };
  const boot = async (): Promise<void> => {
    await ctx.guest.close();
    ctx.guest = new Guest(guestOptions);
    await ctx.guest.start();
  };
  try {
    await board.start();
    await ctx.guest.start();
    await work(ctx, boot);
    board.mustRun();
    ctx.found.strictViolations = board.stat().counters.strict_violations ?? 0;
  } catch (e) {
    await ctx.guest.close();
    await board.stop();
    throw e instanceof RigError ? e : new RigError(`${(e as Error).stack ?? e}`);
  }
  await ctx.guest.close();
  const status = await board.stop();
  // a clean stop is part of every scenario; strict mode turns violations into a status
  if (status !== 0) throw board.error(`epnic run ended with status ${status} after ${name}`);
  rmSync(dir, { recursive: true, force: true });
  return ctx.found;
}

/** Bits that must be there for the intended offloads, and which must not. */
async function expectFeatures(c: Context, combination: Combination): Promise<void> {
  const bits = await check.features(c);
  const want = combination.personality === "modern" ? [0, 5, 11, 12, 15, 16, 32, 33] : [0, 5, 11, 12, 15, 16];
  const missing = want.filter((b) => !bits.includes(b));
  if (missing.length > 0)
    throw failure(c, `features ${missing.join(", ")} were not negotiated; the guest has ${bits.join(",")}`);
  if (bits.includes(17) || bits.includes(22)) throw failure(c, `a control queue was negotiated: ${bits.join(",")}`);
}

const anyCombination = (): boolean => true;

const basic: Scenario = {
  name: "basic",
  about: "bind, features, ping both ways, TCP both ways, checksums, ethtool, 5 rebinds",
  fits: anyCombination,
  run: (combination) =>
    withGuest("basic", combination, {}, async (c) => {
      await check.bringUp(c);
      await expectFeatures(c, combination);
      await check.ping(c);
      await check.ping(c, 5, 1400);
      await check.tcp(c);
      await check.checksums(c, 8);
      await check.ethtool(c);
      await check.rebind(c, 5);
      await account(c, combination, 6);
    }),
};

/** Held: every negotiation right. Plain: as many as the engine says, and none silently wrong. */
async function account(c: Context, combination: Combination, times: number): Promise<void> {
  if (combination.mode === "held") {
    check.judgeNegotiations(c);
    if (c.found.negotiations < times)
      throw failure(c, `${c.found.negotiations} negotiations in the log, at least ${times} were made`);
  } else {
    const { counters } = c.board.stat();
    c.found.negotiations = counters.negotiations + counters.refusals;
    c.found.negotiationsRight = counters.negotiations;
    c.found.refused = counters.refusals;
  }
}

const rebind: Scenario = {
  name: "rebind",
  about: "50 unbind/bind cycles with traffic after each",
  fits: (c) => c.mode === "held",
  run: (combination) =>
    withGuest("rebind", combination, {}, async (c) => {
      await check.bringUp(c);
      await expectFeatures(c, combination);
      await check.ping(c, 3);
      await check.rebind(c, 50);
      await account(c, combination, 51);
    }),
};

const life: Scenario = {
  name: "life",
  about: "rmmod and modprobe, link down and up, reset in the middle of a transfer, reboot twice on one connection",
  fits: (c) => c.mode === "held",
  run: (combination) =>
    withGuest("life", combination, { guest: { mayReboot: true } }, async (c) => {
      await check.bringUp(c);
      await expectFeatures(c, combination);
      await check.ping(c, 3);
      for (let i = 0; i < 3; i++) {
        await c.guest.must("rmmod virtio_net && insmod /modules/virtio_net.ko");
        await check.bringUp(c);
        await check.ping(c, 3);
      }
      await linkDownUp(c);
      await resetInTransfer(c);
      for (let i = 0; i < 2; i++) {
        c.guest.fire("reboot -f");
        await c.guest.rebooted();
        await check.bringUp(c);
        await check.ping(c, 3);
      }
      await account(c, combination, 7);
    }),
};

/** The board's interface goes down: the guest loses its carrier, and gets it back. */
async function linkDownUp(c: Context): Promise<void> {
  const expectCarrier = async (want: string): Promise<void> => {
    let now = "";
    for (let i = 0; i < 50; i++) {
      now = await check.carrier(c);
      if (now === want) return;
      await Bun.sleep(100);
    }
    throw failure(c, `the guest's carrier is ${now}, not ${want}`);
  };
  await expectCarrier("1");
  c.board.ip(`link set ${NETDEV} down`);
  await expectCarrier("0");
  c.board.ip(`link set ${NETDEV} up`);
  await expectCarrier("1");
  await check.ping(c, 3);
}

/** Unbind while TCP runs in both directions, three times; traffic flows again each time. */
async function resetInTransfer(c: Context): Promise<void> {
  const server = c.board.background(c.board.iperf3("-s", "-B", BOARD_IP));
  try {
    for (let i = 0; i < 3; i++) {
      await c.guest.must(`
        iperf3 -c ${BOARD_IP} -t 20 --bidir > /tmp/iperf 2>&1 & p=$!
        sleep ${1 + i * 0.3}
        cd /sys/bus/virtio/drivers/virtio_net && v=$(ls -d virtio* | head -n 1) && echo $v > unbind
        sleep 0.3; kill -9 $p 2>/dev/null; wait $p 2>/dev/null
        echo $v > bind`);
      await check.bringUp(c);
      await check.ping(c, 3);
    }
  } finally {
    await server.end();
  }
}

const memory: Scenario = {
  name: "highmem",
  about: "5 GiB of guest memory: rings and buffers above 4 GiB",
  fits: (c) => c.mode === "held" && c.irq === "msix",
  run: (combination) =>
    withGuest("highmem", combination, { guest: { memoryMiB: 5120 } }, async (c) => {
      await check.bringUp(c);
      await expectFeatures(c, combination);
      await check.ping(c);
      await check.checksums(c, 8);
      await check.tcp(c, 2);
      await account(c, combination, 1);
      const high = /used 0x[0-9a-f]{9,}/.test(c.board.log());
      if (combination.personality === "modern" && !high) throw failure(c, "no ring of the guest is above 4 GiB");
      c.found.notes.push(high ? "rings above 4 GiB" : "rings below 4 GiB");
    }),
};

const iommu = (kind: "intel" | "swiotlb"): Scenario => ({
  name: kind === "intel" ? "iommu" : "swiotlb",
  about:
    kind === "intel"
      ? "virtual IOMMU, strict: every buffer mapped and unmapped page by page (ACCESS_PLATFORM)"
      : "swiotlb=force: every buffer bounced (ACCESS_PLATFORM)",
  fits: (c) => c.mode === "held" && c.personality === "modern" && c.irq === "msix",
  run: (combination) =>
    withGuest(
      kind,
      combination,
      {
        guest:
          kind === "intel"
            ? { append: "intel_iommu=on iommu.strict=1", qemu: ["-device", "intel-iommu,caching-mode=on,intremap=off"] }
            : { append: "swiotlb=force" },
      },
      async (c) => {
        await check.bringUp(c);
        await expectFeatures(c, combination);
        const proof = await c.guest.sh(kind === "intel" ? "ls /sys/class/iommu" : "dmesg | grep -i 'software IO TLB'");
        if (proof.text.trim() === "") throw failure(c, `${kind} is not active in the guest`);
        await check.ping(c);
        await check.checksums(c, 4);
        await check.tcp(c, 2);
        await check.rebind(c, 3);
        await account(c, combination, 4);
      },
    ),
});

const blocked: Scenario = {
  name: "iommu-blocked",
  about: "virtual IOMMU without ACCESS_PLATFORM: the engine must say why nothing flows",
  fits: (c) => c.mode === "held" && c.personality === "legacy" && c.irq === "msix",
  run: (combination) =>
    withGuest(
      "iommu-blocked",
      { ...combination, strict: false },
      { guest: { append: "intel_iommu=on", qemu: ["-device", "intel-iommu,caching-mode=on,intremap=off"] } },
      async (c) => {
        await check.bringUp(c);
        if (await check.flows(c)) throw failure(c, "traffic flows through an IOMMU that was not told of it");
        let diagnosis = "";
        await c.board.until(
          () => {
            diagnosis = String(c.board.stat().state.diagnosis ?? "");
            return diagnosis !== "";
          },
          5000,
          "a diagnosis in `epnic stat`",
        );
        if (!/iommu/i.test(diagnosis)) throw failure(c, `the diagnosis does not name the IOMMU: ${diagnosis}`);
        c.found.notes.push(diagnosis);
      },
    ),
};

const ends: Scenario = {
  name: "ends",
  about: "the guest crashes, powers off, is killed: the engine survives and serves the next one",
  fits: (c) => c.mode === "held",
  run: (combination) =>
    withGuest("ends", combination, {}, async (c, boot) => {
      const ways: [string, () => Promise<void>][] = [
        [
          "crash",
          async () => {
            c.guest.fire("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger");
            await c.guest.ended();
          },
        ],
        [
          "poweroff",
          async () => {
            c.guest.fire("poweroff -f");
            await c.guest.ended();
          },
        ],
        [
          "kill",
          async () => {
            c.guest.fire(`iperf3 -c ${BOARD_IP} -t 20 --bidir`);
            await Bun.sleep(1500);
            await c.guest.kill();
          },
        ],
      ];
      const server = c.board.background(c.board.iperf3("-s", "-B", BOARD_IP));
      for (const [name, end] of ways) {
        await check.bringUp(c);
        await check.ping(c, 3);
        await end();
        await Bun.sleep(200);
        c.board.mustRun();
        c.found.notes.push(name);
        await boot();
      }
      await server.end();
      await check.bringUp(c);
      await expectFeatures(c, combination);
      await check.ping(c, 3);
      await account(c, combination, 4);
    }),
};

const jumbo: Scenario = {
  name: "mtu",
  about: "MTU 9000 offered and used: large pings and TCP",
  fits: (c) => c.mode === "held" && c.irq === "msix",
  run: (combination) =>
    withGuest("mtu", combination, { board: { args: ["--mtu", "9000", "--features", "wide"] } }, async (c) => {
      await check.bringUp(c);
      const bits = await check.features(c);
      if (!bits.includes(3)) throw failure(c, `MTU was not negotiated: ${bits.join(",")}`);
      const mtu = (await c.guest.must("cat /sys/bus/virtio/drivers/virtio_net/virtio*/net/*/mtu")).trim();
      if (mtu !== "9000") throw failure(c, `the guest's MTU is ${mtu}, 9000 was offered`);
      c.board.ip(`link set ${NETDEV} mtu 9000`);
      await check.ping(c);
      await check.ping(c, 5, 8900);
      await check.tcp(c, 2);
      await check.checksums(c, 8);
      await account(c, combination, 1);
    }),
};

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

/** Scenarios with a board of their own (board-*.ts): modern with MSI-X, on kernels that have VDUSE. */
const board = (name: string, about: string, run: (c: Combination) => Promise<Findings>): Scenario => ({
  name,
  about,
  fits: (c) => c.mode === "held" && c.personality === "modern" && c.irq === "msix" && c.kernel !== "6.1",
  run,
});
const pairOf = (name: string, c: Combination): PairOptions => ({ name, boardKernel: c.kernel, hostKernel: c.kernel });

export const SCENARIOS: readonly Scenario[] = [
  basic,
  rebind,
  life,
  ends,
  jumbo,
  memory,
  iommu("intel"),
  iommu("swiotlb"),
  blocked,
  plain,
  board("board-vduse", "one machine: model and VDUSE, checked TCP both ways, epnic killed 5 times", (c) =>
    boardVduse(c.kernel),
  ),
  board("board-amd64", "board and host as two machines: ping, TCP and UDP both ways, idle CPU share", (c) =>
    boardTraffic(pairOf("board-amd64", c)),
  ),
  board("board-crash", "two machines: epnic on the board killed 20 times, the board's netdev stays", (c) =>
    boardCrash(pairOf("board-crash", c), 20),
  ),
  board("board-roce", "two machines: RoCE of both kernels over the card, rping with checked data", (c) =>
    boardRoce(pairOf("board-roce", c)),
  ),
];

/** modules of the guest that a scenario may want in another order */
export { NET_MODULES };
