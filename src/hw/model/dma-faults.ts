/** Misbehaviour of silicon that can be switched on in the model. Data only. */

/** Probabilities 0..1 are drawn from the model's seed. */
export interface DmaFaults {
  /** a channel that finds the old cycle bit stops one to four turns later, deaf to what is appended meanwhile */
  lostDoorbell: number;
  /** an element is fetched (LLP has moved past it) and its data moves only in the next turn */
  holdFetched: number;
  /**
   * an element's data moves packet by packet, with turns between: writes up to a multiple of Max_Payload_Size, reads up
   * to a multiple of the read completion boundary. Drawn once a packet
   */
  splitData: number;
  /** legacy eDMA: a doorbell to a channel that is not wholly idle wedges it until the engine is disabled */
  notIdleDoorbell: boolean;
  /** R-Car Gen4: read elements of 256 bytes and more are spoiled while Max_Read_Request_Size is above 128 */
  rcarReadRequest: boolean;
  /** the registers of a single transfer read 0 when it is done, those of all channels of a direction when its engine is switched off */
  contextLost: boolean;
}

export const NO_FAULTS: Readonly<DmaFaults> = {
  lostDoorbell: 0,
  holdFetched: 0,
  splitData: 0,
  notIdleDoorbell: false,
  rcarReadRequest: false,
  contextLost: false,
};
