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
  /** The series of these labels. There are as many as the labels have values, so those must be few. */
  readonly of: (labels?: Labels) => M
}

export type Counter = Vector<Metric.Counter<number>>
export type Gauge = Vector<Metric.Gauge<number>>
export type Histogram = Vector<Metric.Histogram<number>>

const vector = <M>(id: string, make: (attributes: Labels) => M): Vector<M> => {
  const series = new Map<string, M>()
  return {
    id,
    of: (labels = {}) => {
      let key = ""
      for (const name in labels) key += `${name}=${labels[name]} `
      const known = series.get(key)
      if (known !== undefined) return known
      const made = make(labels)
      series.set(key, made)
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

export const writing = (write: (writer: Writer) => void): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.sync(() => {
      const update = (metric: Counter | Gauge | Histogram, value: number, labels?: Labels): void =>
        metric.of(labels).updateUnsafe(value, context)
      write({ add: update, set: update, observe: update })
    })
  )
