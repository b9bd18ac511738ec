/**
 * Scenario `arm64-unit`: tests of src/hw on an arm64 machine with Debian's arm64 kernel. The compiled epnic holds a whole
 * Bun, which BUN_BE_BUN=1 brings to the fore, so the tests' own sources run there as they are: access widths of both back ends of
 * mem.ts, wait loops once optimised, structures of the C library, hugepages and pagemap, TAPs.
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { RigError } from "./apt.ts";
import type { Arch } from "./arch.ts";
import { type BoardFiles, boardBinary, boardImage } from "./board-image.ts";
import { logDir, repoDir } from "./cache.ts";
import { emptyFindings, type Findings } from "./checks.ts";
import { Guest } from "./guest.ts";
import type { KernelName } from "./packages.ts";

/** what the tests read; nothing of it needs a package of node_modules */
const SOURCES = [
  "src/**/*.ts",
  "test/hw/**/*.ts",
  "test/support/**/*.ts",
  "fixtures/**/*",
  "package.json",
  "tsconfig.json",
  "bunfig.toml",
];

/** those whose result depends on the machine; the rest computes */
const TESTS = ["mem", "libc", "vduse", "dma-hugepage", "affinity", "tap"];

/** Reads a register of QEMU's edu device through resource0 as `run` does, at the offset that is given. */
const REGISTER = `import { ld32 } from "/epnic/src/hw/mem.ts";
import { mapResource } from "/epnic/src/hw/resource.ts";
const [device, offset] = process.argv.slice(2);
console.log("register", ld32(mapResource(device, 0, 0, 4096).ptr + Number(offset)).toString(16));`;

/** A register is read in one access of 32 bits (the device answers no other), and it is Device memory: unaligned is SIGBUS. */
async function registers(guest: Guest): Promise<string> {
  await guest.must(`cat > /epnic/register.ts <<'EOT'\n${REGISTER}\nEOT`);
  const at = (offset: number): string =>
    `d=$(grep -l 0x11e8 /sys/bus/pci/devices/*/device); d=\${d%/device}; echo 1 > $d/enable; BUN_BE_BUN=1 timeout 60 /usr/bin/epnic /epnic/register.ts $d ${offset} 2>&1`;
  const aligned = await guest.must(at(0), 90_000);
  if (!/^register 10000ed$/m.test(aligned))
    throw new RigError(`arm64-unit: the device's identification should be 10000ed\n${aligned}`);
  const { status, text } = await guest.sh(at(1), 90_000);
  if (status === 0 || /^register/m.test(text))
    throw new RigError(
      `arm64-unit: an unaligned load of a register was let through: the BAR is no Device memory\n${text}`,
    );
  return `registers by resource0: 32-bit load right, unaligned load ends the process (status ${status})`;
}

/** The tests that are run, with their counts. @throws RigError when one fails */
export async function arm64Unit(kernel: KernelName, arch: Arch): Promise<Findings> {
  const found = emptyFindings();
  const say = (text: string): void => console.error(`rig: ${text}`);
  const release = await arch.fetchBoard(kernel, say);
  const dir = join(logDir(), `${arch.name}-unit-${kernel}-${process.pid}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const files: Record<string, BoardFiles[string]> = { "usr/bin/epnic": { copy: await boardBinary(arch) } };
  for (const glob of SOURCES)
    for (const f of new Bun.Glob(glob).scanSync({ cwd: repoDir, dot: true }))
      files[join("epnic", f)] = { copy: join(repoDir, f) };
  const initrd = await boardImage(kernel, release, files, join(dir, "board.cpio"), say, arch);
  const guest = new Guest({
    kernel,
    arch,
    dir,
    socket: null,
    memoryMiB: 1536,
    load: [],
    append: "hugepagesz=2M hugepages=64",
    qemu: ["-smp", "2", "-initrd", initrd, "-device", "edu"],
  });
  let passed = 0;
  try {
    await guest.start(240_000);
    await guest.must(
      "modprobe -a vduse virtio_vdpa virtio_net tun uio_pci_generic; mkdir -p /run/netns && ln -s /rig/ip /usr/bin/ip",
      60_000,
    );
    found.notes.push(await registers(guest));
    for (const name of TESTS) {
      const command = `cd /epnic && PATH=/rig:/bin:/usr/bin BUN_BE_BUN=1 timeout 280 /usr/bin/epnic test --timeout 100000 ./test/hw/${name}.test.ts 2>&1`;
      const { status, text } = await guest.sh(command, 300_000);
      const count = (what: string): number => Number(text.match(new RegExp(`^ *(\\d+) ${what}$`, "m"))?.[1] ?? 0);
      if (status !== 0 || count("fail") > 0 || count("pass") === 0)
        throw new RigError(`arm64-unit: ${name}.test.ts ended with ${status}\n${text.slice(-3000)}`);
      passed += count("pass");
      for (const line of text.split("\n").filter((l) => /^(skipped|not tried):/.test(l)))
        found.notes.push(`${name}: ${line}`);
    }
  } finally {
    await guest.close();
    rmSync(join(dir, "board.cpio"), { force: true });
  }
  rmSync(dir, { recursive: true, force: true });
  found.notes.unshift(`${release}: ${passed} tests of ${TESTS.length} files passed (${TESTS.join(" ")})`);
  return found;
}
