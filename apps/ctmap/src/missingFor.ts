/**
 * What an engine that was asked for by name lacks.
 *
 * @since 0.1.0
 */
import { BpfError } from "ctmap-kernel/BpfError"
import * as Effect from "effect/Effect"
import type { Passing } from "./Options.ts"
import * as Output from "./Output.ts"

/** A remark where an error means that its programs cannot be loaded. @since 0.1.0 */
export const missingFor =
  (engine: Passing["engine"]) =>
  (error: unknown): Effect.Effect<void, never, Output.Output> =>
    (engine === "hybrid" || engine === "kernel") && error instanceof BpfError && loads.has(error.operation)
      ? Output.note(
          `ctmap: --engine ${engine} loads a BPF program, which takes CAP_BPF; --engine auto does without where it must`
        )
      : Effect.void

const loads: ReadonlySet<unknown> = new Set(["map create", "load program"])
