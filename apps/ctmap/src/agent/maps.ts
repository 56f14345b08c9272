/**
 * `ctmap maps --agent`: what is pinned where the agent looks, as it last saw it.
 *
 * @since 0.1.0
 */
import type * as Status from "ctmap-api/Status"
import * as Effect from "effect/Effect"
import type { MapsOptions } from "../commands/maps.ts"
import { failWhereNoneIsRead } from "../Failure.ts"
import * as MapFlags from "../MapFlags.ts"
import * as MapMemory from "../MapMemory.ts"
import type { Agent } from "../Options.ts"
import { mapFields, NEARLY_FULL, typeNames } from "../render/mapFields.ts"
import * as Report from "../render/Report.ts"
import * as Connection from "./Connection.ts"
import * as Refuse from "./refuse.ts"

/** Tables have the fill that was last sampled: nothing is read for the request. @since 0.1.0 */
export const maps = (agent: Agent, options: MapsOptions) =>
  Connection.provide(agent, (client) =>
    Effect.gen(function* () {
      yield* Refuse.refuse({ ...Refuse.clock(options), ...Refuse.release(options) }, Refuse.settings)
      yield* MapFlags.checkAny(options)
      const { maps: all, root } = yield* client.maps
      const pinned = yield* MapFlags.select(options, all, `${root}/tc/globals, says the agent at ${client.at}`)
      yield* Report.print(
        options.output,
        mapFields,
        pinned.map((map) => rowOf(map, options.entries))
      )
      // The type of a map is known wherever it could be opened; where it is not, the first complaint says why.
      const unread = pinned.flatMap(({ type, name, health }) => (type === undefined ? [health[0] ?? name] : []))
      return yield* failWhereNoneIsRead(unread, pinned.length)
    })
  )

/** As a row of `ctmap maps`; `null` is what the agent does not say. */
const rowOf = (map: Status.PinnedMap, counts: boolean): Report.Row => {
  const { capacity, flags, keySize, type, valueSize } = map
  const fill = counts ? map.fill : undefined
  const number = [...typeNames].find(([, name]) => name === type)?.[0]
  const memory =
    number === undefined || capacity === undefined || keySize === undefined || valueSize === undefined
      ? undefined
      : MapMemory.estimate({ type: number, keySize, valueSize, maxEntries: capacity, flags: flags ?? 0 })
  return {
    map: map.name,
    path: map.path,
    owner: map.owner ?? "-",
    type: type ?? null,
    keySize: keySize ?? null,
    valueSize: valueSize ?? null,
    maxEntries: capacity ?? null,
    flags: flags ?? null,
    entries: fill === undefined ? null : Math.round(fill.entries),
    fill: fill?.pressure ?? null,
    memoryBytes: memory ?? null,
    layout: map.layout ?? "-",
    clock: "-",
    health: [
      ...map.health,
      ...(fill !== undefined && fill.pressure >= NEARLY_FULL
        ? ["nearly full: an LRU evicts live entries, make it larger"]
        : [])
    ]
  }
}
