/**
 * From the flags that select maps to open maps, and to a sentence that says where it looked when there are none.
 *
 * @since 0.1.0
 */
import type { Family, MapKind } from "ctmap-core"
import * as MapName from "ctmap-core/MapName"
import * as Bpf from "ctmap-kernel/Bpf"
import type { BpfError } from "ctmap-kernel/BpfError"
import * as BpfMap from "ctmap-kernel/BpfMap"
import * as CtMaps from "ctmap-kernel/CtMaps"
import type * as CtPair from "ctmap-kernel/CtPair"
import * as NatMaps from "ctmap-kernel/NatMaps"
import * as Owner from "ctmap-kernel/Owner"
import * as Pins from "ctmap-kernel/Pins"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { NotFound, UsageError } from "./Failure.ts"
import * as MapFlags from "./MapFlags.ts"
import type { Selection } from "./Options.ts"

/** @since 0.1.0 */
export type SelectionError = BpfError | NotFound | UsageError

/** The families that are asked for. @since 0.1.0 */
const families = ({ family }: Pick<Selection, "family">): { readonly ipv4: boolean; readonly ipv6: boolean } => ({
  ipv4: family !== "ipv6",
  ipv6: family !== "ipv4"
})

/** Whose maps. Errors: as `MapFlags.check`. @since 0.1.0 */
export const ownerOf = (selection: MapFlags.MapFlags): Effect.Effect<Owner.Owner, UsageError> =>
  Effect.as(MapFlags.check(selection), ownerNamed(selection))

const ownerNamed = ({ cluster, endpoint }: MapFlags.MapFlags): Owner.Owner =>
  cluster !== undefined ? Owner.cluster(cluster) : endpoint !== undefined ? Owner.endpoint(endpoint) : Owner.global

/** The CT maps of a selection: at least one. @since 0.1.0 */
export const ctMaps = (
  selection: Selection
): Effect.Effect<ReadonlyArray<CtPair.CtMap>, SelectionError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const owner = yield* ownerOf(selection)
    const maps = yield* CtMaps.make({ assumedRelease: selection.release })
    if (selection.map.length > 0) {
      return yield* Effect.forEach(
        yield* named(selection, "CT"),
        ({ name, denoted }): Effect.Effect<CtPair.CtMap, SelectionError, Scope.Scope> => {
          const which = ctWhich(denoted)
          return which === undefined ? Effect.fail(MapFlags.wrongKind(name, "CT")) : maps.open(which)
        }
      )
    }
    const found = yield* maps.openAll(owner, families(selection))
    return found.length > 0 ? found : yield* nothing("CT", owner, selection)
  }).pipe(explained)

/** The NAT maps of a selection: at least one. @since 0.1.0 */
export const natMaps = (
  selection: Selection
): Effect.Effect<ReadonlyArray<CtPair.NatMap>, SelectionError, Bpf.Bpf | Scope.Scope> =>
  Effect.gen(function* () {
    const owner = yield* ownerOf(selection)
    const maps = yield* NatMaps.make({})
    if (selection.map.length > 0) {
      return yield* Effect.forEach(
        yield* named(selection, "NAT"),
        ({ name, denoted }): Effect.Effect<CtPair.NatMap, SelectionError, Scope.Scope> =>
          denoted._tag === "Nat"
            ? maps.open(denoted.family, Owner.global)
            : denoted._tag === "ClusterNatInner"
              ? maps.open(denoted.family, Owner.cluster(denoted.clusterId))
              : Effect.fail(MapFlags.wrongKind(name, "NAT"))
      )
    }
    if (owner._tag === "Endpoint") {
      return yield* new UsageError({ problem: "endpoints have no NAT maps of their own: leave out --endpoint" })
    }
    const wanted = families(selection)
    const found = yield* Effect.forEach(
      (["ipv4", "ipv6"] as const).filter((family) => wanted[family]),
      (family) =>
        maps.open(family, owner).pipe(Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(undefined)))
    )
    const opened = found.filter((map) => map !== undefined)
    return opened.length > 0 ? opened : yield* nothing("NAT", owner, selection)
  }).pipe(explained)

interface Named {
  readonly name: string
  readonly denoted: MapName.Denoted
}

const named = (selection: Selection, kind: "CT" | "NAT"): Effect.Effect<ReadonlyArray<Named>, UsageError> =>
  Effect.forEach(MapFlags.names(selection), (name) => {
    const denoted = MapName.parse(name)
    return denoted === undefined ? Effect.fail(MapFlags.wrongKind(name, kind)) : Effect.succeed({ name, denoted })
  })

const ctWhich = (
  denoted: MapName.Denoted
):
  | { readonly family: Family.Family; readonly transport: MapKind.Transport; readonly owner: Owner.Owner }
  | undefined => {
  if (denoted._tag !== "Global" && denoted._tag !== "Local" && denoted._tag !== "ClusterInner") return undefined
  const owner = Pins.ownerOf(denoted)
  return owner && { family: denoted.kind.family, transport: denoted.kind.transport, owner }
}

/** Says where it looked for what is not there: the root first, if that is what is wrong. @since 0.1.0 */
export const nothing = (
  kind: "CT" | "NAT",
  owner: Owner.Owner,
  { family }: Pick<Selection, "family">
): Effect.Effect<never, NotFound | BpfError, Bpf.Bpf> =>
  Effect.gen(function* () {
    yield* checkRoot
    const directory = MapName.pinPath(yield* Pins.BpfFsRoot, "").replace(/\/$/, "")
    const what = `${owner._tag === "Global" ? "global " : ""}${family === "all" ? "" : `${family} `}${kind} map`
    const whose = owner._tag === "Global" ? "" : ` of ${Owner.describe(owner)}`
    return yield* new NotFound({
      what:
        `no ${what}${whose} is pinned in ${directory}: \`ctmap maps\` lists what is there; the datapath pins its maps ` +
        `when it starts, and --bpffs-root names another bpffs`
    })
  })

/** Fails where the root cannot be what was meant: not there, or not a bpffs. @since 0.1.0 */
export const checkRoot: Effect.Effect<void, NotFound | BpfError, Bpf.Bpf> = Effect.gen(function* () {
  const root = yield* Pins.BpfFsRoot
  if (!(yield* BpfMap.exists(root))) {
    return yield* new NotFound({
      what: `${root} does not exist: --bpffs-root names the directory that contains tc/globals`
    })
  }
  yield* checkBpfFs
})

/** Fails where no map can be pinned below the root: it, or what there is of its path, is not a bpffs. @since 0.1.0 */
export const checkBpfFs: Effect.Effect<void, NotFound, Bpf.Bpf> = Effect.gen(function* () {
  yield* checkDirectory
  const bpf = yield* Bpf.Bpf
  const root = yield* Pins.BpfFsRoot
  if (!bpf.isBpfFs(root)) {
    if (typeof bpf.stat(root) === "number") {
      return yield* new NotFound({
        what:
          `${root} does not exist: make it and mount a bpffs there (\`mkdir -p ${root} && mount -t bpf bpf ${root}\`), ` +
          `or name another directory with --bpffs-root`
      })
    }
    return yield* new NotFound({
      what: `${root} is not a bpffs: mount one with \`mount -t bpf bpf ${root}\`, or name another directory with --bpffs-root`
    })
  }
})

/** Fails where the root is a file, below which nothing can be. */
const checkDirectory: Effect.Effect<void, NotFound, Bpf.Bpf> = Effect.gen(function* () {
  const bpf = yield* Bpf.Bpf
  const root = yield* Pins.BpfFsRoot
  const found = bpf.stat(root)
  if (typeof found === "number" || found.kind === "directory") return
  return yield* new NotFound({
    what: `${root} is not a directory: --bpffs-root names the directory that contains tc/globals`
  })
})

const ENOTDIR = 20

/** A path below a file is no directory: what is wrong is the root, if it is the file. */
function explained<A, R>(open: Effect.Effect<A, SelectionError, R>): Effect.Effect<A, SelectionError, R | Bpf.Bpf> {
  return Effect.tapError(open, (error) => ("errno" in error && error.errno === ENOTDIR ? checkDirectory : Effect.void))
}
