/**
 * How full the tables are.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import { ClusterSource } from "ctmap-cluster"
import { MapPressure } from "ctmap-gc"
import { KernelClock, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { GcConfig } from "ctmap-gc"
import { keys } from "./kernel.ts"

const config = Schema.Struct({
  pressureInterval: GcConfig.Duration.annotate({
    description: "how often the fill of tables is estimated: gauges of map pressure"
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed("30s")))
})

/** Global tables, and those of clusters. */
const tables = Effect.gen(function* () {
  const root = yield* Pins.BpfFsRoot
  return [...MapPressure.globalTables(root), ...(yield* ClusterSource.tables)]
})

/** @since 0.1.0 */
export const cell = Cell.make("pressure", {
  description: "estimates how full each table is, and how much of it has expired",
  config,
  needs: [...keys, KernelClock.KernelClock],
  provides: [MapPressure.MapPressure],
  layer: ({ pressureInterval }) => MapPressure.layer({ tables, interval: pressureInterval })
})
