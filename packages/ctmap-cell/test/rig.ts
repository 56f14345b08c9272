import { Cell } from "ctmap-cell"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"

/** What the cells of a test provide to each other: a word. */
export class A extends Context.Service<A, string>()("test/A") {}
export class B extends Context.Service<B, string>()("test/B") {}
export class C extends Context.Service<C, string>()("test/C") {}

/** Services of graphs that are made at random all have one type. */
export interface Any {
  readonly _: unique symbol
}
export const key = (name: string) => Context.Service<Any, string>(`test/${name}`)

export class Failure extends Data.TaggedError("Failure")<{ readonly message: string }> {}
export const fail = (message: string): Effect.Effect<never, Failure> => Effect.fail(new Failure({ message }))

/** A layer that writes down when it starts and stops. */
export const noting = <I>(did: Array<string>, name: string, service?: Context.Service<I, string>) =>
  Layer.effectContext(
    Effect.acquireRelease(
      Effect.sync(() => {
        did.push(`+${name}`)
        return service === undefined ? (Context.empty() as Context.Context<I>) : Context.make(service, name)
      }),
      () => Effect.sync(() => void did.push(`-${name}`))
    )
  )

/** Whatever this layer is, it is built and released; how that ended, and what was squashed out of a failure. */
export const outcome = <P, E, R>(layer: Layer.Layer<P, E, R>): Effect.Effect<E | "fine", never, R> =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const exit = yield* Effect.exit(Layer.buildWithScope(layer, scope))
    yield* Scope.close(scope, Exit.void)
    return Exit.isSuccess(exit) ? "fine" : (Cause.squash(exit.cause) as E)
  }) as Effect.Effect<E | "fine", never, R>

export const plain = (id: string) => Cell.make(id, { description: "does nothing", layer: Layer.empty })
