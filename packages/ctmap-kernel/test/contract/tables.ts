/** What contracts of typed maps work with: a kernel, small CT maps and their entries. */
import { it } from "@effect/vitest"
import { CtEntry, MapKind, MapSpec } from "ctmap-core"
import { type Bpf, BpfMap, CtMaps, NatMaps, Pins, Scan } from "ctmap-kernel"
import { Vectors } from "ctmap-testing"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"

export const { toHex } = Vectors

export interface Kernel {
  readonly layer: Layer.Layer<Bpf.Bpf, unknown>
  /** A bpffs of the tests' own. */
  readonly root: string
}

export type Needs = Bpf.Bpf | CtMaps.CtMaps | NatMaps.NatMaps | Scope.Scope

export const small = { limits: { ctTcp: 4096, ctAny: 4096, nat: 4096 } }
export const spec = (change: Partial<MapSpec.Properties> = {}): MapSpec.MapSpec => ({
  ...MapSpec.ct(MapKind.globals[0], small),
  ...change
})

/** A key and value of entry `i` of a CT table; the lifetime is `i`. */
export const entryOf = (
  i: number
): { readonly key: Uint8Array<ArrayBuffer>; readonly value: Uint8Array<ArrayBuffer> } => {
  const key = new Uint8Array(14)
  const value = new Uint8Array(56)
  new DataView(key.buffer).setUint32(0, i + 1)
  key[12] = 6
  new DataView(value.buffer).setUint32(CtEntry.offset.lifetime, i, true)
  return { key, value }
}

export const put = (map: BpfMap.BpfMap, count: number) =>
  Effect.forEach(
    Array.from({ length: count }, (_, i) => entryOf(i)),
    (entry) => BpfMap.update(map, entry),
    {
      discard: true
    }
  )

/** Every entry of a map as `key value` hex, sorted. */
export const contents = (map: BpfMap.BpfMap, options?: Scan.Options) => {
  const found: Array<string> = []
  const { keySize, valueSize } = map.info
  return Effect.as(
    Scan.forEachSync(
      map,
      ({ keys, values, count }) => {
        for (let i = 0; i < count; i++) {
          const key = toHex(keys.subarray(i * keySize, (i + 1) * keySize))
          found.push(`${key} ${toHex(values.subarray(i * valueSize, (i + 1) * valueSize))}`)
        }
      },
      options
    ),
    found
  ).pipe(Effect.map((all) => all.toSorted()))
}

/** Tests of a part of the contract, each below a directory of its own. */
export const testsOf = (part: string, kernel: Kernel) => {
  let directories = 0
  return (title: string, test: (root: string) => Effect.Effect<void, unknown, Needs>): void => {
    it.effect(title, () => {
      const root = `${kernel.root}/${part}${++directories}`
      return Effect.scoped(test(root)).pipe(
        Effect.provide(
          Layer.mergeAll(CtMaps.layer(small), NatMaps.layer(small)).pipe(Layer.provideMerge(kernel.layer))
        ),
        Effect.provideService(Pins.BpfFsRoot, root)
      )
    })
  }
}
