/** Snapshots as text: what tests fill tables with, and compare them by. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { gunzipSync } from "node:zlib"
import { Recorded } from "ctmap-testing"
import * as Effect from "effect/Effect"

/** `map<TAB>key<TAB>value` of every recorded entry, sorted. */
export const recorded = (set: Recorded.SetName, moment: Recorded.Moment): ReadonlyArray<string> =>
  linesOf(gunzipSync(readFileSync(Recorded.path(set, `${moment}.tsv.gz`))).toString("latin1"))

/** The lines of a text, sorted. */
export const linesOf = (text: string): ReadonlyArray<string> =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .toSorted()

/** A file of these lines, for as long as `use` runs. */
export const withFile = <A, E, R>(lines: ReadonlyArray<string>, use: (file: string) => Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      const directory = mkdtempSync("/tmp/ctmap-test-")
      const file = `${directory}/tables.tsv`
      writeFileSync(file, lines.map((line) => `${line}\n`).join(""))
      return { directory, file }
    }),
    ({ file }) => use(file),
    ({ directory }) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )

/** One line, looked at without any code of ours: offsets of the C structs. */
export interface Entry {
  readonly line: string
  readonly map: string
  readonly isNat: boolean
  readonly family: "ipv4" | "ipv6"
  /** Both ends of the key, as hex. */
  readonly addresses: readonly [string, string]
  readonly ports: readonly [number, number]
  readonly proto: number
  /** Of CT entries: when they expire. */
  readonly lifetime: number
}

export const entryOf = (line: string): Entry => {
  const [map = "", key = "", value = ""] = line.split("\t")
  const bytes = Buffer.from(key, "hex")
  const width = bytes.length === 14 ? 4 : 16
  const at = 2 * width
  return {
    line,
    map,
    isNat: map.startsWith("cilium_snat"),
    family: width === 4 ? "ipv4" : "ipv6",
    addresses: [key.slice(0, at), key.slice(at, 2 * at)],
    ports: [bytes.readUInt16BE(at), bytes.readUInt16BE(at + 2)],
    proto: bytes[at + 4] ?? -1,
    lifetime: Buffer.from(value, "hex").readUInt32LE(32)
  }
}
