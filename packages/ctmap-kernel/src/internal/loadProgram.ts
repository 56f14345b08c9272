/**
 * Loading programs on another thread, so that the event loop turns while the verifier follows them: 2 to 60 ms each.
 */
import * as Effect from "effect/Effect"
import type * as Bpf from "../Bpf.ts"
import type { BpfError } from "../BpfError.ts"

const EAGAIN = 11
const EINVAL = 22

/**
 * A verifier that a signal interrupts gives up with EAGAIN, and libbpf after five of these: a process that gets many
 * signals, as one whose timers or profiler send them, would be said to have no programs. So it is asked again.
 */
const ATTEMPTS = 8

/** What the kernel answered. */
export type Answer = ReturnType<Bpf.Calls["loadObject"]>

/**
 * Loads an object. Nothing takes back what is loaded for somebody who was interrupted: to be asked for where nothing
 * interrupts. Whoever goes on does so in a turn of the event loop of their own.
 */
export const loadObject = (kernel: Bpf.Calls, spec: Bpf.ObjectSpec): Effect.Effect<Answer> =>
  Effect.callback<Answer>((resume) => {
    const attempt = (left: number): void =>
      kernel.loadObjectAsync(spec, (answer) => {
        if ("errno" in answer && answer.errno === EAGAIN && left > 1) return attempt(left - 1)
        resume(Effect.as(Effect.yieldNow, answer))
      })
    attempt(ATTEMPTS)
  })

/** A program that can be run. */
export interface Program {
  readonly fd: number
  readonly close: () => void
}

/** Loads one program and runs it over nothing, which is when a kernel says that it cannot be run. As {@link loadObject}. */
export const loadProgram = (
  kernel: Bpf.Calls,
  { name, ...spec }: Omit<Bpf.ObjectSpec, "programs" | "name"> & { readonly name: string; readonly object: string },
  idle: Uint8Array,
  failure: (operation: "load program" | "run program", errno: number) => BpfError
): Effect.Effect<Program, BpfError> =>
  Effect.flatMap(loadObject(kernel, { ...spec, name: spec.object, programs: [name] }), (loaded) => {
    if ("errno" in loaded) return Effect.fail(failure("load program", loaded.errno))
    const fd = loaded.programs[name] ?? -1
    const rc = fd < 0 ? -EINVAL : kernel.runProgram(fd, idle)
    if (rc >= 0) return Effect.succeed({ fd, close: loaded.close })
    loaded.close()
    return Effect.fail(failure("run program", -rc))
  })
