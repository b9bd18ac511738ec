/**
 * Config space and port logic of the model's function: one store with three doors. The host's door obeys read-only
 * and write-1-to-clear bits, the DBI door opens read-only fields with MISC_CONTROL_1 bit 0, the DBI2 door holds BAR
 * masks. Facts: dw-hardware.md 8, 11. Requests above the config limit and the iATU/eDMA windows in DBI are endpoint.ts.
 */
import {
  BAR_MASK_ENABLE,
  BAR_MEM_64,
  CONFIG_LIMIT_MASK,
  CONFIG_LIMIT_SHIFT,
  DBI,
  DEBUG1_LINK_UP,
  LTSSM_L0,
  RO_WR_EN,
  TARGET_ABOVE_ELBI,
  TARGET_ABOVE_MASK,
  TARGET_ABOVE_SHIFT,
} from "../dbi.regs.ts";
import { COMMAND_INTX_DISABLE, COMMAND_MASTER, COMMAND_MEMORY } from "../pci.layout.ts";
import { type ConfigChoice, configWords, DEVCTL, DEVCTL_FLR, LNKCTL, LNKCTL_RCB } from "./config.layout.ts";

const COMMAND = 0x04;
const BAR0 = 0x10;
const BAR5 = 0x24;
/** Status, upper half of the command word: our request was answered with Unsupported Request, with Completer Abort */
export const STATUS_MASTER_ABORT = 1 << 29;
export const STATUS_TARGET_ABORT = 1 << 28;
/** the function's own config space; behind it is the port logic, which the host cannot write */
const PORT_LOGIC = 0x700;
const MISC_RW = 0x3ff & ~RO_WR_EN;

export interface ConfigOptions extends ConfigChoice {
  /** CONFIG_LIMIT and TARGET_ABOVE_CONFIG_LIMIT exist */
  readonly configLimit: boolean;
  /** DBI 0x8f8 and 0x8fc */
  readonly version: number;
  readonly versionType: number;
}

export class ConfigModel {
  readonly #value = new Int32Array(1024);
  readonly #reset = new Int32Array(1024);
  readonly #host = new Int32Array(1024);
  readonly #ro = new Int32Array(1024);
  readonly #w1c = new Int32Array(1024);
  /** DBI2 masks: size - 1 with bit 0 = enabled */
  readonly #barMask = new Int32Array(6);
  readonly #options: ConfigOptions;
  #misc = 0;
  /** changes when a BAR, the command register or a BAR mask changes */
  generation = 0;
  /** decoded from the command and device control registers */
  memory = false;
  master = false;
  /** turns of the model since no request of ours can reach the host: bus mastering or the link is off */
  turnsCutOff = 0;
  intxDisabled = false;
  /** log2 of the maximum payload and of the maximum read request in bytes */
  mpsShift = 7;
  mrrsShift = 9;
  /** log2 of the read completion boundary: 64 or 128 bytes, as the host sets it in Link Control */
  rcbShift = 6;
  linkUp = true;
  /** a function level reset was asked for by the host; endpoint.ts takes it */
  flrAsked = false;

  constructor(options: ConfigOptions) {
    this.#options = options;
    for (const [off, reset, host, ro, w1c] of configWords(options)) {
      const i = off >> 2;
      this.#reset[i] = reset;
      this.#host[i] = host;
      this.#ro[i] = ro;
      this.#w1c[i] = w1c;
    }
    this.powerOn();
  }

  /** Everything at its reset value, BAR masks included: what PERST# does. */
  powerOn(): void {
    this.#value.set(this.#reset);
    this.#barMask.fill(0);
    this.#misc = this.#options.configLimit ? CONFIG_LIMIT_MASK | (TARGET_ABOVE_ELBI << TARGET_ABOVE_SHIFT) : 0;
    this.#refresh();
  }

  /** One turn of the model. */
  turn(): void {
    this.turnsCutOff = this.master && this.linkUp ? 0 : this.turnsCutOff + 1;
  }

  /** Hot reset: non-sticky fields are lost (ids, command, BAR addresses, capabilities' settings); masks stay. */
  hotReset(): void {
    this.#resetBars(() => this.#value.set(this.#reset.subarray(0, PORT_LOGIC >> 2)));
    this.#misc = this.#options.configLimit ? CONFIG_LIMIT_MASK | (TARGET_ABOVE_ELBI << TARGET_ABOVE_SHIFT) : 0;
    this.#refresh();
  }

  /** Function level reset: what the host may write is reset, what the board has set (ids, pointers) stays. */
  functionReset(): void {
    this.#resetBars(() => {
      for (let i = 0; i < PORT_LOGIC >> 2; i++)
        this.#value[i] = (this.#value[i]! & ~this.#host[i]!) | (this.#reset[i]! & this.#host[i]!);
    });
    this.#refresh();
  }

  #resetBars(rest: () => void): void {
    const flags = [0, 1, 2, 3, 4, 5].map((n) => (this.#upper(n) ? 0 : this.#value[(BAR0 >> 2) + n]! & 0xf));
    rest();
    for (let n = 0; n < 6; n++) this.#value[(BAR0 >> 2) + n] = flags[n]!;
  }

  // --- the host's door ---

  /** One aligned word as the host reads it, int32. */
  hostRead(off: number): number {
    return this.#read(off);
  }

  hostWrite(off: number, value: number, lanes: number): void {
    if (off >= PORT_LOGIC) return;
    if (off >= BAR0 && off <= BAR5) {
      this.#writeBar((off - BAR0) >> 2, value, lanes, false);
      return;
    }
    const i = off >> 2;
    const w = this.#host[i]! & lanes;
    this.#value[i] = ((this.#value[i]! & ~w) | (value & w)) & ~(this.#w1c[i]! & lanes & value);
    if (off === DEVCTL && (value & lanes & DEVCTL_FLR) !== 0) this.flrAsked = true;
    if (off === COMMAND || off === DEVCTL || off === LNKCTL) this.#refresh();
  }

  /** Whether a config request for this word leaves the core's own registers. */
  aboveLimit(off: number): boolean {
    return this.#options.configLimit && off >> 2 > (this.#misc & CONFIG_LIMIT_MASK) >> CONFIG_LIMIT_SHIFT;
  }

  /** TARGET_ABOVE_CONFIG_LIMIT: 1 ELBI, 2 TRGT1 */
  get targetAbove(): number {
    return (this.#misc & TARGET_ABOVE_MASK) >> TARGET_ABOVE_SHIFT;
  }

  // --- the board's doors ---

  dbiRead(off: number): number {
    return this.#read(off);
  }

  dbiWrite(off: number, value: number, lanes: number): void {
    const roOpen = (this.#misc & RO_WR_EN) !== 0;
    if (off === DBI.MISC_CONTROL_1) {
      const fields = this.#options.configLimit ? CONFIG_LIMIT_MASK | TARGET_ABOVE_MASK : 0;
      const w = (RO_WR_EN | (MISC_RW & 0xfe) | fields) & lanes;
      this.#misc = (this.#misc & ~w) | (value & w);
      return;
    }
    if (off >= BAR0 && off <= BAR5) {
      this.#writeBar((off - BAR0) >> 2, value, lanes, roOpen);
      return;
    }
    if (off >= PORT_LOGIC) {
      this.#value[off >> 2] = (this.#value[off >> 2]! & ~lanes) | (value & lanes);
      return;
    }
    const i = off >> 2;
    const w = (this.#host[i]! | (roOpen ? this.#ro[i]! : 0)) & lanes;
    this.#value[i] = ((this.#value[i]! & ~w) | (value & w)) & ~(this.#w1c[i]! & lanes & value);
    this.#refresh();
  }

  /** DBI2: only BAR masks exist there, and they cannot be read back. */
  dbi2Write(off: number, value: number, lanes: number): void {
    if (off < BAR0 || off > BAR5) return;
    const n = (off - BAR0) >> 2;
    this.#barMask[n] = (this.#barMask[n]! & ~lanes) | (value & lanes);
    // address bits that the new size does not have are gone
    this.#writeBar(n, this.#value[off >> 2]!, -1, false);
    this.generation++;
  }

  /** A read of ours came back without data: Status tells the host until it clears the bit (PCI 3.0 6.2.3). */
  received(bit: typeof STATUS_MASTER_ABORT | typeof STATUS_TARGET_ABORT): void {
    this.#value[COMMAND >> 2]! |= bit;
  }

  // --- BARs ---

  /** Size in bytes, 0 when disabled or the upper half of a 64-bit BAR. */
  barSize(bar: number): number {
    if (this.#upper(bar) || !this.#enabled(bar)) return 0;
    const high = this.#is64(bar) ? (this.#barMask[bar + 1]! >>> 0) * 4294967296 : 0;
    return high + ((this.#barMask[bar]! | 0xf) >>> 0) + 1;
  }

  /** Address the host gave the BAR. */
  barAddress(bar: number): number {
    const low = (this.#value[(BAR0 >> 2) + bar]! & ~0xf) >>> 0;
    return this.#is64(bar) ? (this.#value[(BAR0 >> 2) + bar + 1]! >>> 0) * 4294967296 + low : low;
  }

  #enabled(bar: number): boolean {
    return (this.#barMask[bar]! & BAR_MASK_ENABLE) !== 0;
  }

  /** 64-bit type only exists on even BARs */
  #is64(bar: number): boolean {
    return (bar & 1) === 0 && (this.#value[(BAR0 >> 2) + bar]! & BAR_MEM_64) !== 0 && this.#enabled(bar);
  }

  #upper(bar: number): boolean {
    return (bar & 1) === 1 && this.#is64(bar - 1);
  }

  #writeBar(bar: number, value: number, lanes: number, flagsToo: boolean): void {
    const i = (BAR0 >> 2) + bar;
    const now = (this.#value[i]! & ~lanes) | (value & lanes);
    this.generation++;
    if (this.#upper(bar)) {
      this.#value[i] = now & ~this.#barMask[bar]!;
      return;
    }
    // flags may be set before or after the mask, so they stick on a disabled BAR too; it reads 0 all the same
    const flags = flagsToo ? now & 0xf : this.#value[i]! & 0xf;
    this.#value[i] = this.#enabled(bar) ? (now & ~(this.#barMask[bar]! | 0xf)) | flags : flags;
  }

  // --- common ---

  #read(off: number): number {
    if (off >= BAR0 && off <= BAR5) {
      const bar = (off - BAR0) >> 2;
      return this.#upper(bar) || this.#enabled(bar) ? this.#value[off >> 2]! : 0;
    }
    switch (off) {
      case DBI.MISC_CONTROL_1:
        return this.#misc;
      case DBI.VERSION:
        return this.#options.version;
      case DBI.VERSION_TYPE:
        return this.#options.versionType;
      case DBI.PORT_DEBUG0:
        return this.linkUp ? LTSSM_L0 : 0;
      case DBI.PORT_DEBUG1:
        return this.linkUp ? DEBUG1_LINK_UP : 0;
      case LNKCTL:
        return this.linkUp ? this.#value[off >> 2]! : this.#value[off >> 2]! & 0xffff;
      default:
        return this.#value[off >> 2]!;
    }
  }

  #refresh(): void {
    const command = this.#value[1]!;
    this.memory = (command & COMMAND_MEMORY) !== 0;
    this.master = (command & COMMAND_MASTER) !== 0;
    this.intxDisabled = (command & COMMAND_INTX_DISABLE) !== 0;
    const devctl = this.#value[DEVCTL >> 2]!;
    this.mpsShift = 7 + ((devctl >> 5) & 7);
    this.mrrsShift = 7 + ((devctl >> 12) & 7);
    this.rcbShift = (this.#value[LNKCTL >> 2]! & LNKCTL_RCB) === 0 ? 6 : 7;
    this.generation++;
  }
}
