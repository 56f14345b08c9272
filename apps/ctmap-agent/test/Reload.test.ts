/** What changes without a restart, what does not, and that nothing changes where something is wrong. */
import { assert, describe, it } from "@effect/vitest"
import { GcRunner } from "ctmap-gc"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { LogControl } from "../src/Logs.ts"
import { Reload } from "../src/Reload.ts"
import { agent, given, makeKernel } from "./stage.ts"
import * as Layer from "effect/Layer"

const reloading = (
  use: (
    set: (flags: ReadonlyArray<string>) => void
  ) => Effect.Effect<void, unknown, Reload | LogControl | GcRunner.GcRunner>
) =>
  Effect.suspend(() => {
    let flags: ReadonlyArray<string> = []
    // One log control for the agent and for the test.
    const around = given(() => flags)
    return use((next) => void (flags = next)).pipe(
      Effect.provide(
        Layer.provideMerge(
          agent(makeKernel(), () => flags, undefined, around),
          around
        )
      )
    )
  })

const valueOf = (name: string) =>
  Effect.map(
    Effect.flatMap(Reload, ({ effective }) => effective),
    (effective) => effective.find((setting) => setting.name === name)?.value
  )

describe("a reload", () => {
  it.effect("changes the level of the log at once", () =>
    reloading((set) =>
      Effect.gen(function* () {
        const { reload } = yield* Reload
        set(["--log-level", "debug"])
        assert.deepStrictEqual(yield* reload, { applied: ["log-level"], needRestart: [] })
        assert.strictEqual(yield* valueOf("log-level"), "debug")
      })
    )
  )

  it.effect("sets the level of the log where the setting is another; else the level that was asked for stays", () => {
    const lines: Array<string> = []
    const hear = Logger.make<unknown, void>(({ message }) => void lines.push(String(message)))
    const told = () => lines.splice(0).filter((line) => line.includes("by request"))
    return reloading((set) =>
      Effect.gen(function* () {
        const { level, setLevel } = yield* LogControl
        const { reload } = yield* Reload
        // As the API does: somebody looks closely, and something else is reloaded meanwhile.
        yield* setLevel("debug")
        set(["--conntrack-gc-interval", "30s"])
        yield* reload
        assert.strictEqual(yield* level, "debug")
        assert.deepStrictEqual(told(), [
          "log lines of level debug and above are still written, by request; the setting log-level is info"
        ])
        // Whoever changes the setting means it, and it was read again: what was asked for before is over.
        set(["--conntrack-gc-interval", "30s", "--log-level", "warn"])
        yield* reload
        assert.strictEqual(yield* level, "warn")
        yield* reload
        assert.deepStrictEqual(told(), [])
      })
    ).pipe(Effect.provide(Logger.layer([hear])))
  })

  it.effect("changes when the collector collects, at once", () =>
    reloading((set) =>
      Effect.gen(function* () {
        const { reload } = yield* Reload
        const { initialScanDone, settings } = yield* GcRunner.GcRunner
        yield* initialScanDone
        set(["--conntrack-gc-interval", "30s", "--engine", "portable"])
        assert.deepStrictEqual(yield* reload, { applied: ["conntrack-gc-interval"], needRestart: ["engine"] })
        assert.strictEqual(Duration.toSeconds((yield* settings).conntrackGcInterval), 30)
        assert.strictEqual((yield* settings).engine, "auto")
      })
    )
  )

  it.effect("says each time what needs a restart, and leaves it as it is", () =>
    reloading((set) =>
      Effect.gen(function* () {
        const { reload } = yield* Reload
        set(["--bpffs-root", "/elsewhere"])
        assert.deepStrictEqual(yield* reload, { applied: [], needRestart: ["bpffs-root"] })
        assert.strictEqual(yield* valueOf("bpffs-root"), "/sys/fs/bpf")
        assert.deepStrictEqual(yield* reload, { applied: [], needRestart: ["bpffs-root"] })
        set([])
        assert.deepStrictEqual(yield* reload, { applied: [], needRestart: [] })
      })
    )
  )

  it.effect("changes nothing where anything is wrong", () =>
    reloading((set) =>
      Effect.gen(function* () {
        const { reload } = yield* Reload
        set(["--log-level", "debug", "--budget", "7"])
        const error = yield* Effect.flip(reload)
        assert.match(error.message, /budget/)
        assert.strictEqual(yield* valueOf("log-level"), "info")
      })
    )
  )
})
