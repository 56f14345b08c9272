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
  description: "tries which programs can be loaded, and names the capability that is missing",
  needs: [Bpf.Bpf],
  layer: Layer.effectDiscard(
    Effect.gen(function* () {
      const { probe } = yield* Features.Features
      const isForbidden = (feature: Features.Feature) =>
        Effect.map(probe(feature), ({ _tag }) => _tag === "NotPermitted")
      const missing = (yield* isForbidden("syscall-program"))
        ? ["programs may not be loaded", "CAP_BPF and CAP_PERFMON"]
        : (yield* isForbidden("iterator"))
          ? ["programs may not read the kernel's memory", "CAP_PERFMON"]
          : undefined
      if (missing === undefined) return
      const why =
        `${missing[0]}, so that entries are deleted in ways that more often hit what is refreshed in that moment: ` +
        `give the process ${missing[1]}`
      yield* Effect.logWarning(why)
      yield* Health.degraded(why)
    })
  ).pipe(Layer.provide(Features.layer))
})
