/** What is cut off in the tests of crashes and of faults. */
import { MapKind, MapName } from "ctmap-core"
import { Bpf, BpfMap, Pins } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import * as Rig from "./rig.ts"

/** The cluster that is made or deleted, and the one that has nothing to do with it. */
export const CLUSTER = 7
export const BYSTANDER = 8

export type Work = "create" | "delete"

export const isWork = (text: string | undefined): text is Work => text === "create" || text === "delete"

/** What stands before: the bystander with an entry, and the cluster where it is to be deleted. */
export const before = (work: Work) =>
  Rig.life(
    Effect.gen(function* () {
      yield* Rig.openBoth
      yield* Rig.createBoth(BYSTANDER)
      if (work === "delete") yield* Rig.createBoth(CLUSTER)
      const bpf = yield* Bpf.Bpf
      const map = yield* BpfMap.open(yield* Pins.pathOf(MapName.clusterInner(MapKind.globals[0], BYSTANDER)))
      bpf.update(map.fd, new Uint8Array(14).fill(1), new Uint8Array(56), Bpf.ANY)
    })
  )

/** The work, by an agent that has just started. */
export const during = (work: Work) =>
  Rig.life(
    Effect.gen(function* () {
      yield* Rig.openBoth
      yield* work === "create" ? Rig.createBoth(CLUSTER) : Rig.deleteBoth(CLUSTER)
    })
  )
