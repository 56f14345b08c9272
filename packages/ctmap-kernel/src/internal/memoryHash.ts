/**
 * The hash table of the in-memory kernel: HASH, LRU_HASH and HASH_OF_MAPS are this with different values.
 *
 * Owns the order that can be observed from outside. Buckets are a power of two, an element enters at the head of its
 * bucket and a replacement is a new element, walks go by bucket and cursors are bucket numbers, as in the kernel's
 * `kernel/bpf/hashtab.c`. An LRU map takes a free element *before* it looks at the flags: a full one evicts on every
 * update, replacements and refused ones included, and may evict the very element that was to be replaced.
 */
import * as Bpf from "../Bpf.ts"
import { E2BIG, EEXIST, EINVAL, ENOENT, ENOSPC } from "./memoryErrno.ts"

/** An element. `older` and `newer` are the LRU list; only LRU maps link it. */
export interface Element<V> {
  readonly key: Uint8Array
  readonly value: V
  readonly bucket: number
  next: Element<V> | undefined
  older: Element<V> | undefined
  newer: Element<V> | undefined
}

/** What a table is made of. */
export interface Shape {
  readonly keySize: number
  readonly maxEntries: number
  readonly buckets: number
  readonly isLru: boolean
  readonly hash: (key: Uint8Array, size: number) => number
}

/** Buckets live in pages that appear when first used: a sparse map of 16 million entries costs nothing. */
const PAGE_BITS = 10
const PAGE = 1 << PAGE_BITS

/** Elements in buckets, and in the order of their last use. */
export class HashTable<V> {
  readonly #shape: Shape
  readonly #released: (value: V) => void
  readonly #pages: Array<Array<Element<V> | undefined> | undefined>
  #oldest: Element<V> | undefined
  #newest: Element<V> | undefined
  #size = 0

  /** `released` hears of every value that leaves the table. */
  constructor(shape: Shape, released: (value: V) => void) {
    this.#shape = shape
    this.#released = released
    this.#pages = Array.from({ length: Math.ceil(shape.buckets / PAGE) })
  }

  /** Elements in the table. */
  get size(): number {
    return this.#size
  }

  /** The element with a key; a look from outside leaves the LRU order alone. */
  find(key: Uint8Array): Element<V> | undefined {
    const { keySize } = this.#shape
    let element = this.#head(this.#bucketOf(key))
    while (element !== undefined && !isSame(element.key, key, keySize)) element = element.next
    return element
  }

  /** What a lookup of the datapath does to the LRU order. */
  touch(element: Element<V>): void {
    if (!this.#shape.isLru || element === this.#newest) return
    this.#unlinkFromOrder(element)
    this.#linkAsNewest(element)
  }

  /** Inserts or replaces; the table keeps its own copy of the key, and `value` as it is. */
  update(key: Uint8Array, value: V, flags: number): number {
    const { isLru, maxEntries } = this.#shape
    if (flags > Bpf.EXIST) return -EINVAL
    if (isLru && this.#size >= maxEntries && this.#oldest !== undefined) this.#remove(this.#oldest)
    const found = this.find(key)
    if (found !== undefined && flags === Bpf.NOEXIST) return -EEXIST
    if (found === undefined && flags === Bpf.EXIST) return -ENOENT
    if (found === undefined && this.#size >= maxEntries) return -E2BIG
    if (found !== undefined) this.#remove(found)
    this.#insert(found?.key ?? key.slice(0, this.#shape.keySize), value)
    return 0
  }

  delete(key: Uint8Array): number {
    const found = this.find(key)
    if (found === undefined) return -ENOENT
    this.#remove(found)
    return 0
  }

  /** The element after a key; after `null`, and after a key that is gone, the first one. */
  after(key: Uint8Array | null): Element<V> | undefined {
    const found = key === null ? undefined : this.find(key)
    if (found === undefined) return this.#firstFrom(0)
    return found.next ?? this.#firstFrom(found.bucket + 1)
  }

  /** Calls `visit` with every element, bucket by bucket, until it answers `true`; deleting what is visited is fine. */
  forEach(visit: (element: Element<V>) => boolean | void): number {
    let visited = 0
    for (let element = this.#firstFrom(0); element !== undefined;) {
      const next = element.next ?? this.#firstFrom(element.bucket + 1)
      visited += 1
      if (visit(element) === true) break
      element = next
    }
    return visited
  }

  /**
   * Whole buckets from `start` on, as many as `room` takes, to `take`. `next` is the bucket that did not fit, or the
   * number of buckets. `rc` is -ENOSPC where not even one fitted and -ENOENT where the end was reached.
   */
  batch(
    start: number,
    room: number,
    take: (element: Element<V>, index: number) => void
  ): { readonly rc: number; readonly count: number; readonly next: number } {
    const { buckets } = this.#shape
    let count = 0
    let bucket = start
    while (bucket < buckets) {
      const first = this.#firstFrom(bucket)
      if (first === undefined) break
      const length = lengthOf(first)
      if (length > room - count) return { rc: count === 0 ? -ENOSPC : 0, count, next: first.bucket }
      for (let element: Element<V> | undefined = first; element !== undefined; element = element.next)
        take(element, count++)
      bucket = first.bucket + 1
    }
    return { rc: -ENOENT, count, next: buckets }
  }

  /** Lets go of everything. */
  clear(): void {
    this.forEach((element) => this.#remove(element))
  }

  #bucketOf(key: Uint8Array): number {
    return (this.#shape.hash(key, this.#shape.keySize) & (this.#shape.buckets - 1)) >>> 0
  }

  #head(bucket: number): Element<V> | undefined {
    return this.#pages[bucket >>> PAGE_BITS]?.[bucket & (PAGE - 1)]
  }

  #setHead(bucket: number, element: Element<V> | undefined): void {
    const page = (this.#pages[bucket >>> PAGE_BITS] ??= Array.from({ length: PAGE }))
    page[bucket & (PAGE - 1)] = element
  }

  #firstFrom(bucket: number): Element<V> | undefined {
    for (let at = bucket; at < this.#shape.buckets;) {
      const page = this.#pages[at >>> PAGE_BITS]
      const end = (at | (PAGE - 1)) + 1
      if (page !== undefined) {
        for (; at < end; at++) {
          const head = page[at & (PAGE - 1)]
          if (head !== undefined) return head
        }
      }
      at = end
    }
    return undefined
  }

  /** Keeps key and value as they are. */
  #insert(key: Uint8Array, value: V): void {
    const bucket = this.#bucketOf(key)
    const element: Element<V> = {
      key,
      value,
      bucket,
      next: this.#head(bucket),
      older: undefined,
      newer: undefined
    }
    this.#setHead(bucket, element)
    if (this.#shape.isLru) this.#linkAsNewest(element)
    this.#size += 1
  }

  #remove(element: Element<V>): void {
    const { bucket } = element
    let previous = this.#head(bucket)
    if (previous === element) this.#setHead(bucket, element.next)
    else {
      while (previous !== undefined && previous.next !== element) previous = previous.next
      // An element that is gone already: the visitor of a walk deleted it.
      if (previous === undefined) return
      previous.next = element.next
    }
    if (this.#shape.isLru) this.#unlinkFromOrder(element)
    this.#size -= 1
    this.#released(element.value)
  }

  #linkAsNewest(element: Element<V>): void {
    element.older = this.#newest
    element.newer = undefined
    if (this.#newest === undefined) this.#oldest = element
    else this.#newest.newer = element
    this.#newest = element
  }

  #unlinkFromOrder(element: Element<V>): void {
    if (element.older === undefined) this.#oldest = element.newer
    else element.older.newer = element.newer
    if (element.newer === undefined) this.#newest = element.older
    else element.newer.older = element.older
  }
}

/** The kernel's bucket count. */
export const bucketsFor = (maxEntries: number): number => {
  let buckets = 1
  while (buckets < maxEntries) buckets *= 2
  return buckets
}

/** FNV-1a with a finish that brings the high bits down, where the bucket number is taken from. */
export const hashWith =
  (seed: number) =>
  (key: Uint8Array, size: number): number => {
    let hash = (0x811c_9dc5 ^ seed) | 0
    for (let i = 0; i < size; i++) hash = Math.imul(hash ^ (key[i] ?? 0), 0x0100_0193)
    hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35)
    return (hash ^ (hash >>> 16)) >>> 0
  }

const lengthOf = <V>(head: Element<V>): number => {
  let length = 0
  for (let element: Element<V> | undefined = head; element !== undefined; element = element.next) length += 1
  return length
}

const isSame = (a: Uint8Array, b: Uint8Array, size: number): boolean => {
  for (let i = 0; i < size; i++) if (a[i] !== b[i]) return false
  return true
}
