/**
 * The only way to touch memory that another agent (a device, another process, the kernel, the host) reads or writes:
 * single aligned loads and stores that JSC can neither hoist, merge nor turn into read-modify-writes, and barriers.
 * Addresses are raw CPU addresses (Numbers below 2^53), nothing is checked: a wrong one kills the process.
 *
 * After any call of this module, plain indexed typed-array reads in the same turn are really performed; without one
 * they may be hoisted out of a loop once optimised (facts: docs on memory access rules).
 *
 * Two back ends: a page of own machine code (code-page.ts, preferred: see there), or libatomic.so.1 where the kernel
 * refuses executable memory. EPNIC_MEM=code-page|libatomic forces one.
 */
import { dlopen, type Pointer, toArrayBuffer } from "bun:ffi";
import { codePage, type MemPrimitives } from "./code-page.ts";
import { Fault } from "./fault.ts";
import { check, libc, MAP_ANONYMOUS, MAP_PRIVATE, mmap, PROT_READ, PROT_WRITE } from "./libc.ts";

export { ptrOf } from "./libc.ts";

const ACQUIRE = 2;
const RELEASE = 3;
const SEQ_CST = 5;

function libatomic(): MemPrimitives | null {
  try {
    const s = dlopen("libatomic.so.1", {
      __atomic_load_1: { args: ["ptr", "i32"], returns: "u8" },
      __atomic_load_2: { args: ["ptr", "i32"], returns: "u16" },
      __atomic_load_4: { args: ["ptr", "i32"], returns: "u32" },
      __atomic_store_1: { args: ["ptr", "u8", "i32"], returns: "void" },
      __atomic_store_2: { args: ["ptr", "u16", "i32"], returns: "void" },
      __atomic_store_4: { args: ["ptr", "u32", "i32"], returns: "void" },
      atomic_thread_fence: { args: ["i32"], returns: "void" },
    }).symbols;
    const fence = () => s.atomic_thread_fence(SEQ_CST);
    return {
      ld8: (p) => s.__atomic_load_1(p as Pointer, ACQUIRE),
      ld16: (p) => s.__atomic_load_2(p as Pointer, ACQUIRE),
      ld32: (p) => s.__atomic_load_4(p as Pointer, ACQUIRE),
      st8: (p, v) => s.__atomic_store_1(p as Pointer, v, RELEASE),
      st16: (p, v) => s.__atomic_store_2(p as Pointer, v, RELEASE),
      st32: (p, v) => s.__atomic_store_4(p as Pointer, v, RELEASE),
      fence,
      wmb: fence,
    };
  } catch {
    return null;
  }
}

function choose(): { name: "libatomic" | "code-page"; ops: MemPrimitives } {
  const want = process.env.EPNIC_MEM ?? "";
  if (want !== "" && want !== "libatomic" && want !== "code-page")
    throw new Fault("E_CONFIG", `EPNIC_MEM is "${want}", it must be "libatomic" or "code-page"`, "unset EPNIC_MEM");
  const page = want === "libatomic" ? null : codePage();
  if (page !== null) return { name: "code-page", ops: page };
  const atomic = want === "code-page" ? null : libatomic();
  if (atomic !== null) return { name: "libatomic", ops: atomic };
  const unset = "unset EPNIC_MEM";
  if (want === "code-page")
    throw new Fault("E_MISSING", "EPNIC_MEM=code-page, but the kernel refused executable memory", unset);
  if (want === "libatomic")
    throw new Fault(
      "E_MISSING",
      "EPNIC_MEM=libatomic, but libatomic.so.1 is not there",
      `apt-get install libatomic1, or ${unset}`,
    );
  throw new Fault(
    "E_MISSING",
    "no way to make single memory accesses: libatomic.so.1 is not there and no executable page could be mapped",
    "apt-get install libatomic1",
  );
}

const { name, ops } = choose();

/** Which back end serves this process. */
export const memBackend: "libatomic" | "code-page" = name;

/** Load one byte / 16-bit / 32-bit word with acquire order. Unsigned. */
export const ld8: (ptr: number) => number = ops.ld8;
export const ld16: (ptr: number) => number = ops.ld16;
export const ld32: (ptr: number) => number = ops.ld32;
/** Store the low bits of `value` (an int32 or uint32 number) with release order. */
export const st8: (ptr: number, value: number) => void = ops.st8;
export const st16: (ptr: number, value: number) => void = ops.st16;
export const st32: (ptr: number, value: number) => void = ops.st32;
/** Full barrier: earlier loads and stores before later loads and stores (the store-load case of ring suppression). */
export const fence: () => void = ops.fence;
/** Earlier stores are visible to every agent, DMA included, before later stores: put it before a doorbell. */
export const wmb: () => void = ops.wmb;

/** memcpy between addresses; the areas must not overlap. */
export const copy = libc.memcpy as (dst: number, src: number, len: number) => void;
/** memset. */
export const fill = libc.memset as (dst: number, byte: number, len: number) => void;
/** memcmp: 0 when `len` bytes are equal. */
export const compare = libc.memcmp as (a: number, b: number, len: number) => number;

/**
 * A live ArrayBuffer over [ptr, ptr + len). It does not own the memory: using it after unmap() kills the process.
 * @param len at most 4 GiB (a limit of Bun)
 */
export function view(ptr: number, len: number): ArrayBuffer {
  if (len > 2 ** 32)
    throw new Fault("E_SYS", `a view of ${len} bytes was asked, the most is ${2 ** 32}`, "use several views");
  return toArrayBuffer(ptr as Pointer, 0, len);
}

/** Zeroed private memory, page aligned. @returns its CPU address */
export function mapAnonymous(size: number): number {
  return mmap("anonymous memory", size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/** Give a mapping back. Drop every view over it first. */
export function unmap(ptr: number, size: number): void {
  check(libc.munmap(ptr, size), `munmap of ${size} bytes`);
}
