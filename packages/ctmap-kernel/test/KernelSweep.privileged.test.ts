import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import * as Bpf from "ctmap-kernel/Bpf"
import * as KernelSweep from "ctmap-kernel/KernelSweep"
import * as LibBpf from "ctmap-kernel/LibBpf"
import { FdLeak, Privileged } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { KEY, keysOf, VALUE } from "./churn.ts"
import { churn } from "./churnProcess.ts"
import { cases, map } from "./sweepCases.ts"

const HASH = 1

Privileged.suite(describe, "the sweep in the kernel", () => {
  /** Ids of the maps of this file: others share the process and its fds. */
  const ours = new Set<number>()
  const recording = Layer.effect(
    Bpf.Bpf,
    Effect.map(Bpf.Bpf, (bpf) => ({
      ...bpf,
      mapCreate: (...args) => {
        const fd = bpf.mapCreate(...args)
        const info = bpf.mapInfo(fd)
        if (typeof info !== "number") ours.add(info.id)
        return fd
      }
    }))
  ).pipe(Layer.provide(LibBpf.layer))

  cases(recording)

  it("needs CAP_BPF and nothing else, and leaves nothing open", () => {
    const only = "-all,+bpf"
    const limits = [`--bounding-set=${only}`, `--inh-caps=${only}`, "--no-new-privs"]
    const script = fileURLToPath(new URL("./kernelSweepChild.ts", import.meta.url))
    const command = [process.execPath, "--conditions=ctmap-source", script]
    const { stdout, stderr, status } = spawnSync("setpriv", [...limits, ...command], { encoding: "utf8" })
    assert.strictEqual(status, 0, stderr)
    assert.deepStrictEqual(JSON.parse(stdout), { engine: "program", deleted: 1, egress: 1, ingress: 1, left: [] })
  })

  it.effect("does not walk a map per CPU, whose values stand elsewhere", () =>
    Effect.gen(function* () {
      const LRU_PERCPU_HASH = 10
      const { table } = yield* map("sweep_percpu", 14, 56, { type: LRU_PERCPU_HASH })
      const error = yield* Effect.flip(
        KernelSweep.make({ ct: table, nat: undefined, family: "ipv4", mustResume: true })
      )
      assert.strictEqual(error.reason._tag, "FeatureUnsupported")
    }).pipe(Effect.scoped, Effect.provide(recording))
  )

  it.live(
    "a walk leaves no expired entry behind beside which others come and go, nor says that it vanished",
    () =>
      Effect.gen(function* () {
        const bpf = yield* Bpf.Bpf
        // Lists of many, all the time written to by another process: an element is without its neighbour for a moment.
        const [slots, stale, others, passes] = [64, 32, 16, 3000]
        const { table } = yield* map("sweep_churn", KEY, VALUE, { type: HASH, maxEntries: slots })
        const sweep = yield* KernelSweep.make({ ct: table, nat: undefined, family: "ipv4", mustResume: true })
        yield* churn(table, 0, others, 0)
        const keys = keysOf(1000, stale)
        const expired = new Uint8Array(stale * VALUE)
        const now = 100
        for (let pass = 0; pass < passes; pass++) {
          bpf.updateBatch(table.fd, keys, expired, Uint32Array.of(stale))
          const { deleted, vanished, busy } = yield* sweep.run({ now })
          if (deleted + busy !== stale)
            assert.deepStrictEqual({ pass, deleted, busy, vanished }, { pass, deleted: stale, busy: 0, vanished: 0 })
        }
      }).pipe(Effect.scoped, Effect.provide(recording)),
    120_000
  )

  it("left no fd open", () => {
    assert.isAbove(ours.size, 50)
    assert.deepStrictEqual(
      FdLeak.since([], ({ kind, id }) => kind === "map" && ours.has(id)),
      []
    )
  })
})
