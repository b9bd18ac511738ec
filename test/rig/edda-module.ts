/**
 * Builds the kernel's own dw-edma driver, which Debian's configuration leaves out, as modules for the rig's 6.1 kernel:
 * unchanged sources from Debian's linux-source package, headers of exactly that kernel, and our test client beside
 * it. Everything lands in the cache folder; the compiler is the machine's.
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Apt, RigError, run } from "./apt.ts";
import { busybox, cacheDir, ensureDir } from "./cache.ts";
import { image } from "./image.ts";

const CLIENT = join(import.meta.dir, "edda-client");
const dir = (): string => join(cacheDir(), "edda");
const tree = (): string => join(dir(), "tree");
/** the module files, named as insmod's user expects them in the guest */
const MODULES = ["dw-edma", "dw-edma-pcie", "edda_client"] as const;

/** Headers, kbuild and driver source of `release` ("6.1.0-56-amd64"). */
async function fetchSources(release: string, say: (text: string) => void): Promise<void> {
  const stamp = join(dir(), "stamp");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === release) return;
  rmSync(tree(), { recursive: true, force: true });
  mkdirSync(tree(), { recursive: true });
  // beside the folder that packages.ts removes when it is done
  const apt = new Apt("../edda/apt", ["bookworm", "bookworm-updates"], ["bookworm-security"]);
  await apt.update();
  const headers = `linux-headers-${release}`;
  const series = release.split(".").slice(0, 2).join(".");
  const specs = (await apt.closure(null, [headers])).filter((s) => /^linux-(headers|kbuild)-/.test(s));
  const version = specs.find((s) => s.startsWith(`${headers}=`))?.split("=")[1];
  if (version === undefined) throw new RigError(`no package ${headers}: run \`bun run rig fetch --refresh\``);
  for (const spec of specs) {
    say(spec);
    await run(["dpkg-deb", "-x", await apt.download(spec), tree()]);
  }
  const source = `linux-source-${series}`;
  say(`${source}=${version}`);
  const deb = await apt.download(`${source}=${version}`);
  const files = ["dw-edma/*", "virt-dma.h", "dmaengine.h"].map((f) => `'${source}/drivers/dma/${f}'`).join(" ");
  await run([
    "sh",
    "-c",
    `dpkg-deb --fsys-tarfile '${deb}' | tar -xO ./usr/src/${source}.tar.xz | tar -xJ -C '${tree()}' --wildcards ${files}`,
  ]);
  rmSync(apt.dir, { recursive: true, force: true });
  // the headers' Makefile names its other half by absolute path
  const makefile = join(tree(), "usr/src", headers, "Makefile");
  writeFileSync(makefile, readFileSync(makefile, "utf8").replace("/usr/src/", `${join(tree(), "usr/src")}/`));
  writeFileSync(stamp, release);
}

async function make(release: string, folder: string, more: string[]): Promise<void> {
  await run([
    "make",
    "-s",
    "-C",
    join(tree(), "usr/src", `linux-headers-${release}`),
    `M=${folder}`,
    ...more,
    "modules",
  ]);
}

/**
 * An initramfs for kernel 6.1 with the driver and the client in /modules. The first call fetches 150 MB and compiles.
 * @throws RigError naming the tool that is missing or the step that failed
 */
export async function eddaImage(release: string, say: (text: string) => void): Promise<string> {
  for (const tool of ["make", "gcc-12"])
    if (Bun.which(tool) === null) throw new RigError(`${tool} is missing: apt-get install make gcc-12`);
  await fetchSources(release, say);
  const source = readdirSync(tree()).find((n) => n.startsWith("linux-source-")) as string;
  const driver = join(tree(), source, "drivers/dma/dw-edma");
  if (!existsSync(join(driver, "dw-edma-pcie.ko"))) {
    say("building dw-edma");
    await make(release, driver, [
      "CONFIG_DW_EDMA=m",
      "CONFIG_DW_EDMA_PCIE=m",
      "KCFLAGS=-DCONFIG_DW_EDMA_MODULE=1 -DCONFIG_DW_EDMA_PCIE_MODULE=1",
    ]);
  }
  const client = ensureDir(join(dir(), "client"));
  for (const f of readdirSync(CLIENT)) copyFileSync(join(CLIENT, f), join(client, f));
  await make(release, client, []);
  const extra = join(dir(), "extra");
  rmSync(extra, { recursive: true, force: true });
  mkdirSync(join(extra, "modules"), { recursive: true });
  for (const m of MODULES)
    copyFileSync(join(m === "edda_client" ? client : driver, `${m}.ko`), join(extra, "modules", `${m}.ko`));
  const path = join(dir(), "initramfs.cpio");
  // the kernel unpacks archives that follow each other
  await run([
    "sh",
    "-c",
    `cat '${await image("6.1")}' > '${path}' && cd '${extra}' && find . | '${busybox()}' cpio -o -H newc >> '${path}'`,
  ]);
  return path;
}
