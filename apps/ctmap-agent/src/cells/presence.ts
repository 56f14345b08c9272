/**
 * Notices when tables come, go, or are replaced.
 *
 * @since 0.1.0
 */
import { Cell, Health, Job } from "ctmap-cell"
import { GcConfig, GcRunner } from "ctmap-gc"
import { Bpf, Pins } from "ctmap-kernel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Presence from "../Presence.ts"
import { keys } from "./kernel.ts"

const config = Schema.Struct({
  presenceInterval: GcConfig.Duration.annotate({
    description: "how often to look whether tables were pinned, replaced or taken away"
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed("5s")))
})

/** @since 0.1.0 */
export const cell = Cell.make("presence", {
  description: "waits for tables, and has new ones collected at once",
  config,
  needs: [...keys, GcRunner.GcRunner],
  provides: [Presence.Presence],
  layer: ({ presenceInterval }) =>
    Layer.effect(
      Presence.Presence,
      Effect.gen(function* () {
        const runner = yield* GcRunner.GcRunner
        const root = yield* Pins.BpfFsRoot
        const kernel = Context.make(Bpf.Bpf, yield* Bpf.Bpf).pipe(Context.add(Pins.BpfFsRoot, root))
        let latest: Presence.Found = { tables: [], problems: [] }
        let said: string | undefined = ""

        const look = Effect.gen(function* () {
          const before = latest
          latest = yield* Effect.provide(Presence.find, kernel)
          const { came, replaced, went } = Presence.compare(before, latest)
          if (came.length > 0) yield* Effect.logInfo(`pinned: ${came.join(", ")}`)
          if (replaced.length > 0) yield* Effect.logInfo(`replaced by another map: ${replaced.join(", ")}`)
          if (went.length > 0) yield* Effect.logWarning(`not pinned any more: ${went.join(", ")}`)
          const fresh = new Set([...came, ...replaced])
          const families = new Set(latest.tables.flatMap(({ family, name }) => (fresh.has(name) ? [family] : [])))
          // Without this they would wait for the next pass at the interval, hours perhaps.
          if (families.size > 0) yield* runner.request([...families])
          return latest
        })
        const report = Effect.gen(function* () {
          const found = yield* look
          const complaint = Presence.complaint(found, root)
          if (complaint !== undefined && complaint !== said) yield* Effect.logWarning(complaint)
          said = complaint
          const count = (kind: "ct" | "nat") => found.tables.filter((table) => table.kind === kind).length
          yield* complaint === undefined
            ? Health.ok(`${count("ct")} conntrack and ${count("nat")} NAT maps are pinned`)
            : Health.degraded(complaint)
        })
        yield* Job.timer("look", report, { every: presenceInterval, immediately: true })
        return Presence.Presence.of({ look, latest: Effect.sync(() => latest) })
      })
    )
})
