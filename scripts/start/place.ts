/** Where the tables of `npm start` live: in the kernel below a bpffs of their own, or in its twin. */
import { CtTime } from "ctmap-core"
import { Bpf, BpfMemory, CompareAndDelete, KernelClock, KernelSweep, LibBpf, MapIterator, Pins } from "ctmap-kernel"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

export interface Place {
  /** The first line that is printed. */
  readonly title: string
  readonly layer: Layer.Layer<Bpf.Bpf | KernelClock.KernelClock, unknown>
  /** Takes away what was made. */
  readonly stop: () => void
}

export const find = (inMemoryOnly: boolean): Place => {
  const obstacle = inMemoryOnly ? "--memory asks for it" : Privileged.obstacle()
  if (obstacle !== undefined) return inMemory(obstacle)
  const bpffs = TempBpfFs.make()
  bpffs.start()
  const kernel = Layer.mergeAll(KernelClock.layerKtime, MapIterator.layer).pipe(Layer.provideMerge(LibBpf.layer))
  return {
    title: `ctmap on this kernel, in a bpffs of its own (${bpffs.path}).`,
    layer: kernel.pipe(Layer.provideMerge(Layer.succeed(Pins.BpfFsRoot, bpffs.path))),
    stop: bpffs.stop
  }
}

const inMemory = (why: string): Place => {
  const { calls } = BpfMemory.make({
    objects: { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
  })
  // The clock of the twin stands still: this one goes on from there.
  const began = performance.now()
  const clock = KernelClock.KernelClock.of({
    source: CtTime.ktime,
    now: Effect.sync(() => 1_000_000 + Math.floor((performance.now() - began) / 1000))
  })
  return {
    title: `ctmap in memory, not on this kernel: ${why}.`,
    layer: Layer.merge(Layer.succeed(Bpf.Bpf, calls), Layer.succeed(KernelClock.KernelClock, clock)),
    stop: () => {}
  }
}
