import { assert, describe, it } from "@effect/vitest"
import { LibBpf, Scan } from "ctmap-kernel"
import * as Snapshot from "ctmap-kernel/Snapshot"
import { Privileged, TempBpfFs } from "ctmap-testing"
import * as Effect from "effect/Effect"
import { afterAll, beforeAll } from "vitest"
import { on, openAll, piecesOf, recordedCases } from "./snapshotCases.ts"

const lines = (count: number): string =>
  Array.from({ length: count }, (_, i) => {
    const key = `${(i + 1).toString(16).padStart(8, "0")}${"00".repeat(8)}0600`
    return `cilium_ct4_global\t${key}\t${"00".repeat(56)}\n`
  }).join("")

Privileged.suite(describe, "snapshots on the kernel", () => {
  const bpffs = TempBpfFs.make()
  beforeAll(bpffs.start)
  afterAll(bpffs.stop)
  const kernel = { layer: LibBpf.layer, root: bpffs.path }
  recordedCases("on the kernel", kernel)

  it.effect("counts what Linux' LRU evicts, which is more than what does not fit", () =>
    on(kernel)(
      "small",
      Effect.gen(function* () {
        const limits = { ctTcp: 1024, ctAny: 1024, nat: 1024 }
        const refused = yield* Effect.flip(Snapshot.restore(piecesOf(lines(3000)), { limits }))
        assert.strictEqual(refused._tag, "NoRoom")
        const [restored] = yield* Snapshot.restore(piecesOf(lines(3000)), { limits, failOnEviction: false })
        assert.isTrue(restored?.created)
        assert.isAtMost(restored?.now ?? 0, 1024)
        assert.strictEqual(restored?.evicted, 3000 - (restored?.now ?? 0))
        const [replaced] = yield* Snapshot.restore(piecesOf(lines(700)), { replace: true })
        const { cleared = 0, overwritten = 0 } = replaced ?? {}
        assert.strictEqual(cleared + overwritten, restored?.now)
        assert.deepStrictEqual([replaced?.evicted, replaced?.now], [0, 700])
        const [map] = yield* openAll
        assert.strictEqual(map?.info.maxEntries, 1024)
      })
    )
  )

  it.effect("a merge fills an LRU of Linux to the point that it is told, and evicts nothing", () =>
    on(kernel)(
      "merge",
      Effect.gen(function* () {
        const limits = { ctTcp: 4096, ctAny: 1024, nat: 1024 }
        yield* Snapshot.restore(piecesOf(lines(3000)), { limits })
        const [plan] = yield* Snapshot.plan(piecesOf(lines(3100)))
        assert.deepStrictEqual([plan?.there, plan?.coming], [3000, 100])
        const room = plan?.room ?? 0
        const refused = yield* Effect.flip(Snapshot.restore(piecesOf(lines(3000 + room + 1))))
        assert.strictEqual(refused._tag, "NoRoom")
        const [map] = yield* openAll
        assert.strictEqual(yield* Scan.count(map!), 3000)
        const [restored] = yield* Snapshot.restore(piecesOf(lines(3000 + room)))
        assert.deepStrictEqual([restored?.kept, restored?.evicted, restored?.now], [3000, 0, 3000 + room])
        const [replaced] = yield* Snapshot.restore(piecesOf(lines(100)), { replace: true })
        assert.deepStrictEqual([replaced?.overwritten, replaced?.cleared, replaced?.now], [100, 2900 + room, 100])
      })
    )
  )
})
