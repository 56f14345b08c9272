/**
 * How the process of the agent is: CPU, memory, fds, and how late its event loop runs.
 *
 * @since 0.1.0
 */
import { readdir } from "node:fs/promises"
import { monitorEventLoopDelay } from "node:perf_hooks"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import { version } from "./Version.ts"

/** How often the loop is looked at, in milliseconds: what it is later than that is its delay. */
const RESOLUTION = 20

const info = Metric.gauge("ctmap_agent_info", {
  description: "1, with the version of the agent",
  attributes: { version }
})
const cpu = Metric.counter("process_cpu_seconds_total", {
  description: "User and system CPU time spent, in seconds",
  incremental: true
})
const memory = Metric.gauge("process_resident_memory_bytes", { description: "Resident memory" })
const fds = Metric.gauge("process_open_fds", { description: "Open file descriptors" })
const late = Metric.gauge("ctmap_agent_event_loop_delay_p99_seconds", {
  description: "How late the event loop ran since the last sample, at most, in 99 of 100 turns"
})
const latest = Metric.gauge("ctmap_agent_event_loop_delay_max_seconds", {
  description: "How late the event loop ran at most since the last sample"
})

/**
 * Takes a sample each time it is run. The delay is watched until the scope closes.
 *
 * @since 0.1.0
 */
export const make: Effect.Effect<Effect.Effect<void>, never, Scope.Scope> = Effect.gen(function* () {
  const delay = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const histogram = monitorEventLoopDelay({ resolution: RESOLUTION })
      histogram.enable()
      return histogram
    }),
    (histogram) => Effect.sync(() => histogram.disable())
  )
  yield* Metric.update(info, 1)
  let spent = 0
  return Effect.gen(function* () {
    const { user, system } = process.cpuUsage()
    const seconds = (user + system) / 1e6
    yield* Metric.update(cpu, seconds - spent)
    spent = seconds
    yield* Metric.update(memory, process.memoryUsage.rss())
    const open = yield* Effect.promise(() => readdir("/proc/self/fd").catch(() => undefined))
    // The one that lists them is closed by now.
    if (open !== undefined) yield* Metric.update(fds, open.length - 1)
    yield* Metric.update(late, beyond(delay, delay.percentile(99)))
    yield* Metric.update(latest, beyond(delay, delay.max))
    delay.reset()
  })
})

/** Nanoseconds between two looks as seconds of delay; 0 where there was no look yet. */
const beyond = ({ count }: ReturnType<typeof monitorEventLoopDelay>, nanoseconds: number): number =>
  count === 0 ? 0 : Math.max(0, nanoseconds / 1e6 - RESOLUTION) / 1000
