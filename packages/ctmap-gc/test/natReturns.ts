/** Connections that come back while a purge deletes their mapping, on either kernel. */
import { assert, describe, it } from "@effect/vitest"
import { Guard, type NatPass, NatPurge } from "ctmap-gc"
import { Bpf, type CtPair } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Stage from "./stage.ts"

/** Connection `n` and its mapping, to a port of its own. */
const connection = (n: number) => Stage.ct({ daddr: [1], saddr: [2], sport: n, lifetime: 5000 })
const out = (n: number, port = 40_000 + n) =>
  Stage.nat({ daddr: [2], saddr: [1], sport: n, to: [[9], port], created: n })
const back = (n: number, port = 40_000 + n, to = n) =>
  Stage.nat({ daddr: [9], saddr: [2], dport: port, sport: 80, tupleFlags: 1, to: [[1], to], created: n })
const mapping = (n: number) => [out(n), back(n)]
const mappings = (count: number) => Array.from({ length: count }, (_, i) => mapping(i + 1)).flat()

/** What a datapath does in the moments of a purge. */
type Datapath = (about: {
  readonly has: (entry: Stage.Entry) => boolean
  /** Of the first connections those that have lost so many halves. */
  readonly gone: (connections: number, halves: number) => ReadonlyArray<number>
  readonly put: (where: "tcp" | "nat", ...entries: ReadonlyArray<Stage.Entry>) => void
  /** How many calls have deleted from the NAT map so far. */
  readonly deletions: number
}) => void

/** What happens as entry number `n` is about to be put back: an errno, and it is not. */
type Putting = (n: number, put: (...entries: ReadonlyArray<Stage.Entry>) => void) => number | void

/** A purge during which a datapath runs after every call that may have deleted. */
const purgeBeside = Effect.fnUntraced(function* (
  pair: CtPair.CtPair,
  datapath: Datapath,
  options: Partial<NatPurge.Options> = {},
  putting: Putting = () => {}
) {
  const bpf = yield* Bpf.Bpf
  const nat = pair.nat!.map
  const found = new Uint8Array(nat.info.valueSize)
  const has = ({ key }: Stage.Entry) => bpf.lookup(nat.fd, key, found) >= 0
  const gone = (connections: number, halves: number) =>
    Array.from({ length: connections }, (_, i) => i + 1).filter((n) => mapping(n).filter(has).length === 2 - halves)
  const put = (where: "tcp" | "nat", ...entries: ReadonlyArray<Stage.Entry>) => {
    const { fd } = where === "nat" ? nat : pair.tcp.map
    for (const entry of entries) assert.strictEqual(bpf.update(fd, entry.key, entry.value, Bpf.ANY), 0)
  }
  let deletions = 0
  const after = (rc: number): number => {
    if (rc >= 0) datapath({ has, gone, put, deletions: ++deletions })
    return rc
  }
  let runs = 0
  let puts = 0
  const beside: Bpf.Calls = {
    ...bpf,
    // The first run is that of loading, over no candidates.
    runProgram: (fd, context) => {
      const rc = bpf.runProgram(fd, context)
      return runs++ === 0 ? rc : after(rc)
    },
    update: (fd, key, value, flags) => {
      const errno = fd === nat.fd ? putting(++puts, (...entries) => put("nat", ...entries)) : undefined
      return errno === undefined ? bpf.update(fd, key, value, flags) : -errno
    },
    lookupAndDelete: (fd, key, into) => after(bpf.lookupAndDelete(fd, key, into))
  }
  const purge = NatPurge.orphans(pair, { serial: 1, limits: Guard.unlimited, ...options })
  return (yield* Effect.provideService(purge, Bpf.Bpf, beside))!
})

const counts = ({ ingressAlive, ingressDeleted, egressAlive, egressDeleted, reprieved, restored }: NatPass.NatPass) => [
  [ingressAlive, egressAlive],
  [ingressDeleted, egressDeleted],
  [reprieved, restored]
]

const checkSum = (pass: NatPass.NatPass): void => {
  const { seen, ingressAlive, ingressDeleted, egressAlive, egressDeleted, refreshed, vanished, busy } = pass
  assert.strictEqual(seen, ingressAlive + ingressDeleted + egressAlive + egressDeleted + refreshed + vanished + busy)
}

const sorted = (...entries: ReadonlyArray<Stage.Entry>) =>
  entries.map(({ key, value }) => [Stage.hex(key), Stage.hex(value)] as const).toSorted(([a], [b]) => (a < b ? -1 : 1))

export const natReturns = (kernel: Stage.Kernel, engine: "program" | "portable"): void => {
  const on = <A, E>(test: Effect.Effect<A, E, Stage.Needs>) => Effect.provide(Effect.scoped(test), kernel.layer)

  describe(`a connection that comes back as its mapping is deleted, ${engine}, ${kernel.name}`, () => {
    it.effect("gets both halves back as they were", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: mappings(3) })
          // Whichever half goes first, it is back before anything else is asked.
          const pass = yield* purgeBeside(
            pair,
            ({ has, put }) => {
              if (!mapping(2).every(has)) put("tcp", connection(2))
            },
            { engine }
          )
          checkSum(pass)
          assert.deepStrictEqual(counts(pass), [
            [1, 1],
            [2, 2],
            [2, 2]
          ])
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(...mapping(2)))
        })
      )
    )

    it.effect("gets it back before the next are deleted", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: mappings(300) })
          let returned: ReadonlyArray<number> = []
          let returnedAt = 0
          let atOnce = 0
          const pass = yield* purgeBeside(
            pair,
            ({ gone, has, put, deletions }) => {
              if (returned.length === 0) {
                returned = gone(300, 2)
                returnedAt = deletions
                put("tcp", ...returned.map(connection))
              } else if (deletions > returnedAt + (engine === "portable" ? 63 : 0)) {
                atOnce ||= returned.filter((n) => mapping(n).every(has)).length
              }
            },
            { engine }
          )
          checkSum(pass)
          assert.isAbove(returned.length, 0)
          assert.strictEqual(atOnce, returned.length)
          assert.deepStrictEqual([pass.restored, pass.reprieved], [2 * returned.length, 2 * returned.length])
        })
      )
    )

    it.effect("gets back the half that had gone long before the other's turn came, in that turn", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: mappings(300) })
          const group = engine === "portable" ? 64 : 1
          let split: ReadonlyArray<number> = []
          let returned: ReadonlyArray<number> = []
          let inTurn = 0
          const pass = yield* purgeBeside(
            pair,
            ({ gone, has, put, deletions }) => {
              if (deletions === group) split = gone(300, 1)
              // The second group is deleted, so the first has been asked about.
              if (deletions === 2 * group) {
                returned = split.filter((n) => mapping(n).some(has))
                put("tcp", ...returned.map(connection))
              }
              inTurn = Math.max(inTurn, returned.filter((n) => mapping(n).every(has)).length)
            },
            { engine }
          )
          checkSum(pass)
          const all = returned.length
          assert.isAbove(all, 0)
          assert.isAbove(inTurn, all / 2, "the pass is not at its end yet")
          const { ingressAlive, egressAlive, reprieved, restored } = pass
          assert.deepStrictEqual([ingressAlive, egressAlive, reprieved, restored], [all, all, 2 * all, all])
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(...returned.flatMap(mapping)))
        })
      )
    )

    it.effect("is asked about once more at the end, for a packet that was on its way", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: mappings(300) })
          let early: ReadonlyArray<number> = []
          let isBack = false
          const pass = yield* purgeBeside(
            pair,
            ({ gone, put, deletions }) => {
              if (early.length === 0) early = gone(300, 2)
              // The datapath had looked up its mapping before the deletion, and writes long after.
              if (isBack || deletions < (engine === "portable" ? 600 : 10)) return
              isBack = true
              put("tcp", ...early.map(connection))
            },
            { engine }
          )
          checkSum(pass)
          assert.isAbove(early.length, 0)
          assert.deepStrictEqual([pass.restored, pass.reprieved], [2 * early.length, 2 * early.length])
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(...early.flatMap(mapping)))
        })
      )
    )

    it.effect("is not asked about any more once 16,384 others have gone after it", () =>
      on(
        Effect.gen(function* () {
          const nat = Array.from({ length: 17_000 }, (_, i) => out(i + 1))
          const pair = yield* Stage.pair({ nat, capacity: 65_536 })
          let isBack = false
          const pass = yield* purgeBeside(
            pair,
            ({ has, put }) => {
              if (isBack || nat.some(has)) return
              isBack = true
              put("tcp", ...nat.map((_, i) => connection(i + 1)))
            },
            { engine }
          )
          checkSum(pass)
          assert.deepStrictEqual([pass.egressDeleted, pass.egressAlive, pass.restored], [616, 16_384, 16_384])
        })
      )
    )

    it.effect("keeps the mapping that the datapath has made it meanwhile", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: mappings(2) })
          const anew = [out(1, 50_000), back(1, 50_000)]
          const pass = yield* purgeBeside(
            pair,
            ({ has, put }) => {
              if (mapping(1).some(has)) return
              put("tcp", connection(1))
              put("nat", ...anew)
            },
            { engine },
            () => assert.fail("no port is taken, not even for a moment")
          )
          checkSum(pass)
          assert.deepStrictEqual([pass.egressDeleted, pass.ingressDeleted, pass.restored], [2, 2, 0])
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(...anew))
        })
      )
    )

    it.effect("does not get a port back that another connection has by now", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: mappings(2) })
          const theirs = [back(1, 40_001, 7), out(7, 40_001)]
          const pass = yield* purgeBeside(
            pair,
            ({ has, put }) => {
              if (mapping(1).some(has)) return
              put("tcp", connection(1), connection(7))
              put("nat", ...theirs)
            },
            { engine }
          )
          checkSum(pass)
          assert.deepStrictEqual([pass.egressDeleted, pass.ingressDeleted, pass.restored], [2, 2, 0])
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(...theirs))
        })
      )
    )

    it.effect("gets the one half back that it had", () =>
      on(
        Effect.gen(function* () {
          for (const half of mapping(1)) {
            const pair = yield* Stage.pair({ nat: [half] })
            const pass = yield* purgeBeside(pair, ({ has, put }) => void (has(half) || put("tcp", connection(1))), {
              engine
            })
            checkSum(pass)
            assert.deepStrictEqual([pass.restored, pass.egressAlive + pass.ingressAlive], [1, 1])
            assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(half))
          }
        })
      )
    )

    it.effect("does not get one half back that does not fit any more", () =>
      on(
        Effect.gen(function* () {
          for (const [half, others] of [
            [out(1), [back(1, 40_001, 7)]],
            [back(1), [out(1, 50_000), back(1, 50_000)]]
          ] as const) {
            const pair = yield* Stage.pair({ nat: [half] })
            const datapath: Datapath = ({ has, put }) => {
              if (has(half)) return
              put("tcp", connection(1), connection(7))
              put("nat", ...others)
            }
            const pass = yield* purgeBeside(pair, datapath, { engine })
            checkSum(pass)
            assert.deepStrictEqual([pass.restored, pass.egressAlive + pass.ingressAlive], [0, 0])
            assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(...others))
          }
        })
      )
    )

    it.effect("gets no half back with it that led elsewhere", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: [out(1), back(1, 40_001, 7)] })
          const pass = yield* purgeBeside(pair, ({ has, put }) => void (has(out(1)) || put("tcp", connection(1))), {
            engine
          })
          checkSum(pass)
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(out(1)))
        })
      )
    )

    /** The mapping of one connection, back once both halves are deleted. */
    const putBack = Effect.fnUntraced(function* (putting: Putting) {
      const pair = yield* Stage.pair({ nat: mappings(2) })
      let recorded: NatPass.NatPass | undefined
      const comesBack: Datapath = ({ has, put }) => void (mapping(1).some(has) || put("tcp", connection(1)))
      const options = { engine, recorded: (pass: NatPass.NatPass) => (recorded = pass) }
      const exit = yield* Effect.exit(purgeBeside(pair, comesBack, options, putting))
      checkSum(recorded!)
      const { restored, reprieved, egressDeleted, ingressDeleted } = recorded!
      const left = yield* Stage.dump(pair.nat!.map)
      return { exit, recorded, counts: [restored, reprieved, egressDeleted, ingressDeleted], left }
    })

    it.effect("leaves its port to whoever takes it in the very moment", () =>
      on(
        Effect.gen(function* () {
          const theirs = back(1, 40_001, 7)
          const { counts: got, left } = yield* putBack((n, put) => (n === 1 ? put(theirs) : undefined))
          assert.deepStrictEqual(got, [0, 0, 2, 2])
          assert.deepStrictEqual(left, sorted(theirs))
        })
      )
    )

    it.effect("holds no port where the datapath has made it another mapping in the very moment", () =>
      on(
        Effect.gen(function* () {
          const anew = [out(1, 50_000), back(1, 50_000)]
          const { counts: got, left } = yield* putBack((n, put) => (n === 2 ? put(...anew) : undefined))
          assert.deepStrictEqual(got, [0, 0, 2, 2])
          assert.deepStrictEqual(left, sorted(...anew))
        })
      )
    )

    it.effect("keeps what the datapath has made it in the very moment, where that is the same mapping", () =>
      on(
        Effect.gen(function* () {
          const { counts: got, left } = yield* putBack((n, put) => (n === 1 ? put(...mapping(1)) : undefined))
          assert.deepStrictEqual(got, [0, 2, 1, 1])
          assert.deepStrictEqual(left, sorted(...mapping(1)))
        })
      )
    )

    for (const failing of [1, 2]) {
      const half = failing === 1 ? "first" : "second"
      it.effect(`gets it back at the end where the kernel was busy at the ${half} half`, () =>
        on(
          Effect.gen(function* () {
            const { exit, counts: got, left } = yield* putBack((n) => (n === failing ? EBUSY : undefined))
            assert.strictEqual(exit._tag, "Success")
            assert.deepStrictEqual(got, [2, 2, 1, 1])
            assert.deepStrictEqual(left, sorted(...mapping(1)))
          })
        )
      )

      it.effect(`fails the pass where the ${half} half cannot be put back, and leaves no half`, () =>
        on(
          Effect.gen(function* () {
            const { exit, recorded, counts: got, left } = yield* putBack((n) => (n >= failing ? EIO : undefined))
            assert.strictEqual(exit._tag, "Failure")
            assert.include(recorded!.why, "update of map cilium_snat_v4_external")
            assert.deepStrictEqual(got, [0, 0, 2, 2])
            assert.deepStrictEqual(left, [])
          })
        )
      )
    }

    it.effect("stays without it where the map may not be written to, which ends no pass", () =>
      on(
        Effect.gen(function* () {
          const EPERM = 1
          const pair = yield* Stage.pair({ nat: mappings(3) })
          const pass = yield* purgeBeside(
            pair,
            ({ has, put }) => {
              if (!mapping(2).every(has)) put("tcp", connection(2))
            },
            { engine },
            () => EPERM
          )
          checkSum(pass)
          assert.strictEqual(pass.restored, 0)
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), [])
        })
      )
    )

    it.effect("of direct server return gets its mapping back, which has one half", () =>
      on(
        Effect.gen(function* () {
          const pair = yield* Stage.pair({ nat: [out(1)] })
          // Under the key of the mapping with its ports exchanged, by the flag only.
          const dsr = Stage.ct({ daddr: [2], saddr: [1], dport: 1, sport: 80, lifetime: 5000, flags: 0x80 })
          const pass = yield* purgeBeside(pair, ({ has, put }) => void (has(out(1)) || put("tcp", dsr)), { engine })
          checkSum(pass)
          assert.deepStrictEqual([pass.egressAlive, pass.restored], [1, 1])
          assert.deepStrictEqual(yield* Stage.dump(pair.nat!.map), sorted(out(1)))
        })
      )
    )
  })
}

const EIO = 5
const EBUSY = 16
