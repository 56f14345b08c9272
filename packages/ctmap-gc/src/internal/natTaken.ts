/**
 * What a purge has taken out of a NAT map, and the way back for those whose connection has come back.
 *
 * Between the last look at the CT maps and a deletion a packet may bring the connection back, which changes nothing in the
 * NAT entry that could be compared. So the CT maps are asked again about what was deleted, and a mapping that is needed is
 * put back as it was read, both halves, in the order in which the datapath makes them: the IN half first, for it holds the
 * port. Nothing that the datapath made meanwhile is overwritten, and a port that is another connection's stays that.
 */
import { NatColumns, NatDerivation, NatEntry, type Release, Rows, Tuple, TupleFlags } from "ctmap-core"
import { Bpf, type CtPair } from "ctmap-kernel"

/** What a NAT entry says is the same in both releases. */
export const RELEASE: Release.Release = "1.17"

/** The counts that change when an entry comes back. */
export interface Counts {
  ingressAlive: number
  ingressDeleted: number
  egressAlive: number
  egressDeleted: number
  reprieved: number
  restored: number
}

export interface Taken {
  /** How many can be looked at again; of more, those that were taken last. */
  readonly size: () => number
  /** Notes an entry that has just been deleted, and counted so. */
  readonly add: (columns: NatColumns.NatColumns, row: number) => void
  /** Asks about those that were added since the last time: 0, or the `-errno` of putting one back. */
  readonly lookAgain: () => number
  /** Asks about `count` of all of them, from number `from` on. */
  readonly lookAt: (from: number, count: number) => number
  /** The connection of a row is there: what was taken of its mapping, in either direction, comes back. */
  readonly bringBack: (columns: NatColumns.NatColumns, row: number) => number
}

/** Keeps up to `most` entries. `isOrphan` asks the CT maps; trouble there counts as a connection. */
export const make = (
  { map, family }: CtPair.NatMap,
  bpf: Bpf.Calls,
  isOrphan: (columns: NatColumns.NatColumns, row: number) => boolean,
  most: number,
  counts: Counts
): Taken => {
  const tuple = Tuple.shape(family)
  const nat = NatEntry.shape(family)
  const keys = new Uint8Array(most * tuple.size)
  const values = new Uint8Array(most * nat.size)
  const rows = Rows.separate(keys, values, { keySize: tuple.size, valueSize: nat.size, count: most })
  const columns = new NatColumns.NatColumns({ family, release: RELEASE }).bind(rows)
  const isGone = new Uint8Array(most)
  let added = 0
  let looked = 0

  /** Where a key is among those that are gone. Made when it is first needed: connections that come back are few. */
  const index = new Map<string, number>()
  let indexed = 0
  const name = (key: Uint8Array): string => Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1")
  const find = (key: Uint8Array): number => {
    for (indexed = Math.max(indexed, added - most); indexed < added; indexed++) {
      const slot = indexed % most
      index.set(name(columns.keyBytes(slot)), slot)
    }
    const slot = index.get(name(key))
    return slot !== undefined && isGone[slot] === 1 ? slot : NONE
  }

  const outKey = new Uint8Array(tuple.size)
  const inKey = new Uint8Array(tuple.size)
  const ctKey = new Uint8Array(tuple.size)
  const found = new Uint8Array(nat.size)

  /** Whether a value translates to the address and port that stand in a key. */
  const leadsTo = (value: Uint8Array, key: Uint8Array, address: number, port: number): boolean => {
    for (let i = 0; i < nat.addressSize; i++) if (value[nat.address + i] !== key[address + i]) return false
    return value[nat.port] === key[port] && value[nat.port + 1] === key[port + 1]
  }
  const isOut = (value: Uint8Array): boolean => leadsTo(value, inKey, tuple.daddr, tuple.dport)
  const isIn = (value: Uint8Array): boolean => leadsTo(value, outKey, tuple.saddr, tuple.sport)
  const hasOther = (key: Uint8Array, isOurs: (value: Uint8Array) => boolean): boolean =>
    bpf.lookup(map.fd, key, found) >= 0 && !isOurs(found)

  const put = (slot: number): number =>
    bpf.update(map.fd, columns.keyBytes(slot), columns.valueBytes(slot), Bpf.NOEXIST)

  /** An entry is there again: put back, or made anew as it was by the datapath. */
  const settle = (slot: number, isRestored: boolean): void => {
    isGone[slot] = 0
    const direction = (columns.tupleFlags(slot) & TupleFlags.IN) === 0 ? "egress" : "ingress"
    counts[`${direction}Deleted`]--
    counts[`${direction}Alive`]++
    counts.reprieved++
    if (isRestored) counts.restored++
  }

  const bringBack: Taken["bringBack"] = (from, row) => {
    if (added === 0) return 0
    const half = { key: from.keyBytes(row), value: from.valueBytes(row) }
    if ((from.tupleFlags(row) & TupleFlags.IN) === 0) {
      outKey.set(half.key)
      NatDerivation.natInOfNatOut(tuple, half, inKey)
    } else {
      inKey.set(half.key)
      NatDerivation.ctOfNatIn(tuple, half, ctKey)
      NatDerivation.natOutOfCt(tuple, ctKey, outKey)
    }
    const ours = (slot: number, isOurs: (value: Uint8Array) => boolean): number =>
      slot !== NONE && isOurs(columns.valueBytes(slot)) ? slot : NONE
    const goneOut = ours(find(outKey), isOut)
    const goneIn = ours(find(inKey), isIn)
    if (goneOut === NONE && goneIn === NONE) return 0
    // The datapath has made it another mapping: no port is taken for this one, not even for a moment.
    if (hasOther(outKey, isOut)) return 0
    // The port may be another connection's by now; then the datapath makes this one another mapping.
    const putIn = goneIn === NONE ? EEXIST : put(goneIn)
    if (putIn === EEXIST && hasOther(inKey, isIn)) return 0
    if (putIn < 0 && putIn !== EEXIST) return trouble(putIn)
    const putOut = goneOut === NONE ? EEXIST : put(goneOut)
    const isOutThere = putOut >= 0 || (putOut === EEXIST && !hasOther(outKey, isOut))
    // As the datapath does: no port is held for a mapping that there is not.
    const isTakenBack = !isOutThere && putIn >= 0 && bpf.delete(map.fd, inKey) >= 0
    if (goneIn !== NONE && !isTakenBack) settle(goneIn, putIn >= 0)
    if (goneOut !== NONE && isOutThere) settle(goneOut, putOut >= 0)
    return isOutThere || putOut === EEXIST ? 0 : trouble(putOut)
  }

  const lookAt: Taken["lookAt"] = (from, count) => {
    let worst = 0
    for (let slot = from; slot < from + count; slot++) {
      if (isGone[slot] !== 1 || isOrphan(columns, slot)) continue
      worst = Math.min(worst, bringBack(columns, slot))
    }
    return worst
  }

  return {
    size: () => Math.min(added, most),
    add: (from, row) => {
      const slot = added++ % most
      if (added > most) index.delete(name(columns.keyBytes(slot)))
      keys.set(from.keyBytes(row), slot * tuple.size)
      values.set(from.valueBytes(row), slot * nat.size)
      isGone[slot] = 1
    },
    lookAgain: () => {
      let worst = 0
      for (looked = Math.max(looked, added - most); looked < added; looked++) {
        worst = Math.min(worst, lookAt(looked % most, 1))
      }
      return worst
    },
    lookAt,
    bringBack
  }
}

const NONE = -1
const EEXIST = -17

/** What fails for a moment only is tried again with the last look; until then, and if it fails again, the entry is gone. */
const trouble = (rc: number): number => (PASSING.has(-rc) ? 0 : rc)

/**
 * EBUSY, EDEADLK, ETIMEDOUT: the kernel could not lock a bucket. ENOMEM, E2BIG: there was no room, which a purge makes. And
 * EPERM, which does not pass: where the pin could be opened for reading only, programs delete and nothing can be put back.
 */
const PASSING: ReadonlySet<number> = new Set([16, 35, 110, 12, 7, 1])
