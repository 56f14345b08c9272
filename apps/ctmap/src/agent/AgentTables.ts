/**
 * Tables as an agent lists them: which are meant, and their entries as rows, for the renderers that know only rows.
 *
 * @since 0.1.0
 */
import { AgentAnswer, type AgentError, type ListingIncomplete } from "ctmap-api/AgentClient"
import type * as EntryRows from "ctmap-api/EntryRows"
import type { CtColumns, Family, NatColumns, Release } from "ctmap-core"
import * as CtColumnsModule from "ctmap-core/CtColumns"
import * as MapKind from "ctmap-core/MapKind"
import * as MapName from "ctmap-core/MapName"
import * as NatColumnsModule from "ctmap-core/NatColumns"
import * as Rows from "ctmap-core/Rows"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { NotFound, UsageError } from "../Failure.ts"
import * as MapFlags from "../MapFlags.ts"
import type { Selection } from "../Options.ts"
import type * as Printing from "../Printing.ts"
import type { Columns, Table } from "../render/Renderer.ts"
import type { Client } from "./Connection.ts"

/** A table of the agent's host. @since 0.1.0 */
export interface AgentTable {
  readonly name: string
  readonly family: Family.Family
  readonly isLocal: boolean
  readonly capacity: number
}

/** What is read of a table: entries of one kind. @since 0.1.0 */
export type Kind = "CT" | "NAT"

/**
 * The tables of a selection that are pinned where the agent looks, in the order of every listing. Errors: `UsageError`
 * for a selection that is none, `NotFound` where nothing of it is pinned.
 *
 * @since 0.1.0
 */
export const choose = (
  client: Client,
  kind: Kind,
  selection: Selection
): Effect.Effect<ReadonlyArray<AgentTable>, AgentError | NotFound | UsageError> =>
  Effect.gen(function* () {
    yield* MapFlags.check(selection)
    const wanted = yield* wantedNames(kind, selection)
    const { maps, root } = yield* client.maps
    const pinned = new Map(maps.map((map) => [map.name, map]))
    const missing = wanted.filter((name) => !pinned.has(name))
    if (missing.length === wanted.length || (selection.map.length > 0 && missing.length > 0)) {
      const what = `${missing.join(", ")} ${missing.length === 1 ? "is" : "are"} not pinned in ${root}/tc/globals`
      return yield* new NotFound({
        what: `${what}, says the agent at ${client.at}: \`ctmap maps --agent\` lists what is there`
      })
    }
    return wanted.flatMap((name): ReadonlyArray<AgentTable> => {
      const map = pinned.get(name)
      const denoted = MapName.parse(name)
      if (map === undefined || denoted === undefined) return []
      const family = "family" in denoted ? denoted.family : "kind" in denoted ? denoted.kind.family : undefined
      if (family === undefined) return []
      return [{ name, family, isLocal: denoted._tag === "Local", capacity: map.capacity ?? 0 }]
    })
  })

const wantedNames = (
  kind: Kind,
  { cluster, endpoint, family, map }: Selection
): Effect.Effect<ReadonlyArray<string>, UsageError> => {
  const usage = (problem: string) => Effect.fail(new UsageError({ problem }))
  if (map.length > 0) {
    const names = MapFlags.names({ map })
    const wrong = names.find((name) => !isOf(kind, name))
    return wrong === undefined
      ? Effect.succeed(names)
      : Effect.fail(MapFlags.wrongKind(wrong, kind, "ctmap maps --agent"))
  }
  const isMeant = (of: Family.Family): boolean => family === "all" || family === of
  if (kind === "NAT") {
    if (endpoint !== undefined) return usage("endpoints have no NAT maps of their own: leave out --endpoint")
    const families = (["ipv4", "ipv6"] as const).filter(isMeant)
    return Effect.succeed(
      families.map((of) => (cluster === undefined ? MapName.nat(of) : MapName.clusterNatInner(of, cluster)))
    )
  }
  return Effect.succeed(
    MapKind.globals
      .filter((of) => isMeant(of.family))
      .map((of) =>
        cluster !== undefined
          ? MapName.clusterInner(of, cluster)
          : endpoint !== undefined
            ? MapName.local(of, endpoint)
            : MapName.global(of)
      )
  )
}

const tagsOf: Readonly<Record<Kind, ReadonlySet<string>>> = { CT: MapFlags.ctTags, NAT: MapFlags.natTags }

const isOf = (kind: Kind, name: string): boolean => tagsOf[kind].has(MapName.parse(name)?._tag ?? "")

/** What narrows a listing down, of what the agent can do itself. @since 0.1.0 */
export interface Narrowing {
  readonly where: string | undefined
  readonly limit: number | undefined
}

/** The query for one table. */
const queryOf = (table: AgentTable, kind: Kind, { limit, where }: Narrowing) => ({
  map: [table.name],
  ...(kind === "NAT" ? { nat: true } : {}),
  ...(where === undefined ? {} : { where }),
  ...(limit === undefined ? {} : { limit })
})

/** Ends a listing from within. */
class Enough extends Data.TaggedError("Enough") {}

/** @since 0.1.0 */
export type ListingError = AgentError | ListingIncomplete

/** CT entries of a table. @since 0.1.0 */
export const ctSource = (
  client: Client,
  table: AgentTable,
  narrowing: Narrowing
): Printing.Source<CtColumns.CtColumns, ListingError, never> =>
  sourceOf(
    client,
    table,
    "CT",
    narrowing,
    (release) => new CtColumnsModule.CtColumns({ family: table.family, release })
  )

/** NAT entries of a table. @since 0.1.0 */
export const natSource = (
  client: Client,
  table: AgentTable,
  narrowing: Narrowing
): Printing.Source<NatColumns.NatColumns, ListingError, never> =>
  sourceOf(
    client,
    table,
    "NAT",
    narrowing,
    (release) => new NatColumnsModule.NatColumns({ family: table.family, release })
  )

/** Rows as the agent's kernel has them: all that is done here is to look at them. */
const sourceOf = <C extends Columns>(
  client: Client,
  table: AgentTable,
  kind: Kind,
  narrowing: Narrowing,
  columnsOf: (release: Release.Release) => C
): Printing.Source<C, ListingError, never> => ({
  forEach: (progress, use) => {
    let bound: Table<C> | undefined
    let every = new Uint32Array(0)
    const bind = ({ count, keys, table: of, values }: EntryRows.Batch): Result.Result<Table<C>, AgentAnswer> =>
      Result.try({
        try: () => {
          bound ??= { map: table, columns: columnsOf(of.release), local: table.isLocal }
          if (every.length < count) every = Uint32Array.from({ length: count }, (_, i) => i)
          bound.columns.bind(Rows.separate(keys, values, { keySize: of.keySize, valueSize: of.valueSize, count }))
          return bound
        },
        catch: (error) =>
          new AgentAnswer({ at: client.at, why: error instanceof Error ? error.message : String(error) })
      })
    return client.entryRows(queryOf(table, kind, narrowing)).pipe(
      Stream.runForEach((batch) =>
        Effect.gen(function* () {
          const filled = yield* Effect.fromResult(bind(batch))
          yield* progress.tick(table.name, batch.count, table.capacity)
          if (!(yield* use(filled, { rows: every, count: batch.count }))) return yield* new Enough()
        })
      ),
      Effect.catchIf(
        (error): error is Enough => error instanceof Enough,
        () => Effect.void
      )
    )
  }
})
