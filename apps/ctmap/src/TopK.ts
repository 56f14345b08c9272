/**
 * Who has the most, in bounded memory: the Space-Saving summary of Metwally, Agrawal and El Abbadi (2005).
 *
 * Keeps one counter for each of the `capacity` heaviest names. A name that has none takes over the smallest counter and
 * remembers how much of it is not its own, so a count is never too low and too high by at most `error`. Every name that
 * makes up more than 1/capacity of the total is in it.
 *
 * @since 0.1.0
 */

/** @since 0.1.0 */
export interface Counted {
  readonly name: string
  /** At least what is true. */
  readonly count: number
  /** At most this much above what is true; 0 means exact. */
  readonly error: number
}

interface Counter {
  name: string
  count: number
  error: number
  /** Place in the heap. */
  at: number
}

/** See the module. @since 0.1.0 */
export class TopK {
  readonly capacity: number
  /** Sum of all weights. */
  total = 0
  readonly #byName = new Map<string, Counter>()
  /** The smallest counter is on top. */
  readonly #heap: Array<Counter> = []

  constructor(capacity: number) {
    if (!(Number.isInteger(capacity) && capacity > 0)) throw new RangeError(`a capacity of ${capacity} counts nothing`)
    this.capacity = capacity
  }

  /** Whether every name has had a counter of its own: then all counts are exact. */
  get exact(): boolean {
    return this.#heap.every(({ error }) => error === 0)
  }

  add(name: string, weight = 1): void {
    this.total += weight
    const known = this.#byName.get(name)
    if (known !== undefined) {
      known.count += weight
      this.#down(known)
    } else if (this.#heap.length < this.capacity) {
      const counter = { name, count: weight, error: 0, at: this.#heap.length }
      this.#heap.push(counter)
      this.#byName.set(name, counter)
      this.#up(counter)
    } else {
      const least = this.#heap[0]!
      this.#byName.delete(least.name)
      this.#byName.set(name, least)
      least.name = name
      least.error = least.count
      least.count += weight
      this.#down(least)
    }
  }

  /** The heaviest, by falling count and then by name. */
  top(n: number): ReadonlyArray<Counted> {
    return this.#heap
      .toSorted((a, b) => b.count - a.count || (a.name < b.name ? -1 : 1))
      .slice(0, n)
      .map(({ name, count, error }) => ({ name, count, error }))
  }

  #up(counter: Counter): void {
    while (counter.at > 0) {
      const parent = this.#heap[(counter.at - 1) >> 1]!
      if (parent.count <= counter.count) return
      this.#swap(counter, parent)
    }
  }

  #down(counter: Counter): void {
    for (;;) {
      const left = this.#heap[2 * counter.at + 1]
      const right = this.#heap[2 * counter.at + 2]
      const child = right !== undefined && right.count < left!.count ? right : left
      if (child === undefined || child.count >= counter.count) return
      this.#swap(counter, child)
    }
  }

  #swap(a: Counter, b: Counter): void {
    this.#heap[a.at] = b
    this.#heap[b.at] = a
    ;[a.at, b.at] = [b.at, a.at]
  }
}
