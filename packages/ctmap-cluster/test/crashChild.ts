// An agent that dies: makes or deletes a cluster, and kills itself with -9 right before the nth step that changes anything.
// Started by Crash.privileged.test.ts; ends with 0 where there were not that many steps.
import { Bpf, LibBpf, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { during, isWork } from "./crashCases.ts"

const [root = "", work, nth = "1"] = process.argv.slice(2)
if (!isWork(work)) throw new Error(`create or delete, not ${work}`)

const steps = ["mapCreate", "pin", "unpin", "renamePin", "updateAsync", "deleteAsync"] as const

let left = Number(nth)
const mortal = Layer.effect(
  Bpf.Bpf,
  Effect.map(Bpf.Bpf, (bpf): Bpf.Calls => {
    const dying =
      <A extends ReadonlyArray<never>, B>(call: (...args: A) => B) =>
      (...args: A): B => {
        if (--left === 0) process.kill(process.pid, "SIGKILL")
        return call(...args)
      }
    return { ...bpf, ...Object.fromEntries(steps.map((step) => [step, dying(bpf[step] as (...args: []) => unknown)])) }
  })
).pipe(Layer.provide(LibBpf.layer))

await Effect.runPromise(during(work).pipe(Effect.provide(mortal), Effect.provideService(Pins.BpfFsRoot, root)))
