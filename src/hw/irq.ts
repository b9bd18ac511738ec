/**
 * Interrupts towards the host: MSI-X entries as the host left them in BAR memory, INTx by message, MSI by a write
 * through the outbound window. When to interrupt is the engine's business. Follows PCI 3.0 6.8 and dw-hardware.md 12.
 * Everything but the constructors runs in the service loop: no exceptions, no allocation.
 */
import type { Controller } from "./controller.ts";
import { command, findCap, linkUp } from "./dbi.ts";
import { Fault } from "./fault.ts";
import { MSG_ASSERT_INTA, MSG_DEASSERT_INTA } from "./iatu.regs.ts";
import type { Iatu } from "./iatu.ts";
import { fence, ld32, st32 } from "./mem.ts";
import {
  CAP_ID_MSI,
  CAP_ID_MSIX,
  COMMAND_INTX_DISABLE,
  COMMAND_MASTER,
  MSIX_CTL_ENABLE,
  MSIX_CTL_FUNCTION_MASK,
  MSIX_ENTRY_ADDR_HI,
  MSIX_ENTRY_CTRL,
  MSIX_ENTRY_DATA,
  MSIX_ENTRY_MASKED,
  MSIX_ENTRY_SIZE,
} from "./pci.layout.ts";

export const IRQ_READY = 0;
export const IRQ_MASKED = 1;
export const IRQ_OFF = 2;

/** the host writes an entry in four pieces; it is not changing when two readings agree */
const STABLE_TRIES = 8;

export class MsixTable {
  addrLo = 0;
  addrHi = 0;
  data = 0;
  readonly vectors: number;
  private readonly ctrl: Controller;
  private readonly table: number;
  private readonly pba: number;
  private readonly cap: number;

  /**
   * @param tablePtr,pbaPtr CPU addresses inside the BAR's memory
   * @throws Fault E_MISSING when the core has no MSI-X capability
   */
  constructor(ctrl: Controller, tablePtr: number, pbaPtr: number, vectors: number) {
    this.ctrl = ctrl;
    this.table = tablePtr;
    this.pba = pbaPtr;
    this.vectors = vectors;
    this.cap = findCap(ctrl, CAP_ID_MSIX);
    if (this.cap === 0) throw new Fault("E_MISSING", `${ctrl.name} has no MSI-X capability`, "use INTx");
  }

  private control(): number {
    return this.ctrl.dbi.ld32(this.cap) >>> 16;
  }

  /** MSI-X is on and the function mask is off. */
  enabled(): boolean {
    return (this.control() & (MSIX_CTL_ENABLE | MSIX_CTL_FUNCTION_MASK)) === MSIX_CTL_ENABLE;
  }

  /**
   * Read the entry of `vector` into addrLo, addrHi, data (int32 words).
   * @returns IRQ_READY; IRQ_MASKED: masked, or just being rewritten, its pending bit is set and has to be retried;
   *          IRQ_OFF: MSI-X is disabled, or there is no such vector
   */
  load(vector: number): number {
    if (vector < 0 || vector >= this.vectors) return IRQ_OFF;
    const control = this.control();
    if ((control & MSIX_CTL_ENABLE) === 0) return IRQ_OFF;
    if ((control & MSIX_CTL_FUNCTION_MASK) === 0) {
      const e = this.table + vector * MSIX_ENTRY_SIZE;
      for (let i = 0; i < STABLE_TRIES; i++) {
        const lo = ld32(e);
        const hi = ld32(e + MSIX_ENTRY_ADDR_HI);
        const data = ld32(e + MSIX_ENTRY_DATA);
        const mask = ld32(e + MSIX_ENTRY_CTRL);
        if (
          ld32(e) !== lo ||
          ld32(e + MSIX_ENTRY_ADDR_HI) !== hi ||
          ld32(e + MSIX_ENTRY_DATA) !== data ||
          ld32(e + MSIX_ENTRY_CTRL) !== mask
        )
          continue;
        if (mask & MSIX_ENTRY_MASKED) break;
        this.addrLo = lo | 0;
        this.addrHi = hi | 0;
        this.data = data | 0;
        return IRQ_READY;
      }
    }
    this.setPending(vector);
    return IRQ_MASKED;
  }

  private setPending(vector: number): void {
    const p = this.pba + ((vector >>> 5) << 2);
    st32(p, ld32(p) | (1 << (vector & 31)));
    fence();
  }

  /** The vector waits for being unmasked. */
  pending(vector: number): boolean {
    return ((ld32(this.pba + ((vector >>> 5) << 2)) >>> (vector & 31)) & 1) !== 0;
  }

  clearPending(vector: number): void {
    const p = this.pba + ((vector >>> 5) << 2);
    st32(p, ld32(p) & ~(1 << (vector & 31)));
  }
}

/**
 * A piece of the outbound window that is aimed at a message address and stays there; it moves only when the address
 * leaves it. One alignment unit large. A region must not change under a posted write (dw-hardware.md 10), so the last
 * message is pushed out by a read before the region moves, as Linux does before it unmaps the window.
 */
export class MessageWindow {
  /** times the region had to be aimed anew */
  moves = 0;
  private readonly ctrl: Controller;
  private readonly iatu: Iatu;
  private readonly region: number;
  private readonly off: number;
  private readonly unit: number;
  private targetLo = 0;
  private targetHi = 0;
  private aimed = false;
  /** window offset of a message that may still be on its way, -1 when there is none */
  private sent = -1;

  /** @param windowOff offset in ctrl.window, a multiple of the core's alignment */
  constructor(ctrl: Controller, iatu: Iatu, region: number, windowOff: number) {
    const { windowAlign, outboundWindows } = ctrl.core;
    if (region >= outboundWindows)
      throw new Fault("E_MISSING", `outbound region ${region} of ${ctrl.name}: it has ${outboundWindows}`);
    if (windowOff % windowAlign || windowOff + windowAlign > ctrl.window.size)
      throw new Fault("E_USAGE", `message window at ${windowOff} + ${windowAlign} of ${ctrl.window.size} bytes`);
    this.ctrl = ctrl;
    this.iatu = iatu;
    this.region = region;
    this.off = windowOff;
    this.unit = windowAlign;
  }

  /** Posted 32-bit write to a PCI address. @returns 0, or -1 when the region could not be aimed or the link is down */
  write(addrLo: number, addrHi: number, data: number): number {
    if (!linkUp(this.ctrl)) return -1;
    const inside = addrLo & (this.unit - 1);
    const lo = (addrLo - inside) | 0;
    if (!this.aimed || lo !== this.targetLo || addrHi !== this.targetHi) {
      // what the read returns means nothing: it comes back behind the write
      if (this.sent >= 0) this.ctrl.window.ld32(this.sent);
      this.sent = -1;
      const rc = this.iatu.aim(this.region, this.ctrl.windowBus + this.off, this.unit, lo, addrHi);
      this.aimed = rc === 0;
      if (rc !== 0) return rc;
      this.targetLo = lo;
      this.targetHi = addrHi;
      this.moves++;
    }
    this.sent = this.off + inside;
    this.ctrl.window.st32(this.sent, data);
    return 0;
  }

  /** The region was lost (link reset): aim it again at the next write. */
  forget(): void {
    this.aimed = false;
    this.sent = -1;
  }
}

/**
 * INTA as a level: what the function wants, and what the host was last told. The host's Interrupt Disable bit is
 * honoured; call refresh() once in a while so that a level which was held back is told when the bit is cleared.
 */
export class Intx {
  private readonly ctrl: Controller;
  private readonly iatu: Iatu;
  private readonly assertRegion: number;
  private readonly deassertRegion: number;
  private readonly assertOff: number;
  private readonly deassertOff: number;
  private aimed = false;
  private want = false;
  private told = false;

  /** @param windowOff offset in ctrl.window of two alignment units, for the two message regions */
  constructor(ctrl: Controller, iatu: Iatu, assertRegion: number, deassertRegion: number, windowOff: number) {
    this.ctrl = ctrl;
    this.iatu = iatu;
    this.assertRegion = assertRegion;
    this.deassertRegion = deassertRegion;
    this.assertOff = windowOff;
    this.deassertOff = windowOff + ctrl.core.windowAlign;
    this.program();
  }

  /**
   * Aim both regions; again after a reset that took the iATU with it, which shows in their enable bits. A region that is
   * still there stays as it is: the last message may be on its way through it. The host has forgotten the level.
   */
  program(): void {
    const { ctrl, iatu } = this;
    this.forget();
    if (this.aimed && iatu.enabled(false, this.assertRegion) && iatu.enabled(false, this.deassertRegion)) return;
    this.aimed = true;
    iatu.outboundMsg(this.assertRegion, ctrl.windowBus + this.assertOff, MSG_ASSERT_INTA);
    iatu.outboundMsg(this.deassertRegion, ctrl.windowBus + this.deassertOff, MSG_DEASSERT_INTA);
  }

  /** @returns IRQ_READY when the host has been told, IRQ_OFF when it must not or cannot be told now */
  assert(): number {
    this.want = true;
    return this.refresh();
  }

  deassert(): number {
    this.want = false;
    return this.refresh();
  }

  refresh(): number {
    // a level that the host was told must be taken back before it counts as off (PCI 3.0 6.2.2)
    if (!this.want && !this.told) return IRQ_READY;
    if (!linkUp(this.ctrl)) {
      this.told = false;
      return IRQ_OFF;
    }
    const off = (command(this.ctrl) & COMMAND_INTX_DISABLE) !== 0;
    const level = this.want && !off;
    if (level !== this.told) {
      this.told = level;
      this.ctrl.window.st32(level ? this.assertOff : this.deassertOff, 0);
    }
    return this.want && off ? IRQ_OFF : IRQ_READY;
  }

  /** Link reset: the host has forgotten the level. */
  forget(): void {
    this.want = false;
    this.told = false;
  }
}

/** MSI (no table): address and data are in the capability. */
export class Msi {
  private readonly ctrl: Controller;
  private readonly window: MessageWindow;
  private readonly cap: number;

  /** @throws Fault E_MISSING when the core has no MSI capability */
  constructor(ctrl: Controller, window: MessageWindow) {
    this.ctrl = ctrl;
    this.window = window;
    this.cap = findCap(ctrl, CAP_ID_MSI);
    if (this.cap === 0) throw new Fault("E_MISSING", `${ctrl.name} has no MSI capability`);
  }

  /** vectors the host enabled, 0 when MSI is off */
  enabledVectors(): number {
    const control = this.ctrl.dbi.ld32(this.cap) >>> 16;
    return control & 1 ? 1 << ((control >>> 4) & 7) : 0;
  }

  /** @returns IRQ_READY sent, IRQ_MASKED per-vector mask, IRQ_OFF disabled, no such vector or no bus master */
  raise(vector: number): number {
    const { dbi } = this.ctrl;
    const control = dbi.ld32(this.cap) >>> 16;
    if ((control & 1) === 0 || vector < 0 || vector >= 1 << ((control >>> 4) & 7)) return IRQ_OFF;
    if ((command(this.ctrl) & COMMAND_MASTER) === 0) return IRQ_OFF;
    const wide = (control & 0x80) !== 0 ? 4 : 0;
    if (control & 0x100 && (dbi.ld32(this.cap + 12 + wide) >>> vector) & 1) return IRQ_MASKED;
    const lo = dbi.ld32(this.cap + 4) | 0;
    const hi = wide ? dbi.ld32(this.cap + 8) | 0 : 0;
    const data = dbi.ld32(this.cap + 8 + wide) & 0xffff;
    return this.window.write(lo, hi, data | vector) === 0 ? IRQ_READY : IRQ_OFF;
  }
}
