/** What the tests of the commands that delete work with: tables of their own, on either kernel. */
import { assert } from "@effect/vitest"
import { MapName, type MapSpec } from "ctmap-core"
import type * as Bpf from "ctmap-kernel/Bpf"
import * as BpfMap from "ctmap-kernel/BpfMap"
import type { BpfError } from "ctmap-kernel/BpfError"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { run } from "./harness.ts"
import { type Entry, entryOf, linesOf, recorded, withFile } from "./tableFile.ts"

/** Where tables can be made, below a directory that is there. */
export interface Place {
  readonly root: string
  readonly bpf: Bpf.Calls | undefined
  readonly layer: Layer.Layer<Bpf.Bpf, BpfError>
}

export const pods = recorded("pods-ktime", "before")
export const collected = recorded("pods-ktime", "after-gc")
export const at = ["--now", "5462"]
export const CT4 = "cilium_ct4_global"

const sizes = ["--bpf-ct-global-tcp-max", "8192", "--bpf-ct-global-any-max", "8192", "--bpf-nat-global-max", "8192"]

export const ct = (lines: ReadonlyArray<string>) => lines.filter((line) => !entryOf(line).isNat)
export const of = (family: Entry["family"], lines: ReadonlyArray<string>) =>
  lines.filter((line) => entryOf(line).family === family)
export const without = (lines: ReadonlyArray<string>, gone: (entry: Entry) => boolean) =>
  lines.filter((line) => !gone(entryOf(line)))

export type Rows = ReadonlyArray<Readonly<Record<string, unknown>>>

export const sumOf = (rows: Rows, name: string): number => rows.reduce((sum, row) => sum + Number(row[name]), 0)

/** Every stage has a directory of its own, whoever makes it. */
let made = 0

/** Makes the program on tables of its own, one after the other. */
export const stages = (place: Place) => {
  /** The program on tables of its own. */
  const stage = Effect.fnUntraced(function* (lines: ReadonlyArray<string>) {
    const root = `${place.root}/${++made}`
    const ctmap = (...args: ReadonlyArray<string>) => run(["--bpffs-root", root, ...args], { bpf: place.bpf })
    const done = (...args: ReadonlyArray<string>) =>
      Effect.map(ctmap(...args), ({ code, stdout, stderr }) => {
        assert.strictEqual(code, 0, stderr)
        return stdout
      })
    const json = (...args: ReadonlyArray<string>) =>
      Effect.map(ctmap(...args, "-o", "json"), ({ code, stdout, stderr }) => ({
        code,
        stderr,
        rows: JSON.parse(stdout) as ReadonlyArray<Readonly<Record<string, unknown>>>
      }))
    const saved = Effect.map(done("snapshot", "save", "-"), linesOf)
    yield* withFile(lines, (file) => done("snapshot", "restore", file, ...sizes))
    const pin = (spec: MapSpec.MapSpec, name: string) =>
      Effect.scoped(BpfMap.createPinned(spec, MapName.pinPath(root, name))).pipe(Effect.provide(place.layer))
    return { root, ctmap, done, json, saved, pin }
  })
  return stage
}
