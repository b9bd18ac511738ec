import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { cstring, libc, MAP_SHARED, MFD_CLOEXEC, mmap, PROT_READ, PROT_WRITE } from "../../src/hw/libc.ts";
import * as mem from "../../src/hw/mem.ts";
import { testMemory } from "../support/ring-memory.ts";

const WARM = 1_000_000;
const base = mem.mapAnonymous(65536);
const u8 = new Uint8Array(mem.view(base, 65536));
afterAll(() => mem.unmap(base, 65536));

describe(`mem.ts over ${mem.memBackend}`, () => {
  test("EPNIC_MEM is honoured", () => {
    expect(mem.memBackend).toBe((process.env.EPNIC_MEM ?? "code-page") as "code-page");
  });

  test("a store touches exactly its width, for negative and unsigned values", () => {
    u8.fill(0xaa);
    mem.st8(base + 16, 0x1f1);
    mem.st16(base + 32, 0x12345);
    mem.st32(base + 48, -2);
    mem.st32(base + 64, 0xdeadbeef);
    mem.fence();
    const at = (o: number, n: number) => Buffer.from(u8.subarray(o - 1, o + n + 1)).toString("hex");
    expect(at(16, 1)).toBe("aaf1aa");
    expect(at(32, 2)).toBe("aa4523aa");
    expect(at(48, 4)).toBe("aafeffffffaa");
    expect(at(64, 4)).toBe("aaefbeaddeaa");
  });

  test("loads have their width and are unsigned, also warm and above 2^31", () => {
    u8.fill(0xff);
    expect(base).toBeGreaterThan(2 ** 32);
    let bad = 0;
    for (let i = 0; i < WARM; i++) {
      if (mem.ld32(base + ((i & 1023) << 2)) !== 0xffffffff) bad++;
    }
    for (let i = 0; i < 200_000; i++) {
      if (mem.ld16(base + ((i & 1023) << 1)) !== 0xffff) bad++;
      if (mem.ld8(base + (i & 1023)) !== 0xff) bad++;
    }
    expect(bad).toBe(0);
    u8.fill(0);
    u8[100] = 0x80;
    expect(mem.ld8(base + 100)).toBe(0x80);
    expect(mem.ld16(base + 100)).toBe(0x80);
    expect(mem.ld8(base + 101)).toBe(0);
    expect(mem.ld32(base + 96)).toBe(0);
  });

  test("warm stores of values above 2^31 read back", () => {
    let bad = 0;
    for (let i = 0; i < 300_000; i++) {
      const v = (i * 2654435761) % 2 ** 32;
      mem.st32(base, v);
      if (mem.ld32(base) !== v) bad++;
      mem.st32(base, v | 0);
      if (mem.ld32(base) !== v) bad++;
    }
    expect(bad).toBe(0);
  });

  test("a read-only mapping survives a million warm loads", () => {
    const fd = libc.memfd_create(cstring("h1-ro"), MFD_CLOEXEC);
    expect(libc.ftruncate(fd, 4096)).toBe(0);
    expect(libc.pwrite(fd, new Uint8Array([0x78, 0x56, 0x34, 0xf2]), 4, 128)).toBe(4);
    const ro = mmap("read-only test page", 4096, PROT_READ, MAP_SHARED, fd);
    let bad = 0;
    for (let i = 0; i < WARM; i++) {
      if (mem.ld32(ro + 128) !== 0xf2345678) bad++;
    }
    for (let i = 0; i < WARM; i++) {
      if (mem.ld16(ro + 130) !== 0xf234 || mem.ld8(ro + 131) !== 0xf2) bad++;
    }
    expect(bad).toBe(0);
    mem.unmap(ro, 4096);
    libc.close(fd);
  });

  test("a foreign writer is seen by a hot wait loop, and the plain reads after it are performed", async () => {
    const fd = libc.memfd_create(cstring("h1-shared"), MFD_CLOEXEC);
    libc.ftruncate(fd, 4096);
    const p = mmap("shared test page", 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    const words = new Uint32Array(mem.view(p, 4096));
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "../support/foreign-writer.ts")], {
      env: { ...process.env, EPNIC_FD: `/proc/${process.pid}/fd/${fd}` },
      stdout: "inherit",
      stderr: "inherit",
    });
    const waitFor = (value: number): number => {
      const end = Bun.nanoseconds() + 10e9;
      let spins = 0;
      while (mem.ld32(p) !== value) if ((++spins & 0xfffff) === 0 && Bun.nanoseconds() > end) return -1;
      return words[1]!;
    };
    // word 0 counts 1..100 by the child, answered in word 2; word 1 is a plain payload written before it
    const got: number[] = [];
    for (let i = 1; i <= 100; i++) {
      got.push(waitFor(i));
      mem.st32(p + 8, i);
    }
    expect(await child.exited).toBe(0);
    expect(got).toEqual(Array.from({ length: 100 }, (_, i) => (i + 1) * 3));
    mem.unmap(p, 4096);
    libc.close(fd);
  });

  test("copy, fill and compare", () => {
    mem.fill(base, 0x5a, 300);
    u8[299] = 1;
    mem.copy(base + 4096, base, 300);
    expect(mem.compare(base, base + 4096, 300)).toBe(0);
    u8[4096 + 150]! ^= 1;
    expect(mem.compare(base, base + 4096, 300)).not.toBe(0);
    expect(mem.compare(base, base + 4096, 150)).toBe(0);
  });

  test("fence and wmb can be called warm", () => {
    for (let i = 0; i < 200_000; i++) {
      mem.fence();
      mem.wmb();
    }
    mem.st32(base, 7);
    expect(mem.ld32(base)).toBe(7);
  });
});

if (process.env.EPNIC_MEM === undefined) {
  test("the whole file passes over libatomic as well", () => {
    const have = Bun.spawnSync([
      process.execPath,
      "-e",
      'require("bun:ffi").dlopen("libatomic.so.1", {__atomic_load_4:{}})',
    ]);
    if (have.exitCode !== 0) {
      console.log("skipped: libatomic.so.1 is not installed (apt-get install libatomic1)");
      return;
    }
    // an emulated machine needs more than the usual 5 s for a million accesses
    const run = Bun.spawnSync([process.execPath, "test", "--timeout", "60000", import.meta.path], {
      env: { ...process.env, EPNIC_MEM: "libatomic" },
    });
    const said = run.stderr.toString();
    expect(said).toContain("mem.ts over libatomic");
    expect(said).toMatch(/^ 0 fail$/m);
    expect(run.exitCode).toBe(0);
  }, 180_000);

  /** Another process: PR_SET_MDWE (no executable memory) if asked, libatomic.so.1 hidden if asked, then mem.ts. */
  const start = (mdwe: boolean, hide: boolean): string => {
    const hw = join(import.meta.dir, "../../src/hw");
    const program = `
      const { libc } = await import("${hw}/libc.ts");
      if (${mdwe} && libc.prctl(65, 1, 0, 0, 0) !== 0) { console.log("no MDWE"); process.exit(0); }
      try {
        const m = await import("${hw}/mem.ts");
        const p = m.mapAnonymous(4096);
        m.st32(p, 0x89abcdef);
        m.fence();
        console.log(m.memBackend, m.ld32(p).toString(16));
      } catch (e) { console.log(e.code, e.message, e.hint); }`;
    const library = Bun.spawnSync(["sh", "-c", "ldconfig -p | sed -n 's/.*libatomic.so.1 .*=> //p'"]).stdout.toString();
    const mounts = library.split("\n").filter((l) => l !== "");
    const shell = `${hide ? mounts.map((l) => `mount --bind /dev/null $(readlink -f ${l}) && `).join("") : ""} exec "$0" -e "$1"`;
    const cmd = ["sh", "-c", shell, process.execPath, program];
    const run = Bun.spawnSync(hide ? ["unshare", "-m", ...cmd] : cmd);
    return run.stdout.toString().trim() || run.stderr.toString().trim();
  };
  const root = process.getuid?.() === 0 && Bun.which("unshare") !== null;
  if (!root) console.log("not run: hiding libatomic.so.1 needs root and unshare");

  test.skipIf(!root)("an image without libatomic: the code page serves", () => {
    expect(start(false, true)).toBe("code-page 89abcdef");
  });

  test("a process that may map no executable memory: libatomic serves, and without it the package is named", () => {
    const said = start(true, false);
    if (said === "no MDWE") {
      console.log("not run: this kernel has no PR_SET_MDWE (6.3 has)");
      return;
    }
    expect(said).toMatch(/^(libatomic 89abcdef|E_MISSING .* apt-get install libatomic1)$/);
    if (root) expect(start(true, true)).toMatch(/^E_MISSING no way to make single memory accesses: .* libatomic1$/);
  });

  test("an unknown back end is refused by name", () => {
    const run = Bun.spawnSync(
      [process.execPath, "-e", `await import("${join(import.meta.dir, "../../src/hw/mem.ts")}")`],
      {
        env: { ...process.env, EPNIC_MEM: "magic" },
      },
    );
    expect(run.exitCode).not.toBe(0);
    expect(run.stderr.toString()).toContain('EPNIC_MEM is "magic"');
  });
}

test("test memory: regions are aligned on the bus, and CPU and bus addresses differ by a constant", () => {
  const m = testMemory(65536, 0x4000_0100);
  const a = m.alloc("a", 100, 1);
  const b = m.alloc("b", 4096, 4096);
  expect(a.bus % 64).toBe(0);
  expect(b.bus % 4096).toBe(0);
  expect(b.ptr - a.ptr).toBe(b.bus - a.bus);
  mem.st32(m.cpu(b.bus) + 8, 0x80000001);
  expect(b.u32[2]).toBe(0x80000001);
  expect(() => m.alloc("c", 65536, 64)).toThrow("c needs 65536 bytes");
  m.release();
});
