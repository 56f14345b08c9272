/** Counting what matches a filter; apart from `count` so that a bare count does not load it. @since 0.1.0 */
import * as Effect from "effect/Effect"
import * as Clock from "./Clock.ts"
import type { CountOptions } from "./commands/count.ts"
import * as Entries from "./Entries.ts"
import type { Columns } from "./render/Renderer.ts"
import * as Selection from "./Selection.ts"

/** @since 0.1.0 */
export const counts = (options: CountOptions, where: string) =>
  Effect.gen(function* () {
    yield* Entries.parse(where)
    const clock = yield* Clock.read(options)
    if (options.nat) {
      const maps = yield* Selection.natMaps(options)
      return yield* tally(yield* Entries.natSources(maps, options.release, where, clock))
    }
    const sources = yield* Entries.ctSources(yield* Selection.ctMaps(options), where, clock)
    yield* Entries.warnOfClock(sources, clock)
    return yield* tally(sources)
  })

const tally = <C extends Columns>(sources: ReadonlyArray<Entries.Source<C>>) =>
  Effect.gen(function* () {
    const entries = new Map(sources.map((source) => [source, 0]))
    yield* Entries.forEachRow(sources, (source, { count }) => entries.set(source, (entries.get(source) ?? 0) + count))
    return sources.map((source) => ({ map: source.map.name, entries: entries.get(source) ?? 0 }))
  })
