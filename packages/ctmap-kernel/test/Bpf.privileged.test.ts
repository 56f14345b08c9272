import { afterAll, assert, beforeAll, describe, it, layer } from "@effect/vitest"
import { Bpf, BpfMemory, LibBpf } from "ctmap-kernel"
import * as DatagramSocket from "ctmap-testing/DatagramSocket"
import * as FdLeak from "ctmap-testing/FdLeak"
import * as Privileged from "ctmap-testing/Privileged"
import * as TempBpfFs from "ctmap-testing/TempBpfFs"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { contract } from "./contract/Bpf.contract.ts"
import { transcript } from "./contract/transcript.ts"

Privileged.suite(describe, "Bpf over libbpf", () => {
  const fs = TempBpfFs.make()
  beforeAll(fs.start)
  afterAll(fs.stop)

  /** Ids of the maps that the suite made: other test files share this process and its fds. */
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

  contract("contract", recording, { root: fs.path, receive: DatagramSocket.bind })

  // Outer maps make this slow: Linux waits out an RCU grace period, some 10 ms, whenever a slot changes.
  layer(recording)((test) => {
    test.effect("the twin answers random commands as Linux does", () =>
      Effect.gen(function* () {
        const linux = yield* Bpf.Bpf
        const twin = BpfMemory.make({ possibleCpus: linux.possibleCpus() }).calls
        for (let seed = 1; seed <= 40; seed++)
          assert.deepStrictEqual(transcript(twin, seed, 60), transcript(linux, seed, 60), `seed ${seed}`)
      })
    )
  })

  it("left no fd open", () => {
    assert.isAbove(ours.size, 50)
    assert.deepStrictEqual(
      FdLeak.since([], ({ kind, id }) => kind === "map" && ours.has(id)),
      []
    )
  })
})
