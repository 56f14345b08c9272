/**
 * `ctmap list` and `ctmap nat list`: entries in every format, as they stand in the maps or sorted.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Clock from "../Clock.ts"
import * as Entries from "../Entries.ts"
import * as Kernel from "../Kernel.ts"
import type { Listing } from "../Options.ts"
import * as Order from "../Order.ts"
import * as entries from "../render/entries.ts"
import * as Selection from "../Selection.ts"

/** Formats that say how long an entry has left without being asked. */
const showsTime: ReadonlySet<string> = new Set(["table", "json", "ndjson"])

/** @since 0.1.0 */
export interface ListOptions extends Listing {
  readonly timeDiff: boolean
}

/** CT entries. @since 0.1.0 */
export const list = (root: string, options: ListOptions) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      yield* Clock.check(options)
      yield* Entries.parse(options.where)
      const order = yield* Order.parse(Order.ct, options.sort)
      const needsClock = options.timeDiff || options.where !== undefined || showsTime.has(options.output)
      const clock = needsClock ? yield* Clock.read(options) : undefined
      const sources = yield* Entries.ctSources(yield* Selection.ctMaps(options), options.where, clock)
      if (clock !== undefined) yield* Entries.warnOfClock(sources, clock)
      const renderer = entries.ct({ output: options.output, timeDiff: options.timeDiff, clock })
      yield* Entries.print({ sources, renderer, order, limit: options.limit })
    })
  )

/** NAT entries. Cilium's own listing of them always says how old they are. @since 0.1.0 */
export const natList = (root: string, options: Listing) =>
  Kernel.provide(
    root,
    Effect.gen(function* () {
      yield* Clock.check(options)
      yield* Entries.parse(options.where)
      const order = yield* Order.parse(Order.nat, options.sort)
      const clock =
        options.output === "cilium-json" && options.where === undefined ? undefined : yield* Clock.read(options)
      const maps = yield* Selection.natMaps(options)
      const sources = yield* Entries.natSources(maps, options.release, options.where, clock)
      const renderer = entries.nat({ output: options.output, timeDiff: true, clock })
      yield* Entries.print({ sources, renderer, order, limit: options.limit })
    })
  )
