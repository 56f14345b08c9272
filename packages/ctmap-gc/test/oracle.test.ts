/** Random tables and random requests: every engine does what a slow reading of the rules says. */
import { assert, describe, it } from "@effect/vitest"
import {
  CtColumns,
  CtEntry,
  type Family,
  FilterParser,
  FilterPredicate,
  GcFilter,
  NatDerivation,
  NatEntry,
  Rows,
  Tuple
} from "ctmap-core"
import { type GcPass, GcReason, GcRequest, Guard } from "ctmap-gc"
import { Bpf, BpfMemory } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import { checkSums, sweep } from "./engineCases.ts"
import * as Stage from "./stage.ts"

const NOW = 1000

/** Numbers that look random, the same ones for a seed. */
const dice = (seed: number) => {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  const below = (end: number): number => next() % end
  const pick = <A>(of: ReadonlyArray<A>): A => of[below(of.length)]!
  return { below, pick, isLucky: (of: number): boolean => below(of) === 0 }
}

const filters = ["tcp", "dport 443", "lifetime < 60s", "expired", "dport 80 and not expired", "dir out", "packets > 0"]

type Dice = ReturnType<typeof dice>

const entryOf = ({ below, pick }: Dice, family: Family.Family, proto: number): Parameters<typeof Stage.ct>[0] => ({
  family,
  proto,
  daddr: [1 + below(4)],
  saddr: [1 + below(4)],
  dport: pick([80, 443]),
  sport: 1 + below(12),
  tupleFlags: pick([0, 0, 0, 1, 2, 3, 4, 5]),
  lifetime: pick([0, 1, NOW - 1, NOW, NOW + 1, NOW + 30, NOW + 5000, 0xffff_ffff]),
  flags: pick([0, 0, 0x80, 0x10])
})

const requestOf = ({ below, isLucky, pick }: Dice, family: Family.Family): GcRequest.GcRequest => {
  const ip = (n: number) => NetAddress.ipFromStringUnsafe(family === "ipv4" ? `10.0.0.${n}` : `fd00::${n}`)
  const filter = () => Result.getOrThrow(FilterParser.parse(pick(filters)))
  return {
    ...(isLucky(2) ? { expired: true } : {}),
    ...(isLucky(4) ? { addresses: Array.from({ length: below(3) }, () => ip(1 + below(5))) } : {}),
    ...(isLucky(4) ? { filter: filter() } : {}),
    ...(isLucky(8) ? { everything: true } : {}),
    ...(isLucky(4) ? { within: filter() } : {})
  }
}

/** By key, as hex. */
type Table = Map<string, Stage.Entry>

const tableOf = (entries: ReadonlyArray<Stage.Entry>): Table =>
  new Map(entries.map((each) => [Stage.keyHex(each), each]))

/** What a table has come to, entry by entry. */
interface Expected {
  readonly reasons: Record<GcReason.GcReason, number>
  readonly wanted: Array<number>
  readonly nat: { -readonly [K in keyof GcPass.NatCounts]: number }
}

/** Deletes from `ct` and `nat` what should go, one entry at a time. */
const oracle = (
  family: Family.Family,
  requests: ReadonlyArray<GcRequest.GcRequest>,
  ct: Table,
  nat: Table | undefined
): Expected => {
  const columns = new CtColumns.CtColumns({ family, release: "1.17" })
  const context = { family, release: "1.17", now: NOW, secondsPerUnit: 1 } as const
  const rules = requests.map(({ addresses, everything, expired, filter, within }) => {
    const compile = (each: NonNullable<typeof filter>) => Result.getOrThrow(FilterPredicate.compileCt(each, context))
    const decide = GcFilter.compile(
      {
        expiredBefore: expired === true ? NOW : undefined,
        matchIps: addresses,
        ...(filter === undefined ? {} : { matches: compile(filter) })
      },
      family
    )
    const isWithin = within === undefined ? () => true : compile(within)
    return (row: number): GcReason.GcReason | undefined => {
      if (!isWithin(columns, row)) return undefined
      const verdict = decide(columns, row)
      return verdict === "keep" ? (everything === true ? "flushed" : undefined) : verdict
    }
  })
  const expected: Expected = {
    reasons: { expired: 0, "matched-address": 0, "matched-filter": 0, flushed: 0 },
    wanted: requests.map(() => 0),
    nat: { egress: 0, ingress: 0, absent: 0, halves: 0, kept: 0, failed: 0 }
  }
  const gone: Array<Stage.Entry> = []
  for (const [hex, entry] of ct) {
    const { key, value } = entry
    columns.bind(Rows.separate(key, value, { keySize: key.length, valueSize: value.length, count: 1 }))
    const reasons = rules.map((rule) => rule(0))
    for (const [i, reason] of reasons.entries()) if (reason !== undefined) expected.wanted[i]! += 1
    const first = GcReason.names.find((name) => reasons.includes(name))
    if (first === undefined) continue
    expected.reasons[first]++
    ct.delete(hex)
    gone.push(entry)
  }
  if (nat !== undefined) for (const entry of gone) cleanUp(family, entry, nat, expected.nat)
  return expected
}

const cleanUp = (family: Family.Family, { key, value }: Stage.Entry, nat: Table, counts: Expected["nat"]): void => {
  const tuple = Tuple.shape(family)
  const shape = NatEntry.shape(family)
  const flags = new DataView(value.buffer, value.byteOffset).getUint16(CtEntry.offset.flags, true)
  if (key[tuple.flags] !== 0) return
  const out = new Uint8Array(key.length)
  if ((flags & 0x80) !== 0) {
    NatDerivation.swappedNatOutOfCt(tuple, key, out)
    if (nat.delete(Stage.hex(out))) counts.egress++
    else counts.absent++
    return
  }
  NatDerivation.natOutOfCt(tuple, key, out)
  const mapping = nat.get(Stage.hex(out))
  if (mapping === undefined) {
    counts.absent++
    return
  }
  nat.delete(Stage.hex(out))
  counts.egress++
  const back = new Uint8Array(key.length)
  NatDerivation.natInOfNatOut(tuple, { key: out, value: mapping.value }, back)
  const reverse = nat.get(Stage.hex(back))
  const target = reverse?.value.subarray(shape.address, shape.address + shape.addressSize)
  const port = reverse?.value.subarray(shape.port, shape.port + 2)
  const leadsBack =
    target !== undefined &&
    port !== undefined &&
    Stage.hex(target) === Stage.hex(out.subarray(tuple.saddr, tuple.saddr + shape.addressSize)) &&
    Stage.hex(port) === Stage.hex(out.subarray(tuple.sport, tuple.sport + 2))
  if (leadsBack) {
    nat.delete(Stage.hex(back))
    counts.ingress++
  } else counts.halves++
}

/** Mappings of some of the entries: whole, halves, of others, swapped. */
const mappingsOf = (random: Dice, family: Family.Family, entries: Iterable<Stage.Entry>): Table => {
  const tuple = Tuple.shape(family)
  const shape = NatEntry.shape(family)
  const nat: Table = new Map()
  const put = (key: Uint8Array, value: Uint8Array): void => void nat.set(Stage.hex(key), { key, value })
  for (const { key } of entries) {
    const value = new Uint8Array(shape.size)
    value.set(Stage.address(shape.addressSize, [9]), shape.address)
    new DataView(value.buffer).setUint16(shape.port, 40_000 + random.below(400))
    const out = new Uint8Array(key.length)
    const kind = random.below(6)
    if (kind === 0) continue
    if (kind === 1) NatDerivation.swappedNatOutOfCt(tuple, key, out)
    else NatDerivation.natOutOfCt(tuple, key, out)
    // Every other would be found under it if its own flags did not say that it owns nothing.
    out[tuple.flags] = 0
    if (kind !== 5) put(out, value)
    if (kind < 3) continue
    const back = new Uint8Array(key.length)
    NatDerivation.natInOfNatOut(tuple, { key: out, value }, back)
    const reverse = new Uint8Array(shape.size)
    const somebody = Stage.address(shape.addressSize, [kind === 4 ? 77 : 0])
    reverse.set(kind === 4 ? somebody : out.subarray(tuple.saddr, tuple.saddr + shape.addressSize), shape.address)
    reverse.set(out.subarray(tuple.sport, tuple.sport + 2), shape.port)
    put(back, reverse)
  }
  return nat
}

describe("random tables and requests", () => {
  for (const engine of ["hybrid", "walking", "kernel", "portable"] as const) {
    for (const family of ["ipv4", "ipv6"] as const) {
      it.effect(
        `${engine}, ${family}: the entries that stay, every count and every reason are those of the rules`,
        () =>
          Effect.gen(function* () {
            for (let seed = 1; seed <= 120; seed++) {
              const random = dice(seed * 7919)
              const size = 1 + random.below(90)
              const tcp = tableOf(Array.from({ length: size }, () => Stage.ct(entryOf(random, family, 6))))
              const any = tableOf(Array.from({ length: random.below(40) }, () => Stage.ct(entryOf(random, family, 17))))
              const nat = random.isLucky(5) ? undefined : mappingsOf(random, family, [...tcp.values(), ...any.values()])
              const requests = random.isLucky(3)
                ? [GcRequest.expired]
                : Array.from({ length: 1 + random.below(3) }, () => requestOf(random, family))
              const { calls } = BpfMemory.make({ objects: Stage.objects!, seed })
              const test = Effect.gen(function* () {
                const pair = yield* Stage.pair({
                  family,
                  tcp: tcp.values(),
                  any: any.values(),
                  ...(nat === undefined ? {} : { nat: nat.values() })
                })
                const sizes = [tcp.size, any.size]
                const pass = yield* sweep(engine, pair, { requests, limits: Guard.unlimited, trustsClock: true }, NOW)
                checkSums(pass)
                const expected = [tcp, any].map((table) => oracle(family, requests, table, nat))
                const about = `seed ${seed}`
                for (const [i, map] of [pair.tcp.map, pair.any.map].entries()) {
                  assert.deepStrictEqual(yield* Stage.keysOf(map), [...[tcp, any][i]!.keys()].toSorted(), about)
                  assert.deepStrictEqual(pass.maps[i]!.reasons, expected[i]!.reasons, about)
                  assert.strictEqual(pass.maps[i]!.seen, sizes[i], about)
                }
                const wanted = requests.map((_, i) => expected[0]!.wanted[i]! + expected[1]!.wanted[i]!)
                assert.deepStrictEqual(
                  pass.requests,
                  wanted.map((count) => ({ wanted: count, deleted: count })),
                  about
                )
                if (nat !== undefined) {
                  assert.deepStrictEqual(yield* Stage.keysOf(pair.nat!.map), [...nat.keys()].toSorted(), about)
                  // Connections can share halves: who of them comes first is up to the table, what goes in all is not.
                  const gone = (maps: ReadonlyArray<{ readonly nat: GcPass.NatCounts }>) =>
                    maps.reduce((sum, { nat: { egress, ingress } }) => sum + egress + ingress, 0)
                  assert.strictEqual(gone(pass.maps), gone(expected), about)
                }
              })
              yield* Effect.provideService(Effect.scoped(test), Bpf.Bpf, calls)
            }
          })
      )
    }
  }
})
