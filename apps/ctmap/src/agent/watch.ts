/**
 * `ctmap watch --agent`: what an agent deletes, as it goes.
 *
 * @since 0.1.0
 */
import { AgentAnswer, type AgentError, AgentUnreachable } from "ctmap-api/AgentClient"
import type * as AgentStream from "ctmap-api/AgentStream"
import { CtColumns } from "ctmap-core/CtColumns"
import * as CtJson from "ctmap-core/CtJson"
import * as FilterParser from "ctmap-core/FilterParser"
import * as Rows from "ctmap-core/Rows"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { WatchOptions } from "../commands/watch.ts"
import * as MapFlags from "../MapFlags.ts"
import type { Agent } from "../Options.ts"
import * as Output from "../Output.ts"
import { eventLine } from "../render/eventLine.ts"
import * as Connection from "./Connection.ts"
import * as Refuse from "./refuse.ts"

/** How often an agent that is gone is looked for. */
const EVERY = Duration.seconds(1)

/** So many passes have been seen. */
class Enough extends Data.TaggedError("Enough") {}

/**
 * Begins once the agent has answered. Where it stops, that is said and it is looked for every second, unless
 * `reconnect` says not to: then it is an error. What happens in between nobody tells.
 *
 * @since 0.1.0
 */
export const watch = (agent: Agent, options: WatchOptions) =>
  Connection.provide(agent, (client) =>
    Effect.gen(function* () {
      const isMeant = yield* check(options)
      const query = {
        ...(options.family === "all" ? {} : { family: options.family }),
        ...(options.where === undefined ? {} : { where: options.where })
      }
      const text = (data: AgentStream.Deleted) =>
        Effect.try({
          try: () => textOf(data, options.output),
          catch: (error) =>
            new AgentAnswer({ at: client.at, why: error instanceof Error ? error.message : String(error) })
        })
      let passes = 0
      const tell = ({
        data,
        event
      }: AgentStream.Event): Effect.Effect<void, AgentAnswer | Enough | Output.WriteError, Output.Output> => {
        switch (event) {
          case "deleted":
            return isMeant(data) ? Effect.flatMap(text(data), Output.write) : Effect.void
          case "lost":
            return Output.note(`ctmap: too slow for the agent: ${lost(data)} not shown`)
          case "pass":
            return ++passes === options.passes ? new Enough() : Effect.void
        }
      }
      yield* client.logLevel
      for (;;) {
        const why = yield* Stream.runForEach(client.events(query), tell).pipe(
          Effect.as("it ended the stream of events"),
          Effect.catchTag("AgentUnreachable", (gone) => Effect.succeed(gone.why))
        )
        if (!options.reconnect) return yield* new AgentUnreachable({ at: client.at, why })
        yield* Output.note(`ctmap: the agent at ${client.at} is gone: ${why}. Waiting for it`)
        yield* untilBack(client)
        yield* Output.note(`ctmap: the agent at ${client.at} is back`)
      }
    }).pipe(
      Effect.catchIf(
        (error): error is Enough => error instanceof Enough,
        () => Effect.void
      )
    )
  )

const check = (options: WatchOptions) =>
  Effect.gen(function* () {
    yield* Refuse.refuse({ ...Refuse.clock(options), ...Refuse.release(options) }, Refuse.settings)
    const ofOurOwn = {
      "--interval": options.interval !== undefined,
      "--backlog": options.backlog,
      "--budget": options.budget !== 1
    }
    yield* Refuse.refuse(ofOurOwn, "whose own passes are watched")
    if (options.where !== undefined) yield* Effect.fromResult(FilterParser.parse(options.where))
    yield* MapFlags.check(options)
    const { cluster, endpoint } = options
    const names = new Set(MapFlags.names(options))
    const owner =
      cluster !== undefined ? `cluster ${cluster}` : endpoint !== undefined ? `endpoint ${endpoint}` : undefined
    return ({ map, owner: of }: Pick<AgentStream.Deleted, "map" | "owner">): boolean =>
      (owner === undefined || owner === of) && (names.size === 0 || names.has(map))
  })

const untilBack = (client: Connection.Client): Effect.Effect<unknown, AgentError> =>
  Effect.retry(client.logLevel, {
    schedule: Schedule.spaced(EVERY),
    while: (error) => error._tag === "AgentUnreachable"
  })

const lost = ({ entries, passes }: AgentStream.Lost): string => {
  const of = (count: number, what: string) => (count === 0 ? [] : [`${count.toLocaleString("en")} ${what}`])
  return [...of(entries, entries === 1 ? "entry" : "entries"), ...of(passes, passes === 1 ? "pass" : "passes")].join(
    " and "
  )
}

/** An event in our own words: the record, with what happened to it and why. */
const textOf = ({ dryRun, entries, map }: AgentStream.Deleted, output: WatchOptions["output"]): string =>
  entries
    .map(({ entry, reason }) =>
      output === "ndjson"
        ? `${JSON.stringify({ event: dryRun ? "due" : "deleted", reason, ...entry, map: entry.map ?? map })}\n`
        : lineOf(entry, map, reason)
    )
    .join("")

const lineOf = (entry: CtJson.CtRecord, map: string, reason: string): string => {
  const { key, value } = Result.getOrThrow(CtJson.ctBytes(entry))
  const sizes = { keySize: key.byteLength, valueSize: value.byteLength, count: 1 }
  const columns = new CtColumns({ family: entry.family, release: entry.release })
  return eventLine(columns.bind(Rows.separate(key, value, sizes)), 0, map, reason)
}
