/**
 * One QEMU guest (TCG): an unmodified Debian kernel with the rig's initramfs. Kernel log on the first serial line
 * (kept in a file), a command channel on the second. It knows nothing of scenarios.
 */
import { closeSync, existsSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { RigError } from "./apt.ts";
import { AMD64, type Arch } from "./arch.ts";
import { image } from "./image.ts";
import type { KernelName } from "./packages.ts";
import { dieWithRig, stop, undoLater } from "./undo.ts";

export interface GuestOptions {
  kernel: KernelName;
  /** default amd64 */
  arch?: Arch;
  /** folder of this run: sockets and logs */
  dir: string;
  /** vfio-user socket of the function, or null for a guest without it */
  socket: string | null;
  memoryMiB?: number;
  /** initramfs to boot instead of the kernel's own image */
  initrd?: string;
  /** modules to load at boot, in order */
  load?: readonly string[];
  /** further kernel arguments */
  append?: string;
  /** further QEMU arguments, before the function's device */
  qemu?: readonly string[];
  /** the guest may reset itself (default: a reset ends QEMU) */
  mayReboot?: boolean;
}

/** Modules that virtio_net needs, in order; those built into a kernel have no file and are skipped. */
export const NET_MODULES = [
  "virtio_ring",
  "virtio",
  "virtio_pci_modern_dev",
  "virtio_pci_legacy_dev",
  "virtio_pci",
  "failover",
  "net_failover",
  "virtio_net",
] as const;

export interface Answer {
  status: number;
  text: string;
}

/**
 * How long things may take, ms: for a machine of two slow cores without KVM that does other work too. A boot takes 7 s
 * alone and 30 s there; nothing waits longer than it must.
 */
const BOOT_MS = 240_000;
const COMMAND_MS = 60_000;
const END_MS = 120_000;
/** QEMU gives an access up after 5 s by itself and the guest reads all ones; a server that is not scheduled is no fault */
const ACCESS_MS = 60_000;

type Waiter = { id: string; resolve: (a: Answer) => void; reject: (e: Error) => void };

/** QEMU's device for a function behind a vfio-user socket. */
function functionDevice(path: string): object {
  return { driver: "vfio-user-pci", socket: { type: "unix", path }, "x-msg-timeout": ACCESS_MS };
}

export class Guest {
  readonly logPath: string;
  readonly #options: GuestOptions;
  #qemu: Subprocess | null = null;
  #channel: { write(data: string): number; end(): void } | null = null;
  #text = "";
  #next = 1;
  #waiter: Waiter | null = null;
  #ready: ((release: string) => void) | null = null;
  #forget: (() => Promise<void>) | null = null;
  /** kernel release as the guest told it */
  release = "";

  constructor(options: GuestOptions) {
    this.#options = options;
    this.logPath = join(options.dir, "serial.log");
  }

  /** Start QEMU and wait for the init script. @throws RigError with the tail of the log */
  async start(timeoutMs = BOOT_MS): Promise<void> {
    const o = this.#options;
    const arch = o.arch ?? AMD64;
    const cpio = o.initrd ?? (await image(o.kernel, arch));
    const mem = o.memoryMiB ?? 512;
    const channel = join(o.dir, "cmd.sock");
    rmSync(channel, { force: true });
    const append = [
      `${arch.append} panic=-1 loglevel=5`,
      `rig.load=${(o.load ?? NET_MODULES).join(",")}`,
      o.append ?? "",
    ];
    const args = [
      ...dieWithRig,
      ...arch.qemu(),
      "-accel",
      "tcg,thread=multi",
      ...arch.machine,
      "-m",
      `${mem}M`,
      "-object",
      `memory-backend-memfd,id=mem,size=${mem}M,share=on`,
      "-nodefaults",
      "-display",
      "none",
      "-monitor",
      "none",
      "-serial",
      `file:${this.logPath}`,
      "-chardev",
      `socket,id=cmd,path=${channel},server=on,wait=off`,
      "-serial",
      "chardev:cmd",
      "-kernel",
      arch.vmlinuz(o.kernel),
      "-initrd",
      cpio,
      "-append",
      append.join(" ").trim(),
      ...(o.mayReboot ? [] : ["-no-reboot"]),
      ...(o.qemu ?? []),
    ];
    if (o.socket) args.push("-device", JSON.stringify(functionDevice(o.socket)));
    const err = openSync(join(o.dir, "qemu.log"), "w");
    this.#qemu = Bun.spawn(args, { stdin: "ignore", stdout: err, stderr: err });
    closeSync(err);
    const child = this.#qemu;
    this.#forget = undoLater("QEMU", () => stop(child, 1000));
    const release = await this.#within(timeoutMs, "boot", async () => {
      const ready = new Promise<string>((resolve) => {
        this.#ready = resolve;
      });
      await this.#connect(channel);
      return ready;
    });
    this.release = release;
  }

  async #connect(path: string): Promise<void> {
    for (;;) {
      if (existsSync(path)) {
        try {
          const socket = await Bun.connect({
            unix: path,
            socket: {
              data: (_s, bytes) => this.#receive(bytes.toString("latin1")),
              close: () => this.#lost("the command channel was closed"),
              error: () => this.#lost("the command channel broke"),
            },
          });
          this.#channel = socket as unknown as { write(data: string): number; end(): void };
          return;
        } catch {
          // QEMU has the file but does not listen yet
        }
      }
      await Bun.sleep(20);
    }
  }

  #lost(reason: string): void {
    this.#waiter?.reject(new RigError(reason));
    this.#waiter = null;
  }

  #receive(text: string): void {
    this.#text += text.replaceAll("\r", "");
    const ready = this.#text.match(/@@READY (\S+)\n/);
    if (ready) {
      this.#text = "";
      this.#ready?.(ready[1]);
      this.#ready = null;
      return;
    }
    const w = this.#waiter;
    if (!w) return;
    const m = this.#text.match(new RegExp(`@@BEGIN ${w.id}\\n([\\s\\S]*?)\\n@@END ${w.id} (\\d+)\\n`));
    if (!m) return;
    this.#text = "";
    this.#waiter = null;
    w.resolve({ text: m[1].trimEnd(), status: Number(m[2]) });
  }

  /** Wait with a limit and with an eye on QEMU. */
  async #within<T>(ms: number, what: string, work: () => Promise<T>): Promise<T> {
    const qemu = this.#qemu;
    if (!qemu) throw new RigError("the guest is not running");
    let timer: ReturnType<typeof setTimeout> | undefined;
    const limit = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(this.#error(`${what}: nothing within ${ms / 1000} s`)), ms);
    });
    const died = qemu.exited.then((status) => {
      throw this.#error(`${what}: QEMU ended with status ${status}`);
    });
    died.catch(() => {});
    try {
      return await Promise.race([work(), limit, died]);
    } finally {
      clearTimeout(timer);
    }
  }

  #error(text: string): RigError {
    return new RigError(`${text}\n--- tail of ${this.logPath}\n${this.tail(25)}\n--- QEMU\n${this.qemuLog()}`);
  }

  /** Last lines of the kernel log. */
  tail(lines: number): string {
    if (!existsSync(this.logPath)) return "(no log)";
    return readFileSync(this.logPath, "latin1").replaceAll("\r", "").trimEnd().split("\n").slice(-lines).join("\n");
  }

  qemuLog(): string {
    const path = join(this.#options.dir, "qemu.log");
    return existsSync(path) ? readFileSync(path, "utf8").trim() : "";
  }

  /** Run a shell script in the guest. */
  async sh(script: string, timeoutMs = COMMAND_MS): Promise<Answer> {
    if (!this.#channel) throw new RigError("the guest has no command channel");
    if (this.#waiter) throw new RigError("a command is running in the guest already");
    const id = String(this.#next++);
    const what = `guest command \`${script.length > 60 ? `${script.slice(0, 60)}...` : script}\``;
    const channel = this.#channel;
    return this.#within(
      timeoutMs,
      what,
      () =>
        new Promise<Answer>((resolve, reject) => {
          this.#waiter = { id, resolve, reject };
          channel.write(`${id} ${Buffer.from(script).toString("base64")}\n`);
        }),
    ).finally(() => {
      if (this.#waiter?.id === id) this.#waiter = null;
    });
  }

  /** Run a script that must succeed. @returns its output */
  async must(script: string, timeoutMs?: number): Promise<string> {
    const a = await this.sh(script, timeoutMs);
    if (a.status !== 0) throw this.#error(`guest command failed with ${a.status}: ${script}\n${a.text}`);
    return a.text;
  }

  /** Send a script that ends the guest or this boot; no answer is expected. */
  fire(script: string): void {
    this.#channel?.write(`${this.#next++} ${Buffer.from(script).toString("base64")}\n`);
  }

  /** The guest was told to reboot: wait for the next boot's init. */
  async rebooted(timeoutMs = BOOT_MS): Promise<void> {
    this.release = await this.#within(
      timeoutMs,
      "reboot",
      () =>
        new Promise<string>((resolve) => {
          this.#ready = resolve;
        }),
    );
  }

  /** Wait until QEMU ends by itself. @returns its status */
  async ended(timeoutMs = END_MS): Promise<number> {
    const qemu = this.#qemu;
    if (!qemu) return 0;
    const status = await Promise.race([qemu.exited, Bun.sleep(timeoutMs).then(() => null)]);
    if (status === null) throw this.#error(`QEMU did not end within ${timeoutMs / 1000} s`);
    return status;
  }

  get running(): boolean {
    return this.#qemu !== null && this.#qemu.exitCode === null && this.#qemu.signalCode === null;
  }

  /** SIGKILL, as a host that loses power. */
  async kill(): Promise<void> {
    this.#qemu?.kill("SIGKILL");
    await this.#qemu?.exited;
  }

  async close(): Promise<void> {
    this.#channel?.end();
    this.#channel = null;
    await this.#forget?.();
  }
}
