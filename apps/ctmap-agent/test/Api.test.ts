/** What the API answers, through its handlers alone: the whole agent in memory, under the test clock. */
import { assert, describe, it } from "@effect/vitest"
import { EntryRows, type Request } from "ctmap-api"
import { CtJson, MapKind, MapName, MapSpec } from "ctmap-core"
import { GcRunner } from "ctmap-gc"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Watching from "../src/api/Watching.ts"
import { inMemory } from "./apiStage.ts"
import * as Datapath from "./datapath.ts"
import { keysAfter, keysOf, limits, makeKernel, names, pass, restore, ROOT } from "./stage.ts"

const EIO = 5
const ctNames = names.filter((name) => name.startsWith("cilium_ct"))
const count = (twin: ReturnType<typeof makeKernel>) => ctNames.reduce((sum, name) => sum + keysOf(twin, name).size, 0)
const isRecord = Schema.is(CtJson.Record)

/** An agent whose first pass is over. */
const ready = (twin = makeKernel(), options: Parameters<typeof inMemory>[1] = {}) =>
  Effect.gen(function* () {
    yield* restore(twin)
    const { client, context } = yield* inMemory(twin, options)
    yield* Effect.provide(
      Effect.flatMap(GcRunner.GcRunner, ({ initialScanDone }) => initialScanDone),
      context
    )
    return { client, twin }
  })

describe("status", () => {
  it.effect("tells how the agent is, and what its last passes came to", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      const status = yield* client.status.status()
      assert.isTrue(status.ready)
      assert.strictEqual(status.clock.now, 5462)
      assert.strictEqual(status.gc.initialScanDone, true)
      assert.deepStrictEqual(
        status.passes.map(({ completed, family, seen }) => [family, completed, seen > 0]),
        [
          ["ipv4", true, true],
          ["ipv6", true, true]
        ]
      )
      const { deleted } = status.passes.reduce((sum, each) => ({ deleted: sum.deleted + each.deleted }), { deleted: 0 })
      assert.strictEqual(
        count(twin),
        ctNames.reduce((sum, name) => sum + keysAfter(name).size, 0)
      )
      assert.isAbove(deleted, 0)
      assert.include(
        status.cells.map(({ cell }) => cell),
        "gc"
      )
      assert.strictEqual((yield* client.status.health()).status, "ok")
      assert.deepStrictEqual((yield* client.collector.passes()).ct.length, 2)
    })
  )

  it.effect(
    "keeps the passes that were: a trial does not hide what was done, and the schedule's purges are among them",
    () =>
      Effect.gen(function* () {
        const { client, twin } = yield* ready(makeKernel(), { flags: ["--orphan-purge-interval", "1m"] })
        yield* client.collector.gc({ payload: { dryRun: true } })
        yield* pass(twin, "70 seconds", "5 seconds")
        const { ct, nat } = yield* client.collector.passes()
        assert.deepStrictEqual(
          ct.slice(0, 4).map(({ dryRun, family, trigger }) => [family, dryRun, trigger]),
          [
            ["ipv4", false, "initial"],
            ["ipv6", false, "initial"],
            ["ipv4", true, "request"],
            ["ipv6", true, "request"]
          ]
        )
        assert.deepStrictEqual(
          nat.map(({ family, kind }) => [family, kind]),
          [
            ["ipv4", "orphans"],
            ["ipv6", "orphans"]
          ]
        )
      })
  )

  it.effect("is 503 with the tree and the reason where something is degraded", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      const { client } = yield* inMemory(twin)
      yield* pass(twin, "10 seconds")
      const error = yield* Effect.flip(client.status.health())
      assert.strictEqual(error._tag, "Unhealthy")
      assert.include(error.message, "presence/look: waiting for tables")
      assert.strictEqual((yield* client.status.status()).status, "degraded")
    })
  )
})

describe("maps", () => {
  it.effect("are listed with owner, layout, fill and what is wrong with them", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      yield* pass(twin, "31 seconds")
      const { maps, root } = yield* client.maps.maps()
      assert.strictEqual(root, ROOT)
      assert.sameMembers(
        maps.map(({ name }) => name),
        [...names]
      )
      const tcp4 = maps.find(({ name }) => name === MapName.TCP4_GLOBAL)
      assert.deepStrictEqual(
        [tcp4?.kind, tcp4?.family, tcp4?.owner, tcp4?.type, tcp4?.capacity, tcp4?.layout, tcp4?.health],
        ["ct", "ipv4", "global", "lru-hash", 8192, "1.17", []]
      )
      assert.strictEqual(tcp4?.fill?.entries, keysOf(twin, MapName.TCP4_GLOBAL).size)
      twin.control.time += BigInt(90 * 86_400) * 1_000_000_000n
      yield* pass(twin, "2 seconds")
      const later = yield* client.maps.maps()
      assert.match(later.maps[0]?.health[0] ?? "", /do not fit the ktime clock/)
    })
  )

  it.effect("are an empty list where nothing is pinned, and a problem where pins cannot be read", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      const { client } = yield* inMemory(twin)
      assert.deepStrictEqual((yield* client.maps.maps()).maps, [])
      twin.control.failNext("listDirectory", EIO)
      yield* pass(twin, "2 seconds")
      twin.control.clearFaults()
      twin.control.failNext("listDirectory", EIO)
      const error = yield* Effect.flip(client.maps.maps())
      assert.strictEqual(error._tag, "KernelFailed")
    })
  )
})

describe("rows of entries", () => {
  it.effect("are the bytes of the map, of those that are wanted", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      const map = Datapath.map(twin, MapName.TCP4_GLOBAL)
      const there = new Map<string, string>()
      map.forEach((key, value) => void there.set(Buffer.from(key).toString("hex"), Buffer.from(value).toString("hex")))
      const read = (query: Request.EntriesQuery) =>
        Effect.gen(function* () {
          const found = new Map<string, string>()
          const rows = EntryRows.decode(yield* client.maps.rows({ query: { map: [MapName.TCP4_GLOBAL], ...query } }))
          yield* Stream.runForEach(rows, ({ count: rowCount, keys, table, values }) =>
            Effect.sync(() => {
              const { keySize, valueSize } = table
              const text = (bytes: Uint8Array, i: number, size: number) =>
                Buffer.from(bytes.subarray(i * size, (i + 1) * size)).toString("hex")
              for (let i = 0; i < rowCount; i++) found.set(text(keys, i, keySize), text(values, i, valueSize))
              assert.deepInclude(table, { map: MapName.TCP4_GLOBAL, kind: "ct", family: "ipv4", release: "1.17" })
            })
          )
          return found
        })
      assert.isAbove(there.size, 5)
      assert.deepStrictEqual(Object.fromEntries(yield* read({})), Object.fromEntries(there))
      assert.strictEqual((yield* read({ limit: 3 })).size, 3)
      assert.strictEqual((yield* read({ where: "udp" })).size, 0)
      const missing = yield* Effect.flip(client.maps.rows({ query: { cluster: 9 } }))
      assert.strictEqual(missing._tag, "NotFound")
    })
  )
})

describe("entries", () => {
  it.effect("are every entry once, as the published schema has it", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      const records = yield* Stream.runCollect(yield* client.maps.entries({ query: {} }))
      assert.strictEqual(records.length, count(twin))
      for (const record of records) assert.isTrue(isRecord(record))
      const nat = yield* Stream.runCollect(yield* client.maps.entries({ query: { nat: true, family: "ipv6" } }))
      assert.strictEqual(nat.length, keysOf(twin, MapName.nat("ipv6")).size)
    })
  )

  it.effect("of NAT are read as of the release that is set, for they do not tell themselves", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      const { client } = yield* ready(twin, { flags: ["--release", "1.20"] })
      const nat = twin.control.map(MapName.pinPath(ROOT, MapName.nat("ipv4")))!
      const gre = new Uint8Array(14)
      gre[12] = 47
      assert.strictEqual(nat.update(gre, new Uint8Array(nat.properties.valueSize)), 0)
      const query = { nat: true, family: "ipv4", where: "proto 47" } as const
      const [line] = yield* Stream.runCollect(yield* client.maps.entries({ query }))
      // 1.17 has no name for it.
      assert.deepInclude(line, { protocol: "GRE", protocolNumber: 47 })
    })
  )

  it.effect("are those of a filter, a map and a limit", () =>
    Effect.gen(function* () {
      const { client } = yield* ready()
      const all = yield* Stream.runCollect(yield* client.maps.entries({ query: { family: "ipv4" } }))
      const tcp = yield* Stream.runCollect(
        yield* client.maps.entries({ query: { family: "ipv4", where: "tcp and dir out" } })
      )
      const expected = all.filter((each) => each.type === "ct" && each.protocolNumber === 6 && each.direction === "out")
      assert.isNotEmpty(expected)
      assert.deepStrictEqual(tcp, expected)
      const limited = yield* Stream.runCollect(
        yield* client.maps.entries({ query: { map: [MapName.ANY4_GLOBAL, MapName.TCP4_GLOBAL], limit: 5 } })
      )
      assert.strictEqual(limited.length, 5)
    })
  )

  it.effect("are a problem where there are no such maps, or the filter is for others", () =>
    Effect.gen(function* () {
      const { client } = yield* ready()
      const refused = (query: Parameters<typeof client.maps.entries>[0]["query"]) =>
        Effect.map(Effect.flip(client.maps.entries({ query })), (error) => `${error._tag}: ${error.message}`)
      assert.match(yield* refused({ cluster: 9 }), /^NotFound: no such map is pinned/)
      assert.match(yield* refused({ map: ["etc/passwd"] }), /^InvalidRequest: query.map: "etc\/passwd" is not the name/)
      const missing = MapName.clusterInner({ family: "ipv4", transport: "tcp", scope: "global" }, 3)
      const both = { map: [MapName.TCP4_GLOBAL, missing] }
      assert.strictEqual(yield* refused(both), `NotFound: no map ${missing} is pinned: /v1/maps lists what is there`)
      assert.match(yield* refused({ cluster: 1, endpoint: 1 }), /^InvalidRequest: .*two owners/)
      assert.match(yield* refused({ map: [MapName.TCP4_GLOBAL], cluster: 1 }), /^InvalidRequest: .*names whole maps/)
      assert.match(yield* refused({ nat: true, endpoint: 1 }), /^InvalidRequest: .*no NAT maps of their own/)
      assert.match(
        yield* refused({ where: "needs-ct" }),
        /^InvalidRequest: query.where: .*cannot be used on a CT table/
      )
    })
  )

  it.effect("that cannot be read are a problem before the first line, and the last line after it", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      const reads = twin.control.count("lookupBatch")
      yield* Stream.runDrain(yield* client.maps.entries({ query: {} }))
      const each = twin.control.count("lookupBatch") - reads
      twin.control.failEvery(1, "lookupBatch", EIO)
      const error = yield* Effect.flip(client.maps.entries({ query: {} }))
      assert.strictEqual(error._tag, "KernelFailed")
      twin.control.clearFaults()
      twin.control.failNext("lookupBatch", EIO, { skip: each - 2, times: 3 })
      const lines = yield* Stream.runCollect(yield* client.maps.entries({ query: {} }))
      const last = lines.at(-1)
      assert.strictEqual(last?.type, "error")
      assert.strictEqual(last?.type === "error" ? last.entries : 0, lines.length - 1)
    })
  )
})

describe("a request to collect", () => {
  it.effect("deletes what has expired, and tells its counts by pair", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      twin.control.time += 20_000_000_000n
      const before = count(twin)
      const dry = yield* client.collector.gc({ payload: { dryRun: true } })
      assert.strictEqual(count(twin), before)
      assert.isAbove(dry.wanted, 0)
      assert.strictEqual(dry.deleted, 0)
      const some = yield* client.collector.gc({ payload: { families: ["ipv4"], where: "tcp", owner: "global" } })
      assert.deepStrictEqual(
        some.pairs.map(({ outcome, pair }) => [pair, outcome]),
        [["ipv4 global", "collected"]]
      )
      const rest = yield* client.collector.gc({ payload: {} })
      assert.strictEqual(some.deleted + rest.deleted, dry.wanted)
      assert.strictEqual(count(twin), before - dry.wanted)
    })
  )

  it.effect("shares passes with others who ask meanwhile, and each has counts of its own", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      twin.control.time += 20_000_000_000n
      const before = count(twin)
      const answers = yield* Effect.all(
        Array.from({ length: 20 }, (_, i) => client.collector.gc({ payload: i % 2 === 0 ? {} : { where: "udp" } })),
        { concurrency: "unbounded" }
      )
      const serials = new Set(answers.flatMap(({ pairs }) => pairs.map(({ pass: each }) => each?.serial)))
      assert.isBelow(serials.size, 10)
      const deleted = before - count(twin)
      assert.isAbove(deleted, 0)
      assert.strictEqual(Math.max(...answers.map((answer) => answer.deleted)), deleted)
    })
  )

  it.effect("is 404 where no such tables are pinned, and says of one family that it is absent", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      const none = yield* Effect.flip(client.collector.gc({ payload: { owner: "cluster 7" } }))
      assert.strictEqual(none._tag, "NotFound")
      for (const name of names.filter((each) => each.includes("6"))) twin.calls.unpin(MapName.pinPath(ROOT, name))
      const { pairs } = yield* client.collector.gc({ payload: {} })
      assert.deepStrictEqual(
        pairs.map(({ outcome, pair }) => [pair, outcome]),
        [
          ["ipv4 global", "collected"],
          ["ipv6 global", "absent"]
        ]
      )
      for (const name of names) twin.calls.unpin(MapName.pinPath(ROOT, name))
      const gone = yield* Effect.flip(client.collector.gc({ payload: {} }))
      assert.strictEqual(gone._tag, "NotFound")
      assert.include(gone.message, "nothing is pinned there")
    })
  )

  it.effect("is 422 where a table does not fit the clock, and nothing is deleted", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      twin.control.time += BigInt(90 * 86_400) * 1_000_000_000n
      const before = count(twin)
      const error = yield* Effect.flip(client.collector.gc({ payload: {} }))
      assert.strictEqual(error._tag, "ClockImplausible")
      assert.strictEqual(error._tag === "ClockImplausible" ? error.deleted : -1, 0)
      assert.match(error.message, /nothing was touched/)
      assert.strictEqual(count(twin), before)
    })
  )

  it.effect("is 503 where the kernel fails, with what was done all the same", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      twin.control.failEvery(1, "lookupBatch", EIO)
      twin.control.failEvery(1, "nextKey", EIO)
      const error = yield* Effect.flip(client.collector.gc({ payload: {} }))
      twin.control.clearFaults()
      assert.strictEqual(error._tag, "KernelFailed")
      assert.deepStrictEqual(error._tag === "KernelFailed" ? error.pairs.map(({ outcome }) => outcome) : [], [
        "failed",
        "failed"
      ])
    })
  )
})

describe("a purge", () => {
  it.effect("deletes what fits every selector, of the families that can have it", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      const [first] = yield* Stream.runCollect(yield* client.maps.entries({ query: { where: "ipv4 and tcp" } }))
      const ip = first?.type === "ct" ? first.source.address : ""
      const before = count(twin)
      const { deleted, pairs } = yield* client.collector.purge({ payload: { ips: [ip], protocol: "tcp" } })
      assert.deepStrictEqual(
        pairs.map(({ pair }) => pair),
        ["ipv4 global"]
      )
      assert.isAbove(deleted, 0)
      assert.strictEqual(count(twin), before - deleted)
      const left = yield* Stream.runCollect(yield* client.maps.entries({ query: { where: `tcp and host ${ip}` } }))
      assert.deepStrictEqual(left, [])
    })
  )

  it.effect("is of the tables of an owner and of families, where it names them", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      Datapath.pinAll(twin)
      const kinds = MapKind.globals.filter(({ family }) => family === "ipv4")
      for (const kind of kinds) Datapath.pin(twin, MapName.local(kind, 7), MapSpec.ct(kind, { limits }))
      const { client } = yield* inMemory(twin)
      yield* pass(twin, "1 second")
      const local = MapName.local({ family: "ipv4", transport: "tcp", scope: "local" }, 7)
      for (const family of ["ipv4", "ipv6"] as const) Datapath.connect(twin, 1, { family, life: 3600 })
      const globals = Datapath.map(twin, MapName.TCP4_GLOBAL)
      globals.forEach((key, value) => void Datapath.map(twin, local).update(key, value))
      const sizes = () => [local, MapName.TCP4_GLOBAL, MapName.TCP6_GLOBAL].map((name) => keysOf(twin, name).size)
      assert.deepStrictEqual(sizes(), [1, 1, 1])
      const purge = (payload: Request.Purge) =>
        Effect.map(client.collector.purge({ payload }), ({ pairs }) => pairs.map(({ pair }) => pair))
      assert.deepStrictEqual(yield* purge({ where: "tcp", owner: "endpoint 7", families: ["ipv4"] }), [
        "ipv4 endpoint 7"
      ])
      assert.deepStrictEqual(sizes(), [0, 1, 1])
      assert.deepStrictEqual(yield* purge({ where: "tcp", owner: "global", families: ["ipv6"] }), ["ipv6 global"])
      assert.deepStrictEqual(sizes(), [0, 1, 0])
      const nobodys = yield* Effect.flip(purge({ where: "tcp", owner: "cluster 9" }))
      assert.strictEqual(nobodys._tag, "NotFound")
      const contradiction = yield* Effect.flip(purge({ ips: ["10.0.1.99"], families: ["ipv6"] }))
      assert.include(String(contradiction), "None of the addresses is of these families")
      const orphans = yield* client.collector.purgeOrphans({ payload: { owner: "global", families: ["ipv4"] } })
      assert.deepStrictEqual(
        orphans.pairs.map(({ pair }) => pair),
        ["ipv4 global"]
      )
    })
  )

  it.effect("is 409 where the guard stops it: nothing was deleted", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready(makeKernel(), { flags: ["--max-delete-floor=1"] })
      const before = count(twin)
      const error = yield* Effect.flip(client.collector.purge({ payload: { where: "ipv4 or ipv6" } }))
      assert.strictEqual(error._tag, "GuardStopped")
      assert.match(error.message, /nothing was deleted/)
      assert.strictEqual(error._tag === "GuardStopped" ? error.deleted : -1, 0)
      assert.strictEqual(count(twin), before)
      // In words of the API: nobody who asks here has flags.
      const whys = error._tag === "GuardStopped" ? error.pairs.map(({ why }) => why ?? "") : []
      for (const text of [error.message, ...whys.filter((why) => why !== "")]) {
        assert.match(text, /in a dry run \("dryRun": true\), then allow more with the agent's setting max-delete-ratio/)
      }
      const { ct } = yield* client.collector.passes()
      const recorded = ct.findLast(({ completed }) => !completed)?.why ?? ""
      assert.match(recorded, /in a dry run, then allow more with the setting max-delete-ratio/)
    })
  )

  it.effect("without a selector is refused", () =>
    Effect.gen(function* () {
      const { client } = yield* ready()
      const error = yield* Effect.flip(client.collector.purge({ payload: {} }))
      assert.include(String(error), "would delete everything")
    })
  )
})

describe("orphans", () => {
  it.effect("are purged on request, and the pass is on record", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      for (const key of keysOf(twin, MapName.TCP4_GLOBAL)) {
        twin.control.map(MapName.pinPath(ROOT, MapName.TCP4_GLOBAL))?.delete(Buffer.from(key, "hex"))
      }
      const nat = () => keysOf(twin, MapName.nat("ipv4")).size
      const before = nat()
      const dry = yield* client.collector.purgeOrphans({ payload: { families: ["ipv4"], dryRun: true } })
      assert.isAbove(dry.wanted, 0)
      assert.strictEqual(nat(), before)
      const { deleted } = yield* client.collector.purgeOrphans({ payload: { families: ["ipv4"] } })
      assert.strictEqual(nat(), before - deleted)
      const passes = yield* client.collector.passes()
      assert.deepStrictEqual(
        passes.nat.map(({ dryRun, family }) => [family, dryRun]),
        [
          ["ipv4", true],
          ["ipv4", false]
        ]
      )
    })
  )
})

describe("a purge of orphans that breaks off", () => {
  it.effect("tells what it had deleted by then, and stands in the record", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      Datapath.pinAll(twin)
      const { client } = yield* inMemory(twin, { flags: ["--max-delete-ratio=1"] })
      yield* pass(twin, "1 second")
      for (let i = 0; i < 600; i++) Datapath.connect(twin, i, { life: 0, orphan: true })
      twin.control.failNext("runProgram", EIO, { skip: 2 })
      const error = yield* Effect.flip(client.collector.purgeOrphans({ payload: { families: ["ipv4"] } }))
      assert.strictEqual(error._tag, "KernelFailed")
      const deleted = 1200 - keysOf(twin, MapName.nat("ipv4")).size
      assert.isAbove(deleted, 0)
      assert.strictEqual(error._tag === "KernelFailed" ? error.deleted : -1, deleted)
      const { nat } = yield* client.collector.passes()
      assert.deepInclude(nat.at(-1), { completed: false, family: "ipv4" })
    })
  )
})

describe("events", () => {
  it.effect("tell of every entry that goes, why it went, and that the pass has ended", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready()
      twin.control.time += 20_000_000_000n
      const dry = yield* client.collector.gc({ payload: { families: ["ipv4"], dryRun: true } })
      const events = yield* client.collector.events({ query: { family: "ipv4" } })
      let left = dry.wanted
      let isOver = false
      const heard = yield* Effect.forkChild(
        Stream.runCollect(
          Stream.takeUntil(events, (each) => {
            if (each.event === "pass") isOver = true
            if (each.event === "deleted") left -= each.data.entries.length
            return isOver && left === 0
          })
        )
      )
      const { deleted } = yield* client.collector.gc({ payload: { families: ["ipv4"] } })
      assert.isAbove(deleted, 0)
      assert.strictEqual(deleted, dry.wanted)
      const told = yield* Fiber.join(heard)
      const entries = told.flatMap((each) => (each.event === "deleted" ? each.data.entries : []))
      assert.strictEqual(entries.length, deleted)
      assert.strictEqual(new Set(entries.map(({ entry }) => JSON.stringify(entry))).size, deleted)
      for (const { entry, reason } of entries) {
        assert.strictEqual(reason, "expired")
        assert.isTrue(isRecord(entry))
      }
    })
  )

  it.effect("are those of a filter and a reason", () =>
    Effect.gen(function* () {
      const { client } = yield* ready()
      const query = { family: "ipv4", where: "tcp", reason: ["matched-filter"] } as const
      const events = yield* client.collector.events({ query })
      yield* client.collector.purge({ payload: { where: "ipv4 and (tcp or udp) and dir out" } })
      const deletions = Stream.filter(events, ({ event }) => event === "deleted")
      const [first] = yield* Stream.runCollect(Stream.take(deletions, 1))
      assert.isNotEmpty(first?.event === "deleted" ? first.data.entries : [])
      for (const each of first?.event === "deleted" ? first.data.entries : []) {
        assert.deepStrictEqual([each.reason, each.entry.protocolNumber], ["matched-filter", 6])
      }
    })
  )

  it.effect("are for so many readers, and no more", () =>
    Effect.gen(function* () {
      const { client } = yield* ready()
      const readers = [yield* client.collector.events({ query: {} }), yield* client.collector.events({ query: {} })]
      assert.strictEqual(readers.length, 2)
      const error = yield* Effect.flip(client.collector.events({ query: {} }))
      assert.strictEqual(error._tag, "Busy")
      assert.include(error.message, "raise api-max-event-streams")
    })
  )

  it.effect("keep the connection with a comment every 15 s", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      const { context } = yield* inMemory(twin)
      const bytes = yield* Effect.provide(Watching.open({}), context)
      const heard = yield* Effect.forkChild(Stream.runCollect(Stream.take(bytes, 3)), { startImmediately: true })
      yield* pass(twin, "46 seconds")
      const texts = (yield* Fiber.join(heard)).map((each) => new TextDecoder().decode(each))
      assert.deepStrictEqual(texts, [": alive\n\n", ": alive\n\n", ": alive\n\n"])
    })
  )

  it.effect("are not for filters that CT tables cannot be asked", () =>
    Effect.gen(function* () {
      const { client } = yield* ready()
      const error = yield* Effect.flip(client.collector.events({ query: { where: "needs-ct" } }))
      assert.strictEqual(error._tag, "InvalidRequest")
    })
  )
})

describe("settings", () => {
  it.effect("are told with their sources, and secrets are not", () =>
    Effect.gen(function* () {
      const { client } = yield* ready(makeKernel(), { flags: ["--api-token=hush", "--budget=0.5"] })
      const { settings } = yield* client.settings.config()
      const known = new Map(settings.map((setting) => [setting.name, setting]))
      assert.deepStrictEqual(known.get("budget"), {
        cell: "gc",
        name: "budget",
        value: "0.5",
        source: "flag",
        where: "--budget",
        secret: false
      })
      assert.strictEqual(known.get("api-token")?.value, "<redacted>")
      assert.notInclude(JSON.stringify(settings), "hush")
    })
  )

  it.effect("are read again, and the level of the log changes", () =>
    Effect.gen(function* () {
      const { client } = yield* ready()
      assert.deepStrictEqual(yield* client.settings.reload(), { applied: [], needRestart: [] })
      assert.deepStrictEqual(yield* client.settings.setLogLevel({ payload: { level: "debug" } }), { level: "debug" })
      assert.deepStrictEqual(yield* client.settings.logLevel(), { level: "debug" })
    })
  )
})

describe("over TCP", () => {
  const remote = (token?: string) =>
    ({
      _tag: "remote",
      host: "127.0.0.1",
      token: () => (token === undefined ? undefined : Redacted.make(token))
    }) as const

  it.effect("without a token everything that changes something is refused, and nothing changes", () =>
    Effect.gen(function* () {
      const { client, twin } = yield* ready(makeKernel(), { policy: remote() })
      twin.control.time += 20_000_000_000n
      const before = count(twin)
      assert.isTrue((yield* client.status.status()).ready)
      const refusals: ReadonlyArray<Effect.Effect<void, { readonly _tag: string }>> = [
        Effect.asVoid(client.collector.gc({ payload: {} })),
        Effect.asVoid(client.collector.purge({ payload: { where: "tcp" } })),
        Effect.asVoid(client.collector.purgeOrphans({ payload: {} })),
        Effect.asVoid(client.settings.reload()),
        Effect.asVoid(client.settings.setLogLevel({ payload: { level: "none" } }))
      ]
      for (const refused of refusals) assert.strictEqual((yield* Effect.flip(refused))._tag, "ReadOnly")
      assert.strictEqual(count(twin), before)
    })
  )

  it.effect("with a token everything needs it", () =>
    Effect.gen(function* () {
      const { client } = yield* ready(makeKernel(), { policy: remote("hush") })
      const error = yield* Effect.flip(client.status.status())
      assert.strictEqual(error._tag, "Unauthorized")
      assert.notInclude(error.message, "hush")
    })
  )
})
