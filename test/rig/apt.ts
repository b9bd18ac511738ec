/**
 * A private apt: its own state, cache, sources and empty package database, so that packages of other Debian
 * releases can be fetched and verified without touching the machine. The mirror and the proxy settings are the
 * machine's own.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDir, ensureDir } from "./cache.ts";

export interface Mirror {
  main: string;
  security: string | null;
  keyring: string;
}

export class RigError extends Error {}

/** Run a command, return its output. @throws RigError with command, status and the tail of its messages */
export async function run(cmd: string[], opts: { cwd?: string; env?: Record<string, string> } = {}): Promise<string> {
  const child = Bun.spawn(cmd, {
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
    env: { ...process.env, ...opts.env },
    ...(opts.cwd ? { cwd: opts.cwd } : {}),
  });
  const [out, err, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (status !== 0) {
    const tail = err.trim().split("\n").slice(-8).join("\n");
    throw new RigError(`${cmd.slice(0, 4).join(" ")} ... ended with ${status}:\n${tail}`);
  }
  return out;
}

interface Stanza {
  uri: string;
  suites: string[];
  keyring: string | null;
}

/** Both source formats (sources.list(5)): one line a source, and deb822 stanzas. */
export function parseSources(text: string, deb822: boolean): Stanza[] {
  const found: Stanza[] = [];
  if (!deb822) {
    for (const line of text.split("\n")) {
      const m = line.match(/^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)/);
      if (m) found.push({ uri: m[2], suites: [m[3]], keyring: m[1]?.match(/signed-by=(\S+)/i)?.[1] ?? null });
    }
    return found;
  }
  for (const stanza of text.split(/\n\s*\n/)) {
    const field = (name: string): string =>
      stanza.match(new RegExp(`^${name}:[ \\t]*(.*(?:\\n[ \\t]+.*)*)`, "im"))?.[1].trim() ?? "";
    if (!/\bdeb\b/.test(field("Types")) || /^no$/i.test(field("Enabled"))) continue;
    const keyring = field("Signed-By");
    for (const uri of field("URIs").split(/\s+/).filter(Boolean)) {
      found.push({ uri, suites: field("Suites").split(/\s+/), keyring: keyring.startsWith("/") ? keyring : null });
    }
  }
  return found;
}

/** The machine's own Debian mirror. @throws RigError when its sources name none */
export function machineMirror(etc = "/etc/apt"): Mirror {
  const stanzas: Stanza[] = [];
  const add = (path: string): void => {
    if (existsSync(path)) stanzas.push(...parseSources(readFileSync(path, "utf8"), path.endsWith(".sources")));
  };
  add(join(etc, "sources.list"));
  const parts = join(etc, "sources.list.d");
  if (existsSync(parts))
    for (const name of readdirSync(parts).sort()) if (/\.(list|sources)$/.test(name)) add(join(parts, name));
  const release = /^(bookworm|trixie|forky|sid|stable|testing|unstable)$/;
  const main = stanzas.find((s) => s.suites.some((n) => release.test(n)));
  if (!main) throw new RigError(`${etc} names no Debian mirror (no source with suite bookworm or newer)`);
  const security = stanzas.find((s) => s.suites.some((n) => /^(bookworm|trixie)-security$/.test(n)));
  const keyring = ["/usr/share/keyrings/debian-archive-keyring.gpg", main.keyring].find((k) => k && existsSync(k));
  if (!keyring) throw new RigError("no Debian keyring: apt-get install debian-archive-keyring");
  return { main: main.uri, security: security?.uri ?? null, keyring };
}

/** One private apt for one set of suites and one architecture; the machine's own dpkg never hears of the latter. */
export class Apt {
  readonly dir: string;
  readonly arch: "amd64" | "arm64";
  readonly #env: Record<string, string>;

  constructor(name: string, suites: string[], securitySuites: string[], arch: "amd64" | "arm64" = "amd64") {
    this.arch = arch;
    this.dir = ensureDir(join(cacheDir(), "apt", name));
    for (const d of [
      "state/lists/partial",
      "cache/archives/partial",
      "etc/sources.list.d",
      "etc/preferences.d",
      "etc/trusted.gpg.d",
      "etc/apt.conf.d",
    ])
      ensureDir(join(this.dir, d));
    const m = machineMirror();
    const stanza = (uri: string, names: string[]): string =>
      `Types: deb\nURIs: ${uri}\nSuites: ${names.join(" ")}\nComponents: main\nSigned-By: ${m.keyring}\n`;
    const text = [stanza(m.main, suites)];
    if (m.security && securitySuites.length) text.push(stanza(m.security, securitySuites));
    writeFileSync(join(this.dir, "etc/sources.list.d/rig.sources"), text.join("\n"));
    writeFileSync(join(this.dir, "state/status"), "");
    this.#env = { APT_CONFIG: join(this.dir, "apt.conf"), LC_ALL: "C.UTF-8", DEBIAN_FRONTEND: "noninteractive" };
  }

  /** Write the configuration (with the machine's proxies) and fetch the package lists. */
  async update(): Promise<void> {
    const dump = await run(["apt-config", "dump"], { env: { APT_CONFIG: "" } });
    const inherited = dump
      .split("\n")
      .filter((l) => /^Acquire::(https?|ForceIPv\d|Check-|Retries)/.test(l) && !/ "";$/.test(l));
    const conf = [
      `Dir::State "${this.dir}/state";`,
      `Dir::State::status "${this.dir}/state/status";`,
      `Dir::Cache "${this.dir}/cache";`,
      `Dir::Etc "${this.dir}/etc";`,
      `Dir::Log "${this.dir}";`,
      `APT::Architecture "${this.arch}";`,
      `APT::Architectures "${this.arch}";`,
      'APT::Install-Recommends "false";',
      'APT::Sandbox::User "root";',
      'Acquire::Languages "none";',
      'Acquire::Retries "3";',
      ...inherited,
    ];
    writeFileSync(join(this.dir, "apt.conf"), `${conf.join("\n")}\n`);
    try {
      await run(["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"], { env: this.#env });
    } catch (e) {
      throw new RigError(
        `the Debian mirror of this machine (${machineMirror().main}) cannot be read.\n${(e as Error).message}`,
      );
    }
  }

  /** Package files that installing `names` on an empty system takes, as name=version. */
  async closure(target: string | null, names: string[]): Promise<string[]> {
    const out = await run(
      ["apt-get", "install", "-y", "-q", "--print-uris", ...(target ? ["-t", target] : []), ...names],
      {
        env: this.#env,
      },
    );
    return [...out.matchAll(/^'[^']+' (\S+)_(\S+)_(?:amd64|arm64|all)\.deb \d+/gm)].map(
      (m) => `${m[1]}=${decodeURIComponent(m[2])}`,
    );
  }

  /** Fetch packages (apt checks signature chain and hash). @returns path of the .deb of each */
  async downloadAll(specs: readonly string[]): Promise<string[]> {
    const dir = ensureDir(join(this.dir, "debs"));
    try {
      await run(["apt-get", "download", "-q", ...specs], { cwd: dir, env: this.#env });
    } catch (e) {
      const what = specs.length === 1 ? specs[0] : `${specs.length} packages`;
      throw new RigError(
        `cannot fetch ${what} from the Debian mirror (${machineMirror().main}).\n${(e as Error).message}`,
      );
    }
    const files = readdirSync(dir);
    return specs.map((spec) => {
      const [name, version] = spec.split("=");
      const prefix = `${name}_${version.replaceAll(":", "%3a")}_`;
      const file = files.find((f) => f.startsWith(prefix) && f.endsWith(".deb"));
      if (!file) throw new RigError(`apt-get download ${spec} left no file in ${dir}`);
      return join(dir, file);
    });
  }

  /** Fetch one package. @returns path of the .deb */
  async download(spec: string): Promise<string> {
    return (await this.downloadAll([spec]))[0];
  }
}
