/**
 * Run by a privileged test in a process of its own, whose mappings and fds nobody else changes: makes and closes what
 * maps memory of the kernel, as often as the second argument says, and prints what is left of it. `without-transfer` as
 * first argument stands for a Node that cannot take a buffer from its views.
 */
import { readFileSync } from "node:fs"
import { MapKind, MapSpec } from "ctmap-core"
import { type Bpf, BpfMap, CompareAndDelete, LibBpf, MapIterator, RowScan } from "ctmap-kernel"
import { FdLeak } from "ctmap-testing"
import * as Effect from "effect/Effect"

if (process.argv[2] === "without-transfer") Reflect.deleteProperty(ArrayBuffer.prototype, "transfer")

const times = Number(process.argv[3])

/** Mappings, how large this process is, and its fds of BPF objects. What is garbage already does not count. */
const mapped = () => {
  globalThis.gc?.()
  return {
    bpf: readFileSync("/proc/self/maps", "latin1")
      .split("\n")
      .filter((line) => line.includes("bpf-map")).length,
    all: readFileSync("/proc/self/maps", "latin1").split("\n").length,
    megabytes: Math.round(
      Number(/^VmSize:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1]) / 1024
    ),
    handles: FdLeak.handles().length
  }
}

const spec = { ...MapSpec.ct(MapKind.globals[0]), maxEntries: 64 }
const actions: Readonly<Record<string, Effect.Effect<unknown, unknown, Bpf.Bpf>>> = {
  "compare-and-delete": Effect.scoped(
    Effect.flatMap(BpfMap.create(spec, "leak"), (map) =>
      CompareAndDelete.make({ fd: map.fd, name: "leak", keySize: 14, valueSize: 56 }, { engine: "program" })
    )
  ),
  iterator: Effect.scoped(
    Effect.flatMap(BpfMap.create(spec, "leak"), (map) =>
      RowScan.forEach(map, () => Effect.void, { method: "iterator" })
    )
  ).pipe(Effect.provide(MapIterator.layer, { local: true }))
}

const program = Effect.gen(function* () {
  const grown: Record<string, unknown> = {}
  for (const [name, action] of Object.entries(actions)) {
    for (let i = 0; i < 10; i++) yield* action
    const before = mapped()
    for (let i = 0; i < times; i++) yield* action
    const after = mapped()
    grown[name] = { ...after, all: after.all - before.all, megabytes: after.megabytes - before.megabytes }
  }
  return grown
})

process.stdout.write(JSON.stringify(await Effect.runPromise(program.pipe(Effect.provide(LibBpf.layer)))))
