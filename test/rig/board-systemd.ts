/**
 * Scenario `board-systemd`: the unit of fixtures/init on the board, under the systemd of Debian's packages. The board's
 * kernel is up already, so systemd is process 1 of a PID namespace with a root of its own, as in a container; devices,
 * controller and VDUSE are the board's.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Apt, RigError, run } from "./apt.ts";
import { BOARD_NETDEV, type BoardPair, type PairOptions, waitFor } from "./board-pair.ts";
import { boardOf, checkedTcp, hostOf, ping, withPair } from "./board-steps.ts";
import { busybox, cacheDir, ensureDir, repoDir } from "./cache.ts";
import type { Findings } from "./checks.ts";

/** bumped when the contents change */
const RECIPE = 1;
const ROOT = "/sysroot";
/** not needed to run, and large */
const PRUNED = [
  "usr/share/doc",
  "usr/share/man",
  "usr/share/locale",
  "usr/share/info",
  "usr/share/zoneinfo",
  "var/cache",
];

/** A cpio archive with Debian's systemd below /sysroot. @throws RigError when the mirror cannot be reached */
export async function fetchSystemd(say: (text: string) => void): Promise<string> {
  const dir = ensureDir(join(cacheDir(), "board", "systemd"));
  const path = join(dir, "root.cpio");
  const stamp = join(dir, "stamp");
  if (existsSync(path) && existsSync(stamp) && readFileSync(stamp, "utf8") === String(RECIPE)) return path;
  const apt = new Apt("board", ["trixie", "trixie-updates", "trixie-backports"], ["trixie-security"]);
  await apt.update();
  const specs = await apt.closure(null, ["systemd"]);
  const tree = join(dir, "tree");
  const root = join(tree, ROOT);
  rmSync(tree, { recursive: true, force: true });
  // Debian's merged /usr: packages have links into it
  for (const d of ["bin", "sbin", "lib", "lib64"]) {
    mkdirSync(join(root, "usr", d), { recursive: true });
    symlinkSync(`usr/${d}`, join(root, d));
  }
  for (const [i, spec] of specs.entries()) {
    say(`systemd ${i + 1}/${specs.length}: ${spec}`);
    const deb = await apt.download(spec);
    await run(["sh", "-c", `dpkg-deb --fsys-tarfile '${deb}' | tar -x --keep-directory-symlink -C '${root}'`]);
    rmSync(deb);
  }
  for (const d of PRUNED) rmSync(join(root, d), { recursive: true, force: true });
  for (const d of ["proc", "sys", "dev", "run", "tmp", "etc/epnic", "root"])
    mkdirSync(join(root, d), { recursive: true });
  writeFileSync(join(root, "etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  writeFileSync(join(root, "etc/group"), "root:x:0:\n");
  await run(["sh", "-c", `cd '${tree}' && find . | '${busybox()}' cpio -o -H newc > '${path}.part' 2>/dev/null`]);
  renameSync(`${path}.part`, path);
  rmSync(tree, { recursive: true, force: true });
  writeFileSync(stamp, String(RECIPE));
  return path;
}

/** in the namespaces and the root of systemd */
const inRoot = (command: string): string => `nsenter -t $(pidof systemd) -m -p -r ${command}`;

/** systemd as process 1 of its own namespaces; what the board's kernel has is bound into its root. */
const BOOT = `
  # systemd-modules-load is kept from it in a container
  modprobe -a $(grep -v '^#' /etc/epnic.modules)
  mkdir -p ${ROOT}/usr/lib/modules ${ROOT}/etc/systemd/system; : > ${ROOT}/usr/bin/epnic
  mount --bind ${ROOT} ${ROOT}
  mount --bind /usr/bin/epnic ${ROOT}/usr/bin/epnic; mount --bind /lib/modules ${ROOT}/usr/lib/modules
  mount --rbind /sys ${ROOT}/sys; mount --rbind /dev ${ROOT}/dev
  mount -t tmpfs run ${ROOT}/run; mount -t tmpfs tmp ${ROOT}/tmp; mount -t cgroup2 cgroup ${ROOT}/sys/fs/cgroup
  ln -sf /usr/lib/systemd/system/multi-user.target ${ROOT}/etc/systemd/system/default.target
  for u in systemd-logind console-getty getty.target systemd-networkd; do ln -sf /dev/null ${ROOT}/etc/systemd/system/$u.service; done
  cp /etc/epnic.service ${ROOT}/etc/systemd/system/epnic.service; cp /etc/epnic/epnic.toml ${ROOT}/etc/epnic/
  (container=rig setsid unshare -m -p -f sh -c 'mount -t proc proc ${ROOT}/proc; exec chroot ${ROOT} /usr/lib/systemd/systemd' < /dev/null > /tmp/systemd.log 2>&1 &)
  ${waitFor(`${inRoot("systemctl is-system-running")} 2> /dev/null | grep -qE "running|degraded"`, 120)}`;

const show = async (p: BoardPair): Promise<Record<string, string>> => {
  const keys = "ActiveState,SubState,StatusText,NRestarts,Result,ExecMainStatus,Type";
  const text = await p.board.must(inRoot(`systemctl show -p ${keys} epnic`), 60_000);
  return Object.fromEntries(text.split("\n").map((l) => [l.slice(0, l.indexOf("=")), l.slice(l.indexOf("=") + 1)]));
};

async function expectState(p: BoardPair, what: string, want: Record<string, string>): Promise<void> {
  const now = await show(p);
  for (const [key, value] of Object.entries(want))
    if (now[key] !== value)
      throw new RigError(
        `${what}: ${key} is ${now[key]}, not ${value}\n${JSON.stringify(now)}\n${await p.board.must(inRoot("journalctl --no-pager -n 30 -u epnic"), 60_000)}`,
      );
}

async function traffic(p: BoardPair): Promise<void> {
  await ping(hostOf(p), boardOf(p), 3);
  await checkedTcp(hostOf(p), boardOf(p), 1);
  await checkedTcp(boardOf(p), hostOf(p), 1);
}

/** The host's driver is bound again: a clean stop has ended its life. */
const REBIND =
  "cd /sys/bus/virtio/drivers/virtio_net && v=$(ls -d virtio* | tail -n 1) && echo $v > unbind && echo $v > bind";

const LIVE = { ActiveState: "active", SubState: "running", Type: "notify" };

/** READY reached, restart after SIGKILL with both netdevs staying, restart, no JIT, stop. */
export async function boardSystemd(o: PairOptions): Promise<Findings> {
  const say = (text: string): void => console.error(`rig: ${text}`);
  const start = async (p: BoardPair): Promise<void> => {
    await p.board.must(BOOT, 180_000);
    await p.board.must(
      `${inRoot("systemctl start epnic")} || { ${inRoot("journalctl --no-pager -o cat -n 30 -u epnic")}; exit 1; }`,
      180_000,
    );
  };
  const options: PairOptions = {
    ...o,
    archives: [await fetchSystemd(say)],
    files: {
      "etc/epnic.service": { copy: join(repoDir, "fixtures/init/epnic.service") },
      "etc/epnic.modules": { copy: join(repoDir, "fixtures/init/epnic.modules-load") },
    },
    service: start,
  };
  return withPair(options, async (p, found) => {
    await expectState(p, "start", { ...LIVE, NRestarts: "0" });
    found.notes.push(
      `${await p.board.must(inRoot("systemctl --version | head -n 1"))}: READY, "${(await show(p)).StatusText}"`,
    );
    await traffic(p);
    const index = await p.board.must(`cat /sys/class/net/${BOARD_NETDEV}/ifindex`);
    await p.board.must(inRoot("systemctl kill -s KILL epnic"));
    await p.board.must(
      waitFor(
        `${inRoot("systemctl show -p NRestarts epnic")} | grep -q =1 && ${inRoot("systemctl is-active -q epnic")}`,
        120,
      ),
      180_000,
    );
    await p.host.must(waitFor("ping -q -c 1 -W 2 10.97.0.1 > /dev/null", 120), 180_000);
    await traffic(p);
    if ((await p.board.must(`cat /sys/class/net/${BOARD_NETDEV}/ifindex`)) !== index)
      throw new RigError("the board's netdev was made again after SIGKILL");
    found.notes.push("SIGKILL: started again by Restart=on-failure, both netdevs stayed, checked TCP both ways");

    await p.board.must(inRoot("systemctl restart epnic"), 180_000);
    await expectState(p, "restart", LIVE);
    await p.host.must(REBIND, 120_000);
    await p.hostUp();
    await traffic(p);
    found.notes.push("systemctl restart: active again; checked TCP after the host's driver was bound again");

    await p.board.must(inRoot("systemctl stop epnic"), 120_000);
    await expectState(p, "stop", { ActiveState: "inactive", Result: "success" });
    await p.board.must(`[ ! -e /sys/class/net/${BOARD_NETDEV} ] && [ -z "$(ls /dev/hugepages)" ]`);
    found.notes.push("systemctl stop: inactive, netdev gone, no hugepage file left");

    const dropIn = `${ROOT}/etc/systemd/system/epnic.service.d`;
    await p.board.must(
      `mkdir -p ${dropIn}; printf '[Service]\\nMemoryDenyWriteExecute=yes\\n' > ${dropIn}/jit.conf; ${inRoot("systemctl daemon-reload")}
       ${inRoot("systemctl start epnic")} && exit 1; true`,
      120_000,
    );
    await expectState(p, "without JIT", { ActiveState: "failed", NRestarts: "0" });
    const why = await p.board.must(inRoot("journalctl --no-pager -o cat -n 15 -u epnic"), 60_000);
    if (!/JIT/.test(why)) throw new RigError(`MemoryDenyWriteExecute: the journal does not name the JIT\n${why}`);
    found.notes.push(
      `MemoryDenyWriteExecute=yes: refused, not restarted: ${why.split("\n").find((l) => /JIT/.test(l))}`,
    );
  });
}
