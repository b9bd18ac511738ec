/**
 * What the rig takes from Debian: QEMU 11.1, guest kernels and a small userland. Idempotent: a manifest lists what
 * is complete; an interrupted fetch goes on with the package where it stopped.
 */
import { closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LOCK_EX, LOCK_NB, libc } from "../../src/hw/libc.ts";
import { Apt, RigError, run } from "./apt.ts";
import { cacheDir, ensureDir, kernelDir, rootDir } from "./cache.ts";

/** Bumped when the wanted packages or extracted files change. */
const RECIPE = 1;

export const KERNELS = ["6.1", "6.12", "newest"] as const;
export type KernelName = (typeof KERNELS)[number];

interface Manifest {
  recipe: number;
  /** packages unpacked so far, name=version */
  root: string[];
  rootDone: boolean;
  /** kernel release by rig name */
  kernels: Record<string, string>;
}

/** packages fetched by one call of apt; an interrupted fetch goes on behind the last whole batch */
const BATCH = 30;

const userland = ["qemu-system-x86", "busybox-static", "iperf3", "ethtool", "iproute2"];

/** Module files worth unpacking out of the ~100 MB a kernel has. */
const moduleNames = ["virtio*", "failover", "net_failover", "dw-edma*", "virt-dma", "dmatest", "pktgen"];

const manifestPath = (): string => join(cacheDir(), "manifest.json");

function load(): Manifest {
  const empty: Manifest = { recipe: RECIPE, root: [], rootDone: false, kernels: {} };
  if (!existsSync(manifestPath())) return empty;
  try {
    const m = JSON.parse(readFileSync(manifestPath(), "utf8")) as Manifest;
    return m.recipe === RECIPE ? m : empty;
  } catch {
    return empty;
  }
}

function save(m: Manifest): void {
  writeFileSync(`${manifestPath()}.tmp`, JSON.stringify(m, null, 1));
  renameSync(`${manifestPath()}.tmp`, manifestPath());
}

/** Packages in the unpacked root, name=version. */
export const unpackedPackages = (): readonly string[] => load().root;

const apts = new Map<string, Apt>();

async function apt(release: "bookworm" | "trixie"): Promise<Apt> {
  let a = apts.get(release);
  if (!a) {
    const suites = [release, `${release}-updates`];
    if (release === "trixie") suites.push("trixie-backports");
    a = new Apt(release, suites, [`${release}-security`]);
    await a.update();
    apts.set(release, a);
  }
  return a;
}

async function fetchRoot(m: Manifest, say: (text: string) => void): Promise<void> {
  if (m.rootDone) return;
  const a = await apt("trixie");
  const specs = await a.closure("trixie-backports", userland);
  const missing = specs.filter((s) => !m.root.includes(s));
  ensureDir(rootDir());
  for (let i = 0; i < missing.length; i += BATCH) {
    const batch = missing.slice(i, i + BATCH);
    say(`userland: packages ${i + 1} to ${i + batch.length} of ${missing.length}`);
    for (const deb of await a.downloadAll(batch)) {
      await run(["dpkg-deb", "-x", deb, rootDir()]);
      rmSync(deb);
    }
    m.root.push(...batch);
    save(m);
  }
  m.rootDone = true;
  save(m);
}

async function fetchKernel(m: Manifest, name: KernelName, say: (text: string) => void): Promise<void> {
  if (m.kernels[name] && existsSync(join(kernelDir(name), "vmlinuz"))) return;
  const a = await apt(name === "6.1" ? "bookworm" : "trixie");
  // no target release: security updates win, backports keep out (their own pin is 100)
  const target = name === "newest" ? "trixie-backports" : null;
  const specs = (await a.closure(target, ["linux-image-amd64"])).filter((s) =>
    /^linux-(image|binary|modules|base)-\d/.test(s),
  );
  if (specs.length === 0) throw new RigError(`linux-image-amd64 for ${name} names no kernel package`);
  const dir = `${kernelDir(name)}.part`;
  rmSync(dir, { recursive: true, force: true });
  ensureDir(dir);
  for (const spec of specs) {
    say(`kernel ${name}: ${spec}`);
    const deb = await a.download(spec);
    const wanted = ["*vmlinuz*", "*/modules.builtin", ...moduleNames.map((n) => `*/${n}.ko*`)];
    // tar ends with 2 when a pattern matches nothing in this package; what is really missing shows below
    const quoted = wanted.map((w) => `'${w}'`).join(" ");
    await run([
      "sh",
      "-c",
      `dpkg-deb --fsys-tarfile '${deb}' | tar -x -C '${dir}' --wildcards ${quoted} 2>/dev/null || true`,
    ]);
    rmSync(deb);
  }
  const list = (await run(["find", dir, "-type", "f"])).trim().split("\n");
  const vmlinuz = list.find((p) => /vmlinuz/.test(p));
  const builtin = list.find((p) => p.endsWith("modules.builtin"));
  const release = builtin?.match(/modules\/([^/]+)\/modules\.builtin$/)?.[1];
  if (!vmlinuz || !builtin || !release) throw new RigError(`the packages ${specs.join(", ")} hold no kernel image`);
  const modules = ensureDir(join(dir, "flat"));
  for (const p of list.filter((f) => /\.ko(\.xz|\.zst|\.gz)?$/.test(f)))
    renameSync(p, join(modules, p.slice(p.lastIndexOf("/") + 1)));
  renameSync(vmlinuz, join(dir, "vmlinuz.new"));
  renameSync(builtin, join(dir, "builtin.new"));
  for (const d of ["boot", "lib", "usr"]) rmSync(join(dir, d), { recursive: true, force: true });
  renameSync(join(dir, "vmlinuz.new"), join(dir, "vmlinuz"));
  renameSync(join(dir, "builtin.new"), join(dir, "modules.builtin"));
  renameSync(modules, join(dir, "modules"));
  rmSync(kernelDir(name), { recursive: true, force: true });
  renameSync(dir, kernelDir(name));
  m.kernels[name] = release;
  save(m);
}

/**
 * Make sure that QEMU, the userland and the named kernels are in the cache. Quick (no process, no network) when they are.
 * @returns kernel releases by rig name, for example { "6.12": "6.12.107+deb13-amd64" }
 * @throws RigError naming the mirror when it cannot be reached
 */
export async function fetchAll(
  kernels: readonly KernelName[],
  opts: { refresh?: boolean; say?: (text: string) => void } = {},
): Promise<Record<string, string>> {
  ensureDir(cacheDir());
  const say = opts.say ?? (() => {});
  if (opts.refresh)
    for (const d of ["manifest.json", "root", "kernels", "images", "arm64"])
      rmSync(join(cacheDir(), d), { recursive: true, force: true });
  let m = load();
  const complete =
    m.rootDone && kernels.every((k) => m.kernels[k] !== undefined && existsSync(join(kernelDir(k), "vmlinuz")));
  if (complete) return m.kernels;
  await whileLocked(say, () => {
    m = load();
    return fetchMissing(m, kernels, say);
  });
  return m.kernels;
}

/** Do `work` while no other rig fetches; what it brought is to be looked at in there. */
export async function whileLocked<T>(say: (text: string) => void, work: () => Promise<T>): Promise<T> {
  const lock = openSync(join(ensureDir(cacheDir()), "lock"), "w");
  try {
    if (libc.flock(lock, LOCK_EX | LOCK_NB) !== 0) {
      say("waiting for another rig that fetches");
      libc.flock(lock, LOCK_EX);
    }
    return await work();
  } finally {
    closeSync(lock);
  }
}

async function fetchMissing(m: Manifest, kernels: readonly KernelName[], say: (text: string) => void): Promise<void> {
  await fetchRoot(m, say);
  for (const k of kernels) await fetchKernel(m, k, say);
  // package lists are ~100 MB and only of use while fetching
  if (apts.size > 0) rmSync(join(cacheDir(), "apt"), { recursive: true, force: true });
  apts.clear();
}
