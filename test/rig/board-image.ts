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
import { fetchModules, fetchRdma, moduleTree, rdmaRoot } from "./board-packages.ts";
import { busybox, cacheDir, ensureDir, fromRoot, repoDir, rootDir } from "./cache.ts";
import { image } from "./image.ts";
import type { KernelName } from "./packages.ts";

/** bumped when the contents change */
const RECIPE = 3;

const LIB = "lib/x86_64-linux-gnu";
const TOOLS = ["usr/bin/ip", "usr/bin/rdma"];
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
async function install(tree: string, program: string, roots: readonly string[], to: string): Promise<void> {
  const found = roots.map((r) => join(r, program)).find((p) => existsSync(p));
  if (found === undefined) throw new Error(`${program} is in none of ${roots.join(", ")}`);
  copyFileSync(found, join(tree, to, basename(program)));
  const [loader] = fromRoot("x");
  const paths = roots.flatMap((r) => [join(r, "usr", LIB), join(r, LIB)]).join(":");
  const out = await run([loader!, "--library-path", paths, "--list", found]);
  for (const [, lib] of out.matchAll(/=> (\S+) \(/g)) {
    const at = join(tree, LIB, basename(lib!));
    if (!existsSync(at)) copyFileSync(lib!, at);
  }
}

async function tools(kernel: KernelName, release: string, say: (text: string) => void): Promise<string> {
  await fetchModules(kernel, release, say);
  await fetchRdma(say);
  const dir = ensureDir(join(cacheDir(), "board", "images"));
  const path = join(dir, `${kernel}.cpio`);
  const stamp = `${RECIPE} ${release}`;
  if (existsSync(path) && existsSync(`${path}.stamp`) && readFileSync(`${path}.stamp`, "utf8") === stamp) return path;
  const tree = join(dir, `${kernel}.tree`);
  rmSync(tree, { recursive: true, force: true });
  for (const d of ["rig", LIB, "lib/modules", "etc/libibverbs.d"]) mkdirSync(join(tree, d), { recursive: true });
  cpSync(join(moduleTree(kernel), "lib/modules", release), join(tree, "lib/modules", release), { recursive: true });
  for (const p of TOOLS) await install(tree, p, [rootDir()], "rig");
  for (const p of RDMA) await install(tree, p, [rdmaRoot(), rootDir()], "rig");
  for (const lib of LIBRARIES) copyFileSync(join(rootDir(), "usr", LIB, lib), join(tree, LIB, lib));
  // ibverbs finds its provider by a file in /etc and a library beside libibverbs
  copyFileSync(join(rdmaRoot(), "etc/libibverbs.d/rxe.driver"), join(tree, "etc/libibverbs.d/rxe.driver"));
  cpSync(join(rdmaRoot(), "usr", LIB, "libibverbs"), join(tree, "usr", LIB, "libibverbs"), {
    recursive: true,
    dereference: true,
  });
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
): Promise<string> {
  const parts = [await image(kernel), await tools(kernel, release, say)];
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

/** The compiled program: $EPNIC_BIN or dist/epnic, built when it is not there. */
export async function boardBinary(): Promise<string> {
  const path = process.env.EPNIC_BIN ?? join(repoDir, "dist/epnic");
  if (!existsSync(path)) await run([process.execPath, join(repoDir, ".ci/build.ts"), "--only", "x64"]);
  return path;
}
