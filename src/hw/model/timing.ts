/** placeholder head; filled below */
export interface LinkTiming {
  readonly name: string;
}
