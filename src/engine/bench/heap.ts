/**
 * Memory that the JavaScript heap has taken. heapSize() of bun:jsc counts what the last collection found alive, so garbage
 * never shows in it; blocks that allocation takes from the system do. Cells that were free in blocks of before are used
 * first, so some 10^3 small objects stay unseen.
 */

/** Bytes of all blocks of the heap. It allocates a little itself: call it outside of what is measured. */
export function heapBlocks(): number {
  return process.memoryUsage().heapTotal;
}
