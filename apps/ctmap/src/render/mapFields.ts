/**
 * What `ctmap maps` says of a map.
 *
 * @since 0.1.0
 */
import * as MapSpec from "ctmap-core/MapSpec"
import * as Report from "./Report.ts"

/** A map that has more than this of its room in use is about to evict. @since 0.1.0 */
export const NEARLY_FULL = 0.9

/** @since 0.1.0 */
export const mapFields: ReadonlyArray<Report.Field> = [
  { key: "map", title: "MAP" },
  { key: "owner", title: "OWNER" },
  { key: "type", title: "TYPE" },
  { key: "keySize", title: "KEY", align: "right" },
  { key: "valueSize", title: "VALUE", align: "right" },
  { key: "maxEntries", title: "MAX", align: "right" },
  { key: "entries", title: "ENTRIES", align: "right" },
  { key: "fill", title: "FILL", align: "right", show: Report.percent },
  { key: "memoryBytes", title: "MEMORY", align: "right", show: Report.bytes },
  { key: "layout", title: "LAYOUT" },
  { key: "clock", title: "CLOCK" },
  { key: "health", title: "HEALTH", show: (cell) => (Array.isArray(cell) && cell.length > 0 ? cell.join("; ") : "ok") }
]

/** Names of map types, by their number. @since 0.1.0 */
export const typeNames: ReadonlyMap<number, string> = new Map(
  Object.entries(MapSpec.mapType).map(([name, number]) => [
    number,
    name.replaceAll(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)
  ])
)
