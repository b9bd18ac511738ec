/**
 * One checked TCP stream, run inside a network namespace or a guest:
 *   transfer.ts recv PORT                    wait for one stream, print {"bytes","ms","sha256"}
 *   transfer.ts send ADDRESS PORT MIB SEED   send pseudo-random data, print the same of what was sent
 * The data are different in every 64 KiB block, so that a repeated, lost or swapped block changes the sum.
 */
import { createConnection, createServer } from "node:net";

const [role, ...args] = process.argv.slice(2);
const hasher = new Bun.CryptoHasher("sha256");
const BLOCK = 64 * 1024;
let bytes = 0;

function report(since: number): void {
  const ms = (Bun.nanoseconds() - since) / 1e6;
  console.log(JSON.stringify({ bytes, ms: Math.round(ms), sha256: hasher.digest("hex") }));
}

if (role === "recv") {
  const server = createServer((socket) => {
    const since = Bun.nanoseconds();
    socket.on("data", (data: Buffer) => {
      bytes += data.length;
      hasher.update(data);
    });
    socket.on("error", (e) => {
      console.error(`recv: ${e.message} after ${bytes} bytes`);
      process.exit(1);
    });
    socket.on("end", () => {
      report(since);
      socket.end();
      server.close();
    });
  });
  server.listen(Number(args[0]), "0.0.0.0", () => console.error("listening"));
} else if (role === "send") {
  const [address, port, mib, seed] = args;
  const total = Number(mib) * 2 ** 20;
  // xorshift32: any fixed sequence will do, it only must not repeat within the stream.
  let x = Number(seed) | 0 || 1;
  const block = new Uint32Array(BLOCK / 4);
  for (let i = 0; i < block.length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    block[i] = x;
  }
  const socket = createConnection({ host: address as string, port: Number(port) });
  socket.setTimeout(20_000, () => {
    console.error(`send: no progress for 20 s after ${bytes} bytes`);
    process.exit(1);
  });
  socket.on("error", (e) => {
    console.error(`send: ${e.message} after ${bytes} bytes`);
    process.exit(1);
  });
  socket.on("connect", async () => {
    const since = Bun.nanoseconds();
    for (let n = 0; bytes < total; n++) {
      const copy = block.slice();
      copy[0] = n;
      copy[n % copy.length] = (copy[n % copy.length]! ^ n) >>> 0;
      const data = new Uint8Array(copy.buffer);
      hasher.update(data);
      bytes += data.length;
      if (!socket.write(data)) await new Promise((r) => socket.once("drain", r));
    }
    socket.end();
    socket.on("close", () => report(since));
  });
} else {
  console.error("usage: transfer.ts recv PORT | send ADDRESS PORT MIB SEED");
  process.exit(2);
}
