/**
 * The two architectures of the rig's machines: where their unpacked files are and what fetches them, how a program of theirs is
 * run on this machine, and what QEMU has to be told to make one.
 */
import { join } from "node:path";
import { arm64KernelDir, arm64Root, emulator, emulatorRoot, type Flavour, fetchArm64 } from "./arm64-packages.ts";
import { fetchModules, moduleTree } from "./board-packages.ts";
import { fromRoot, kernelDir, repoDir, rootDir } from "./cache.ts";
import { fetchAll, type KernelName } from "./packages.ts";

export interface Arch {
  /** names cached images */
  readonly name: "amd64" | "arm64" | "arm64-16k";
  /** Debian's multiarch folder */
  readonly triplet: string;
  /** where its programs look for the dynamic loader, without the leading slash */
  readonly loader: string;
  /** the compiled program and its name for .ci/build.ts */
  readonly binary: string;
  readonly buildName: "x64" | "arm64";
  /** unpacked userland */
  root(): string;
  vmlinuz(kernel: KernelName): string;
  /** Have a board's kernel and modules in the cache. @returns its release */
  fetchBoard(kernel: KernelName, say: (text: string) => void): Promise<string>;
  /** lib/modules/RELEASE of a board below it */
  moduleTree(kernel: KernelName): string;
  /** modules of a kernel in one folder, to be loaded by insmod; null where the rig keeps only a tree for modprobe */
  flatModules(kernel: KernelName): string | null;
  /** command line of its dynamic loader on this machine */
  runLoader(): string[];
  /** QEMU of this machine, with its folders */
  qemu(): string[];
  /** QEMU's arguments for processor and board; the memory back end is named "mem" */
  readonly machine: readonly string[];
  /** kernel arguments: console on the first serial line, rig.tty names the second */
  readonly append: string;
}

const folders = (roots: readonly string[], names: readonly string[]): string[] =>
  roots.flatMap((r) => names.flatMap((n) => ["-L", join(r, n)]));

export const AMD64: Arch = {
  name: "amd64",
  triplet: "x86_64-linux-gnu",
  loader: "lib64/ld-linux-x86-64.so.2",
  binary: join(repoDir, "dist/epnic"),
  buildName: "x64",
  root: rootDir,
  vmlinuz: (kernel) => join(kernelDir(kernel), "vmlinuz"),
  fetchBoard: async (kernel, say) => {
    const release = (await fetchAll([kernel], { say }))[kernel]!;
    await fetchModules(kernel, release, say);
    return release;
  },
  moduleTree,
  flatModules: (kernel) => join(kernelDir(kernel), "modules"),
  runLoader: () => [fromRoot("x")[0]!],
  qemu: () => [
    ...fromRoot("usr/bin/qemu-system-x86_64"),
    ...folders([rootDir()], ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"]),
  ],
  machine: ["-cpu", "max", "-machine", "q35,memory-backend=mem"],
  append: "console=ttyS0 no_timer_check rig.tty=ttyS1",
};

/** QEMU's `virt` board as a small server has it: GICv3, PCIe with its registers and large BARs above memory. */
const arm64 = (flavour: Flavour): Arch => ({
  name: `arm64${flavour}`,
  triplet: "aarch64-linux-gnu",
  loader: "lib/ld-linux-aarch64.so.1",
  binary: join(repoDir, "dist/epnic-arm64"),
  buildName: "arm64",
  root: arm64Root,
  vmlinuz: (kernel) => join(arm64KernelDir(kernel, flavour), "vmlinuz"),
  fetchBoard: (kernel, say) => fetchArm64(kernel, say, flavour),
  moduleTree: (kernel) => join(arm64KernelDir(kernel, flavour), "tree"),
  flatModules: () => null,
  runLoader: () => [...emulator("usr/bin/qemu-aarch64"), join(arm64Root(), "usr/lib/ld-linux-aarch64.so.1")],
  qemu: () => [...emulator("usr/bin/qemu-system-aarch64"), ...folders([emulatorRoot(), rootDir()], ["usr/share/qemu"])],
  machine: ["-cpu", "cortex-a76", "-machine", "virt,gic-version=3,memory-backend=mem"],
  append: "console=ttyAMA0 rig.tty=ttyAMA1",
});

export const ARM64 = arm64("");
/** the same machine with a kernel whose pages have 16 KiB */
export const ARM64_16K = arm64("-16k");
