/** Counters of the model, plain fields for benches, `stat` and tests. All count from the model's start. */
export class ModelStats {
  /** linked-list data elements executed to their end */
  elements = 0;
  linksFollowed = 0;
  /** payload bytes board -> host and host -> board, by DMA */
  bytesToHost = 0;
  bytesToBoard = 0;
  doorbells = 0;
  /** elements that were put while the channel had already read the old control word: it stopped without them */
  lostDoorbells = 0;
  /** doorbells to a channel that was not wholly idle (harmful only with the notIdleDoorbell fault) */
  busyDoorbells = 0;
  /** doorbells while the engine was disabled or the channel was halted or wedged: nothing happened */
  deadDoorbells = 0;
  aborts = 0;
  localErrors = 0;
  llErrors = 0;
  unsupportedRequests = 0;
  completerAborts = 0;
  /** memory writes (DMA or CPU) that no memory and no interrupt range took: they vanish, as posted writes do */
  postedDropped = 0;
  /** memory requests refused because the host has bus mastering off */
  busMasterBlocked = 0;
  /** DMA requests that an outbound region translated because its DMA bypass bit was off */
  dmaTranslated = 0;
  /** memory write and memory read TLPs of the DMA, by maximum payload and read request size */
  tlpWrites = 0;
  tlpReads = 0;
  /** accesses of the board's CPU through the outbound window */
  nonPostedReads = 0;
  postedWrites = 0;
  /** interrupt messages that arrived at the host: message writes, remote "done" writes among them, INTx messages */
  messages = 0;
  imwrWrites = 0;
  intxMessages = 0;
  /** Assert_INTA sent although the host had set Interrupt Disable */
  intxWhileDisabled = 0;
  /** host accesses that no inbound region covered, window accesses that no outbound region covered */
  inboundMisses = 0;
  outboundMisses = 0;
  /** outbound regions that were changed while a write of the CPU was on its way through them */
  changedUnderWrite = 0;
  /** config requests above the limit that nothing answered */
  configMisses = 0;
  /** read elements that the R-Car fault spoiled */
  readsSpoiled = 0;
  hotResets = 0;
  functionResets = 0;
}

/** Broken rules of memory ownership, in words; the first ones are kept, all are counted. */
export class ViolationLog {
  static readonly KEPT = 100;
  readonly lines: string[] = [];
  count = 0;

  add(line: string): void {
    this.count++;
    if (this.lines.length < ViolationLog.KEPT) this.lines.push(line);
  }
}
