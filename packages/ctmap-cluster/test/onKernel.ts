/** Tests on a kernel, each at a bpffs directory of its own. */
import { it } from "@effect/vitest"
import { type Bpf, type BpfError, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"

export interface Kernel {
  readonly layer: Layer.Layer<Bpf.Bpf, BpfError.BpfError>
  /** A bpffs; every test gets a directory below it. */
  readonly root: string
}

/** Defines tests on a kernel: each in a directory of its own, on a clock that runs. */
export const testsOf = (area: string, kernel: Kernel) => {
  let number = 0
  return <A, E>(title: string, body: Effect.Effect<A, E, Bpf.Bpf | Scope.Scope>): void => {
    const root = `${kernel.root}/${area}/${number++}`
    it.live(title, () =>
      Effect.scoped(body).pipe(Effect.provide(Layer.fresh(kernel.layer)), Effect.provideService(Pins.BpfFsRoot, root))
    )
  }
}
