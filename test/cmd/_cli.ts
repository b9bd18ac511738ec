/** Runs epnic through its real entry, as a child process, and compares with golden files. */
import { expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export const REPO = join(import.meta.dir, "../..");
export const FIXTURES = join(REPO, "fixtures");
const MAIN = join(REPO, "src/main.ts");

export interface CliResult {
  status: number;
  stdout: string;
  stderr: string;
}

export interface CliOptions {
  env?: Record<string, string>;
  /** run as this user, with no groups and no capabilities; needs root */
  uid?: number;
  timeoutMs?: number;
}

/** Variables that would change what is printed do not reach the child. */
function childEnv(extra: Record<string, string> = {}): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [k, v] of Object.entries(process.env)) {
    if (
      v === undefined ||
      /^(NO_COLOR|EPNIC_COMMIT|FORCE_COLOR|CI|TEST|DEBUG|JOURNAL_STREAM|NOTIFY_SOCKET|WATCHDOG_.*)$/.test(k)
    )
      continue;
    env[k] = v;
  }
  return { ...env, ...extra };
}

export function command(args: readonly string[], uid?: number): string[] {
  const drop =
    uid === undefined
      ? []
      : ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
  return [...drop, process.execPath, MAIN, ...args];
}

export async function cli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const child = Bun.spawn(command(args, options.uid), {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: childEnv(options.env),
    timeout: options.timeoutMs ?? 50_000,
  });
  const [stdout, stderr, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { status, stdout, stderr };
}

/** A child that goes on; the caller ends it. */
export function start(args: readonly string[], env: Record<string, string> = {}) {
  return Bun.spawn(command(args), { stdin: "ignore", stdout: "pipe", stderr: "pipe", env: childEnv(env) });
}

/** Compare with fixtures/<name>; UPDATE_GOLDENS=1 writes it instead. */
export function golden(name: string, text: string): void {
  const path = join(FIXTURES, name);
  if (process.env.UPDATE_GOLDENS === "1") {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return;
  }
  if (!existsSync(path))
    throw new Error(`fixtures/${name} is absent: run UPDATE_GOLDENS=1 bun test test/cmd and review it`);
  expect(text).toBe(readFileSync(path, "utf8"));
}

/** Nothing on stdout, a message on stderr, this status. */
export function expectFailure(r: CliResult, status: number, ...texts: (string | RegExp)[]): void {
  for (const t of texts) {
    if (typeof t === "string") expect(r.stderr).toContain(t);
    else expect(r.stderr).toMatch(t);
  }
  expect(r.stdout).toBe("");
  expect(r.status).toBe(status);
}

export const isRoot = process.geteuid?.() === 0;
export const hasCommand = (name: string): boolean => Bun.which(name) !== null;
