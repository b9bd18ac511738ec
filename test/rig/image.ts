/**
 * Initramfs images: busybox, iperf3, ethtool with their libraries and the modules of one kernel. Built once a
 * kernel and architecture and kept in the cache; rebuilt when the init script or the recipe changes.
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { RigError, run } from "./apt.ts";
import { AMD64, type Arch } from "./arch.ts";
import { busybox, ensureDir, imageDir } from "./cache.ts";
import type { KernelName } from "./packages.ts";

/** bumped when the contents change */
const RECIPE = 4;

/** Programs of the guest beside busybox, from the unpacked root. */
const programs = ["usr/bin/iperf3", "usr/sbin/ethtool"];

/** Libraries that are loaded by name at run time: glibc wants this one for pthread_cancel. */
const extraLibraries = ["libgcc_s.so.1"];
/** the second back end of mem.ts, where the root has it */
const LIBATOMIC = "libatomic.so.1";

/**
 * Shared libraries of a program, as the loader of its architecture resolves them.
 * @param roots where to look for them, in this order
 */
export async function libraries(arch: Arch, program: string, roots: readonly string[]): Promise<string[]> {
  const paths = roots.flatMap((r) => [join(r, "usr/lib", arch.triplet), join(r, "lib", arch.triplet)]);
  const out = await run([...arch.runLoader(), "--library-path", paths.join(":"), "--list", program]);
  return [...out.matchAll(/=> (\S+) \(/g)].map((m) => m[1]);
}

/** Modules in `from`, decompressed, into `dir`. */
async function unpackModules(from: string, dir: string): Promise<void> {
  for (const file of readdirSync(from)) {
    const path = join(from, file);
    const [name] = file.split(".ko");
    const to = join(dir, `${name.replaceAll("-", "_")}.ko`);
    if (file.endsWith(".ko")) copyFileSync(path, to);
    else if (file.endsWith(".xz")) await run(["sh", "-c", `exec '${busybox()}' unxz -c '${path}' > '${to}'`]);
    else if (file.endsWith(".gz")) await run(["sh", "-c", `exec '${busybox()}' gunzip -c '${path}' > '${to}'`]);
    else throw new RigError(`module ${path}: no way to unpack it`);
  }
}

/** The image of a kernel. @returns its path */
export async function image(kernel: KernelName, arch: Arch = AMD64): Promise<string> {
  const init = readFileSync(join(import.meta.dir, "init.sh"));
  const modules = arch.flatModules(kernel);
  const kept = modules === null ? "" : readdirSync(modules).join();
  const stamp = `${RECIPE}-${Bun.hash(init).toString(16)}-${Bun.hash(kept).toString(16)}`;
  const name = modules === null ? arch.name : kernel;
  const path = join(ensureDir(imageDir()), `${name}.cpio`);
  const stampPath = `${path}.stamp`;
  if (existsSync(path) && existsSync(stampPath) && readFileSync(stampPath, "utf8") === stamp) return path;
  const tree = join(imageDir(), `${name}.${process.pid}.tree`);
  const part = `${path}.${process.pid}.part`;
  rmSync(tree, { recursive: true, force: true });
  const lib = join("lib", arch.triplet);
  for (const d of ["bin", "rig", "modules", dirname(arch.loader), lib, "etc"])
    mkdirSync(join(tree, d), { recursive: true });
  const root = arch.root();
  copyFileSync(join(root, "usr/bin/busybox"), join(tree, "bin/busybox"));
  symlinkSync("busybox", join(tree, "bin/sh"));
  copyFileSync(join(import.meta.dir, "init.sh"), join(tree, "init"));
  chmodSync(join(tree, "init"), 0o755);
  chmodSync(join(tree, "bin/busybox"), 0o755);
  copyFileSync(join(root, "usr", arch.loader), join(tree, arch.loader));
  for (const p of programs) {
    const program = [join(root, p), join(root, p.replace("usr/", ""))].find((f) => existsSync(f));
    if (program === undefined) throw new RigError(`${p} is not in ${root}: run \`bun run rig fetch --refresh\``);
    copyFileSync(program, join(tree, "rig", basename(p)));
    for (const from of await libraries(arch, program, [root])) {
      const to = join(tree, lib, basename(from));
      if (!existsSync(to)) copyFileSync(from, to);
    }
  }
  const atomic = existsSync(join(root, "usr/lib", arch.triplet, LIBATOMIC)) ? [LIBATOMIC] : [];
  for (const l of [...extraLibraries, ...atomic])
    copyFileSync(join(root, "usr/lib", arch.triplet, l), join(tree, lib, l));
  if (modules !== null) await unpackModules(modules, join(tree, "modules"));
  await run(["sh", "-c", `cd '${tree}' && find . | '${busybox()}' cpio -o -H newc > '${part}'`]);
  renameSync(part, path);
  writeFileSync(stampPath, stamp);
  rmSync(tree, { recursive: true, force: true });
  return path;
}
