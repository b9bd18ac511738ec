/** Is what was captured of a modern driver's set-up its queues, all of one attempt? Asked once, at DRIVER_OK. */
import type { Attempt } from "./attempt.ts";
import { judgeVectors, queuesOverlap } from "./capture.ts";
import type { QueueWords } from "./queue-words.ts";

/** @param msix MSI-X is on now @param vectors entries of the table @returns "" or the broken rule */
export function judgeSetup(words: QueueWords, attempt: Attempt, msix: boolean, vectors: number): string {
  for (let k = 0; k < 2; k++) if (words.valid[k] === 0) return words.fault(k);
  if (!attempt.same) return "an attempt of the driver to set up its queues began behind what was captured";
  const [rx, tx] = words.queues;
  if (queuesOverlap(rx, tx)) return "the rings of queue 0 and queue 1 overlap";
  const mode = msix ? 1 : 0;
  if (words.msixAt[0] !== mode || words.msixAt[1] !== mode)
    return "the driver changed between MSI-X and INTx after a queue was captured (a retry was missed)";
  return msix ? judgeVectors(rx.vector, tx.vector, words.vectorSure[0] === 1, vectors) : "";
}
