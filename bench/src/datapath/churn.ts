/**
 * The datapath of the churn stress, in a process of its own: inserts, deletes and replaces entries, and where it is told
 * to fills the table, until it is to stop. Its maps are fds 3 (the CT map) and 4 (the words that both processes watch).
 */
import type { Family } from "ctmap-core"
import * as Bpf from "ctmap-kernel/Bpf"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import { capacity, EXPIRED, Flow, FRESH, numbers } from "../common/flows.ts"
import { churn as at, watch } from "../common/sharedWords.ts"

const [table, shared] = [3, 4]
const [family, mode] = process.argv.slice(2) as [Family.Family, "roomy" | "full"]

const kernel = await Effect.runPromise(Effect.provide(Bpf.Bpf, LibBpf.layer))
const words = watch(kernel, shared)
const flow = new Flow(family)
const add = (word: number): void => void Atomics.add(words, word, 1)

const insert = (number: number, lifetime: number): void => {
  flow.set(number, lifetime)
  if (kernel.update(table, flow.key, flow.value, Bpf.NOEXIST) === 0) add(at.inserted)
}
const remove = (number: number): void => {
  if (kernel.delete(table, flow.set(number).key) === 0) add(at.removed)
}
const replace = (number: number, lifetime: number): void => {
  flow.set(number, lifetime)
  if (kernel.update(table, flow.key, flow.value, Bpf.EXIST) === 0) add(at.replaced)
  else insert(number, lifetime)
}

const { passing, turning } = numbers
let evicting: number = numbers.evicting
if (mode === "full") while (evicting < numbers.evicting + capacity.full) insert(evicting++, FRESH)
for (let step = 0; Atomics.load(words, at.stop) === 0; step++) {
  const n = passing.first + (step % passing.count)
  // A lap inserts, the next one deletes: half of them have expired meanwhile.
  if (Math.floor(step / passing.count) % 2 === 0) insert(n, n % 2 === 0 ? EXPIRED : FRESH)
  else remove(n)
  replace(turning.first + (step % turning.count), Math.floor(step / turning.count) % 2 === 0 ? EXPIRED : FRESH)
  if (mode === "full") insert(evicting++, FRESH)
  if (step === 256) Atomics.store(words, at.ready, 1)
}
