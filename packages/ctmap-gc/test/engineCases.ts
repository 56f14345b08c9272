/** What every engine does, on either kernel: the rules of a pass, one case after the other. */
import { assert, describe, it } from "@effect/vitest"
import { CtEntry, FilterParser, type Family, MapSpec } from "ctmap-core"
import { GcEngine, type GcEvents, type GcPass, GcReason, GcRequest, Guard, PurgeHook } from "ctmap-gc"
import { KernelClock } from "ctmap-kernel"
import * as NetAddress from "effect/net/NetAddress"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stage from "./stage.ts"

const NOW = 1000
const families: ReadonlyArray<Family.Family> = ["ipv4", "ipv6"]

export const filter = (text: string) => GcRequest.matching(Result.getOrThrow(FilterParser.parse(text)))

const ips = (...texts: ReadonlyArray<string>) =>
  GcRequest.addresses(texts.map((text) => NetAddress.ipFromStringUnsafe(text)))

/** An engine, or `walking`: `hybrid` as it is for large tables, where a program walks them piece by piece. */
export type Tested = GcEngine.Options["engine"] | "walking"

export const optionsOf = (engine: Tested): GcEngine.Options =>
  engine === "walking" ? { engine: "hybrid", walkMinEntries: 0 } : engine === undefined ? {} : { engine }

/** Sweeps with an engine of its own; time stands at 1000 s. */
export const sweep = (
  engine: Tested,
  pair: Parameters<GcEngine.GcEngine["Service"]["sweep"]>[0],
  plan: Partial<GcEngine.Plan> = {},
  now = NOW
) =>
  Effect.scoped(
    Effect.flatMap(
      Effect.provideService(GcEngine.make(optionsOf(engine)), KernelClock.KernelClock, Stage.ktime(now)),
      ({ sweep: run }) => run(pair, { serial: 1, requests: [GcRequest.expired], ...plan })
    )
  )

export const checkSums = (pass: GcPass.GcPass): void => {
  for (const { seen, kept, deleted, refreshed, vanished, busy, reasons, restored } of pass.maps) {
    assert.strictEqual(seen, kept + deleted + refreshed + vanished + busy, "what was seen adds up")
    assert.isAtMost(restored, refreshed)
    if (!pass.dryRun)
      assert.strictEqual(
        deleted,
        Object.values(reasons).reduce((sum, count) => sum + count, 0)
      )
  }
}

export const engineCases = (kernel: Stage.Kernel, engine: GcPass.Engine | "walking"): void => {
  const on = <A, E>(test: Effect.Effect<A, E, Stage.Needs>) => Effect.provide(Effect.scoped(test), kernel.layer)

  describe(`${engine} ${kernel.name}`, () => {
    for (const family of families) {
      const one = (about: Parameters<typeof Stage.ct>[0]) => Stage.ct({ family, ...about })

      it.effect(
        `${family}: one unit past its lifetime goes, on its last unit it stays, as does what never expires`,
        () =>
          on(
            Effect.gen(function* () {
              const lifetimes = [0, 1, 999, 1000, 1001, 2 ** 31 + 5, 0xffff_ffff]
              const tcp = lifetimes.map((lifetime, i) => one({ lifetime, sport: i + 1 }))
              const any = lifetimes.map((lifetime, i) => one({ lifetime, sport: i + 1, proto: 17 }))
              const pair = yield* Stage.pair({ family, tcp, any })
              const pass = yield* sweep(engine, pair, { trustsClock: true })
              checkSums(pass)
              const left = tcp.slice(3).map(Stage.keyHex).toSorted()
              assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), left)
              assert.deepStrictEqual(yield* Stage.keysOf(pair.any.map), any.slice(3).map(Stage.keyHex).toSorted())
              assert.deepStrictEqual(
                pass.maps.map(({ seen, kept, deleted, reasons, completed }) => ({
                  seen,
                  kept,
                  deleted,
                  reasons,
                  completed
                })),
                Array(2).fill({
                  seen: 7,
                  kept: 4,
                  deleted: 3,
                  reasons: { expired: 3, "matched-address": 0, "matched-filter": 0, flushed: 0 },
                  completed: true
                })
              )
              assert.deepStrictEqual(pass.requests, [{ wanted: 6, deleted: 6 }])
            })
          )
      )

      it.effect(`${family}: an address goes with every entry that has it at either end, and nothing else does`, () =>
        on(
          Effect.gen(function* () {
            const lifetime = 5000
            const tcp = [
              one({ lifetime, daddr: [7], saddr: [1], sport: 1 }),
              one({ lifetime, daddr: [1], saddr: [7], sport: 2 }),
              one({ lifetime, daddr: [1], saddr: [1], sport: 3 }),
              one({ lifetime: 0, daddr: [1], saddr: [1], sport: 4 })
            ]
            const pair = yield* Stage.pair({ family, tcp })
            const who = ips(family === "ipv4" ? "10.0.0.7" : "fd00::7", family === "ipv4" ? "fd00::1" : "10.0.0.1")
            const pass = yield* sweep(engine, pair, { requests: [who] })
            checkSums(pass)
            assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), tcp.slice(2).map(Stage.keyHex).toSorted())
            assert.strictEqual(pass.maps[0]!.reasons["matched-address"], 2)
          })
        )
      )

      it.effect(`${family}: a flush leaves nothing, not even what never expires (G22)`, () =>
        on(
          Effect.gen(function* () {
            const tcp = [0, 5000, 0xffff_ffff].map((lifetime, i) => one({ lifetime, sport: i + 1 }))
            const pair = yield* Stage.pair({ family, tcp })
            const pass = yield* sweep(engine, pair, { requests: [GcRequest.everything] })
            assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), [])
            assert.strictEqual(pass.maps[0]!.reasons.flushed, 3)
          })
        )
      )

      it.effect(
        `${family}: the hook of its own family hears of service entries, with ports in host order (G8, G13)`,
        () =>
          on(
            Effect.gen(function* () {
              const heard: Array<readonly [family: string, service: number, backend: number]> = []
              const hook: PurgeHook.Hook = {
                countFailed4: (service, backend) => heard.push(["ipv4", service, backend]),
                countFailed6: (service, backend) => heard.push(["ipv6", service, backend])
              }
              const tcp = [
                one({ tupleFlags: 4, revNat: 27, backend: 9, sport: 1 }),
                one({ tupleFlags: 5, revNat: 28, backend: 9, sport: 2 }),
                one({ tupleFlags: 4, revNat: 29, backend: 9, sport: 3, lifetime: 5000 })
              ]
              const pair = yield* Stage.pair({ family, tcp })
              yield* Effect.provideService(sweep(engine, pair), PurgeHook.PurgeHook, hook)
              assert.deepStrictEqual(heard, [[family, 27, 9]])
            })
          )
      )
    }

    it.effect("the layout of 1.20 is collected by the same bytes", () =>
      on(
        Effect.gen(function* () {
          const tcp = [0, 5000].map((lifetime, i) => Stage.ct({ lifetime, sport: i + 1, nat: [[10, 1, 1, 1], 4242] }))
          const pair = yield* Stage.pair({ release: "1.20", tcp })
          const pass = yield* sweep(engine, pair, { trustsClock: true })
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), [Stage.keyHex(tcp[1]!)])
          checkSums(pass)
        })
      )
    )

    it.effect("the reason is the first rule that fits: expired, address, filter, everything", () =>
      on(
        Effect.gen(function* () {
          const tcp = [
            Stage.ct({ lifetime: 1, daddr: [7], dport: 443, sport: 1 }),
            Stage.ct({ lifetime: 5000, daddr: [7], dport: 443, sport: 2 }),
            Stage.ct({ lifetime: 5000, dport: 443, sport: 3 }),
            Stage.ct({ lifetime: 5000, sport: 4 })
          ]
          const pair = yield* Stage.pair({ tcp })
          const requests = [GcRequest.expired, ips("10.0.0.7"), filter("dport 443"), GcRequest.everything]
          const pass = yield* sweep(engine, pair, { requests })
          assert.deepStrictEqual(pass.maps[0]!.reasons, {
            expired: 1,
            "matched-address": 1,
            "matched-filter": 1,
            flushed: 1
          })
          assert.deepStrictEqual(
            pass.requests.map(({ deleted }) => deleted),
            [1, 2, 3, 4],
            "each request counts what it alone would have deleted"
          )
        })
      )
    )

    it.effect("a filter goes by what it says, of the key or of the value", () =>
      on(
        Effect.gen(function* () {
          const tcp = [443, 443, 80].map((dport, i) => Stage.ct({ lifetime: 1010 + 100 * i, dport, sport: i + 1 }))
          const pair = yield* Stage.pair({ tcp })
          const pass = yield* sweep(engine, pair, { requests: [filter("dport 443 and lifetime < 60s")] })
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), tcp.slice(1).map(Stage.keyHex).toSorted())
          assert.strictEqual(pass.maps[0]!.reasons["matched-filter"], 1)
        })
      )
    )

    it.effect("a request can be narrowed, and the reason stays what it is", () =>
      on(
        Effect.gen(function* () {
          const tcp = [
            Stage.ct({ lifetime: 1, dport: 443, sport: 1 }),
            Stage.ct({ lifetime: 1, dport: 80, sport: 2 }),
            Stage.ct({ lifetime: 5000, dport: 443, sport: 3 })
          ]
          const pair = yield* Stage.pair({ tcp })
          const within = filter("dport 443").filter
          const pass = yield* sweep(engine, pair, { requests: [{ expired: true, within }], trustsClock: true })
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), tcp.slice(1).map(Stage.keyHex).toSorted())
          assert.strictEqual(pass.maps[0]!.reasons.expired, 1)
          const both = yield* sweep(engine, pair, {
            requests: [{ expired: true, within }, filter("dport 80"), { everything: true, within }],
            trustsClock: true
          })
          assert.deepStrictEqual(
            [both.maps[0]!.reasons["matched-filter"], both.maps[0]!.reasons.flushed, both.maps[0]!.kept],
            [1, 1, 0]
          )
          assert.deepStrictEqual(
            both.requests.map(({ deleted }) => deleted),
            [0, 1, 1]
          )
        })
      )
    )

    it.effect(
      "expired entries stay where only others are asked for, and an empty set of addresses matches nothing",
      () =>
        on(
          Effect.gen(function* () {
            const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1 })] })
            const pass = yield* sweep(engine, pair, { requests: [ips(), filter("dport 9")] })
            assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 1)
            assert.deepStrictEqual(pass.maps[0]!.wanted, 0)
          })
        )
    )

    it.effect("a dry run counts, tells, and deletes nothing", () =>
      on(
        Effect.gen(function* () {
          const tcp = [1, 2, 5000].map((lifetime, i) => Stage.ct({ lifetime, sport: i + 1 }))
          const pair = yield* Stage.pair({ tcp })
          const told: Array<GcEvents.Deleted> = []
          const pass = yield* sweep(engine, pair, {
            dryRun: true,
            trustsClock: true,
            publish: (event) => told.push(event)
          })
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 3)
          const { seen, kept, wanted, deleted, reasons } = pass.maps[0]!
          assert.deepStrictEqual([seen, kept, wanted, deleted, reasons.expired], [3, 3, 2, 0, 2])
          assert.deepStrictEqual(
            told.map(({ dryRun, count }) => [dryRun, count]),
            [[true, 2]]
          )
        })
      )
    )

    it.effect("events carry key, value and reason of every entry that went", () =>
      on(
        Effect.gen(function* () {
          const tcp = [1, 2].map((lifetime, i) => Stage.ct({ lifetime, sport: i + 1, revNat: 7 }))
          const any = [Stage.ct({ lifetime: 3, proto: 17 }), Stage.ct({ lifetime: 5000, proto: 1 })]
          const pair = yield* Stage.pair({ tcp, any })
          const told: Array<GcEvents.Deleted> = []
          yield* sweep(engine, pair, { serial: 42, trustsClock: true, publish: (event) => told.push(event) })
          const entries = told.flatMap(({ map, serial, keys, values, reasons, count }) =>
            Array.from({ length: count }, (_, i) => ({
              map,
              serial,
              key: Stage.hex(keys.subarray(i * 14, (i + 1) * 14)),
              value: Stage.hex(values.subarray(i * CtEntry.SIZE, (i + 1) * CtEntry.SIZE)),
              reason: GcReason.names[reasons[i]!]
            }))
          )
          const expected = [...tcp, any[0]!].map((entry) => ({
            map: tcp.includes(entry) ? "cilium_ct4_global" : "cilium_ct_any4_global",
            serial: 42,
            key: Stage.keyHex(entry),
            value: Stage.hex(entry.value),
            reason: "expired" as const
          }))
          const byKey = (a: { readonly key: string }, b: { readonly key: string }) => (a.key < b.key ? -1 : 1)
          assert.deepStrictEqual(entries.toSorted(byKey), expected.toSorted(byKey))
        })
      )
    )

    it.effect("what is kept is emitted once, with its true ends, and what goes is not (G13)", () =>
      on(
        Effect.gen(function* () {
          const tcp = [
            Stage.ct({ lifetime: 1, sport: 1 }),
            Stage.ct({ lifetime: 5000, daddr: [1], saddr: [2], sport: 50_000, dport: 80 })
          ]
          const pair = yield* Stage.pair({ tcp })
          const heard: Array<string> = []
          const emit: GcRequest.EmitKept = (columns, rows, count) => {
            for (const row of rows.subarray(0, count)) {
              heard.push(
                `${columns.sourceText(row)}:${columns.sourcePort(row)} > ${columns.destinationText(row)}:${columns.destinationPort(row)}`
              )
            }
          }
          yield* sweep(engine, pair, { requests: [{ expired: true, emit }], trustsClock: true })
          assert.deepStrictEqual(heard, ["10.0.0.1:50000 > 10.0.0.2:80"])
        })
      )
    )

    it.effect(
      "a pass cleans the NAT map of its own pair, the first one as any, and none where the pair has none (G26)",
      () =>
        on(
          Effect.gen(function* () {
            const tcp = [
              Stage.ct({ lifetime: 1, daddr: [1], saddr: [2], sport: 1 }),
              Stage.ct({ lifetime: 5000, daddr: [1], saddr: [2], sport: 2 })
            ]
            const nat = [1, 2].map((sport) => Stage.nat({ daddr: [2], saddr: [1], sport, to: [[9], 40_000 + sport] }))
            const [one, other] = [
              yield* Stage.pair({ tcp, nat, name: "_1" }),
              yield* Stage.pair({ tcp, nat, name: "_2" })
            ]
            const none = yield* Stage.pair({ tcp, name: "_3" })
            const mappings = Effect.forEach([one, other], ({ nat: map }) =>
              Effect.map(Stage.keysOf(map!.map), (keys) => keys.length)
            )
            const swept = (pair: typeof one) =>
              Effect.gen(function* () {
                const pass = yield* sweep(engine, pair, { trustsClock: true })
                assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 1)
                checkSums(pass)
                return yield* mappings
              })
            assert.deepStrictEqual(yield* swept(one), [1, 2])
            assert.deepStrictEqual(yield* swept(none), [1, 2])
            assert.deepStrictEqual(yield* swept(other), [1, 1])
          })
        )
    )

    it.effect("the guard stops a scrub of more than its share before anything goes", () =>
      on(
        Effect.gen(function* () {
          const tcp = Array.from({ length: 40 }, (_, i) =>
            Stage.ct({ lifetime: 5000, dport: i < 21 ? 443 : 80, sport: i + 1 })
          )
          const pair = yield* Stage.pair({ tcp })
          const limits = { ...Guard.defaults, floor: 20 }
          let recorded: GcPass.GcPass | undefined
          const error = yield* Effect.flip(
            sweep(engine, pair, { requests: [filter("dport 443")], limits, recorded: (pass) => (recorded = pass) })
          )
          assert.strictEqual(error._tag, "GuardStopped")
          assert.include(
            error.message,
            "21 of its 40 entries (52.5 %) would go, where at most 20 may; nothing was deleted"
          )
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 40)
          assert.deepStrictEqual([recorded?.completed, recorded?.maps[0]?.wanted], [false, 21])
          checkSums(recorded!)
          const allowed = yield* sweep(engine, pair, {
            requests: [filter("dport 443")],
            limits: { ...limits, floor: 21 }
          })
          assert.strictEqual(allowed.maps[0]!.deleted, 21)
        })
      )
    )

    it.effect("expiry is the datapath's own verdict: the guard does not limit its share", () =>
      on(
        Effect.gen(function* () {
          const tcp = Array.from({ length: 40 }, (_, i) => Stage.ct({ lifetime: 1, sport: i + 1 }))
          const pair = yield* Stage.pair({ tcp })
          const limits = { ...Guard.defaults, floor: 0, maxDeleteRatio: 0.1 }
          const pass = yield* sweep(engine, pair, { limits })
          assert.strictEqual(pass.maps[0]!.deleted, 40)
        })
      )
    )

    it.effect("an absolute limit stops any pass when it is reached, and the record says what went", () =>
      on(
        Effect.gen(function* () {
          const tcp = Array.from({ length: 40 }, (_, i) => Stage.ct({ lifetime: 1, sport: i + 1 }))
          const pair = yield* Stage.pair({ tcp })
          let recorded: GcPass.GcPass | undefined
          const limits = { ...Guard.defaults, maxDeletions: 15 }
          const error = yield* Effect.flip(sweep(engine, pair, { limits, recorded: (pass) => (recorded = pass) }))
          assert.strictEqual(error._tag, "GuardStopped")
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 25)
          checkSums(recorded!)
          assert.deepStrictEqual([recorded?.maps[0]?.deleted, recorded?.requests[0]?.deleted], [15, 15])
        })
      )
    )

    it.effect("more candidates than are held between two looks are found again, and all go", () =>
      on(
        Effect.gen(function* () {
          const tcp = Array.from({ length: 20_000 }, (_, i) => Stage.ct({ lifetime: 5000, sport: i + 1 }))
          const pair = yield* Stage.pair({ tcp, capacity: 65_536 })
          const pass = yield* sweep(engine, pair, { requests: [filter("tcp")], limits: Guard.unlimited })
          checkSums(pass)
          assert.deepStrictEqual(
            [pass.maps[0]!.seen, pass.maps[0]!.deleted, pass.requests[0]!.wanted],
            [20_000, 20_000, 20_000]
          )
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), [])
        })
      )
    )

    it.effect("an unknown layout is refused before an entry of any map goes", () =>
      on(
        Effect.gen(function* () {
          const tcp = [Stage.ct({ lifetime: 1 })]
          const pair = yield* Stage.pair({ tcp, layout: { _tag: "Unknown", why: "of neither release" } })
          const error = yield* Effect.flip(sweep(engine, pair))
          assert.strictEqual(error._tag, "UnknownLayout")
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 1)
        })
      )
    )

    it.effect("a clock that does not fit the table is refused, unless the time was set by hand (G17)", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({ lifetime: 1000 })] })
          const late = 1000 + 8 * 86_400
          const error = yield* Effect.flip(sweep(engine, pair, {}, late))
          assert.strictEqual(error._tag, "ImplausibleClock")
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 1)
          assert.strictEqual((yield* sweep(engine, pair, { trustsClock: true }, late)).maps[0]!.deleted, 1)
        })
      )
    )

    it.effect("only the maps that are meant are touched", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [Stage.ct({})], any: [Stage.ct({ proto: 17 })] })
          const pass = yield* sweep(engine, pair, { transports: ["any"] })
          assert.deepStrictEqual(
            pass.maps.map(({ transport, deleted }) => [transport, deleted]),
            [["any", 1]]
          )
          assert.strictEqual((yield* Stage.keysOf(pair.tcp.map)).length, 1)
        })
      )
    )

    it.effect("plain hashes are collected like LRU hashes", () =>
      on(
        Effect.gen(function* () {
          const tcp = [1, 5000].map((lifetime, i) => Stage.ct({ lifetime, sport: i + 1 }))
          const pair = yield* Stage.pair({ tcp, type: MapSpec.mapType.hash })
          assert.strictEqual((yield* sweep(engine, pair, { trustsClock: true })).maps[0]!.deleted, 1)
          assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), [Stage.keyHex(tcp[1]!)])
        })
      )
    )

    for (const [set, now] of [
      ["pods-ktime", 5462],
      ["nat-orphans-ktime", 5495]
    ] as const) {
      for (const family of families) {
        it.effect(`${set}, ${family}: a pass leaves what Cilium's own left, in CT and NAT maps`, () =>
          on(
            Effect.gen(function* () {
              const digit = family === "ipv4" ? 4 : 6
              const [tcp, any, nat] = [
                `cilium_ct${digit}_global`,
                `cilium_ct_any${digit}_global`,
                `cilium_snat_v${digit}_external`
              ]
              const pair = yield* Stage.pair({
                family,
                tcp: Stage.recorded(set, "before", tcp),
                any: Stage.recorded(set, "before", any),
                nat: Stage.recorded(set, "before", nat)
              })
              const pass = yield* sweep(engine, pair, {}, now)
              checkSums(pass)
              const left = (map: string) => Stage.recorded(set, "after-gc", map).map(Stage.keyHex).toSorted()
              assert.deepStrictEqual(yield* Stage.keysOf(pair.tcp.map), left(tcp))
              assert.deepStrictEqual(yield* Stage.keysOf(pair.any.map), left(any))
              assert.deepStrictEqual(yield* Stage.keysOf(pair.nat!.map), left(nat))
              const gone = Stage.recorded(set, "before", nat).length - left(nat).length
              const counted = pass.maps.reduce((sum, { nat: counts }) => sum + counts.egress + counts.ingress, 0)
              assert.strictEqual(counted, gone, "every NAT entry that went is counted")
              assert.strictEqual(pass.nat, nat)
            })
          )
        )
      }
    }

    const mappings: ReadonlyArray<{
      readonly title: string
      readonly entry: Parameters<typeof Stage.ct>[0]
      readonly nat: ReadonlyArray<Parameters<typeof Stage.nat>[0]>
      readonly counts: Partial<GcPass.NatCounts>
      readonly left: number
    }> = [
      {
        title: "both halves of its mapping go with a connection",
        entry: { daddr: [1], saddr: [2], dport: 80, sport: 1000 },
        nat: [
          { daddr: [2], saddr: [1], dport: 80, sport: 1000, to: [[9], 40_000] },
          { daddr: [9], saddr: [2], dport: 40_000, sport: 80, tupleFlags: 1, to: [[1], 1000] }
        ],
        counts: { egress: 1, ingress: 1 },
        left: 0
      },
      {
        title: "an echo's mapping goes like any other",
        entry: { daddr: [1], saddr: [2], dport: 0, sport: 1000, proto: 1 },
        nat: [
          { daddr: [2], saddr: [1], dport: 0, sport: 1000, proto: 1, to: [[9], 1000] },
          { daddr: [9], saddr: [2], dport: 1000, sport: 0, proto: 1, tupleFlags: 1, to: [[1], 1000] }
        ],
        counts: { egress: 1, ingress: 1 },
        left: 0
      },
      {
        title: "the one half of direct server return goes, under exchanged ports",
        entry: { daddr: [1], saddr: [2], dport: 80, sport: 1000, flags: 0x80 },
        nat: [{ daddr: [1], saddr: [2], dport: 1000, sport: 80, to: [[9], 80] }],
        counts: { egress: 1 },
        left: 0
      },
      {
        title: "where the reverse half is missing, the other goes",
        entry: { daddr: [1], saddr: [2], dport: 80, sport: 1000 },
        nat: [{ daddr: [2], saddr: [1], dport: 80, sport: 1000, to: [[9], 40_000] }],
        counts: { egress: 1, halves: 1 },
        left: 0
      },
      {
        title: "a reverse half that leads to somebody else stays",
        entry: { daddr: [1], saddr: [2], dport: 80, sport: 1000 },
        nat: [
          { daddr: [2], saddr: [1], dport: 80, sport: 1000, to: [[9], 40_000] },
          { daddr: [9], saddr: [2], dport: 40_000, sport: 80, tupleFlags: 1, to: [[3], 1000] }
        ],
        counts: { egress: 1, halves: 1 },
        left: 1
      },
      {
        title: "a reverse half alone is left for the orphan purge",
        entry: { daddr: [1], saddr: [2], dport: 80, sport: 1000 },
        nat: [{ daddr: [9], saddr: [2], dport: 40_000, sport: 80, tupleFlags: 1, to: [[1], 1000] }],
        counts: { absent: 1 },
        left: 1
      },
      ...[1, 2, 3, 4, 5].map((tupleFlags) => ({
        title: `an entry with tuple flags ${tupleFlags} owns no mapping`,
        entry: { daddr: [1], saddr: [2], dport: 80, sport: 1000, tupleFlags },
        nat: [{ daddr: [2], saddr: [1], dport: 80, sport: 1000, to: [[9], 40_000] }] as const,
        counts: {},
        left: 1
      }))
    ]
    for (const family of families) {
      for (const { title, entry, nat, counts, left } of mappings) {
        it.effect(`${family}: ${title}`, () =>
          on(
            Effect.gen(function* () {
              const expired = Stage.ct({ family, lifetime: 1, ...entry })
              const pair = yield* Stage.pair({
                family,
                ...(entry.proto === 1 ? { any: [expired] } : { tcp: [expired] }),
                nat: nat.map((about) => Stage.nat({ family, ...about }))
              })
              const pass = yield* sweep(engine, pair)
              assert.deepStrictEqual(pass.maps.find(({ deleted }) => deleted > 0)?.nat, {
                egress: 0,
                ingress: 0,
                absent: 0,
                halves: 0,
                kept: 0,
                failed: 0,
                ...counts
              })
              assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, left)
            })
          )
        )
      }
    }
  })
}
