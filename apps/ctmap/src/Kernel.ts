/**
 * The kernel for one command: loaded when it is needed, at the bpffs that the command line names, for one scope.
 *
 * @since 0.1.0
 */
import type { Bpf } from "ctmap-kernel/Bpf"
import type { BpfError } from "ctmap-kernel/BpfError"
import { BpfFsRoot } from "ctmap-kernel/Pins"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Unloadable } from "./Failure.ts"
import { load } from "./Load.ts"

/**
 * How to get at the kernel. A reference, so that tests can run every command on the twin in memory.
 *
 * @since 0.1.0
 */
export const BpfLayer = Context.Reference<Effect.Effect<Layer.Layer<Bpf, BpfError>, Unloadable>>(
  "ctmap/Kernel/BpfLayer",
  {
    // Native code is loaded by commands that read maps, and by no other.
    defaultValue: () =>
      Effect.map(
        load(() => import("ctmap-kernel/LibBpf")),
        ({ layer }) => layer
      )
  }
)

/** Runs with the kernel; everything that was opened is closed at the end. @since 0.1.0 */
export const provide = <A, E, R>(
  root: string,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | BpfError | Unloadable, Exclude<Exclude<R, Scope.Scope>, Bpf>> =>
  Effect.scoped(effect).pipe(
    Effect.provide(Layer.unwrap(Effect.flatten(BpfLayer))),
    Effect.provideService(BpfFsRoot, root)
  )
