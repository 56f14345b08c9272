/**
 * Settings that change while the agent runs.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import { Configuration } from "../Configuration.ts"
import * as Reload from "../Reload.ts"

/** @since 0.1.0 */
export const cell = Cell.make("reload", {
  description: "reads settings again when it is told to, and hands on what can change without a restart",
  needs: [Configuration],
  provides: [Reload.Reload],
  layer: Reload.layer
})
