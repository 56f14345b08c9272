/**
 * Logs, spans and metrics by OpenTelemetry, where the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin) name
 * somebody to send them to.
 *
 * Owns whether and in which format; names, headers, intervals and limits are those of OpenTelemetry's own variables.
 * Nobody at the other end costs the agent nothing but the attempt: what cannot be sent is dropped.
 *
 * @since 0.1.0
 */
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Otlp from "effect/observability/Otlp"
import * as OtlpSerialization from "effect/observability/OtlpSerialization"

type Env = Readonly<Record<string, string>>

const targets = [
  "OTEL_EXPORTER_OTLP_ENDPOINT",
  "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
  "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
  "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"
]

/** What the standard says where nothing is set; Effect's own default is none. */
const defaults: Env = { OTEL_TRACES_EXPORTER: "otlp", OTEL_METRICS_EXPORTER: "otlp", OTEL_LOGS_EXPORTER: "otlp" }

/** Whether anybody is named. @since 0.1.0 */
export const isWanted = (env: Env): boolean =>
  env["OTEL_SDK_DISABLED"]?.toLowerCase() !== "true" && targets.some((name) => (env[name] ?? "") !== "")

/** Nothing where nobody {@link isWanted}. @since 0.1.0 */
export const layer = (env: Env, version: string): Layer.Layer<never> => {
  if (!isWanted(env)) return Layer.empty
  const protocol = env["OTEL_EXPORTER_OTLP_PROTOCOL"] ?? "http/protobuf"
  const serialization = protocol === "http/json" ? OtlpSerialization.layerJson : OtlpSerialization.layerProtobuf
  const exporters = Otlp.layerFromConfig({
    resource: { serviceName: env["OTEL_SERVICE_NAME"] ?? "ctmap-agent", serviceVersion: version },
    // The log of the agent decides which lines go where.
    loggerMergeWithExisting: false
  }).pipe(
    Layer.provide(Layer.merge(FetchHttpClient.layer, serialization)),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord({ ...defaults, ...env })))
  )
  // Tables are collected whether anybody is told or not.
  const built = Layer.build(exporters).pipe(
    Effect.catchDefect((defect) =>
      Effect.as(
        Effect.logWarning(`OpenTelemetry is off, for its variables (OTEL_…) make no sense: ${sentence(defect)}`),
        Context.empty()
      )
    )
  )
  return Layer.effectContext(Effect.map(built, (context): Context.Context<never> => context))
}

const sentence = (defect: unknown): string => (defect instanceof Error ? defect.message : String(defect))
