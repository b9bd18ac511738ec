/**
 * Two machines with stock kernels and the model between them: a host whose PCIe slot holds the function, and a board
 * whose endpoint controller is the model's other face. On the board the compiled epnic runs from the init script that
 * is shipped in fixtures/init. Set-up and helpers; what is tried with them is board-scenarios.ts.
 */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { RigError, run } from "./apt.ts";
import { AMD64, type Arch } from "./arch.ts";
import { type BoardFiles, boardBinary, boardImage } from "./board-image.ts";
import { logDir, repoDir } from "./cache.ts";
import { Guest, NET_MODULES } from "./guest.ts";
import { fetchAll, type KernelName } from "./packages.ts";
import { dieWithRig, stop, undoLater } from "./undo.ts";

export const BOARD_IP = "10.97.0.1";
export const HOST_IP = "10.97.0.2";
export const BOARD_NETDEV = "ep0";

const BOARD_MIB = 1024;
const HUGEPAGES = 24;
/** two emulated machines and their model may share one core with others */
const BOOT_MS = 300_000;

export interface PairOptions {
  readonly name: string;
  readonly boardKernel: KernelName;
  /** default amd64; the host is amd64 always */
  readonly boardArch?: Arch;
  readonly hostKernel: KernelName;
  /** model core, see MODEL_CORES */
  readonly core?: string;
  readonly strict?: boolean;
  /** ms that an access of a negotiating host lasts */
  readonly holdMs?: number;
  /** lines added to epnic.toml on the board */
  readonly config?: string;
  /** the host gets the tools too (ip, rdma, rping) */
  readonly hostTools?: boolean;
  /** further archives and files of the board's initramfs */
  readonly archives?: readonly string[];
  readonly files?: BoardFiles;
  /** starts epnic once it is installed and configured; default the init script */
  readonly service?: (p: BoardPair) => Promise<void>;
  /** the host may reset itself */
  readonly hostReboots?: boolean;
}

const CONFIG = (device: string, more: string): string => `device = "${device}"
${more}
[port]
kind = "vduse"
name = "${BOARD_NETDEV}"
`;

/** ok when it exits 0 within the time; slow machines get time, not luck */
export const waitFor = (condition: string, seconds: number): string =>
  `e=$(($(cut -d. -f1 /proc/uptime) + ${seconds})); until ${condition}; do [ $(cut -d. -f1 /proc/uptime) -gt $e ] && { echo 'not within ${seconds} s: ${condition.replaceAll("'", '"')}'; exit 1; }; sleep 0.2; done`;

async function initScript({ board }: BoardPair): Promise<void> {
  await board.must("sh /etc/init.d/S45epnic start", 180_000);
  await board.must(waitFor("grep -q 'function is visible' /var/log/epnic.log", 120), 180_000);
}

export class BoardPair {
  readonly dir: string;
  readonly boardSocket: string;
  readonly hostSocket: string;
  readonly #o: PairOptions;
  #model: Subprocess | null = null;
  #endModel: (() => Promise<void>) | null = null;
  board!: Guest;
  host!: Guest;
  /** PCI address of the controller on the board */
  device = "";

  constructor(o: PairOptions) {
    this.#o = o;
    this.dir = join(logDir(), `${o.name}-${o.boardKernel}-${o.hostKernel}-${process.pid}`);
    this.boardSocket = join(this.dir, "b.sock");
    this.hostSocket = join(this.dir, "h.sock");
  }

  /** Model, board up to a visible function, host up to its prompt. */
  async start(): Promise<void> {
    const o = this.#o;
    const say = (text: string): void => console.error(`rig: ${text}`);
    const arch = o.boardArch ?? AMD64;
    const releases = await fetchAll([o.hostKernel], { say });
    for (const d of ["board", "host"]) {
      rmSync(join(this.dir, d), { recursive: true, force: true });
      mkdirSync(join(this.dir, d), { recursive: true });
    }
    this.#startModel();
    const files = {
      "usr/bin/epnic": { copy: await boardBinary(arch) },
      "etc/init.d/S45epnic": { copy: join(repoDir, "fixtures/init/epnic.busybox") },
      ...o.files,
    };
    const boardRelease = await arch.fetchBoard(o.boardKernel, say);
    const initrd = await boardImage(o.boardKernel, boardRelease, files, join(this.dir, "board.cpio"), say, arch);
    for (const a of o.archives ?? []) await run(["sh", "-c", `cat '${a}' >> '${initrd}'`]);
    this.board = new Guest({
      kernel: o.boardKernel,
      arch,
      dir: join(this.dir, "board"),
      socket: this.boardSocket,
      memoryMiB: BOARD_MIB,
      load: [],
      append: `hugepagesz=2M hugepages=${HUGEPAGES}`,
      qemu: ["-smp", "2", "-initrd", initrd],
      mayReboot: true,
    });
    const hostInitrd = o.hostTools
      ? ["-initrd", await boardImage(o.hostKernel, releases[o.hostKernel]!, {}, join(this.dir, "host.cpio"), say)]
      : [];
    this.host = new Guest({
      kernel: o.hostKernel,
      dir: join(this.dir, "host"),
      socket: this.hostSocket,
      load: [...NET_MODULES],
      memoryMiB: o.hostTools ? 1024 : 512,
      qemu: hostInitrd,
      mayReboot: o.hostReboots ?? false,
    });
    await this.board.start(BOOT_MS);
    await this.startEpnic();
    await this.host.start(BOOT_MS);
    await this.hostUp();
  }

  #startModel(): void {
    const o = this.#o;
    const log = openSync(join(this.dir, "model.log"), "w");
    const args = ["--board", this.boardSocket, "--host", this.hostSocket, "--core", o.core ?? "modern-msix"];
    args.push("--hold-ms", String(o.holdMs ?? 60), ...(o.strict === false ? [] : ["--strict"]));
    const child = Bun.spawn([...dieWithRig, process.execPath, join(repoDir, "src/hw/model/board-model.ts"), ...args], {
      stdin: "ignore",
      stdout: log,
      stderr: log,
      env: { ...process.env, NO_COLOR: "1" },
    });
    closeSync(log);
    this.#model = child;
    this.#endModel = undoLater("the model", () => stop(child, 2000));
  }

  modelLog(): string {
    const path = join(this.dir, "model.log");
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  }

  /** The board's system comes up: modules, configuration, bind, init script. */
  async startEpnic(): Promise<void> {
    const { board } = this;
    await board.must("modprobe -a virtio_net uio_pci_generic", 120_000);
    await board.must("mkdir -p /usr/bin /etc/epnic; ln -sf /usr/bin/epnic /bin/epnic");
    this.device = (
      await board.must(
        "for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor)$(cat $d/device) = 0x12340xe9cc ] && basename $d; done; true",
      )
    ).trim();
    const text = CONFIG(this.device, this.#o.config ?? "");
    await board.must(`cat > /etc/epnic/epnic.toml <<'EOT'\n${text}EOT`);
    await (this.#o.service ?? initScript)(this);
  }

  /** Addresses on both sides; waits for the netdevs and the first answered ping. */
  async hostUp(): Promise<void> {
    await this.host.must(
      `${waitFor("ls /sys/bus/virtio/drivers/virtio_net/virtio*/net > /dev/null 2>&1", 120)}
       n=$(ls /sys/bus/virtio/drivers/virtio_net/virtio*/net | tail -n 1); echo $n > /tmp/netdev
       ip link set dev $n up && ip addr replace ${HOST_IP}/24 dev $n`,
      240_000,
    );
    await this.board.must(
      `${waitFor(`[ -e /sys/class/net/${BOARD_NETDEV} ]`, 60)}
       ip link set dev ${BOARD_NETDEV} up && ip addr replace ${BOARD_IP}/24 dev ${BOARD_NETDEV}`,
      240_000,
    );
    await this.host.must(waitFor(`ping -q -c 1 -W 2 ${BOARD_IP} > /dev/null`, 120), 240_000);
  }

  /** Counters and state of epnic on the board. */
  async stat(): Promise<{ counters: Record<string, number>; state: Record<string, unknown> }> {
    return JSON.parse(await this.board.must(`NO_COLOR=1 epnic stat ${this.device} --json`, 60_000));
  }

  /** End everything. @returns the model's figures */
  async close(): Promise<Record<string, number | string>> {
    await this.host?.close();
    const model = this.#model;
    model?.kill("SIGTERM");
    await Promise.race([model?.exited, Bun.sleep(2000)]);
    await this.#endModel?.();
    await this.board?.close();
    for (const f of ["board.cpio", "host.cpio"]) rmSync(join(this.dir, f), { force: true });
    const last = this.modelLog()
      .trim()
      .split("\n")
      .findLast((l) => l.startsWith("{"));
    return last === undefined ? {} : (JSON.parse(last) as Record<string, number | string>);
  }

  /** An error with what all three say. */
  async error(text: string): Promise<RigError> {
    let log = "";
    if (this.board?.running)
      log = (
        await this.board
          .sh("tail -n 20 /var/log/epnic.log; dmesg | tail -n 8", 30_000)
          .catch(() => ({ text: "(no answer)" }))
      ).text;
    return new RigError(
      `${text}\n--- epnic on the board\n${log}\n--- model\n${this.modelLog().split("\n").slice(-15).join("\n")}\n--- host\n${this.host?.tail(12) ?? ""}`,
    );
  }
}
