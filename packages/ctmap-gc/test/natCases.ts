/** The orphan purge and the flush of NAT maps, on either kernel. */
import { assert, describe, it } from "@effect/vitest"
import { FilterParser, type Family } from "ctmap-core"
import { Guard, type NatPass, NatPurge } from "ctmap-gc"
import { Bpf } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stage from "./stage.ts"

const raw = (key: string, value: Uint8Array): Stage.Entry => ({ key: Stage.bytes(key), value })

/** A NAT value of IPv4 that translates to an address and port given as hex. */
const to4 = (address: string, port: string): Uint8Array => {
  const value = new Uint8Array(40)
  value.set(Stage.bytes(address), 32)
  value.set(Stage.bytes(port), 36)
  return value
}

const counts = (pass: NatPass.NatPass | undefined) => [
  pass?.ingressAlive,
  pass?.ingressDeleted,
  pass?.egressAlive,
  pass?.egressDeleted
]

const checkSum = (pass: NatPass.NatPass | undefined): void => {
  if (pass === undefined) return
  const { seen, ingressAlive, ingressDeleted, egressAlive, egressDeleted, refreshed, vanished, busy } = pass
  assert.strictEqual(seen, ingressAlive + ingressDeleted + egressAlive + egressDeleted + refreshed + vanished + busy)
}

const udpOut = raw("0a1735300a17202d2118d6501100", to4("0a17202d", "d651"))
const udpIn = raw("0a17202d0a173530d65121181101", to4("0a17202d", "d650"))
const udpCt = raw("0a17202d0a1735302118d6501100", new Uint8Array(56))
const dsrOut = raw("0a00020a0a141e28c35004d20600", to4("0a000214", "9c40"))
const dsrKey = "0a00020a0a141e2804d2c3500600"
const DSR = 0x80

const withFlags = (flags: number): Uint8Array => {
  const value = new Uint8Array(56)
  new DataView(value.buffer).setUint16(36, flags, true)
  return value
}

export const natCases = (kernel: Stage.Kernel, engine: "program" | "portable"): void => {
  const on = <A, E>(test: Effect.Effect<A, E, Stage.Needs>) => Effect.provide(Effect.scoped(test), kernel.layer)
  const purge = (
    pair: Parameters<typeof NatPurge.orphans>[0],
    options: Partial<Parameters<typeof NatPurge.orphans>[1]> = {}
  ) =>
    Effect.tap(NatPurge.orphans(pair, { serial: 1, engine, ...options }), (pass) => Effect.sync(() => checkSum(pass)))

  describe(`NAT maps, ${engine}, ${kernel.name}`, () => {
    it.effect("both halves of a mapping live while their connection does, and go without it", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ any: [udpCt], nat: [udpOut, udpIn] })
          assert.deepStrictEqual(counts(yield* purge(pair)), [1, 0, 1, 0])
          ;(yield* Bpf.Bpf).delete(pair.any.map.fd, udpCt.key)
          assert.deepStrictEqual(counts(yield* purge(pair)), [0, 1, 0, 1])
          assert.deepStrictEqual(yield* Stage.keysOf(pair.nat!.map), [])
        })
      )
    )

    it.effect("a half whose other half is gone is an orphan by itself", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: [udpIn] })
          assert.deepStrictEqual(counts(yield* purge(pair)), [0, 1, 0, 0])
        })
      )
    )

    it.effect("a mapping of direct server return lives by an entry that says so, and not by another", () =>
      on(
        Effect.gen(function* () {
          const bpf = yield* Bpf.Bpf
          const pair = yield* Stage.pair({ tcp: [raw(dsrKey, withFlags(DSR))], nat: [dsrOut] })
          assert.deepStrictEqual(counts(yield* purge(pair)), [0, 0, 1, 0])
          bpf.update(pair.tcp.map.fd, Stage.bytes(dsrKey), withFlags(0), Bpf.ANY)
          assert.deepStrictEqual(counts(yield* purge(pair)), [0, 0, 0, 1])
        })
      )
    )

    it.effect("a TCP connection does not keep a mapping of UDP alive", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ tcp: [udpCt], nat: [udpOut, udpIn] })
          assert.deepStrictEqual(counts(yield* purge(pair)), [0, 1, 0, 1])
        })
      )
    )

    it.effect("IPv6 mappings go like those of IPv4", () =>
      on(
        Effect.gen(function* () {
          const key = `${"01".repeat(16)}${"00".repeat(16)}2118d6501101`
          const value = new Uint8Array(56)
          value.fill(2, 32, 48)
          value.set(Stage.bytes("d651"), 48)
          const pair = yield* Stage.pair({ family: "ipv6", nat: [raw(key, value)] })
          assert.deepStrictEqual(counts(yield* purge(pair)), [0, 1, 0, 0])
        })
      )
    )

    it.effect("a pair without a NAT map has nothing to purge", () =>
      on(
        Effect.gen(function* () {
          assert.isUndefined(yield* purge(yield* Stage.pair({})))
        })
      )
    )

    it.effect("the guard stops before anything goes, and a dry run says what would", () =>
      on(
        Effect.gen(function* () {
          const orphans = Array.from({ length: 30 }, (_, i) => Stage.nat({ sport: i + 1, to: [[9], 40_000 + i] }))
          const pair = yield* Stage.pair({ nat: orphans })
          const limits = { ...Guard.defaults, floor: 10 }
          const dry = yield* purge(pair, { dryRun: true, limits })
          assert.deepStrictEqual([dry?.wanted, ...counts(dry)], [30, 0, 0, 30, 0])
          const error = yield* Effect.flip(purge(pair, { limits }))
          assert.strictEqual(error._tag, "GuardStopped")
          assert.strictEqual((yield* Stage.keysOf(pair.nat!.map)).length, 30)
          let recorded: NatPass.NatPass | undefined
          const limited = {
            limits: { ...Guard.defaults, maxDeletions: 30 },
            recorded: (pass: NatPass.NatPass) => (recorded = pass)
          }
          assert.strictEqual((yield* purge(pair, limited))?.egressDeleted, 30)
          assert.isTrue(recorded?.completed)
        })
      )
    )

    it.effect("more orphans than are held between two looks all go", () =>
      on(
        Effect.gen(function* () {
          const orphans = Array.from({ length: 20_000 }, (_, i) => Stage.nat({ sport: i + 1, to: [[9], i + 1] }))
          const pair = yield* Stage.pair({ nat: orphans, capacity: 65_536 })
          const pass = yield* purge(pair, { limits: Guard.unlimited })
          assert.deepStrictEqual([pass?.seen, pass?.wanted, ...counts(pass)], [20_000, 20_000, 0, 0, 0, 20_000])
        })
      )
    )

    it.effect("a flush takes everything, or what a filter accepts", () =>
      on(
        Effect.gen(function* () {
          const entries = [443, 443, 80].map((dport, i) => Stage.nat({ dport, sport: i + 1, to: [[9], i + 1] }))
          const pair = yield* Stage.pair({ nat: entries })
          const filter = Result.getOrThrow(FilterParser.parse("dport 443"))
          const some = yield* NatPurge.flush(pair, { serial: 1, engine, filter })
          assert.deepStrictEqual([some?.kind, some?.egressDeleted], ["flush", 2])
          assert.deepStrictEqual(yield* Stage.keysOf(pair.nat!.map), [Stage.keyHex(entries[2]!)])
          checkSum(some)
          const rest = yield* NatPurge.flush(pair, { serial: 2, engine })
          assert.strictEqual(rest?.egressDeleted, 1)
        })
      )
    )

    for (const set of ["pods-ktime", "nat-orphans-ktime"] as const) {
      for (const family of ["ipv4", "ipv6"] satisfies ReadonlyArray<Family.Family>) {
        it.effect(`${set}, ${family}: what Cilium's own purge left is left`, () =>
          on(
            Effect.gen(function* () {
              const digit = family === "ipv4" ? 4 : 6
              const nat = `cilium_snat_v${digit}_external`
              const pair = yield* Stage.pair({
                family,
                tcp: Stage.recorded(set, "after-gc", `cilium_ct${digit}_global`),
                any: Stage.recorded(set, "after-gc", `cilium_ct_any${digit}_global`),
                nat: Stage.recorded(set, "after-gc", nat)
              })
              yield* purge(pair)
              assert.deepStrictEqual(
                yield* Stage.keysOf(pair.nat!.map),
                Stage.recorded(set, "after-purge", nat).map(Stage.keyHex).toSorted()
              )
            })
          )
        )
      }
    }
  })
}
