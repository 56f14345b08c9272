/**
 * A metric with labels: a series for every set of their values, each made once.
 *
 * `Metric.withAttributes` computes the name of a series anew whenever another one of the same metric was used in between,
 * which is always the case for passes over many maps: it made a pass's thirty series cost as much as a small table.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"

export type Labels = Readonly<Record<string, string>>

export interface Vector<M> {
  readonly id: string
  /**
   * The series of these labels. There are as many as the labels have values, so those must be few. The same object is
   * the fastest way to say the same labels again.
   */
  readonly of: (labels?: Labels) => M
}

export type Counter = Vector<Metric.Counter<number>>
export type Gauge = Vector<Metric.Gauge<number>>
export type Histogram = Vector<Metric.Histogram<number>>

const NONE: Labels = {}

const vector = <M>(id: string, make: (attributes: Labels) => M): Vector<M> => {
  const series = new Map<string, M>()
  const known = new WeakMap<Labels, M>()
  const find = (labels: Labels): M => {
    let key = ""
    for (const name in labels) key += `${name}=${labels[name]} `
    const found = series.get(key)
    if (found !== undefined) return found
    const made = make(labels)
    series.set(key, made)
    return made
  }
  return {
    id,
    of: (labels = NONE) => {
      const found = known.get(labels)
      if (found !== undefined) return found
      const made = find(labels)
      known.set(labels, made)
      return made
    }
  }
}

export const counter = (id: string, description: string): Counter =>
  vector(id, (attributes) => Metric.counter(id, { description, attributes, incremental: true }))

export const gauge = (id: string, description: string): Gauge =>
  vector(id, (attributes) => Metric.gauge(id, { description, attributes }))

export const histogram = (id: string, description: string, boundaries: ReadonlyArray<number>): Histogram =>
  vector(id, (attributes) => Metric.histogram(id, { description, attributes, boundaries }))

/** Changes series of the registry at hand, in one step. */
export interface Writer {
  readonly add: (counter: Counter, count: number, labels?: Labels) => void
  readonly set: (gauge: Gauge, value: number, labels?: Labels) => void
  readonly observe: (histogram: Histogram, value: number, labels?: Labels) => void
}

/** Writes to the registry of a context. */
export const writeUnsafe = (context: Context.Context<never>, write: (writer: Writer) => void): void => {
  const update = (metric: Counter | Gauge | Histogram, value: number, labels?: Labels): void =>
    metric.of(labels).updateUnsafe(value, context)
  write({ add: update, set: update, observe: update })
}

export const writing = (write: (writer: Writer) => void): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) => Effect.sync(() => writeUnsafe(context, write)))
