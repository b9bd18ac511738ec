/** The model's only source of chance: xorshift32, so that a seed gives the same run. Not for anything secret. */
export class Random {
  #state: number;

  /** @param seed any number; 0 is replaced, as xorshift never leaves it */
  constructor(seed: number) {
    // small seeds would give small numbers at first
    this.#state = Math.imul(seed ^ 0x5bd1e995, 0x9e3779b1) ^ (seed >>> 15) || 0x2545f491;
    for (let i = 0; i < 8; i++) this.next();
  }

  /** The next 32 bits, unsigned. */
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** An integer 0 .. n-1; n at most 2^16. */
  below(n: number): number {
    return ((this.next() >>> 16) * n) >>> 16;
  }

  /** true with probability p (0..1) */
  chance(p: number): boolean {
    return p > 0 && this.next() < p * 4294967296;
  }
}
