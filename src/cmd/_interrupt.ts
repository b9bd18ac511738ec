/** SIGINT and SIGTERM while a measurement runs: it ends soon, and what is finished is reported. */
const STATUS = { SIGINT: 130, SIGTERM: 143 } as const;

export class Interrupt {
  /** a signal has come */
  stop = false;
  /** exit status for it, 0 before */
  status = 0;
  /** called when it comes */
  onStop: (() => void) | null = null;
  private readonly handlers = Object.entries(STATUS).map(([name, status]): [string, () => void] => [
    name,
    () => {
      this.stop = true;
      this.status = status;
      this.onStop?.();
    },
  ]);

  constructor() {
    for (const [name, f] of this.handlers) process.on(name, f);
  }

  /** Leave the signals to others again. */
  release(): void {
    for (const [name, f] of this.handlers) process.off(name, f);
  }
}

/** What is said where nothing was finished. */
export const NO_ROWS = "interrupted before the first measurement had ended: the report has no rows";
