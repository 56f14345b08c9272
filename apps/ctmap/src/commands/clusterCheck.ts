/**
 * `ctmap cluster check`: what is wrong with the maps of remote clusters, and mending it.
 *
 * @since 0.1.0
 */
import * as ClusterCheck from "ctmap-cluster/ClusterCheck"
import * as Effect from "effect/Effect"
import { confirm } from "../Confirm.ts"
import { PartlyFailed } from "../Failure.ts"
import * as Kernel from "../Kernel.ts"
import * as Output from "../Output.ts"
import * as Report from "../render/Report.ts"
import { counted, provided, type Settings } from "./clusterSettings.ts"

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
