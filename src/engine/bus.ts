/** Bus addresses as int32 words, the form in which the hot path carries them. For set-up; hot code adds with carry. */
export const busLo = (bus: number): number => bus | 0;
export const busHi = (bus: number): number => Math.floor(bus / 4294967296) | 0;
