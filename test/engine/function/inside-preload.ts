/** Preload of inside.ts: mem.ts with a call between any two accesses, so that the host can act inside a poll. */
import { plugin } from "bun";

plugin({
  name: "accesses with a gap",
  setup(build) {
    build.onLoad({ filter: /src\/hw\/mem\.ts$/ }, async ({ path }) => {
      const text = await Bun.file(path).text();
      const contents = text.replace(
        /export const ((?:ld|st)(?:8|16|32)): ([^=]+=> (?:number|void)) = (ops\.\w+);/g,
        "export const $1: $2 = ((p: number, v: number) => { (globalThis as any).accessGap?.(); return ($3 as any)(p, v); }) as any;",
      );
      if (contents.split("accessGap").length !== 7)
        throw new Error("mem.ts no longer has the six lines that are wrapped");
      return { contents, loader: "ts" };
    });
  },
});
