/**
 * `npm start`: the main job where anyone can see it. Recorded Cilium tables go into kernel maps of their own with times
 * moved to now, the collector runs on them while part of the connections is kept alive, and what it did is held against
 * what it should have done. Without the privilege the same happens in memory, and the first line says so.
 */
import { parseArgs } from "node:util"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Place from "./start/place.ts"
import { show } from "./start/show.ts"

const { values } = parseArgs({
  options: {
    for: { type: "string", default: "30" },
    memory: { type: "boolean", default: false },
    keep: { type: "boolean", default: false }
  }
})
const seconds = Number(values.for)
if (!Number.isFinite(seconds) || seconds < 1 || seconds > 86_400) {
  console.error(`npm start: --for ${values.for}: expected seconds from 1 to 86400`)
  process.exit(2)
}

const place = Place.find(values.memory)
console.log(place.title)
const running = Effect.runFork(Effect.scoped(Effect.provide(show(place, seconds, values.keep), place.stage)))
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => void Effect.runFork(Fiber.interrupt(running)))
}
const exit = await Effect.runPromise(Fiber.await(running))
place.stop()
if (Exit.isFailure(exit)) {
  const isInterrupted = Cause.hasInterruptsOnly(exit.cause)
  console.error(isInterrupted ? "\nstopped; nothing is left behind" : `npm start: ${Cause.pretty(exit.cause)}`)
  process.exitCode = isInterrupted ? 130 : 1
} else process.exitCode = exit.value ? 0 : 1
