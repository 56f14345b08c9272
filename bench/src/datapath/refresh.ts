/**
 * The datapath of the race stress, in a process of its own: refreshes the list whenever a round begins, until the round
 * is negative. Its maps are fds 3 (the CT map), 4 (the list) and 5 (the words that both processes watch).
 */
import { hrtime } from "node:process"
import * as Bpf from "ctmap-kernel/Bpf"
import * as LibBpf from "ctmap-kernel/LibBpf"
import { Refresher } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { race as at, watch } from "../common/sharedWords.ts"

const [table, list, shared] = [3, 4, 5]

const kernel = await Effect.runPromise(Effect.provide(Bpf.Bpf, LibBpf.layer))
const refresher = Refresher.make(kernel, { table, list })
const words = watch(kernel, shared)
Atomics.store(words, at.ready, 1)
for (let round = 0; ;) {
  while (Atomics.load(words, at.round) === round);
  const begin = hrtime.bigint()
  round = Atomics.load(words, at.round)
  if (round < 0) break
  const until = begin + BigInt(Atomics.load(words, at.delay))
  while (hrtime.bigint() < until);
  refresher.refresh(Atomics.load(words, at.entries))
  Atomics.store(words, at.done, round)
}
refresher.close()
