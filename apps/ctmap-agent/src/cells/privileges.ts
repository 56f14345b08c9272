/**
 * Says what this process may not do, where everything goes on without it.
 *
 * @since 0.1.0
 */
import { Cell, Health } from "ctmap-cell"
import { Bpf, Features } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/** @since 0.1.0 */
export const cell = Cell.make("privileges", {
  description: "tries whether programs can be loaded, and names the capability that is missing",
  needs: [Bpf.Bpf],
  layer: Layer.effectDiscard(
    Effect.gen(function* () {
      const { probe } = yield* Features.Features
      if ((yield* probe("syscall-program"))._tag !== "NotPermitted") return
      const why =
        "programs may not be loaded, so that entries are deleted by single calls, which more often hit what was refreshed " +
        "meanwhile: give the process CAP_BPF"
      yield* Effect.logWarning(why)
      yield* Health.degraded(why)
    })
  ).pipe(Layer.provide(Features.layer))
})
