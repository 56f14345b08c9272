/**
 * The datapath of the stress of returning connections, in a process of its own: once a purge deletes, a packet of each
 * connection in random order, until the purge is over. As Cilium's it looks the mapping up first, then makes the CT entry;
 * without a mapping it makes another one, the IN half first. Its maps are fds 3 (CT), 4 (NAT) and 5 (the shared words).
 */
import * as Bpf from "ctmap-kernel/Bpf"
import * as LibBpf from "ctmap-kernel/LibBpf"
import * as Effect from "effect/Effect"
import { address, at, Connection, CONNECTIONS, packet, spec } from "../common/returns.ts"
import { wordsOf } from "../common/sharedWords.ts"

const [ct, nat, shared] = [3, 4, 5]

const kernel = await Effect.runPromise(Effect.provide(Bpf.Bpf, LibBpf.layer))
const words = wordsOf(kernel, shared, spec.valueSize)
const connection = new Connection()
const found = new Uint8Array(connection.outValue.length)

/** Whether another mapping was made, whole. */
const isMade = (n: number): boolean => {
  const { inKey, inValue, outKey, outValue } = connection.set(n, address.anew)
  if (kernel.update(nat, inKey, inValue, Bpf.NOEXIST) < 0) return false
  if (kernel.update(nat, outKey, outValue, Bpf.NOEXIST) >= 0) return true
  kernel.delete(nat, inKey)
  return false
}

const send = (n: number): void => {
  const isFound = kernel.lookup(nat, connection.set(n, address.first).outKey, found) >= 0
  kernel.update(ct, connection.ctKey, connection.ctValue, Bpf.ANY)
  if (isFound) words[at.connections + n] = packet.found
  // A packet that is dropped: the next one finds what was put back.
  else if (isMade(n)) words[at.connections + n] = packet.anew
}

/** A step that meets every connection once, in an order that looks like none. */
const steps = [1009, 1429, 2003, 2711, 3469]

Atomics.store(words, at.ready, 1)
for (let round = 0; Atomics.load(words, at.stop) === 0;) {
  if (Atomics.load(words, at.round) === round) continue
  round++
  const step = steps[round % steps.length]!
  for (let i = 0; i < CONNECTIONS && Atomics.load(words, at.over) !== round; i++) {
    send((round + i * step) % CONNECTIONS)
    const until = performance.now() + 0.02
    while (performance.now() < until);
  }
  while (Atomics.load(words, at.over) !== round && Atomics.load(words, at.stop) === 0);
  Atomics.store(words, at.done, round)
}
