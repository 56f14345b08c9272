/**
 * The datapath's clock.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import { CtTime } from "ctmap-core"
import { Bpf, KernelClock } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"

const config = Schema.Struct({
  clock: Schema.Literals(["auto", "ktime", "jiffies"])
    .annotate({
      description: "what the datapath counts; auto takes what Cilium's runtime configuration names, else ktime"
    })
    .pipe(Schema.withDecodingDefaultKey(Effect.succeed("auto" as const))),
  clockHz: Schema.optionalKey(
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10_000 })).annotate({
      description: "the kernel's tick rate for --clock jiffies; measured where it is not given"
    })
  )
}).check(
  Schema.makeFilter(({ clock, clockHz }) =>
    clockHz !== undefined && clock !== "jiffies"
      ? { path: ["clockHz"], issue: "clock-hz is the tick rate of the jiffies clock: set clock to jiffies" }
      : undefined
  )
)

/** @since 0.1.0 */
export const cell = Cell.make("clock", {
  description: "what time it is for the tables",
  config,
  needs: [Bpf.Bpf],
  provides: [KernelClock.KernelClock],
  layer: ({ clock, clockHz }) =>
    clock === "auto"
      ? KernelClock.layerDetected
      : clock === "ktime"
        ? KernelClock.layerKtime
        : Layer.unwrap(
            Effect.map(clockHz === undefined ? KernelClock.measureHertz : Effect.succeed(clockHz), (hertz) =>
              KernelClock.layerOf(CtTime.jiffies(hertz))
            )
          )
})
