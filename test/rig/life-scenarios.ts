/**
 * What happens to a host in its life: modules unloaded, resets in the middle of transfers, reboots, and each way it can
 * stop.
 */
import { NETDEV } from "./board.ts";
import * as check from "./checks.ts";
import { type Context, failure } from "./checks.ts";
import { account, expectFeatures, type Scenario, withGuest } from "./scenario.ts";

/** "within seconds", on a machine that does other work too */
const DIAGNOSIS_MS = 10_000;

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
    for (let i = 0; i < 150; i++) {
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
  for (let i = 0; i < 3; i++) {
    const end = await check.traffic(c);
    await Bun.sleep(300 * i);
    await c.guest.must(
      `cd /sys/bus/virtio/drivers/virtio_net && v=$(ls -d virtio* | head -n 1) && echo $v > unbind && sleep 0.3 && echo $v > bind`,
      120_000,
    );
    await end();
    await check.bringUp(c);
    await check.ping(c, 3);
  }
}

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
            const end = await check.traffic(c);
            await c.guest.kill();
            await end(false);
          },
        ],
      ];
      for (const [name, end] of ways) {
        await check.bringUp(c);
        await check.ping(c, 3);
        await end();
        await Bun.sleep(200);
        c.board.mustRun();
        c.found.notes.push(name);
        await boot();
      }
      await check.bringUp(c);
      await expectFeatures(c, combination);
      await check.ping(c, 3);
      await account(c, combination, 4);
    }),
};

/** Bus Master Enable and Memory Space of the function's command register, as a person with setpci would change them. */
async function command(c: Context, value: "on" | "off"): Promise<void> {
  await c.guest.must(
    `d=$(readlink -f /sys/bus/virtio/devices/virtio*/..) && printf '\\00${value === "on" ? 6 : 2}' | dd of=$d/config bs=1 seek=4 conv=notrunc 2>/dev/null`,
  );
}

/** A diagnosis that matches must be in `epnic stat` and in the log within seconds. */
async function diagnosed(c: Context, what: RegExp): Promise<void> {
  const since = Date.now();
  let text = "";
  await c.board.until(
    () => {
      text = String(c.board.stat().state.diagnosis ?? "");
      return what.test(text);
    },
    DIAGNOSIS_MS,
    `a diagnosis ${what} in \`epnic stat\``,
    check.STAT_MS,
  );
  if (!c.board.log().includes(text)) throw failure(c, `the log does not say what stat says: ${text}`);
  c.found.notes.push(`after ${((Date.now() - since) / 1000).toFixed(1)} s: ${text}`);
}

const noMaster: Scenario = {
  name: "no-master",
  about: "bus mastering switched off under traffic, and a driver that finds it off: a diagnosis, and on again",
  fits: (c) => c.mode === "held",
  run: (combination) =>
    withGuest("no-master", combination, {}, async (c) => {
      await check.bringUp(c);
      await check.ping(c, 3);
      const end = await check.traffic(c);
      await command(c, "off");
      await diagnosed(c, /switched Bus Master Enable off/);
      await end();
      // the driver of the virtio device alone: that of the PCI device would switch it on again
      await c.guest.must(
        `cd /sys/bus/virtio/drivers/virtio_net && v=$(ls -d virtio* | head -n 1) && echo $v > unbind && echo $v > bind`,
        120_000,
      );
      await diagnosed(c, /driver is ready but Bus Master Enable is off/);
      await command(c, "on");
      await check.bringUp(c);
      await check.ping(c);
      const { diagnosis } = c.board.stat().state;
      if (diagnosis) throw failure(c, `all is well again, but the diagnosis is still: ${diagnosis}`);
      await expectFeatures(c, combination);
      await account(c, combination, 2);
    }),
};

export const LIFE_SCENARIOS: readonly Scenario[] = [life, ends, noMaster];
