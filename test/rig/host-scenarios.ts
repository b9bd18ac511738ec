/**
 * What a host does with the card: bind, traffic, rebinds, large frames, memory above 4 GiB, IOMMU and bounce buffers.
 */
import { NETDEV } from "./board.ts";
import * as check from "./checks.ts";
import { failure } from "./checks.ts";
import { account, expectFeatures, type Scenario, withGuest } from "./scenario.ts";

const basic: Scenario = {
  name: "basic",
  about: "bind, features, ping both ways, TCP both ways, checksums, ethtool, 5 rebinds",
  fits: (c) => c.mode === "held",
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

const jumbo: Scenario = {
  name: "mtu",
  about: "the wide feature word; MTU 9000 offered and used: large pings and TCP",
  fits: (c) => c.mode === "held",
  run: (combination) =>
    withGuest("mtu", combination, { board: { args: ["--mtu", "9000", "--features", "wide"] } }, async (c) => {
      await check.bringUp(c);
      const bits = await check.features(c);
      // MTU and EVENT_IDX; what the word's other shadows bring (35, 38, 65 ...) differs between kernels
      const want = combination.personality === "modern" ? [3, 29] : [3, 28, 29];
      const missing = want.filter((b) => !bits.includes(b));
      if (missing.length > 0) throw failure(c, `${missing.join(", ")} of the wide word: not in ${bits.join(",")}`);
      const mtu = (await c.guest.must("cat /sys/bus/virtio/drivers/virtio_net/virtio*/net/*/mtu")).trim();
      if (mtu !== "9000") throw failure(c, `the guest's MTU is ${mtu}, 9000 was offered`);
      c.board.ip(`link set ${NETDEV} mtu 9000`);
      await check.ping(c);
      await check.ping(c, 5, 8900);
      if (bits.includes(38)) {
        await Bun.sleep(200);
        const told = c.board.stat().counters.notices ?? 0;
        if (told === 0) throw failure(c, "NOTIFICATION_DATA with EVENT_IDX: no index came with a notification");
        c.found.notes.push(`${told} indices by notification`);
      }
      await check.tcp(c, 2);
      await check.checksums(c, 8);
      await account(c, combination, 1);
    }),
};

// what is offered by default, and NOTIFICATION_DATA (bit 6 for 38)
const NOTICE_WORD = "0x198f3";
const NOTICE_PINGS = 50;

const notices: Scenario = {
  name: "notices",
  about:
    "NOTIFICATION_DATA offered by number: the guest's notifications bring its avail index; pings, checked streams, rebinds",
  fits: (c) => c.mode === "held" && c.personality === "modern",
  run: (combination) =>
    withGuest("notices", combination, { board: { args: ["--features", NOTICE_WORD] } }, async (c) => {
      await check.bringUp(c);
      const bits = await check.features(c);
      const taken = bits.includes(38);
      // Linux knows the bit since 6.4
      if (taken !== (combination.kernel !== "6.1")) throw failure(c, `NOTIFICATION_DATA: ${bits.join(",")}`);
      await check.ping(c, NOTICE_PINGS);
      await Bun.sleep(200);
      const { counters } = c.board.stat();
      c.found.notes.push(
        `${counters.notices} indices by notification, ${counters.prepared} rounds prepared, ${counters.to_board_frames} frames, ${counters.fetches} looks`,
      );
      // A look may see an index before its notification is read, now and then.
      const least = taken ? NOTICE_PINGS / 2 : 0;
      if ((counters.notices ?? 0) < least || (!taken && counters.notices !== 0))
        throw failure(
          c,
          `${counters.notices} indices came with notifications, expected ${taken ? `${least} or more` : "none"}`,
        );
      if ((counters.prepared ?? 0) < least)
        throw failure(c, `${counters.prepared} rounds of lone frames were prepared, expected ${least} or more`);
      await check.tcp(c, 2);
      await check.checksums(c, 8);
      await check.rebind(c, 3);
      await check.ping(c);
      await account(c, combination, 4);
    }),
};

const memory: Scenario = {
  name: "highmem",
  about: "5 GiB of guest memory: rings and buffers above 4 GiB",
  fits: (c) => c.mode === "held",
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
  fits: (c) => c.mode === "held" && c.personality === "modern",
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
          10_000,
          "a diagnosis in `epnic stat`",
          check.STAT_MS,
        );
        if (!/iommu/i.test(diagnosis)) throw failure(c, `the diagnosis does not name the IOMMU: ${diagnosis}`);
        c.found.notes.push(diagnosis);
      },
    ),
};

/** receive and transmit ring of one ethtool -G each; the largest is what the function offers */
const RING_SIZES = [
  [128, 256],
  [128, 64],
  [256, 256],
  [64, 128],
] as const;

/** the default word and GUEST_TSO6 (8), which stands for RING_RESET (40) */
const RING_RESET_WORD = "0x199b3";

const ringReset: Scenario = {
  name: "ring-reset",
  about: "RING_RESET offered by number: ethtool -G makes new rings while TCP runs, the other ring goes on",
  fits: (c) => c.mode === "held" && c.personality === "modern",
  run: (combination) =>
    withGuest("ring-reset", combination, { board: { args: ["--features", RING_RESET_WORD] } }, async (c) => {
      await check.bringUp(c);
      const bits = await check.features(c);
      if (!bits.includes(40)) throw failure(c, `RING_RESET was not negotiated: ${bits.join(",")}`);
      await check.ping(c);
      const n = (await c.guest.must("ls /sys/bus/virtio/drivers/virtio_net/virtio*/net | head -n 1")).trim();
      const end = await check.traffic(c);
      for (const [rx, tx] of RING_SIZES) {
        await c.guest.must(`ethtool -G ${n} rx ${rx} tx ${tx}`);
        const now = await c.guest.must(`ethtool -g ${n}`);
        const current = now.slice(now.indexOf("Current"));
        if (!new RegExp(`RX:\\s+${rx}\\b`).test(current) || !new RegExp(`TX:\\s+${tx}\\b`).test(current))
          throw failure(c, `rings of ${rx} and ${tx} were asked for:\n${now}`);
        await check.ping(c, 3);
      }
      await end();
      await check.checksums(c, 4);
      await check.rebind(c, 2);
      await account(c, combination, 3);
    }),
};

export const HOST_SCENARIOS: readonly Scenario[] = [
  basic,
  rebind,
  jumbo,
  notices,
  ringReset,
  memory,
  iommu("intel"),
  iommu("swiotlb"),
  blocked,
];
