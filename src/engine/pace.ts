/** How the service loop alternates between slices of work and sleeps. One step at a time, so that the caller's event loop gets its turn. */
import type { Doze } from "./doze.ts";
import { type Service, SLICE_IDLE } from "./service.ts";
import type { Sleeper } from "./sleeper.ts";

/** turns after a sleep that was followed by no work: enough for a look at everything */
const DOZE_TURNS = 16;
/** the same when both drivers notify: what nobody tells of (link, registers) is looked at in the first turn */
const GLANCE_TURNS = 4;
/** nanoseconds of a long rest until such a glance */
const GLANCE_NS = 256_000_000;

export class Pace {
  /** @param doze null: only short sleeps, for a host that moves in the loop's own turns */
  constructor(
    private readonly service: Service,
    private readonly sleeper: Sleeper,
    private readonly doze: Doze | null,
  ) {}

  /** One slice; before or after it a sleep when there is nothing to do. */
  step(): void {
    const { service, sleeper, doze } = this;
    const deep = doze?.deep === true;
    const rested = deep && this.sleepLong(doze!);
    if (deep && !rested) {
      sleeper.busy();
      doze!.busy();
    }
    const why = service.slice(undefined, rested ? GLANCE_TURNS : sleeper.dozing ? DOZE_TURNS : undefined);
    service.attend(why);
    if (why !== SLICE_IDLE) {
      if (!service.resting) {
        sleeper.busy();
        if (service.serving) doze?.busy();
      }
    } else if (!rested) {
      if (service.serving) doze?.rest();
      sleeper.sleep(service.nap);
    }
    if (!service.serving) doze?.forget();
  }

  /** @returns false when there is something to attend to */
  private sleepLong(doze: Doze): boolean {
    const until = Bun.nanoseconds() + GLANCE_NS;
    do {
      if (this.sleeper.sleep() || !doze.calm()) return false;
    } while (Bun.nanoseconds() < until);
    return true;
  }
}
