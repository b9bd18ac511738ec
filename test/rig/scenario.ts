/**
 * What a scenario is, and the set-up that most of them share: an engine and a guest for one combination of kernel,
 * personality, interrupt kind and access mode, taken down whatever happens.
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { RigError } from "./apt.ts";
import { Board, type BoardOptions } from "./board.ts";
import { logDir } from "./cache.ts";
import * as check from "./checks.ts";
import { type Context, emptyFindings, type Findings, failure } from "./checks.ts";
import { Guest, type GuestOptions } from "./guest.ts";
import type { KernelName } from "./packages.ts";

export interface Combination {
  kernel: KernelName;
  personality: "modern" | "legacy";
  irq: "msix" | "intx";
  mode: "held" | "plain";
  strict: boolean;
}

export interface Scenario {
  name: string;
  /** one line for the list */
  about: string;
  /** whether the combination exists for this scenario */
  fits(c: Combination): boolean;
  run(c: Combination): Promise<Findings>;
}

export interface SetUp {
  board?: Partial<BoardOptions>;
  guest?: Partial<GuestOptions>;
}

let serial = 0;

/** Engine and guest, up to a netdev with an address; taken down afterwards whatever happens. */
export async function withGuest(
  name: string,
  c: Combination,
  options: SetUp,
  work: (ctx: Context, boot: () => Promise<void>) => Promise<void>,
): Promise<Findings> {
  const dir = join(logDir(), `${name}-${c.kernel}-${c.personality}-${c.irq}-${c.mode}-${process.pid}-${++serial}`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const board = new Board({
    dir,
    personality: c.personality,
    irq: c.irq,
    mode: c.mode,
    strict: c.strict,
    ...options.board,
  });
  const guestOptions: GuestOptions = { kernel: c.kernel, dir, socket: board.socket, ...options.guest };
  const ctx: Context = { board, guest: new Guest(guestOptions), found: emptyFindings() };
  const boot = async (): Promise<void> => {
    await ctx.guest.close();
    ctx.guest = new Guest(guestOptions);
    await ctx.guest.start();
  };
  try {
    await board.start();
    await ctx.guest.start();
    await work(ctx, boot);
    board.mustRun();
    ctx.found.strictViolations = board.stat().counters.strict_violations ?? 0;
  } catch (e) {
    await ctx.guest.close();
    await board.stop();
    throw e instanceof RigError ? e : new RigError(`${(e as Error).stack ?? e}`);
  }
  await ctx.guest.close();
  const status = await board.stop();
  // a clean stop is part of every scenario; strict mode turns violations into a status
  if (status !== 0) throw board.error(`epnic run ended with status ${status} after ${name}`);
  rmSync(dir, { recursive: true, force: true });
  return ctx.found;
}

/** Bits that must be there for the intended offloads, and which must not. */
export async function expectFeatures(c: Context, combination: Combination): Promise<void> {
  const bits = await check.features(c);
  const want = combination.personality === "modern" ? [0, 5, 11, 12, 15, 16, 32, 33] : [0, 5, 11, 12, 15, 16];
  const missing = want.filter((b) => !bits.includes(b));
  if (missing.length > 0)
    throw failure(c, `features ${missing.join(", ")} were not negotiated; the guest has ${bits.join(",")}`);
  if (bits.includes(17) || bits.includes(22)) throw failure(c, `a control queue was negotiated: ${bits.join(",")}`);
}

/** Held: every negotiation right. Plain: as many as the engine says, and none silently wrong. */
export async function account(c: Context, combination: Combination, times: number): Promise<void> {
  if (combination.mode === "held") {
    check.judgeNegotiations(c);
    if (c.found.negotiations < times)
      throw failure(c, `${c.found.negotiations} negotiations in the log, at least ${times} were made`);
  } else {
    const { counters } = c.board.stat();
    c.found.negotiations = counters.negotiations + counters.refusals;
    c.found.negotiationsRight = counters.negotiations;
    c.found.refused = counters.refusals;
  }
}
