/**
 * Cells: named modules over Layers.
 *
 * Owns what a cell is: an id, a line of description, settings, the services it provides and needs, nested cells. It
 * starts nothing; a {@link Hive} does. Nothing here fails either: what is wrong with a cell is reported, all at once,
 * by the hive that it is in (`Graph.check`).
 *
 * @since 0.1.0
 */
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import type * as Types from "effect/Types"
import type * as Health from "./Health.ts"
import type * as Job from "./Job.ts"
import type * as Lifecycle from "./Lifecycle.ts"
import type * as Settings from "./Settings.ts"

const TypeId = "~ctmap-cell/Cell"

/** The key of a service: what `Context.Service` makes. @since 0.1.0 */
export type Key = Context.Key<unknown, unknown>

/** What every cell may use without naming it: its jobs and its health, and those of the hive it runs in. @since 0.1.0 */
export type Implicit = Job.Jobs | Health.Reporter | Health.Health | Lifecycle.Lifecycle | Settings.Settings

/** The fields of a cell's settings: each a schema that needs no services. @since 0.1.0 */
export type Fields = Readonly<Record<string, Schema.ConstraintCodec<unknown, unknown>>>

/**
 * A cell that provides some services and needs others.
 *
 * **Details**
 *
 * `Offers` is what others may use: of its own layer and of nested cells, without what is private. `Lacks` is what is
 * left to be provided by somebody else.
 *
 * @since 0.1.0
 */
export interface Cell<Offers = never, Lacks = unknown> {
  readonly [TypeId]: {
    readonly _Provides: Types.Contravariant<Offers>
    readonly _Needs: Types.Covariant<Lacks>
  }
  readonly id: string
  readonly description: string
  /** The fields of its settings. */
  readonly fields: Schema.Struct.Fields
  /** The schema of its settings as a whole, with checks over several fields. */
  readonly config: Schema.Constraint | undefined
  readonly provides: ReadonlyArray<Key>
  readonly private: ReadonlyArray<Key>
  readonly needs: ReadonlyArray<Key>
  readonly layer: ((config: unknown) => AnyLayer) | undefined
  readonly cells: ReadonlyArray<Any>
  readonly startTimeout: Duration.Input | undefined
  readonly stopTimeout: Duration.Input | undefined
}

/** Any cell. @since 0.1.0 */
export type Any = Cell

/** A layer of whatever services. @since 0.1.0 */
export type AnyLayer = Layer.Layer<never, unknown, unknown>

/** The services of a list of keys. @since 0.1.0 */
export type Identifiers<Keys extends ReadonlyArray<Key>> = Keys[number]["Identifier"]

/** What a cell provides. @since 0.1.0 */
export type Provides<C> = C extends Cell<infer P, infer _> ? P : never

/** What a cell needs. @since 0.1.0 */
export type Needs<C> = C extends Cell<infer _, infer N> ? N : never

/** What the layer of a cell has to make: what it lists and nested cells do not make already. @since 0.1.0 */
export type Own<
  P extends ReadonlyArray<Key>,
  Private extends ReadonlyArray<Key>,
  Cells extends ReadonlyArray<Any>
> = Exclude<Identifiers<P> | Identifiers<Private>, Provides<Cells[number]>>

type LayerOf<
  P extends ReadonlyArray<Key>,
  Private extends ReadonlyArray<Key>,
  N extends ReadonlyArray<Key>,
  Cells extends ReadonlyArray<Any>
> = Layer.Layer<Own<P, Private, Cells>, unknown, Identifiers<N> | Implicit>

/**
 * What a cell is made of.
 *
 * @since 0.1.0
 */
export interface Options<
  F extends Fields,
  P extends ReadonlyArray<Key>,
  Private extends ReadonlyArray<Key>,
  N extends ReadonlyArray<Key>,
  Cells extends ReadonlyArray<Any>
> {
  /** One line: what it does, not its id in other words. */
  readonly description: string
  /**
   * Its settings. A field `maxAge` becomes the flag `--max-age`, the variable `PREFIX_MAX_AGE` and the key `max-age` of
   * a file. `annotate({ description })` documents a field, `Schema.withDecodingDefaultKey` gives it a default.
   */
  readonly config?: Schema.Struct<F> | undefined
  /** Services for everybody. */
  readonly provides?: P | undefined
  /** Services for nobody but this cell and those nested in it, made by either. */
  readonly private?: Private | undefined
  /** Services that others provide. The layer sees no more than these. */
  readonly needs?: N | undefined
  /** Makes what the cell provides, and starts its jobs. Not needed by a cell that only groups others. */
  readonly layer?: LayerOf<P, Private, N, Cells> | ((config: Schema.Struct.Type<F>) => LayerOf<P, Private, N, Cells>)
  /** Cells within this one. They start in the order of their needs, like all others. */
  readonly cells?: Cells | undefined
  /** How long its start may take. Default: the hive's. */
  readonly startTimeout?: Duration.Input | undefined
  /** How long its jobs, and then its layer, may take to stop. Default: the hive's. */
  readonly stopTimeout?: Duration.Input | undefined
}

/**
 * A cell.
 *
 * **Details**
 *
 * The id is kebab-case and unique in a hive. Layers are shared within a cell, not between cells: what two cells share is
 * a service that a third one provides. A need that no cell provides stays in the type, and a hive with such a need does
 * not compile unless it says who gives the service.
 *
 * **Example** (A store, and who uses it)
 *
 * ```ts
 * import { Cell, Hive } from "ctmap-cell"
 * import * as Context from "effect/Context"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import * as Schema from "effect/Schema"
 *
 * class Store extends Context.Service<Store, { readonly size: number }>()("app/Store") {}
 * class Report extends Context.Service<Report, { readonly text: string }>()("app/Report") {}
 *
 * const report = Cell.make("report", {
 *   description: "says how much there is",
 *   needs: [Store],
 *   provides: [Report],
 *   layer: Layer.effect(Report, Effect.map(Store, ({ size }) => ({ text: `${size} things` })))
 * })
 * const store = Cell.make("store", {
 *   description: "keeps things",
 *   config: Schema.Struct({ size: Schema.Int.pipe(Schema.withDecodingDefaultKey(Effect.succeed(3))) }),
 *   provides: [Store],
 *   layer: ({ size }) => Layer.succeed(Store, { size })
 * })
 * const hive = Hive.make("app", { cells: [report, store] })
 * const program = Effect.map(Report, ({ text }) => text)
 * const text = await Effect.runPromise(Effect.provide(program, Hive.layer(hive)))
 * text // => "3 things"
 * ```
 *
 * @since 0.1.0
 */
export const make = <
  F extends Fields = {},
  const P extends ReadonlyArray<Key> = [],
  const Private extends ReadonlyArray<Key> = [],
  const N extends ReadonlyArray<Key> = [],
  const Cells extends ReadonlyArray<Any> = []
>(
  id: string,
  options: Options<F, P, Private, N, Cells>
): Cell<
  Exclude<Identifiers<P> | Provides<Cells[number]>, Identifiers<Private>>,
  | Exclude<Identifiers<N>, Provides<Cells[number]>>
  | Exclude<Needs<Cells[number]>, Identifiers<P> | Identifiers<Private> | Provides<Cells[number]>>
> => {
  const { layer } = options
  return {
    [TypeId]: variance,
    id,
    description: options.description,
    fields: options.config?.fields ?? {},
    config: options.config,
    provides: options.provides ?? [],
    private: options.private ?? [],
    needs: options.needs ?? [],
    layer:
      layer === undefined
        ? undefined
        : typeof layer === "function"
          ? (layer as (config: unknown) => AnyLayer)
          : () => layer,
    cells: options.cells ?? [],
    startTimeout: options.startTimeout,
    stopTimeout: options.stopTimeout
  }
}

/**
 * A stand-in for a cell: same id, same services, same settings, made by another layer that needs nothing.
 *
 * @see `Hive.replace`, which puts it where the original was
 * @since 0.1.0
 */
export const standIn = <P, N>(cell: Cell<P, N>, layer: Layer.Layer<P, unknown, Implicit>): Cell<P> => {
  const provides = publicKeys(cell)
  return { ...cell, [TypeId]: variance, provides, private: [], needs: [], cells: [], layer: () => layer }
}

/** The keys that a cell offers to others: its own and those of nested cells, without private ones. @since 0.1.0 */
export const publicKeys = (cell: Any): ReadonlyArray<Key> => {
  const hidden = new Set(cell.private.map(({ key }) => key))
  const all = [...cell.provides, ...cell.cells.flatMap(publicKeys)]
  return [...new Map(all.map((key) => [key.key, key])).values()].filter(({ key }) => !hidden.has(key))
}

/** A list of cells with all that are nested in them, each before what it holds. @since 0.1.0 */
export const flatten = (cells: ReadonlyArray<Any>): ReadonlyArray<Any> =>
  cells.flatMap((cell) => [cell, ...flatten(cell.cells)])

// internal

// Types only: nobody calls these.
const nothing = (): never => undefined as never
const variance = { _Provides: nothing, _Needs: nothing }
