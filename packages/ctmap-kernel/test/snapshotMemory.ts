/** Snapshots on a kernel in memory, one for each test. */
import { MapKind, MapName, MapSpec } from "ctmap-core"
import { type Bpf, BpfMap, BpfMemory } from "ctmap-kernel"
import * as Snapshot from "ctmap-kernel/Snapshot"
import { Vectors } from "ctmap-testing"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as NodeFileSystem from "./nodeFileSystem.ts"
import { ctValue, limits, openAll, piecesOf, textOf } from "./snapshotCases.ts"

const { toHex } = Vectors

export const ROOT = "/sys/fs/bpf"
export const CT4 = "cilium_ct4_global"
export const NAT4 = "cilium_snat_v4_external"
export const path = (name: string): string => MapName.pinPath(ROOT, name)

type Needs = Bpf.Bpf | BpfMemory.Control | FileSystem.FileSystem | Scope.Scope

/** Runs on a kernel of its own. */
export const run = <A, E>(effect: Effect.Effect<A, E, Needs>, options?: BpfMemory.Options): Effect.Effect<A, E> =>
  Effect.scoped(effect).pipe(Effect.provide(Layer.merge(BpfMemory.layerTest(options), NodeFileSystem.layer)))

export const restore = (text: string, options?: Snapshot.RestoreOptions) =>
  Snapshot.restore(piecesOf(text), { ...limits, ...options })

/** The key of entry `i` of a CT map. */
export const keyOf = (i: number): Uint8Array<ArrayBuffer> => {
  const key = new Uint8Array(14)
  new DataView(key.buffer).setUint32(0, i + 1)
  key[12] = 6
  return key
}

/** Its line; the lifetime is `i`, unless said. */
export const line = (i: number, map = CT4, lifetime = i): string =>
  `${map}\t${toHex(keyOf(i))}\t${toHex(ctValue(lifetime))}\n`
export const lines = (count: number, from = 0): string =>
  Array.from({ length: count }, (_, i) => line(from + i)).join("")

export const pinned = (entries: number, change: Partial<MapSpec.Properties> = {}) =>
  BpfMap.createPinned({ ...MapSpec.ct(MapKind.globals[0]), maxEntries: entries, ...change }, path(CT4))

export const everything = Effect.flatMap(openAll, (maps) => textOf(Snapshot.saveAll(maps))).pipe(
  Effect.catchReason("BpfError", "PinNotFound", () => Effect.succeed(""))
)
