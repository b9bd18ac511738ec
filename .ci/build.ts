/**
 * `bun run build [--only x64|arm64] [--musl]`: dist/epnic (x64) and dist/epnic-arm64 with glibc, and with --musl also
 * dist/epnic-musl and dist/epnic-arm64-musl. Bun takes the base binaries of other targets from the npm registry.
 */
import { closeSync, mkdirSync, openSync, readSync, statSync } from "node:fs";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: { only: { type: "string" }, musl: { type: "boolean", default: false } },
  strict: true,
});
if (values.only !== undefined && values.only !== "x64" && values.only !== "arm64") {
  console.error(`build: --only is "${values.only}", it must be x64 or arm64`);
  process.exit(2);
}

const root = `${import.meta.dir}/..`;
const git = Bun.spawnSync(["git", "rev-parse", "--short", "HEAD"], { cwd: root, stderr: "ignore" });
const commit = git.exitCode === 0 ? git.stdout.toString().trim() : "unknown";

const targets: { target: string; file: string; arch: string; musl: boolean }[] = [];
for (const arch of ["x64", "arm64"]) {
  if (values.only !== undefined && values.only !== arch) continue;
  const name = arch === "x64" ? "epnic" : `epnic-${arch}`;
  targets.push({ target: `bun-linux-${arch}`, file: `dist/${name}`, arch, musl: false });
  if (values.musl) targets.push({ target: `bun-linux-${arch}-musl`, file: `dist/${name}-musl`, arch, musl: true });
}

/** What ELF file that is: "x64 /lib/ld-musl-x86_64.so.1", from its header and its interpreter. */
function elf(file: string): string {
  const head = Buffer.alloc(4096);
  const fd = openSync(file, "r");
  readSync(fd, head, 0, head.length, 0);
  closeSync(fd);
  if (head.readUInt32BE(0) !== 0x7f454c46) return "no ELF file";
  const machine: Record<number, string> = { 62: "x64", 183: "arm64" };
  const loader = /\/lib\S*\/ld-[\w.-]+/.exec(head.toString("latin1"))?.[0] ?? "no interpreter";
  return `${machine[head.readUInt16LE(18)] ?? "unknown machine"} ${loader}`;
}

mkdirSync(`${root}/dist`, { recursive: true });
for (const t of targets) {
  const args = ["build", "--compile", `--target=${t.target}`, `--define=process.env.EPNIC_COMMIT="${commit}"`];
  const run = Bun.spawnSync([process.execPath, ...args, "src/main.ts", `--outfile=${t.file}`], {
    cwd: root,
    stdout: "pipe",
    stderr: "pipe",
  });
  if (run.exitCode !== 0) {
    console.error(`build of ${t.file} failed:\n${run.stdout}${run.stderr}`);
    process.exit(1);
  }
  const made = elf(`${root}/${t.file}`);
  if (!made.startsWith(`${t.arch} `) || made.includes("ld-musl") !== t.musl) {
    console.error(`build of ${t.file} made a file for ${made}, ${t.target} was asked`);
    process.exit(1);
  }
  const mib = statSync(`${root}/${t.file}`).size / 2 ** 20;
  console.log(`${t.file}  ${t.target}  ${made.split(" ")[1]}  ${mib.toFixed(0)} MiB  ${commit}`);
}
