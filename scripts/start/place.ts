/** Where `npm start` runs the agent: on this kernel below a bpffs of its own, or on the twin in memory. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Hive } from "ctmap-cell"
import { CtTime } from "ctmap-core"
import { Bpf, BpfMemory, CompareAndDelete, KernelClock, KernelSweep, LibBpf, MapIterator, Pins } from "ctmap-kernel"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { hive } from "../../apps/ctmap-agent/src/Agent.ts"
import * as Clock from "../../apps/ctmap-agent/src/cells/clock.ts"
import * as Kernel from "../../apps/ctmap-agent/src/cells/kernel.ts"

export interface Place {
  /** The first line that is printed. */
  readonly title: string
  readonly isReal: boolean
  readonly root: string
  /** A folder for the agent's socket. */
  readonly folder: string
  readonly hive: typeof hive
  readonly stage: Layer.Layer<Bpf.Bpf | KernelClock.KernelClock, unknown>
  /** Takes away what was made. */
  readonly stop: () => void
}

export const find = (inMemoryOnly: boolean): Place => {
  const obstacle = inMemoryOnly ? "--memory asks for it" : whyNotHere()
  const folder = mkdtempSync(join(tmpdir(), "ctmap-start-"))
  const removed = () => rmSync(folder, { recursive: true, force: true })
  if (obstacle !== undefined) return { ...inMemory(obstacle), folder, stop: removed }
  const bpffs = TempBpfFs.make()
  bpffs.start()
  return {
    title: `ctmap-agent on this kernel, in a bpffs of its own (${bpffs.path}).`,
    isReal: true,
    root: bpffs.path,
    folder,
    hive,
    stage: KernelClock.layerKtime.pipe(
      Layer.provideMerge(LibBpf.layer),
      Layer.provideMerge(Layer.succeed(Pins.BpfFsRoot, bpffs.path))
    ),
    stop: () => {
      bpffs.stop()
      removed()
    }
  }
}

/** Why this kernel cannot be used, and how it could be. */
const whyNotHere = (): string | undefined => {
  const why = Privileged.obstacle()
  return why === Privileged.NOT_ROOT ? `${why} (\`sudo npm start\` runs it on the kernel)` : why
}

/** One twin for the agent and for what plays the datapath. */
const inMemory = (why: string): Omit<Place, "folder" | "stop"> => {
  const { calls } = BpfMemory.make({
    objects: { [CompareAndDelete.object]: CompareAndDelete.twin, [KernelSweep.object]: KernelSweep.twin }
  })
  // The clock of the twin stands still: this one goes on from there.
  const began = performance.now()
  const clock = KernelClock.KernelClock.of({
    source: CtTime.ktime,
    now: Effect.sync(() => 1_000_000 + Math.floor((performance.now() - began) / 1000))
  })
  const root = "/sys/fs/bpf"
  const bpf = Layer.succeed(Bpf.Bpf, calls)
  const time = Layer.succeed(KernelClock.KernelClock, clock)
  const kernel = Layer.mergeAll(bpf, Layer.succeed(Pins.BpfFsRoot, root), Layer.provide(MapIterator.layer, bpf))
  return {
    title: `ctmap-agent in memory, not on this kernel: ${why}.`,
    isReal: false,
    root,
    hive: hive.pipe(Hive.replace(Kernel.cell, kernel), Hive.replace(Clock.cell, time)),
    stage: Layer.merge(bpf, time)
  }
}
