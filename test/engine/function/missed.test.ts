/**
 * Misses of every length at every place of a set-up: the poller sees two polls an access, but for one or two gaps in each
 * life of a host that fails, tries again with other interrupts, is cut off, and gets freed rings back in other roles. A
 * capture is right, or it is refused, or the host itself gives up; it is never wrong. EPNIC_MISSED_LIVES makes it larger.
 */
import { describe, expect, test } from "bun:test";
import { FN_REFUSED, FN_UP, type HostFunction } from "../../../src/engine/function/host-function.ts";
import { GAVE_UP } from "../../../src/engine/function/parts.ts";
import { unmap } from "../../../src/hw/mem.ts";
import { judged, over } from "./drive.ts";
import { BAR_SIZE, Chance, PlainHost, type PlainHostOptions } from "./plain-host.ts";

const LIVES = Number(process.env.EPNIC_MISSED_LIVES ?? 3000);
const SLOW = 60_000 + LIVES * 10;
const MAC = Uint8Array.from([2, 0, 0, 1, 0, 2]);

/** places of gaps, in accesses since a life began: about one attempt and its removal */
const lifeOf = (o: PlainHostOptions): number => (o.personality === "modern" ? 80 : 40) * (o.msix ? 1.5 : 1);
/** bounds of the lengths that are told apart; the last is beyond every life */
const LENGTHS = [1, 2, 3, 6, 11, 21, 41, 81, 161, 321];
const CLASSES = LENGTHS.length - 1;
/** parts of a life in which gaps are counted */
const PLACES = 10;

interface Outcome {
  lives: number;
  right: number;
  refused: number;
  gaveUp: number;
  retries: number;
  wrong: string[];
  /** gaps by place and length */
  gaps: Int32Array;
}

/** @param mend changes the function before it is driven */
function storm(o: PlainHostOptions, seed: number, lives: number, mend: (fn: HostFunction) => void = () => {}): Outcome {
  const chance = new Chance(seed);
  const host = new PlainHost(o, chance, MAC);
  const fn = over(host, MAC);
  mend(fn);
  const out: Outcome = {
    lives: 0,
    right: 0,
    refused: 0,
    gaveUp: 0,
    retries: 0,
    wrong: [],
    gaps: new Int32Array(PLACES * CLASSES),
  };
  const steps = host.forever();
  let begun = host.begun;
  let at = host.accesses;
  let gaps: { place: number; length: number; kind: number }[] = [];
  const life = lifeOf(o);
  while (host.lives < lives) {
    if (host.begun !== begun) {
      begun = host.begun;
      at = host.accesses;
      gaps = [];
      for (let n = chance.below(3); n > 0; n--) {
        const kind = chance.below(CLASSES);
        const length = LENGTHS[kind]! + chance.below(LENGTHS[kind + 1]! - LENGTHS[kind]!);
        gaps.push({ place: chance.below(life), length, kind });
      }
      gaps.sort((a, b) => a.place - b.place);
    }
    const gap = gaps[0];
    let n = 1;
    if (gap !== undefined && host.accesses - at >= gap.place) {
      gaps.shift();
      n += gap.length;
      out.gaps[Math.floor((gap.place * PLACES) / life) * CLASSES + gap.kind]!++;
    }
    for (; n > 0; n--) steps.next();
    for (let p = 0; p < 2; p++) {
      const e = fn.poll();
      if (e === FN_UP) out.right++;
      else if (e === FN_REFUSED && fn.lastRefusal === GAVE_UP) out.gaveUp++;
      else if (e === FN_REFUSED) out.refused++;
      if (fn.live) {
        const why = judged(fn, host);
        if (why !== "" && out.wrong.length < 5) out.wrong.push(`seed ${seed}, life ${host.lives}: ${why}`);
      }
    }
  }
  out.lives = host.lives;
  out.retries = host.retries;
  unmap(host.bar, BAR_SIZE);
  return out;
}

const shapes: [string, Pick<PlainHostOptions, "personality" | "words" | "msix">][] = [
  ["modern MSI-X", { personality: "modern", words: 4, msix: true }],
  ["modern MSI-X, 2 feature words", { personality: "modern", words: 2, msix: true }],
  ["modern INTx", { personality: "modern", words: 4, msix: false }],
  ["legacy MSI-X", { personality: "legacy", words: 2, msix: true }],
  ["legacy INTx", { personality: "legacy", words: 2, msix: false }],
];

describe("a gap anywhere, of any length: right or refused, never wrong", () => {
  for (const [i, [name, shape]] of shapes.entries()) {
    test(
      name,
      () => {
        const o = storm({ ...shape, retry: 0.25, cut: 0.1 }, 5000 + i, LIVES);
        console.log(
          `${name}: ${o.lives} lives, ${o.right} right, ${o.refused} refused, ${o.gaveUp} given up by the host, ${o.retries} attempts repeated`,
        );
        expect(o.wrong).toEqual([]);
        expect(o.gaps.every((n) => n > 0)).toBe(true);
        expect(o.right).toBeGreaterThan(o.lives / 2);
        expect(o.right + o.refused).toBeGreaterThan(o.lives * 0.7);
        if (shape.msix) expect(o.retries).toBeGreaterThan(o.lives / 4);
      },
      SLOW,
    );
  }
});

describe("the test can fail", () => {
  type Inside = { attempt: { same: boolean }; words: { words: object; forget(): void } };
  const broken: [string, (fn: Inside) => void][] = [
    ["attempts are not told apart", (fn) => Object.defineProperty(fn.attempt, "same", { get: () => true })],
    [
      "what an earlier life left is believed",
      (fn) => Object.defineProperty(fn.words.words, "isStale", { get: () => false }),
    ],
    ["what an earlier attempt set up is kept", (fn) => Object.assign(fn.words, { forget: () => {} })],
  ];
  for (const [name, mend] of broken)
    test(
      name,
      () => {
        let wrong = 0;
        const o: PlainHostOptions = { ...shapes[0]![1], retry: 0.25, cut: 0.1 };
        for (let seed = 6000; seed < 6010 && wrong === 0; seed++)
          wrong = storm(o, seed, 4000, (fn) => mend(fn as unknown as Inside)).wrong.length;
        expect(wrong).toBeGreaterThan(0);
      },
      SLOW,
    );
});
