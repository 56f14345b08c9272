/** What must be so after a crash, or a fault. */
import { assert } from "@effect/vitest"
import { MapKind, MapName } from "ctmap-core"
import { BpfMap, Pins, Scan } from "ctmap-kernel"
import * as Effect from "effect/Effect"
import { BYSTANDER, CLUSTER } from "./crashCases.ts"
import * as Rig from "./rig.ts"

/** Nothing is left to mend, each service has all of the cluster's maps or none, and the bystander has its entry. */
export const verify = Effect.gen(function* () {
  assert.deepStrictEqual(
    (yield* Rig.findings()).filter((finding) => !isOtherService(finding)),
    [],
    "everything that is pinned is entered, and the other way round"
  )
  const pins = (yield* Rig.pins).filter((pin) => pin.endsWith(`_${CLUSTER}`))
  const ct = pins.filter((pin) => pin.includes("_ct_")).length
  assert.include([0, 4], ct, `CT maps of the cluster: ${pins.join(" ")}`)
  assert.include([0, 2], pins.length - ct, `NAT maps of the cluster: ${pins.join(" ")}`)
  const map = yield* BpfMap.open(yield* Pins.pathOf(MapName.clusterInner(MapKind.globals[0], BYSTANDER)))
  assert.strictEqual(yield* Scan.count(map), 1)
  assert.strictEqual(yield* Rig.slot("cilium_per_cluster_ct_tcp4", BYSTANDER), map.info.id)
  return { ct, nat: pins.length - ct }
})

/** Cut off between CT and NAT, the cluster has one and not the other: that is for the caller, who asks for both again. */
const isOtherService = (finding: string): boolean => finding.startsWith("MapMissing") && finding.endsWith(` ${CLUSTER}`)
