/**
 * Where the rig keeps what it fetched: one folder, git-ignored, safe to delete. Names of paths only; packages.ts
 * fills it, image.ts and guest.ts read it.
 */
import { existsSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";

const repo = resolve(import.meta.dir, "../..");

/** EPNIC_RIG_CACHE, else $XDG_CACHE_HOME/epnic-rig, else <repo>/.cache/rig */
export function cacheDir(): string {
  const env = process.env.EPNIC_RIG_CACHE;
  const xdg = process.env.XDG_CACHE_HOME;
  return env ? resolve(env) : xdg ? join(resolve(xdg), "epnic-rig") : join(repo, ".cache", "rig");
}

export const repoDir = repo;
/** unpacked Debian 13 userland: QEMU, busybox, iperf3, ethtool, ip and their libraries */
export const rootDir = (): string => join(cacheDir(), "root");
/** one folder a kernel: vmlinuz and modules/ */
export const kernelDir = (kernel: string): string => join(cacheDir(), "kernels", kernel);
export const imageDir = (): string => join(cacheDir(), "images");
export const logDir = (): string => join(cacheDir(), "logs");

export function ensureDir(path: string): string {
  if (!existsSync(path)) mkdirSync(path, { recursive: true });
  return path;
}

/** The dynamic loader of the unpacked root with its library path: prefix of every command run from there. */
export function fromRoot(program: string): string[] {
  const root = rootDir();
  const libs = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map((d) => join(root, d)).join(":");
  const loader = ["lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"]
    .map((p) => join(root, p))
    .find((p) => existsSync(p));
  if (!loader) throw new Error(`no dynamic loader in ${root}: run \`bun run rig fetch --refresh\``);
  return [loader, "--library-path", libs, join(root, program)];
}

/** busybox is static and needs no loader. */
export function busybox(): string {
  const path = ["usr/bin/busybox", "bin/busybox"].map((p) => join(rootDir(), p)).find((p) => existsSync(p));
  if (!path) throw new Error(`no busybox in ${rootDir()}: run \`bun run rig fetch --refresh\``);
  return path;
}
