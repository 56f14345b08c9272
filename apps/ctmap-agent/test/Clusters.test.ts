/** What the agent does about maps of clusters above the highest id. */
import { assert, describe, it } from "@effect/vitest"
import { PerClusterCtMaps, PerClusterNatMaps } from "ctmap-cluster"
import { MapName } from "ctmap-core"
import { Bpf, CtMaps, NatMaps } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Datapath from "./datapath.ts"
import { agent, limits, makeKernel, ROOT, type Twin, unwell } from "./stage.ts"

const held = "cilium_per_cluster_ct_tcp4_300"

/** Clusters 9, 300 and 301, of which 300 has an entry, with outer maps for 511. */
const clusters = (twin: Twin) =>
  Effect.gen(function* () {
    const [ct, nat] = [yield* PerClusterCtMaps.PerClusterCtMaps, yield* PerClusterNatMaps.PerClusterNatMaps]
    yield* Effect.andThen(ct.openOrCreate, nat.openOrCreate)
    for (const id of [9, 300, 301]) yield* Effect.andThen(ct.create(id), nat.create(id))
    const fd = twin.calls.openPin(MapName.pinPath(ROOT, held))
    twin.calls.update(fd, new Uint8Array(14).fill(1), new Uint8Array(56), Bpf.ANY)
    twin.calls.close(fd)
  }).pipe(
    Effect.provide(
      Layer.mergeAll(PerClusterCtMaps.layer({ max: 511 }), PerClusterNatMaps.layer({ max: 511 })).pipe(
        Layer.provide(Layer.mergeAll(CtMaps.layer({ limits }), NatMaps.layer({ limits }))),
        Layer.provide(Layer.succeed(Bpf.Bpf, twin.calls))
      )
    )
  )

const pinned = (twin: Twin): ReadonlyArray<number> => {
  const names = twin.calls.listDirectory(`${ROOT}/tc/globals`)
  if (typeof names === "number") throw new Error(`no pins: ${names}`)
  return [9, 300, 301].map((id) => names.filter((name) => name.endsWith(`_${id}`)).length)
}

interface Started {
  readonly left: ReadonlyArray<number>
  readonly said: ReadonlyArray<string>
  readonly wrong: ReadonlyArray<string>
}

/** What the agent's start leaves of the maps of each cluster, what it says of clusters, and what is not well. */
const started = (twin: Twin, flags: ReadonlyArray<string>) => {
  const said: Array<string> = []
  const hear = Logger.make<unknown, void>(({ message, logLevel }) => {
    const text = String(Array.isArray(message) ? message[0] : message)
    if (text.startsWith("cluster 30")) said.push(`${logLevel}: ${text}`)
  })
  return Effect.map(unwell, (wrong): Started => ({ left: pinned(twin), said, wrong })).pipe(
    Effect.provide(
      Layer.provideMerge(
        agent(twin, () => flags),
        Logger.layer([hear])
      )
    )
  )
}

describe("maps of clusters above the highest id", () => {
  const cases: ReadonlyArray<{
    readonly title: string
    readonly flags: ReadonlyArray<string>
    readonly left: ReadonlyArray<number>
    readonly said: ReadonlyArray<string>
  }> = [
    { title: "stay, unless the agent is told otherwise", flags: [], left: [6, 6, 6], said: [] },
    {
      title: "stay in the outer maps that the agent keeps",
      flags: ["--cluster-maps", "keep"],
      left: [6, 6, 6],
      said: []
    },
    {
      title: "go where the cluster holds no entry; of the others it is said that they stay, and why",
      flags: ["--cluster-maps", "keep", "--clusters-above-range", "delete-empty"],
      left: [6, 6, 0],
      said: [
        "Warn: cluster 300 is above the highest id, 255: the maps of cluster 300 stay: they hold 1 entry",
        "Info: cluster 301 is above the highest id, 255: the maps of cluster 301 were deleted"
      ]
    },
    {
      title: "all go where that is asked for, and the entries that are lost are in the log",
      flags: ["--clusters-above-range", "delete"],
      left: [6, 0, 0],
      said: [
        "Warn: cluster 300 is above the highest id, 255: the maps of cluster 300 were deleted, and 1 entry with them",
        "Info: cluster 301 is above the highest id, 255: the maps of cluster 301 were deleted"
      ]
    },
    {
      title: "are none where the highest id is 511",
      flags: ["--max-connected-clusters", "511", "--clusters-above-range", "delete"],
      left: [6, 6, 6],
      said: []
    }
  ]
  for (const { title, flags, left, said } of cases) {
    it.effect(title, () =>
      Effect.gen(function* () {
        const twin = makeKernel()
        Datapath.pinAll(twin)
        yield* clusters(twin)
        const whole: Started = { left, said, wrong: [] }
        assert.deepStrictEqual(yield* started(twin, flags), whole)
      })
    )
  }

  it.effect("that cannot be deleted are a matter of health, and the agent starts", () =>
    Effect.gen(function* () {
      const twin = makeKernel()
      Datapath.pinAll(twin)
      yield* clusters(twin)
      const readOnly: Twin = { ...twin, calls: { ...twin.calls, unpin: () => -30 } }
      const { left, wrong } = yield* started(readOnly, ["--clusters-above-range", "delete"])
      assert.deepStrictEqual(left, [6, 6, 6])
      assert.match(wrong.join("\n"), /^cluster: the maps of cluster 300 cannot be deleted: tcp4: delete inner map: /)
    })
  )
})
