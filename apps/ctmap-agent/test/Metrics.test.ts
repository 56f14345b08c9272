/** `/metrics` is text that Prometheus takes, with the names that users of Cilium know. */
import { assert, describe, it } from "@effect/vitest"
import { MapPressure } from "ctmap-gc"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import * as Exposition from "../src/Exposition.ts"
import { ask, freePort, problemOf, serving, settled } from "./apiStage.ts"
import { parseExposition } from "./exposition.ts"
import { makeKernel, restore } from "./stage.ts"

/** A registry of its own: other tests count, too. */
const alone = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provideService(effect, Metric.MetricRegistry, new Map())

describe("a strict reader of the text format", () => {
  it("takes what is right", () => {
    const families = parseExposition(
      '# HELP a Something\n# TYPE a counter\na{x="1",y="q\\"\\\\\\n"} 3\na{x="2",y=""} +Inf\n' +
        '# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3.5\nh_count 2\n'
    )
    assert.deepStrictEqual(
      families.get("a")?.samples.map(({ value }) => value),
      [3, Number.POSITIVE_INFINITY]
    )
    assert.strictEqual(families.get("h")?.type, "histogram")
  })

  it("refuses what is wrong", () => {
    const wrong = [
      "a 1",
      "a 1\n",
      "# TYPE a counter\na 1\na 2\n",
      "# TYPE a counter\na{x=1} 1\n",
      "# TYPE a counter\nb 1\n",
      "# TYPE a counter\na one\n",
      "# TYPE a counter\n# TYPE a counter\na 1\n",
      '# TYPE h histogram\nh_bucket{le="1"} 3\nh_bucket{le="+Inf"} 2\nh_sum 1\nh_count 2\n',
      '# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 1\nh_count 1\n'
    ]
    for (const text of wrong) assert.throws(() => parseExposition(text), undefined, undefined, text)
  })
})

describe("/metrics", () => {
  it.live("has Cilium's names, ours, and those of the process", () =>
    alone(
      Effect.gen(function* () {
        const twin = makeKernel()
        yield* restore(twin)
        const { at, context } = yield* serving(twin)
        yield* settled(context, twin)
        yield* Context.get(context, MapPressure.MapPressure).look
        yield* ask({ at, path: "/v1/status" })
        yield* ask({ at, path: "/wp-login.php" })
        yield* ask({ at, path: "/xmlrpc.php" })
        const { status, text, type } = yield* ask({ at, path: "/metrics" })
        assert.strictEqual(status, 200)
        assert.strictEqual(type, "text/plain; version=0.0.4; charset=utf-8")
        const families = parseExposition(text)
        const expected = [
          "cilium_bpf_map_capacity",
          "cilium_bpf_map_pressure",
          "cilium_datapath_conntrack_gc_duration_seconds",
          "cilium_datapath_conntrack_gc_entries",
          "cilium_datapath_conntrack_gc_key_fallbacks_total",
          "cilium_datapath_conntrack_gc_runs_total",
          "ctmap_agent_api_requests_total",
          "ctmap_agent_event_loop_delay_max_seconds",
          "ctmap_agent_event_loop_delay_p99_seconds",
          "ctmap_agent_info",
          "ctmap_map_entries",
          "process_cpu_seconds_total",
          "process_open_fds",
          "process_resident_memory_bytes"
        ]
        for (const name of expected) assert.isTrue(families.has(name), name)
        const valueOf = (name: string) => families.get(name)?.samples[0]?.value ?? Number.NaN
        assert.strictEqual(valueOf("ctmap_agent_info"), 1)
        assert.isAbove(valueOf("process_resident_memory_bytes"), 10e6)
        assert.isAbove(valueOf("process_open_fds"), 3)
        assert.isAbove(valueOf("process_cpu_seconds_total"), 0)
        const requests = families.get("ctmap_agent_api_requests_total")!.samples
        assert.deepStrictEqual(
          requests.map(({ labels, value }) => [labels.get("route"), labels.get("status"), value]),
          [
            ["/v1/status", "200", 1],
            ["other", "404", 2]
          ]
        )
      })
    )
  )

  it.live("is the same text as all at once, made in turns so that others have theirs", () =>
    alone(
      Effect.gen(function* () {
        const { text } = Context.get(yield* Layer.build(Exposition.layer), Exposition.Exposition)
        assert.strictEqual(yield* text, "")
        for (let i = 0; i < 1500; i++) {
          const attributes = { map_name: `per_cluster_ct4_global_${i}` }
          yield* Metric.update(Metric.gauge("ctmap_map_entries", { description: "Entries", attributes }), i)
          yield* Metric.update(Metric.counter("ctmap_x_total", { attributes }), i)
        }
        yield* Metric.update(Metric.histogram("h_seconds", { boundaries: [1, 2] }), 1)
        let turns = 0
        const others = yield* Effect.forkChild(
          Effect.forever(
            Effect.andThen(
              Effect.sync(() => turns++),
              Effect.yieldNow
            )
          ),
          { startImmediately: true }
        )
        const made = yield* text
        yield* Fiber.interrupt(others)
        assert.strictEqual(made, yield* PrometheusMetrics.format())
        assert.strictEqual(parseExposition(made).get("ctmap_map_entries")?.samples.length, 1500)
        assert.isAbove(turns, 5)
      })
    )
  )

  it.live("has an address of its own, with nothing else on it", () =>
    alone(
      Effect.gen(function* () {
        const port = yield* freePort
        yield* serving(makeKernel(), [`--prometheus-serve-addr=127.0.0.1:${port}`])
        const at = { port }
        assert.isTrue(parseExposition((yield* ask({ at, path: "/metrics" })).text).has("ctmap_agent_info"))
        for (const path of ["/v1/status", "/healthz", "/"]) {
          assert.strictEqual(problemOf(yield* ask({ at, path })).type, "urn:ctmap:problem:not-found")
        }
        const post = yield* ask({ at, path: "/metrics", method: "POST" })
        assert.strictEqual(problemOf(post).type, "urn:ctmap:problem:method-not-allowed")
      })
    )
  )
})
