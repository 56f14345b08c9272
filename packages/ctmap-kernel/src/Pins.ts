/**
 * What is pinned below a bpffs: the maps ctmap knows by name.
 *
 * Found by walking `tc/globals`, never by kernel id (that needs CAP_SYS_ADMIN). Files that are none of ours are left
 * alone and not mentioned.
 *
 * @since 0.1.0
 */
import { MapName } from "ctmap-core"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Bpf from "./Bpf.ts"
import { type BpfError, fromErrno } from "./BpfError.ts"
import * as Owner from "./Owner.ts"

/**
 * The directory that contains `tc/globals`. Default `/sys/fs/bpf`.
 *
 * @since 0.1.0
 */
export const BpfFsRoot = Context.Reference<string>("ctmap-kernel/BpfFsRoot", { defaultValue: () => "/sys/fs/bpf" })

/**
 * What the names of per-cluster maps start with, and an underscore: Cilium's override of their names for tests, without a
 * global variable. Default none.
 *
 * @since 0.1.0
 */
export const ClusterPrefix = Context.Reference<string | undefined>("ctmap-kernel/ClusterPrefix", {
  defaultValue: () => undefined
})

/**
 * A pinned map by what its name denotes; nothing is open yet.
 *
 * @since 0.1.0
 */
export interface Pin {
  readonly name: string
  readonly path: string
  readonly denoted: MapName.Denoted
}

/**
 * The pins of a bpffs, sorted as people list them: global, endpoints, clusters, then the rest, each by name.
 *
 * **Details**
 *
 * Errors: `PinNotFound` where there is no `tc/globals`, `NotPermitted` where it cannot be read.
 *
 * @since 0.1.0
 */
export const discover: Effect.Effect<ReadonlyArray<Pin>, BpfError, Bpf.Bpf> = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const directory = MapName.pinPath(yield* BpfFsRoot, "").replace(/\/$/, "")
  const prefix = yield* ClusterPrefix
  const names = bpf.listDirectory(directory)
  if (typeof names === "number") {
    return yield* Effect.fail(fromErrno({ operation: "list pins", errno: -names, path: directory }))
  }
  return names
    .map((name) => ({ name, path: `${directory}/${name}`, denoted: MapName.parse(name, prefix) }))
    .filter((pin): pin is Pin => pin.denoted !== undefined)
    .toSorted((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1))
})

/** The path of a pin below the configured bpffs. @since 0.1.0 */
export const pathOf = (name: string): Effect.Effect<string> =>
  Effect.map(BpfFsRoot, (root) => MapName.pinPath(root, name))

/**
 * Whose a denoted map is; `undefined` for maps that hold no entries of anybody (signals, retries, outer maps).
 *
 * @since 0.1.0
 */
export const ownerOf = (denoted: MapName.Denoted): Owner.Owner | undefined => {
  switch (denoted._tag) {
    case "Global":
    case "Nat":
      return Owner.global
    case "Local":
      return Owner.endpoint(denoted.endpointId)
    case "ClusterInner":
    case "ClusterNatInner":
      return Owner.cluster(denoted.clusterId)
    case "ClusterOuter":
    case "ClusterNatOuter":
    case "NatRetries":
    case "Signals":
      return undefined
  }
}

const ranks: Readonly<Record<MapName.Denoted["_tag"], number>> = {
  Global: 0,
  Nat: 1,
  Local: 2,
  ClusterOuter: 3,
  ClusterInner: 4,
  ClusterNatOuter: 5,
  ClusterNatInner: 6,
  NatRetries: 7,
  Signals: 8
}

/** Global CT maps keep Cilium's order tcp4, any4, tcp6, any6: by family first. */
const rank = ({ denoted }: Pin): number =>
  ranks[denoted._tag] * 10 +
  (denoted._tag === "Global"
    ? (denoted.kind.family === "ipv6" ? 2 : 0) + (denoted.kind.transport === "any" ? 1 : 0)
    : 0)
