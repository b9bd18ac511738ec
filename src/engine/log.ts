/** Where the engine tells a person something; src/cmd decides how it looks. */
export interface EngineLog {
  info(msg: string): void;
  warn(msg: string): void;
  error(msg: string): void;
}
