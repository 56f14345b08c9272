/**
 * `ctmap list --agent` and `ctmap nat list --agent`: entries as the agent lists them, in every format.
 *
 * The agent sends rows as its kernel has them, and what prints rows of the kernel prints them here.
 *
 * @since 0.1.0
 */
import * as FilterParser from "ctmap-core/FilterParser"
import * as Effect from "effect/Effect"
import type { Reading } from "../Clock.ts"
import type { ListOptions } from "../commands/list.ts"
import type { Agent, Listing } from "../Options.ts"
import * as Order from "../Order.ts"
import * as Output from "../Output.ts"
import * as Printing from "../Printing.ts"
import * as entries from "../render/entries.ts"
import * as AgentTables from "./AgentTables.ts"
import * as Connection from "./Connection.ts"
import * as Refuse from "./refuse.ts"

/** CT entries. @since 0.1.0 */
export const list = (agent: Agent, options: ListOptions) =>
  Connection.provide(agent, (client) =>
    Effect.gen(function* () {
      yield* check(options)
      const order = yield* Order.parse(Order.ct, options.sort)
      const tables = yield* AgentTables.choose(client, "CT", options)
      const clock = options.timeDiff || options.output !== "text" ? yield* clockOf(client) : undefined
      const renderer = entries.ct({ output: options.output, timeDiff: options.timeDiff, clock })
      const sources = tables.map((table) => AgentTables.ctSource(client, table, narrowingOf(options)))
      yield* Printing.print({ sources, renderer, order, limit: options.limit })
    })
  )

/** NAT entries. @since 0.1.0 */
export const natList = (agent: Agent, options: Listing) =>
  Connection.provide(agent, (client) =>
    Effect.gen(function* () {
      yield* check(options)
      const order = yield* Order.parse(Order.nat, options.sort)
      const tables = yield* AgentTables.choose(client, "NAT", options)
      const clock = options.output === "cilium-json" ? undefined : yield* clockOf(client)
      const renderer = entries.nat({ output: options.output, timeDiff: true, clock })
      const sources = tables.map((table) => AgentTables.natSource(client, table, narrowingOf(options)))
      yield* Printing.print({ sources, renderer, order, limit: options.limit })
    })
  )

const check = (options: Listing) =>
  Effect.gen(function* () {
    yield* Refuse.refuse({ ...Refuse.clock(options), ...Refuse.release(options) }, Refuse.settings)
    if (options.where !== undefined) yield* Effect.fromResult(FilterParser.parse(options.where))
  })

/** What is to be sorted is needed to its end. */
const narrowingOf = ({ limit, sort, where }: Listing): AgentTables.Narrowing => ({
  where,
  limit: sort === undefined ? limit : undefined
})

/** What time it is for the tables, as the agent reads it. */
const clockOf = (client: Connection.Client) =>
  Effect.gen(function* () {
    const { clock } = yield* client.status
    if (clock.now === undefined) {
      yield* Output.note(`ctmap: the agent cannot read its clock: ${clock.why ?? "it does not say why"}`)
      return undefined
    }
    return { source: clock.source, now: clock.now, fixed: true } satisfies Reading
  })
