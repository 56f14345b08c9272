/**
 * The datapath of the soak, in a process of its own. Its maps are fds 3 (the full TCP table), 4 (the roomy one of the
 * rest), 5 (NAT), 6 (the list of the refresher), 7 (signals) and 8 (the words that both processes watch).
 *
 * - In the roomy table: connections that stay alive, by packets every few seconds; brief ones, of which a quarter ends
 *   before it expires; and racing ones, whose next packet comes some time after they have expired.
 * - In the full table: more idle connections than there is room for, and brief ones among them.
 * - Once in a while, a storm of signals.
 */
import * as Bpf from "ctmap-kernel/Bpf"
import * as LibBpf from "ctmap-kernel/LibBpf"
import { Refresher, SignalSender } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { Connection, first, isMapped, lives, sizes } from "../common/connections.ts"
import { soak as at, watch, wordsOf } from "../common/sharedWords.ts"

const [full, roomy, nat, list, signals, shared] = [3, 4, 5, 6, 7, 8]
const [entries, raceSeconds] = process.argv.slice(2).map(Number) as [number, number]

const kernel = await Effect.runPromise(Effect.provide(Bpf.Bpf, LibBpf.layer))
const words = watch(kernel, shared)
const add = (word: number, count = 1): void => void Atomics.add(words, word, count)
const seconds = (): number => Number(kernel.monotonic() / 1_000_000_000n)

const refresher = Refresher.make(kernel, { table: roomy, list })
const slots = wordsOf(kernel, list, Refresher.slot.size * Refresher.list.maxEntries)
const slotBytes = new Uint8Array(slots.buffer, slots.byteOffset, slots.byteLength)
const { brief, evicting, idle, racing, steady } = sizes(entries)
const udp = new Connection(17)
const tcp = new Connection(6)

/** A packet for each of these connections, all at once; `hear` is told whether the entry was there. */
const refresh = (numbers: ReadonlyArray<number>, life: number, hear: (number: number, wasThere: boolean) => void) => {
  for (let from = 0; from < numbers.length; from += Refresher.list.maxEntries) {
    const part = numbers.slice(from, from + Refresher.list.maxEntries)
    const lifetime = seconds() + life
    for (const [slot, number] of part.entries()) {
      slotBytes.set(udp.set(number).key, slot * Refresher.slot.size + Refresher.slot.key)
      slots[(slot * Refresher.slot.size + Refresher.slot.lifetime) / 4] = lifetime
    }
    refresher.refresh(part.length)
    for (const [slot, number] of part.entries()) {
      hear(number, slots[(slot * Refresher.slot.size + Refresher.slot.hit) / 4] === 1)
    }
  }
}

/** A first packet: the CT entry, then the mapping. */
const begin = (connection: Connection, table: number, number: number, life: number, flags: number): void => {
  connection.set(number, seconds() + life)
  const rc = kernel.update(table, connection.key, connection.value, flags)
  if (rc === 0 && table === roomy) add(at.inserted)
  if (rc < 0 || !isMapped(number)) return
  connection.map(number, kernel.monotonic())
  kernel.update(nat, connection.out.key, connection.out.value, Bpf.ANY)
  kernel.update(nat, connection.back.key, connection.back.value, Bpf.ANY)
  add(at.mapped)
}

/** Keeps a rate: how many are due by now. */
const rate = (perSecond: number) => {
  const start = performance.now()
  let done = 0
  return (): number => {
    const due = Math.floor(((performance.now() - start) / 1000) * perSecond) - done
    done += due
    return due
  }
}

/** Things to do later, a few hundredths of a second apart. */
class Agenda {
  readonly #slots = new Map<number, Array<number>>()
  #next = Math.floor(performance.now() / 50)
  put(number: number, afterMillis: number): void {
    const slot = Math.max(this.#next, Math.floor((performance.now() + afterMillis) / 50))
    const numbers = this.#slots.get(slot)
    if (numbers === undefined) this.#slots.set(slot, [number])
    else numbers.push(number)
  }
  take(): ReadonlyArray<number> {
    const numbers: Array<number> = []
    for (const until = Math.floor(performance.now() / 50); this.#next < until; this.#next++) {
      for (const number of this.#slots.get(this.#next) ?? []) numbers.push(number)
      this.#slots.delete(this.#next)
    }
    return numbers
  }
}

// Before anybody collects: what stays alive, and a full table.
for (let i = 0; i < steady; i++) begin(udp, roomy, first.steady + i, lives.steady + (i % 10), Bpf.NOEXIST)
for (let i = 0; i < entries; i++) begin(tcp, full, first.idle + i, lives.idle, Bpf.ANY)

/** When they expire is known, when their next packet comes is not: some time before or after the next pass. */
const toRefresh = new Agenda()
const toCheck = new Agenda()
/** Until when those that are to be looked for were refreshed. */
const refreshedUntil = new Map<number, number>()
const nextPacket = (): number => (lives.racing + Math.random() * raceSeconds * 1.5) * 1000
for (let i = 0; i < racing; i++) {
  begin(udp, roomy, first.racing + i, lives.racing, Bpf.NOEXIST)
  toRefresh.put(first.racing + i, nextPacket())
}

const race = (): void => {
  const until = seconds() + lives.racing
  refresh(toRefresh.take(), lives.racing, (number, wasThere) => {
    if (wasThere) {
      add(at.raced)
      toCheck.put(number, 1000)
      refreshedUntil.set(number, until)
      return
    }
    // It was collected in time: a new connection.
    begin(udp, roomy, number, lives.racing, Bpf.NOEXIST)
    toRefresh.put(number, nextPacket())
  })
  for (const number of toCheck.take()) {
    udp.set(number)
    const isThere = kernel.lookup(roomy, udp.key, udp.value) === 0
    if (!isThere) {
      // Where this process had to wait for so long that it has expired again, nobody did wrong.
      if (seconds() <= refreshedUntil.get(number)!) add(at.lost)
      begin(udp, roomy, number, lives.racing, Bpf.NOEXIST)
    }
    toRefresh.put(number, nextPacket() - (isThere ? 1000 : 0))
  }
}

const cpus = Array.from({ length: kernel.possibleCpus() }, (_, cpu) => cpu)
const sender = SignalSender.make(kernel, signals)
/** Signals of every CPU that is online; those that nobody reads are refused, which is the storm's problem. */
const storm = (): void => {
  for (const cpu of cpus) {
    try {
      add(at.signals, sender.send({ cpu, count: 256, words: [1, 0] }).sent)
    } catch {
      // This CPU is not online.
    }
  }
}

const due = {
  steady: rate(steady / lives.refreshedEvery),
  brief: rate(brief),
  evicting: rate(evicting),
  storms: rate(1 / 7)
}
let [steadyAt, briefAt, idleAt] = [0, 0, entries]
const ending = new Agenda()
const pause = new Int32Array(new SharedArrayBuffer(4))

/** What is due by now. */
const work = (): void => {
  const packets = Array.from({ length: due.steady() }, () => first.steady + (steadyAt++ % steady))
  refresh(packets, lives.steady, (_, wasThere) => add(wasThere ? at.refreshed : at.cut))
  if (Atomics.load(words, at.phase) === 0) {
    for (let left = due.brief(); left > 0; left--) {
      const number = first.brief + briefAt++
      const life = lives.brief.from + (number % (lives.brief.to - lives.brief.from))
      begin(udp, roomy, number, life, Bpf.NOEXIST)
      begin(tcp, full, number, life, Bpf.NOEXIST)
      if (number % 4 === 0) ending.put(number, 1000)
    }
    for (let left = due.evicting(); left > 0; left--) {
      begin(tcp, full, first.idle + (idleAt++ % idle), lives.idle, Bpf.ANY)
    }
    for (const number of ending.take()) {
      if (kernel.delete(roomy, udp.set(number).key) === 0) add(at.removed)
    }
    for (let left = due.storms(); left > 0; left--) storm()
    race()
  }
}

Atomics.store(words, at.ready, 1)
while (Atomics.load(words, at.phase) < 2) {
  const phase = Atomics.load(words, at.phase)
  work()
  // No connection is made any more.
  if (phase === 1) Atomics.store(words, at.ready, 2)
  Atomics.wait(pause, 0, 0, 4)
}
sender.close()
refresher.close()
