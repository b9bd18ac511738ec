import { expect, test } from "bun:test";
import { closeSync, openSync } from "node:fs";
import { Sleeper } from "../../src/engine/sleeper.ts";

const elapsed = (f: () => void): number => {
  const t = Bun.nanoseconds();
  f();
  return Bun.nanoseconds() - t;
};

test("a sleep grows to 1 ms and is short again after work", () => {
  const s = new Sleeper(false);
  for (let i = 0; i < 8; i++) s.sleep();
  expect(elapsed(() => s.sleep())).toBeGreaterThan(900_000);
  expect(s.dozing).toBe(true);
  s.busy();
  expect(s.dozing).toBe(false);
  expect(elapsed(() => s.sleep())).toBeLessThan(900_000);
});

test("a readable descriptor ends a sleep once, not again and again while nothing can be done with it", () => {
  const fd = openSync("/dev/zero", "r");
  try {
    const s = new Sleeper(false);
    s.watch([fd]);
    for (let i = 0; i < 3; i++) s.sleep();
    // 20 times with growing length: about 18 ms unless each of them ends at once
    expect(
      elapsed(() => {
        for (let i = 0; i < 20; i++) s.sleep();
      }),
    ).toBeGreaterThan(10_000_000);
    s.busy();
    for (let i = 0; i < 5; i++) {
      expect(elapsed(() => s.sleep())).toBeLessThan(900_000);
      s.busy();
    }
  } finally {
    closeSync(fd);
  }
});
