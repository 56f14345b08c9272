import { assert, describe, it } from "@effect/vitest"
import { LibBpf } from "ctmap-kernel"
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
        assert.strictEqual(refused._tag, "EntriesEvicted")
        const [restored] = yield* Snapshot.restore(piecesOf(lines(3000)), { limits, failOnEviction: false })
        assert.isTrue(restored?.created)
        assert.isAtMost(restored?.now ?? 0, 1024)
        assert.strictEqual(restored?.evicted, 3000 - (restored?.now ?? 0))
        const [replaced] = yield* Snapshot.restore(piecesOf(lines(700)), { replace: true })
        assert.deepStrictEqual([replaced?.cleared, replaced?.evicted, replaced?.now], [restored?.now, 0, 700])
        const [map] = yield* openAll
        assert.strictEqual(map?.info.maxEntries, 1024)
      })
    )
  )
})
