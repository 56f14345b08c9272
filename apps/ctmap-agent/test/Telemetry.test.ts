/** What the agent tells by OpenTelemetry, to a collector of the test's own on loopback. */
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Logs from "../src/Logs.ts"
import * as Telemetry from "../src/Telemetry.ts"

interface Received {
  readonly path: string
  readonly body: string
}

/** Takes whatever is sent to it, until the scope closes. */
const collector = Effect.gen(function* () {
  const received: Array<Received> = []
  const server = yield* Effect.acquireRelease(
    Effect.callback<ReturnType<typeof createServer>>((resume) => {
      const made = createServer((request, response) => {
        const chunks: Array<Buffer> = []
        request.on("data", (chunk: Buffer) => chunks.push(chunk))
        request.on("end", () => {
          received.push({ path: request.url ?? "", body: Buffer.concat(chunks).toString() })
          response.end("{}")
        })
      })
      made.listen(0, "127.0.0.1", () => resume(Effect.succeed(made)))
    }),
    (made) => Effect.sync(() => made.closeAllConnections()).pipe(Effect.andThen(Effect.sync(() => made.close())))
  )
  return { received, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
})

describe("telemetry", () => {
  it.live("sends log lines of the agent's level, spans and metrics, and what is left when it stops", () =>
    Effect.gen(function* () {
      const { received, url } = yield* collector
      const env = { OTEL_EXPORTER_OTLP_ENDPOINT: url, OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" }
      const around = Logs.layer("json").pipe(Layer.provideMerge(Telemetry.layer(env, "1.2.3")))
      yield* Effect.gen(function* () {
        const { setLevel } = yield* Logs.LogControl
        yield* Effect.logDebug("not of interest yet")
        yield* setLevel("debug")
        yield* Effect.logDebug("of interest now")
        yield* Metric.update(Metric.counter("ctmap_telemetry_test", { incremental: true }), 7)
      }).pipe(Effect.withSpan("a piece of work"), Effect.provide(around))
      const sent = (path: string) => received.flatMap((each) => (each.path === path ? [each.body] : [])).join("\n")
      assert.include(sent("/v1/logs"), "of interest now")
      assert.notInclude(sent("/v1/logs"), "not of interest yet")
      assert.include(sent("/v1/logs"), "ctmap-agent")
      assert.include(sent("/v1/logs"), "1.2.3")
      assert.include(sent("/v1/traces"), "a piece of work")
      assert.include(sent("/v1/metrics"), "ctmap_telemetry_test")
    }).pipe(Effect.scoped)
  )

  it("is off unless a variable of OpenTelemetry names somebody", () => {
    assert.isFalse(Telemetry.isWanted({}))
    assert.isFalse(Telemetry.isWanted({ OTEL_SERVICE_NAME: "node" }))
    assert.isFalse(Telemetry.isWanted({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://x", OTEL_SDK_DISABLED: "true" }))
    assert.isTrue(Telemetry.isWanted({ OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: "http://x" }))
  })

  it.live("is off, and the agent goes on, where its variables make no sense", () =>
    Effect.gen(function* () {
      const env = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:1", OTEL_EXPORTER_OTLP_TIMEOUT: "soon" }
      const ran = yield* Effect.succeed("ran").pipe(Effect.provide(Telemetry.layer(env, "0")))
      assert.strictEqual(ran, "ran")
    })
  )
})
