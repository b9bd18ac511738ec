/**
 * Ties an opened controller and a port to function, channels, data path and service loop. Shared by the engine, the
 * benches and the tests; what is not decided by the controller's core is in the options.
 */
import type { Controller } from "../hw/controller.ts";
import { Edma } from "../hw/edma.ts";
import { Fault } from "../hw/fault.ts";
import { Iatu } from "../hw/iatu.ts";
import { Intx, MsixTable } from "../hw/irq.ts";
import type { NetPort } from "../hw/net-port.ts";
import { StripedChannel } from "../hw/striped-channel.ts";
import type { Channels } from "./channel-set.ts";
import { DataPath } from "./datapath.ts";
import { Doze } from "./doze.ts";
import { EdmaFetcher, type Fetch, type Fetcher, WindowFetcher } from "./fetch.ts";
import { macBytes } from "./function/config.ts";
import { createFunction, type FrozenLife, type HostFunction } from "./function/function.ts";
import { HeaderCheck } from "./header-check.ts";
import { Interrupts } from "./interrupts.ts";
import type { EngineLog } from "./log.ts";
import { RingCheck } from "./ring-check.ts";
import { Service } from "./service.ts";
import { CHANNEL_ELEMENTS, type DirectionLimits } from "./tuning.ts";

export interface AssemblyOptions {
  readonly personality: "auto" | "modern" | "legacy";
  readonly mac: string;
  readonly mtu: number;
  readonly queueSize: number;
  readonly features: string;
  readonly irq: "auto" | "msix" | "intx";
  readonly fetch: Fetch;
  /** see FunctionOptions */
  readonly life?: FrozenLife | null;
}

export interface Assembly {
  readonly edma: Edma;
  readonly channels: Channels;
  readonly fetcher: Fetcher;
  readonly fn: HostFunction;
  readonly irq: Interrupts;
  readonly dp: DataPath;
  readonly doze: Doze;
  readonly service: Service;
}

const LIMITS: DirectionLimits = { burst: 64, inflightBytes: 512 * 1024 };
/** with two channels an announcement waits for both, so there should be less under way */
const STRIPED_LIMITS: DirectionLimits = { burst: 64, inflightBytes: 192 * 1024 };
/** outbound regions: 0 and 1 are INTx messages, the rest serves CPU reads of the host's rings */
const INTX_REGION = 0;
const WINDOW_REGION = 2;
/** INTx pulse on silicon, where a turn is anything from 0.3 to 30 us; the model's host needs turns, not time, to see it */
const INTX_HOLD_NS = 50_000;
const INTX_MODEL_TURNS = 150;
const IDLE_TURNS = 2000;

/** Frames of VDUSE are many small elements: two lists to the host, where there are two channels. */
const striped = (edma: Edma, port: NetPort): boolean => port.kind === "vduse" && edma.writeChannels > 1;

function openChannels(edma: Edma, port: NetPort): Channels {
  const first = edma.open(true, 0, CHANNEL_ELEMENTS);
  const write = striped(edma, port) ? new StripedChannel(first, edma.open(true, 1, CHANNEL_ELEMENTS)) : first;
  const read = edma.open(false, 0, CHANNEL_ELEMENTS);
  const fetch = edma.readChannels > 1 ? edma.open(false, 1, CHANNEL_ELEMENTS) : read;
  return { write, read, fetch };
}

function openFetcher(ctrl: Controller, iatu: Iatu, channels: Channels, how: Fetch): Fetcher {
  if (how !== "window") return new EdmaFetcher(channels.fetch, how === "edma");
  const regions = ctrl.core.outboundWindows - WINDOW_REGION;
  if (regions < 2) {
    throw new Fault(
      "E_MISSING",
      `fetch "window" needs 2 outbound windows besides those of INTx, ${ctrl.name} has ${ctrl.core.outboundWindows} in all`,
      'use fetch "edma"',
    );
  }
  return new WindowFetcher(ctrl, iatu, WINDOW_REGION, regions, ctrl.core.windowAlign);
}

/**
 * The function is visible to the host when this returns.
 * @throws Fault E_MISSING when the core lacks what the options ask for, E_BUSY when its DMA is in use
 */
export function assemble(ctrl: Controller, port: NetPort, log: EngineLog, o: AssemblyOptions): Assembly {
  const edma = new Edma(ctrl);
  const iatu = new Iatu(ctrl);
  const channels = openChannels(edma, port);
  try {
    const fetcher = openFetcher(ctrl, iatu, channels, o.fetch);
    const fn = createFunction({ ...o, controller: ctrl, iatu });
    const table = fn.msixTablePtr === 0 ? null : new MsixTable(ctrl, fn.msixTablePtr, fn.pbaPtr, fn.vectors);
    // With an MSI-X capability too: a host booted with pci=nomsi falls back to the pin.
    const intx = new Intx(ctrl, iatu, INTX_REGION, INTX_REGION + 1, INTX_REGION * ctrl.core.windowAlign);
    const irq = ctrl.isModel
      ? new Interrupts(ctrl.memory, table, intx, INTX_MODEL_TURNS)
      : new Interrupts(ctrl.memory, table, intx, 2, INTX_HOLD_NS);
    const dp = new DataPath(
      ctrl,
      port,
      channels,
      fetcher,
      irq,
      o.queueSize,
      striped(edma, port) ? STRIPED_LIMITS : LIMITS,
    );
    dp.header = new HeaderCheck(ctrl.memory, macBytes(o.mac));
    const rings = new RingCheck(ctrl, ctrl.memory, fetcher, channels.fetch);
    const service = new Service(ctrl, fn, port, dp, log, { mtu: o.mtu, idleTurns: IDLE_TURNS }, rings);
    const doze = new Doze(fn, dp, channels.write);
    return { edma, channels, fetcher, fn, irq, dp, doze, service };
  } catch (e) {
    edma.quiesce();
    throw e;
  }
}
