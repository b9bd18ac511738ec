/**
 * Child for traffic tests, run inside a network namespace by `ip netns exec`.
 *   serve PORT          accept one connection, print the SHA-1 and length of what comes
 *   send HOST PORT N    send N pseudo-random bytes, print their SHA-1 and length
 */
const [mode, a, b, c] = process.argv.slice(2);
const hash = new Bun.CryptoHasher("sha1");
let total = 0;

if (mode === "serve") {
  Bun.listen({
    hostname: "0.0.0.0",
    port: Number(a),
    socket: {
      data(_s, chunk) {
        hash.update(chunk);
        total += chunk.length;
      },
      close() {
        console.log(`${hash.digest("hex")} ${total}`);
        process.exit(0);
      },
    },
  });
  console.log("ready");
} else {
  const block = new Uint8Array(262144);
  let seed = 1;
  for (let i = 0; i < block.length; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    block[i] = seed >>> 24;
  }
  let left = Number(c);
  let off = 0;
  const pump = (s: { write(d: Uint8Array): number; end(): void }): void => {
    while (left > 0) {
      const piece = block.subarray(off, Math.min(block.length, off + left));
      const n = s.write(piece);
      hash.update(piece.subarray(0, n));
      total += n;
      left -= n;
      off = (off + n) % block.length;
      if (n < piece.length) return;
    }
    s.end();
  };
  await Bun.connect({
    hostname: a!,
    port: Number(b),
    socket: {
      open: pump,
      drain: pump,
      data() {},
      close() {
        console.log(`${hash.digest("hex")} ${total}`);
        process.exit(0);
      },
      error(_s, e) {
        console.error(e);
        process.exit(1);
      },
    },
  });
}

export {};
