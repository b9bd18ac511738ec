/**
 * One page of own machine code: single loads and stores and the two barriers, for x86-64 and arm64. It needs no
 * library, makes exactly one access of the stated width (libatomic's x86-64 stores are XCHG, which also reads the
 * register), and it is the only way to DMB OSHST on arm64. Not position dependent, written once, then made
 * read-only and executable; arm64 Linux synchronises the instruction cache when the page first becomes executable.
 */
import { CFunction, type FFITypeOrString, type Pointer, toArrayBuffer } from "bun:ffi";
import { libc, MAP_ANONYMOUS, MAP_PRIVATE, mapFailed, PROT_EXEC, PROT_READ, PROT_WRITE } from "./libc.ts";

type Load = (ptr: number) => number;
type Store = (ptr: number, value: number) => void;
type Barrier = () => void;

/** The primitive accesses of one back end. Addresses are aligned to the width; loads are unsigned. */
export interface MemPrimitives {
  ld8: Load;
  ld16: Load;
  ld32: Load;
  st8: Store;
  st16: Store;
  st32: Store;
  fence: Barrier;
  wmb: Barrier;
}

/** bytes per routine; the longest is 8 */
const SLOT = 16;
const NAMES = ["ld8", "ld16", "ld32", "st8", "st16", "st32", "fence", "wmb"] as const;

/** Machine code by routine, as bytes in memory order. */
export const CODE: Record<"x64" | "arm64", Record<keyof MemPrimitives, readonly number[]>> = {
  x64: {
    ld8: [0x0f, 0xb6, 0x07, 0xc3], // movzx eax, byte [rdi]; ret
    ld16: [0x0f, 0xb7, 0x07, 0xc3], // movzx eax, word [rdi]; ret
    ld32: [0x8b, 0x07, 0xc3], // mov eax, [rdi]; ret
    st8: [0x40, 0x88, 0x37, 0xc3], // mov [rdi], sil; ret
    st16: [0x66, 0x89, 0x37, 0xc3], // mov [rdi], si; ret
    st32: [0x89, 0x37, 0xc3], // mov [rdi], esi; ret
    // a locked read-modify-write of the stack orders all earlier and later accesses and drains write-combining
    // buffers; MFENCE does the same at eight times the cost
    fence: [0xf0, 0x48, 0x83, 0x0c, 0x24, 0x00, 0xc3], // lock or qword [rsp], 0; ret
    // ordinary and uncached memory keep the order of stores here; nothing is mapped write-combining
    wmb: [0xc3],
  },
  arm64: {
    // load-acquire and store-release: one access each, legal on Device memory, ordered as on x86-64
    ld8: [0x00, 0xfc, 0xdf, 0x08, 0xc0, 0x03, 0x5f, 0xd6], // ldarb w0, [x0]; ret
    ld16: [0x00, 0xfc, 0xdf, 0x48, 0xc0, 0x03, 0x5f, 0xd6], // ldarh w0, [x0]; ret
    ld32: [0x00, 0xfc, 0xdf, 0x88, 0xc0, 0x03, 0x5f, 0xd6], // ldar w0, [x0]; ret
    st8: [0x01, 0xfc, 0x9f, 0x08, 0xc0, 0x03, 0x5f, 0xd6], // stlrb w1, [x0]; ret
    st16: [0x01, 0xfc, 0x9f, 0x48, 0xc0, 0x03, 0x5f, 0xd6], // stlrh w1, [x0]; ret
    st32: [0x01, 0xfc, 0x9f, 0x88, 0xc0, 0x03, 0x5f, 0xd6], // stlr w1, [x0]; ret
    // outer shareable: the eDMA is an agent outside the cores' inner shareable domain
    fence: [0xbf, 0x33, 0x03, 0xd5, 0xc0, 0x03, 0x5f, 0xd6], // dmb osh; ret
    wmb: [0xbf, 0x32, 0x03, 0xd5, 0xc0, 0x03, 0x5f, 0xd6], // dmb oshst; ret
  },
};

/**
 * Map the page and bind its routines.
 * @returns null when the machine is neither x86-64 nor arm64, or the kernel refuses executable memory (SELinux
 *          execmem, PR_SET_MDWE)
 */
export function codePage(): MemPrimitives | null {
  const arch = process.arch;
  if (arch !== "x64" && arch !== "arm64") return null;
  const size = 16384;
  const page = libc.mmap(null, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapFailed(page)) return null;
  const bytes = new Uint8Array(toArrayBuffer(page as Pointer, 0, NAMES.length * SLOT));
  for (let i = 0; i < NAMES.length; i++) bytes.set(CODE[arch][NAMES[i]!], i * SLOT);
  if (libc.mprotect(page, size, PROT_READ | PROT_EXEC) !== 0) {
    libc.munmap(page, size);
    return null;
  }
  const bind = (name: (typeof NAMES)[number], args: FFITypeOrString[], returns: FFITypeOrString): unknown =>
    CFunction({ ptr: (page + NAMES.indexOf(name) * SLOT) as Pointer, args, returns });
  return {
    ld8: bind("ld8", ["ptr"], "u8") as Load,
    ld16: bind("ld16", ["ptr"], "u16") as Load,
    ld32: bind("ld32", ["ptr"], "u32") as Load,
    st8: bind("st8", ["ptr", "u8"], "void") as Store,
    st16: bind("st16", ["ptr", "u16"], "void") as Store,
    st32: bind("st32", ["ptr", "u32"], "void") as Store,
    fence: bind("fence", [], "void") as Barrier,
    wmb: bind("wmb", [], "void") as Barrier,
  };
}
