/**
 * NAT clean-up for those who delete CT entries otherwise than by a pass: Cilium's `NatMapNext4` and `NatMapNext6`.
 *
 * A pass of ours cleans up by itself, before it tells anybody; handing its events to this again finds nothing left.
 *
 * @since 0.1.0
 */
import { type Bpf, BpfError, type CtPair, NatCleanUp } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { columns, type Deleted } from "./GcEvents.ts"
import * as GcPass from "./GcPass.ts"
import { tableOf } from "./internal/programs.ts"

/**
 * Takes the NAT entries of CT entries that were deleted. Batches of another family, and dry runs, are passed over.
 *
 * @since 0.1.0
 */
export type NatMapNext = (event: Deleted) => Effect.Effect<GcPass.NatCounts, BpfError.BpfError>

/**
 * Prepares clean-up for one CT map of a pair, for the life of a scope.
 *
 * **Details**
 *
 * A pair without a NAT map cleans nothing. A connection that is back keeps its mapping, see `NatCleanUp`. Errors: those
 * of loading for `engine: "program"`; `BpfError` where the NAT map cannot be written.
 *
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* (
  pair: CtPair.CtPair,
  options: NatCleanUp.Options & { readonly transport: CtPair.CtMap["transport"] }
): Effect.fn.Return<NatMapNext, BpfError.BpfError, Bpf.Bpf | Scope.Scope> {
  const { nat, family } = pair
  if (nat === undefined) return () => Effect.succeed(GcPass.noNat)
  const { transport, ...engine } = options
  const { map } = pair[transport]
  const cleanUp = yield* NatCleanUp.make({ ct: tableOf(map), nat: tableOf(nat.map), family }, engine)

  return Effect.fnUntraced(function* (event) {
    const sum: { -readonly [K in keyof GcPass.NatCounts]: number } = { ...GcPass.noNat }
    if (event.family !== family || event.dryRun) return sum
    const rows = columns(event)
    const flags = Uint16Array.from({ length: event.count }, (_, row) => rows.flags(row))
    const candidates = { keys: event.keys, flags, verdicts: new Uint8Array(event.count) }
    for (let from = 0; from < event.count; from += cleanUp.capacity) {
      const totals = cleanUp.run(candidates, Math.min(cleanUp.capacity, event.count - from), { from })
      if (typeof totals === "number") {
        const about = { errno: -totals, map: nat.map.name, path: nat.map.path }
        return yield* Effect.fail(BpfError.fromErrno({ operation: "delete", ...about }))
      }
      for (const name of names) sum[name] += totals[name]
      if (from + cleanUp.capacity < event.count) yield* Effect.yieldNow
    }
    return sum
  })
})

const names = Object.keys(GcPass.noNat) as ReadonlyArray<keyof GcPass.NatCounts>
