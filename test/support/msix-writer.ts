/** Child of irq.test.ts: a host that rewrites one MSI-X entry as Linux does (masked meanwhile), for a third of a second. */
import { cstring, libc, MAP_SHARED, mmap, O_RDWR, PROT_READ, PROT_WRITE } from "../../src/hw/libc.ts";
import { st32 } from "../../src/hw/mem.ts";

const fd = libc.open(cstring(process.env.EPNIC_FD ?? ""), O_RDWR, 0);
const e = mmap("MSI-X table", 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
const end = Date.now() + 330;
let n = 0;
for (let begun = false; Date.now() < end; begun = true) {
  for (let i = 0; i < 1000; i++) {
    n = (n + 1) & 0xfffff;
    st32(e + 12, 1);
    st32(e, n << 8);
    st32(e + 4, n ^ 0x55);
    st32(e + 8, n);
    st32(e + 12, 0);
  }
  if (!begun) st32(e + 4092, 1);
}
st32(e + 4092, 2);
