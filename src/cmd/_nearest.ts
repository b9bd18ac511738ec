/** "Did you mean": the candidate closest to a misspelt word. */

/** Edit distance with transpositions (optimal string alignment), capped work for short words only. */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let d = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) d = Math.min(d, before[j - 2] + 1);
      row.push(d);
    }
    before = last;
    last = row;
  }
  return last[b.length];
}

/**
 * The candidate that `word` most likely meant, or undefined when none is close: at most a third of the letters wrong,
 * or `word` is the beginning of exactly one candidate.
 */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const begins = candidates.filter((c) => word.replace(/^-+/, "").length > 1 && c.startsWith(word));
  if (begins.length === 1) return begins[0];
  if (word.replace(/^-+/, "").length < 2) return undefined;
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(word.replace(/^-+/, "").length / 3)) + 1;
  for (const c of candidates) {
    if (Math.abs(c.length - word.length) >= bestDistance) continue;
    const d = distance(word.toLowerCase(), c.toLowerCase());
    if (d < bestDistance) {
      best = c;
      bestDistance = d;
    }
  }
  return best;
}
