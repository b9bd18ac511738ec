/**
 * The file system of an emulated board: the rig's initramfs (image.ts) with further archives behind it, as the kernel
 * unpacks them one over the other. One has the board's modules, `ip`, `rdma` and the RDMA tools with their libraries and is
 * kept in the cache; the other has epnic itself with its init script and is made for each run.
 */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { run } from "./apt.ts";
import { AMD64, type Arch } from "./arch.ts";
import { fetchRdma, rdmaRoot } from "./board-packages.ts";
import { busybox, cacheDir, ensureDir, repoDir } from "./cache.ts";
import { image, libraries } from "./image.ts";
import type { KernelName } from "./packages.ts";

/** bumped when the contents change */
const RECIPE = 3;

/** what the compiled program is linked to, besides what the base image has */
const LIBRARIES = ["libpthread.so.0", "libdl.so.2", "librt.so.1", "libm.so.6"];
const RDMA = [
  "usr/bin/rping",
  "usr/bin/ib_send_bw",
  "usr/bin/ib_write_bw",
  "usr/bin/ib_read_lat",
  "usr/bin/ibv_devices",
];

async function pack(tree: string, path: string): Promise<void> {
  await run(["sh", "-c", `cd '${tree}' && find . | '${busybox()}' cpio -o -H newc > '${path}.part' 2>/dev/null`]);
  renameSync(`${path}.part`, path);
  rmSync(tree, { recursive: true, force: true });
}

/** A program with its libraries, found in `roots` in this order. */
async function install(arch: Arch, tree: string, program: string, roots: readonly string[]): Promise<void> {
  const found = roots.map((r) => join(r, program)).find((p) => existsSync(p));
  if (found === undefined) throw new Error(`${program} is in none of ${roots.join(", ")}`);
  copyFileSync(found, join(tree, "rig", basename(program)));
  for (const lib of await libraries(arch, found, roots)) {
    const at = join(tree, "lib", arch.triplet, basename(lib));
    if (!existsSync(at)) copyFileSync(lib, at);
  }
}

async function installRdma(arch: Arch, tree: string): Promise<void> {
  for (const p of ["usr/bin/rdma", ...RDMA]) await install(arch, tree, p, [rdmaRoot(), arch.root()]);
  // ibverbs finds its provider by a file in /etc and a library beside libibverbs
  mkdirSync(join(tree, "etc/libibverbs.d"), { recursive: true });
  copyFileSync(join(rdmaRoot(), "etc/libibverbs.d/rxe.driver"), join(tree, "etc/libibverbs.d/rxe.driver"));
  const plugins = join("lib", arch.triplet, "libibverbs");
  cpSync(join(rdmaRoot(), "usr", plugins), join(tree, plugins), { recursive: true, dereference: true });
}

/** The RDMA tools are for amd64 only. */
async function tools(kernel: KernelName, release: string, arch: Arch, say: (text: string) => void): Promise<string> {
  const rdma = arch === AMD64;
  await arch.fetchBoard(kernel, say);
  if (rdma) await fetchRdma(say);
  const dir = ensureDir(join(cacheDir(), "board", "images"));
  const path = join(dir, `${rdma ? "" : `${arch.name}-`}${kernel}.cpio`);
  const stamp = `${RECIPE} ${release}`;
  if (existsSync(path) && existsSync(`${path}.stamp`) && readFileSync(`${path}.stamp`, "utf8") === stamp) return path;
  const tree = `${path}.tree`;
  const lib = join("lib", arch.triplet);
  rmSync(tree, { recursive: true, force: true });
  for (const d of ["rig", lib, "lib/modules"]) mkdirSync(join(tree, d), { recursive: true });
  cpSync(join(arch.moduleTree(kernel), "lib/modules", release), join(tree, "lib/modules", release), {
    recursive: true,
  });
  await install(arch, tree, "usr/bin/ip", [arch.root()]);
  if (rdma) await installRdma(arch, tree);
  for (const l of LIBRARIES) copyFileSync(join(arch.root(), "usr", lib, l), join(tree, lib, l));
  await pack(tree, path);
  writeFileSync(`${path}.stamp`, stamp);
  return path;
}

/** Files of the board besides the tools: path in the board -> path here, or text. */
export interface BoardFiles {
  readonly [path: string]: { readonly copy: string } | { readonly text: string };
}

/**
 * The initramfs of a board or host with the tools, and with `files`.
 * @param to where it is written
 */
export async function boardImage(
  kernel: KernelName,
  release: string,
  files: BoardFiles,
  to: string,
  say: (text: string) => void,
  arch: Arch = AMD64,
): Promise<string> {
  const parts = [await image(kernel, arch), await tools(kernel, release, arch, say)];
  if (Object.keys(files).length > 0) {
    const tree = `${to}.tree`;
    rmSync(tree, { recursive: true, force: true });
    for (const [path, source] of Object.entries(files)) {
      const at = join(tree, path);
      mkdirSync(dirname(at), { recursive: true });
      if ("copy" in source) copyFileSync(source.copy, at);
      else writeFileSync(at, source.text);
      chmodSync(at, 0o755);
    }
    await pack(tree, `${to}.own`);
    parts.push(`${to}.own`);
  }
  // archives begin at multiples of 4 bytes; cpio pads to 512
  await run(["sh", "-c", `cat ${parts.map((p) => `'${p}'`).join(" ")} > '${to}'`]);
  rmSync(`${to}.own`, { force: true });
  return to;
}

/**
 * The compiled program: $EPNIC_BIN (amd64) or $EPNIC_ARM64_BIN, else the one in dist, built when it is not there.
 */
export async function boardBinary(arch: Arch = AMD64): Promise<string> {
  const path = (arch === AMD64 ? process.env.EPNIC_BIN : process.env.EPNIC_ARM64_BIN) ?? arch.binary;
  if (!existsSync(path)) await run([process.execPath, join(repoDir, ".ci/build.ts"), "--only", arch.buildName]);
  return path;
}
