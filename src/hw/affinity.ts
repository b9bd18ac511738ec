/** Pinning of the calling thread to one CPU: the thread of the service loop; the runtime's helper threads stay free. */
import { Fault } from "./fault.ts";
import { check, errno, libc } from "./libc.ts";

const MAX_CPUS = 1024;
const EINVAL = 22;

/** @throws Fault E_CONFIG when this machine, or this process's cpuset, has no such CPU; E_PERM, E_SYS */
export function pinTo(cpu: number): void {
  const mask = new Uint8Array(MAX_CPUS / 8);
  if (!Number.isInteger(cpu) || cpu < 0 || cpu >= MAX_CPUS) {
    throw new Fault("E_CONFIG", `cpu is ${cpu}, it must be 0 to ${MAX_CPUS - 1}`);
  }
  mask[cpu >> 3] = 1 << (cpu & 7);
  const rc = libc.sched_setaffinity(0, mask.length, mask);
  if (rc !== 0 && errno() === EINVAL) {
    throw new Fault("E_CONFIG", `this process may not use CPU ${cpu}: there is no such CPU, or a cpuset excludes it`);
  }
  check(rc, `sched_setaffinity to CPU ${cpu}`);
}
