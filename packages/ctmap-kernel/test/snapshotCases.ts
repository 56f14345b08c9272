/** What snapshots and dumps of recorded tables promise, on any kernel. */
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { fileURLToPath } from "node:url"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { CtEntry, CtText, MapKind, MapName, type MapSpec, NatText } from "ctmap-core"
import { type Bpf, BpfMap, CtMaps, NatMaps, Owner, Pins } from "ctmap-kernel"
import * as Dump from "ctmap-kernel/Dump"
import * as Snapshot from "ctmap-kernel/Snapshot"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as NodeFileSystem from "./nodeFileSystem.ts"

export interface Kernel {
  readonly layer: Layer.Layer<Bpf.Bpf, unknown>
  /** A bpffs of the tests' own. */
  readonly root: string
}

export type Needs = Bpf.Bpf | CtMaps.CtMaps | NatMaps.NatMaps | FileSystem.FileSystem | Scope.Scope

export const limits: MapSpec.Options = { limits: { ctTcp: 4096, ctAny: 4096, nat: 4096 } }

/** Runs on the kernel below a directory of its own. */
export const on =
  ({ layer, root }: Kernel) =>
  <A, E>(directory: string, effect: Effect.Effect<A, E, Needs>): Effect.Effect<A, unknown> =>
    Effect.scoped(effect).pipe(
      Effect.provide(
        Layer.mergeAll(CtMaps.layer(limits), NatMaps.layer(limits), NodeFileSystem.layer).pipe(
          Layer.provideMerge(Layer.fresh(layer))
        )
      ),
      Effect.provideService(Pins.BpfFsRoot, `${root}/${directory}`)
    )

export const linesOf = (text: string): ReadonlyArray<string> => (text.match(/[^\n]*\n/g) ?? []).toSorted()

/** The text of a stream of bytes. */
export const textOf = <E, R>(stream: Stream.Stream<Uint8Array, E, R>): Effect.Effect<string, E, R> =>
  Effect.map(Stream.runCollect(stream), (chunks) => Buffer.concat(chunks).toString("latin1"))

/** Text as a stream, in pieces of a size. */
export const piecesOf = (text: string, size?: number): Stream.Stream<Uint8Array> => bytesOf(Buffer.from(text), size)

/** Bytes as a stream, in pieces of a size. */
export const bytesOf = (bytes: Uint8Array, size = 65_536): Stream.Stream<Uint8Array> => {
  const pieces: Array<Uint8Array> = []
  for (let at = 0; at < bytes.byteLength; at += size) pieces.push(bytes.subarray(at, at + size))
  return Stream.fromArray(pieces)
}

export const openAll = Effect.flatMap(
  Pins.discover,
  Effect.forEach(({ path }) => BpfMap.open(path))
)

export const recorded = (set: Recorded.SetName): string => fileURLToPath(Recorded.path(set, "before.tsv.gz"))
export const recordedText = (set: Recorded.SetName): string =>
  gunzipSync(readFileSync(recorded(set))).toString("latin1")

/** A CT value with these times; all else is zero. */
export const ctValue = (lifetime: number, lastTxReport = 0, lastRxReport = 0): Uint8Array<ArrayBuffer> => {
  const value = new Uint8Array(CtEntry.SIZE)
  const view = new DataView(value.buffer)
  view.setUint32(CtEntry.offset.lifetime, lifetime, true)
  view.setUint32(CtEntry.offset.lastTxReport, lastTxReport, true)
  view.setUint32(CtEntry.offset.lastRxReport, lastRxReport, true)
  return value
}

/** An IPv4 NAT value of this creation time; all else is sevens. */
export const natValue = (created: bigint): Uint8Array<ArrayBuffer> => {
  const value = new Uint8Array(40).fill(7)
  new DataView(value.buffer).setBigUint64(0, created, true)
  return value
}

/** A directory that is gone afterwards. */
export const temporary = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "ctmap-snapshot-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true }))
)

export const recordedCases = (name: string, kernel: Kernel): void => {
  const run = on(kernel)
  describe.each(Recorded.setNames)(`recorded set %s, ${name}`, (set) => {
    it.effect("restores, lists as Cilium listed it, and saves again what was restored", () =>
      run(
        set,
        Effect.gen(function* () {
          const restored = yield* Snapshot.restoreFile(recorded(set), limits)
          const tables = Recorded.tables(set, "before")
          assert.deepStrictEqual(
            restored.map(({ map, entries, created, evicted, cut, now }) => [map, entries, created, evicted, cut, now]),
            [...tables.values()].map(({ map, count }) => [map, count, true, 0, 0, count])
          )

          const ct = yield* CtMaps.CtMaps
          const listings = Recorded.listings(set)
          for (const { family, transport, scope } of MapKind.globals) {
            const map = yield* ct.open({ family, transport, owner: Owner.global })
            const text = yield* Dump.dumpEntries(map)
            const expected = listings.get(MapName.global({ family, transport, scope }))
            assert.deepStrictEqual(linesOf(text), expected?.toSorted())
          }

          const directory = yield* temporary
          const saved = `${directory}/saved.tsv.gz`
          const contents = yield* Snapshot.saveFile(saved, yield* openAll)
          assert.deepStrictEqual(
            new Map(contents.map(({ map, entries }) => [map, entries])),
            new Map([...tables.values()].map(({ map, count }) => [map, count]))
          )
          assert.strictEqual(statSync(saved).mode & 0o777, 0o600)
          const again = gunzipSync(readFileSync(saved)).toString("latin1")
          assert.deepStrictEqual(linesOf(again), linesOf(recordedText(set)))
        })
      )
    )

    it.effect("prints the same through streams, whole texts and records", () =>
      run(
        `${set}-records`,
        Effect.gen(function* () {
          yield* Snapshot.restoreFile(recorded(set), limits)
          const ct = yield* CtMaps.CtMaps
          const nat = yield* NatMaps.NatMaps
          for (const { family, transport } of MapKind.globals) {
            const map = yield* ct.open({ family, transport, owner: Owner.global })
            const lines: Array<string> = []
            yield* Dump.dumpWithCallback(map, ({ key, entry }) => lines.push(CtText.line(key, entry) ?? ""))
            assert.deepStrictEqual(linesOf(yield* textOf(Dump.text(map))), lines.toSorted())
          }
          for (const family of ["ipv4", "ipv6"] as const) {
            const map = yield* nat.open(family, Owner.global)
            const lines: Array<string> = []
            yield* Dump.dumpNatWithCallback(map, ({ key, entry }) => lines.push(NatText.line(key, entry) ?? ""))
            assert.deepStrictEqual(linesOf(yield* Dump.dumpNatEntries(map)), lines.toSorted())
          }
        })
      )
    )
  })
}
