/**
 * `ctmap maps`: what is pinned, how full it is, and whether anything looks wrong with it.
 *
 * A map that cannot be opened or read is a row with a reason, not the end of the listing.
 *
 * @since 0.1.0
 */
import type { Family } from "ctmap-core"
import { CtColumns } from "ctmap-core/CtColumns"
import * as MapSpec from "ctmap-core/MapSpec"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CtMaps from "ctmap-kernel/CtMaps"
import * as KernelClock from "ctmap-kernel/KernelClock"
import * as Layout from "ctmap-kernel/Layout"
import * as Owner from "ctmap-kernel/Owner"
import * as Pins from "ctmap-kernel/Pins"
import * as Scan from "ctmap-kernel/Scan"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Clock from "../Clock.ts"
import { failWhereNoneIsRead } from "../Failure.ts"
import * as Kernel from "../Kernel.ts"
import * as MapFlags from "../MapFlags.ts"
import * as MapMemory from "../MapMemory.ts"
import type { ClockOptions, Selection as SelectionOptions } from "../Options.ts"
import { mapFields, NEARLY_FULL, typeNames } from "../render/mapFields.ts"
import * as Report from "../render/Report.ts"
import * as Selection from "../Selection.ts"

/** @since 0.1.0 */
export interface MapsOptions extends SelectionOptions, ClockOptions {
  readonly output: Report.Format
  /** Read the maps to count their entries. */
  readonly entries: boolean
}

/** @since 0.1.0 */
export const maps = (root: string, options: MapsOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      yield* MapFlags.checkAny(options)
      yield* Selection.checkRoot
      const clock = yield* Clock.read(options)
      const pins = yield* MapFlags.select(options, yield* Pins.discover, `${root}/tc/globals`)
      const unread: Array<string> = []
      const rows = yield* Effect.forEach(pins, (pin) =>
        Effect.scoped(describe(pin, clock, options)).pipe(
          Effect.catch((error) => {
            unread.push(error.message)
            return Effect.succeed(unreadable(pin, error.message))
          })
        )
      )
      yield* Report.print(options.output, mapFields, rows)
      return yield* failWhereNoneIsRead(unread, pins.length)
    })
  )

const ownerText = ({ denoted }: Pins.Pin): string => {
  const owner = Pins.ownerOf(denoted)
  return owner === undefined ? "-" : Owner.describe(owner)
}

const unreadable = (pin: Pins.Pin, why: string): Report.Row => ({
  map: pin.name,
  path: pin.path,
  owner: ownerText(pin),
  health: [why]
})

const describe = (pin: Pins.Pin, clock: Clock.Reading, options: MapsOptions) =>
  Effect.gen(function* () {
    const map = yield* BpfMap.open(pin.path)
    const kind = kindOf(pin)
    const table = kind === undefined ? notATable : yield* tableOf(map, kind, clock, options)
    const count = options.entries && kind !== undefined && isHash(map) ? yield* Scan.count(map) : null
    const fill = count === null ? null : count / map.info.maxEntries
    const inUse = count === null ? 0 : count / MapMemory.room(map.info, (yield* Bpf.Bpf).possibleCpus())
    return {
      map: pin.name,
      path: pin.path,
      owner: ownerText(pin),
      type: typeNames.get(map.info.type) ?? `type ${map.info.type}`,
      keySize: map.info.keySize,
      valueSize: map.info.valueSize,
      maxEntries: map.info.maxEntries,
      flags: map.info.flags,
      entries: count,
      fill,
      memoryBytes: MapMemory.estimate(map.info) ?? null,
      layout: table.layout,
      clock: table.clock,
      health: [
        ...table.problems,
        ...(inUse >= NEARLY_FULL ? ["nearly full: an LRU evicts live entries, make it larger"] : [])
      ]
    }
  })

type Kind = { readonly table: "ct" | "nat"; readonly family: Family.Family }

const kindOf = ({ denoted }: Pins.Pin): Kind | undefined => {
  switch (denoted._tag) {
    case "Global":
    case "Local":
    case "ClusterInner":
      return { table: "ct", family: denoted.kind.family }
    case "Nat":
    case "ClusterNatInner":
      return { table: "nat", family: denoted.family }
    default:
      return undefined
  }
}

interface TableVerdict {
  readonly layout: string
  readonly clock: string
  readonly problems: ReadonlyArray<string>
}

const notATable: TableVerdict = { layout: "-", clock: "-", problems: [] }

/** Entries that are looked at to judge the clock. */
const SAMPLE = 1024

const tableOf = (map: BpfMap.BpfMap, { table, family }: Kind, clock: Clock.Reading, options: MapsOptions) =>
  Effect.gen(function* () {
    if (table === "nat") {
      const why = Layout.natMismatch(map.info, family)
      return why === undefined ? { ...notATable, layout: "nat" } : { ...notATable, layout: "unknown", problems: [why] }
    }
    const layout = yield* CtMaps.verdict(map, family, options.release)
    if (layout._tag === "Unknown") return { ...notATable, layout: "unknown", problems: [layout.why] }
    const sample = new CtColumns({ family, release: layout.release })
    const { rows, count } = yield* Scan.first(map, SAMPLE)
    const plausible = KernelClock.checkPlausible(clock, sample.bind(rows), map.name)
    const fits = Result.isSuccess(plausible)
    return {
      layout: layout._tag === "Known" ? layout.release : `${layout.release} assumed`,
      clock: count === 0 ? "-" : `${clock.source.mode} ${fits ? "fits" : "does not fit"}`,
      problems: fits ? [] : [`times do not fit the ${clock.source.mode} clock: try --clock`]
    }
  })

const isHash = ({ info }: BpfMap.BpfMap): boolean =>
  info.type === MapSpec.mapType.lruHash || info.type === MapSpec.mapType.hash
