/**
 * The way to the engine, loaded late: `run --check`, help and probe must work where bun:ffi does not. Also turns a
 * checked configuration into the engine's options.
 */
import { join } from "node:path";
import type { EngineLog, EngineOptions } from "../engine/engine.ts";
import { Fault } from "../hw/fault.ts";
import type { Config } from "./_config.ts";
import type { Out } from "./_out.ts";

/** A device name as a file name. */
export const fileOf = (device: string): string => device.replaceAll("/", "_");

/** Where the run of `device` keeps its counters. */
export const counterPath = (runDir: string, device: string): string => join(runDir, `${fileOf(device)}.counters`);

export const engineLog = (out: Out): EngineLog => ({
  info: (m) => out.log.info(m),
  warn: (m) => out.log.warn(m),
  error: (m) => out.log.error(m),
});

/** @throws Fault E_USAGE when host options are given for a device that has a real host */
export function engineOptions(c: Config, device: string, runDir: string, sysfsRoot: string): EngineOptions {
  const isModel = device === "model";
  if (!isModel && (c.host.kind === "vfio-user" || c.host.netns !== undefined)) {
    const key = c.host.kind === "vfio-user" ? "vfio-user" : "netns";
    throw new Fault("E_USAGE", `host.${key} is for the device 'model', the device is '${device}'`, "leave it out");
  }
  if (c.host.kind === "vfio-user" && c.host.path === undefined) {
    throw new Fault("E_CONFIG", "host.kind is vfio-user but host.path is absent", "set host.path to the socket's path");
  }
  return {
    device,
    sysfsRoot,
    personality: c.personality,
    mac: c.mac ?? null,
    mtu: c.mtu,
    queueSize: c.queue_size,
    features: c.features,
    irq: c.irq,
    fetch: c.fetch,
    port: { kind: c.port.kind, name: c.port.name, netns: c.port.netns ?? null },
    host: !isModel
      ? null
      : c.host.kind === "vfio-user"
        ? { kind: "vfio-user", path: c.host.path as string }
        : { kind: "built-in", tap: c.host.tap, netns: c.host.netns ?? null },
    modelCore: c.model.core,
    strict: c.strict,
    cpu: c.cpu ?? null,
    idle: c.idle,
    counters: counterPath(runDir, device),
  };
}
