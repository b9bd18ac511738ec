/**
 * Running a function with the calling thread inside a named network namespace (/run/netns/NAME, as `ip netns` keeps
 * them). Sockets and TAPs made inside stay there after the return.
 *
 * Hazard: only this system thread moves. A thread that the runtime happens to start meanwhile inherits the
 * namespace, so keep the function short and synchronous.
 */
import { EACCES, ENOENT, EPERM, sysFault } from "./errno.ts";
import { Fault } from "./fault.ts";
import { CLONE_NEWNET, check, cstring, errno, errnoText, libc, O_CLOEXEC, O_RDONLY } from "./libc.ts";

/**
 * @param name a namespace of /run/netns; "" runs fn where the thread is
 * @returns what fn returns; the thread is back in its own namespace also when fn throws
 * @throws Fault E_MISSING when the namespace does not exist, E_PERM without CAP_SYS_ADMIN
 */
export function inNetns<T>(name: string, fn: () => T): T {
  if (name === "") return fn();
  if (!/^[^/\0]{1,255}$/.test(name) || name === "." || name === "..")
    throw new Fault("E_CONFIG", `"${name}" is no name of a network namespace`, "list them: ip netns list");
  const own = open("/proc/thread-self/ns/net");
  try {
    const path = `/run/netns/${name}`;
    const fd = libc.open(cstring(path), O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0 && errno() === ENOENT)
      throw new Fault("E_MISSING", `network namespace ${name} does not exist (${path})`, `ip netns add ${name}`);
    check(fd, `open ${path}`);
    const rc = libc.setns(fd, CLONE_NEWNET);
    const e = rc < 0 ? errno() : 0;
    libc.close(fd);
    if (e === EPERM || e === EACCES)
      throw new Fault("E_PERM", `entering network namespace ${name} needs CAP_SYS_ADMIN`, "run as root");
    if (e !== 0) throw sysFault(`setns to ${path}`, e, errnoText(e), "is it a network namespace?");
    try {
      return fn();
    } finally {
      check(libc.setns(own, CLONE_NEWNET), "setns back to the own network namespace");
    }
  } finally {
    libc.close(own);
  }
}

function open(path: string): number {
  return check(libc.open(cstring(path), O_RDONLY | O_CLOEXEC, 0), `open ${path}`);
}
