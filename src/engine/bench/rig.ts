/**
 * What `bench cpu` puts around the engine: rings and buffers in plain memory, two drivers and the stand-in eDMA.
 */
import { mapAnonymousHuge, pageBytes } from "../../hw/anon-huge.ts";
import { ChunkMemory } from "../../hw/dma-chunk.ts";
import { fence, unmap } from "../../hw/mem.ts";
import type { Direction } from "../../hw/model/open-model.ts";
import type { LocalBuffers, NetPort } from "../../hw/net-port.ts";
import { DataPath } from "../datapath.ts";
import { EdmaFetcher } from "../fetch.ts";
import { Interrupts } from "../interrupts.ts";
import { CHANNEL_ELEMENTS, TUNING, type Tuning } from "../tuning.ts";
import { addresses, buffersSpan, HDR, RING_SPAN, rxBuffer, SHAPES, type Shape, Side, txPieces } from "./side.ts";
import { StandIn } from "./stand-in.ts";

export { SHAPES, type Shape };

// low words beyond 2^31 and addresses beyond 4 GiB on purpose
const BOARD_BUS = 0x4_c000_0000;
const HOST_BUS = 0x2f_9000_0000;

export interface RigOptions {
  readonly shape: Shape;
  readonly direction: Direction;
  readonly frameBytes: number;
  /** frames the engine takes up in one turn at the most */
  readonly batch: number;
  /** what is switched off */
  readonly tuning?: Partial<Tuning>;
}

/**
 * Frames that each sender hands over at once: the engine works on them in turns of `batch`. Where a batch is not longer, a block is
 * about 1 us, which one by one takes half as many frames: what interrupts this CPU some hundred times a second shall be in far less
 * than one of a thousand.
 */
export function blockFrames(o: RigOptions): number {
  const frames = o.shape !== "single" && o.frameBytes > 9018 ? 4 : o.batch < 4 ? 16 : 32;
  return Math.max(o.batch, o.direction === "both" ? frames >> 1 : frames);
}

/** A board's interface whose driver is the bench. @param notify its interrupts, by queue */
export function benchPort(
  rings: Side,
  buffers: LocalBuffers,
  patch: boolean,
  notify: (queue: number) => void = () => {},
): NetPort {
  return {
    kind: "test",
    netdev: "",
    ready: true,
    generation: 1,
    rx: rings.rx,
    tx: rings.tx,
    buffers,
    txHeaderWritable: patch,
    rxMergeable: true,
    resumeIdx: () => 0,
    start: () => {},
    stop: () => {},
    turn: () => 0,
    copiedBytes: 0,
    notify,
    setLink: () => {},
    waitFds: [],
    close: () => {},
  };
}

/**
 * Entries of the rings that `o` is measured with: 512, and 1024 where a frame takes several. What the stand-in fetches lands
 * between two blocks, three such steps from an index to a complete chain, and in rings of 256 frames would wait for that.
 */
function ringSize(o: RigOptions): number {
  const rx = Math.ceil((HDR + o.frameBytes) / rxBuffer(o.shape, o.frameBytes));
  const need = blockFrames(o) * 16 * Math.max(rx, txPieces(o.shape, o.frameBytes).length);
  return need <= 512 ? 512 : 1024;
}

/**
 * Elements of the lists: as in service, and more where batches of frames in pieces, of which no number of bytes is too many here, would
 * else be cut to what fits until it is seen what landed.
 */
function listElements(o: RigOptions): number {
  if (o.batch === 1) return CHANNEL_ELEMENTS;
  const rx = Math.ceil((HDR + o.frameBytes) / rxBuffer(o.shape, o.frameBytes));
  const frames = TUNING.tendAfter + 2 * o.batch;
  return Math.max(CHANNEL_ELEMENTS, frames * (rx + txPieces(o.shape, o.frameBytes).length));
}

export class CpuRig {
  readonly dp: DataPath;
  readonly dma: StandIn;
  readonly host: Side;
  readonly board: Side;
  /** frames of one block and direction, and turns in which the engine can take them up */
  readonly block: number;
  readonly turns: number;
  private readonly o: RigOptions;
  private readonly areas: [number, number][] = [];

  constructor(o: RigOptions) {
    this.o = o;
    this.block = blockFrames(o);
    this.turns = Math.ceil(this.block / o.batch);
    const ring = ringSize(o);
    const area = 2 * RING_SPAN + buffersSpan(o.shape, o.frameBytes, ring);
    const own = 16 << 20;
    const boardPtr = this.map(own + area);
    // The host's buffers are addresses only; no byte of them is ever touched.
    const hostPtr = this.map(2 * RING_SPAN);
    const memory = new ChunkMemory([{ ptr: boardPtr, bus: BOARD_BUS, size: own + area }], "");
    this.dma = new StandIn(
      memory,
      boardPtr,
      BOARD_BUS,
      { bus: HOST_BUS, ptr: hostPtr, bytes: 2 * RING_SPAN },
      listElements(o),
    );
    const eq = memory.alloc("eq.bench", area, 4096);
    this.board = new Side(eq.ptr, eq.bus, eq.bus + 2 * RING_SPAN, ring, o.shape, o.frameBytes);
    this.host = new Side(hostPtr, HOST_BUS, HOST_BUS + 2 * RING_SPAN, ring, o.shape, o.frameBytes);
    this.board.polls();
    this.host.polls();
    const buffers: LocalBuffers = {
      base: eq.bus,
      busBase: eq.bus,
      u8: eq.u8,
      pageBusLo: null,
      pageBusHi: null,
      learn: () => -1,
    };
    const port = benchPort(this.board, buffers, true);
    const { write, read, fetch } = this.dma;
    // Without an idle channel of the payload's: ring fetches keep off it.
    const irq = new Interrupts(memory, null, null, 1);
    this.dp = new DataPath(
      { memory },
      port,
      { write, read, fetch },
      new EdmaFetcher(fetch),
      irq,
      ring,
      {
        burst: o.batch,
        // no limit here, but a word as in service: with a double the compiler makes other code
        inflightBytes: 1 << 30,
      },
      { ...TUNING, ...o.tuning, idleChannel: false },
    );
    this.dp.attach({
      rx: addresses(this.host.rx),
      tx: addresses(this.host.tx),
      rxVector: 0xffff,
      txVector: 0xffff,
      hdrLen: HDR,
      mergeable: true,
      eventIdx: false,
      indirect: false,
      boardMergeable: true,
      msix: true,
    });
    this.host.refill();
    this.board.refill();
  }

  private map(bytes: number): number {
    const size = Math.ceil(bytes / 4096) * 4096;
    const ptr = mapAnonymousHuge(size);
    this.areas.push([ptr, size]);
    return ptr;
  }

  /** Everything between two blocks: hardware, then both drivers. */
  between(): void {
    const { o, block } = this;
    this.dma.step();
    this.host.reap();
    this.board.reap();
    if (o.direction !== "host_to_ep") {
      this.host.refill();
      this.board.send(block);
    }
    if (o.direction !== "ep_to_host") {
      this.board.refill();
      this.host.send(block);
    }
    // What these other agents stored is not the engine's to drain.
    fence();
  }

  /** size of the pages that the board's rings and buffers are in */
  get pageBytes(): number {
    return pageBytes(this.areas[0]![0]);
  }

  /** frames that the engine has finished, both directions */
  get frames(): number {
    return this.dp.toHost.frames + this.dp.toBoard.frames;
  }

  close(): void {
    this.dma.close();
    for (const [ptr, bytes] of this.areas) unmap(ptr, bytes);
  }
}
