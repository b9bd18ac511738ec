/**
 * How a driver is told that the device's side has changed: link status, DEVICE_NEEDS_RESET, and the ISR byte in front of
 * either (VIRTIO 1.2 2.1.2, 2.5, 4.1.4.5.1). The same in both personalities but for the places of the registers.
 */
import { ld8, st8, wmb } from "../../hw/mem.ts";
import { STATUS_DRIVER_OK, STATUS_NEEDS_RESET } from "../../hw/virtio.layout.ts";
import type { NetConfig } from "./config.ts";
import { ISR_CONFIG, ISR_CONFIG_POLLS, ISR_QUEUE } from "./parts.ts";

export class ConfigNotice {
  /** polls until the config bit of ISR is taken back, 0: it is not set */
  countdown = 0;
  private generation = 0;

  /**
   * @param isr CPU address of the ISR byte @param status of the status byte
   * @param counter of config_generation, 0: the layout has none
   */
  constructor(
    private readonly isr: number,
    private readonly status: number,
    private readonly counter: number,
    private readonly config: NetConfig,
  ) {}

  /** As after a reset: with INTx on a shared line the driver looks at its rings because the queue bit rests at 1. */
  reset(): void {
    st8(this.isr, ISR_QUEUE);
    this.countdown = 0;
  }

  /** Go on with what an earlier process left in the registers. */
  goOn(): void {
    this.generation = ld8(this.counter);
  }

  /** One poll while `countdown` runs: the host has read the config bit long ago, and nothing clears it on read. */
  tick(): void {
    if (--this.countdown === 0) st8(this.isr, ISR_QUEUE);
  }

  /** Show the carrier in the config at `at`. @returns whether it was another one before */
  showLink(up: boolean, at: number): boolean {
    const { config } = this;
    if (config.up === up) return false;
    config.up = up;
    config.writeStatus(at);
    wmb();
    // 4.1.4.3: the generation changes behind the fields, and a driver that saw a mix reads again
    this.generation = (this.generation + 1) & 0xff;
    if (this.counter !== 0) st8(this.counter, this.generation);
    return true;
  }

  /** 4.1.4.5.1: the ISR bit is set first, with MSI-X too. @param reachable a vector is mapped, or none is needed @returns 1 when the driver can be told */
  raise(reachable: boolean): number {
    st8(this.isr, ISR_QUEUE | ISR_CONFIG);
    this.countdown = ISR_CONFIG_POLLS;
    return reachable ? 1 : 0;
  }

  /** Set DEVICE_NEEDS_RESET, see HostFunction.setNeedsReset(). */
  needsReset(reachable: boolean): number {
    const status = ld8(this.status);
    if ((status & STATUS_DRIVER_OK) === 0) return 0;
    st8(this.status, status | STATUS_NEEDS_RESET);
    return this.raise(reachable);
  }
}
