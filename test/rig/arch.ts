/**
 * The two architectures of the rig's machines: where their unpacked files are, how a program of theirs is run on this
 * machine, and what QEMU has to be told to make one. Names and paths only.
 */
import { join } from "node:path";
import { arm64KernelDir, arm64Root, emulator, emulatorRoot } from "./arm64-packages.ts";
import { fromRoot, kernelDir, repoDir, rootDir } from "./cache.ts";
import type { KernelName } from "./packages.ts";

export interface Arch {
  readonly name: "amd64" | "arm64";
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
export const ARM64: Arch = {
  name: "arm64",
  triplet: "aarch64-linux-gnu",
  loader: "lib/ld-linux-aarch64.so.1",
  binary: join(repoDir, "dist/epnic-arm64"),
  buildName: "arm64",
  root: arm64Root,
  vmlinuz: (kernel) => join(arm64KernelDir(kernel), "vmlinuz"),
  flatModules: () => null,
  runLoader: () => [...emulator("usr/bin/qemu-aarch64"), join(arm64Root(), "usr/lib/ld-linux-aarch64.so.1")],
  qemu: () => [...emulator("usr/bin/qemu-system-aarch64"), ...folders([emulatorRoot(), rootDir()], ["usr/share/qemu"])],
  machine: ["-cpu", "cortex-a76", "-machine", "virt,gic-version=3,memory-backend=mem"],
  append: "console=ttyAMA0 rig.tty=ttyAMA1",
};
