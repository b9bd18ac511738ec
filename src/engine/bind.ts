/**
 * `bind` and `unbind` as plans: lists of single steps that can be printed, done, and undone. A platform endpoint gets an
 * idle function of the kernel's endpoint framework through configfs, so that the kernel keeps clocks, PHY and link
 * (dw-hardware.md 13, way A); registers behind a PCI function are given to uio_pci_generic in the manner of
 * dpdk-devbind. What is already as wanted gives no step.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import type { Controller } from "../hw/controller.ts";
import { Fault } from "../hw/fault.ts";
import { findController, type SysfsController } from "../hw/sysfs.ts";
import { NET_DEVICE_LEGACY, NET_DEVICE_MODERN, VIRTIO_ID_NET, VIRTIO_VENDOR } from "../hw/virtio.layout.ts";
import { listSetup } from "./function/function.ts";

export interface BindStep {
  readonly kind: "mkdir" | "rmdir" | "write" | "link" | "unlink";
  /** reason, for people */
  readonly what: string;
  readonly path: string;
  /** content of a write, target of a link, else "" */
  readonly value: string;
  /** shell command that takes the step back, "" when there is nothing to take back */
  readonly undo: string;
}

export interface BindPlan {
  readonly steps: readonly BindStep[];
  readonly warnings: readonly string[];
}

export interface BindOptions {
  readonly device: string;
  /** directory that holds sys/, "/" on a board */
  readonly sysfsRoot: string;
  readonly personality: "auto" | "modern" | "legacy";
  /** take the controller although another function or driver has it */
  readonly force: boolean;
}

/** name of our function in configfs, and the kernel's idle function driver it is made of */
const OURS = "epnic";
const EPF_DRIVER = "pci_epf_test";
const UIO = "uio_pci_generic";
/** MSI-X vectors to announce: config, one a queue, one spare */
const VECTORS = 4;

const hex = (n: number, digits = 4): string => `0x${n.toString(16).padStart(digits, "0")}`;

function content(path: string): string | null {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return null;
  }
}

const names = (dir: string): string[] => {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
};

/** One register write that `run` makes when it sets up the function. */
export interface RegisterStep {
  readonly kind: "register";
  /** block and byte offset, for example "dbi+0x010" */
  readonly register: string;
  readonly bits: number;
  readonly value: string;
}

/**
 * Every register write of setting up the function on this controller; none is made. Board memory is not allocated yet,
 * so its bus addresses count from 0.
 * @throws Fault E_MISSING when the core cannot do what was asked
 */
export function registerSteps(ctrl: Controller, personality: BindOptions["personality"]): RegisterStep[] {
  return listSetup(ctrl, { personality, irq: "auto" }).map((w) => ({
    kind: "register",
    register: `${w.space}+${hex(w.offset, 3)}`,
    bits: w.bits,
    value: hex(w.value, w.bits / 4),
  }));
}

export const registerText = (s: RegisterStep): string => `${s.register.padEnd(12)} <- ${s.value} (${s.bits} bit)`;

/** A step as the shell command that does the same. */
export function stepText(s: BindStep): string {
  const command =
    s.kind === "write"
      ? `echo ${s.value} >${s.path}`
      : s.kind === "link"
        ? `ln -s ${s.value} ${s.path}`
        : `${s.kind === "unlink" ? "rm" : s.kind} ${s.path}`;
  return `${command.padEnd(72)} # ${s.what}`;
}

function need(device: string, root: string): SysfsController {
  const c = findController(device, root);
  if (c === null) throw new Fault("E_NODEV", `there is no controller "${device}"`, "epnic probe lists what is here");
  if (c.remote) {
    throw new Fault(
      "E_NODEV",
      `${device} (${c.pciId}) is the host's end of a board's DMA engine, not an endpoint of this machine`,
      "bind on the board that is plugged in there",
    );
  }
  return c;
}

/** Collects steps; `write` leaves out what already has the value. */
class Plan {
  readonly steps: BindStep[] = [];
  readonly warnings: string[] = [];

  add(kind: BindStep["kind"], path: string, value: string, what: string, undo: string): void {
    this.steps.push({ kind, path, value, what, undo });
  }

  write(path: string, value: string, what: string): void {
    const now = content(path);
    if (now !== null && (now === value || (/^0x/.test(value) && Number(now) === Number(value)))) return;
    this.add("write", path, value, what, now === null || now === "" ? "" : `echo ${now} >${path}`);
  }
}

/** @throws Fault E_NODEV, E_BUSY when something else has it and force is off, E_MISSING when the kernel lacks a part */
export function planBind(o: BindOptions): BindPlan {
  const c = need(o.device, o.sysfsRoot);
  const plan = new Plan();
  if (c.kind === "pci") bindPci(c, o, plan);
  else bindPlatform(c, o, plan);
  return plan;
}

function bindPci(c: SysfsController, o: BindOptions, plan: Plan): void {
  const drivers = join(o.sysfsRoot, "sys/bus/pci/drivers");
  if (c.driver === UIO) return;
  if (!existsSync(join(drivers, UIO))) {
    throw new Fault("E_MISSING", `the kernel has no driver ${UIO}`, `modprobe ${UIO}`);
  }
  if (c.driver !== null && !o.force) {
    throw new Fault("E_BUSY", `${c.name} is bound to ${c.driver}, wanted is ${UIO}`, "add --force to take it away");
  }
  plan.add(
    "write",
    join(c.path, "driver_override"),
    UIO,
    "let only this driver take it",
    `echo >${join(c.path, "driver_override")}`,
  );
  if (c.driver !== null) {
    const unbind = join(drivers, c.driver, "unbind");
    plan.add("write", unbind, c.name, `take it from ${c.driver}`, `echo ${c.name} >${join(drivers, c.driver, "bind")}`);
  }
  const probe = join(o.sysfsRoot, "sys/bus/pci/drivers_probe");
  plan.add("write", probe, c.name, `give it to ${UIO}`, `echo ${c.name} >${join(drivers, UIO, "unbind")}`);
}

function bindPlatform(c: SysfsController, o: BindOptions, plan: Plan): void {
  const ep = join(o.sysfsRoot, "sys/kernel/config/pci_ep");
  if (c.driver === null) {
    throw new Fault(
      "E_MISSING",
      `no kernel driver has powered and clocked ${c.name}`,
      "load the endpoint driver of the board; epnic probe names it",
    );
  }
  if (!existsSync(ep)) {
    throw new Fault(
      "E_MISSING",
      `${ep} is not there: no configfs of the endpoint framework`,
      "mount -t configfs none /sys/kernel/config && modprobe pci-ep-cfs (kernel option CONFIG_PCI_ENDPOINT_CONFIGFS)",
    );
  }
  const driver = join(ep, "functions", EPF_DRIVER);
  if (!existsSync(driver)) {
    throw new Fault(
      "E_MISSING",
      `the kernel has no endpoint function ${EPF_DRIVER} to hold the place`,
      "modprobe pci-epf-test",
    );
  }
  const controller = join(ep, "controllers", c.name);
  if (!existsSync(controller)) {
    throw new Fault(
      "E_MISSING",
      `${controller} is not there, the driver ${c.driver} did not register an endpoint controller`,
      "switch the controller to endpoint mode (device tree)",
    );
  }
  const start = join(controller, "start");
  const others = c.functions.filter((f) => f !== OURS);
  if (others.length > 0 && !o.force) {
    throw new Fault(
      "E_BUSY",
      `${c.name} already carries the function ${others.join(", ")}, wanted is ${OURS}`,
      "add --force to unlink it",
    );
  }
  if (others.length > 0) {
    plan.write(start, "0", "stop the link");
    for (const f of others) {
      const link = join(controller, f);
      // configfs resolves a relative target from the working directory, not from the link's
      const target = resolve(controller, readlinkSync(link));
      plan.add("unlink", link, "", "take the other function away", `ln -s ${target} ${link}`);
    }
  }
  const fn = join(driver, OURS);
  if (!existsSync(fn)) plan.add("mkdir", fn, "", "an idle function that keeps the place", `rmdir ${fn}`);
  const modern = o.personality === "modern";
  if (o.personality === "auto")
    plan.warnings.push("personality auto: legacy ids are set now, run changes them if the core can be modern");
  const fields: [string, string, string][] = [
    ["vendorid", hex(VIRTIO_VENDOR), "virtio"],
    [
      "deviceid",
      hex(modern ? NET_DEVICE_MODERN : NET_DEVICE_LEGACY),
      modern ? "network device, modern" : "network device, transitional",
    ],
    ["revid", hex(modern ? 1 : 0, 2), "transitional devices have 0"],
    ["baseclass_code", hex(2, 2), "network controller"],
    ["subclass_code", hex(0, 2), "Ethernet"],
    ["progif_code", hex(0, 2), "no programming interface"],
    ["subsys_vendor_id", hex(VIRTIO_VENDOR), "virtio"],
    ["subsys_id", hex(modern ? 0x1100 : VIRTIO_ID_NET), modern ? "any" : "device type: net"],
    ["interrupt_pin", hex(1, 2), "INTA"],
    ["msix_interrupts", String(VECTORS), "config, one a queue, one spare"],
  ];
  for (const [file, value, what] of fields) plan.write(join(fn, file), value, what);
  const link = join(controller, OURS);
  if (!existsSync(link)) plan.add("link", link, fn, "put the function on the controller", `rm ${link}`);
  if (plan.steps.length > 0 || content(start) !== "1") {
    if (content(start) === "1" && !plan.steps.some((s) => s.path === start)) {
      plan.warnings.push("the link is already up: the host must remove and rescan the device to see the new ids");
    } else plan.add("write", start, "1", "start the link", `echo 0 >${start}`);
  }
}

/** Everything planBind set up, taken back; nothing to do gives no steps. */
export function planUnbind(o: { device: string; sysfsRoot: string }): BindPlan {
  const c = need(o.device, o.sysfsRoot);
  const plan = new Plan();
  if (c.kind === "pci") {
    const override = join(c.path, "driver_override");
    const held = content(override);
    if (c.driver === UIO) {
      const unbind = join(o.sysfsRoot, "sys/bus/pci/drivers", UIO, "unbind");
      plan.add("write", unbind, c.name, `take it from ${UIO}`, "");
    }
    if (held === UIO) plan.add("write", override, "", "any driver may take it again", `echo ${UIO} >${override}`);
    if (plan.steps.length > 0) {
      plan.add("write", join(o.sysfsRoot, "sys/bus/pci/drivers_probe"), c.name, "let the kernel choose its driver", "");
    }
    return plan;
  }
  const ep = join(o.sysfsRoot, "sys/kernel/config/pci_ep");
  const controller = join(ep, "controllers", c.name);
  const link = join(controller, OURS);
  const fn = join(ep, "functions", EPF_DRIVER, OURS);
  if (names(controller).includes(OURS)) {
    plan.write(join(controller, "start"), "0", "stop the link");
    plan.add("unlink", link, "", "take the function off the controller", `ln -s ${fn} ${link}`);
  }
  if (existsSync(fn)) plan.add("rmdir", fn, "", "remove the idle function", `mkdir ${fn}`);
  return plan;
}

/**
 * Do the steps in order; when one fails, take back those before it, newest first.
 * @throws Fault naming the step, with the errno of the failure
 */
export function applyPlan(plan: BindPlan, onStep: (step: BindStep) => void): void {
  const done: BindStep[] = [];
  for (const step of plan.steps) {
    onStep(step);
    try {
      doStep(step);
      done.push(step);
    } catch (e) {
      const code = (e as NodeJS.ErrnoException).code ?? "?";
      const left = done.reverse().filter((s) => s.undo !== "" && !takeBack(s));
      throw new Fault(
        code === "EACCES" || code === "EPERM" ? "E_PERM" : code === "EBUSY" ? "E_BUSY" : "E_SYS",
        `${stepText(step).split(" #")[0]!.trim()}: ${code}`,
        left.length === 0
          ? "the steps before it were taken back"
          : `the steps before it were taken back except: ${left.map((s) => s.undo).join("; ")}`,
      );
    }
  }
}

function doStep(s: BindStep): void {
  if (s.kind === "write") writeFileSync(s.path, `${s.value}\n`);
  else if (s.kind === "mkdir") mkdirSync(s.path);
  else if (s.kind === "rmdir") rmdirSync(s.path);
  else if (s.kind === "link") symlinkSync(s.value, s.path);
  else unlinkSync(s.path);
}

/** @returns false when it could not be taken back */
function takeBack(s: BindStep): boolean {
  try {
    const write = /^echo ?(\S*) >(.*)$/.exec(s.undo);
    const link = /^ln -s (\S+) (\S+)$/.exec(s.undo);
    if (write) writeFileSync(write[2]!, `${write[1]!}\n`);
    else if (link) symlinkSync(link[1]!, link[2]!);
    else if (s.undo.startsWith("rmdir ")) rmdirSync(s.path);
    else if (s.undo.startsWith("mkdir ")) mkdirSync(s.path);
    else unlinkSync(s.path);
    return true;
  } catch {
    return false;
  }
}
