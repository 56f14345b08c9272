/**
 * What is pinned, and how it is.
 *
 * @since 0.1.0
 */
import { Problem, type Status } from "ctmap-api"
import { CtColumns, type MapName, MapSpec } from "ctmap-core"
import { MapPressure } from "ctmap-gc"
import { type Bpf, BpfMap, CtMaps, KernelClock, type Layout, NatMaps, Pins, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"

/** A map that has more than this of its room in use is about to evict. */
const NEARLY_FULL = 0.9

/** Entries that are looked at to judge the clock. */
const SAMPLE = 1024

const kinds: Readonly<Record<MapName.Denoted["_tag"], Status.PinnedMap["kind"]>> = {
  Global: "ct",
  Local: "ct",
  ClusterInner: "ct",
  ClusterOuter: "ct-outer",
  Nat: "nat",
  ClusterNatInner: "nat",
  ClusterNatOuter: "nat-outer",
  NatRetries: "nat-retries",
  Signals: "signals"
}

/** @since 0.1.0 */
export type Needs = Bpf.Bpf | CtMaps.CtMaps | NatMaps.NatMaps | KernelClock.KernelClock | MapPressure.MapPressure

/**
 * Every pin of a map that ctmap knows. One that cannot be opened is in the list, with the reason. Errors: the directory
 * of pins cannot be read; that it is not there is an empty list.
 *
 * @since 0.1.0
 */
export const report: Effect.Effect<Status.Maps, Problem.KernelFailed, Needs> = Effect.gen(function* () {
  const root = yield* Pins.BpfFsRoot
  const pins = yield* Pins.discover.pipe(
    Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed([])),
    Effect.mapError(({ message }) => new Problem.KernelFailed({ detail: message, deleted: 0, pairs: [] }))
  )
  const { latest } = yield* MapPressure.MapPressure
  const pressures = new Map((yield* latest).map((pressure) => [pressure.name, pressure]))
  const maps = yield* Effect.forEach(pins, (pin) => Effect.scoped(describe(pin, pressures.get(pin.name))))
  return { root, maps }
})

const describe = (pin: Pins.Pin, pressure: MapPressure.Pressure | undefined) =>
  Effect.gen(function* () {
    const { denoted, name, path } = pin
    const owner = Pins.ownerOf(denoted)
    const family = "kind" in denoted ? denoted.kind.family : "family" in denoted ? denoted.family : undefined
    const about = {
      name,
      path,
      kind: kinds[denoted._tag],
      ...(family === undefined ? {} : { family }),
      ...(owner === undefined ? {} : { owner: ownerText(owner) })
    }
    const opened = yield* Effect.result(inspect(pin))
    if (Result.isFailure(opened)) return { ...about, health: [opened.failure.message] }
    const { info, layout, problems } = opened.success
    return {
      ...about,
      id: info.id,
      type: typeNames.get(info.type) ?? `type ${info.type}`,
      keySize: info.keySize,
      valueSize: info.valueSize,
      capacity: info.maxEntries,
      flags: info.flags,
      ...(pressure === undefined ? {} : { fill: fillOf(pressure) }),
      ...(layout === undefined ? {} : { layout }),
      health: [
        ...problems,
        ...((pressure?.pressure ?? 0) >= NEARLY_FULL ? ["nearly full: an LRU evicts live entries, make it larger"] : [])
      ]
    }
  })

const ownerText = (owner: NonNullable<ReturnType<typeof Pins.ownerOf>>): string =>
  owner._tag === "Global"
    ? "global"
    : owner._tag === "Endpoint"
      ? `endpoint ${owner.endpointId}`
      : `cluster ${owner.clusterId}`

const fillOf = ({ estimate, pressure, sampledAt }: MapPressure.Pressure): NonNullable<Status.PinnedMap["fill"]> => ({
  method: estimate.method,
  entries: estimate.entries,
  error: estimate.error,
  pressure,
  ...(estimate.expiredRatio === undefined ? {} : { expiredRatio: estimate.expiredRatio }),
  sampledAtMillis: sampledAt
})

interface Inspected {
  readonly info: BpfMap.BpfMap["info"]
  readonly layout: string | undefined
  readonly problems: ReadonlyArray<string>
}

const inspect = ({ denoted, path }: Pins.Pin) =>
  Effect.gen(function* () {
    const owner = Pins.ownerOf(denoted)
    if (owner !== undefined && "kind" in denoted) {
      const ct = yield* CtMaps.CtMaps
      const { layout, map } = yield* ct.open({ ...denoted.kind, owner })
      if (layout._tag === "Unknown") return { info: map.info, layout: "unknown", problems: [layout.why] }
      return { info: map.info, layout: layoutText(layout), problems: yield* clockProblems(map, denoted, layout) }
    }
    if (owner !== undefined && owner._tag !== "Endpoint" && "family" in denoted) {
      const nat = yield* NatMaps.NatMaps
      const { map, mismatch } = yield* nat.open(denoted.family, owner)
      return mismatch === undefined
        ? { info: map.info, layout: "nat", problems: [] }
        : { info: map.info, layout: "unknown", problems: [mismatch] }
    }
    const map = yield* BpfMap.open(path)
    return { info: map.info, layout: undefined, problems: [] } satisfies Inspected
  })

type Readable = Exclude<Layout.Verdict, { readonly _tag: "Unknown" }>

const layoutText = ({ _tag, release }: Readable): string => (_tag === "Known" ? release : `${release} assumed`)

const clockProblems = (
  map: BpfMap.BpfMap,
  { kind }: Extract<MapName.Denoted, { readonly kind: unknown }>,
  { release }: Readable
) =>
  Effect.gen(function* () {
    const clock = yield* KernelClock.KernelClock
    const read = yield* Effect.result(clock.now)
    if (Result.isFailure(read)) return [`its clock cannot be read: ${read.failure.message}`]
    const { count, rows } = yield* Scan.first(map, SAMPLE)
    if (count === 0) return []
    const columns = new CtColumns.CtColumns({ family: kind.family, release }).bind(rows)
    const plausible = KernelClock.checkPlausible({ source: clock.source, now: read.success }, columns, map.name)
    return Result.isSuccess(plausible)
      ? []
      : [`times do not fit the ${clock.source.mode} clock: set clock to the other one`]
  })

const typeNames: ReadonlyMap<number, string> = new Map(
  Object.entries(MapSpec.mapType).map(([name, number]) => [
    number,
    name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
  ])
)
