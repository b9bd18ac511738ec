/**
 * What the arm64 scenarios take from Debian besides packages.ts: QEMU's arm64 machine and user emulator (programs of this
 * machine), and an arm64 userland and kernel (files of the emulated one). The arm64 packages come through a private apt
 * of that architecture; nothing is told to the machine's own dpkg.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Apt, RigError, run } from "./apt.ts";
import { KERNEL_MODULES } from "./board-packages.ts";
import { busybox, cacheDir, ensureDir, rootDir } from "./cache.ts";
import { fetchAll, KERNELS, type KernelName, unpackedPackages, whileLocked } from "./packages.ts";

/** bumped when the wanted packages or files change */
const RECIPE = 2;

const EMULATORS = ["qemu-system-arm", "qemu-user"];
const EMULATOR_PROGRAMS = ["usr/bin/qemu-system-aarch64", "usr/bin/qemu-aarch64"];
/** the packages hold the emulators of many more machines, half a gigabyte of them */
const EMULATOR_FILES = [...EMULATOR_PROGRAMS.map((p) => `*/${p}`), "*/usr/share/*", "*.so.*"];
/** libatomic1: the second back end of mem.ts */
const USERLAND = ["busybox-static", "iperf3", "ethtool", "iproute2", "libgcc-s1", "libatomic1"];
/** those of KERNELS that have VDUSE */
export const VDUSE_KERNELS: readonly KernelName[] = KERNELS.filter((k) => k !== "6.1");

const armDir = (): string => join(cacheDir(), "arm64");
/** QEMU for arm64, as far as the rig's own root does not have its packages */
export const emulatorRoot = (): string => join(armDir(), "emulator");
/** unpacked arm64 userland */
export const arm64Root = (): string => join(armDir(), "root");
/** Debian's arm64 kernels by page size: 4 KiB, 16 KiB */
export type Flavour = "" | "-16k";
/** vmlinuz and tree/lib/modules/RELEASE of a kernel */
export const arm64KernelDir = (kernel: KernelName, flavour: Flavour): string =>
  join(armDir(), "kernels", `${kernel}${flavour}`);

/** Command line of a program of emulatorRoot() that runs on this machine. */
export function emulator(program: string): string[] {
  const libs = [emulatorRoot(), rootDir()].map((r) => join(r, "usr/lib/x86_64-linux-gnu")).join(":");
  const loader = ["lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"]
    .map((p) => join(rootDir(), p))
    .find((p) => existsSync(p));
  if (loader === undefined)
    throw new RigError(`no dynamic loader in ${rootDir()}: run \`bun run rig fetch --refresh\``);
  return [loader, "--library-path", libs, join(emulatorRoot(), program)];
}

const done = (dir: string): boolean =>
  existsSync(join(dir, "stamp")) && readFileSync(join(dir, "stamp"), "utf8") === String(RECIPE);

const apts = new Map<string, Apt>();
async function apt(arch: "amd64" | "arm64"): Promise<Apt> {
  let a = apts.get(arch);
  if (a === undefined) {
    a = new Apt(`arm64-${arch}`, ["trixie", "trixie-updates", "trixie-backports"], ["trixie-security"], arch);
    await a.update();
    apts.set(arch, a);
  }
  return a;
}

/** @param only patterns of the wanted files; all without it */
async function unpack(a: Apt, specs: readonly string[], dir: string, only?: readonly string[]): Promise<void> {
  rmSync(dir, { recursive: true, force: true });
  ensureDir(dir);
  const patterns = only === undefined ? "" : `--wildcards ${only.map((p) => `'${p}'`).join(" ")} 2>/dev/null || true`;
  for (const deb of await a.downloadAll(specs)) {
    await run(["sh", "-c", `dpkg-deb --fsys-tarfile '${deb}' | tar -x -C '${dir}' ${patterns}`]);
    rmSync(deb);
  }
  writeFileSync(join(dir, "stamp"), String(RECIPE));
}

async function fetchEmulators(say: (text: string) => void): Promise<void> {
  if (done(emulatorRoot())) return;
  const a = await apt("amd64");
  const have = unpackedPackages();
  const specs = (await a.closure("trixie-backports", EMULATORS)).filter((s) => !have.includes(s));
  say(`arm64 emulators: ${specs.join(" ")}`);
  await unpack(a, specs, emulatorRoot(), EMULATOR_FILES);
  for (const p of EMULATOR_PROGRAMS)
    if (!existsSync(join(emulatorRoot(), p))) throw new RigError(`${p} is in none of ${specs.join(", ")}`);
}

async function fetchUserland(say: (text: string) => void): Promise<void> {
  if (done(arm64Root())) return;
  const a = await apt("arm64");
  const specs = await a.closure(null, USERLAND);
  say(`arm64 userland: ${specs.length} packages`);
  await unpack(a, specs, arm64Root());
  // the loader's and the C library's well-known path, which packages leave to the base system
  symlinkSync("usr/lib", join(arm64Root(), "lib"));
}

/** An arm64 kernel with the modules of a board. */
async function fetchArm64Kernel(kernel: KernelName, flavour: Flavour, say: (text: string) => void): Promise<void> {
  const dir = arm64KernelDir(kernel, flavour);
  if (done(dir)) return;
  const a = await apt("arm64");
  const target = kernel === "newest" ? "trixie-backports" : null;
  const name = `linux-image-arm64${flavour}`;
  const specs = (await a.closure(target, [name])).filter((s) => /^linux-(image|binary|modules|base)-\d/.test(s));
  const release = specs.map((s) => s.match(/^linux-image-(\d[^=]*)=/)?.[1]).find((r) => r !== undefined);
  if (release === undefined) throw new RigError(`${name} for ${kernel} names no kernel package`);
  rmSync(dir, { recursive: true, force: true });
  const tree = join(dir, "tree");
  mkdirSync(tree, { recursive: true });
  const wanted = [
    "*vmlinuz*",
    ...KERNEL_MODULES.map((w) => `*/modules/${release}/kernel/${w}`),
    `*/modules/${release}/modules.*`,
  ].map((p) => `'${p}'`);
  for (const spec of specs) {
    say(`arm64 kernel ${kernel}${flavour}: ${spec}`);
    const deb = await a.download(spec);
    // tar ends with 2 when a pattern matches nothing in this package; what is really missing shows below
    await run([
      "sh",
      "-c",
      `dpkg-deb --fsys-tarfile '${deb}' | tar -x -C '${tree}' --wildcards ${wanted.join(" ")} 2>/dev/null || true`,
    ]);
    rmSync(deb);
  }
  const vmlinuz = (await run(["find", tree, "-name", "vmlinuz*", "-type", "f"])).trim().split("\n")[0];
  if (!vmlinuz) throw new RigError(`the packages ${specs.join(", ")} hold no kernel image`);
  renameSync(vmlinuz, join(dir, "vmlinuz"));
  if (existsSync(join(tree, "usr/lib/modules"))) renameSync(join(tree, "usr/lib"), join(tree, "lib"));
  for (const d of ["usr", "boot"]) rmSync(join(tree, d), { recursive: true, force: true });
  const modules = join(tree, "lib/modules", release);
  if (!existsSync(modules)) throw new RigError(`the packages ${specs.join(", ")} hold no modules of ${release}`);
  await run(["sh", "-c", `find '${modules}' -name '*.ko.xz' | xargs -r xz -d`]);
  await run([busybox(), "depmod", "-b", tree, release]);
  writeFileSync(join(dir, "release"), release);
  writeFileSync(join(dir, "stamp"), String(RECIPE));
}

async function whole(say: (text: string) => void, work: () => Promise<void>): Promise<void> {
  await fetchAll([], { say });
  await whileLocked(say, work);
  // package lists are ~100 MB and only of use while fetching
  for (const a of apts.values()) rmSync(a.dir, { recursive: true, force: true });
  apts.clear();
}

/** What programs of arm64 need on this machine. Quick when it is there. */
export async function fetchArm64User(say: (text: string) => void): Promise<void> {
  if (done(emulatorRoot()) && done(arm64Root())) return;
  await whole(say, async () => {
    await fetchEmulators(say);
    await fetchUserland(say);
  });
}

/** Everything a board of arm64 needs. Quick when it is there. @returns the kernel's release */
export async function fetchArm64(
  kernel: KernelName,
  say: (text: string) => void,
  flavour: Flavour = "",
): Promise<string> {
  if (!VDUSE_KERNELS.includes(kernel))
    throw new RigError(`an arm64 board needs a kernel with VDUSE: ${VDUSE_KERNELS.join(" or ")}, not ${kernel}`);
  await fetchArm64User(say);
  const dir = arm64KernelDir(kernel, flavour);
  if (!done(dir)) await whole(say, () => fetchArm64Kernel(kernel, flavour, say));
  return readFileSync(join(dir, "release"), "utf8");
}
