/**
 * How many entries a map holds, or that it could not be told.
 *
 * @since 0.1.0
 */
import type { Bpf } from "ctmap-kernel/Bpf"
import type { BpfError } from "ctmap-kernel/BpfError"
import type { BpfMap } from "ctmap-kernel/BpfMap"
import * as Scan from "ctmap-kernel/Scan"
import * as Effect from "effect/Effect"

/** Counts. Errors: `Incomplete` where the walk gave up, whose number must not pass for a count. @since 0.1.0 */
export const of = (map: BpfMap): Effect.Effect<number, BpfError | Scan.Incomplete, Bpf> =>
  Effect.flatMap(
    Scan.forEach(map, () => Effect.void),
    ({ completed, entries, restarts }) =>
      completed ? Effect.succeed(entries) : Effect.fail(new Scan.Incomplete({ map: map.name, entries, restarts }))
  )
