/**
 * Which endpoints of this host have conntrack maps of their own.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import { Endpoints } from "ctmap-gc"
import { Bpf, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { keys } from "./kernel.ts"

/** Endpoints of which a map is pinned, by rising id. Where pins cannot be listed, that is said where maps are opened. */
const local: Effect.Effect<ReadonlyArray<Endpoints.Endpoint>, never, Bpf.Bpf> = Pins.discover.pipe(
  Effect.map((pins) => {
    const ids = new Set<number>()
    for (const { denoted } of pins) if (denoted._tag === "Local") ids.add(denoted.endpointId)
    return [...ids].toSorted((a, b) => a - b).map((id) => ({ id }))
  }),
  Effect.catchTag("BpfError", () => Effect.succeed([]))
)

/** @since 0.1.0 */
export const cell = Cell.make("endpoints", {
  description: "finds the endpoints that have maps of their own, by their pins",
  needs: keys,
  provides: [Endpoints.Endpoints],
  layer: Layer.effect(
    Endpoints.Endpoints,
    Effect.gen(function* () {
      const bpf = yield* Bpf.Bpf
      const root = yield* Pins.BpfFsRoot
      return {
        local: local.pipe(Effect.provideService(Bpf.Bpf, bpf), Effect.provideService(Pins.BpfFsRoot, root)),
        emitCtEntry: undefined
      }
    })
  )
})
