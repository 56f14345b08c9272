/**
 * The stream of what passes delete: for those outside who watch, never for what a pass itself depends on.
 *
 * Owns the multicast. Each subscriber has a bounded buffer of its own: a slow one loses batches, is told how many
 * entries it lost, and slows nobody. There is no replay; a stream ends with the layer.
 *
 * @since 0.1.0
 */
import { CtColumns, type Family, Rows } from "ctmap-core"
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { Owner } from "ctmap-kernel"

/**
 * Entries of one map that a pass has deleted: their keys and values as they were read, and why each went.
 *
 * **Details**
 *
 * `keys` and `values` are copies without gaps; `reasons[i]` is a number of `GcReason.names`. Nobody may write to them,
 * as all subscribers share them.
 *
 * @since 0.1.0
 */
export interface Deleted {
  readonly _tag: "Deleted"
  /** Of the pass. */
  readonly serial: number
  /** Nothing was deleted: these would have been. */
  readonly dryRun: boolean
  readonly family: Family.Family
  readonly owner: Owner.Owner
  readonly map: string
  readonly release: CtColumns.CtColumns["release"]
  readonly count: number
  readonly keys: Uint8Array
  readonly values: Uint8Array
  readonly reasons: Uint8Array
}

/**
 * This subscriber was too slow: so many entries were deleted that it was not told of.
 *
 * @since 0.1.0
 */
export interface Lost {
  readonly _tag: "Lost"
  readonly entries: number
}

/** @since 0.1.0 */
export type GcEvent = Deleted | Lost

/** The entries of a batch as columns. Of a family that the batch is of. @since 0.1.0 */
export const columns = ({ family, release, keys, values, count }: Deleted): CtColumns.CtColumns => {
  const bound = new CtColumns.CtColumns({ family, release })
  return bound.bind(
    Rows.separate(keys, values, { keySize: bound.tuple.size, valueSize: values.byteLength / Math.max(1, count), count })
  )
}

/**
 * Publishes and observes.
 *
 * @since 0.1.0
 */
export class GcEvents extends Context.Service<
  GcEvents,
  {
    /** Hands a batch to every subscriber; never waits. */
    readonly publish: (event: Deleted) => void
    /** Whether anybody listens: batches for nobody need not be made. */
    readonly isObserved: (family: Family.Family) => boolean
    /** Entries that subscribers were too slow for, all together. */
    readonly lost: () => number
    readonly observe4: Stream.Stream<GcEvent>
    readonly observe6: Stream.Stream<GcEvent>
  }
>()("ctmap-gc/GcEvents") {}

interface Subscriber {
  readonly queue: Queue.Queue<Deleted, Cause.Done>
  /** Entries of batches that did not fit since the last that was taken. */
  lost: number
}

/**
 * Batches (of up to some thousand entries) that wait for a subscriber.
 *
 * @since 0.1.0
 */
export const BUFFER = 64

/**
 * A new multicast.
 *
 * **Example** (Watching one family)
 *
 * ```ts
 * import { GcEvents } from "ctmap-gc"
 * import { Owner } from "ctmap-kernel"
 * import * as Effect from "effect/Effect"
 * import * as Fiber from "effect/Fiber"
 * import * as Stream from "effect/Stream"
 *
 * const batch = { keys: new Uint8Array(14), values: new Uint8Array(56), reasons: Uint8Array.of(0), count: 1 }
 * const about = { serial: 1, dryRun: false, family: "ipv4", owner: Owner.global, map: "ct4", release: "1.17" } as const
 * const program = Effect.gen(function* () {
 *   const { observe4, publish } = yield* GcEvents.GcEvents
 *   const watching = Stream.take(observe4, 1).pipe(Stream.map(({ _tag }) => _tag), Stream.runCollect)
 *   const watcher = yield* Effect.forkChild(watching, { startImmediately: true })
 *   publish({ _tag: "Deleted", ...about, ...batch })
 *   return yield* Fiber.join(watcher)
 * })
 * await Effect.runPromise(Effect.provide(program, GcEvents.layer)) // => ["Deleted"]
 * ```
 *
 * @since 0.1.0
 */
export const layer: Layer.Layer<GcEvents> = Layer.effect(
  GcEvents,
  Effect.gen(function* () {
    const subscribers: Readonly<Record<Family.Family, Set<Subscriber>>> = { ipv4: new Set(), ipv6: new Set() }
    let lost = 0
    let isOpen = true
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        isOpen = false
        for (const { queue } of [...subscribers.ipv4, ...subscribers.ipv6]) Queue.endUnsafe(queue)
      })
    )
    const observe = (family: Family.Family): Stream.Stream<GcEvent> =>
      Stream.unwrap(
        Effect.acquireRelease(
          Effect.gen(function* () {
            const queue = yield* Queue.dropping<Deleted, Cause.Done>(BUFFER)
            const subscriber: Subscriber = { queue, lost: 0 }
            if (isOpen) subscribers[family].add(subscriber)
            else Queue.endUnsafe(queue)
            return subscriber
          }),
          (subscriber) => Effect.sync(() => subscribers[family].delete(subscriber))
        ).pipe(Effect.map(eventsOf))
      )
    return GcEvents.of({
      publish: (event) => {
        for (const subscriber of subscribers[event.family]) {
          if (Queue.offerUnsafe(subscriber.queue, event)) continue
          subscriber.lost += event.count
          lost += event.count
        }
      },
      isObserved: (family) => subscribers[family].size > 0,
      lost: () => lost,
      observe4: observe("ipv4"),
      observe6: observe("ipv6")
    })
  })
)

/** What a subscriber lost stands where it was lost: after what was waiting by then, before what came later. */
const eventsOf = (subscriber: Subscriber): Stream.Stream<GcEvent> =>
  Stream.fromQueue(subscriber.queue).pipe(
    Stream.mapArray((batches) => {
      const { lost } = subscriber
      subscriber.lost = 0
      return lost === 0 ? batches : [...batches, { _tag: "Lost", entries: lost } satisfies Lost]
    })
  )
