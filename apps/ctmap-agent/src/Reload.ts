/**
 * Settings that change while the agent runs: on SIGHUP, or when the API asks.
 *
 * Owns what is in force. A cell that can take other settings registers; what nobody registered for is told as needing a
 * restart, and nothing at all is changed by settings that are not valid.
 *
 * @since 0.1.0
 */
import { Settings } from "ctmap-cell"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { Configuration, type LoadError } from "./Configuration.ts"

/** Settings of which cell, by their names as flags. @since 0.1.0 */
export interface Changed {
  /** In force from now on. */
  readonly applied: ReadonlyArray<string>
  /** In force once the agent is started again. */
  readonly needRestart: ReadonlyArray<string>
}

/** Takes the new settings of its cell. Must not fail: they were checked. @since 0.1.0 */
export type Apply = (config: unknown) => Effect.Effect<void>

/**
 * See the module.
 *
 * @since 0.1.0
 */
export class Reload extends Context.Service<
  Reload,
  {
    /**
     * Says which settings of a cell, by their names as flags, can change, and how, until the scope closes.
     */
    readonly register: (
      cell: string,
      names: ReadonlyArray<string>,
      apply: Apply
    ) => Effect.Effect<void, never, Scope.Scope>
    /** Does something before every reload and something after it, whatever came of it, until the scope closes. */
    readonly announce: (
      before: Effect.Effect<void>,
      after: Effect.Effect<void>
    ) => Effect.Effect<void, never, Scope.Scope>
    /** Reads all sources and applies what can be. Errors: settings that are not valid; then everything stays. */
    readonly reload: Effect.Effect<Changed, LoadError>
    /** What is in force. */
    readonly effective: Effect.Effect<ReadonlyArray<Settings.Effective>>
  }
>()("ctmap-agent/Reload") {}

/** @since 0.1.0 */
export const layer: Layer.Layer<Reload, never, Configuration | Settings.Settings> = Layer.effect(
  Reload,
  Effect.gen(function* () {
    const { load } = yield* Configuration
    let { effective, values } = yield* Settings.Settings
    const handlers = new Map<string, { readonly names: ReadonlySet<string>; readonly apply: Apply }>()
    const announced = new Set<{ readonly before: Effect.Effect<void>; readonly after: Effect.Effect<void> }>()
    const turn = yield* Semaphore.make(1)

    const reload: Reload["Service"]["reload"] = Effect.gen(function* () {
      const next = yield* load
      const changes = next.effective.filter((now, i) => !isSame(effective[i], now, values, next.values))
      const canChange = ({ cell, name }: Settings.Effective) => handlers.get(cell)?.names.has(name) === true
      for (const cell of new Set(changes.filter(canChange).map((change) => change.cell))) {
        yield* handlers.get(cell)!.apply(next.values.get(cell))
      }
      const applied = changes.filter(canChange).map(({ name }) => name)
      const needRestart = changes.filter((change) => !canChange(change)).map(({ name }) => name)
      // What needs a restart is still as it was, and still differs the next time.
      effective = next.effective.map((now, i) => (needRestart.includes(now.name) ? (effective[i] ?? now) : now))
      values = new Map(
        [...next.values].map(([cell, now]) => [cell, handlers.has(cell) ? now : values.get(cell)] as const)
      )
      const words = [
        ...(applied.length > 0 ? [`in force now: ${applied.join(", ")}`] : []),
        ...(needRestart.length > 0 ? [`need a restart: ${needRestart.join(", ")}`] : [])
      ]
      const say = needRestart.length > 0 ? Effect.logWarning : Effect.logInfo
      yield* say(`settings were read again; ${words.length === 0 ? "nothing has changed" : words.join("; ")}`)
      return { applied, needRestart }
    }).pipe(
      Effect.tapError(({ message }) => Effect.logError(`settings were read again and stay as they were: ${message}`)),
      Effect.ensuring(Effect.suspend(() => Effect.forEach(announced, ({ after }) => after, { discard: true }))),
      (done) =>
        Effect.andThen(
          Effect.suspend(() => Effect.forEach(announced, ({ before }) => before)),
          done
        ),
      turn.withPermits(1),
      Effect.uninterruptible
    )

    return Reload.of({
      reload,
      register: (cell, names, apply) =>
        Effect.acquireRelease(
          Effect.sync(() => void handlers.set(cell, { names: new Set(names), apply })),
          () => Effect.sync(() => void handlers.delete(cell))
        ),
      announce: (before, after) =>
        Effect.suspend(() => {
          const words = { before, after }
          return Effect.acquireRelease(
            Effect.sync(() => void announced.add(words)),
            () => Effect.sync(() => void announced.delete(words))
          )
        }),
      effective: Effect.sync(() => effective)
    })
  })
)

/** Secrets read the same as text: of those it is the values that tell. */
const isSame = (
  before: Settings.Effective | undefined,
  now: Settings.Effective,
  values: ReadonlyMap<string, unknown>,
  next: ReadonlyMap<string, unknown>
): boolean => before?.value === now.value && (!now.secret || Equal.equals(values.get(now.cell), next.get(now.cell)))
