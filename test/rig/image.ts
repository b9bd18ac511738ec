/**
 * Initramfs images: busybox, iperf3, ethtool with their libraries and the modules of one kernel. Built once a
 * kernel and kept in the cache; rebuilt when the init script or the recipe changes.
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
import { basename, join } from "node:path";
import { RigError, run } from "./apt.ts";
import { busybox, ensureDir, fromRoot, imageDir, kernelDir, rootDir } from "./cache.ts";
import type { KernelName } from "./packages.ts";

/** bumped when the contents change */
const RECIPE = 2;

/** Programs of the guest beside busybox, from the unpacked root. */
const programs = ["usr/bin/iperf3", "usr/sbin/ethtool"];

/** Libraries that are loaded by name at run time: glibc wants this one for pthread_cancel. */
const extraLibraries = ["usr/lib/x86_64-linux-gnu/libgcc_s.so.1"];

/** Shared libraries of a program, as the root's own loader resolves them. */
async function libraries(program: string): Promise<string[]> {
  const [loader, ...rest] = fromRoot(program);
  const out = await run([loader, "--list", ...rest]);
  return [...out.matchAll(/=> (\S+) \(/g)].map((m) => m[1]);
}

/** Modules of a kernel, decompressed, into `dir`. */
async function unpackModules(kernel: KernelName, dir: string): Promise<void> {
  const from = join(kernelDir(kernel), "modules");
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
export async function image(kernel: KernelName): Promise<string> {
  const init = readFileSync(join(import.meta.dir, "init.sh"));
  const stamp = `${RECIPE}-${Bun.hash(init).toString(16)}-${basename(readdirSync(kernelDir(kernel)).join())}`;
  const path = join(ensureDir(imageDir()), `${kernel}.cpio`);
  const stampPath = `${path}.stamp`;
  if (existsSync(path) && existsSync(stampPath) && readFileSync(stampPath, "utf8") === stamp) return path;
  const tree = join(imageDir(), `${kernel}.${process.pid}.tree`);
  const part = `${path}.${process.pid}.part`;
  rmSync(tree, { recursive: true, force: true });
  for (const d of ["bin", "rig", "modules", "lib64", "lib/x86_64-linux-gnu", "etc"])
    mkdirSync(join(tree, d), { recursive: true });
  copyFileSync(busybox(), join(tree, "bin/busybox"));
  symlinkSync("busybox", join(tree, "bin/sh"));
  copyFileSync(join(import.meta.dir, "init.sh"), join(tree, "init"));
  chmodSync(join(tree, "init"), 0o755);
  chmodSync(join(tree, "bin/busybox"), 0o755);
  copyFileSync(fromRoot("x")[0], join(tree, "lib64/ld-linux-x86-64.so.2"));
  for (const p of programs) {
    const full = existsSync(join(rootDir(), p)) ? p : p.replace("usr/", "");
    copyFileSync(join(rootDir(), full), join(tree, "rig", basename(p)));
    for (const lib of await libraries(full)) {
      const to = join(tree, "lib/x86_64-linux-gnu", basename(lib));
      if (!existsSync(to)) copyFileSync(lib, to);
    }
  }
  for (const lib of extraLibraries)
    copyFileSync(join(rootDir(), lib), join(tree, "lib/x86_64-linux-gnu", basename(lib)));
  await unpackModules(kernel, join(tree, "modules"));
  await run(["sh", "-c", `cd '${tree}' && find . | '${busybox()}' cpio -o -H newc > '${part}'`]);
  renameSync(part, path);
  writeFileSync(stampPath, stamp);
  rmSync(tree, { recursive: true, force: true });
  return path;
}
