/**
 * One checked TCP stream, run inside a network namespace or a guest:
 *   transfer.ts recv PORT                    wait for one stream, print {"bytes","ms","sha256"}
 *   transfer.ts send ADDRESS PORT MIB SEED   send pseudo-random data, print the same of what was sent
 * The data are different in every 64 KiB block, so that a repeated, lost or swapped block changes the sum.
 */
import { createConnection, createServer, type Socket } from "node:net";

const [role, ...args] = process.argv.slice(2);
const hasher = new Bun.CryptoHasher("sha256");
const BLOCK = 64 * 1024;
/** longest wait for a receiver that does not listen yet, and without progress, ms */
const LISTEN_MS = 60_000;
const IDLE_MS = 60_000;
let bytes = 0;

function report(since: number): void {
  const ms = (Bun.nanoseconds() - since) / 1e6;
  console.log(JSON.stringify({ bytes, ms: Math.round(ms), sha256: hasher.digest("hex") }));
}

/** A connection; the receiver may not listen yet. */
async function connected(host: string, port: number): Promise<Socket> {
  for (const until = Date.now() + LISTEN_MS; ; await Bun.sleep(100)) {
    const socket = createConnection({ host, port });
    const error = await new Promise<NodeJS.ErrnoException | null>((resolve) => {
      socket.once("connect", () => resolve(null));
      socket.once("error", resolve);
    });
    if (error === null) return socket;
    if (error.code !== "ECONNREFUSED" || Date.now() > until) {
      console.error(`send: ${error.message}`);
      process.exit(1);
    }
  }
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
  const socket = await connected(address as string, Number(port));
  socket.setTimeout(IDLE_MS, () => {
    console.error(`send: no progress for ${IDLE_MS / 1000} s after ${bytes} bytes`);
    process.exit(1);
  });
  socket.on("error", (e) => {
    console.error(`send: ${e.message} after ${bytes} bytes`);
    process.exit(1);
  });
  const send = async (): Promise<void> => {
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
  };
  await send();
} else {
  console.error("usage: transfer.ts recv PORT | send ADDRESS PORT MIB SEED");
  process.exit(2);
}
