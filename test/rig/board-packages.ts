/**
 * What the board scenarios take from Debian beyond packages.ts: the modules of a board's kernel (VDUSE, vdpa bus, TUN,
 * UIO, RoCE) as a tree that modprobe understands, and the RDMA tools. Kept beside the rig's own cache entries.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Apt, RigError, run } from "./apt.ts";
import { busybox, cacheDir, ensureDir } from "./cache.ts";
import type { KernelName } from "./packages.ts";

/** bumped when the wanted packages or modules change */
const RECIPE = 2;

/** modules of a board by path pattern below kernel/ */
export const KERNEL_MODULES = [
  "drivers/vdpa/*",
  "drivers/vhost/vhost_iotlb*",
  "drivers/virtio/*",
  "drivers/net/virtio_net*",
  "drivers/net/net_failover*",
  "drivers/net/tun*",
  "drivers/net/veth*",
  "drivers/uio/*",
  "drivers/infiniband/core/*",
  "drivers/infiniband/sw/rxe/*",
  "net/core/failover*",
  "net/ipv4/udp_tunnel*",
  "net/ipv6/ip6_udp_tunnel*",
  "fs/configfs/*",
  "lib/*",
  "crypto/*",
  "arch/*/crypto/*",
];

const RDMA_TOOLS = ["rdmacm-utils", "perftest", "ibverbs-providers", "ibverbs-utils"];

const dirOf = (kernel: KernelName): string => join(cacheDir(), "board", kernel);
/** lib/modules/RELEASE below it, with modules.dep */
export const moduleTree = (kernel: KernelName): string => join(dirOf(kernel), "tree");
/** unpacked RDMA userland */
export const rdmaRoot = (): string => join(cacheDir(), "board", "rdma-root");

/**
 * Make sure that the modules of `release` are there. Quick when they are.
 * @throws RigError when the mirror cannot be reached or has another version by now
 */
export async function fetchModules(kernel: KernelName, release: string, say: (text: string) => void): Promise<void> {
  const stamp = join(dirOf(kernel), "stamp");
  const text = `${RECIPE} ${release}`;
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === text) return;
  const apt = await boardApt();
  const names = [`linux-image-${release}`, `linux-modules-${release}`];
  const tree = moduleTree(kernel);
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(tree, { recursive: true });
  // From 7.x on the modules are in a package of their own.
  const specs = (await apt.closure("trixie-backports", [names[0]!])).filter((s) => names.includes(s.split("=")[0]!));
  const spec = specs.find((s) => s.startsWith("linux-modules")) ?? specs[0];
  if (spec === undefined)
    throw new RigError(`no package holds the modules of ${release}: run \`bun run rig fetch --refresh\``);
  say(`modules of ${release}: ${spec}`);
  const deb = await apt.download(spec);
  const patterns = [...KERNEL_MODULES.map((w) => `*/modules/${release}/kernel/${w}`), `*/modules/${release}/modules.*`]
    .map((p) => `'${p}'`)
    .join(" ");
  await run([
    "sh",
    "-c",
    `dpkg-deb --fsys-tarfile '${deb}' | tar -x -C '${tree}' --wildcards ${patterns} 2>/dev/null || true`,
  ]);
  rmSync(deb);
  if (existsSync(join(tree, "usr/lib/modules"))) renameSync(join(tree, "usr/lib"), join(tree, "lib"));
  rmSync(join(tree, "usr"), { recursive: true, force: true });
  const modules = join(tree, "lib/modules", release);
  if (!existsSync(modules)) throw new RigError(`${spec} holds no modules of ${release}`);
  await run(["sh", "-c", `find '${modules}' -name '*.ko.xz' | xargs -r xz -d`]);
  await run([busybox(), "depmod", "-b", tree, release]);
  writeFileSync(stamp, text);
}

/** Make sure that rping and perftest are there. */
export async function fetchRdma(say: (text: string) => void): Promise<void> {
  const root = rdmaRoot();
  const stamp = join(root, "stamp");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === String(RECIPE)) return;
  const apt = await boardApt();
  const specs = await apt.closure(null, RDMA_TOOLS);
  rmSync(root, { recursive: true, force: true });
  ensureDir(root);
  for (const [i, spec] of specs.entries()) {
    say(`RDMA tools ${i + 1}/${specs.length}: ${spec}`);
    const deb = await apt.download(spec);
    await run(["dpkg-deb", "-x", deb, root]);
    rmSync(deb);
  }
  writeFileSync(stamp, String(RECIPE));
}

let made: Apt | null = null;
async function boardApt(): Promise<Apt> {
  if (made === null) {
    made = new Apt("board", ["trixie", "trixie-updates", "trixie-backports"], ["trixie-security"]);
    await made.update();
  }
  return made;
}
