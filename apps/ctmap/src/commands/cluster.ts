/**
 * `ctmap cluster list|create|delete|cleanup`: the maps of remote clusters.
 *
 * @since 0.1.0
 */
import * as ClusterCheck from "ctmap-cluster/ClusterCheck"
import * as ClusterRange from "ctmap-cluster/ClusterRange"
import * as ClusterSource from "ctmap-cluster/ClusterSource"
import * as PerClusterCtMaps from "ctmap-cluster/PerClusterCtMaps"
import * as PerClusterNatMaps from "ctmap-cluster/PerClusterNatMaps"
import type { Family } from "ctmap-core/Family"
import type * as MapName from "ctmap-core/MapName"
import * as Pins from "ctmap-kernel/Pins"
import * as Effect from "effect/Effect"
import { confirm } from "../Confirm.ts"
import { NotFound, PartlyFailed, Refused, UsageError } from "../Failure.ts"
import * as Kernel from "../Kernel.ts"
import * as Output from "../Output.ts"
import * as Report from "../render/Report.ts"
import * as Selection from "../Selection.ts"
import { counted, provided, type Settings, unset } from "./clusterSettings.ts"

/** @since 0.1.0 */
export interface ListOptions extends Settings {
  readonly output: Report.Format
}

const listColumns: ReadonlyArray<Report.Field> = [
  { key: "cluster", title: "CLUSTER", align: "right" },
  { key: "ct", title: "CT", show: (cell) => listed(cell) },
  { key: "nat", title: "NAT", show: (cell) => listed(cell) },
  { key: "maps", title: "MAPS", align: "right" },
  { key: "health", title: "HEALTH", show: (cell) => (Array.isArray(cell) && cell.length > 0 ? cell.join("; ") : "ok") }
]

const listed = (cell: Report.Cell): string => (Array.isArray(cell) && cell.length > 0 ? cell.join(", ") : "-")

/** @since 0.1.0 */
export const list = (root: string, options: ListOptions) =>
  Kernel.provide(
    root,
    provided(options, (settings) =>
      Effect.gen(function* () {
        const clusters = yield* ClusterSource.discover
        if (clusters.length === 0) return yield* nothing
        const findings = yield* ClusterCheck.check(settings)
        const rows = clusters.map(({ clusterId, ct, nat, pins }) => ({
          cluster: clusterId,
          ct,
          nat,
          maps: pins.length,
          health: findings
            .filter((finding) => "clusterId" in finding && finding.clusterId === clusterId)
            .map((finding) => `${finding.map}: ${ClusterCheck.describe(finding)}`)
        }))
        yield* Report.print(options.output, listColumns, rows)
      })
    )
  )

const nothing = Effect.gen(function* () {
  yield* Selection.checkRoot
  const directory = (yield* Pins.pathOf("")).replace(/\/$/, "")
  return yield* new NotFound({
    what: `no map of a remote cluster is pinned in ${directory}; \`ctmap cluster create ID\` makes some, --bpffs-root names another bpffs`
  })
})

/** @since 0.1.0 */
export interface CreateOptions extends Settings {
  readonly ids: ReadonlyArray<number>
  readonly nat: boolean
}

/** @since 0.1.0 */
export const create = (root: string, options: CreateOptions) =>
  Kernel.provide(
    root,
    provided(options, () =>
      Effect.gen(function* () {
        const ct = yield* PerClusterCtMaps.PerClusterCtMaps
        const nat = yield* PerClusterNatMaps.PerClusterNatMaps
        // All ids are looked at before anything is made.
        yield* Effect.forEach(options.ids, (id) => ct.get(id))
        yield* ct.openOrCreate
        if (options.nat) yield* nat.openOrCreate
        for (const id of options.ids) {
          yield* ct.create(id)
          if (options.nat) yield* nat.create(id)
          yield* Output.note(
            `ctmap: cluster ${id}: ${options.nat ? "CT and NAT maps are" : "CT maps are"} there and in use`
          )
        }
      })
    )
  )

/** @since 0.1.0 */
export interface DeleteOptions extends Pick<Settings, "family"> {
  readonly ids: ReadonlyArray<number>
  /** Instead of ids. */
  readonly above: number | undefined
  readonly discardEntries: boolean
  readonly nat: boolean
  readonly yes: boolean
}

/** @since 0.1.0 */
export const remove = (root: string, options: DeleteOptions) =>
  Effect.gen(function* () {
    if (options.above === undefined) {
      if (options.ids.length === 0) {
        return yield* new UsageError({
          problem: "say which clusters: their ids, or --above ID for all with a higher one"
        })
      }
      if (options.discardEntries) {
        return yield* new UsageError({
          problem: "--discard-entries goes with --above; clusters that are named are deleted with their entries"
        })
      }
      return yield* removeNamed(root, options)
    }
    if (options.ids.length > 0) {
      return yield* new UsageError({ problem: "name clusters, or give --above ID, but not both" })
    }
    return yield* removeAbove(root, { ...options, above: options.above })
  })

const removeNamed = (root: string, options: DeleteOptions) =>
  Kernel.provide(
    root,
    provided({ ...unset, ...options }, () =>
      Effect.gen(function* () {
        const ct = yield* PerClusterCtMaps.PerClusterCtMaps
        const nat = yield* PerClusterNatMaps.PerClusterNatMaps
        yield* Effect.forEach(options.ids, (id) => ct.get(id))
        const known = new Set((yield* ClusterSource.discover).map(({ clusterId }) => clusterId))
        const unknown = options.ids.filter((id) => !known.has(id))
        if (unknown.length > 0) {
          return yield* new NotFound({
            what: `no map of cluster ${unknown.join(", ")} is pinned, and nothing was deleted; \`ctmap cluster list\` says what there is`
          })
        }
        const whose = `${options.ids.length === 1 ? "cluster" : "clusters"} ${options.ids.join(", ")}`
        yield* confirm({
          yes: options.yes,
          what: "this cuts live connections",
          message: `Delete the maps of ${whose}? What connects to them is cut`
        })
        yield* ct.openOrCreate
        if (options.nat) yield* nat.openOrCreate
        for (const id of options.ids) {
          yield* ct.delete(id)
          if (options.nat) yield* nat.delete(id)
          yield* Output.note(`ctmap: cluster ${id}: deleted`)
        }
      })
    )
  )

/** Clusters that hold entries stay, unless it is said that those may be lost. */
const removeAbove = (root: string, options: DeleteOptions & { readonly above: number }) =>
  Kernel.provide(
    root,
    provided({ ...unset, ...options, family: options.family ?? "all" }, ({ families }) =>
      Effect.gen(function* () {
        const { above, discardEntries } = options
        const found = yield* ClusterRange.above(above)
        if (found.length === 0) return yield* Output.note(`ctmap: no map of a cluster above ${above} is pinned`)
        const going = found.filter(({ entries }) => entries === 0 || discardEntries)
        if (going.length > 0) {
          const lost = going.reduce((sum, { entries }) => sum + entries, 0)
          const ids = going.map(({ clusterId }) => clusterId).join(", ")
          const whose = `${going.length === 1 ? "cluster" : "clusters"} ${ids}`
          const losing = lost === 0 ? "all of them empty" : `which hold ${counted(lost)}`
          yield* Output.note(`ctmap: deletes the maps of ${whose}, ${losing}`)
          yield* confirm({
            yes: options.yes,
            what: "this cuts live connections",
            message: `Delete the maps of ${whose}${lost === 0 ? "" : ` with ${counted(lost)}`}? What connects to them is cut`
          })
        }
        const staying = found
          .filter((each) => !going.includes(each))
          .map(({ clusterId, entries }) => ({ clusterId, entries, outcome: "left" as const }))
        const removed = [
          ...(yield* ClusterRange.remove(
            going.map(({ clusterId }) => clusterId),
            { families, nat: options.nat, discardEntries }
          )),
          ...staying
        ]
        for (const each of removed) yield* Output.note(`ctmap: ${ClusterRange.describe(each)}`)
        const failed = removed.filter(({ outcome }) => outcome === "failed").length
        const left = removed.filter(({ outcome }) => outcome === "left").length
        if (failed > 0) {
          return yield* new PartlyFailed({ summary: `${failed} of ${found.length} clusters cannot be deleted` })
        }
        if (left > 0) {
          const summary = `${left} of ${found.length} clusters stay for their entries: --discard-entries deletes them as well`
          return yield* left === found.length ? new Refused({ why: summary }) : new PartlyFailed({ summary })
        }
      })
    )
  )

/** @since 0.1.0 */
export type CleanupOptions = Pick<DeleteOptions, "family" | "nat" | "yes">

/** @since 0.1.0 */
export const cleanup = (root: string, options: CleanupOptions) =>
  Kernel.provide(
    root,
    provided({ ...unset, ...options, family: options.family ?? "all" }, ({ families }) =>
      Effect.gen(function* () {
        const pins = (yield* Pins.discover).filter(({ denoted }) => isMeant(denoted, families, options.nat))
        if (pins.length === 0) return yield* Output.note("ctmap: no per-cluster map is pinned: nothing to delete")
        const maps = `${pins.length} per-cluster ${pins.length === 1 ? "map" : "maps"}`
        yield* confirm({
          yes: options.yes,
          what: "this cuts live connections",
          message: `Delete ${maps} of ${families.join(" and ")}? What connects to remote clusters is cut`
        })
        yield* PerClusterCtMaps.cleanup(families)
        if (options.nat) yield* PerClusterNatMaps.cleanup(families)
        yield* Output.note(`ctmap: ${maps} deleted`)
      })
    )
  )

const isMeant = (denoted: MapName.Denoted, families: ReadonlyArray<Family>, withNat: boolean): boolean => {
  if (denoted._tag === "ClusterOuter" || denoted._tag === "ClusterInner") return families.includes(denoted.kind.family)
  const isNat = denoted._tag === "ClusterNatOuter" || denoted._tag === "ClusterNatInner"
  return withNat && isNat && families.includes(denoted.family)
}
