/** What a core can be for the host. It asks the rules by which `run` decides, so that `probe` never promises more. */
import { planFunction } from "../engine/function/setup.ts";
import type { CoreInfo } from "../hw/controller.ts";
import { EDMA_MAX_CHANNELS } from "../hw/edma.regs.ts";
import { Fault } from "../hw/fault.ts";
import type { Verdict } from "./_inspect.ts";

type Irq = "msix" | "intx";

/** Which ways of interrupting the host a personality can have on this core, and what stands against the others. */
function ways(name: string, core: CoreInfo, personality: "modern" | "legacy"): { can: Irq[]; against: string } {
  const can: Irq[] = [];
  let against = "";
  for (const irq of core.msix ? (["msix", "intx"] as const) : (["intx"] as const)) {
    try {
      planFunction(name, core, { personality, irq });
      can.push(irq);
    } catch (e) {
      if (!(e instanceof Fault)) throw e;
      against ||= e.message;
    }
  }
  return { can, against };
}

/** Which personalities a core can show, and how it can interrupt. Without eDMA, or with an HDMA, none yet. */
export function judge(name: string, core: CoreInfo): { modern: Verdict; legacy: Verdict; interrupts: Irq[] } {
  const no = (why: string) => ({ modern: { possible: false, why }, legacy: { possible: false, why }, interrupts: [] });
  if (core.dmaMap === "none") return no("the controller has no DMA engine of its own");
  if (core.dmaMap === "hdma-native") return no("its DMA engine is a native HDMA, which this version cannot drive");
  const { writeChannels: w, readChannels: r } = core;
  if (w < 1 || r < 1) return no(`1 write and 1 read channel are needed, it has ${w} and ${r}`);
  if (w > EDMA_MAX_CHANNELS || r > EDMA_MAX_CHANNELS) {
    return no(
      `no eDMA answers: its registers tell of ${w} write and ${r} read channels, ${EDMA_MAX_CHANNELS} are possible`,
    );
  }
  if (core.inboundWindows < 1 || core.outboundWindows < 2) {
    return no(`1 inbound and 2 outbound windows are needed, it has ${core.inboundWindows} and ${core.outboundWindows}`);
  }
  const modern = ways(name, core, "modern");
  const legacy = ways(name, core, "legacy");
  const verdict = (of: typeof modern, why: string): Verdict => {
    if (of.can.length === 0) return { possible: false, why: of.against };
    return { possible: true, why: of.against === "" ? why : `${why}; only with --irq ${of.can[0]}: ${of.against}` };
  };
  return {
    modern: core.configLimit
      ? verdict(modern, "vendor capabilities are served through config-limit")
      : { possible: false, why: "the core has no config-limit option, vendor capabilities cannot be served" },
    legacy: verdict(
      legacy,
      legacy.can.includes("msix")
        ? "with MSI-X"
        : "without MSI-X: interrupts by INTx message, and a window of 1 to 2 us at each queue's set-up",
    ),
    interrupts: (["msix", "intx"] as const).filter((i) => modern.can.includes(i) || legacy.can.includes(i)),
  };
}
