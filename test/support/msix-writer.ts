/** Child of irq.test.ts: a host that rewrites one MSI-X entry as Linux does (masked meanwhile) until word 1022 says stop. */
import { cstring, libc, MAP_SHARED, mmap, O_RDWR, PROT_READ, PROT_WRITE } from "../../src/hw/libc.ts";
import { ld32, st32 } from "../../src/hw/mem.ts";

const fd = libc.open(cstring(process.env.EPNIC_FD ?? ""), O_RDWR, 0);
const e = mmap("MSI-X table", 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
const end = Date.now() + 20_000;
for (let n = 0; ld32(e + 4088) === 0 && Date.now() < end; ) {
  for (let i = 0; i < 200; i++) {
    n = (n + 1) & 0xfffff;
    st32(e + 12, 1);
    st32(e, n << 8);
    st32(e + 4, n ^ 0x55);
    st32(e + 8, n);
    st32(e + 12, 0);
    // a while in which the entry is whole, of many lengths
    for (let k = n & 127; k > 0; k--) ld32(e);
  }
}
