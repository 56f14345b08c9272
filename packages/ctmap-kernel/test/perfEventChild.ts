/** Prints what perf_event_open(2) answers to this process, for a test that starts it without capabilities. */
import { Bpf, LibBpf } from "ctmap-kernel"
import * as Effect from "effect/Effect"

const answer = Effect.map(Bpf.Bpf, (bpf) => bpf.perfEvent(0)).pipe(Effect.provide(LibBpf.layer))
process.stdout.write(`${await Effect.runPromise(answer)}`)
