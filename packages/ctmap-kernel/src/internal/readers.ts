/** The two ways through a hash map, as synchronous steps: each fills the buffers once. `Scan` makes Effects of them. */
import { MapLimits, Rows } from "ctmap-core"
import type * as Duration from "effect/Duration"
import type * as Bpf from "../Bpf.ts"
import { BatchTooSmall, BpfError, Busy } from "../BpfError.ts"
import * as BpfMap from "../BpfMap.ts"
import * as ChunkSize from "./chunkSize.ts"

/** Entries of a map in buffers that the next step fills again. */
export interface Filled {
  keys: Uint8Array<ArrayBuffer>
  values: Uint8Array<ArrayBuffer>
  count: number
}

export interface Reader extends Filled {
  /** Nothing more will come. */
  done: boolean
  /** Every entry that was there throughout has been seen. */
  completed: boolean
  /** How often the buffers grew. */
  grown: number
  /** How often the walk went back one key because the next was gone; nothing is seen twice for it. */
  fallbacks: number
  /** How often the walk was thrown back to the start of the map: entries may be seen twice. */
  restarts: number
  /** How much is asked for, and how long the longest call took; by next key, all calls of a step together. */
  readonly chunk: ChunkSize.ChunkSize
  /** Fills the buffers; returns an error instead of throwing it. */
  readonly step: () => BpfError | undefined
}

const ENOENT = -2
const transient: ReadonlySet<number> = new Set([-4, -11, -16])
const unsupported: ReadonlySet<number> = new Set([-22, -95, -524])
const RETRIES = 16

export const rowsOf = (map: BpfMap.BpfMap, { keys, values, count }: Filled): Rows.Rows =>
  Rows.separate(keys, values, { keySize: map.info.keySize, valueSize: map.info.valueSize, count })

/** How much to read at a time: the entries wanted, or what suits the map, and what a call may take. */
export interface Asked {
  readonly batchSize?: number | undefined
  readonly callTarget?: Duration.Input | undefined
}

/** Fewer are not worth a call. */
const LEAST = 64
/** More are asked for once it is known how long a call takes. */
const FIRST = 1024

const chunkOf = ({ info: { maxEntries } }: BpfMap.BpfMap, { batchSize, callTarget }: Asked): ChunkSize.ChunkSize => {
  const first = Math.max(1, batchSize ?? Math.min(MapLimits.startingBatchSize(maxEntries), FIRST))
  const most = Math.min(Math.max(first, batchSize === undefined ? ChunkSize.MOST : 1), maxEntries)
  return ChunkSize.make(first, Math.min(first, LEAST), most, callTarget ?? ChunkSize.targetOf(maxEntries))
}

/** Memory that the kernel writes before anybody reads it: not cleared, which would take longer than a small map takes to read. */
const uncleared = (bytes: number): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.allocUnsafeSlow(bytes).buffer)

const buffers = (map: BpfMap.BpfMap, entries: number): Filled => ({
  keys: uncleared(entries * map.info.keySize),
  values: uncleared(entries * map.info.valueSize),
  count: 0
})

/** What a reader has to say before its first step. */
const fresh = { done: false, completed: false, grown: 0, fallbacks: 0, restarts: 0 }

/**
 * By batches. `undefined` from a first step that the kernel does not know is for the caller to see: `unsupported`.
 *
 * A bucket that does not fit answers ENOSPC and leaves the cursor alone, so the same place is tried again with twice
 * the room, up to the size of the map: it cannot go on for ever, and less is not asked for again. The last batch comes
 * with ENOENT and is delivered.
 */
export const batchReader = (
  bpf: Bpf.Calls,
  map: BpfMap.BpfMap,
  asked: Asked
): Reader & { readonly unsupported: boolean } => {
  const { maxEntries, keySize } = map.info
  const chunk = chunkOf(map, asked)
  let room = chunk.count
  let cursor = new Uint8Array(Math.max(keySize, 4))
  let next = new Uint8Array(cursor.byteLength)
  let started = false
  let retries = 0
  const count = new Uint32Array(1)

  const makeRoom = (): boolean => {
    if (chunk.count <= room) return false
    room = chunk.count
    Object.assign(reader, buffers(map, room))
    return true
  }
  const call = (): number => {
    makeRoom()
    count[0] = chunk.count
    const before = bpf.monotonic()
    const rc = bpf.lookupBatch(map.fd, started ? cursor : null, next, reader.keys, reader.values, count)
    const took = Number(bpf.monotonic() - before)
    if (rc === 0) ChunkSize.called(chunk, took)
    else chunk.longest = Math.max(chunk.longest, took)
    return rc
  }
  const deliver = (): undefined => {
    reader.count = count[0]!
    started = true
    retries = 0
    ;[cursor, next] = [next, cursor]
  }
  const step = (): BpfError | undefined => {
    for (;;) {
      const rc = call()
      if (rc === 0) {
        deliver()
        if (reader.count > 0) return undefined
      } else if (rc === ENOENT) {
        reader.done = reader.completed = true
        return deliver()
      } else if (rc === -28) {
        if (chunk.count >= maxEntries) return error(map, new BatchTooSmall(), 28)
        chunk.count = chunk.least = Math.min(chunk.count * 2, maxEntries)
        chunk.most = Math.max(chunk.most, chunk.least)
        if (makeRoom()) reader.grown++
      } else if (transient.has(rc)) {
        if (++retries > RETRIES) return error(map, new Busy(), -rc)
      } else {
        reader.unsupported = !started && unsupported.has(rc)
        return BpfMap.failure(map, "lookup batch", rc, reader.unsupported ? FEATURE : undefined)
      }
    }
  }
  const reader = {
    ...buffers(map, room),
    ...fresh,
    chunk,
    unsupported: false,
    step
  }
  return reader
}

const FEATURE = "batch reads of this kind of map (hash maps: Linux 5.6)"

/**
 * By next key. The next key is fetched *before* the current one is looked up: only if the current one is still there
 * afterwards is the next one known not to be the start of the map again.
 */
export const nextKeyReader = (bpf: Bpf.Calls, map: BpfMap.BpfMap, asked: Asked): Reader => {
  const { maxEntries, keySize, valueSize } = map.info
  const chunk = chunkOf(map, asked)
  let room = chunk.count
  let current = new Uint8Array(keySize)
  let next = new Uint8Array(keySize)
  let previous = new Uint8Array(keySize)
  let hasPrevious = false
  /** The current key was delivered before the walk fell back to it. */
  let delivered = false
  let started = false
  let steps = 0
  const value = new Uint8Array(valueSize)

  const finish = (completed: boolean): undefined => {
    reader.done = true
    reader.completed = completed
  }
  const step = (): BpfError | undefined => {
    if (chunk.count > room) {
      room = chunk.count
      Object.assign(reader, buffers(map, room))
    }
    const before = bpf.monotonic()
    const error = walk(chunk.count)
    ChunkSize.called(chunk, Number(bpf.monotonic() - before))
    return error
  }
  const walk = (size: number): BpfError | undefined => {
    reader.count = 0
    if (!started) {
      started = true
      const rc = bpf.nextKey(map.fd, null, current)
      if (rc === ENOENT) return finish(true)
      if (rc < 0) return BpfMap.failure(map, "next key", rc)
    }
    while (reader.count < size) {
      if (++steps > 4 * maxEntries + 4) return finish(false)
      const nextRc = bpf.nextKey(map.fd, current, next)
      const rc = bpf.lookup(map.fd, current, value)
      if (rc === ENOENT) {
        // Gone, and nothing follows: it was the last, or the map is empty now.
        if (nextRc === ENOENT) return finish(true)
        if (hasPrevious) {
          ;[current, previous] = [previous, current]
          hasPrevious = false
          delivered = true
          reader.fallbacks++
        } else {
          ;[current, next] = [next, current]
          delivered = false
          reader.restarts++
        }
        continue
      }
      if (rc < 0) return BpfMap.failure(map, "lookup", rc)
      if (!delivered) {
        reader.keys.set(current, reader.count * keySize)
        reader.values.set(value, reader.count * valueSize)
        reader.count++
      }
      delivered = false
      if (nextRc === ENOENT) return finish(true)
      if (nextRc < 0) return BpfMap.failure(map, "next key", nextRc)
      // What was current is the way back, what was next is current, and the old way back is free to be overwritten.
      ;[previous, current, next] = [current, next, previous]
      hasPrevious = true
    }
    return undefined
  }
  const reader: Reader = {
    ...buffers(map, room),
    ...fresh,
    chunk,
    step
  }
  return reader
}

const error = (map: BpfMap.BpfMap, reason: BpfError["reason"], errno: number): BpfError =>
  new BpfError({
    operation: "lookup batch",
    errno,
    map: map.name,
    ...(map.path === undefined ? {} : { path: map.path }),
    reason
  })
