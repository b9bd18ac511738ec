/**
 * MSI-X as the host's PCI core drives it: enable with the function mask set, table entries through BAR accesses,
 * one unmask per request_irq (order of Linux drivers/pci/msi). Vectors come from HostIrq.
 */
import {
  COMMAND_INTX_DISABLE,
  MSIX_CTL_ENABLE,
  MSIX_CTL_FUNCTION_MASK,
  MSIX_ENTRY_ADDR_HI,
  MSIX_ENTRY_ADDR_LO,
  MSIX_ENTRY_CTRL,
  MSIX_ENTRY_DATA,
  MSIX_ENTRY_MASKED,
  MSIX_ENTRY_SIZE,
  PCI_COMMAND,
} from "../pci.layout.ts";
import type { HostAccess, Steps } from "./host-access.ts";
import type { MsixCap } from "./host-enumerate.ts";
import type { HostIrq } from "./host-irq.ts";

export class HostMsix {
  readonly #a: HostAccess;
  readonly #irq: HostIrq;
  readonly cap: MsixCap;
  enabled = false;
  /** host interrupt vector of each table entry in use */
  readonly vectors: number[] = [];

  constructor(access: HostAccess, irq: HostIrq, cap: MsixCap) {
    this.#a = access;
    this.#irq = irq;
    this.cap = cap;
  }

  /**
   * pci_alloc_irq_vectors: enable MSI-X with `count` entries, all masked, placeholder messages written.
   * @returns 0, or -28 (ENOSPC) when the table is smaller
   */
  *enable(count: number): Steps<number> {
    if (count > this.cap.vectors) return -28;
    const a = this.#a;
    const control = yield* a.cfgRead(this.cap.cap + 2, 2);
    yield* a.cfgWrite(this.cap.cap + 2, 2, control | MSIX_CTL_ENABLE | MSIX_CTL_FUNCTION_MASK);
    this.enabled = true;
    for (let entry = 0; entry < count; entry++) this.vectors[entry] = this.#irq.allocate();
    const command = yield* a.cfgRead(PCI_COMMAND, 2);
    yield* a.cfgWrite(PCI_COMMAND, 2, command | COMMAND_INTX_DISABLE);
    for (let entry = 0; entry < this.cap.vectors; entry++) yield* this.#control(entry, MSIX_ENTRY_MASKED);
    for (let entry = 0; entry < count; entry++) yield* this.program(entry);
    yield* a.cfgWrite(this.cap.cap + 2, 2, (control | MSIX_CTL_ENABLE) & ~MSIX_CTL_FUNCTION_MASK);
    yield* a.software();
    return 0;
  }

  /** Write address and data of an entry that is masked, then read back so that the writes have landed. */
  *program(entry: number): Steps {
    const vector = this.vectors[entry];
    const address = this.#irq.address(vector);
    const at = this.#entry(entry);
    yield* this.#a.write(this.cap.tableBar, at + MSIX_ENTRY_ADDR_LO, 4, address >>> 0);
    yield* this.#a.write(this.cap.tableBar, at + MSIX_ENTRY_ADDR_HI, 4, Math.floor(address / 2 ** 32));
    yield* this.#a.write(this.cap.tableBar, at + MSIX_ENTRY_DATA, 4, this.#irq.data(vector));
    yield* this.#a.read(this.cap.tableBar, at + MSIX_ENTRY_DATA, 4);
  }

  /** request_irq: the final message, then unmask. */
  *request(entry: number): Steps {
    yield* this.#a.software();
    yield* this.program(entry);
    yield* this.unmask(entry);
  }

  /** A CPU change of an interrupt at run time: mask, new message, unmask. */
  *retarget(entry: number): Steps {
    yield* this.mask(entry);
    this.#irq.retarget(this.vectors[entry]);
    yield* this.program(entry);
    yield* this.unmask(entry);
  }

  *mask(entry: number): Steps {
    yield* this.#control(entry, MSIX_ENTRY_MASKED);
    yield* this.#a.read(this.cap.tableBar, this.#entry(entry) + MSIX_ENTRY_DATA, 4);
  }

  *unmask(entry: number): Steps {
    yield* this.#control(entry, 0);
  }

  /** pci_free_irq_vectors: mask what was used, disable, INTx allowed again. */
  *disable(): Steps {
    if (!this.enabled) return;
    const a = this.#a;
    for (let entry = 0; entry < this.vectors.length; entry++) yield* this.mask(entry);
    const control = yield* a.cfgRead(this.cap.cap + 2, 2);
    yield* a.cfgWrite(this.cap.cap + 2, 2, control & ~(MSIX_CTL_ENABLE | MSIX_CTL_FUNCTION_MASK));
    const command = yield* a.cfgRead(PCI_COMMAND, 2);
    yield* a.cfgWrite(PCI_COMMAND, 2, command & ~COMMAND_INTX_DISABLE);
    this.forget();
  }

  /** Give the vectors back without touching the function. */
  forget(): void {
    for (const vector of this.vectors) this.#irq.free(vector);
    this.vectors.length = 0;
    this.enabled = false;
  }

  *#control(entry: number, value: number): Steps {
    yield* this.#a.write(this.cap.tableBar, this.#entry(entry) + MSIX_ENTRY_CTRL, 4, value);
  }

  #entry(entry: number): number {
    return this.cap.tableOff + entry * MSIX_ENTRY_SIZE;
  }
}
