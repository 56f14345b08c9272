/**
 * Orphan purges while a second process plays the datapath: connections whose CT entry is gone come back, one after the
 * other, in the moments in which their mappings are deleted.
 */
import { CtEntry, NatDerivation, NatEntry, Tuple, TupleFlags } from "ctmap-core"
import { Guard, NatPass, NatPurge } from "ctmap-gc"
import * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as Effect from "effect/Effect"
import * as Datapath from "./datapath.ts"
import * as Pair from "./pair.ts"
import { wordsOf } from "./sharedWords.ts"

/** Mappings of a purge: two entries each. */
export const CONNECTIONS = 4000

/** What the two processes share: some words, then one for each connection. */
export const spec = { type: 2, keySize: 4, valueSize: 20_480, maxEntries: 1, flags: 1024 } as const
export const at = { ready: 0, stop: 1, round: 2, over: 3, done: 4, connections: 16 } as const

/** What came of a connection's packet: it found its mapping, or had another one made. */
export const packet = { none: 0, found: 1, anew: 2 } as const

/** The entries of one connection, to be written again and again: both halves of its mapping, and that of the CT map. */
export class Connection {
  readonly #tuple = Tuple.shape("ipv4")
  readonly #nat = NatEntry.shape("ipv4")
  readonly outKey = new Uint8Array(this.#tuple.size)
  readonly outValue = new Uint8Array(this.#nat.size)
  readonly inKey = new Uint8Array(this.#tuple.size)
  readonly inValue = new Uint8Array(this.#nat.size)
  readonly ctKey = new Uint8Array(this.#tuple.size)
  readonly ctValue = new Uint8Array(CtEntry.SIZE)

  /** Connection `n`; its mapping is to `address`, of which each has the same port. */
  set(n: number, address: number): this {
    const { saddr, daddr, dport, sport, nexthdr } = this.#tuple
    const key = new DataView(this.outKey.buffer)
    key.setUint32(daddr, 0x0a_00_00_02)
    key.setUint32(saddr, 0x0a_00_00_01)
    key.setUint16(dport, 80)
    key.setUint16(sport, 1024 + n)
    key.setUint8(nexthdr, 6)
    const value = new DataView(this.outValue.buffer)
    value.setUint32(this.#nat.address, address)
    value.setUint16(this.#nat.port, 32_768 + n)
    NatDerivation.natInOfNatOut(this.#tuple, { key: this.outKey, value: this.outValue }, this.inKey)
    const back = new DataView(this.inValue.buffer)
    back.setUint32(this.#nat.address, key.getUint32(saddr))
    back.setUint16(this.#nat.port, key.getUint16(sport))
    NatDerivation.ctOfNatOut(this.#tuple, this.outKey, this.ctKey)
    this.ctKey[this.#tuple.flags] = TupleFlags.OUT
    return this
  }
}

/** Where mappings lead at first, and where those do that the datapath makes anew. */
export const address = { first: 0x0a_00_00_09, anew: 0x0a_00_00_0a } as const

export interface Result {
  readonly engine: "program" | "portable"
  readonly passes: number
  /** Packets that found their mapping. */
  readonly found: number
  /** Of those: after the pass, a half of that mapping was gone. */
  readonly lost: number
  /** Packets that found none. */
  readonly missed: number
  /** Of those: after the pass, there was no whole mapping. */
  readonly broken: number
  readonly deleted: number
  readonly reprieved: number
  readonly restored: number
  /** Passes whose counts do not add up. */
  readonly unsound: number
}

/** What went wrong, in words. A datapath whose CPU is taken away between look-up and write for a whole pass loses. */
export const problems = ({ found, lost, broken, unsound }: Result): ReadonlyArray<string> => [
  ...(lost > found / 1000 ? [`${lost} of ${found} connections lost a mapping that they had found`] : []),
  ...(broken > 0 ? [`${broken} connections were left with half a mapping`] : []),
  ...(unsound > 0 ? [`the counts of ${unsound} passes do not add up`] : [])
]

/** Makes purges with one engine for so many seconds, at least two. */
export const run = (engine: Result["engine"], seconds: number) => Effect.scoped(purges(engine, seconds))

const purges = Effect.fnUntraced(function* (engine: Result["engine"], seconds: number) {
  const kernel = yield* Bpf.Bpf
  const tcp = yield* BpfMap.create(Pair.ctSpec("ipv4", 65_536), "returns_ct")
  const any = yield* BpfMap.create(Pair.ctSpec("ipv4", 64), "returns_any")
  const nat = yield* BpfMap.create(Pair.natSpec(65_536), "returns_nat")
  const shared = yield* BpfMap.create(spec, "returns_shared")
  const pair = yield* Pair.of("ipv4", tcp, any, nat)
  const words = wordsOf(kernel, shared.fd, spec.valueSize)
  yield* Datapath.start("returns", [], {
    fds: [tcp.fd, nat.fd, shared.fd],
    isReady: () => Atomics.load(words, at.ready) === 1,
    stop: () => Atomics.store(words, at.stop, 1)
  })
  const connection = new Connection()
  const each = (use: (n: number) => void): void => {
    for (let n = 0; n < CONNECTIONS; n++) use(n)
  }
  const value = new Uint8Array(nat.info.valueSize)
  const has = (key: Uint8Array, wanted: Uint8Array): boolean =>
    kernel.lookup(nat.fd, key, value) >= 0 && value.every((byte, i) => byte === wanted[i])
  const isWhole = (n: number, to: number): boolean => {
    connection.set(n, to)
    return has(connection.outKey, connection.outValue) && has(connection.inKey, connection.inValue)
  }

  let round = 0
  const begin = (): void => void Atomics.store(words, at.round, round)
  const beside: Bpf.Calls = {
    ...kernel,
    runProgram: (...args) => {
      begin()
      return kernel.runProgram(...args)
    },
    lookupAndDelete: (...args) => {
      begin()
      return kernel.lookupAndDelete(...args)
    }
  }
  const sums = { found: 0, lost: 0, missed: 0, broken: 0, deleted: 0, reprieved: 0, restored: 0, unsound: 0 }
  const end = performance.now() + seconds * 1000
  for (; round < 2 || performance.now() < end;) {
    each((n) => {
      connection.set(n, address.anew)
      kernel.delete(nat.fd, connection.inKey)
      kernel.delete(tcp.fd, connection.ctKey)
      connection.set(n, address.first)
      kernel.update(nat.fd, connection.inKey, connection.inValue, Bpf.ANY)
      kernel.update(nat.fd, connection.outKey, connection.outValue, Bpf.ANY)
    })
    words.fill(packet.none, at.connections)
    round++
    const purge = NatPurge.orphans(pair, { serial: round, engine, limits: Guard.unlimited })
    const pass = (yield* Effect.provideService(purge, Bpf.Bpf, beside))!
    Atomics.store(words, at.over, round)
    while (Atomics.load(words, at.done) !== round) yield* Effect.sleep(1)
    sums.deleted += NatPass.deleted(pass)
    sums.reprieved += pass.reprieved
    sums.restored += pass.restored
    if (!addsUp(pass)) sums.unsound++
    each((n) => {
      const came = words[at.connections + n]
      if (came === packet.none) return
      const isFound = came === packet.found
      sums[isFound ? "found" : "missed"]++
      if (isFound && !isWhole(n, address.first)) sums.lost++
      if (!isFound && !isWhole(n, address.anew) && !isWhole(n, address.first)) sums.broken++
    })
  }
  return { engine, passes: round, ...sums } satisfies Result
})

const addsUp = (pass: NatPass.NatPass): boolean =>
  pass.completed &&
  pass.seen ===
    pass.ingressAlive + pass.egressAlive + NatPass.deleted(pass) + pass.refreshed + pass.vanished + pass.busy &&
  pass.restored <= pass.reprieved + pass.refreshed
