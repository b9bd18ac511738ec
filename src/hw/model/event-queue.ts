/**
 * Events of the model in order of time, equal times in order of arrival: a binary heap in typed arrays, so that
 * simulated time costs no allocation. An event is two int32 words of the user's choice.
 */
export class EventQueue {
  #time = new Float64Array(256);
  #order = new Float64Array(256);
  #kind = new Int32Array(256);
  #arg = new Int32Array(256);
  #count = 0;
  #serial = 0;
  /** the event that pop() took */
  time = 0;
  kind = 0;
  arg = 0;

  get count(): number {
    return this.#count;
  }

  /** Time of the earliest event, Infinity when there is none. */
  get next(): number {
    return this.#count === 0 ? Number.POSITIVE_INFINITY : this.#time[0]!;
  }

  push(time: number, kind: number, arg: number): void {
    if (this.#count === this.#time.length) this.#grow();
    let i = this.#count++;
    const order = this.#serial++;
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (this.#time[up]! <= time) break;
      this.#move(i, up);
      i = up;
    }
    this.#set(i, time, order, kind, arg);
  }

  /** Take the earliest event into `time`, `kind`, `arg`. @returns false when there is none */
  pop(): boolean {
    if (this.#count === 0) return false;
    this.time = this.#time[0]!;
    this.kind = this.#kind[0]!;
    this.arg = this.#arg[0]!;
    const last = --this.#count;
    const time = this.#time[last]!;
    const order = this.#order[last]!;
    const kind = this.#kind[last]!;
    const arg = this.#arg[last]!;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= last) break;
      if (child + 1 < last && this.#before(child + 1, child)) child++;
      if (time < this.#time[child]! || (time === this.#time[child]! && order < this.#order[child]!)) break;
      this.#move(i, child);
      i = child;
    }
    this.#set(i, time, order, kind, arg);
    return true;
  }

  #before(a: number, b: number): boolean {
    return this.#time[a]! < this.#time[b]! || (this.#time[a]! === this.#time[b]! && this.#order[a]! < this.#order[b]!);
  }

  #move(to: number, from: number): void {
    this.#time[to] = this.#time[from]!;
    this.#order[to] = this.#order[from]!;
    this.#kind[to] = this.#kind[from]!;
    this.#arg[to] = this.#arg[from]!;
  }

  #set(i: number, time: number, order: number, kind: number, arg: number): void {
    this.#time[i] = time;
    this.#order[i] = order;
    this.#kind[i] = kind;
    this.#arg[i] = arg;
  }

  #grow(): void {
    const n = this.#time.length * 2;
    const time = new Float64Array(n);
    time.set(this.#time);
    this.#time = time;
    const order = new Float64Array(n);
    order.set(this.#order);
    this.#order = order;
    const kind = new Int32Array(n);
    kind.set(this.#kind);
    this.#kind = kind;
    const arg = new Int32Array(n);
    arg.set(this.#arg);
    this.#arg = arg;
  }
}
