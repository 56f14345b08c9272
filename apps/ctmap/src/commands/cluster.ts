/**
 * `ctmap cluster list|create|delete|cleanup|check`: the maps of remote clusters.
 *
 * @since 0.1.0
 */
import * as ClusterCheck from "ctmap-cluster/ClusterCheck"
import * as ClusterSource from "ctmap-cluster/ClusterSource"
import * as PerClusterCtMaps from "ctmap-cluster/PerClusterCtMaps"
import * as PerClusterNatMaps from "ctmap-cluster/PerClusterNatMaps"
import type { ClusterIdMax } from "ctmap-core/ClusterId"
import type { Family } from "ctmap-core/Family"
import * as MapKind from "ctmap-core/MapKind"
import * as MapLimits from "ctmap-core/MapLimits"
import * as MapName from "ctmap-core/MapName"

import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CtMaps from "ctmap-kernel/CtMaps"
import * as NatMaps from "ctmap-kernel/NatMaps"
import * as Pins from "ctmap-kernel/Pins"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { confirm } from "../Confirm.ts"
import { NotFound, PartlyFailed } from "../Failure.ts"
import * as Kernel from "../Kernel.ts"
import * as Output from "../Output.ts"
import * as Report from "../render/Report.ts"
import * as Selection from "../Selection.ts"

/** @since 0.1.0 */
export interface Settings {
  readonly family: "ipv4" | "ipv6" | "all" | undefined
  readonly max: "255" | "511" | undefined
  readonly ctTcp: number | undefined
  readonly ctAny: number | undefined
  readonly natSize: number | undefined
}

const unset: Omit<Settings, "family"> = { max: undefined, ctTcp: undefined, ctAny: undefined, natSize: undefined }

const every: ReadonlyArray<Family> = ["ipv4", "ipv6"]

/** What is pinned under a name, closed again; nothing where there is no pin. */
const infoOf = (name: string) =>
  Effect.scoped(
    Effect.flatMap(Effect.flatMap(Pins.pathOf(name), BpfMap.open), ({ info }) => Effect.succeed(info))
  ).pipe(Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined)))

const firstOf = (names: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    for (const name of names) {
      const info = yield* infoOf(name)
      if (info !== undefined) return info.maxEntries
    }
    return undefined
  })

/** The families that are meant, and those that there are traces of. */
const familiesOf = ({ family }: Pick<Settings, "family">) =>
  Effect.gen(function* () {
    if (family !== undefined) return family === "all" ? every : [family]
    const kinds = (own: Family) => MapKind.globals.filter((kind) => kind.family === own)
    const having = (names: (own: Family) => ReadonlyArray<string>) =>
      Effect.filter(every, (own) => Effect.map(firstOf(names(own)), (found) => found !== undefined))
    const withOuter = yield* having((own) => [
      ...kinds(own).map((kind) => MapName.clusterOuter(kind)),
      MapName.clusterNatOuter(own)
    ])
    if (withOuter.length > 0) return withOuter
    const withGlobal = yield* having((own) => kinds(own).map(MapName.global))
    return withGlobal.length > 0 ? withGlobal : every
  })

/** Sizes as they are said, as the global maps have them, or Cilium's. */
const limitsOf = ({ ctTcp, ctAny, natSize }: Settings) =>
  Effect.gen(function* () {
    const global = (transport: MapKind.Transport) =>
      firstOf(MapKind.globals.filter((kind) => kind.transport === transport).map(MapName.global))
    const limits = {
      ctTcp: ctTcp ?? (yield* global("tcp")) ?? MapLimits.CT_TCP_DEFAULT,
      ctAny: ctAny ?? (yield* global("any")) ?? MapLimits.CT_ANY_DEFAULT,
      nat: natSize ?? (yield* firstOf(every.map(MapName.nat))) ?? MapLimits.NAT_DEFAULT
    }
    // What is there need not be what could be configured.
    const isSaid = ctTcp !== undefined || ctAny !== undefined || natSize !== undefined
    return isSaid ? yield* Effect.fromResult(MapLimits.check(limits)) : limits
  })

/** The range that the outer maps have; where there are none, the one that is said, or that the pinned maps need. */
const maxOf = ({ max }: Settings) =>
  Effect.gen(function* () {
    const outers = [
      ...MapKind.globals.map((kind) => MapName.clusterOuter(kind)),
      ...every.map((own) => MapName.clusterNatOuter(own))
    ]
    const slots = yield* firstOf(outers)
    const last = slots === undefined ? Number(max ?? (yield* highestPinned)) : slots - 1
    const most: ClusterIdMax = last > 255 ? 511 : 255
    return most
  })

const highestPinned = ClusterSource.discover.pipe(Effect.map((found) => found.at(-1)?.clusterId ?? 0))

/** Runs with the services that the settings make; nothing is open yet. */
const provided = <A, E, R>(
  settings: Settings,
  use: (options: { readonly families: ReadonlyArray<Family>; readonly max: ClusterIdMax }) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    yield* Selection.checkBpfFs
    const options = { families: yield* familiesOf(settings), max: yield* maxOf(settings) }
    const limits = yield* limitsOf(settings)
    const maps = Layer.mergeAll(CtMaps.layer({ limits }), NatMaps.layer({ limits }))
    // Nobody asked for maps to be replaced that are of another size.
    const keep = { ...options, whenDifferent: "keep" } as const
    const services = Layer.mergeAll(PerClusterCtMaps.layer(keep), PerClusterNatMaps.layer(keep))
    return yield* use(options).pipe(Effect.provide(Layer.provideMerge(services, maps)))
  })

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
  readonly nat: boolean
  readonly yes: boolean
}

/** @since 0.1.0 */
export const remove = (root: string, options: DeleteOptions) =>
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

/** @since 0.1.0 */
export type CleanupOptions = Omit<DeleteOptions, "ids">

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

/** @since 0.1.0 */
export interface CheckOptions extends Settings {
  readonly repair: boolean
  readonly discardEntries: boolean
  readonly yes: boolean
  readonly output: Report.Format
}

const checkColumns: ReadonlyArray<Report.Field> = [
  { key: "map", title: "MAP" },
  { key: "cluster", title: "CLUSTER", align: "right" },
  { key: "problem", title: "PROBLEM" },
  { key: "remedy", title: "REMEDY" }
]

/** @since 0.1.0 */
export const check = (root: string, options: CheckOptions) =>
  Kernel.provide(
    root,
    provided(options, (found) =>
      Effect.gen(function* () {
        const settings = { ...found, discardEntries: options.discardEntries }
        const findings = yield* ClusterCheck.check(settings)
        const rows = findings.map((finding) => ({
          problem: ClusterCheck.describe(finding),
          map: finding.map,
          cluster: "clusterId" in finding ? finding.clusterId : null,
          remedy: ClusterCheck.remedy(finding, settings) ?? null
        }))
        if (findings.length > 0 || options.output !== "table") yield* Report.print(options.output, checkColumns, rows)
        if (findings.length === 0) return yield* Output.note("ctmap: every pin has its slot, and every slot its pin")
        const mendable = mendableOf(findings, settings)
        if (options.repair && mendable.length > 0) {
          const lost = lostWith(mendable)
          const losing = lost === 0 ? "" : ` and loses ${counted(lost)}`
          if (lost > 0) yield* Output.note(`ctmap: removes pins of maps that hold ${counted(lost)}`)
          yield* confirm({
            yes: options.yes,
            what: `--repair changes pins and slots${losing}`,
            message: `Do what the last column says for ${mendable.length} of ${findings.length}?${lost === 0 ? "" : ` It${losing}`}`
          })
          yield* repair(mendable, settings)
        }
        const left = options.repair ? yield* ClusterCheck.check(settings) : findings
        if (left.length > 0) {
          const how = options.repair || mendable.length === 0 ? "" : "; --repair does what the last column says"
          const kept = left.filter((finding) => finding._tag === "BeyondRange" && finding.clusterEntries > 0)
          const more =
            kept.length === 0 || options.discardEntries
              ? ""
              : `; with --discard-entries it also unpins ${mapsOf(kept.length)} above the range, whose ${counted(lostWith(kept))} are lost then`
          return yield* new PartlyFailed({
            summary: `${left.length} of ${findings.length} problems are there${how === "" && more !== "" ? "; see --repair" : how}${more}`
          })
        }
      })
    )
  )

type CheckSettings = ClusterCheck.RepairOptions

const mendableOf = (findings: ReadonlyArray<ClusterCheck.Finding>, settings: CheckSettings) =>
  findings.filter((finding) => ClusterCheck.remedy(finding, settings) !== undefined)

/** Entries that go with the pins of these findings. */
const lostWith = (findings: ReadonlyArray<ClusterCheck.Finding>): number =>
  findings.reduce((sum, finding) => sum + (finding._tag === "BeyondRange" ? finding.entries : 0), 0)

const counted = (entries: number): string => (entries === 1 ? "1 entry" : `${entries.toLocaleString("en")} entries`)

const mapsOf = (count: number): string => (count === 1 ? "1 map" : `${count} maps`)

/** A map that is missing beside an orphaned slot shows once that is empty, so it is looked at until nothing changes. */
const repair = (findings: ReadonlyArray<ClusterCheck.Finding>, settings: CheckSettings) =>
  Effect.gen(function* () {
    let mendable = findings
    // Entries are discarded of what was asked about, not of what shows later.
    let rules = settings
    for (let round = 0; round < 3 && mendable.length > 0; round++) {
      let repaired = 0
      for (const { finding, outcome, error, lost, held } of yield* ClusterCheck.repair(mendable, rules)) {
        if (outcome === "repaired") repaired++
        const done = lost === undefined ? ClusterCheck.remedy(finding, rules) : removed(lost)
        const still =
          held === undefined ? "nothing to do any more" : `the maps of its cluster hold ${counted(held)} by now`
        yield* Output.note(
          `ctmap: ${finding.map}: ${outcome}: ${error?.message ?? (outcome === "left" ? still : done)}`
        )
      }
      if (repaired === 0) return
      rules = { ...settings, discardEntries: false }
      mendable = mendableOf(yield* ClusterCheck.check(settings), rules)
    }
  })

const removed = (lost: number): string => (lost === 0 ? "remove the pin" : `remove the pin, and lose ${counted(lost)}`)
