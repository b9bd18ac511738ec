/** The design of this project under `bench link`: the real DataPath, with every optimisation or without one of them. */
import { findCap } from "../../hw/dbi.ts";
import { Edma } from "../../hw/edma.ts";
import { Iatu } from "../../hw/iatu.ts";
import { MsixTable } from "../../hw/irq.ts";
import { fill, st32 } from "../../hw/mem.ts";
import { CAP_ID_MSIX, MSIX_CTL_ENABLE, MSIX_ENTRY_DATA } from "../../hw/pci.layout.ts";
import { StripedChannel } from "../../hw/striped-channel.ts";
import { DataPath } from "../datapath.ts";
import { EdmaFetcher, WindowFetcher } from "../fetch.ts";
import { Interrupts } from "../interrupts.ts";
import { CHANNEL_ELEMENTS, TUNING, type Tuning } from "../tuning.ts";
import { LinkRig, type LinkRigOptions } from "./link-rig.ts";
import { addresses, HDR } from "./side.ts";

/** what a short turn (vigil.ts) takes of the time of a whole one, measured on x86 */
const BRIEF = 0.4;
/** the range of message interrupts of an x86 host */
const MESSAGE_ADDRESS = 0xfee0_0000;

export interface Variant {
  readonly tuning: Partial<Tuning>;
  /** frames of one burst */
  readonly burst: number;
  /** write channels that carry frames */
  readonly lanes: 1 | 2;
  /** the host's rings are read by the CPU through the window */
  readonly window: boolean;
}

export const FULL: Variant = { tuning: {}, burst: 64, lanes: 1, window: false };

export class EpnicRig extends LinkRig {
  readonly dp: DataPath;

  constructor(o: LinkRigOptions, variant: Variant = FULL) {
    super(o);
    const { controller: ctrl, endpoint } = this.model;
    const edma = new Edma(ctrl);
    const first = edma.open(true, 0, CHANNEL_ELEMENTS);
    const write = variant.lanes === 1 ? first : new StripedChannel(first, edma.open(true, 1, CHANNEL_ELEMENTS));
    const read = edma.open(false, 0, CHANNEL_ELEMENTS);
    const fetch = edma.open(false, 1, CHANNEL_ELEMENTS);
    endpoint.cfgWrite(findCap(ctrl, CAP_ID_MSIX) + 2, 2, MSIX_CTL_ENABLE);
    const table = ctrl.memory.alloc("msix", 4096, 4096);
    fill(table.ptr, 0, 4096);
    st32(table.ptr, MESSAGE_ADDRESS);
    st32(table.ptr + MSIX_ENTRY_DATA, 0x41);
    const irq = new Interrupts(ctrl.memory, new MsixTable(ctrl, table.ptr, table.ptr + 2048, 1), null, 1);
    const fetcher = variant.window
      ? new WindowFetcher(ctrl, new Iatu(ctrl), 0, 4, ctrl.core.windowAlign)
      : new EdmaFetcher(fetch);
    const limits = { burst: variant.burst, inflightBytes: (variant.lanes === 1 ? 512 : 192) * 1024 };
    const tuning = { ...TUNING, ...variant.tuning };
    this.dp = new DataPath(ctrl, this.port, { write, read, fetch }, fetcher, irq, o.ring, limits, tuning);
    this.dp.attach({
      rx: addresses(this.host.rx),
      tx: addresses(this.host.tx),
      rxVector: 0,
      txVector: 0,
      hdrLen: HDR,
      mergeable: true,
      eventIdx: false,
      indirect: false,
      boardMergeable: true,
      msix: true,
      notices: this.bell,
    });
  }

  /** A turn that looks at one thing alone takes less of the CPU's time. */
  protected override get turnNs(): number {
    return this.dp.brief ? this.o.turnNs * BRIEF : this.o.turnNs;
  }

  protected step(): void {
    this.pass();
    const rc = this.dp.turn();
    if (rc < 0) throw new Error(`bench: code ${rc}, ${this.dp.culprit} a=${this.dp.a} b=${this.dp.b}`);
    // A frame counts as work when it is begun and again when it is finished.
    if (rc > 0) this.spend((rc * this.o.frameNs) / 2);
  }
}
