/** What varies in a simulated run, from its seed: xorshift32, so the same on every machine. */
export class Draw {
  private x: number;

  constructor(seed: number) {
    this.x = Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995 || 1;
  }

  /** @returns an integer 0 .. below - 1 */
  next(below: number): number {
    this.x ^= this.x << 13;
    this.x ^= this.x >>> 17;
    this.x ^= this.x << 5;
    return (this.x >>> 0) % below;
  }
}
