/**
 * Is the core ours? A piece of arithmetic with as many independent chains as a core has units for, and no memory: while a sibling
 * hardware thread works, in another virtual machine perhaps, it takes up to twice as long, as everything else here does;
 * no other counter of a guest shows that.
 */
const ROUNDS = 300;
let sink = 1;

function wide(): void {
  let a = sink;
  let b = 2;
  let c = 3;
  let d = 4;
  let e = 5;
  let f = 6;
  let g = 7;
  let h = 8;
  for (let i = 0; i < ROUNDS; i++) {
    a = (a + b) ^ c;
    b = (b + c) ^ d;
    c = (c + d) ^ e;
    d = (d + e) ^ f;
    e = (e + f) ^ g;
    f = (f + g) ^ h;
    g = (g + h) ^ i;
    h = (h + i) | 0;
  }
  sink = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;
}

/** @returns ns of that piece now, some 400, the clock's 35 included */
export function coreNs(): number {
  const a = Bun.nanoseconds();
  wide();
  return Bun.nanoseconds() - a;
}
