/** What filters mean, on decoded objects; random rows, and random filters whose answers hang on those rows. */
import { assert } from "@effect/vitest"
import * as CtColumns from "ctmap-core/CtColumns"
import * as CtEntry from "ctmap-core/CtEntry"
import * as CtKey from "ctmap-core/CtKey"
import * as Family from "ctmap-core/Family"
import * as Filter from "ctmap-core/Filter"
import * as FilterPredicate from "ctmap-core/FilterPredicate"
import * as NatColumns from "ctmap-core/NatColumns"
import * as NatEntry from "ctmap-core/NatEntry"
import * as NatKey from "ctmap-core/NatKey"
import * as Release from "ctmap-core/Release"
import * as Rows from "ctmap-core/Rows"
import * as Tuple from "ctmap-core/Tuple"
import * as TupleFlags from "ctmap-core/TupleFlags"
import * as IpNetwork from "effect/net/IpNetwork"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"

export interface Clock {
  readonly now: number
  readonly hertz: number
}
export type Context = FilterPredicate.FilterContext & Clock

export const contexts: ReadonlyArray<Context> = Family.all.flatMap((family) =>
  Release.all.flatMap((release) =>
    [256, 250, 300, 1000, 100].map((hertz) => ({ family, release, hertz, now: 5461, secondsPerUnit: 256 / hertz }))
  )
)
// The oracle: what a filter says of decoded objects, written from the language's definition, slow and plain.

const compare = (op: Filter.Comparison, a: bigint, b: bigint): boolean =>
  ({ "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "=": a === b, "!=": a !== b })[op]

/** `units` of the clock against milliseconds, both brought to the unit 1 / (1000 × hertz) s. */
const compareTime = (term: Filter.Time, units: bigint, { hertz }: Clock) =>
  compare(term.op, units * 256n * 1000n, BigInt(term.millis) * BigInt(hertz))

const inside = (networks: ReadonlyArray<IpNetwork.IpNetwork>, address: NetAddress.IpAddress) =>
  networks.some((network) => IpNetwork.contains(network, address))

const portHolds = (term: Filter.Port | Filter.PortCompare, ports: ReadonlyArray<number>): boolean => {
  if (term._tag === "Port") return ports.some((port) => term.ranges.some(({ from, to }) => port >= from && port <= to))
  const { op, port } = term
  return op === "!=" ? !ports.includes(port) : ports.some((p) => compare(op, BigInt(p), BigInt(port)))
}

const joined = (filter: Filter.Filter, term: (term: Filter.Term) => boolean): boolean => {
  switch (filter._tag) {
    case "And":
      return joined(filter.left, term) && joined(filter.right, term)
    case "Or":
      return joined(filter.left, term) || joined(filter.right, term)
    case "Not":
      return !joined(filter.filter, term)
    default:
      return term(filter)
  }
}

interface End {
  readonly address: NetAddress.IpAddress
  readonly port: number
}

const keyHolds = (term: Filter.Term, key: CtKey.CtKey | NatKey.NatKey, source: End, destination: End): boolean => {
  switch (term._tag) {
    case "Protocol":
      return key.nexthdr === term.protocol
    case "Family":
      return key.family === term.family
    case "Related":
      return TupleFlags.isRelated(key.flags)
    case "Address":
      return [...(term.end === "dst" ? [] : [source]), ...(term.end === "src" ? [] : [destination])].some(
        ({ address }) => inside(term.networks, address)
      )
    case "Port":
    case "PortCompare":
      return portHolds(
        term,
        [source, destination]
          .filter((_, i) => term.end === "port" || (term.end === "sport" ? i === 0 : i === 1))
          .map((e) => e.port)
      )
    default:
      return assert.fail(term._tag)
  }
}

export const ctHolds = (filter: Filter.Filter, key: CtKey.CtKey, entry: CtEntry.CtEntry, clock: Clock): boolean =>
  joined(filter, (term) => {
    const { source, destination } = CtKey.ends(key)
    switch (term._tag) {
      case "Direction":
        return TupleFlags.direction(key.flags) === term.direction
      case "Flag":
        return (entry.flags & term.mask) === term.mask
      case "Expired":
        return entry.lifetime < clock.now
      case "Alive":
        return entry.lifetime >= clock.now
      case "Time": {
        const idle = clock.now - Math.max(entry.lastTxReport, entry.lastRxReport)
        return compareTime(term, BigInt(term.field === "idle" ? idle : entry.lifetime - clock.now), clock)
      }
      case "Integer": {
        if (term.field === "backend" && entry.release === "1.20" && TupleFlags.direction(key.flags) !== "service")
          return false
        const { packets, bytes, backendId: backend, revNat: revnat, sourceSecurityId: identity } = entry
        const ifindex = entry.release === "1.17" ? entry.ifindex : -1
        return compare(term.op, BigInt({ packets, bytes, backend, revnat, identity, ifindex }[term.field]), term.value)
      }
      case "Port":
      case "PortCompare":
        if (term.end === "natport") return entry.release === "1.20" && portHolds(term, [entry.natPort])
        return keyHolds(term, key, source, destination)
      default:
        return keyHolds(term, key, source, destination)
    }
  })

export const natHolds = (filter: Filter.Filter, key: NatKey.NatKey, entry: NatEntry.NatEntry, clock: Clock): boolean =>
  joined(filter, (term) => {
    switch (term._tag) {
      case "Direction":
        if (term.direction === "service") return (key.flags & TupleFlags.SERVICE) !== 0
        return ((key.flags & TupleFlags.IN) !== 0) === (term.direction === "in")
      case "Time":
        return compareTime(term, BigInt(clock.now) - entry.created, clock)
      case "NeedsCt":
        return entry.needsCt !== 0n
      case "Address":
        if (term.end === "xlate") return inside(term.networks, entry.address)
    }
    if ((term._tag === "Port" || term._tag === "PortCompare") && term.end === "xport")
      return portHolds(term, [entry.port])
    return keyHolds(term, key, { address: key.saddr, port: key.sport }, { address: key.daddr, port: key.dport })
  })

export const supported = (filter: Filter.Filter, table: "ct" | "nat", release: Release.Release): boolean => {
  let all = true
  joined(filter, (term) => {
    const field = term._tag === "Address" || term._tag === "Port" || term._tag === "PortCompare" ? term.end : term._tag
    const detail = term._tag === "Time" || term._tag === "Integer" ? term.field : field
    const natOnly = ["xlate", "xport", "age", "NeedsCt"].includes(detail)
    const either = ["Protocol", "Family", "Direction", "Related", "src", "dst", "host", "sport", "dport", "port"]
    if (table === "nat") all &&= natOnly || either.includes(detail)
    else all &&= !natOnly && detail !== (release === "1.17" ? "natport" : "ifindex")
    return true
  })
  // Both sides of every operator count, so operators are walked in a form that skips nothing.
  return all
}

/** The same terms joined so that evaluation visits every one. */
export const flattened = (filter: Filter.Filter): Filter.Filter =>
  filter._tag === "Not"
    ? flattened(filter.filter)
    : filter._tag === "And" || filter._tag === "Or"
      ? Filter.and(flattened(filter.left), flattened(filter.right))
      : filter

// Random numbers from a seed, and rows whose fields lie near the values that filters ask for.

export type Random = (below: number) => number

export const random = (seed: number): Random => {
  let state = seed | 0
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}

export const pick = <A>(draw: Random, items: ReadonlyArray<A>): A =>
  items[draw(items.length)] ?? assert.fail("nothing to pick")

export interface Batch {
  readonly rows: Rows.Rows
  readonly keys: Uint8Array
  readonly values: Uint8Array
  readonly keySize: number
  readonly valueSize: number
}

/** Half of the rows are any bytes; half have known protocols and flags and times around now. */
export const batchOf = (draw: Random, family: Family.Family, valueSize: number, count: number): Batch => {
  const { size: keySize, nexthdr, flags } = Tuple.shape(family)
  const keys = Uint8Array.from({ length: count * keySize }, () => draw(256))
  const values = Uint8Array.from({ length: count * valueSize }, () => pick(draw, [0, 0, 1, draw(256)]))
  const view = new DataView(values.buffer)
  for (let i = 0; i < count; i += 2) {
    keys[i * keySize + nexthdr] = pick(draw, [6, 17, 1, 58])
    keys[i * keySize + flags] = pick(draw, [0, 1, 2, 3, 4])
    if (valueSize === CtEntry.SIZE) {
      for (const at of [CtEntry.offset.lifetime, CtEntry.offset.lastTxReport, CtEntry.offset.lastRxReport]) {
        view.setUint32(i * valueSize + at, pick(draw, [0, 5400 + draw(120), 5461, 5460]), true)
      }
    } else view.setBigUint64(i * valueSize, BigInt(5400 + draw(70)), true)
  }
  if (draw(2) === 0)
    return { rows: Rows.separate(keys, values, { keySize, valueSize, count }), keys, values, keySize, valueSize }
  const stride = keySize + valueSize + 3
  const records = new Uint8Array(stride * count + 5)
  for (let i = 0; i < count; i++) {
    records.set(keys.subarray(i * keySize, (i + 1) * keySize), i * stride + 1)
    records.set(values.subarray(i * valueSize, (i + 1) * valueSize), i * stride + 2 + keySize)
  }
  return {
    rows: Rows.interleaved(records, { stride, keyAt: 1, valueAt: 2 + keySize, count }),
    keys,
    values,
    keySize,
    valueSize
  }
}

const near = (draw: Random, value: bigint, maximum: bigint): bigint => {
  const moved = value + BigInt(draw(3) - 1)
  return moved < 0n ? 0n : moved > maximum ? maximum : moved
}
const nearPort = (draw: Random, port: number) => Number(near(draw, BigInt(port), 65_535n))
const operators = Filter.Comparison.literals

const networkAround = (draw: Random, address: NetAddress.IpAddress) =>
  IpNetwork.fromAddressUnsafe(address, draw(NetAddress.width(address) + 1))

const portTerm = (draw: Random, end: Filter.Port["end"], port: number): Filter.Term => {
  const op = pick(draw, Filter.PortCompare.fields.op.literals)
  if (draw(2) === 0) return { _tag: "PortCompare", end, op, port: nearPort(draw, port) }
  const range = () => {
    const from = nearPort(draw, draw(3) === 0 ? draw(65_536) : port)
    return { from, to: Math.min(65_535, from + pick(draw, [0, 0, 1, 1000])) }
  }
  return { _tag: "Port", end, ranges: [range(), ...Array.from({ length: draw(4) }, range)] }
}

const timeTerm = (draw: Random, field: Filter.Time["field"], units: number, { hertz }: Clock): Filter.Time => {
  const millis = Math.round((units * 256_000) / hertz) + pick(draw, [0, 0, 1, -1, 1000, -1000])
  return { _tag: "Time", field, op: pick(draw, operators), millis: millis === 0 ? 0 : millis }
}

/** A term whose answer hangs on what this row holds. */
export const ctTermNear = (draw: Random, key: CtKey.CtKey, entry: CtEntry.CtEntry, context: Context): Filter.Term => {
  const { source, destination } = CtKey.ends(key)
  const end = pick(draw, [source, destination])
  const integer = (field: Filter.Integer["field"], value: bigint, bits: bigint): Filter.Integer => ({
    _tag: "Integer",
    field,
    op: pick(draw, operators),
    value: near(draw, value, (1n << bits) - 1n)
  })
  const made: ReadonlyArray<() => Filter.Term> = [
    () => ({ _tag: "Protocol", protocol: key.nexthdr }),
    () => ({ _tag: "Direction", direction: pick(draw, ["in", "out", "service"]) }),
    () => ({ _tag: "Family", family: pick(draw, Family.all) }),
    () => Filter.related,
    () => pick(draw, [Filter.expired, Filter.alive]),
    () => ({ _tag: "Flag", mask: entry.flags === 0 ? 1 + draw(0xffff) : entry.flags & (draw(0x10000) || 1) || 1 }),
    () => ({
      _tag: "Address",
      end: pick(draw, ["src", "dst", "host"]),
      networks: [
        networkAround(draw, end.address),
        ...Array.from({ length: draw(3) * draw(9) }, () =>
          networkAround(draw, NetAddress.ipFromStringUnsafe(pick(draw, ["10.0.0.1", "fd00::1", "255.1.2.3"])))
        )
      ]
    }),
    () => portTerm(draw, pick(draw, ["sport", "dport", "port"]), end.port),
    () => timeTerm(draw, "lifetime", entry.lifetime - context.now, context),
    () => timeTerm(draw, "idle", context.now - Math.max(entry.lastTxReport, entry.lastRxReport), context),
    () => integer("packets", entry.packets, 64n),
    () => integer("bytes", entry.bytes, 64n),
    () => integer("backend", entry.backendId, 64n),
    () => integer("identity", BigInt(entry.sourceSecurityId), 32n),
    () => integer("revnat", BigInt(entry.revNat), 16n),
    () =>
      entry.release === "1.17"
        ? integer("ifindex", BigInt(entry.ifindex), 16n)
        : portTerm(draw, "natport", entry.natPort)
  ]
  return pick(draw, made)()
}

export const natTermNear = (
  draw: Random,
  key: NatKey.NatKey,
  entry: NatEntry.NatEntry,
  context: Context
): Filter.Term => {
  const age = context.now - Number(entry.created & 0xffff_ffffn)
  const made: ReadonlyArray<() => Filter.Term> = [
    () => ({ _tag: "Protocol", protocol: key.nexthdr }),
    () => ({ _tag: "Direction", direction: pick(draw, ["in", "out", "service"]) }),
    () => pick(draw, [Filter.related, Filter.needsCt]),
    () => ({ _tag: "Address", end: pick(draw, ["src", "dst", "host"]), networks: [networkAround(draw, key.saddr)] }),
    () => ({ _tag: "Address", end: "xlate", networks: [networkAround(draw, entry.address)] }),
    () => portTerm(draw, pick(draw, ["sport", "dport", "port"]), key.sport),
    () => portTerm(draw, "xport", entry.port),
    () => timeTerm(draw, "age", age, context)
  ]
  return pick(draw, made)()
}

export const combined = (draw: Random, term: () => Filter.Term, depth: number): Filter.Filter => {
  const sub = () => combined(draw, term, depth - 1)
  const made: ReadonlyArray<() => Filter.Filter> = [
    term,
    () => Filter.and(sub(), sub()),
    () => Filter.or(sub(), sub()),
    () => Filter.not(sub())
  ]
  return depth === 0 ? term() : pick(draw, made)()
}

const slice = (bytes: Uint8Array, size: number, i: number) => bytes.slice(i * size, (i + 1) * size)

export const ctRows = (batch: Batch, { family, release }: Context) =>
  Array.from({ length: batch.rows.count }, (_, i) => ({
    key: Result.getOrThrow(CtKey.fromBytes(family, slice(batch.keys, batch.keySize, i))),
    entry: Result.getOrThrow(CtEntry.fromBytes(release, slice(batch.values, batch.valueSize, i)))
  }))

export const natRows = (batch: Batch, { family }: Context) =>
  Array.from({ length: batch.rows.count }, (_, i) => ({
    key: Result.getOrThrow(NatKey.fromBytes(family, slice(batch.keys, batch.keySize, i))),
    entry: Result.getOrThrow(NatEntry.fromBytes(family, slice(batch.values, batch.valueSize, i)))
  }))

export const indicesWhere = (answers: ReadonlyArray<boolean>) => answers.flatMap((answer, i) => (answer ? [i] : []))

export const ctSelected = (filter: Filter.Filter, batch: Batch, context: Context): ReadonlyArray<number> => {
  const predicate = Result.getOrThrow(FilterPredicate.compileCt(filter, context))
  const columns = new CtColumns.CtColumns(context).bind(batch.rows)
  const into = new Uint32Array(batch.rows.count)
  return [...into.subarray(0, FilterPredicate.select(predicate, columns, into))]
}

export const natSelected = (filter: Filter.Filter, batch: Batch, context: Context): ReadonlyArray<number> => {
  const predicate = Result.getOrThrow(FilterPredicate.compileNat(filter, context))
  const columns = new NatColumns.NatColumns(context).bind(batch.rows)
  const into = new Uint32Array(batch.rows.count)
  return [...into.subarray(0, FilterPredicate.select(predicate, columns, into))]
}
