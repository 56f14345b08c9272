import { assert, describe, it } from "@effect/vitest"
import {
  CtEntry,
  CtKey,
  CtText,
  CtTime,
  FilterParser,
  FilterPredicate,
  NatEntry,
  NatKey,
  NatText,
  Tuple
} from "ctmap-core"
import { Bpf, BpfMap, BpfMemory, type CtPair, type Layout, Owner, type Scan } from "ctmap-kernel"
import * as Dump from "ctmap-kernel/Dump"
import { KernelClock } from "ctmap-kernel/KernelClock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { ctValue, linesOf, natValue, textOf } from "./snapshotCases.ts"

type Needs = Bpf.Bpf | BpfMemory.Control | Scope.Scope

const run = <A, E>(effect: Effect.Effect<A, E, Needs>): Effect.Effect<A, E> =>
  Effect.scoped(effect).pipe(Effect.provide(BpfMemory.layerTest()))

const known: Layout.Verdict = { _tag: "Known", release: "1.17", evidence: 1 }

const keyBytes = (i: number, flags = 0, nexthdr = 6): Uint8Array => {
  const fields = { ...Tuple.makeFields("ipv4"), sport: 1000 + (i % 60_000), dport: 80, nexthdr, flags }
  fields.daddr.set([10, 0, (i >> 8) & 255, i & 255])
  fields.saddr.set([1, 1, 1, 1])
  const key = new Uint8Array(14)
  Tuple.write(fields, Tuple.v4, new DataView(key.buffer), 0)
  return key
}

const decodedCt = (key: Uint8Array, value: Uint8Array, scope?: CtKey.Scope) => ({
  key: Result.getOrThrow(CtKey.fromBytes("ipv4", key, scope)),
  entry: Result.getOrThrow(CtEntry.fromBytes("1.17", value))
})

type Entries = ReadonlyArray<readonly [key: Uint8Array, value: Uint8Array]>

const filled = (entries: Entries, valueSize: number) =>
  Effect.gen(function* () {
    const bpf = yield* Bpf.Bpf
    const map = yield* BpfMap.create({ type: 9, keySize: 14, valueSize, maxEntries: 4096, flags: 0 }, "table")
    for (const [key, value] of entries) assert.strictEqual(bpf.update(map.fd, key, value, Bpf.ANY), 0)
    return map
  })

const ct = (entries: Entries, change: Partial<CtPair.CtMap> = {}) =>
  Effect.map(filled(entries, 56), (map): CtPair.CtMap => {
    return { _tag: "CtMap", family: "ipv4", transport: "tcp", owner: Owner.global, layout: known, map, ...change }
  })

const nat = (entries: Entries, mismatch?: string) =>
  Effect.map(filled(entries, 40), (map): CtPair.NatMap => {
    return { _tag: "NatMap", family: "ipv4", owner: Owner.global, mismatch, map }
  })

const many = (count: number): Entries => Array.from({ length: count }, (_, i) => [keyBytes(i), ctValue(i)] as const)
const plain = (entries: Entries, says?: (lifetime: number) => string, scope?: CtKey.Scope): ReadonlyArray<string> =>
  entries
    .map(([key, value]) => {
      const { key: ctKey, entry } = decodedCt(key, value, scope)
      return CtText.line(ctKey, entry, says) ?? ""
    })
    .toSorted()

const clockAt = (now: number, source: CtTime.ClockSource = CtTime.ktime): KernelClock["Service"] => ({
  source,
  now: Effect.succeed(now)
})

describe("the text of a CT map", () => {
  it.effect("is empty for an empty map", () =>
    run(Effect.map(Effect.flatMap(ct([]), Dump.dumpEntries), (text) => assert.strictEqual(text, "")))
  )

  it.effect("goes under Cilium's names", () =>
    run(
      Effect.gen(function* () {
        const map = yield* ct(many(3))
        const expected = plain(many(3))
        assert.deepStrictEqual(linesOf(yield* Dump.doDumpEntries(map)), expected)
        assert.deepStrictEqual(linesOf(yield* Dump.dumpEntries(map)), expected)
        assert.deepStrictEqual(linesOf(yield* Dump.dumpEntriesWithTimeDiff(map)), expected)
      })
    )
  )

  it.effect.each([CtTime.ktime, CtTime.jiffies(250)])(
    "says what remains under %j, in whole and negative seconds",
    (source) =>
      run(
        Effect.gen(function* () {
          const entries = many(50)
          const text = yield* Dump.dumpEntriesWithTimeDiff(yield* ct(entries), clockAt(25, source))
          const remaining = (lifetime: number) => CtTime.remainingText(CtTime.remaining(source, lifetime, 25))
          assert.deepStrictEqual(linesOf(text), plain(entries, remaining))
          assert.include(text, " (remaining: -")
        })
      )
  )

  it.effect("does not read the map when the clock cannot be read", () =>
    run(
      Effect.gen(function* () {
        const map = yield* ct(many(3))
        const control = yield* BpfMemory.Control
        const before = control.count()
        const clock = { ...clockAt(0), now: Effect.fail(new CtTime.ClockError({ reason: "schedstat", value: "" })) }
        assert.strictEqual((yield* Effect.flip(Dump.dumpEntriesWithTimeDiff(map, clock)))._tag, "ClockError")
        assert.strictEqual(control.count(), before)
      })
    )
  )

  it.effect("leaves entries of protocol 0 out, records have them", () =>
    run(
      Effect.gen(function* () {
        const map = yield* ct([...many(2), [keyBytes(7, 0, 0), ctValue(7)]])
        assert.deepStrictEqual(linesOf(yield* Dump.dumpEntries(map)), plain(many(2)))
        const records: Array<number> = []
        const report = yield* Dump.dumpWithCallback(map, ({ entry }) => records.push(entry.lifetime))
        assert.deepStrictEqual(new Set(records), new Set([0, 1, 7]))
        assert.strictEqual(report.entries, 3)
      })
    )
  )

  it.effect("is of the local form for an endpoint's map, and so are its records", () =>
    run(
      Effect.gen(function* () {
        const entries: Entries = [...many(5), [keyBytes(9, 1), ctValue(9)], [keyBytes(10, 4), ctValue(9)]]
        const map = yield* ct(entries, { owner: Owner.endpoint(7) })
        assert.deepStrictEqual(linesOf(yield* Dump.dumpEntries(map)), plain(entries, undefined, "local"))
        yield* Dump.dumpWithCallback(map, ({ key }) => assert.strictEqual(key.scope, "local"))
      })
    )
  )

  it.effect("leaves in chunks of whole lines that are the receiver's to keep", () =>
    run(
      Effect.gen(function* () {
        const entries = many(4000)
        const chunks = yield* Stream.runCollect(Dump.text(yield* ct(entries)))
        assert.strictEqual(chunks.length, 4)
        for (const chunk of chunks) {
          assert.isAtMost(chunk.byteLength, 256 * 1024)
          assert.strictEqual(chunk.at(-1), 10)
        }
        assert.deepStrictEqual(linesOf(Buffer.concat(chunks).toString()), plain(entries))
      })
    )
  )

  it.effect("is narrowed down by a filter", () =>
    run(
      Effect.gen(function* () {
        const entries = many(3000)
        const filter = Result.getOrThrow(FilterParser.parse("src 10.0.3.0/24 and sport < 1900"))
        const predicate = Result.getOrThrow(FilterPredicate.compileCt(filter, { family: "ipv4", release: "1.17" }))
        const text = yield* Dump.dumpEntries(yield* ct(entries), { predicate })
        assert.deepStrictEqual(linesOf(text), plain(entries.slice(768, 900)))
      })
    )
  )

  it.effect("can be run again, and reads the map anew", () =>
    run(
      Effect.gen(function* () {
        const map = yield* ct(many(3))
        const stream = Dump.text(map)
        assert.deepStrictEqual(linesOf(yield* textOf(stream)), plain(many(3)))
        yield* BpfMap.remove(map.map, keyBytes(0))
        assert.deepStrictEqual(linesOf(yield* textOf(stream)), plain(many(3).slice(1)))
      })
    )
  )
})

describe("the text of a NAT map", () => {
  const entries: Entries = Array.from({ length: 40 }, (_, i) => [keyBytes(i, i & 1), natValue(BigInt(i))] as const)
  const expected = (age?: (created: bigint) => bigint): ReadonlyArray<string> =>
    entries
      .map(([key, value]) => {
        const natKey = Result.getOrThrow(NatKey.fromBytes("ipv4", key))
        const entry = Result.getOrThrow(NatEntry.fromBytes("ipv4", value))
        return NatText.line(natKey, entry, age === undefined ? {} : { age }) ?? ""
      })
      .toSorted()

  it.effect("says how old entries are, or the raw time without a clock", () =>
    run(
      Effect.gen(function* () {
        const map = yield* nat(entries)
        assert.deepStrictEqual(linesOf(yield* Dump.dumpNatEntries(map)), expected())
        assert.deepStrictEqual(linesOf(yield* Dump.dumpNatEntriesWithTimeDiff(map)), expected())
        const text = yield* Dump.dumpNatEntriesWithTimeDiff(map, clockAt(100))
        assert.deepStrictEqual(
          linesOf(text),
          expected((created) => 100n - created)
        )
      })
    )
  )

  it.effect("is narrowed down by a filter, and handed out as records", () =>
    run(
      Effect.gen(function* () {
        const map = yield* nat(entries)
        const filter = Result.getOrThrow(FilterParser.parse("dir in"))
        const predicate = Result.getOrThrow(FilterPredicate.compileNat(filter, { family: "ipv4", release: "1.17" }))
        assert.strictEqual(linesOf(yield* Dump.dumpNatEntries(map, { predicate })).length, 20)
        const created: Array<bigint> = []
        yield* Dump.dumpNatWithCallback(map, ({ entry }) => created.push(entry.created))
        assert.strictEqual(created.length, 40)
      })
    )
  )
})

describe("errors", () => {
  it.effect("come after the text that was written before them (G24)", () =>
    run(
      Effect.gen(function* () {
        const entries = many(1000)
        const map = yield* ct(entries)
        const control = yield* BpfMemory.Control
        control.failNext("lookupBatch", 5, { skip: 3 })
        let text = ""
        const error = yield* Effect.flip(
          Stream.runForEach(Dump.text(map), (chunk) => Effect.sync(() => (text += Buffer.from(chunk).toString())))
        )
        assert.strictEqual(error._tag, "BpfError")
        const all = new Set(plain(entries))
        assert.isAbove(linesOf(text).length, 100)
        assert.isTrue(linesOf(text).every((line) => all.has(line)))
        control.failNext("lookupBatch", 5, { skip: 3 })
        assert.strictEqual((yield* Effect.flip(Dump.dumpEntries(map)))._tag, "BpfError")
      })
    )
  )

  it.effect("say that a layout is unknown, instead of misreading it", () =>
    run(
      Effect.gen(function* () {
        const why = "the table is of neither layout"
        const map = yield* ct(many(3), { layout: { _tag: "Unknown", why } })
        const message = `the entries of map table cannot be interpreted: ${why}; of a hash they can be counted and saved as they are, and nothing else`
        assert.strictEqual((yield* Effect.flip(Dump.dumpEntries(map))).message, message)
        assert.strictEqual((yield* Effect.flip(Dump.dumpWithCallback(map, () => undefined))).message, message)
        assert.strictEqual((yield* Effect.flip(Dump.dumpNatEntries(yield* nat([], why)))).message, message)
      })
    )
  )

  it.effect("say that a walk by key was given up, instead of ending early (G3)", () =>
    run(
      Effect.gen(function* () {
        const map = yield* ct(many(64))
        const control = yield* BpfMemory.Control
        const inKernel = control.map(map.map.fd)!
        // Whenever the walk asks for the next key the datapath takes the current one away, and puts it back at once.
        const key = keyBytes(0)
        control.onCall((call, [, current]) => {
          if (call !== "nextKey" || !(current instanceof Uint8Array)) return
          key.set(current)
          inKernel.delete(key)
        })
        control.onCall((call) => void (call === "nextKey" && inKernel.update(key, ctValue(1))), "after")
        const options: Scan.Options = { method: "next-key" }
        for (const attempt of [
          Dump.dumpEntries(map, options),
          Dump.dumpWithCallback(map, () => undefined, options)
        ] as ReadonlyArray<Effect.Effect<unknown, Dump.DumpError | Dump.TextTooLong, Bpf.Bpf>>) {
          const error = yield* Effect.flip(attempt)
          assert.strictEqual(error._tag, "Incomplete")
          assert.match(error.message, /^iteration aborted: map table changed faster/)
        }
      })
    )
  )

  it.effect("do not come from a quiet map walked by key", () =>
    run(
      Effect.gen(function* () {
        const map = yield* ct(many(300))
        assert.deepStrictEqual(linesOf(yield* Dump.dumpEntries(map, { method: "next-key" })), plain(many(300)))
      })
    )
  )
})

describe("the clock service", () => {
  it.effect("is what a dump takes", () =>
    run(
      Effect.gen(function* () {
        const clock = yield* KernelClock
        const text = yield* Dump.dumpEntriesWithTimeDiff(yield* ct(many(1)), clock)
        assert.include(text, "expires=0 (remaining: -1000 sec(s)) ")
      }).pipe(Effect.provide(Layer.succeed(KernelClock, clockAt(1000))))
    )
  )
})
