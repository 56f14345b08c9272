/**
 * Hives: cells composed into one program.
 *
 * Owns composition: what is missing or there twice is found before anything starts; cells start one after another in the
 * order of their needs and stop in reverse; what went wrong names the cell.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import type * as Types from "effect/Types"
import * as Cell from "./Cell.ts"
import type * as Graph from "./Graph.ts"
import type * as Health from "./Health.ts"
import type * as HiveError from "./HiveError.ts"
import { run } from "./internal/run.ts"
import * as Lifecycle from "./Lifecycle.ts"
import type * as Settings from "./Settings.ts"

const TypeId = "~ctmap-cell/Hive"

/**
 * A set of cells.
 *
 * **Details**
 *
 * `Provides` is what its cells make for others, `Missing` what they need and nobody provides, `Given` what comes from
 * outside. Only a hive whose `Missing` is `never` can be started; what the types cannot see is found at run time.
 *
 * @since 0.1.0
 */
export interface Hive<Provides = never, Missing = unknown, Given = unknown> extends Graph.Cells, Pipeable {
  readonly [TypeId]: {
    readonly _Provides: Types.Contravariant<Provides>
    readonly _Missing: Types.Covariant<Missing>
    readonly _Given: Types.Covariant<Given>
  }
}

/** What a hive offers besides the services of its cells. @since 0.1.0 */
export type Offers = Health.Health | Lifecycle.Lifecycle | Settings.Settings

/**
 * A hive of cells.
 *
 * **Example** (A hive that lacks a cell does not compile)
 *
 * ```ts
 * import { Cell, Hive } from "ctmap-cell"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * class Db extends Context.Service<Db, string>()("app/Db") {}
 * const api = Cell.make("api", { description: "answers", needs: [Db], layer: Layer.empty })
 * const incomplete = Hive.make("app", { cells: [api] })
 * // @ts-expect-error: Db is missing
 * const layer = Hive.layer(incomplete)
 * // Who leaves the types behind is told at run time, before anything starts.
 * const error = await Effect.runPromise(Effect.flip(Effect.scoped(Layer.build(layer))))
 * error.message
 * // => "hive \"app\" cannot be composed: cell \"api\" needs the service \"app/Db\", which no cell provides: add one that does, or name it in `given`"
 *
 * // Services may come from outside: then the layer needs them.
 * const complete = Hive.layer(Hive.make("app", { cells: [api], given: [Db] }))
 * await Effect.runPromise(Effect.scoped(Effect.asVoid(Layer.build(Layer.provide(complete, Layer.succeed(Db, ""))))))
 * ```
 *
 * @since 0.1.0
 */
export const make = <const Cells extends ReadonlyArray<Cell.Any>, const Given extends ReadonlyArray<Cell.Key> = []>(
  name: string,
  options: {
    /** In any order. */
    readonly cells: Cells
    /** Services that come from outside. */
    readonly given?: Given | undefined
  }
): Hive<
  Cell.Provides<Cells[number]>,
  Exclude<Cell.Needs<Cells[number]>, Cell.Provides<Cells[number]> | Cell.Identifiers<Given> | Cell.Implicit>,
  Cell.Identifiers<Given>
> => hiveOf({ name, cells: options.cells, given: options.given ?? [] })

/**
 * @since 0.1.0
 */
export interface Options {
  /** Checked settings. Default: the defaults of all cells. */
  readonly settings?: Settings.Settings["Service"] | undefined
  /** How long the start of a cell may take. Default: 30 s. */
  readonly startTimeout?: Duration.Input | undefined
  /** How long the jobs of a cell, and then its layer, may take to stop. Default: 5 s. */
  readonly stopTimeout?: Duration.Input | undefined
}

/**
 * The hive as one layer: the public services of its cells, its health, its lifecycle and its settings.
 *
 * **Details**
 *
 * Building it starts the cells one after another; releasing it stops them in reverse, each cell's jobs first. A cell that
 * fails, dies or takes too long to start stops those that have started and ends in a `StartError` that names it. A cell
 * that cannot be stopped cleanly or in time is logged and noted, and keeps no other from being stopped.
 *
 * @since 0.1.0
 */
export const layer = <P, G>(
  hive: Hive<P, never, G>,
  options: Options = {}
): Layer.Layer<P | Offers, HiveError.HiveError, G> => {
  const { settings, startTimeout = "30 seconds", stopTimeout = "5 seconds" } = options
  const started = run(hive, { settings, startTimeout, stopTimeout })
  const composed: unknown = Layer.effectContext(started)
  return composed as Layer.Layer<P | Offers, HiveError.HiveError, G>
}

/**
 * Starts a hive and keeps it running until it is interrupted, or until a job that is essential has failed for good.
 *
 * @since 0.1.0
 */
export const launch = <P, G>(
  hive: Hive<P, never, G>,
  options: Options = {}
): Effect.Effect<never, HiveError.HiveError | HiveError.JobError, G> =>
  Effect.scoped(
    Effect.flatMap(Layer.build(layer(hive, options)), (context) =>
      Effect.flatMap(Lifecycle.Lifecycle, ({ failure }) => failure).pipe(Effect.provide(context))
    )
  )

/**
 * The hive with a stand-in for one of its cells, nested ones included. What the original needed, nobody needs any more.
 *
 * **Example** (A test without the disk)
 *
 * ```ts
 * import { Cell, Hive } from "ctmap-cell"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * class Disk extends Context.Service<Disk, { readonly free: Effect.Effect<number> }>()("app/Disk") {}
 * const disk = Cell.make("disk", {
 *   description: "looks at the disk",
 *   provides: [Disk],
 *   layer: Layer.effect(Disk, Effect.die("not in a test"))
 * })
 * const hive = Hive.make("app", { cells: [disk] })
 *
 * const tested = hive.pipe(Hive.replace(disk, Layer.succeed(Disk, { free: Effect.succeed(7) })))
 * const free = Effect.provide(Disk.use((it) => it.free), Hive.layer(tested))
 * await Effect.runPromise(free) // => 7
 * ```
 *
 * @since 0.1.0
 */
export const replace: {
  <CP, CN>(
    cell: Cell.Cell<CP, CN>,
    standIn: Layer.Layer<CP, unknown, Cell.Implicit>
  ): <P, M, G>(hive: Hive<P, M, G>) => Hive<P, M, G>
  <P, M, G, CP, CN>(
    hive: Hive<P, M, G>,
    cell: Cell.Cell<CP, CN>,
    standIn: Layer.Layer<CP, unknown, Cell.Implicit>
  ): Hive<P, M, G>
} = dual(
  3,
  <P, M, G, CP, CN>(
    hive: Hive<P, M, G>,
    cell: Cell.Cell<CP, CN>,
    standIn: Layer.Layer<CP, unknown, Cell.Implicit>
  ): Hive<P, M, G> => {
    const double = Cell.standIn(cell, standIn)
    let isThere = false
    const swap = (other: Cell.Any): Cell.Any => {
      if (other.id !== cell.id) return { ...other, cells: other.cells.map(swap) }
      isThere = true
      return double
    }
    const cells = hive.cells.map(swap)
    const strangers = [...(hive.strangers ?? []), ...(isThere ? [] : [cell.id])]
    return hiveOf({ name: hive.name, given: hive.given, cells, strangers })
  }
)

// internal

// Types only: nobody calls these.
const nothing = (): never => undefined as never
const variance = { _Provides: nothing, _Missing: nothing, _Given: nothing }

const hiveOf = <P, M, G>(cells: Graph.Cells): Hive<P, M, G> => ({
  [TypeId]: variance,
  ...cells,
  pipe() {
    return pipeArguments(this, arguments)
  }
})
