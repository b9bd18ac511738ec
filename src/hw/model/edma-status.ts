/**
 * Interrupt and error status of the model's eDMA, both directions: done and abort bits with write-1-to-clear, causes of
 * aborts, the emulated interrupt. Facts: dw-hardware.md 1, 4, 6.
 */
import { CAUSE_CA, CAUSE_LOCAL, CAUSE_POISONED, CAUSE_TIMEOUT, CAUSE_UR, INT_ABORT_SHIFT } from "../edma.regs.ts";

/** cause of an abort when the list itself could not be read */
export const LL_ERROR = -1;

export class EdmaStatus {
  /** INT_STATUS: done [7:0], abort [23:16] */
  wr = 0;
  rd = 0;
  /** ERR_STATUS registers */
  wrErr = 0;
  rdErrLo = 0;
  rdErrHi = 0;
  /** interrupt asserted by a write to an INT_STATUS register, and how often that happened */
  emulated = false;
  emulations = 0;
  #zeroed = 0;

  reset(): void {
    this.wr = this.rd = this.wrErr = this.rdErrLo = this.rdErrHi = 0;
    this.emulated = false;
  }

  done(isWrite: boolean, index: number): void {
    if (isWrite) this.wr |= 1 << index;
    else this.rd |= 1 << index;
  }

  /** @param cause a CAUSE_* bit or LL_ERROR; the write side has no causes but "local" and "list" */
  abort(isWrite: boolean, index: number, cause: number): void {
    const bit = 1 << index;
    if (isWrite) {
      this.wr |= bit << INT_ABORT_SHIFT;
      this.wrErr |= cause === LL_ERROR ? bit << 16 : bit;
      return;
    }
    this.rd |= bit << INT_ABORT_SHIFT;
    if (cause === LL_ERROR) this.rdErrLo |= bit << 16;
    else if (cause === CAUSE_LOCAL) this.rdErrLo |= bit;
    else if (cause === CAUSE_UR) this.rdErrHi |= bit;
    else if (cause === CAUSE_CA) this.rdErrHi |= bit << 8;
    else if (cause === CAUSE_TIMEOUT) this.rdErrHi |= bit << 16;
    else if (cause === CAUSE_POISONED) this.rdErrHi |= bit << 24;
  }

  emulate(): void {
    this.emulated = true;
    this.emulations++;
    this.#zeroed = 0;
  }

  /** A write to INT_CLEAR. The causes of a channel go with its abort bit; 0 to both directions ends an emulated interrupt. */
  clear(isWrite: boolean, value: number): void {
    const ab = (value >>> INT_ABORT_SHIFT) & 0xff;
    if (isWrite) {
      this.wr &= ~value;
      this.wrErr &= ~(ab | (ab << 16));
    } else {
      this.rd &= ~value;
      this.rdErrLo &= ~(ab | (ab << 16));
      this.rdErrHi &= ~(ab | (ab << 8) | (ab << 16) | (ab << 24));
    }
    if (value !== 0) return;
    this.#zeroed |= isWrite ? 1 : 2;
    if (this.#zeroed === 3) this.emulated = false;
  }
}
