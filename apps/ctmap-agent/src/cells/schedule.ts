/**
 * Lets the collector run. Declared after what is seen from outside, so that an agent that cannot serve, and is started
 * again and again, does not make a pass each time.
 *
 * @since 0.1.0
 */
import { Cell } from "ctmap-cell"
import { GcRunner } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/** @since 0.1.0 */
export const cell = Cell.make("schedule", {
  description: "lets the collector run, once all else has started",
  needs: [GcRunner.GcRunner],
  layer: Layer.effectDiscard(Effect.flatMap(GcRunner.GcRunner, ({ enable }) => enable))
})
