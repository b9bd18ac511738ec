/** The host's carrier follows the board's netdev: none while that is administratively down. */
import type { NetPort } from "../hw/net-port.ts";
import type { DataPath } from "./datapath.ts";
import type { HostFunction } from "./function/function.ts";
import type { EngineLog } from "./log.ts";

export class Carrier {
  private up = false;

  constructor(
    private readonly fn: HostFunction,
    private readonly port: NetPort,
    private readonly dp: DataPath,
    private readonly log: EngineLog,
  ) {}

  /** Queues are served from now on. */
  begin(): void {
    this.port.setLink(true);
    this.up = this.port.isUp?.() ?? true;
    this.show();
  }

  /** While they are: look whether the board's netdev was switched. One system call. */
  follow(): void {
    const { port } = this;
    if (port.isUp === undefined) return;
    const up = port.isUp();
    if (up === this.up) return;
    this.up = up;
    this.show();
    this.log.info(`${port.netdev} is ${up ? "up" : "down"}: the host sees the link ${up ? "up" : "down"}`);
  }

  private show(): void {
    if (this.fn.setLink(this.up) !== 0) this.dp.configInterrupt(this.fn.configVector);
  }
}
