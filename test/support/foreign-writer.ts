/** Child of mem.test.ts: counts in word 0 of a shared page, payload in word 1 first, waits for the echo in word 2. */
import { cstring, libc, MAP_SHARED, mmap, O_RDWR, PROT_READ, PROT_WRITE } from "../../src/hw/libc.ts";
import { ld32, st32 } from "../../src/hw/mem.ts";

const fd = libc.open(cstring(process.env.EPNIC_FD ?? ""), O_RDWR, 0);
const p = mmap("shared test page", 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
await Bun.sleep(100); // lets the parent's loop become hot before the first write
const end = Date.now() + 10_000;
for (let i = 1; i <= 100; i++) {
  st32(p + 4, i * 3);
  st32(p, i);
  while (ld32(p + 8) !== i) if (Date.now() > end) process.exit(1);
}
