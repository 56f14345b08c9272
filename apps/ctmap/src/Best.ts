/**
 * The best few of many: what `--sort` keeps while it reads everything.
 *
 * @since 0.1.0
 */

interface Item<A> {
  readonly rank: number
  readonly value: A
}

/**
 * Keeps the `capacity` items of the highest rank, in memory that does not grow with what is offered.
 *
 * @since 0.1.0
 */
export class Best<A> {
  readonly capacity: number
  /** How many were offered. */
  offered = 0
  /** A heap with the worst of the best on top. */
  readonly #heap: Array<Item<A>> = []

  constructor(capacity: number) {
    this.capacity = capacity
  }

  /** Offers an item; `make` is called only if it is kept. */
  offer(rank: number, make: () => A): void {
    this.offered++
    const heap = this.#heap
    if (heap.length < this.capacity) {
      heap.push({ rank, value: make() })
      this.#up(heap.length - 1)
    } else if (this.capacity > 0 && rank > heap[0]!.rank) {
      heap[0] = { rank, value: make() }
      this.#down(0)
    }
  }

  /** What was kept, the highest rank first. */
  sorted(): ReadonlyArray<A> {
    return this.#heap.toSorted((a, b) => b.rank - a.rank).map(({ value }) => value)
  }

  #up(from: number): void {
    const heap = this.#heap
    for (let at = from; at > 0;) {
      const parent = (at - 1) >> 1
      if (heap[parent]!.rank <= heap[at]!.rank) return
      ;[heap[parent], heap[at]] = [heap[at]!, heap[parent]!]
      at = parent
    }
  }

  #down(from: number): void {
    const heap = this.#heap
    for (let at = from; ;) {
      let least = at
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < heap.length && heap[child]!.rank < heap[least]!.rank) least = child
      }
      if (least === at) return
      ;[heap[least], heap[at]] = [heap[at]!, heap[least]!]
      at = least
    }
  }
}
