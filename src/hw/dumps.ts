/**
 * All registers of a controller as text, one a line: what `probe -v` prints and fixtures/boards keeps.
 * Reads only, but for the selection registers of cores with viewports, which are put back.
 */
import type { Controller } from "./controller.ts";
import { DBI_HEADER, DBI_PORT } from "./dbi.regs.ts";
import { Edma } from "./edma.ts";
import { ATU_VIEWPORT } from "./iatu.regs.ts";
import { IatuRegs } from "./iatu.ts";
import { dump } from "./reg-table.ts";

/** @param withFields append the fields of each register */
export function dumpController(ctrl: Controller, withFields = false): string {
  let text = dump(ctrl.dbi, DBI_HEADER, 0, "", withFields) + dump(ctrl.dbi, DBI_PORT, 0, "", withFields);
  const atu = new IatuRegs(ctrl.dbi, ctrl.atu);
  const selected = ctrl.atu ? 0 : ctrl.dbi.ld32(ATU_VIEWPORT);
  for (let i = 0; i < ctrl.core.outboundWindows; i++) text += atu.dump(false, i, withFields);
  for (let i = 0; i < ctrl.core.inboundWindows; i++) text += atu.dump(true, i, withFields);
  if (!ctrl.atu) ctrl.dbi.st32(ATU_VIEWPORT, selected);
  const map = ctrl.core.dmaMap;
  return map === "none" || map === "hdma-native" ? text : text + new Edma(ctrl).dump(withFields);
}
